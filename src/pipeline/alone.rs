//! Each policy by itself: a pipeline of one.

use std::future::Future;
use std::sync::Arc;

#[cfg(feature = "tower")]
use tower_layer::Layer;

use crate::attempt::Attempt;
use crate::breaker::Breaker;
use crate::chaos::Chaos;
use crate::limit::{Bulkhead, RateLimit};
use crate::pipeline::{Call, Closure, Pipeline, Policies};
use crate::retry::Retry;
use crate::throttle::{Priority, Throttle};
#[cfg(feature = "tower")]
use crate::tower::Guarded;
use crate::verdict::EveryError;
use crate::window::Window;

macro_rules! alone {
    ($($policy:ident, $setter:ident;)*) => {$(
        impl $policy {
            /// Runs `operation` under this policy alone: a pipeline of one.
            ///
            /// Every `Err` counts as a transient failure and the operation as idempotent. For anything
            /// else, and for many calls, make a [`Pipeline`].
            ///
            /// # Errors
            ///
            /// The last attempt's own error, whole, or why the policy refused it.
            ///
            /// # Panics
            ///
            /// Outside a tokio runtime with time enabled, if it has to wait.
            ///
            /// # Cancel safety
            ///
            /// As [`Pipeline::run`].
            pub fn run<F, Fut, T, E>(&self, operation: F) -> Call<Arc<Policies>, Closure<EveryError, F>>
            where
                F: FnMut(Attempt) -> Fut,
                Fut: Future<Output = Result<T, E>>,
            {
                let closure = Closure {
                    classify: EveryError,
                    attempt: operation,
                    deadline: None,
                    key: None,
                    priority: Priority::Normal,
                    earlier: 0,
                };
                Call::new(Pipeline::from(self.clone()).source.load(), closure)
            }
        }

        impl From<$policy> for Pipeline {
            /// A pipeline of one.
            fn from(policy: $policy) -> Self {
                Self::new().$setter(policy)
            }
        }

        #[cfg(feature = "tower")]
        impl<S> Layer<S> for $policy {
            type Service = Guarded<S>;

            /// A pipeline of one.
            fn layer(&self, inner: S) -> Guarded<S> {
                Pipeline::from(self.clone()).layer(inner)
            }
        }
    )*};
}

alone! {
    Breaker, breaker;
    Bulkhead, bulkhead;
    Chaos, chaos;
    RateLimit, rate_limit;
    Retry, retry;
    Throttle, throttle;
    Window, window;
}
