//! Any status and any headers: nothing panics, and no answer exceeds its bounds.
//!
//! The input is text, so that seeds and findings can be read: a status code on the first line,
//! then a header per line.

#![no_main]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel::http::{LONGEST_HINT, provably_not_sent, retry_after, server_hint, status_verdict};
use evenkeel::verdict::Hint;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((status, headers)) = response(data) else {
        return;
    };
    let hint = server_hint(status, &headers);
    check_bounds(hint);

    let dated = retry_after(&headers);
    check_bounds(dated);
    assert_ne!(dated, Some(Hint::Never));
    if let Some(plain) = sole_plain_seconds(&headers) {
        assert_eq!(dated, plain);
    }
    // Retry-After is overruled, never lost.
    assert!(dated.is_none() || hint.is_some());

    if provably_not_sent(status, &headers) {
        assert!(!status_verdict(status).is_success());
    }
});

fn response(data: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut lines = data.split(|&byte| byte == b'\n');
    let status = StatusCode::from_bytes(lines.next()?).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.try_append(name, value).ok()?;
        }
    }
    Some((status, headers))
}

fn check_bounds(hint: Option<Hint>) {
    match hint {
        Some(Hint::After(wait)) => assert!(wait <= LONGEST_HINT, "{wait:?}"),
        Some(Hint::At(moment)) => assert!((UNIX_EPOCH..year_10000()).contains(&moment)),
        _ => {}
    }
}

fn year_10000() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(253_402_300_800)
}

/// Another reading of a lone `Retry-After` that is plain seconds, by way of text and std's parser.
fn sole_plain_seconds(headers: &HeaderMap) -> Option<Option<Hint>> {
    let values: Vec<_> = headers.get_all(header::RETRY_AFTER).iter().collect();
    let [value] = values[..] else {
        return None;
    };
    let text = value.to_str().ok()?;
    let digits = text.trim_matches([' ', '\t']);
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let seconds: Option<u128> = digits.trim_start_matches('0').parse().ok();
    let seconds = if digits.trim_start_matches('0').is_empty() {
        Some(0)
    } else {
        seconds
    };
    let believed = seconds.filter(|&s| text.len() <= 128 && s <= LONGEST_HINT.as_secs().into());
    Some(believed.map(|s| Hint::After(Duration::from_secs(u64::try_from(s).expect("bounded")))))
}
