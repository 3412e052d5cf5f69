//! The report as JSON. Some sixty lines in place of a dependency that every user would get.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::diagnosis::Origin;
use crate::incident::dates;
use crate::incident::report::{Affected, Finding, Moment, Outlook, Phase, Report};

pub(super) fn write(it: &Report) -> String {
    let mut object = Object::new();
    object
        .number("incident", it.number)
        .raw("begin", &date(it.begin))
        .raw("end", &it.end.map_or_else(null, date))
        .raw(
            "ending",
            &it.ending
                .map_or_else(null, |it| string(&format!("{it:?}").to_lowercase())),
        )
        .raw("seconds", &seconds(it.length))
        .raw("well_again", &it.well_again.map_or_else(null, date))
        .number("calls", it.calls())
        .number("gave_up", it.gave_up())
        .number("refused", it.refused())
        .number("failures", it.failures())
        .number("first_attempts", it.first_attempts)
        .number("retries", it.retries)
        .number("retries_failed", it.retries_failed)
        .raw("extra_load", &it.extra_load().map_or_else(null, float))
        .raw(
            "causes",
            &counts(
                it.causes
                    .iter()
                    .map(|(it, times)| (it.as_str().to_owned(), *times)),
            ),
        )
        .raw(
            "seen",
            &array(&it.seen, |(cause, label, times)| {
                let mut row = Object::new();
                row.text("cause", cause.as_str())
                    .text("as", &label.to_string())
                    .number("failures", *times);
                row.end()
            }),
        )
        .number("seen_otherwise", it.seen_otherwise)
        .raw("findings", &array(&it.findings, finding))
        .raw("phases", &array(&it.phases, phase))
        .raw("affected", &array(&it.affected, affected))
        .raw(
            "gave_up_by",
            &counts(it.stops.iter().map(|(it, times)| (it.to_string(), *times))),
        )
        .raw(
            "refused_by",
            &counts(
                it.refusals
                    .iter()
                    .map(|(it, times)| (it.to_string(), *times)),
            ),
        )
        .raw(
            "waits",
            &array(&it.waits, |(reason, times, sum)| {
                let mut row = Object::new();
                row.text("reason", &reason.to_string())
                    .number("waits", *times)
                    .raw("seconds", &seconds(*sum));
                row.end()
            }),
        )
        .number("out_of_time", it.out_of_time)
        .raw("parked", &seconds(it.parked))
        .number("injected", it.injected)
        .number("would_refuse", it.would_refuse)
        .number("hints", it.hints)
        .raw("longest_hint", &seconds(it.longest_hint))
        .raw("back_at", &it.back_at.map_or_else(null, date))
        .raw("least_budget", &it.least_budget.map_or_else(null, float))
        .raw(
            "changes",
            &array(&it.changes, |it| {
                let mut row = Object::new();
                row.raw("at", &date(it.at))
                    .text("service", &it.name)
                    .text("change", &it.words());
                row.end()
            }),
        )
        .number("changes_left_out", it.changes_left_out)
        .raw("step", &seconds(it.step))
        .raw("timeline", &array(&it.timeline, moment))
        .raw("check", &checks_of(it))
        .raw(
            "advice",
            &array(&it.advice, |it| {
                let mut row = Object::new();
                row.text("reason", &it.reason).text("advice", it.advice);
                row.end()
            }),
        );
    object.end()
}

fn finding(it: &Finding) -> String {
    let said_by = it.said_by.iter();
    let mut row = Object::new();
    row.text("cause", it.cause.as_str())
        .number("failures", it.failures)
        .raw(
            "confidence",
            &it.confidence.map_or_else(null, |it| it.to_string()),
        )
        .raw(
            "said_by",
            &counts(said_by.map(|(it, times)| (it.to_string(), *times))),
        );
    lasts(&mut row, it.outlook)
        .raw(
            "evidence",
            &array(&it.evidence, |it| {
                let mut row = Object::new();
                row.text("name", it.name)
                    .text("cause", it.cause.as_str())
                    .raw("weight", &it.weight.to_string())
                    .number("failures", it.times);
                row.end()
            }),
        )
        .text("advice", it.cause.advice());
    row.end()
}

fn phase(it: &Phase) -> String {
    let mut row = Object::new();
    row.raw("from", &date(it.from))
        .text("cause", it.cause.as_str())
        .number("failures", it.failures)
        .number("of", it.of)
        .raw(
            "said_by",
            &match it.origin {
                Origin::Unknown => null(),
                origin => string(&origin.to_string()),
            },
        );
    lasts(&mut row, it.outlook);
    row.end()
}

fn lasts(row: &mut Object, outlook: Outlook) -> &mut Object {
    let (word, back_at) = match outlook {
        Outlook::Momentary => ("momentary", None),
        Outlook::Persistent => ("persistent", None),
        Outlook::Unknown => ("unknown", None),
        Outlook::Until(at) => ("announced", Some(at)),
    };
    row.text("lasts", word)
        .raw("back_at", &back_at.map_or_else(null, date))
}

fn affected(it: &Affected) -> String {
    let mut row = Object::new();
    row.text("service", &it.name)
        .number("calls", it.calls())
        .number("failures", it.failures)
        .number("gave_up", it.gave_up)
        .number("refused", it.refused)
        .number("request_faults", it.request_faults)
        .number("succeeded", it.succeeded)
        .number("succeeded_later", it.succeeded_later)
        .number("slow", it.slow);
    row.end()
}

fn moment(it: &Moment) -> String {
    let mut row = Object::new();
    row.raw("from", &date(it.from))
        .raw(
            "failures",
            &counts(
                it.failures
                    .iter()
                    .map(|(it, times)| (it.as_str().to_owned(), *times)),
            ),
        )
        .number("failed_otherwise", it.failed_otherwise)
        .number("answered", it.answered)
        .number("refused", it.refused)
        .number("retries", it.retries)
        .number("parked", it.parked)
        .raw("budget", &it.budget.map_or_else(null, float));
    row.end()
}

fn checks_of(it: &Report) -> String {
    let mut object = Object::new();
    for cause in it.leading() {
        let checks = array(cause.checks(), |it| string(it));
        object.raw(cause.as_str(), &checks);
    }
    object.end()
}

struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn raw(&mut self, name: &str, value: &str) -> &mut Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&string(name));
        self.0.push(':');
        self.0.push_str(value);
        self
    }

    fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.raw(name, &value.to_string())
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.raw(name, &string(value))
    }

    fn end(&mut self) -> String {
        let mut whole = std::mem::take(&mut self.0);
        whole.push('}');
        whole
    }
}

fn array<T>(rows: &[T], row: impl Fn(&T) -> String) -> String {
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!("[{}]", rows.join(","))
}

fn counts(rows: impl Iterator<Item = (String, u64)>) -> String {
    let mut object = Object::new();
    for (name, times) in rows {
        object.number(&name, times);
    }
    object.end()
}

fn date(at: SystemTime) -> String {
    string(&dates::rfc3339(at))
}

fn seconds(length: Duration) -> String {
    float(length.as_secs_f64())
}

fn float(number: f64) -> String {
    if number.is_finite() {
        format!("{number:.3}")
    } else {
        null()
    }
}

fn null() -> String {
    "null".to_owned()
}

/// In quotes; safe between the tags of a page too.
fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for it in text.chars() {
        match it {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(it);
            }
            it if it.is_control() || matches!(it, '<' | '>' | '&') => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(it));
            }
            it => quoted.push(it),
        }
    }
    quoted.push('"');
    quoted
}
