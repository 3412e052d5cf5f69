//! The door for reqwest, and what its errors mean.
//!
//! [`SendWith`] sends a `RequestBuilder` through a pipeline. A `reqwest::Client` is a tower service
//! as well, so `ServiceBuilder::new().layer(Pipeline::http()).service(client)` works too.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::uri::Scheme;
use ::reqwest::{Body, Client, Error as ClientError, Request, RequestBuilder, Response};
use pin_project_lite::pin_project;

use crate::attempt::Attempt;
use crate::chaos::{Fault, Imitation, Injected};
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::diagnosis::{Diagnosis, Symptoms};
use crate::endpoints::Endpoint;
use crate::error::{Cause, Error};
use crate::event::Described;
use crate::http::describe;
use crate::http::direct::{host_of, name};
use crate::http::errors::{chain, connect_verdict, maybe, unprocessed};
use crate::http::packed::Packed;
use crate::http::{Drain, Http, Quota, Target, is_idempotent, quota_by, status_verdict};
use crate::keyed::Key;
use crate::pipeline::{Call, Held, Kept, Pipeline, Protocol};
use crate::report::Report;
use crate::throttle::Priority;
use crate::tower::Exchange;
use crate::verdict::{Circumstances, Classify, Kind, Label, Processed, Verdict};

/// Sends a reqwest request through a pipeline.
///
/// # Examples
///
/// ```
/// use evenkeel::Pipeline;
/// use evenkeel::client::reqwest::SendWith;
///
/// # async fn order(client: reqwest::Client, url: &str) -> Result<(), evenkeel::Error<reqwest::Error>> {
/// let pipeline = Pipeline::http();
/// let response = client.get(url).send_with(&pipeline).await?;
/// # let _ = response;
/// # Ok(())
/// # }
/// ```
pub trait SendWith {
    /// Builds the request and sends it under the pipeline's policies.
    ///
    /// Requests with a body that reqwest can't clone, such as a stream, are sent once.
    ///
    /// A reqwest client repeats some refused HTTP/2 requests by itself, unseen by budget and
    /// report; `ClientBuilder::retry(reqwest::retry::never())` leaves all of that to the pipeline.
    ///
    /// # Errors
    ///
    /// The last attempt's own `reqwest::Error`, unchanged, or which policy ended the call. A
    /// request that can't be built is the former, with zero attempts.
    ///
    /// # Cancel safety
    ///
    /// As [`Pipeline::run`].
    fn send_with<C>(self, pipeline: &Pipeline<C>) -> Sending<'_, C>
    where
        C: Classify<Response, ClientError> + Protocol<Request, Response>;
}

impl SendWith for RequestBuilder {
    fn send_with<C>(self, pipeline: &Pipeline<C>) -> Sending<'_, C>
    where
        C: Classify<Response, ClientError> + Protocol<Request, Response>,
    {
        let (client, request) = self.build_split();
        match request {
            Ok(request) => {
                let exchange = Exchange::new(client, request, &pipeline.classify);
                let call = Some(Call::new(pipeline.source.hold(), exchange));
                let unbuilt = None;
                Sending { call, unbuilt }
            }
            Err(error) => Sending {
                call: None,
                unbuilt: Some(error),
            },
        }
    }
}

pin_project! {
    /// The future of [`SendWith::send_with`].
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Sending<'a, C>
    where
        C: Classify<Response, ClientError>,
        C: Protocol<Request, Response>,
    {
        #[pin]
        call: Option<Call<Held<'a>, Exchange<Client, Request, &'a C>>>,
        unbuilt: Option<ClientError>,
    }
}

impl<C> Sending<'_, C>
where
    C: Classify<Response, ClientError> + Protocol<Request, Response>,
{
    /// Replaces the pipeline's deadline for this call.
    pub fn until(self, deadline: Deadline) -> Self {
        self.change(|exchange| exchange.told.deadline = Some(deadline))
    }

    /// Says whether this request may be repeated though the first may have been acted on,
    /// whatever its method.
    pub fn idempotent(self, idempotent: bool) -> Self {
        self.change(|exchange| exchange.told.idempotent = Some(idempotent))
    }

    /// This request serves the `number`th attempt of its own caller, from 1: what the caller already
    /// spent counts against this request's attempts. Zero counts as 1. Default: 1. See
    /// [`http`](crate::http#retries-of-retries).
    pub fn caller_attempt(self, number: u32) -> Self {
        self.change(|exchange| exchange.told.earlier = number.saturating_sub(1))
    }

    /// How much the request matters when some have to be shed; see [`throttle`](crate::throttle).
    /// Default: [`Priority::Normal`].
    pub fn priority(self, priority: Priority) -> Self {
        self.change(|exchange| exchange.told.priority = priority)
    }

    fn change<F>(mut self, change: F) -> Self
    where
        F: FnOnce(&mut Exchange<Client, Request, &C>),
    {
        if let Some(call) = &mut self.call {
            change(call.operation_mut());
        }
        self
    }
}

impl<C> Future for Sending<'_, C>
where
    C: Classify<Response, ClientError> + Protocol<Request, Response>,
{
    type Output = Result<Response, Error<ClientError>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(call) = this.call.as_pin_mut() {
            return call.poll(cx);
        }
        let error = this.unbuilt.take();
        let error = error.expect("a future isn't polled after it is ready");
        let error = Error::new(Cause::Operation(error), Report::new());
        Poll::Ready(Err(error))
    }
}

impl<C> fmt::Debug for Sending<'_, C>
where
    C: Classify<Response, ClientError> + Protocol<Request, Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

impl<E: 'static> Classify<Response, E> for Http {
    fn classify(&self, outcome: Result<&Response, &E>) -> Verdict {
        match outcome {
            Ok(response) => self.response(response.status(), response.headers()),
            Err(error) => self.error(error),
        }
    }

    fn imitate(&self, fault: &Fault) -> Imitation<Response, E> {
        match fault.response() {
            Some(response) => Imitation::Outcome(Ok(response.map(|()| Body::default()).into())),
            None => Imitation::Verdict(fault.verdict()),
        }
    }

    fn diagnose(
        &self,
        outcome: Result<&Response, &E>,
        known: Circumstances<'_>,
    ) -> Option<Diagnosis> {
        let seen = match outcome {
            Ok(it) => Symptoms::of_parts(it.status(), it.version(), it.headers(), it.extensions()),
            Err(error) => Symptoms::of(self.error(error)),
        };
        Some(self.diagnosis(seen, known))
    }
}

impl Protocol<Request, Response> for Http {
    type Saved = SavedRequest;
    type Discard = Drain<Body>;

    fn save(&self, request: &mut Request) -> Option<SavedRequest> {
        let headers = mem::take(request.headers_mut());
        let rest = request.try_clone();
        let saved = rest.map(|rest| SavedRequest {
            rest,
            headers: Packed::of(&headers),
        });
        *request.headers_mut() = headers;
        saved
    }

    fn restore(&self, saved: SavedRequest) -> Request {
        let mut request = saved.rest;
        saved.headers.unpack(request.headers_mut());
        request
    }

    fn is_idempotent(&self, request: &Request) -> Option<bool> {
        Some(is_idempotent(request.method(), request.headers()))
    }

    fn deadline(&self, _: &Request) -> Option<Deadline> {
        None
    }

    fn key(&self, request: &Request) -> Option<Key> {
        self.key_of(target(request.method(), request.url()))
    }

    fn answered_by(&self, response: &Response) -> Option<Key> {
        // After a redirect it isn't the service that was asked. Only the address is known of what was
        // asked there.
        let address = target(&::http::Method::GET, response.url());
        let made_up = response.extensions().get::<Injected>().is_some();
        if made_up || self.has_own_keys() {
            None
        } else {
            address.key()
        }
    }

    fn quota(&self, response: &Response, clock: &Clock) -> Option<Quota> {
        quota_by(response.headers(), || clock.wall())
    }

    fn other_attempts(&self, response: &Response) -> u32 {
        self.others(response.headers())
    }

    fn describe<'a>(&self, request: &'a Request) -> Described<'a> {
        let url = request.url();
        describe(
            request.method(),
            Some(url.scheme()),
            url.host_str(),
            url.port(),
        )
    }

    fn status(&self, response: &Response) -> Option<u16> {
        Some(response.status().as_u16())
    }

    fn prepare(&self, request: &mut Request, attempt: &Attempt) {
        self.tell(request.headers_mut(), attempt);
    }

    fn direct(&self, request: &mut Request, endpoint: &Endpoint) {
        let Some(authority) = endpoint.authority() else {
            return;
        };
        let url = request.url();
        let scheme = if url.scheme() == "https" {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        let host = url.host_str();
        let host = host.and_then(|host| host_of(&scheme, host, url.port()));
        let mut to = url.clone();
        // Neither fails: schemes and hosts of the web stay such.
        let scheme = endpoint
            .scheme()
            .map_or(Ok(()), |scheme| to.set_scheme(scheme.as_str()));
        let went = scheme.is_ok()
            && to.set_host(Some(authority.host())).is_ok()
            && to.set_port(authority.port_u16()).is_ok();
        if !went {
            return;
        }
        let (is_https, version) = (to.scheme() == "https", request.version());
        *request.url_mut() = to;
        name(
            request.headers_mut(),
            host,
            version,
            is_https,
            self.host_follows(),
        );
    }

    fn discard(&self, response: Response) -> Drain<Body> {
        let body = ::http::Response::<Body>::from(response).into_body();
        Drain::new(body, crate::http::DRAIN_LIMIT)
    }

    fn keep(&self, response: &mut Response, kept: Kept) {
        response.extensions_mut().insert(kept);
    }

    fn attach(&self, response: &mut Response, report: Report) {
        response.extensions_mut().insert(report);
    }
}

/// What is kept of a request for another attempt: a clone of all but its headers, which are packed.
#[must_use = "what is saved is to be restored"]
pub struct SavedRequest {
    rest: Request,
    headers: Packed,
}

impl fmt::Debug for SavedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be passwords in it.
        f.debug_struct("SavedRequest").finish_non_exhaustive()
    }
}

fn target<'a>(method: &'a ::http::Method, url: &'a ::reqwest::Url) -> Target<'a> {
    Target {
        method,
        scheme: url.scheme(),
        host: url.host_str().unwrap_or_default(),
        port: url.port(),
        path: url.path(),
    }
}

/// What a link of a chain of errors says, if it is reqwest's.
pub(crate) fn read_error(error: &(dyn StdError + 'static)) -> Option<Verdict> {
    let client = error.downcast_ref::<ClientError>()?;
    if client.is_builder() {
        let verdict = Verdict::new(Kind::RequestFault).processed(Processed::No);
        return Some(verdict.label(Label::Name("request")));
    }
    if client.is_redirect() {
        // Too many of them, or a loop: the next attempt walks the same way.
        return Some(Verdict::new(Kind::TargetFault).label(Label::Name("redirect")));
    }
    if let Some(status) = client.status() {
        return Some(status_verdict(status));
    }
    if client.is_body() || client.is_decode() {
        return Some(read_body(client));
    }
    if client.is_dns() {
        return Some(unprocessed("dns"));
    }
    if client.is_connect() {
        return Some(connect_verdict(error));
    }
    // Not connecting, so it may have been sent.
    client.is_timeout().then(|| maybe("timeout"))
}

/// The answer had begun.
fn read_body(error: &ClientError) -> Verdict {
    let broke_off = chain(error).skip(1).any(|link| {
        link.is::<std::io::Error>() || link.is::<hyper::Error>() || link.is::<h2::Error>()
    });
    let kind = if broke_off || error.is_timeout() {
        Kind::Transient
    } else {
        // It came whole and isn't what it says it is.
        Kind::TargetFault
    };
    let verdict = Verdict::new(kind).processed(Processed::Yes);
    verdict.label(Label::Name("body"))
}
