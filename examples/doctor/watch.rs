//! Many requests within their limits, and what they say together.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use evenkeel::Cause::{Elapsed, Operation};
use evenkeel::clock::Why;
use evenkeel::diagnosis::{Cause, Diagnosis, Health, Hints, Snapshot};
use evenkeel::error::ConfigError;
use evenkeel::http::Http;
use evenkeel::incident::Recorder;
use evenkeel::verdict::Kind;
use evenkeel::{Clock, Key, Pipeline, RateLimit, Retry};
use http::Response;

use crate::args::Target;
use crate::client::{Failure, Reading};

/// How much may be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// At most.
    pub(crate) requests: u32,
    /// For how long.
    pub(crate) length: Duration,
}

/// What a watch came to.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) shown: String,
    pub(crate) plan: Plan,
    pub(crate) looks: Vec<Look>,
    pub(crate) took: Duration,
    pub(crate) end: End,
    pub(crate) health: Snapshot,
    /// The commonest cause's, in the light of all. `None`: nothing failed.
    pub(crate) diagnosis: Option<Diagnosis>,
    /// From its end on: the service asked for it.
    pub(crate) back_in: Option<Duration>,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Look {
    /// From the beginning of the watch.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    /// A status, or what the client met.
    pub(crate) saw: String,
    /// What the client says of it.
    pub(crate) detail: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) diagnosis: Option<Diagnosis>,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// No request was left.
    AllSent,
    /// The service asked for quiet for longer than the watch would have lasted.
    Quiet,
    /// The time was up.
    TimeUp,
}

/// The last word on how many requests are sent, whatever all else does.
#[derive(Debug)]
struct Allowance(AtomicU32);

impl Allowance {
    fn take(&self) -> bool {
        let take = |left: u32| left.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

/// Asks again and again, evenly spaced, until the requests or the time are used up.
///
/// # Errors
///
/// A plan of no requests or no time.
pub(crate) async fn watch<F, Fut>(
    target: &Target,
    plan: &Plan,
    clock: &Clock,
    recorder: &Recorder,
    mut ask: F,
) -> Result<Visit, ConfigError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Response<Bytes>, Failure>>,
{
    // Nobody waits in its line: when a turn comes the time may be up.
    let rate = RateLimit::new(plan.requests, plan.length).burst(1).queue(0);
    rate.check()?;
    let key = Key::of(target.service());
    recorder.name(key, target.service());
    let health = Health::new();
    let pipeline = Pipeline::new()
        // Each request says something by itself, and the next one comes soon.
        .retry(Retry::constant(Duration::ZERO).max_attempts(1))
        .rate_limit(rate)
        .health(health.clone())
        .timeout(plan.length.min(PATIENCE))
        .classify(Reading(Http::new()))
        .observer(recorder.clone())
        .clock(clock.clone());

    let allowance = Allowance(AtomicU32::new(plan.requests));
    let began = clock.now();
    let last = began + plan.length;
    // A little more than the rate asks for, so that nobody has to wait for it.
    let between = plan.length / plan.requests + Duration::from_nanos(1);
    let (mut looks, mut next, mut back_at) = (Vec::new(), began, None);
    let end = loop {
        if looks.len() >= plan.requests as usize {
            break End::AllSent;
        }
        if back_at.is_some_and(|at| at >= last) {
            break End::Quiet;
        }
        next = back_at.map_or(next, |at: Instant| at.max(next));
        if next.max(clock.now()) >= last {
            break End::TimeUp;
        }
        clock.sleep_until(next, Why::Other).await;
        let mut sent = None;
        let outcome = pipeline.run(|_| {
            let answer = allowance.take().then(&mut ask);
            sent = Some(clock.now());
            async move {
                match answer {
                    Some(answer) => answer.await,
                    None => Err(Failure::Spent),
                }
            }
        });
        let outcome = outcome.keyed(key).await;
        // Refused by the rate: next time.
        let at = sent.unwrap_or_else(|| clock.now());
        next = at + between;
        if sent.is_some() {
            looks.push(Look::of(&outcome, at - began, clock.now() - at));
            back_at = outcome.as_ref().err().and_then(|it| it.report().retry_at());
        }
    };
    let now = clock.now();
    let back_in = back_at.map(|at| at.saturating_duration_since(now));
    Ok(Visit {
        shown: target.shown(),
        plan: *plan,
        took: now - began,
        end,
        health: health.snapshot(now),
        diagnosis: commonest(&looks).cloned(),
        back_in,
        looks,
    })
}

impl Look {
    fn of(
        outcome: &Result<Response<Bytes>, evenkeel::Error<Failure>>,
        at: Duration,
        took: Duration,
    ) -> Self {
        let detail = match outcome.as_ref().map_err(evenkeel::Error::cause) {
            Err(Operation(failure)) => failure.detail(),
            _ => None,
        };
        let (saw, kind, diagnosis) = match outcome {
            Ok(response) => (response.status().as_u16().to_string(), Kind::Success, None),
            Err(error) => {
                let report = error.report();
                let verdict = report
                    .failures()
                    .last()
                    .map(evenkeel::report::Failure::verdict);
                let saw = match (error.cause(), verdict) {
                    (Operation(Failure::Answered(it) | Failure::Bodiless(it)), _) => {
                        it.status().as_u16().to_string()
                    }
                    (Operation(Failure::Client(_)) | Elapsed(_), Some(verdict)) => {
                        verdict.error_type().to_string()
                    }
                    (Operation(it), _) => it.to_string(),
                    _ => error.to_string(),
                };
                let kind = verdict.map_or(Kind::Transient, |it| it.kind());
                (saw, kind, report.diagnosis().cloned())
            }
        };
        Self {
            at,
            took,
            saw,
            detail,
            kind,
            diagnosis,
        }
    }

    /// The service failed: it isn't the request's own fault.
    pub(crate) fn is_failure(&self) -> bool {
        !matches!(self.kind, Kind::Success | Kind::RequestFault)
    }
}

impl Visit {
    pub(crate) fn failed(&self) -> usize {
        self.looks.iter().filter(|it| it.is_failure()).count()
    }

    /// What was seen, and how often.
    pub(crate) fn seen(&self) -> Vec<(&str, usize)> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for look in &self.looks {
            *seen.entry(&look.saw).or_default() += 1;
        }
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_by_key(|it| std::cmp::Reverse(it.1));
        seen
    }

    /// What the waits that it asks for are worth, if it asks for any.
    pub(crate) fn hints(&self) -> Option<&'static str> {
        match self.health.hints {
            Hints::Constant => Some(
                "the wait that it asks for is always the same: a template, so spread the return",
            ),
            Hints::CountingDown => Some(
                "the waits that it asks for count down to one moment: it knows when it is back",
            ),
            _ => None,
        }
    }
}

/// The last diagnosis of the commonest cause: it knows most of what was before.
fn commonest(looks: &[Look]) -> Option<&Diagnosis> {
    let of = |failed: bool| {
        let looks = looks.iter().filter(move |it| it.is_failure() == failed);
        looks.filter_map(|it| it.diagnosis.as_ref())
    };
    // The request's own fault is one too, if there is none of the service's.
    let failed = of(true).next().is_some();
    let times = |cause: Cause| of(failed).filter(|it| it.cause() == cause).count();
    of(failed).max_by_key(|it| (times(it.cause()), it.cause() != Cause::Unknown))
}

/// A person would have given up by then.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;

    use evenkeel::diagnosis::Persistence;
    use evenkeel::testing::{ManualClock, block_on};
    use proptest::prelude::*;

    use super::*;
    use crate::words;

    const SECOND: Duration = Duration::from_secs(1);

    type Reply = Result<Response<Bytes>, Failure>;

    /// Watches a service that answers so, and says when it was asked.
    fn visit(
        requests: u32,
        length: Duration,
        mut reply: impl FnMut(u32) -> Reply,
    ) -> (Visit, Vec<Duration>) {
        let clock = ManualClock::new();
        let recorder = crate::recorder(length).clock(clock.clock());
        let target = Target {
            method: http::Method::GET,
            uri: "http://service/stock?secret=7".parse().unwrap(),
        };
        let asked = RefCell::new(Vec::new());
        let ask = || {
            asked.borrow_mut().push(clock.elapsed());
            let number = asked.borrow().len();
            ready(reply(u32::try_from(number).unwrap()))
        };
        let plan = Plan { requests, length };
        let time = clock.clock();
        let watch = watch(&target, &plan, &time, &recorder, ask);
        let visit = block_on(&clock, watch).expect("a plan");
        (visit, asked.into_inner())
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> Reply {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(Bytes::from_static(body.as_bytes())).unwrap();
        if status < 400 {
            Ok(response)
        } else {
            Err(Failure::Answered(Box::new(response)))
        }
    }

    /// In whole seconds: a few nanoseconds go to the rate.
    fn whole(asked: &[Duration]) -> Vec<u64> {
        asked.iter().map(Duration::as_secs).collect()
    }

    #[test]
    fn requests_are_evenly_spaced_and_no_more_than_allowed() {
        let (visit, asked) = visit(4, SECOND * 8, |_| answer(200, &[], ""));
        assert_eq!(whole(&asked), [0, 2, 4, 6]);
        assert_eq!((visit.end, visit.failed()), (End::AllSent, 0));
        assert_eq!(
            words::verdict(&visit),
            "It is well: 4 of 4 requests were answered"
        );
    }

    #[test]
    fn what_the_service_asks_for_is_waited_for_and_what_is_too_long_ends_the_watch() {
        for (hint, times, end) in [
            ("3", &[0, 3, 6, 9][..], End::Quiet),
            ("9", &[0, 9], End::Quiet),
            ("10", &[0], End::Quiet),
            ("0", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], End::AllSent),
        ] {
            let (visit, asked) = visit(10, SECOND * 10, |_| {
                answer(503, &[("retry-after", hint)], "")
            });
            assert_eq!(whole(&asked), times, "{hint}");
            assert_eq!(visit.end, end, "{hint}");
        }
    }

    #[test]
    fn the_last_word_on_the_number_holds_whatever_the_policies_do() {
        let clock = ManualClock::new();
        let allowance = Allowance(AtomicU32::new(3));
        let pipeline = Pipeline::new()
            .retry(Retry::constant(SECOND).max_attempts(10))
            .clock(clock.clock());
        let mut sent = 0;
        let call = pipeline.run(|_| {
            sent += u32::from(allowance.take());
            ready(Err::<(), _>("busy"))
        });
        let _ = block_on(&clock, call);
        assert_eq!(sent, 3);
    }

    #[test]
    fn the_first_line_says_what_who_and_when() {
        let busy = |_| {
            answer(
                503,
                &[("content-type", "application/json"), ("retry-after", "5")],
                r#"{"error": "overloaded"}"#,
            )
        };
        let (overloaded, _) = visit(3, SECOND * 30, busy);
        assert_eq!(
            words::verdict(&overloaded),
            "Overloaded, says the application itself; come back in about 5 s"
        );
        let closed = |_| {
            answer(
                503,
                &[("content-type", "text/html"), ("retry-after", "900")],
                "maintenance",
            )
        };
        let (closed, asked) = visit(3, SECOND * 30, closed);
        assert_eq!(asked.len(), 1);
        assert_eq!(
            words::verdict(&closed),
            "Closed for maintenance; come back in about 15 min"
        );
        let diagnosis = closed.diagnosis.as_ref().unwrap();
        assert_eq!(
            diagnosis.persistence(),
            Persistence::Announced(SECOND * 900)
        );
        let (wrong, _) = visit(2, SECOND * 30, |_| answer(404, &[], ""));
        assert_eq!(
            words::verdict(&wrong),
            "It works, and says that this request is wrong: 404"
        );
        let mixed = |number| answer(if number == 2 { 500 } else { 200 }, &[], "");
        let (mixed, _) = visit(4, SECOND * 30, mixed);
        assert_eq!(
            words::verdict(&mixed),
            "The application fails; 1 of 4 requests failed"
        );
    }

    #[test]
    fn text_and_json_say_the_same_and_nothing_of_the_query() {
        let (visit, _) = visit(3, SECOND * 30, |_| {
            answer(
                502,
                &[("proxy-status", "edge; error=connection_refused")],
                "",
            )
        });
        let (text, json) = (words::said(&visit, false), words::json(&visit));
        assert_eq!(json["diagnosis"]["cause"], "upstream_unavailable");
        assert_eq!(
            (&json["requests"], &json["failed"], &json["allowed"]),
            (&3.into(), &3.into(), &3.into())
        );
        assert!(text.starts_with(json["verdict"].as_str().unwrap()));
        for check in Cause::UpstreamUnavailable.checks() {
            assert!(text.contains(check) && json["look_at"].to_string().contains(check));
        }
        for said in [text, json.to_string()] {
            assert!(said.contains("http://service/stock") && !said.contains("secret"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_the_service_does_there_are_never_more_requests_than_allowed_nor_sooner(
            requests in 1..=30_u32,
            seconds in 1..=60_u64,
            replies in proptest::collection::vec((200..600_u16, 0..40_u64), 1..30),
        ) {
            let length = Duration::from_secs(seconds);
            let hints = RefCell::new(Vec::new());
            let (visit, asked) = visit(requests, length, |number| {
                let (status, hint) = replies[number as usize % replies.len()];
                hints.borrow_mut().push(if status == 503 || status == 429 { hint } else { 0 });
                answer(status, &[("retry-after", &hint.to_string())], "")
            });
            prop_assert!(asked.len() <= requests as usize);
            prop_assert_eq!(asked.len(), visit.looks.len());
            prop_assert!(asked.iter().all(|at| *at < length));
            let least = (length / requests).saturating_sub(Duration::from_millis(1));
            for (pair, hint) in asked.windows(2).zip(hints.into_inner()) {
                prop_assert!(pair[1] >= pair[0] + least.max(Duration::from_secs(hint)));
            }
        }
    }
}
