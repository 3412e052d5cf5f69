//! The tower door: a pipeline is a [`Layer`], and its [`Guarded`] services are `Service`s.
//!
//! No decision is made here; the engine makes them all.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::attempt::Attempt;
use crate::chaos::{Fault, Imitation};
use crate::check::{Check, Checks, Make};
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::diagnosis::Diagnosis;
use crate::endpoints::Endpoint;
use crate::error::{Cause, ConfigError, Error};
use crate::event::Described;
use crate::http::{PermitBody, Quota, Replay};
use crate::keyed::Key;
use crate::pipeline::{Call, Kept, Operation, Pipeline, Policies, Protocol, Source};
use crate::report::Report;
use crate::throttle::Priority;
use crate::verdict::{Circumstances, Classify, EveryError, Verdict};

/// A service under a pipeline's policies.
///
/// The inner service is asked for readiness before every attempt, and the instance that was asked
/// is the one that is called; while a call waits it holds no readiness, and so no permit of a
/// `ConcurrencyLimit` and no place in a `Buffer`.
///
/// # Examples
///
/// ```
/// use evenkeel::{Pipeline, Retry};
/// use std::time::Duration;
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let flaky = service_fn(|n: u32| async move { if n > 1 { Err("too large") } else { Ok(n) } });
/// let pipeline = Pipeline::new().retry(Retry::constant(Duration::ZERO));
/// let mut service = ServiceBuilder::new().layer(pipeline).service(flaky);
/// assert_eq!(service.ready().await.unwrap().call(1).await, Ok(1));
/// assert_eq!(service.ready().await.unwrap().call(2).await.unwrap_err().attempts(), 3);
/// # }
/// ```
#[derive(Clone)]
pub struct Guarded<S, C = EveryError> {
    inner: S,
    source: Source,
    classify: C,
}

impl<S, C: Clone> Layer<S> for Pipeline<C> {
    type Service = Guarded<S, C>;

    fn layer(&self, inner: S) -> Guarded<S, C> {
        Guarded {
            inner,
            source: self.source.clone(),
            classify: self.classify.clone(),
        }
    }
}

impl<S: Clone, C: Clone> Guarded<S, C> {
    /// Checks a service for as long as the future is polled, whenever that is of use, with requests that
    /// `make` makes; see [`check`](crate::check). The same as
    /// [`Pipeline::checks`](crate::Pipeline::checks) for this door.
    ///
    /// The first request tells the key, and so it is made at once. Each check makes another. Of its
    /// response up to 16 KiB are read.
    ///
    /// # Errors
    ///
    /// An interval or a timeout that makes no sense.
    ///
    /// # Panics
    ///
    /// When polled outside a tokio runtime with time enabled, if the default clock is used.
    ///
    /// # Cancel safety
    ///
    /// As [`Pipeline::checks`](crate::Pipeline::checks).
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::check::Check;
    /// use evenkeel::{Breaker, Keyed, Pipeline};
    /// use http::{Request, Response};
    /// use std::time::Duration;
    /// use tower::{Layer, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let client = service_fn(|_: Request<String>| async {
    ///     Ok::<_, std::io::Error>(Response::new(String::new()))
    /// });
    /// let service = Pipeline::http().breaker(Keyed::new(Breaker::new())).layer(client);
    /// let check = Check::every(Duration::from_secs(2));
    /// let healthz = || Request::get("http://ledger.internal/healthz").body(String::new()).unwrap();
    /// let task = tokio::spawn(service.checks(check, healthz).unwrap());
    /// # task.abort();
    /// # }
    /// ```
    pub fn checks<Q, M>(
        &self,
        check: Check,
        make: M,
    ) -> Result<Checks<Requests<S, C, M>>, ConfigError>
    where
        S: Service<Q>,
        C: Classify<S::Response, S::Error> + Protocol<Q, S::Response>,
        M: FnMut() -> Q,
    {
        let mut requests = Requests {
            service: self.inner.clone(),
            protocol: self.classify.clone(),
            make,
        };
        let key = requests.protocol.key(&(requests.make)());
        Checks::new(self.source.clone(), key, check, requests)
    }
}

/// Requests to check a service with; see [`Guarded::checks`].
pub struct Requests<S, C, M> {
    service: S,
    protocol: C,
    make: M,
}

impl<S, C, M, Q> Make for Requests<S, C, M>
where
    S: Service<Q> + Clone,
    C: Classify<S::Response, S::Error> + Protocol<Q, S::Response> + Clone,
    M: FnMut() -> Q,
{
    type Operation = Exchange<S, Q, C>;

    fn make(&mut self) -> Self::Operation {
        let service = self.service.clone();
        Exchange::new(service, (self.make)(), self.protocol.clone())
    }
}

impl<S, C, M> fmt::Debug for Requests<S, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requests<{}>", std::any::type_name::<S>())
    }
}

impl<S, C, Q> Service<Q> for Guarded<S, C>
where
    S: Service<Q> + Clone,
    C: Classify<S::Response, S::Error> + Protocol<Q, S::Response> + Clone,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = ResponseFuture<S, Q, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let ready = self.inner.poll_ready(cx);
        ready.map_err(|error| Error::new(Cause::Operation(error), Report::new()))
    }

    #[inline(never)] // or the future is put together elsewhere, and moved
    fn call(&mut self, request: Q) -> Self::Future {
        // The instance that was made ready is the one to call; the clone isn't ready.
        let next = self.inner.clone();
        let ready = mem::replace(&mut self.inner, next);
        let policies = self.source.load();
        let protocol = self.classify.clone();
        let told = Told::by::<_, S::Response, _>(&request, &protocol);
        // Last, and put together here: so the request, which is large, moves straight into the future.
        let exchange = Exchange {
            service: ready,
            is_ready: true,
            protocol,
            request: Form::Whole(Some(request)),
            told,
            key: None,
            is_key_known: false,
        };
        Call::new(policies, exchange)
    }
}

impl<S, C> fmt::Debug for Guarded<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("inner", &format_args!("{}", std::any::type_name::<S>()))
            .field("policies", &*self.source.hold())
            .finish_non_exhaustive()
    }
}

/// The future of [`Guarded`].
pub type ResponseFuture<S, Q, C> = Call<Arc<Policies>, Exchange<S, Q, C>>;

/// A service and the request to make of it.
pub struct Exchange<S, Q, C>
where
    S: Service<Q>,
    C: Protocol<Q, S::Response>,
{
    service: S,
    /// The service was made ready, here or by whoever made the exchange.
    is_ready: bool,
    protocol: C,
    request: Form<Q, C::Saved>,
    pub(crate) told: Told,
    /// Where the request goes, once that is known; it may have none.
    key: Option<Key>,
    is_key_known: bool,
}

/// What the next attempt sends.
enum Form<Q, S> {
    /// The request itself. None if it was sent and can't be sent again.
    Whole(Option<Q>),
    /// What is restored from this.
    Saved(S),
}

impl<Q, S> Form<Q, S> {
    #[inline]
    const fn take(&mut self) -> Option<Q> {
        match self {
            Self::Whole(request) => request.take(),
            Self::Saved(_) => None,
        }
    }
}

/// What a request says of the call that is made for it.
pub(crate) struct Told {
    pub(crate) idempotent: Option<bool>,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) priority: Priority,
    pub(crate) earlier: u32,
}

impl Told {
    #[allow(clippy::inline_always)] // or what it gives is moved, and the request with it
    #[inline(always)]
    pub(crate) fn by<Q, S, C: Protocol<Q, S>>(request: &Q, protocol: &C) -> Self {
        Self {
            idempotent: protocol.is_idempotent(request),
            deadline: protocol.deadline(request),
            priority: protocol.priority(request),
            earlier: protocol.earlier_attempts(request),
        }
    }
}

impl<S, Q, C> Exchange<S, Q, C>
where
    S: Service<Q>,
    C: Protocol<Q, S::Response>,
{
    pub(crate) fn new(service: S, request: Q, protocol: C) -> Self {
        Self {
            told: Told::by::<_, S::Response, _>(&request, &protocol),
            service,
            is_ready: false,
            protocol,
            request: Form::Whole(Some(request)),
            key: None,
            is_key_known: false,
        }
    }

    /// Makes the request again that is about to be sent, and not before: until then it is asked what was saved
    /// whether it still can be.
    #[inline]
    fn restore(&mut self) {
        if let Form::Saved(_) = self.request {
            self.make_whole();
        }
    }

    #[cold]
    fn make_whole(&mut self) {
        if let Form::Saved(saved) = mem::replace(&mut self.request, Form::Whole(None)) {
            self.request = Form::Whole(Some(self.protocol.restore(saved)));
        }
    }

    fn request(&self) -> Option<&Q> {
        match &self.request {
            Form::Whole(request) => request.as_ref(),
            Form::Saved(_) => None,
        }
    }
}

impl<S, Q, C> Operation for Exchange<S, Q, C>
where
    S: Service<Q> + Clone,
    C: Classify<S::Response, S::Error> + Protocol<Q, S::Response>,
{
    type Value = S::Response;
    type Error = S::Error;
    type Attempt = S::Future;
    type Discard = C::Discard;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if !self.is_ready {
            ready!(self.service.poll_ready(cx))?;
            self.is_ready = true;
        }
        Poll::Ready(Ok(()))
    }

    fn stand_down(&mut self) {
        // A clone holds none of the permits that the instance that was made ready may hold.
        if mem::take(&mut self.is_ready) {
            self.service = self.service.clone();
        }
    }

    fn begin(&mut self, attempt: Attempt, at: Option<Arc<Endpoint>>, last: bool) -> S::Future {
        self.is_ready = false;
        // Nothing need be left that tells it.
        self.learn_key();
        self.restore();
        // What can't be sent again isn't begun again, so it is there. Moved once, for it is large.
        let mut request = self.request.take().expect("a request to send");
        if !last {
            if let Some(saved) = self.protocol.save(&mut request) {
                self.request = Form::Saved(saved);
            }
        }
        if let Some(endpoint) = at {
            self.protocol.direct(&mut request, &endpoint);
        }
        self.protocol.prepare(&mut request, &attempt);
        self.service.call(request)
    }

    fn is_directed(&self) -> bool {
        true
    }

    fn forgo(&mut self, last: bool) {
        self.stand_down();
        self.learn_key();
        self.restore();
        if let (Some(mut request), false) = (self.request.take(), last) {
            if let Some(saved) = self.protocol.save(&mut request) {
                self.request = Form::Saved(saved);
            }
        }
    }

    fn imitate(&self, fault: &Fault) -> Imitation<S::Response, S::Error> {
        self.protocol.imitate(fault)
    }

    fn classify(&self, outcome: Result<&S::Response, &S::Error>) -> Verdict {
        self.protocol.classify(outcome)
    }

    fn diagnose(
        &self,
        outcome: Result<&S::Response, &S::Error>,
        seen: Circumstances<'_>,
    ) -> Option<Diagnosis> {
        self.protocol.diagnose(outcome, seen)
    }

    fn is_idempotent(&self) -> Option<bool> {
        self.told.idempotent
    }

    fn is_replayable(&self) -> bool {
        match &self.request {
            Form::Whole(request) => request.is_some(),
            Form::Saved(saved) => self.protocol.is_replayable(saved),
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        self.told.deadline
    }

    fn priority(&self) -> Priority {
        self.told.priority
    }

    fn earlier_attempts(&self) -> u32 {
        self.told.earlier
    }

    fn other_attempts(&self, response: &S::Response) -> u32 {
        self.protocol.other_attempts(response)
    }

    fn describe(&mut self) -> Described<'_> {
        self.restore();
        self.request()
            .map_or_else(Described::new, |request| self.protocol.describe(request))
    }

    fn status(&self, response: &S::Response) -> Option<u16> {
        self.protocol.status(response)
    }

    fn key(&self) -> Option<Key> {
        if self.is_key_known {
            return self.key;
        }
        self.request()
            .and_then(|request| self.protocol.key(request))
    }

    #[inline]
    fn learn_key(&mut self) -> Option<Key> {
        if !self.is_key_known {
            (self.key, self.is_key_known) = (self.key(), true);
        }
        self.key
    }

    fn answered_by(&self, response: &S::Response) -> Option<Key> {
        self.protocol.answered_by(response)
    }

    fn quota(&self, response: &S::Response, clock: &Clock) -> Option<Quota> {
        self.protocol.quota(response, clock)
    }

    fn discard(&mut self, response: S::Response) -> C::Discard {
        self.protocol.discard(response)
    }

    fn keep(&self, response: &mut S::Response, kept: Kept) {
        self.protocol.keep(response, kept);
    }

    fn attach(&self, response: &mut S::Response, report: impl FnOnce() -> Report) {
        self.protocol.attach(response, report());
    }
}

impl<S, Q, C> fmt::Debug for Exchange<S, Q, C>
where
    S: Service<Q>,
    C: Protocol<Q, S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// Makes request bodies replayable that can't be cloned; see [`Replay`].
///
/// Belongs outside the pipeline: `ServiceBuilder::new().layer(ReplayLayer::new())
/// .layer(Pipeline::http()).service(client)`, where the client takes `Request<Replay<B>>`.
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct ReplayLayer {
    limit: usize,
}

impl ReplayLayer {
    /// Keeps bodies up to 64 KiB.
    pub const fn new() -> Self {
        Self {
            limit: Replay::<()>::DEFAULT_LIMIT,
        }
    }

    /// Keeps bodies up to so many bytes, inclusive. Longer ones are sent once.
    pub const fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
}

impl Default for ReplayLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ReplayLayer {
    type Service = Replaying<S>;

    fn layer(&self, inner: S) -> Replaying<S> {
        let limit = self.limit;
        Replaying { inner, limit }
    }
}

/// A service whose requests' bodies are made replayable; see [`ReplayLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Replaying<S> {
    inner: S,
    limit: usize,
}

impl<S, B> Service<Request<B>> for Replaying<S>
where
    S: Service<Request<Replay<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.inner.call(Replay::wrap(request, self.limit))
    }
}

/// Moves a bulkhead's permit from a response into its body; see
/// [`Bulkhead::until_body_ends`](crate::Bulkhead::until_body_ends).
///
/// Belongs outside the pipeline.
///
/// # Examples
///
/// ```
/// use evenkeel::tower::PermitLayer;
/// use evenkeel::{Bulkhead, Pipeline};
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let client = service_fn(|_: Request<String>| async {
///     Ok::<_, std::io::Error>(Response::new(Full::<bytes::Bytes>::from("a long answer")))
/// });
/// let bulkhead = Bulkhead::new(10).until_body_ends();
/// let service = ServiceBuilder::new()
///     .layer(PermitLayer::new())
///     .layer(Pipeline::http().bulkhead(bulkhead.clone()))
///     .service(client);
/// let response = service.oneshot(Request::get("http://a/").body(String::new()).unwrap());
/// let body = response.await.unwrap().into_body();
/// assert_eq!(bulkhead.snapshot().in_flight, 1); // the body isn't read yet
/// let _ = body.collect().await;
/// assert_eq!(bulkhead.snapshot().in_flight, 0);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct PermitLayer(());

impl PermitLayer {
    /// The layer.
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for PermitLayer {
    type Service = Permitted<S>;

    fn layer(&self, inner: S) -> Permitted<S> {
        Permitted { inner }
    }
}

/// A service whose responses' bodies hold a permit; see [`PermitLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Permitted<S> {
    inner: S,
}

impl<S, Q, B> Service<Q> for Permitted<S>
where
    S: Service<Q, Response = Response<B>>,
    B: Body,
{
    type Response = Response<PermitBody<B>>;
    type Error = S::Error;
    type Future = Permitting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let response = self.inner.call(request);
        Permitting { response }
    }
}

pin_project! {
    /// The future of [`Permitted`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Permitting<F> {
        #[pin]
        response: F,
    }
}

impl<F, B, E> Future for Permitting<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<PermitBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().response.poll(cx).map_ok(PermitBody::wrap)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};
    use std::task::Waker;
    use std::time::Instant;

    use super::*;
    use crate::breaker::Breaker;
    use crate::budget::{Budget, Ratio};
    use crate::error::Reason;
    use crate::event::{Event, Observer};
    use crate::retry::Retry;
    use crate::verdict::EveryError;
    use crate::window::Window;

    /// Ready when asked for the so-manieth time, or broken.
    #[derive(Clone)]
    struct Late {
        asks: u32,
        broken: bool,
    }

    impl Service<u32> for Late {
        type Response = u32;
        type Error = &'static str;
        type Future = Ready<Result<u32, &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            self.asks = self.asks.saturating_sub(1);
            match self.asks {
                0 if self.broken => Poll::Ready(Err("broken")),
                0 => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        }

        fn call(&mut self, request: u32) -> Self::Future {
            ready(Ok(request))
        }
    }

    struct All;

    impl Observer for All {
        fn observe(&self, _: &Event) {}

        fn wants_all(&self) -> bool {
            true
        }
    }

    /// What comes of a call, after how many polls, and what it left in the budget.
    fn outcome(watched: bool, gated: bool, asks: u32, broken: bool) -> String {
        let budget = Budget::new(Ratio::percent(100)).capacity(5);
        let mut pipeline = Pipeline::new().retry(Retry::default().max_attempts(1).budget(budget));
        let (window, breaker) = (Window::new(), Breaker::new());
        if gated {
            pipeline = pipeline.window(window.clone()).breaker(breaker.clone());
        }
        if watched {
            pipeline = pipeline.observer(All);
        }
        let exchange = Exchange::new(Late { asks, broken }, 7, EveryError);
        let mut call = Box::pin(Call::new(pipeline.source.load(), exchange));
        let mut polls = 0;
        let result = loop {
            polls += 1;
            let poll = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(result) = poll {
                break result.map_err(|it| (it.attempts(), it.operation().copied()));
            }
        };
        let budget = pipeline.source.hold().budget().map(Budget::snapshot);
        let (window, breaker) = (window.snapshot(), breaker.snapshot(Instant::now()));
        format!("{result:?} after {polls}, {budget:?} {window:?} {breaker:?}")
    }

    #[test]
    fn a_service_that_is_not_ready_yet_or_never_makes_no_difference_to_who_goes_straight() {
        for asks in 1..4 {
            for (broken, gated) in [(false, false), (false, true), (true, false), (true, true)] {
                let straight = outcome(false, gated, asks, broken);
                let watched = outcome(true, gated, asks, broken);
                assert_eq!(straight, watched, "{asks} {broken} {gated}");
                assert!(straight.contains(&format!("after {asks},")), "{straight}");
            }
        }
    }

    #[test]
    fn a_first_attempt_that_waited_for_readiness_asks_the_breaker_afterwards() {
        for opens in [false, true] {
            let breaker = Breaker::new();
            let pipeline = Pipeline::new()
                .window(Window::new())
                .breaker(breaker.clone());
            let late = Late {
                asks: 2,
                broken: false,
            };
            let exchange = Exchange::new(late, 7, EveryError);
            let mut call = Box::pin(Call::new(pipeline.source.hold(), exchange));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            if opens {
                breaker.force_open(Instant::now());
            }
            let Poll::Ready(result) = call.as_mut().poll(&mut cx) else {
                panic!("it is ready");
            };
            let refused = result.as_ref().is_err_and(|error| {
                matches!(error.cause(), Cause::Rejected(it) if it.reason == Reason::BreakerOpen)
            });
            assert_eq!((refused, result.is_ok()), (opens, !opens));
        }
    }
}
