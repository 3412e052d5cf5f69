//! One request, over HTTP or HTTPS, and what came of it.

use std::error::Error;
use std::fmt;
use std::io;

use bytes::{Bytes, BytesMut};
use evenkeel::diagnosis::{Diagnosis, Symptoms};
use evenkeel::http::{Http, classify_error};
use evenkeel::verdict::{Circumstances, Classify, Verdict};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use crate::args::Target;

/// Asks for one thing, and never by itself twice: no redirect is followed, and nothing is repeated.
pub(crate) struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    target: Target,
}

/// HTTPS can't be checked.
#[derive(Debug, thiserror::Error)]
#[error(
    "no authorities for certificates are known on this machine: install ca-certificates, or set SSL_CERT_FILE"
)]
pub(crate) struct NoAuthorities(#[source] io::Error);

/// A request that gave no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An answer, and the beginning of its body.
    #[error("status {}", .0.status())]
    Answered(Box<Response<Bytes>>),
    /// An answer without the body that it would have had: nobody asked for it.
    #[error("status {}", .0.status())]
    Bodiless(Box<Response<Bytes>>),
    /// An answer that broke off.
    #[error("status {}, broken off", .0.status())]
    BrokenOff(Box<Response<Bytes>>),
    /// No answer.
    #[error(transparent)]
    Client(#[from] legacy::Error),
    /// It was one more than allowed, and wasn't sent.
    #[error("no request is left")]
    Spent,
}

impl Client {
    /// # Errors
    ///
    /// For HTTPS: this machine has no certificates of authorities that it trusts.
    pub(crate) fn new(target: &Target) -> Result<Self, NoAuthorities> {
        let builder = HttpsConnectorBuilder::new();
        let builder = if target.uri.scheme_str() == Some("https") {
            builder
                .with_provider_and_native_roots(ring::default_provider())
                .map_err(NoAuthorities)?
        } else {
            // Nobody is trusted, for nobody is asked.
            let config = ClientConfig::builder_with_provider(ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("ring has the suites of both versions")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(config)
        };
        let connector = builder
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .build();
        Ok(Self {
            inner: legacy::Client::builder(TokioExecutor::new())
                // A connection that was kept may have been closed meanwhile, which says nothing.
                .pool_max_idle_per_host(0)
                .retry_canceled_requests(false)
                .build(connector),
            target: target.clone(),
        })
    }

    /// Sends the request, and reads the beginning of the answer.
    pub(crate) async fn ask(&self) -> Result<Response<Bytes>, Failure> {
        let request = Request::builder()
            .method(&self.target.method)
            .uri(&self.target.uri)
            .header("user-agent", USER_AGENT)
            .header("accept", "*/*")
            .body(Empty::new())
            .expect("a method and a URI that were read");
        let (parts, mut body) = self.inner.request(request).await?.into_parts();
        let mut begin = BytesMut::new();
        let mut broken_off = false;
        while begin.len() < MOST_READ {
            match body.frame().await {
                None => break,
                Some(Err(_)) => {
                    broken_off = true;
                    break;
                }
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    let room = MOST_READ - begin.len();
                    begin.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
        }
        let is_failure = parts.status.as_u16() >= 400;
        let response = Response::from_parts(parts, begin.freeze());
        if broken_off {
            Err(Failure::BrokenOff(Box::new(response)))
        } else if is_failure && self.target.method == Method::HEAD {
            Err(Failure::Bodiless(Box::new(response)))
        } else if is_failure {
            Err(Failure::Answered(Box::new(response)))
        } else {
            Ok(response)
        }
    }
}

impl Failure {
    /// What the client says of it, by the error that all others come from.
    pub(crate) fn detail(&self) -> Option<String> {
        let Self::Client(error) = self else {
            return None;
        };
        let mut link: &dyn Error = error;
        while let Some(source) = link.source() {
            link = source;
        }
        let said = link.to_string();
        // A certificate has names of somebody's own choice.
        let harmless = said.chars().filter(|it| !it.is_control());
        Some(harmless.take(LONGEST_DETAIL).collect())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// As [`Http`], with the body: whoever reads it knows more.
#[derive(Clone, Debug)]
pub(crate) struct Reading(pub(crate) Http);

impl Classify<Response<Bytes>, Failure> for Reading {
    fn classify(&self, outcome: Result<&Response<Bytes>, &Failure>) -> Verdict {
        let of = |response: &Response<Bytes>| {
            let outcome: Result<_, &Failure> = Ok(response);
            self.0.classify(outcome)
        };
        match outcome {
            Ok(response) => of(response),
            Err(Failure::Answered(response) | Failure::Bodiless(response)) => of(response),
            Err(Failure::BrokenOff(_)) => Verdict::transient(),
            Err(Failure::Client(error)) => classify_error(error),
            Err(Failure::Spent) => Verdict::success(),
        }
    }

    fn diagnose(
        &self,
        outcome: Result<&Response<Bytes>, &Failure>,
        seen: Circumstances,
    ) -> Option<Diagnosis> {
        let symptoms = match outcome {
            Ok(_) | Err(Failure::Spent) => return None,
            Err(Failure::Answered(it)) => Symptoms::of_response(it).body(it.body()),
            Err(Failure::Bodiless(it)) => Symptoms::of_response(it),
            Err(Failure::BrokenOff(it)) => Symptoms::of_response(it).broken_off(),
            Err(Failure::Client(error)) => Symptoms::error(error),
        };
        let symptoms = symptoms.wall(seen.wall());
        Some(match seen.elapsed {
            Some(elapsed) => symptoms.elapsed(elapsed).diagnose(),
            None => symptoms.diagnose(),
        })
    }
}

const USER_AGENT: &str = concat!(
    "evenkeel-doctor/",
    env!("CARGO_PKG_VERSION"),
    " (a few requests, to find out why this fails)"
);

const LONGEST_DETAIL: usize = 200;

/// More isn't diagnosed.
const MOST_READ: usize = 4096;

#[cfg(test)]
mod tests {
    use evenkeel::diagnosis::Cause;
    use evenkeel::testing::{Reply, Server};
    use evenkeel::verdict::Label;
    use http::{Method, StatusCode};

    use super::*;

    fn client(url: &str) -> Client {
        let target = Target {
            method: Method::GET,
            uri: url.parse().expect("a URL"),
        };
        Client::new(&target).expect("certificates")
    }

    fn cause(failure: &Failure) -> Cause {
        let seen = Circumstances::new(None, std::time::SystemTime::now());
        let diagnosis = Reading(Http::new()).diagnose(Err(failure), seen);
        diagnosis.expect("a failure").cause()
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_a_reset_is_one_request() {
        let server = Server::scripted([
            Reply::status(200),
            Reply::reset(),
            Reply::status(200),
            Reply::close(),
            Reply::status(302).header("location", "/elsewhere"),
        ])
        .await
        .expect("a port");
        let client = client(&server.url("/stock"));
        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(client.ask().await.map(|it| it.status().as_u16()).ok());
        }
        assert_eq!(statuses, [Some(200), None, Some(200), None, Some(302)]);
        let received = server.received();
        assert_eq!((received.len(), server.connections()), (5, 5));
        assert!(received.iter().all(|it| it.path() == "/stock"));
        let agent = received[0].headers()["user-agent"].to_str().expect("text");
        assert!(agent.starts_with("evenkeel-doctor/"), "{agent}");
    }

    #[tokio::test]
    async fn of_a_body_the_beginning_is_read_and_a_broken_one_is_a_failure() {
        let long = "x".repeat(100_000);
        let server = Server::scripted([
            Reply::status(200).body(long),
            Reply::status(200).body("three lamps").cut_body_after(5),
            Reply::status(503)
                .header("content-type", "text/plain")
                .body("no healthy upstream"),
        ])
        .await
        .expect("a port");
        let client = client(&server.url("/stock"));
        assert_eq!(client.ask().await.expect("well").body().len(), MOST_READ);
        let broken = client.ask().await.expect_err("cut");
        assert!(matches!(broken, Failure::BrokenOff(_)));
        let answered = client.ask().await.expect_err("503");
        let Failure::Answered(response) = &answered else {
            panic!("{answered:?}");
        };
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(cause(&answered), Cause::UpstreamUnavailable);
    }

    #[tokio::test]
    async fn an_answer_to_head_is_not_taken_for_an_empty_page() {
        let page = |_: &_| {
            Reply::status(503)
                .header("server", "envoy")
                .header("content-type", "text/plain")
                .body("closed")
        };
        let server = Server::with(page).await.expect("a port");
        let target = Target {
            method: Method::HEAD,
            uri: server.url("/stock").parse().expect("a URL"),
        };
        let client = Client::new(&target).expect("certificates");
        let failure = client.ask().await.expect_err("503");
        let seen = Circumstances::new(None, std::time::SystemTime::now());
        let diagnosis = Reading(Http::new()).diagnose(Err(&failure), seen);
        let diagnosis = diagnosis.expect("a failure");
        let mut told = diagnosis
            .evidence()
            .iter()
            .map(evenkeel::diagnosis::Evidence::name);
        assert!(!told.any(|it| it.contains("empty")), "{diagnosis:?}");
    }

    #[tokio::test]
    async fn nobody_who_listens_and_no_tls_where_it_should_be_are_told() {
        let server = Server::scripted([Reply::status(200)])
            .await
            .expect("a port");
        let url = server.url("/stock");
        let plain = client(&url.replace("http://", "https://")).ask().await;
        let plain = plain.expect_err("it speaks no TLS");
        let verdict = Reading(Http::new()).classify(Err(&plain));
        assert_eq!(verdict.error_type(), Label::Name("tls"), "{plain:?}");
        assert_eq!(cause(&plain), Cause::Configuration);
        assert_eq!(server.received().len(), 0);
        drop(server);
        let refused = client(&url).ask().await.expect_err("nobody is there");
        assert_eq!(cause(&refused), Cause::ConnectionFailure, "{refused:?}");
        let detail = refused.detail().expect("the client says so");
        assert!(detail.contains("refused"), "{detail}");
    }
}
