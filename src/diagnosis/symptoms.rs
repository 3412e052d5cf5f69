//! What a client can see of one failure.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Extensions, HeaderMap, HeaderValue, Response, StatusCode, Version, header};

use super::text::Text;
use super::{Diagnosis, Signatures};
use crate::clock::until;
use crate::http::errors::{connect_verdict, maybe};
use crate::http::evidence::{is_only_attempt, may_hide_attempts, provably_not_sent};
use crate::http::{classify_error, quota, server_hint, status_verdict};
use crate::verdict::{Hint, Label, Processed, Verdict};

/// What a client can see of one failure: an answer, an error, or that its patience ended.
///
/// Everything beyond the status and the headers is optional, and makes a diagnosis surer. It
/// borrows, copies nothing, and is never shown by `Debug`.
///
/// # Examples
///
/// ```
/// use evenkeel::diagnosis::{Cause, Symptoms};
/// use http::{HeaderMap, StatusCode};
/// use std::time::Duration;
///
/// let headers = HeaderMap::new();
/// let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers)
///     .reason(b"Backend fetch failed")
///     .elapsed(Duration::from_millis(60_004));
/// assert_eq!(seen.diagnose().cause(), Cause::GatewayTimeout); // Varnish says 503 of it
/// ```
#[derive(Clone, Copy)]
#[must_use = "symptoms do nothing until they are diagnosed"]
pub struct Symptoms<'a> {
    pub(super) status: Option<StatusCode>,
    pub(super) headers: Option<&'a HeaderMap>,
    pub(super) reason: Option<&'a [u8]>,
    pub(super) body: Option<&'a [u8]>,
    pub(super) elapsed: Option<Duration>,
    pub(super) broken_off: bool,
    /// The label of the client's own error; empty for one that nobody understands.
    pub(super) failed: Option<&'static str>,
    verdict: Verdict,
    wall: Option<SystemTime>,
}

impl<'a> Symptoms<'a> {
    /// An answer, by its status and headers. With a status below 400 it is a failure only if it
    /// [broke off](Self::broken_off).
    pub fn response(status: StatusCode, headers: &'a HeaderMap) -> Self {
        Self {
            status: Some(status),
            headers: Some(headers),
            ..Self::of(status_verdict(status))
        }
    }

    /// The same, and the reason phrase of an HTTP/1 answer as hyper leaves it: in the extensions if
    /// it isn't the status' usual one. Without the feature `hyper-util` there is no phrase.
    pub fn of_response<B>(response: &'a Response<B>) -> Self {
        Self::of_parts(
            response.status(),
            response.version(),
            response.headers(),
            response.extensions(),
        )
    }

    pub(crate) fn of_parts(
        status: StatusCode,
        version: Version,
        headers: &'a HeaderMap,
        extensions: &'a Extensions,
    ) -> Self {
        let seen = Self::response(status, headers);
        match phrase(status, version, extensions) {
            Some(reason) => seen.reason(reason),
            None => seen,
        }
    }

    /// An error of the client's, read as by [`classify_error`].
    pub fn error(error: &(dyn StdError + 'static)) -> Self {
        Self::of(classify_error(error))
    }

    /// An error while connecting, of a client whose own errors this crate doesn't know.
    pub fn connect_error(error: &(dyn StdError + 'static)) -> Self {
        Self::of(connect_verdict(error))
    }

    /// What came back on the connection is no HTTP.
    pub fn no_http() -> Self {
        Self::of(maybe("protocol"))
    }

    /// The client's own time limit of this length ended the attempt.
    pub fn timeout(limit: Duration) -> Self {
        Self::of(maybe("timeout")).elapsed(limit)
    }

    /// What a verdict on an error says by its label, for classifiers that know their client's errors.
    pub fn of(verdict: Verdict) -> Self {
        let (failed, status) = match verdict.error_type() {
            Label::Name(name) => (Some(name), None),
            Label::None => (Some(""), None),
            Label::Status(code) => (None, StatusCode::from_u16(code).ok()),
        };
        Self {
            status,
            headers: None,
            reason: None,
            body: None,
            elapsed: None,
            broken_off: false,
            failed,
            verdict,
            wall: None,
        }
    }

    /// The reason phrase of an HTTP/1 answer.
    pub const fn reason(mut self, phrase: &'a [u8]) -> Self {
        self.reason = Some(phrase);
        self
    }

    /// The beginning of the body, decoded. Only the first 4 KiB are read, and only of text, JSON and
    /// XML, and of failures. An empty slice says that there is no body,
    /// which is evidence: don't give one for an answer to `HEAD`, which has none anyway.
    pub const fn body(mut self, prefix: &'a [u8]) -> Self {
        self.body = Some(prefix);
        self
    }

    /// How long it took from sending the request to this failure.
    pub const fn elapsed(mut self, elapsed: Duration) -> Self {
        self.elapsed = Some(elapsed);
        self
    }

    /// The answer began, and its body broke off.
    pub const fn broken_off(mut self) -> Self {
        self.broken_off = true;
        self
    }

    /// The wall clock, for a `Retry-After` date in an answer without a `Date` of its own.
    pub const fn wall(mut self, wall: SystemTime) -> Self {
        self.wall = Some(wall);
        self
    }

    /// The diagnosis by the [built-in table](super::Signatures).
    pub fn diagnose(&self) -> Diagnosis {
        Signatures::new().diagnose(self)
    }

    /// Whether there is anything to diagnose.
    pub(super) fn is_failure(&self) -> bool {
        self.broken_off || self.status.is_none_or(|status| status.as_u16() >= 400)
    }

    /// What can be read of the body.
    pub(super) fn text(&self) -> Option<Text> {
        let none = HeaderMap::new();
        let headers = self.headers.unwrap_or(&none);
        let Some(body) = self.body else {
            let empty = headers.get(header::CONTENT_LENGTH)? == "0";
            return empty.then(|| Text::new(b""));
        };
        let coded = headers.get(header::CONTENT_ENCODING);
        if coded.is_some_and(|it| it != "identity") {
            return None;
        }
        let is_text = |kind: &[u8]| {
            let kind = kind.to_ascii_lowercase();
            let has = |part: &[u8]| kind.windows(part.len()).any(|it| it == part);
            kind.starts_with(b"text/") || has(b"json") || has(b"xml")
        };
        let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if kind.is_some_and(|it| it.len() > LONGEST_TYPE || !is_text(it)) {
            return None;
        }
        Some(Text::new(&body[..body.len().min(MAX_BODY)]))
    }

    /// What the server asked for, as a length of time from now.
    pub(super) fn hint(&self) -> Option<Duration> {
        match server_hint(self.status?, self.headers?)? {
            Hint::After(length) => Some(length),
            Hint::At(moment) => self.wall.map(|wall| until(moment, wall)),
            Hint::Never => None,
        }
    }

    pub(super) fn limit_used_up(&self) -> bool {
        let wall = self.wall.unwrap_or(UNIX_EPOCH);
        let quota = self.headers.and_then(|it| quota(it, wall));
        quota.is_some_and(|it| it.remaining == 0)
    }

    /// Whether the application may have acted on it, by what is proven without any signature.
    pub(super) fn processed(&self) -> Processed {
        if self.broken_off {
            return Processed::Yes;
        }
        match (self.status, self.headers) {
            (Some(status), Some(headers)) if provably_not_sent(status, headers) => Processed::No,
            _ => self.verdict.was_processed(),
        }
    }

    /// Whether a proxy tried more than once, so that how its last attempt ended proves nothing.
    pub(super) fn is_repeated(&self) -> bool {
        // Envoy's page says it, even where its headers don't.
        let hidden = |it| self.body.is_none() && may_hide_attempts(it);
        self.headers
            .is_some_and(|it| !is_only_attempt(it) || hidden(it))
    }
}

impl fmt::Debug for Symptoms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Symptoms")
            .field("status", &self.status)
            .field("failed", &self.failed)
            .field("elapsed", &self.elapsed)
            .field("broken_off", &self.broken_off)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "hyper-util")]
fn phrase(status: StatusCode, version: Version, extensions: &Extensions) -> Option<&[u8]> {
    if version > Version::HTTP_11 {
        return None;
    }
    match extensions.get::<hyper::ext::ReasonPhrase>() {
        Some(phrase) => Some(phrase.as_bytes()),
        None => status.canonical_reason().map(str::as_bytes),
    }
}

#[cfg(not(feature = "hyper-util"))]
const fn phrase(_: StatusCode, _: Version, _: &Extensions) -> Option<&[u8]> {
    None
}

/// An error page says who made it in its first lines.
const MAX_BODY: usize = 4096;

/// Of a content type.
const LONGEST_TYPE: usize = 128;
