//! [`Http`]: everything the engine has to know of HTTP.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;

use super::errors::no_less;
use super::{
    CallerAttempt, Drain, Idempotent, Quota, SavedRequest, Target, attempts_seen, classify_error,
    direct, is_idempotent, provably_not_sent, quota_by, replay, server_hint, status_verdict,
    target,
};
use crate::attempt::Attempt;
use crate::chaos::{Fault, Imitation};
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::diagnosis::{Diagnosis, Signatures, Symptoms};
use crate::endpoints::Endpoint;
use crate::error::{BoxError, Boxed, Cause, Error};
use crate::event::Described;
use crate::keyed::Key;
use crate::pipeline::{Kept, Protocol};
use crate::report::Report;
use crate::span::usual_port;
use crate::throttle::Priority;
use crate::verdict::{Circumstances, Classify, Kind, Processed, Verdict};

/// Knows HTTP requests, responses and client errors.
///
/// Classifies every response by its status and headers and every error by its chain of sources;
/// see the [module](super) for the tables. Clones are cheap.
///
/// # Examples
///
/// ```
/// use evenkeel::Pipeline;
/// use evenkeel::http::Http;
/// use evenkeel::verdict::Kind;
/// use http::StatusCode;
///
/// // This service answers 409 while a deploy holds its lock.
/// let http = Http::new().treat(StatusCode::CONFLICT, Kind::Transient);
/// let pipeline = Pipeline::http().classify(http);
/// # let _ = pipeline;
/// ```
#[derive(Clone, Default)]
pub struct Http {
    /// `None`: all as it comes, and nothing to count when cloned.
    settings: Option<Arc<Settings>>,
}

#[derive(Clone, Default)]
struct Settings {
    statuses: Vec<(StatusCode, Kind)>,
    adjust: Option<Adjust>,
    errors: Vec<AsError>,
    deadline_header: Option<HeaderName>,
    attempt_header: Option<HeaderName>,
    key: Option<KeyOf>,
    endpoint_host: Option<bool>,
    signatures: Signatures,
}

type KeyOf = Arc<dyn Fn(Target<'_>) -> Option<Key> + Send + Sync>;

type Adjust = Arc<dyn Fn(StatusCode, &HeaderMap, Verdict) -> Verdict + Send + Sync>;

/// Sees an error in a value, if the value is of the type it was made for.
type AsError = fn(&dyn Any) -> Option<Seen<'_>>;

/// An error, and whether attempts before the one that gave it may have been processed.
type Seen<'a> = (&'a (dyn StdError + 'static), Processed);

impl Http {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { settings: None }
    }

    /// Gives a status another kind than the default.
    #[must_use]
    pub fn treat(self, status: StatusCode, kind: Kind) -> Self {
        self.change(|it| {
            it.statuses.retain(|(known, _)| *known != status);
            it.statuses.push((status, kind));
        })
    }

    /// Looks at each verdict on a response once more, with its status and headers.
    #[must_use]
    pub fn adjust<F>(self, adjust: F) -> Self
    where
        F: Fn(StatusCode, &HeaderMap, Verdict) -> Verdict + Send + Sync + 'static,
    {
        self.change(|it| it.adjust = Some(Arc::new(adjust)))
    }

    /// Reads errors of type `E` by their chain of sources.
    ///
    /// Known without asking: [`io::Error`], `Box<dyn Error + Send + Sync>`, and with their
    /// features the errors of hyper, hyper-util, reqwest and reqwest-middleware. Errors of other
    /// types are transient and may have been processed. With each type `E` goes
    /// [`evenkeel::Error<E>`](crate::Error), which a pipeline further inside gives.
    #[must_use]
    pub fn errors<E: StdError + 'static>(self) -> Self {
        self.change(|it| {
            it.errors.extend([plain::<E> as AsError, nested::<E>]);
        })
    }

    /// The same knowledge of errors for closures that return something else than a response, such
    /// as a decoded body.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::{Pipeline, http::Http, verdict::Processed};
    /// use std::io::{Error, ErrorKind};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let pipeline = Pipeline::http().classify(Http::new().errors_only());
    /// // Stands for `client.get(url).send().await?.json().await`.
    /// let orders = pipeline.run(|attempt| async move {
    ///     if attempt.is_retry() { Ok(7) } else { Err(Error::from(ErrorKind::ConnectionRefused)) }
    /// });
    /// assert_eq!(orders.await.unwrap(), 7);
    /// # }
    /// ```
    #[must_use]
    pub const fn errors_only(self) -> HttpErrors {
        HttpErrors(self)
    }

    /// Sends the time left to the deadline, in whole milliseconds, in this header of every
    /// attempt, so that the server can give up when the caller has. Default: not sent.
    #[must_use]
    pub fn deadline_header(self, name: HeaderName) -> Self {
        self.change(|it| it.deadline_header = Some(name))
    }

    /// Sends which attempt it is in this header of every attempt, from 1, with those that the
    /// [caller](super::CallerAttempt) and proxies made before; and reads from the same header of a
    /// rejected response how many a proxy made, which count as if they were the call's own.
    /// [`ATTEMPT_COUNT`](super::ATTEMPT_COUNT) is Envoy's name for it. See
    /// [`http`](super#retries-of-retries). Default: neither.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::Pipeline;
    /// use evenkeel::http::{ATTEMPT_COUNT, Http};
    ///
    /// let http = Http::new().attempt_header(ATTEMPT_COUNT.clone());
    /// let pipeline = Pipeline::http().classify(http);
    /// # let _ = pipeline;
    /// ```
    #[must_use]
    pub fn attempt_header(self, name: HeaderName) -> Self {
        self.change(|it| it.attempt_header = Some(name))
    }

    /// Which service a request goes to: what is kept [per key](crate::keyed) is then that key's, and
    /// `None` passes all that by. Default: its host and port.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::http::Http;
    /// use evenkeel::{Key, Pipeline};
    ///
    /// // Behind this gateway each first segment of the path is a service of its own.
    /// let http = Http::new().key_by(|target| {
    ///     Some(Key::of((target.host(), target.path().split('/').nth(1))))
    /// });
    /// let pipeline = Pipeline::http().classify(http);
    /// # let _ = pipeline;
    /// ```
    #[must_use]
    pub fn key_by<F>(self, key: F) -> Self
    where
        F: Fn(Target<'_>) -> Option<Key> + Send + Sync + 'static,
    {
        self.change(|it| it.key = Some(Arc::new(key)))
    }

    /// Whether the `Host` header of a request that goes to one of several
    /// [endpoints](crate::endpoints#http) follows it: true makes it the endpoint's, a `Host` of the
    /// request's own included; false leaves it what the URI said. Default: it follows over TLS, and is
    /// left where there is none.
    #[must_use]
    pub fn endpoint_host(self, follows: bool) -> Self {
        self.change(|it| it.endpoint_host = Some(follows))
    }

    pub(crate) fn host_follows(&self) -> Option<bool> {
        self.settings.as_ref().and_then(|it| it.endpoint_host)
    }

    /// The markers that failures are [diagnosed](crate::diagnosis) by. Default: the built-in table.
    ///
    /// A row that says [`Cause::Configuration`](crate::diagnosis::Cause::Configuration) with 30
    /// decibans or more, that lasts, and that asks for headers alone also ends retries: that is the
    /// one thing that a signature changes in what is done, and it makes it less.
    #[must_use]
    pub fn signatures(self, signatures: Signatures) -> Self {
        self.change(|it| it.signatures = signatures)
    }

    /// What was the matter, where it wasn't a success.
    pub(crate) fn diagnosis(&self, seen: Symptoms<'_>, known: Circumstances<'_>) -> Diagnosis {
        let seen = seen.wall(known.wall());
        let seen = match known.elapsed {
            Some(elapsed) => seen.elapsed(elapsed),
            None => seen,
        };
        match &self.settings {
            Some(settings) => settings.signatures.diagnose(&seen),
            None => seen.diagnose(),
        }
    }

    #[cfg(feature = "reqwest")]
    pub(crate) fn key_of(&self, target: Target<'_>) -> Option<Key> {
        match self.own_key() {
            Some(key) => key(target),
            None => target.key(),
        }
    }

    fn own_key(&self) -> Option<&KeyOf> {
        self.settings.as_ref().and_then(|it| it.key.as_ref())
    }

    #[cfg(feature = "reqwest")]
    pub(crate) fn has_own_keys(&self) -> bool {
        self.settings.as_ref().is_some_and(|it| it.key.is_some())
    }

    /// What a response means.
    #[inline]
    pub fn response(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let verdict = status_verdict(status);
        if self.settings.is_none() && verdict.is_success() {
            return verdict;
        }
        self.second_look(verdict, status, headers)
    }

    /// What headers and settings make of what a status means.
    fn second_look(&self, verdict: Verdict, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let verdict = self.by_default(verdict, status, headers);
        match self.settings.as_ref().and_then(|it| it.adjust.as_ref()) {
            Some(adjust) => adjust(status, headers, verdict),
            None => verdict,
        }
    }

    /// What an error means.
    pub fn error<E: 'static>(&self, error: &E) -> Verdict {
        let any: &dyn Any = error;
        let registered = self.settings.iter().flat_map(|it| &it.errors);
        let mut all = registered.chain(KNOWN_ERRORS);
        let Some((error, earlier)) = all.find_map(|as_error| as_error(any)) else {
            return Verdict::transient();
        };
        no_less(classify_error(error), earlier)
    }

    /// What an injected fault means.
    fn fault(&self, fault: &Fault) -> Verdict {
        match fault.response() {
            Some(response) => self.response(response.status(), response.headers()),
            None => fault.verdict(),
        }
    }

    fn by_default(&self, mut verdict: Verdict, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let mut is_treated = false;
        if let Some(settings) = &self.settings {
            let treated = settings.statuses.iter().find(|(known, _)| *known == status);
            if let Some((_, kind)) = treated {
                verdict = Verdict::new(*kind).label(verdict.error_type());
            }
            is_treated = treated.is_some();
        }
        if !verdict.kind().is_retryable() {
            return verdict;
        }
        if verdict.was_processed() == Processed::Maybe && provably_not_sent(status, headers) {
            verdict = verdict.processed(Processed::No);
        }
        if !is_treated && self.ends_retries(status, headers) {
            let processed = verdict.was_processed();
            verdict = Verdict::new(Kind::TargetFault)
                .processed(processed)
                .label(verdict.error_type());
        }
        match server_hint(status, headers) {
            Some(hint) => verdict.hint(hint),
            None => verdict,
        }
    }

    /// Sets what an attempt's request is to say of it.
    #[inline]
    pub(crate) fn tell(&self, headers: &mut HeaderMap, attempt: &Attempt) {
        let Some(settings) = &self.settings else {
            return;
        };
        let left = settings.deadline_header.as_ref().zip(attempt.time_left());
        if let Some((name, left)) = left {
            headers.insert(name, milliseconds(left));
        }
        if let Some(name) = &settings.attempt_header {
            headers.insert(name, HeaderValue::from(attempt.total()));
        }
    }

    /// How many attempts a proxy made, beside the one that gave the response with these headers.
    pub(crate) fn others(&self, headers: &HeaderMap) -> u32 {
        let settings = self.settings.as_ref();
        let name = settings.and_then(|it| it.attempt_header.as_ref());
        name.map_or(0, |name| attempts_seen(headers, name) - 1)
    }

    /// Whether it is said that only somebody's hand can mend it.
    fn ends_retries(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        match &self.settings {
            Some(settings) => settings.signatures.ends_retries(status, headers),
            None => Signatures::new().ends_retries(status, headers),
        }
    }

    fn change(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(self.settings.get_or_insert_default()));
        self
    }
}

impl<B, E: 'static> Classify<Response<B>, E> for Http {
    #[inline]
    fn classify(&self, outcome: Result<&Response<B>, &E>) -> Verdict {
        match outcome {
            Ok(response) => self.response(response.status(), response.headers()),
            Err(error) => self.error(error),
        }
    }

    fn imitate(&self, fault: &Fault) -> Imitation<Response<B>, E> {
        // Nobody can make a body of any type.
        Imitation::Verdict(self.fault(fault))
    }

    fn diagnose(
        &self,
        outcome: Result<&Response<B>, &E>,
        known: Circumstances<'_>,
    ) -> Option<Diagnosis> {
        let seen = match outcome {
            Ok(response) => Symptoms::of_response(response),
            Err(error) => Symptoms::of(self.error(error)),
        };
        Some(self.diagnosis(seen, known))
    }
}

/// Knows HTTP clients' errors alone: every `Ok` is a success. See [`Http::errors_only`].
#[derive(Clone, Debug, Default)]
pub struct HttpErrors(Http);

impl<T, E: 'static> Classify<T, E> for HttpErrors {
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        match outcome {
            Ok(_) => Verdict::success(),
            Err(error) => self.0.error(error),
        }
    }

    fn diagnose(&self, outcome: Result<&T, &E>, known: Circumstances<'_>) -> Option<Diagnosis> {
        let seen = Symptoms::of(self.0.error(outcome.err()?));
        Some(self.0.diagnosis(seen, known))
    }
}

impl<B: Clone, R: Body> Protocol<Request<B>, Response<R>> for Http {
    type Saved = SavedRequest<B>;
    type Discard = Drain<R>;

    #[inline]
    fn save(&self, request: &mut Request<B>) -> Option<SavedRequest<B>> {
        if !replay::is_replayable(request.extensions()) {
            return None;
        }
        Some(SavedRequest::of(request))
    }

    fn restore(&self, saved: SavedRequest<B>) -> Request<B> {
        saved.restore()
    }

    fn is_replayable(&self, saved: &SavedRequest<B>) -> bool {
        replay::is_replayable(saved.extensions())
    }

    #[inline]
    fn is_idempotent(&self, request: &Request<B>) -> Option<bool> {
        let marker = said::<Idempotent>(request.extensions());
        let by_method = || is_idempotent(request.method(), request.headers());
        Some(marker.map_or_else(by_method, |marker| marker.0))
    }

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        said(request.extensions()).copied()
    }

    fn key(&self, request: &Request<B>) -> Option<Key> {
        match self.own_key() {
            Some(key) => key(Target::of(request.method(), request.uri())),
            None => target::key_of(request.uri()),
        }
    }

    fn priority(&self, request: &Request<B>) -> Priority {
        let priority = said::<Priority>(request.extensions());
        priority.copied().unwrap_or_default()
    }

    fn quota(&self, response: &Response<R>, clock: &Clock) -> Option<Quota> {
        quota_by(response.headers(), || clock.wall())
    }

    fn earlier_attempts(&self, request: &Request<B>) -> u32 {
        let caller = said::<CallerAttempt>(request.extensions());
        caller.map_or(0, |caller| caller.0.saturating_sub(1))
    }

    fn other_attempts(&self, response: &Response<R>) -> u32 {
        self.others(response.headers())
    }

    fn describe<'a>(&self, request: &'a Request<B>) -> Described<'a> {
        let uri = request.uri();
        describe(
            request.method(),
            uri.scheme_str(),
            uri.host(),
            uri.port_u16(),
        )
    }

    fn status(&self, response: &Response<R>) -> Option<u16> {
        Some(response.status().as_u16())
    }

    #[inline]
    fn prepare(&self, request: &mut Request<B>, attempt: &Attempt) {
        self.tell(request.headers_mut(), attempt);
    }

    fn direct(&self, request: &mut Request<B>, endpoint: &Endpoint) {
        direct::direct(request, endpoint, self.host_follows());
    }

    fn discard(&self, response: Response<R>) -> Drain<R> {
        Drain::new(response.into_body(), DRAIN_LIMIT)
    }

    fn keep(&self, response: &mut Response<R>, kept: Kept) {
        response.extensions_mut().insert(kept);
    }

    fn attach(&self, response: &mut Response<R>, report: Report) {
        response.extensions_mut().insert(report);
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Http");
        if let Some(settings) = &self.settings {
            out.field("statuses", &settings.statuses)
                .field("deadline_header", &settings.deadline_header)
                .field("attempt_header", &settings.attempt_header);
        }
        out.finish_non_exhaustive()
    }
}

/// What the span of an attempt says of its request.
pub(crate) fn describe<'a>(
    method: &'a Method,
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<u16>,
) -> Described<'a> {
    // A method is the caller's, and there are to be few different ones.
    let method = match method.as_str() {
        known @ ("CONNECT" | "DELETE" | "GET" | "HEAD" | "OPTIONS" | "PATCH" | "POST" | "PUT"
        | "QUERY" | "TRACE") => known,
        _ => "_OTHER",
    };
    let mut described = Described::new().method(method);
    if let Some(scheme) = scheme {
        described = described.scheme(scheme);
    }
    if let Some(host) = host {
        described = described.address(host);
    }
    match port.or_else(|| scheme.and_then(usual_port)) {
        Some(port) => described.port(port),
        None => described,
    }
}

/// What a request says by its extensions. Most have none, and it is asked for several things.
#[inline]
fn said<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Option<&T> {
    if extensions.is_empty() {
        return None;
    }
    extensions.get()
}

fn milliseconds(left: Duration) -> HeaderValue {
    // Rounded down: nobody is told that there is more time than there is.
    HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

/// A value as an error, if it is of this type.
fn plain<E: StdError + 'static>(any: &dyn Any) -> Option<Seen<'_>> {
    let error = any.downcast_ref::<E>()?;
    Some((error, Processed::No))
}

/// The error of a pipeline inside, with what is known of its earlier attempts.
fn nested<E: StdError + 'static>(any: &dyn Any) -> Option<Seen<'_>> {
    let error = any.downcast_ref::<Error<E>>()?;
    Some((error, error.processed_earlier()))
}

fn boxed(any: &dyn Any) -> Option<Seen<'_>> {
    let error = any.downcast_ref::<BoxError>()?;
    Some((&**error, Processed::No))
}

/// No error itself, for a box is none: its cause is.
fn nested_boxed(any: &dyn Any) -> Option<Seen<'_>> {
    let error = any.downcast_ref::<Error<BoxError>>()?;
    let cause: &(dyn StdError + 'static) = match error.cause() {
        Cause::Config(error) => error,
        Cause::Elapsed(elapsed) => elapsed,
        Cause::Injected(injected) => injected,
        Cause::Operation(error) => &**error,
        Cause::Rejected(rejected) => rejected,
    };
    Some((cause, error.processed_earlier()))
}

const KNOWN_ERRORS: &[AsError] = &[
    plain::<io::Error>,
    nested::<io::Error>,
    boxed,
    nested_boxed,
    plain::<Boxed>,
    nested::<Boxed>,
    #[cfg(feature = "hyper-util")]
    plain::<hyper::Error>,
    #[cfg(feature = "hyper-util")]
    nested::<hyper::Error>,
    #[cfg(feature = "hyper-util")]
    plain::<hyper_util::client::legacy::Error>,
    #[cfg(feature = "hyper-util")]
    nested::<hyper_util::client::legacy::Error>,
    #[cfg(feature = "reqwest")]
    plain::<reqwest::Error>,
    #[cfg(feature = "reqwest")]
    nested::<reqwest::Error>,
    #[cfg(feature = "reqwest-middleware")]
    plain::<reqwest_middleware::Error>,
    #[cfg(feature = "reqwest-middleware")]
    nested::<reqwest_middleware::Error>,
];

/// More than any error page that is worth a connection.
pub(crate) const DRAIN_LIMIT: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Hint, Label};

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let value = HeaderValue::from_static(value);
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }

    #[test]
    fn a_503_and_a_504_are_told_apart() {
        let none = HeaderMap::new();
        let unavailable = Http::new().response(StatusCode::SERVICE_UNAVAILABLE, &none);
        let timeout = Http::new().response(StatusCode::GATEWAY_TIMEOUT, &none);
        assert_eq!(unavailable.kind(), Kind::Overloaded);
        assert_eq!(timeout.kind(), Kind::Transient);
        assert_eq!(unavailable.error_type(), Label::Status(503));
        assert_eq!(timeout.error_type(), Label::Status(504));
    }

    #[test]
    fn a_503_alone_proves_nothing_and_with_evidence_it_does() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let bare = Http::new().response(status, &HeaderMap::new());
        assert_eq!(bare.was_processed(), Processed::Maybe);
        let refused = headers("proxy-status", "edge; error=connection_refused");
        let proven = Http::new().response(status, &refused);
        assert_eq!(proven.was_processed(), Processed::No);
    }

    #[test]
    fn a_hint_counts_only_on_what_may_be_retried() {
        let hint = headers("retry-after", "7");
        let of = |status| Http::new().response(status, &hint).server_hint();
        let seven = Some(Hint::After(Duration::from_secs(7)));
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE), seven);
        assert_eq!(of(StatusCode::TOO_MANY_REQUESTS), seven);
        assert_eq!(of(StatusCode::OK), None);
        assert_eq!(of(StatusCode::NOT_IMPLEMENTED), None);
    }

    #[test]
    fn a_status_can_be_treated_as_another_kind() {
        let http = Http::new()
            .treat(StatusCode::CONFLICT, Kind::Transient)
            .treat(StatusCode::INTERNAL_SERVER_ERROR, Kind::TargetFault);
        let none = HeaderMap::new();
        assert!(http.response(StatusCode::CONFLICT, &none).is_retryable());
        assert!(
            !http
                .response(StatusCode::INTERNAL_SERVER_ERROR, &none)
                .is_retryable()
        );
        assert!(http.response(StatusCode::BAD_GATEWAY, &none).is_retryable());
    }

    #[test]
    fn errors_behind_a_box_or_of_a_registered_type_are_read() {
        #[derive(Debug, thiserror::Error)]
        #[error("mine")]
        struct Mine(#[source] io::Error);

        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let boxed: Box<dyn StdError + Send + Sync> = Box::new(Mine(refused()));
        let http = Http::new();
        assert_eq!(http.error(&boxed).was_processed(), Processed::No);
        assert_eq!(
            http.error(&Mine(refused())).was_processed(),
            Processed::Maybe
        );
        let http = http.errors::<Mine>();
        assert_eq!(http.error(&Mine(refused())).was_processed(), Processed::No);
    }

    mod nested {
        use super::*;
        use crate::error::{ConfigError, Reason, Rejected};
        use crate::report::Failure;

        fn failed<E>(cause: Cause<E>, attempts: &[Processed]) -> Error<E> {
            let mut report = Report::new();
            for processed in attempts {
                report.attempts += 1;
                *report.failures.place() = Failure {
                    number: report.attempts,
                    verdict: Verdict::transient().processed(*processed),
                    cause: crate::diagnosis::Cause::Unknown,
                    at: Duration::ZERO,
                    wait: None,
                };
            }
            Error::new(cause, report)
        }

        fn refused() -> io::Error {
            io::ErrorKind::ConnectionRefused.into()
        }

        fn processed<E: 'static>(error: &E) -> Processed {
            Http::new().error(error).was_processed()
        }

        #[test]
        fn a_refused_connection_is_proof_through_a_nested_pipeline() {
            // Whatever a classifier inside that knows nothing said of the last attempt.
            let attempts = [Processed::No, Processed::Maybe];
            let plain = failed(Cause::Operation(refused()), &attempts);
            assert_eq!(processed(&plain), Processed::No);
            let of_box = || failed(Cause::Operation(BoxError::from(refused())), &attempts);
            assert_eq!(processed(&of_box()), Processed::No);
            assert_eq!(processed(&of_box().boxed()), Processed::No);
        }

        #[test]
        fn an_earlier_attempt_that_may_have_been_processed_is_not_forgotten() {
            let attempts = [Processed::Maybe, Processed::No];
            let plain = failed(Cause::Operation(refused()), &attempts);
            assert_eq!(processed(&plain), Processed::Maybe);
            let of_box = || failed(Cause::Operation(BoxError::from(refused())), &attempts);
            assert_eq!(processed(&of_box()), Processed::Maybe);
            assert_eq!(processed(&of_box().boxed()), Processed::Maybe);
            let rejected = Cause::<io::Error>::Rejected(Rejected::new(Reason::WindowFull, None));
            assert_eq!(
                processed(&failed(rejected, &[Processed::Maybe])),
                Processed::Maybe
            );
        }

        #[test]
        fn a_nested_pipelines_wrong_settings_are_not_retried() {
            let config = || ConfigError::new("timeout", "must not be zero");
            let plain = failed(Cause::<io::Error>::Config(config()), &[]);
            let of_box = failed(Cause::<BoxError>::Config(config()), &[]);
            for verdict in [Http::new().error(&plain), Http::new().error(&of_box)] {
                assert!(!verdict.is_retryable());
                assert_eq!(verdict.was_processed(), Processed::No);
            }
        }

        #[test]
        fn a_registered_type_is_known_in_a_nested_pipelines_error_too() {
            #[derive(Debug, thiserror::Error)]
            #[error("mine")]
            struct Mine(#[source] io::Error);

            let error = failed(Cause::Operation(Mine(refused())), &[Processed::Maybe]);
            assert_eq!(processed(&error), Processed::Maybe);
            let http = Http::new().errors::<Mine>();
            assert_eq!(http.error(&error).was_processed(), Processed::No);
        }

        #[cfg(feature = "reqwest-middleware")]
        #[test]
        fn a_nested_middlewares_error_is_read_through() {
            let own = reqwest_middleware::Error::middleware(refused());
            let inner = failed(Cause::Operation(own), &[Processed::No]);
            assert_eq!(processed(&inner), Processed::No);
            let outer = reqwest_middleware::Error::middleware(inner);
            assert_eq!(processed(&outer), Processed::No);
        }
    }
}
