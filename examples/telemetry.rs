//! What is to be seen of a small outage: events, spans and metrics.
//!
//! A shop asks for prices. The price service is fine, then overloaded for some seconds, then fine
//! again. An observer prints what the policies do, a `tracing` subscriber prints the span of each
//! attempt with OpenTelemetry's names, and a recorder of the `metrics` facade has what a dashboard
//! would show. In a real program the last two are tracing-opentelemetry and a Prometheus exporter.
//!
//! `cargo run --example telemetry --features metrics,testing`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use evenkeel::event::Change;
use evenkeel::http::service_key;
use evenkeel::metrics::Metrics;
use evenkeel::testing::{ManualClock, Reply, ScriptedService, block_on};
use evenkeel::{Event, Pipeline, Rng};
use http::Request;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::{Layer, ServiceExt};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};

fn main() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::set_global_recorder(recorder).expect("the only one");
    evenkeel::metrics::describe();
    tracing::subscriber::set_global_default(Spans::default()).expect("the only one");

    let clock = ManualClock::new();
    let metrics = Metrics::new().service(service_key("prices.internal", 80), "prices");
    let now = clock.clone();
    let pipeline = Pipeline::http()
        .clock(clock.clock())
        .rng(Rng::seeded(3))
        .observer(metrics.clone())
        .observer(move |event: &Event| {
            // The metrics want to be told of plain successes too, so this is as well.
            println!("{:6.2} s  {}", now.elapsed().as_secs_f64(), line(event));
        });

    let busy = || Reply::status(503).after(Duration::from_millis(20));
    let fine = || Reply::status(200).after(Duration::from_millis(20));
    let replies = [fine(), fine()];
    let replies = replies.into_iter().chain((0..8).map(|_| busy()));
    let replies = replies.chain((0..40).map(|_| fine()));
    let client = pipeline.layer(ScriptedService::new(&clock, replies));
    let mut answered = 0;
    for number in 1..=12 {
        println!("call {number}");
        let request = Request::get("http://prices.internal/list?customer=7");
        let request = request.body(String::new()).expect("valid");
        let response = block_on(&clock, client.clone().oneshot(request));
        answered += u32::from(response.is_ok_and(|it| it.status().is_success()));
        metrics.collect(&pipeline);
        clock.advance(Duration::from_millis(300));
    }

    println!("\nwhat a dashboard would show");
    let mut counts = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let mut line = key.key().name().to_owned();
        for label in key.key().labels() {
            write!(line, " {}={}", label.key(), label.value()).expect("a string");
        }
        let value = match value {
            DebugValue::Counter(count) => count.to_string(),
            DebugValue::Gauge(value) => format!("{value:.2}"),
            DebugValue::Histogram(values) => format!("{} values", values.len()),
        };
        counts.insert(line, value);
    }
    for (name, value) in &counts {
        println!("  {name}: {value}");
    }
    let succeeded = &counts["evenkeel_calls_total service=prices end=success"];
    assert_eq!(*succeeded, answered.to_string());
    assert!(answered > 6 && answered < 12, "{answered}");
}

/// What happened, and what is done about it.
fn line(event: &Event) -> String {
    match event {
        Event::Changed {
            change: Change::Window(it),
            ..
        } => format!("the window is {:?} now: {:?}", it.state, it.why),
        Event::Done { attempts, end, .. } => format!("{end} after {attempts} attempts"),
        Event::Parked { reason, .. } => format!("waits in line: {reason}"),
        Event::Reject { reason, .. } => format!("refused: {reason}"),
        Event::Retry { verdict, wait, .. } => {
            let (met, length, why) = (verdict.error_type(), wait.length(), wait.reason());
            format!("{met}, waits {length:.1?} ({why})")
        }
        Event::Stop { verdict, stop, .. } => format!("{}, {stop}", verdict.error_type()),
        other => format!("{other:?}"),
    }
}

/// Prints spans when they end.
#[derive(Default)]
struct Spans {
    open: Mutex<Vec<Option<String>>>,
}

impl Spans {
    fn of(&self, id: &Id, f: impl FnOnce(&mut Option<String>)) {
        let mut open = self.open.lock().expect("nothing panics in it");
        let index = usize::try_from(id.into_u64() - 1).expect("few spans");
        f(&mut open[index]);
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "evenkeel::attempt"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text(String::new());
        span.record(&mut text);
        let mut open = self.open.lock().expect("nothing panics in it");
        open.push(Some(text.0));
        Id::from_u64(open.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        self.of(id, |span| {
            if let Some(span) = span {
                let mut text = Text(std::mem::take(span));
                values.record(&mut text);
                *span = text.0;
            }
        });
    }

    fn try_close(&self, id: Id) -> bool {
        self.of(&id, |span| {
            println!("          span{}", span.take().unwrap_or_default());
        });
        true
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What is printed of a span.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Those that are the same in each are left out here.
        let name = field.name();
        if name.starts_with("http") || name.starts_with("server") || name == "error.type" {
            write!(self.0, " {name}={value:?}").expect("a string");
        }
    }
}
