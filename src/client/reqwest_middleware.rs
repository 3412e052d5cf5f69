//! The door for reqwest-middleware.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use ::reqwest::{Request, Response};
use ::reqwest_middleware::{Error, Middleware, Next, Result};
use http::Extensions;
use tower_service::Service;

use crate::http::{CallerAttempt, Idempotent};
use crate::pipeline::{Call, Pipeline, Protocol};
use crate::tower::Exchange;
use crate::verdict::Classify;

/// A pipeline is a middleware: everything added after it runs once per attempt.
///
/// A client's own error comes back as it was, and the [`Report`](crate::Report) of a failed call
/// is put into the request's extensions. A policy's error is an
/// `evenkeel::Error<reqwest_middleware::Error>` inside `Error::Middleware`. A
/// [`Deadline`](crate::Deadline), [`Idempotent`] or [`CallerAttempt`] in the extensions is heeded.
#[async_trait::async_trait]
impl<C> Middleware for Pipeline<C>
where
    C: Classify<Response, Error> + Protocol<Request, Response>,
    C: Send + Sync + 'static,
    C::Saved: Send,
    C::Discard: Send,
{
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let shared = Arc::new(Mutex::new(extensions.clone()));
        let rest = Rest {
            next,
            extensions: Arc::clone(&shared),
        };
        let mut exchange = Exchange::new(rest, request, &self.classify);
        if let Some(deadline) = extensions.get() {
            exchange.told.deadline = Some(*deadline);
        }
        if let Some(Idempotent(idempotent)) = extensions.get() {
            exchange.told.idempotent = Some(*idempotent);
        }
        if let Some(CallerAttempt(number)) = extensions.get() {
            exchange.told.earlier = number.saturating_sub(1);
        }
        let outcome = Call::new(self.source.hold(), exchange).await;
        *extensions = copy(&shared);
        outcome.map_err(|error| {
            extensions.insert(error.report().clone());
            match error.into_operation() {
                Ok(own) => own,
                Err(error) => Error::middleware(error),
            }
        })
    }
}

/// The middlewares and the client behind this one, as a service.
#[derive(Clone)]
struct Rest<'a> {
    next: Next<'a>,
    /// Each attempt works on a copy; the last one to answer leaves its own here.
    extensions: Arc<Mutex<Extensions>>,
}

impl<'a> Service<Request> for Rest<'a> {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response>> + Send + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { next, extensions } = self.clone();
        Box::pin(async move {
            let mut own = copy(&extensions);
            let result = next.run(request, &mut own).await;
            *lock(&extensions) = own;
            result
        })
    }
}

impl fmt::Debug for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").finish_non_exhaustive()
    }
}

fn lock(shared: &Mutex<Extensions>) -> std::sync::MutexGuard<'_, Extensions> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy(shared: &Mutex<Extensions>) -> Extensions {
    lock(shared).clone()
}
