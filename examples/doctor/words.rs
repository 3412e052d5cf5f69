//! What a watch came to, for people and for programs.

use std::fmt::{self, Write as _};
use std::time::Duration;

use evenkeel::diagnosis::{Cause, Condition, Diagnosis, Origin, Persistence, Slowing};
use evenkeel::verdict::{Kind, Processed};
use serde_json::{Value, json};

use crate::watch::{End, Visit};

/// All of it.
pub(crate) fn said(visit: &Visit, as_json: bool) -> String {
    if as_json {
        return format!("{:#}", json(visit));
    }
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = write(visit, &mut text);
    text
}

/// What is the matter, in a line: for whoever was woken up by it.
pub(crate) fn verdict(visit: &Visit) -> String {
    let (all, failed) = (visit.looks.len(), visit.failed());
    if all == 0 {
        return "Nothing was asked".to_owned();
    }
    let Some(diagnosis) = visit.diagnosis.as_ref().filter(|_| failed > 0) else {
        let wrong = visit.looks.iter().find(|it| it.kind == Kind::RequestFault);
        return match wrong {
            Some(look) => format!(
                "It works, and says that this request is wrong: {}",
                look.saw
            ),
            None => format!("It is well: {all} of {all} requests were answered"),
        };
    };
    let mut said = word(diagnosis.cause()).to_owned() + &who(diagnosis.origin());
    match (diagnosis.persistence(), visit.back_in) {
        (Persistence::Momentary, _) => said += "; momentary",
        (Persistence::Persistent, _) => said += "; it stays until somebody mends it",
        _ => {}
    }
    if let Some(length) = visit.back_in.filter(|it| !it.is_zero()) {
        let _ = write!(said, "; come back in about {}", about(length));
    }
    if failed < all {
        let _ = write!(said, "; {failed} of {all} requests failed");
    }
    said
}

/// For programs.
pub(crate) fn json(visit: &Visit) -> Value {
    let cause = visit.diagnosis.as_ref().map(Diagnosis::cause);
    let looks = visit.looks.iter().map(|it| {
        json!({
            "at": it.at.as_secs_f64(),
            "seconds": it.took.as_secs_f64(),
            "saw": it.saw,
            "detail": it.detail,
            "failed": it.is_failure(),
            "cause": it.diagnosis.as_ref().map(|it| it.cause().as_str()),
        })
    });
    json!({
        "url": visit.shown,
        "verdict": verdict(visit),
        "requests": visit.looks.len(),
        "allowed": visit.plan.requests,
        "failed": visit.failed(),
        "seconds": visit.took.as_secs_f64(),
        "ended": end(visit),
        "back_in": visit.back_in.map(|it| it.as_secs_f64()),
        "diagnosis": visit.diagnosis,
        "health": visit.health,
        "look_at": cause.map(Cause::checks),
        "client_should": client_should(visit),
        "looks": looks.collect::<Vec<_>>(),
    })
}

fn write(visit: &Visit, text: &mut String) -> fmt::Result {
    writeln!(text, "{}.\n", verdict(visit))?;
    let seen = visit.seen().into_iter();
    let seen: Vec<_> = seen
        .map(|(saw, times)| format!("{saw} × {times}"))
        .collect();
    writeln!(
        text,
        "{}: {} of {} requests failed in {} ({}); {}.",
        visit.shown,
        visit.failed(),
        visit.looks.len(),
        measured(visit.took),
        seen.join(", "),
        end(visit),
    )?;
    if let Some(diagnosis) = &visit.diagnosis {
        writeln!(text, "Diagnosis: {diagnosis}.")?;
        section(
            text,
            "Evidence (in decibans: 10 make it ten times as likely)",
        )?;
        for it in diagnosis.evidence() {
            writeln!(text, "  {:>+4} {}: {}", it.weight(), it.cause(), it.name())?;
        }
        let together = together(visit);
        if !together.is_empty() {
            section(text, "All answers together")?;
            together
                .iter()
                .try_for_each(|it| writeln!(text, "  - {it}"))?;
        }
        section(text, "Look at")?;
        let mut checks = diagnosis.cause().checks().iter();
        checks.try_for_each(|it| writeln!(text, "  - {it}"))?;
        section(text, "The client should")?;
        client_should(visit)
            .iter()
            .try_for_each(|it| writeln!(text, "  - {it}"))?;
    }
    section(text, "Requests")?;
    for look in visit.looks.iter().take(ROWS) {
        let what = look
            .diagnosis
            .as_ref()
            .map_or_else(String::new, |it| format!(": {it}"));
        let (at, took) = (look.at.as_secs_f64(), look.took.as_millis());
        let detail = look.detail.as_ref();
        let saw = detail.map_or_else(|| look.saw.clone(), |it| format!("{} ({it})", look.saw));
        writeln!(text, "  {at:6.1} s  {saw} after {took} ms{what}")?;
    }
    match visit.looks.len().checked_sub(ROWS) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(text, "  .. and {more} more"),
    }
}

fn section(text: &mut String, title: &str) -> fmt::Result {
    writeln!(text, "\n{title}")
}

fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::ApplicationError => "The application fails",
        Cause::BadUpstreamAnswer => "What comes back is no valid answer",
        Cause::Configuration => "Misconfigured",
        Cause::ConnectionFailure => "No connection that holds",
        Cause::GatewayTimeout => "The service behind a gateway is too slow",
        Cause::Maintenance => "Closed for maintenance",
        Cause::Overload => "Overloaded",
        Cause::OwnTimeout => "Too slow for this client's own limit",
        Cause::RateLimit => "This client asks more than it may",
        Cause::UpstreamUnavailable => "Nothing works behind the gateway",
        _ => "It fails, and these answers don't tell why",
    }
}

fn who(origin: Origin) -> String {
    match origin {
        Origin::Application => ", says the application itself".to_owned(),
        Origin::Edge(name) | Origin::Proxy(name) => format!(", says {name}"),
        Origin::Network => ", says the network".to_owned(),
        _ => String::new(),
    }
}

fn end(visit: &Visit) -> &'static str {
    match visit.end {
        End::AllSent => "all requests were sent",
        End::Quiet => "it asked for quiet, so no more were sent",
        End::TimeUp => "the time was up",
    }
}

/// What one answer can't tell.
fn together(visit: &Visit) -> Vec<String> {
    let known = &visit.health;
    let mut said = Vec::new();
    match known.condition {
        Condition::Failing => said.push("half of the requests fail, or more".to_owned()),
        Condition::Degraded => said.push("a tenth of the requests fails, or more".to_owned()),
        Condition::Healthy => {}
    }
    if let Some(length) = known.failing_for.filter(|it| it.as_secs() > 0) {
        said.push(format!("nothing but failures for {}", measured(length)));
    }
    if let Some(length) = known.cluster {
        let length = measured(length);
        said.push(format!(
            "most failures come after {length}: somebody's time limit"
        ));
    }
    said.extend(visit.hints().map(str::to_owned));
    if known.slowing == Slowing::Helps {
        said.push("fewer requests, fewer failures: a capacity is used up".to_owned());
    }
    if let Some(length) = known.latency {
        said.push(format!(
            "good answers took {} in the mean",
            measured(length)
        ));
    }
    said
}

fn client_should(visit: &Visit) -> Vec<String> {
    let Some(diagnosis) = &visit.diagnosis else {
        return Vec::new();
    };
    let mut said = vec![diagnosis.cause().advice().to_owned()];
    let (advice, processed) = (diagnosis.cause().advice(), diagnosis.processed());
    let repeat = match processed {
        Processed::No => "send any request again that it wants to: none of these was acted on",
        Processed::Maybe => "repeat only what is idempotent: the service may have acted on it",
        Processed::Yes => "look before it repeats anything: the service did act on it",
    };
    if processed != Processed::Maybe || !advice.contains("idempotent") {
        said.push(repeat.to_owned());
    }
    if let Some(length) = visit.back_in.filter(|it| !it.is_zero()) {
        said.push(format!(
            "send nothing for {}, as the service asks",
            about(length)
        ));
    }
    if diagnosis.confidence() < SURE && diagnosis.cause() != Cause::Unknown {
        said.push("not build on it: other causes make nearly the same answers".to_owned());
    }
    said
}

/// A length of time that was measured.
fn measured(length: Duration) -> String {
    match length.as_secs() {
        0 => format!("{} ms", length.as_millis()),
        _ => format!("{:.1} s", length.as_secs_f64()),
    }
}

/// A length of time to wait, in a unit that fits; rounded up, so that nobody comes too soon.
fn about(length: Duration) -> String {
    let millis = length.as_nanos().div_ceil(1_000_000);
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..120_000 => format!("{} s", millis.div_ceil(1000)),
        _ => format!("{} min", millis.div_ceil(60_000)),
    }
}

/// In percent.
const SURE: u8 = 80;

/// More lines say the same.
const ROWS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rounded_up() {
        let of = |millis| about(Duration::from_millis(millis));
        let said = [0, 999, 1000, 1001, 119_000, 120_000, 120_001].map(of);
        assert_eq!(
            said,
            ["0 ms", "999 ms", "1 s", "2 s", "119 s", "2 min", "3 min"]
        );
    }
}
