//! An outage, and the report of it.
//!
//! A shop calls two services, `billing` and `orders`. Half a minute in, billing's processes begin to crash:
//! connections break and its proxy, nginx, answers 502. The few that are left have too much to do and answer
//! 503 themselves; then they hang. Later the network to orders is gone for a quarter of a minute. A recorder listens to the pipeline, and its reports are written as
//! Markdown, JSON, and a page to look at: when it was, why, who says so, and what to do.
//!
//! Time is a manual clock and chance is seeded: it is over at once, and the same every time.
//!
//! `cargo run --example incident --all-features [folder]`

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use evenkeel::clock::{Clock, Why};
use evenkeel::diagnosis::{Cause, Diagnosis, Health, Symptoms};
use evenkeel::http::{classify_error, server_hint, status_verdict};
use evenkeel::incident::Recorder;
use evenkeel::testing::{Executor, ManualClock};
use evenkeel::verdict::{Circumstances, Classify, Verdict};
use evenkeel::{Attempt, Breaker, Budget, Key, Keyed, Pipeline, Retry, Rng, Window};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let services = [("billing", 4), ("orders", 2)];
    let recorder = services.iter().fold(Recorder::new(), |it, (name, _)| {
        it.named(Key::of(name), *name)
    });
    let recorder = recorder.clock(clock.clock());
    recorder.check()?;
    let pipeline = shop(&clock).observer(recorder.clone());

    // Each tick of the clock some calls to each service.
    let executor = Executor::new(&clock);
    for tick in 0..2400_u32 {
        for (name, calls) in services {
            for call in 0..calls / 2 {
                let call = tick * 7 + call;
                executor.spawn(call_to(name, call, &pipeline, &clock));
            }
        }
        let next = clock.elapsed() + TICK;
        executor.run_until_idle();
        while let Some(sleep) = clock.pending().iter().find(|it| !it.left.is_zero()) {
            let left = next.saturating_sub(clock.elapsed());
            if sleep.left > left {
                break;
            }
            clock.advance(sleep.left);
            executor.run_until_idle();
        }
        clock.advance(next.saturating_sub(clock.elapsed()));
    }

    let reports = recorder.incidents();
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(default_folder, PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    for report in &reports {
        let name = format!("incident-{}", report.number);
        std::fs::write(folder.join(&name).with_extension("md"), report.markdown())?;
        std::fs::write(folder.join(&name).with_extension("json"), report.json())?;
        std::fs::write(folder.join(&name).with_extension("html"), report.page())?;
        println!("{}", report.markdown());
    }
    println!("wrote {} reports to {}", reports.len(), folder.display());

    let [crash, network] = &reports[..] else {
        panic!("two incidents, not {}", reports.len());
    };
    assert!(crash.end.is_some() && network.end.is_some());
    assert!(crash.length > Duration::from_secs(60));
    assert_eq!(network.causes[0].0, Cause::ConnectionFailure);
    assert_eq!(crash.affected[0].name, "billing");
    for cause in [Cause::UpstreamUnavailable, Cause::Overload] {
        assert!(
            crash.phases.iter().any(|phase| phase.cause == cause),
            "{cause}"
        );
    }
    assert_eq!(network.affected[0].name, "orders");
    Ok(())
}

fn shop(clock: &ManualClock) -> Pipeline<Reading> {
    Pipeline::new()
        .deadline(Duration::from_secs(6))
        .retry(
            Retry::exponential(Duration::from_millis(100))
                .max_attempts(4)
                .budget(Keyed::new(Budget::default())),
        )
        .window(Keyed::new(Window::new()))
        .breaker(Keyed::new(Breaker::new()))
        .health(Keyed::new(Health::new()))
        .timeout(Duration::from_secs(1))
        .classify(Reading)
        .clock(clock.clock())
        .rng(Rng::seeded(7))
}

/// What a service does with a call.
#[derive(Clone, Copy)]
enum Answer {
    Fine,
    Hangs,
    Page(Page),
    Breaks,
}

/// An answer that is a failure.
#[derive(Clone, Copy, Debug)]
struct Page {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

#[derive(Debug)]
enum Failure {
    Broken(std::io::Error),
    Answered(StatusCode, HeaderMap, &'static str),
}

const NO_UPSTREAM: Page = Page {
    status: 502,
    headers: &[("server", "nginx"), ("content-type", "text/html")],
    body: "<center><h1>502 Bad Gateway</h1></center><hr><center>nginx</center>",
};

const BUSY: Page = Page {
    status: 503,
    headers: &[("content-type", "application/json"), ("retry-after", "2")],
    body: r#"{"error": "too busy", "queue": 512}"#,
};

const BUG: Page = Page {
    status: 500,
    headers: &[],
    body: "",
};

fn answer_of(name: &str, at: Duration, call: u32) -> Answer {
    let one_of = |many: u32| call % many == 0;
    match (name, at.as_secs()) {
        ("billing", 30..50) if one_of(2) => Answer::Breaks,
        ("billing", 30..50) => Answer::Page(NO_UPSTREAM),
        ("billing", 50..85) if !one_of(6) => Answer::Page(BUSY),
        ("billing", 85..100) if !one_of(4) => Answer::Hangs,
        ("orders", 60..63) if one_of(2) => Answer::Page(BUG),
        ("orders", 160..175) => Answer::Breaks,
        _ => Answer::Fine,
    }
}

fn call_to(
    name: &'static str,
    call: u32,
    pipeline: &Pipeline<Reading>,
    clock: &ManualClock,
) -> impl Future<Output = ()> + use<> {
    let (pipeline, clock) = (pipeline.clone(), clock.clone());
    async move {
        let operation = |attempt: Attempt| {
            let number = call + 3 * attempt.number();
            answers(answer_of(name, clock.elapsed(), number), clock.clock())
        };
        // What becomes of it is in the report.
        let _ = pipeline.run(operation).keyed(Key::of(name)).await;
    }
}

async fn answers(answer: Answer, clock: Clock) -> Result<(), Failure> {
    let takes = match answer {
        Answer::Hangs => Duration::from_secs(60),
        _ => Duration::from_millis(60),
    };
    clock.sleep_until(clock.now() + takes, Why::Other).await;
    match answer {
        Answer::Fine | Answer::Hangs => Ok(()),
        Answer::Page(page) => {
            let headers = page.headers.iter().map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            });
            let status = StatusCode::from_u16(page.status).expect("valid");
            Err(Failure::Answered(status, headers.collect(), page.body))
        }
        Answer::Breaks => Err(Failure::Broken(std::io::ErrorKind::ConnectionReset.into())),
    }
}

/// What an outcome means, and what was the matter: for this client of one's own as [`evenkeel::http::Http`]
/// does for those that it knows.
#[derive(Clone, Copy)]
struct Reading;

impl Classify<(), Failure> for Reading {
    fn classify(&self, outcome: Result<&(), &Failure>) -> Verdict {
        match outcome {
            Ok(()) => Verdict::success(),
            Err(Failure::Broken(error)) => classify_error(error),
            Err(Failure::Answered(status, headers, _)) => {
                let verdict = status_verdict(*status);
                match server_hint(*status, headers) {
                    Some(hint) => verdict.hint(hint),
                    None => verdict,
                }
            }
        }
    }

    fn diagnose(&self, outcome: Result<&(), &Failure>, seen: Circumstances) -> Option<Diagnosis> {
        let symptoms = match outcome.err()? {
            Failure::Broken(error) => Symptoms::error(error),
            Failure::Answered(status, headers, body) => {
                Symptoms::response(*status, headers).body(body.as_bytes())
            }
        };
        let elapsed = seen.elapsed.unwrap_or_default();
        Some(symptoms.elapsed(elapsed).diagnose())
    }
}

fn default_folder() -> PathBuf {
    std::env::temp_dir().join("evenkeel-incident")
}

const TICK: Duration = Duration::from_millis(100);
