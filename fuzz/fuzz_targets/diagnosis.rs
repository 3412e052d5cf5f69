//! Any status, headers, phrase and body: nothing panics, and a diagnosis keeps its bounds.
//!
//! The input is text, so that seeds and findings can be read: a status code and perhaps a reason
//! phrase on the first line, then a header per line, an empty line, and the body.

#![no_main]

use std::time::{Duration, Instant, UNIX_EPOCH};

use evenkeel::diagnosis::{Cause, Health, Observation, Persistence, Symptoms};
use evenkeel::http::{Http, LONGEST_HINT, provably_not_sent};
use evenkeel::verdict::Processed;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((status, reason, headers, body)) = response(data) else {
        return;
    };
    let elapsed = Duration::from_millis(data.len() as u64 * 97);
    let seen = Symptoms::response(status, &headers)
        .elapsed(elapsed)
        .wall(UNIX_EPOCH);
    let seen = seen.reason(reason);
    for seen in [seen, seen.body(body), seen.body(body).broken_off()] {
        let mut diagnosis = seen.diagnose();
        let certain = diagnosis.cause() != Cause::Unknown;
        assert_eq!(certain, diagnosis.confidence() > 0);
        assert!(diagnosis.confidence() <= 99);
        assert!(diagnosis.evidence().len() <= 8);
        if let Persistence::Announced(length) = diagnosis.persistence() {
            assert!(length <= LONGEST_HINT);
        }
        let health = Health::new();
        let failure = Observation::failure(diagnosis.cause()).latency(elapsed);
        health.record(&failure, Instant::now());
        health.refine(&mut diagnosis, Instant::now());
        assert!(diagnosis.evidence().len() <= 8);
    }
    // What retries rely on takes proof, and a verdict is never bolder than the status' own.
    let verdict = Http::new().response(status, &headers);
    let plain = Http::new().response(status, &HeaderMap::new());
    assert!(plain.is_retryable() || !verdict.is_retryable());
    if verdict.was_processed() == Processed::No && plain.was_processed() != Processed::No {
        assert!(provably_not_sent(status, &headers));
    }
});

type Parts<'a> = (StatusCode, &'a [u8], HeaderMap, &'a [u8]);

fn response(data: &[u8]) -> Option<Parts<'_>> {
    let (head, body) = match data.windows(2).position(|it| it == b"\n\n") {
        Some(end) => (&data[..end], &data[end + 2..]),
        None => (data, &[][..]),
    };
    let mut lines = head.split(|&byte| byte == b'\n');
    let first = lines.next()?;
    let (status, reason) = first.split_at_checked(3)?;
    let status = StatusCode::from_bytes(status).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.try_append(name, value).ok()?;
        }
    }
    Some((status, reason.trim_ascii(), headers, body))
}
