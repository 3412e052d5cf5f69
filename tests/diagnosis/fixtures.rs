//! Answers with the truth beside them. `recorded.jsonl` holds what a client received from nginx,
//! `HAProxy` and Envoy while each thing was made to go wrong on purpose, `recorded-others.jsonl` the
//! same of other programs and otherwise configured ones, without the headers that nobody reads and
//! without style sheets; `written.jsonl` what other programs' sources and manuals say that they send.

use std::io;
use std::time::Duration;

use evenkeel::diagnosis::{Cause, Diagnosis, Origin, Symptoms};
use evenkeel::verdict::{Label, Verdict};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

/// One answer, or what came instead of one.
pub(crate) struct Record {
    line: Value,
    pub(crate) headers: HeaderMap,
}

/// How much of an answer is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Status,
    Headers,
    Whole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Right,
    Unknown,
    Wrong,
    /// Wrong, and sure of it.
    Misled,
}

impl Record {
    pub(crate) fn text(&self, name: &str) -> &str {
        self.line[name].as_str().unwrap_or_default()
    }

    pub(crate) fn truth(&self, name: &str) -> &str {
        self.line["truth"][name].as_str().unwrap_or_default()
    }

    /// The part of the later recordings that it is of.
    pub(crate) fn set(&self) -> Option<u64> {
        self.line["set"].as_u64()
    }

    pub(crate) fn is_failure(&self) -> bool {
        self.truth("cause") != "ok"
    }

    /// Whether the connection ended before the answer did.
    pub(crate) fn was_cut_off(&self) -> bool {
        !self.line["error"].is_null()
    }

    pub(crate) fn status(&self) -> Option<StatusCode> {
        let status = self.line["status"].as_u64()?;
        Some(StatusCode::from_u16(u16::try_from(status).unwrap()).unwrap())
    }

    pub(crate) fn seen(&self, sight: Sight) -> Symptoms<'_> {
        static NONE: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
        let is_answer = self.status().is_some() && self.line["error"].is_null();
        match sight {
            Sight::Status if is_answer => Symptoms::response(self.status().unwrap(), &NONE),
            Sight::Whole if self.line["body"].is_string() || !self.headers.is_empty() => {
                self.symptoms().body(self.text("body").as_bytes())
            }
            _ => self.symptoms(),
        }
    }

    /// What a client would have seen of it.
    fn symptoms(&self) -> Symptoms<'_> {
        if let Some(fault) = self.line["fault"].as_str() {
            let label = match fault {
                "" => Label::None,
                name => Label::Name(name.to_owned().leak()),
            };
            return Symptoms::of(Verdict::transient().label(label));
        }
        let elapsed = self.line["total_ms"].as_f64();
        let error = &self.line["error"];
        let phase = error["phase"].as_str().unwrap_or_default();
        let kind = error["kind"].as_str();
        let begun = !self.headers.is_empty();
        let partial = self.text("partial");
        let no_http = !partial.is_empty() && !partial.starts_with("HTTP/");
        let of = |kind: io::ErrorKind| io::Error::from(kind);
        let answer = || Symptoms::response(self.status().expect("an answer"), &self.headers);
        let seen = match (phase, kind) {
            (_, None) if self.line["broken_off"].is_boolean() => answer().broken_off(),
            (_, None) => {
                let seen = answer();
                let reason = self.line["reason"].as_str();
                reason.map_or(seen, |it| seen.reason(it.as_bytes()))
            }
            ("read", Some(_)) if no_http => Symptoms::no_http(),
            ("read" | "write", Some("timeout")) => Symptoms::timeout(Duration::ZERO),
            ("read", Some(_)) if begun => answer().broken_off(),
            ("read" | "write", Some("reset")) => {
                Symptoms::error(&of(io::ErrorKind::ConnectionReset))
            }
            ("read" | "write", Some("eof")) => Symptoms::error(&of(io::ErrorKind::UnexpectedEof)),
            ("read" | "write", Some(_)) => Symptoms::error(&of(io::ErrorKind::InvalidData)),
            ("dns", _) => Symptoms::connect_error(&io::Error::other("no such name")),
            ("tls", Some("tls")) => Symptoms::connect_error(&of(io::ErrorKind::InvalidData)),
            (_, Some("refused")) => Symptoms::connect_error(&of(io::ErrorKind::ConnectionRefused)),
            (_, Some("timeout")) => Symptoms::connect_error(&of(io::ErrorKind::TimedOut)),
            (_, Some("unreachable")) => {
                Symptoms::connect_error(&of(io::ErrorKind::HostUnreachable))
            }
            (_, Some("reset")) => Symptoms::connect_error(&of(io::ErrorKind::ConnectionReset)),
            other => panic!("{other:?}"),
        };
        match elapsed {
            Some(millis) => seen.elapsed(Duration::from_secs_f64(millis / 1000.0)),
            None => seen,
        }
    }

    pub(crate) fn judge(&self, diagnosis: &Diagnosis) -> Judgement {
        let also = self.line["truth"]["also"].as_array();
        let also = also.into_iter().flatten().filter_map(Value::as_str);
        let mut fair = also.chain([self.truth("cause")]);
        let labels = labels(diagnosis);
        if labels.is_empty() {
            Judgement::Unknown
        } else if fair.any(|it| labels.contains(&it)) {
            Judgement::Right
        } else if diagnosis.confidence() < CONFIDENT {
            Judgement::Wrong
        } else {
            Judgement::Misled
        }
    }
}

/// A cause in the words of the recordings, which have fewer of them.
fn labels(diagnosis: &Diagnosis) -> &'static [&'static str] {
    match (diagnosis.cause(), diagnosis.origin()) {
        (Cause::ApplicationError, _) => &["application_error"],
        (Cause::BadUpstreamAnswer, Origin::Network)
        | (Cause::ConnectionFailure | Cause::OwnTimeout, _) => &["connection_failure"],
        (Cause::BadUpstreamAnswer | Cause::UpstreamUnavailable, _) => &["upstream_unavailable"],
        // Their labels know no configuration: it is the connection or the upstream that fails.
        (Cause::Configuration, _) => &["connection_failure", "upstream_unavailable"],
        (Cause::GatewayTimeout, _) => &["gateway_timeout"],
        (Cause::Maintenance, _) => &["maintenance"],
        (Cause::Overload, _) => &["overload"],
        (Cause::RateLimit, _) => &["rate_limited"],
        _ => &[],
    }
}

pub(crate) fn recorded() -> Vec<Record> {
    read(include_str!("../fixtures/diagnosis/recorded.jsonl"))
}

pub(crate) fn others() -> Vec<Record> {
    read(include_str!("../fixtures/diagnosis/recorded-others.jsonl"))
}

pub(crate) fn written() -> Vec<Record> {
    read(include_str!("../fixtures/diagnosis/written.jsonl"))
}

fn read(lines: &str) -> Vec<Record> {
    let record = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut headers = HeaderMap::new();
        for field in line["headers"].as_array().into_iter().flatten() {
            let name: HeaderName = field[0].as_str().unwrap().parse().unwrap();
            let value = HeaderValue::from_str(field[1].as_str().unwrap()).unwrap();
            headers.append(name, value);
        }
        Record { line, headers }
    };
    lines.lines().map(record).collect()
}

/// In percent. What is named with less says itself that it may be wrong.
pub(crate) const CONFIDENT: u8 = 80;
