//! What came of one call, the same for every door.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use evenkeel::chaos::Fault;
use evenkeel::error::Limit;
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::verdict::Verdict;
use evenkeel::{Cause, Error, Event, Report};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Collected};

/// What a call came to.
pub(crate) struct Outcome {
    pub(crate) answer: Result<Answer, Failed>,
    pub(crate) report: Option<Report>,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `None` if it broke off.
    pub(crate) body: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// A fault made to order, of which the client can make no outcome.
    Injected(Fault),
    /// The client's own error, and what it means.
    Own(Verdict),
    /// Time ran out.
    Timeout(Limit),
}

impl Outcome {
    /// Reads the response to its end, as far as it comes.
    pub(crate) async fn answered<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Error: Debug>,
    {
        let (mut parts, body) = response.into_parts();
        let body = body.collect().await.ok();
        let answer = Answer {
            status: parts.status,
            body: body.map(Collected::to_bytes),
        };
        Self {
            answer: Ok(answer),
            report: parts.extensions.remove(),
            events: Vec::new(),
        }
    }

    pub(crate) fn failed<E: StdError + 'static>(error: &Error<E>) -> Self {
        let failed = match error.cause() {
            Cause::Elapsed(elapsed) => Failed::Timeout(elapsed.limit()),
            Cause::Injected(injected) => Failed::Injected(injected.fault()),
            Cause::Operation(own) => Failed::Own(Http::new().error(own)),
            other => panic!("neither time nor the client: {other:?}"),
        };
        assert_eq!(error.is_timeout(), matches!(failed, Failed::Timeout(_)));
        Self {
            answer: Err(failed),
            report: Some(error.report().clone()),
            events: Vec::new(),
        }
    }

    /// A report comes with whatever wasn't a success at once, and says what the observer was told.
    #[track_caller]
    pub(crate) fn check_report(&self) {
        let told = self.events.iter().filter_map(failure_of);
        let Some(report) = &self.report else {
            assert_eq!(told.count(), 0);
            return;
        };
        let reported = report.failures().iter();
        let reported = reported.map(|failure| (failure.number(), failure.verdict()));
        assert!(told.eq(reported), "{:?} but {report:?}", self.events);
        assert_eq!(report.stop(), self.stop());
    }

    /// The status of the response that came back.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        self.response().status.as_u16()
    }

    /// The body of the response that came back.
    #[track_caller]
    pub(crate) fn body(&self) -> &[u8] {
        self.response().body.as_ref().expect("a whole body")
    }

    #[track_caller]
    pub(crate) fn response(&self) -> &Answer {
        self.answer.as_ref().expect("a response")
    }

    /// What the client's own error means.
    #[track_caller]
    pub(crate) fn own_error(&self) -> Verdict {
        match self.answer {
            Err(Failed::Own(verdict)) => verdict,
            ref other => panic!("not the client's own error: {other:?}"),
        }
    }

    /// Which time ran out.
    #[track_caller]
    pub(crate) fn timeout(&self) -> Limit {
        match self.answer {
            Err(Failed::Timeout(limit)) => limit,
            ref other => panic!("not a timeout: {other:?}"),
        }
    }

    pub(crate) fn retries(&self) -> usize {
        let is_retry = |event: &&Event| matches!(event, Event::Retry { .. });
        self.events.iter().filter(is_retry).count()
    }

    /// What the first attempt's outcome meant; it failed.
    #[track_caller]
    pub(crate) fn first_verdict(&self) -> Verdict {
        let mut failures = self.events.iter().filter_map(failure_of);
        failures.next().expect("a failed attempt").1
    }

    /// Why no other attempt was made; the last one failed.
    pub(crate) fn stop(&self) -> Option<Stop> {
        self.events.iter().find_map(stop_of)
    }

    /// When the server is ready for another call, as far as it said so.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.events.iter().find_map(|event| match event {
            Event::Stop { retry_after, .. } => *retry_after,
            _ => None,
        })
    }
}

/// A failed attempt's number, and what its outcome meant.
fn failure_of(event: &Event) -> Option<(u32, Verdict)> {
    match event {
        Event::Retry {
            attempt, verdict, ..
        }
        | Event::Stop {
            attempt, verdict, ..
        } => Some((*attempt, *verdict)),
        _ => None,
    }
}

fn stop_of(event: &Event) -> Option<Stop> {
    match event {
        Event::Stop { stop, .. } => Some(*stop),
        _ => None,
    }
}
