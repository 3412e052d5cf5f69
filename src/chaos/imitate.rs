//! A classifier that knows how to make up what a fault would really give.

use std::fmt;
use std::ops::Deref;

use super::fault::{Fault, Imitation};
use crate::verdict::{Classify, Verdict};

/// A classifier, and how to make up the outcome that a fault would really have; see [`imitating`].
///
/// It is its classifier in all else, and dereferences to it.
#[derive(Clone, Copy)]
pub struct Imitating<C, F> {
    classify: C,
    imitate: F,
}

/// Lets callers see injected faults as outcomes of their own: a response, their own error type.
///
/// `imitate` is given the fault and makes an outcome of it, or `None` where it can't; then
/// `classify` may know one (as [`Http`](crate::http::Http) does for reqwest's responses).
///
/// # Examples
///
/// ```
/// use evenkeel::chaos::{Chaos, Fault, imitating};
/// use evenkeel::verdict::EveryError;
/// use evenkeel::{Cause, Pipeline};
/// use std::io;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let errors = imitating(EveryError, |fault: &Fault| match fault {
///     Fault::Reset => Some(Err(io::Error::from(io::ErrorKind::ConnectionReset))),
///     _ => None,
/// });
/// let pipeline = Pipeline::new().classify(errors).chaos(Chaos::new().next(1, Fault::Reset));
/// let error = pipeline.run(|_| async { Ok::<_, io::Error>(7) }).await.unwrap_err();
/// assert_eq!(error.operation().unwrap().kind(), io::ErrorKind::ConnectionReset);
/// # }
/// ```
pub const fn imitating<C, T, E, F>(classify: C, imitate: F) -> Imitating<C, F>
where
    F: Fn(&Fault) -> Option<Result<T, E>>,
{
    Imitating { classify, imitate }
}

impl<C, F, T, E> Classify<T, E> for Imitating<C, F>
where
    C: Classify<T, E>,
    F: Fn(&Fault) -> Option<Result<T, E>>,
{
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        self.classify.classify(outcome)
    }

    fn imitate(&self, fault: &Fault) -> Imitation<T, E> {
        match (self.imitate)(fault) {
            Some(outcome) => Imitation::Outcome(outcome),
            None => self.classify.imitate(fault),
        }
    }
}

impl<C, F> Deref for Imitating<C, F> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.classify
    }
}

impl<C: fmt::Debug, F> fmt::Debug for Imitating<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imitating")
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}
