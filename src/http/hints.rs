//! Everything a response can say about when to come back, in one answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::retry_after::{age, bounded, digits, retry_after, server_now, trimmed, wait_until};
use crate::verdict::Hint;

/// Longer structured fields are ignored unread. They are lists, so they may be longer than a
/// single value, but one that says when to come back never needs this much.
pub(super) const MAX_LIST: usize = 1024;

/// The headers of one limit: how much of it is left, and what says when it is whole again.
pub(super) struct Limit {
    pub(super) remaining: &'static str,
    pub(super) resets: &'static [&'static str],
}

pub(super) const LIMITS: [Limit; 5] = [
    Limit {
        remaining: "ratelimit-remaining",
        resets: &["ratelimit-reset"],
    },
    Limit {
        remaining: "x-ratelimit-remaining",
        resets: &[
            "x-ratelimit-reset",
            "x-ratelimit-reset-after",
            "x-ratelimit-retry-after",
        ],
    },
    Limit {
        remaining: "x-rate-limit-remaining",
        resets: &["x-rate-limit-reset"],
    },
    Limit {
        remaining: "x-ratelimit-remaining-requests",
        resets: &["x-ratelimit-reset-requests"],
    },
    Limit {
        remaining: "x-ratelimit-remaining-tokens",
        resets: &["x-ratelimit-reset-tokens"],
    },
];

/// Whether a header is one of those that tell of limits. To ask all that are there is cheaper than to
/// look up each that isn't.
pub(super) fn is_of_limits(name: &str) -> bool {
    name.starts_with("ratelimit")
        || name.starts_with("x-ratelimit-")
        || name.starts_with("x-rate-limit-")
}

/// What the server asked for, from whichever header says it best.
///
/// The first of these that says something counts:
///
/// | | headers | read as |
/// |---|---|---|
/// | a | `X-Should-Retry`, `Stripe-Should-Retry`, `X-Pulumi-Should-Retry`: `false` | never |
/// | | `Grpc-Retry-Pushback-Ms`: negative, no number, or there twice (gRPC A6) | never |
/// | | `Finagle-Http-Nonretryable-Nack`; `Qos-Retry-Hint`: `do-not-retry`, `propagate` | never |
/// | b | `Retry-After-Ms`, `X-Ms-Retry-After-Ms`, `X-Amz-Retry-After` | milliseconds; the longest |
/// | c | `Retry-After` | see [`retry_after`] |
/// | d | `Grpc-Retry-Pushback-Ms` | milliseconds |
/// | e | `RateLimit`: `"policy";r=0;t=30` or `limit=9, remaining=0, reset=30` (IETF drafts) | seconds |
/// | | `RateLimit-Reset`, `X-RateLimit-Reset`, `X-Rate-Limit-Reset` | see below |
/// | | `X-RateLimit-`: `Reset-After`, `Retry-After`, `Reset-Requests`, `Reset-Tokens` | see below |
///
/// `true` in the first row is ignored: a server can make a client more careful, never bolder.
///
/// Row e tells of limits, not of this response, so it counts only where a limit can be why it
/// failed: on a 429, unless the limit's own `-Remaining` says that something is left, and on a
/// 503 if that says that nothing is. It never counts on a response out of a cache (`Age` above
/// zero). Of several limits the one that takes longest decides.
///
/// What those resets mean is told by their size, as their documentation differs: below 10⁹
/// seconds to wait, from 10⁹ to 10¹¹ Unix seconds, from 10¹² to 10¹⁴ Unix milliseconds (upper
/// ends excluded), each with an optional fraction; or a duration as Go prints it (`6m0s`,
/// `120ms`). Unix time is measured by the response's `Date`, as dates in `Retry-After` are;
/// without one it gives [`Hint::At`], unless another header gives a plain wait.
///
/// Everything that can't be read or asks for more than [`LONGEST_HINT`] is ignored.
///
/// [`LONGEST_HINT`]: crate::http::LONGEST_HINT
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use evenkeel::http::server_hint;
/// use evenkeel::verdict::Hint;
/// use http::{HeaderMap, HeaderValue, StatusCode};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("ratelimit", HeaderValue::from_static(r#""burst";r=0;t=30, "daily";r=7;t=4000"#));
/// let hint = server_hint(StatusCode::TOO_MANY_REQUESTS, &headers);
/// assert_eq!(hint, Some(Hint::After(Duration::from_secs(30))));
///
/// headers.insert("retry-after-ms", HeaderValue::from_static("1500"));
/// let hint = server_hint(StatusCode::TOO_MANY_REQUESTS, &headers);
/// assert_eq!(hint, Some(Hint::After(Duration::from_millis(1500))));
///
/// headers.insert("x-should-retry", HeaderValue::from_static("false"));
/// let hint = server_hint(StatusCode::TOO_MANY_REQUESTS, &headers);
/// assert_eq!(hint, Some(Hint::Never));
/// ```
#[must_use]
pub fn server_hint(status: StatusCode, headers: &HeaderMap) -> Option<Hint> {
    let mut exact = None;
    let mut pushback = None;
    let (mut has_retry_after, mut has_limits) = (false, false);

    // One pass over what is there costs less than looking up twenty names that aren't.
    for (name, value) in headers {
        match name.as_str() {
            "x-should-retry" | "stripe-should-retry" | "x-pulumi-should-retry" => {
                if says(value, b"false") {
                    return Some(Hint::Never);
                }
            }
            "finagle-http-nonretryable-nack" => return Some(Hint::Never),
            "qos-retry-hint" => {
                if says(value, b"do-not-retry") || says(value, b"propagate") {
                    return Some(Hint::Never);
                }
            }
            "grpc-retry-pushback-ms" => match (pushback, milliseconds(value)) {
                (None, Some(given)) => pushback = Some(given),
                _ => return Some(Hint::Never),
            },
            "retry-after-ms" | "x-ms-retry-after-ms" | "x-amz-retry-after" => {
                exact = exact.max(milliseconds(value));
            }
            "retry-after" => has_retry_after = true,
            other => has_limits |= is_of_limits(other),
        }
    }

    let retry_after = || has_retry_after.then(|| retry_after(headers)).flatten();
    let limits = || has_limits.then(|| limit_hint(status, headers)).flatten();
    exact
        .map(Hint::After)
        .or_else(retry_after)
        .or(pushback.map(Hint::After))
        .or_else(limits)
}

/// When the limits that stopped this request are whole again.
fn limit_hint(status: StatusCode, headers: &HeaderMap) -> Option<Hint> {
    let needs_proof = match status {
        StatusCode::TOO_MANY_REQUESTS => false,
        StatusCode::SERVICE_UNAVAILABLE => true,
        _ => return None,
    };
    if !age(headers).is_zero() {
        return None; // somebody else's limits, some time ago
    }
    let now = server_now(headers);
    let fields = headers.get_all("ratelimit").iter();
    let mut longest = fields.filter_map(rate_limit).max().map(Hint::After);

    for limit in &LIMITS {
        match is_used_up(headers, limit.remaining) {
            Some(true) => {}
            None if !needs_proof => {}
            _ => continue,
        }
        for value in limit.resets.iter().flat_map(|&name| headers.get_all(name)) {
            longest = later(longest, reset(value, now));
        }
    }
    longest
}

/// Whether nothing is left of a limit; `None` if nothing says so either way.
fn is_used_up(headers: &HeaderMap, remaining: &str) -> Option<bool> {
    let values = headers.get_all(remaining).iter();
    let left = values.filter_map(|value| digits(trimmed(value)?)).min()?;
    Some(left == 0)
}

/// The longer wait. A plain wait goes before a moment: it needs no clock to agree with.
fn later(one: Option<Hint>, other: Option<Hint>) -> Option<Hint> {
    match (one, other) {
        (Some(Hint::After(a)), Some(Hint::After(b))) => Some(Hint::After(a.max(b))),
        (Some(Hint::At(a)), Some(Hint::At(b))) => Some(Hint::At(a.max(b))),
        (None | Some(Hint::At(_)), Some(_)) => other,
        _ => one,
    }
}

/// The longest `t` of the used-up policies in a `RateLimit` field.
///
/// Drafts before the eighth had one limit per field, `limit=100, remaining=0, reset=30`.
fn rate_limit(field: &HeaderValue) -> Option<Duration> {
    let mut longest = None;
    let (mut old_remaining, mut old_reset) = (None, None);
    for member in split(list(field)?, b',') {
        let (mut remaining, mut reset) = (None, None);
        for parameter in split(member, b';') {
            let (key, value) = key_value(parameter);
            match key {
                b"r" => remaining = digits(value),
                b"t" => reset = seconds(value),
                b"remaining" => old_remaining = digits(value),
                b"reset" => old_reset = seconds(value),
                _ => {}
            }
        }
        if remaining == Some(0) {
            longest = longest.max(reset);
        }
    }
    if old_remaining == Some(0) {
        longest = longest.max(old_reset);
    }
    longest
}

/// One of the resets whose meaning has to be told by its size.
pub(super) fn reset(value: &HeaderValue, now: Option<SystemTime>) -> Option<Hint> {
    const SECOND: u64 = 1_000_000_000;
    const MILLISECOND: u64 = 1_000_000;

    let text = trimmed(value)?;
    let (number, unit) = Decimal::read(text)?;
    if !unit.is_empty() {
        return go_duration(text).map(Hint::After);
    }
    let since_epoch = match number.whole {
        0..1_000_000_000 => return wait(number.times(SECOND)).map(Hint::After),
        1_000_000_000..100_000_000_000 => number.times(SECOND),
        1_000_000_000_000..100_000_000_000_000 => number.times(MILLISECOND),
        _ => return None,
    };
    wait_until(UNIX_EPOCH.checked_add(duration(since_epoch)?)?, now)
}

/// A duration as Go's `time.Duration` prints it: `1h2m3.5s`, `120ms`.
fn go_duration(mut text: &[u8]) -> Option<Duration> {
    let mut total = 0_u128;
    while !text.is_empty() {
        let (number, rest) = Decimal::read(text)?;
        let unit = rest
            .iter()
            .take_while(|byte| !byte.is_ascii_digit())
            .count();
        let (unit, rest) = rest.split_at(unit);
        let unit = match unit {
            b"ns" => 1,
            b"us" | b"\xc2\xb5s" | b"\xce\xbcs" => 1_000, // Unicode has two of µ
            b"ms" => 1_000_000,
            b"s" => 1_000_000_000,
            b"m" => 60_000_000_000,
            b"h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.saturating_add(number.times(unit));
        text = rest;
    }
    wait(total)
}

/// A number without sign or exponent.
#[derive(Clone, Copy)]
struct Decimal {
    whole: u64,
    /// In units of 10⁻¹⁸; digits beyond are dropped.
    fraction: u64,
}

impl Decimal {
    const UNITS: u64 = 1_000_000_000_000_000_000;

    /// Reads the number that `text` begins with; the rest is the other half of the answer.
    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        let (whole, rest) = leading_digits(text);
        let whole = digits(whole)?;
        let Some(rest) = rest.strip_prefix(b".") else {
            return Some((Self { whole, fraction: 0 }, rest));
        };
        let (decimals, rest) = leading_digits(rest);
        if decimals.is_empty() {
            return None;
        }
        let mut fraction = 0;
        let mut unit = Self::UNITS;
        for byte in decimals {
            unit /= 10;
            fraction += unit * u64::from(byte - b'0');
        }
        Some((Self { whole, fraction }, rest))
    }

    /// This many nanoseconds, with a part of one counted in full: a hint is a lower bound.
    fn times(self, nanos: u64) -> u128 {
        let nanos = u128::from(nanos);
        let part = (u128::from(self.fraction) * nanos).div_ceil(u128::from(Self::UNITS));
        u128::from(self.whole) * nanos + part
    }
}

fn leading_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.split_at(end)
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    bounded(Duration::from_millis(digits(trimmed(value)?)?))
}

pub(super) fn seconds(text: &[u8]) -> Option<Duration> {
    bounded(Duration::from_secs(digits(text)?))
}

fn wait(nanoseconds: u128) -> Option<Duration> {
    bounded(duration(nanoseconds)?)
}

fn duration(nanoseconds: u128) -> Option<Duration> {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanoseconds / SECOND).ok()?;
    let rest = u32::try_from(nanoseconds % SECOND).ok()?;
    Some(Duration::new(seconds, rest))
}

fn says(value: &HeaderValue, word: &[u8]) -> bool {
    trimmed(value).is_some_and(|value| value.eq_ignore_ascii_case(word))
}

/// A structured field's bytes, or `None` if it is too long to be read.
pub(crate) fn list(field: &HeaderValue) -> Option<&[u8]> {
    let field = field.as_bytes();
    (field.len() <= MAX_LIST).then_some(field)
}

/// The parts between separators that stand outside of quoted strings (RFC 9651).
pub(super) fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&byte| {
        if escaped {
            escaped = false;
            return false;
        }
        match byte {
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return byte == separator && !quoted,
        }
        false
    })
}

/// A parameter's key and value, which is empty where there is none.
pub(super) fn key_value(parameter: &[u8]) -> (&[u8], &[u8]) {
    let equals = parameter.iter().position(|&byte| byte == b'=');
    let (key, value) = parameter.split_at(equals.unwrap_or(parameter.len()));
    let value = value.strip_prefix(b"=").unwrap_or_default();
    (key.trim_ascii(), value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::retry_after::LONGEST_HINT;

    const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    const DATE_UNIX: u64 = 784_111_777;

    #[test]
    fn every_header_of_a_limit_is_known_by_its_beginning() {
        let names = LIMITS
            .iter()
            .flat_map(|it| it.resets.iter().chain([&it.remaining]));
        assert!(names.chain([&"ratelimit"]).all(|name| is_of_limits(name)));
        assert!(!is_of_limits("retry-after") && !is_of_limits("x-rate"));
    }

    #[test]
    fn a_response_without_hints_gives_none() {
        let plain = [DATE, ("server", "nginx"), ("content-type", "text/html")];
        for code in [404, 429, 500, 503] {
            assert_eq!(hint(code, &plain), None);
            assert_eq!(hint(code, &[]), None);
        }
    }

    #[test]
    fn a_server_can_forbid_another_attempt_but_not_allow_one() {
        for name in [
            "x-should-retry",
            "stripe-should-retry",
            "x-pulumi-should-retry",
        ] {
            for no in ["false", "False", " FALSE "] {
                assert_eq!(hint(503, &[(name, no)]), Some(Hint::Never), "{name}");
            }
            for other in ["true", "", "0", "no", "false, true"] {
                assert_eq!(hint(503, &[(name, other)]), None, "{name}: {other}");
            }
        }
    }

    #[test]
    fn a_nack_that_is_not_retryable_forbids_another_attempt() {
        let nack = ("finagle-http-nonretryable-nack", "");
        assert_eq!(hint(503, &[nack]), Some(Hint::Never));
        assert_eq!(hint(503, &[("finagle-http-nack", "true")]), None);
    }

    #[test]
    fn a_quality_of_service_hint_forbids_another_attempt() {
        for no in ["do-not-retry", "Do-Not-Retry", "PROPAGATE"] {
            assert_eq!(hint(503, &[("qos-retry-hint", no)]), Some(Hint::Never));
        }
        assert_eq!(hint(503, &[("qos-retry-hint", "retry")]), None);
    }

    #[test]
    fn a_pushback_is_milliseconds_or_a_refusal() {
        let read = |value| hint(503, &[("grpc-retry-pushback-ms", value)]);
        assert_eq!(read("0"), Some(after_ms(0)));
        assert_eq!(read("1500"), Some(after_ms(1500)));
        for refusal in [
            "-1",
            "-0",
            "+1",
            "",
            "soon",
            "1.5",
            "1500ms",
            "99999999999999999999",
        ] {
            assert_eq!(read(refusal), Some(Hint::Never), "{refusal}");
        }
        let twice = [("grpc-retry-pushback-ms", "5"); 2];
        assert_eq!(hint(503, &twice), Some(Hint::Never));
    }

    #[test]
    fn a_veto_goes_before_everything_wherever_it_stands() {
        let mut fields = vec![
            ("retry-after", "120"),
            ("retry-after-ms", "7"),
            ("grpc-retry-pushback-ms", "9"),
            ("ratelimit", r#""p";r=0;t=30"#),
        ];
        assert_eq!(hint(429, &fields), Some(after_ms(7)));
        fields.push(("x-should-retry", "false"));
        assert_eq!(hint(429, &fields), Some(Hint::Never));
        fields.rotate_right(1);
        assert_eq!(hint(429, &fields), Some(Hint::Never));
    }

    #[test]
    fn milliseconds_go_before_retry_after_before_pushback_before_limits() {
        let fields = [
            ("retry-after-ms", "7"),
            ("retry-after", "120"),
            ("grpc-retry-pushback-ms", "9"),
            ("x-ratelimit-reset", "30"),
        ];
        assert_eq!(hint(429, &fields), Some(after_ms(7)));
        assert_eq!(hint(429, &fields[1..]), Some(after(120)));
        assert_eq!(hint(429, &fields[2..]), Some(after_ms(9)));
        assert_eq!(hint(429, &fields[3..]), Some(after(30)));
    }

    #[test]
    fn what_can_not_be_read_makes_way_for_the_next() {
        let fields = [
            ("retry-after-ms", "1.5"),
            ("retry-after", "soon"),
            ("x-ratelimit-reset", "30"),
        ];
        assert_eq!(hint(429, &fields), Some(after(30)));
    }

    #[test]
    fn of_several_milliseconds_the_longest_counts() {
        let fields = [
            ("retry-after-ms", "10"),
            ("x-ms-retry-after-ms", "30"),
            ("x-amz-retry-after", "20"),
            ("x-amz-retry-after", "99.5"),
        ];
        assert_eq!(hint(500, &fields), Some(after_ms(30)));
        assert_eq!(hint(500, &fields[..1]), Some(after_ms(10)));
        assert_eq!(hint(500, &fields[2..]), Some(after_ms(20)));
    }

    #[test]
    fn milliseconds_up_to_the_bound_are_believed_and_not_one_more() {
        let bound = LONGEST_HINT.as_millis();
        let read = |ms: u128| hint(503, &[("retry-after-ms", &ms.to_string())]);
        assert_eq!(read(bound), Some(Hint::After(LONGEST_HINT)));
        assert_eq!(read(bound + 1), None);
    }

    #[test]
    fn of_the_used_up_policies_the_longest_decides() {
        let read = |value| hint(429, &[("ratelimit", value)]);
        assert_eq!(read(r#""p";r=0;t=30"#), Some(after(30)));
        assert_eq!(read(r#""a";r=0;t=30,"b";r=0;t=60"#), Some(after(60)));
        assert_eq!(read(r#""a";r=0;t=30, "b";r=1;t=60"#), Some(after(30)));
        assert_eq!(read("p ; t=30 ; r=0 ; pk=:YQ==:"), Some(after(30)));
        assert_eq!(read(r#""a, \";r=0;t=9";r=0;t=30"#), Some(after(30)));
        for unhelpful in [
            "",
            r#""p";r=1;t=30"#,
            r#""p";t=30"#,
            r#""p";r=0"#,
            r#""p";r=0;t=-1"#,
            r#""p";r=0;t=1.5"#,
            r#""p;r=0;t=30"#,
            r#""p";R=0;T=30"#,
        ] {
            assert_eq!(read(unhelpful), None, "{unhelpful}");
        }
    }

    #[test]
    fn policies_may_stand_in_several_fields() {
        let fields = [
            ("ratelimit", r#""a";r=0;t=30"#),
            ("ratelimit", r#""b";r=0;t=60"#),
        ];
        assert_eq!(hint(429, &fields), Some(after(60)));
    }

    #[test]
    fn the_older_form_of_ratelimit_is_read_too() {
        let read = |value| hint(429, &[("ratelimit", value)]);
        assert_eq!(read("limit=100, remaining=0, reset=30"), Some(after(30)));
        assert_eq!(read("limit=100,reset=30,remaining=0"), Some(after(30)));
        assert_eq!(read("limit=100, remaining=1, reset=30"), None);
        assert_eq!(read("limit=100, remaining=0"), None);
    }

    #[test]
    fn lists_of_1024_bytes_are_read_and_longer_ones_are_not() {
        let member = r#""p";r=0;t=30"#;
        let of_length = |length| format!("{member:<length$}");
        let read = |value: &str| hint(429, &[("ratelimit", value)]);
        assert_eq!(read(&of_length(MAX_LIST)), Some(after(30)));
        assert_eq!(read(&of_length(MAX_LIST + 1)), None);
    }

    #[test]
    fn limits_explain_a_429_unless_they_have_something_left() {
        let reset = ("x-ratelimit-reset", "30");
        assert_eq!(hint(429, &[reset]), Some(after(30)));
        for (left, expected) in [
            ("0", Some(after(30))),
            ("1", None),
            ("many", Some(after(30))),
        ] {
            let fields = [reset, ("x-ratelimit-remaining", left)];
            assert_eq!(hint(429, &fields), expected, "{left}");
        }
    }

    #[test]
    fn limits_explain_a_503_only_if_nothing_is_left() {
        let reset = ("x-ratelimit-reset", "30");
        assert_eq!(hint(503, &[reset]), None);
        for (left, expected) in [("0", Some(after(30))), ("1", None), ("many", None)] {
            let fields = [reset, ("x-ratelimit-remaining", left)];
            assert_eq!(hint(503, &fields), expected, "{left}");
        }
        assert_eq!(
            hint(503, &[("ratelimit", r#""p";r=0;t=30"#)]),
            Some(after(30))
        );
    }

    #[test]
    fn limits_explain_no_other_status() {
        let fields = [
            ("x-ratelimit-reset", "30"),
            ("x-ratelimit-remaining", "0"),
            ("ratelimit", r#""p";r=0;t=30"#),
        ];
        for code in [403, 428, 430, 500, 502, 504, 529] {
            assert_eq!(hint(code, &fields), None, "{code}");
        }
    }

    #[test]
    fn limits_out_of_a_cache_are_ignored() {
        let aged = |age| hint(429, &[("x-ratelimit-reset", "30"), ("age", age)]);
        assert_eq!(aged("0"), Some(after(30)));
        assert_eq!(aged("1"), None);
        let fields = [("retry-after", "30"), ("age", "1")];
        assert_eq!(hint(429, &fields), Some(after(30)));
    }

    #[test]
    fn each_limit_goes_by_its_own_remainder() {
        let fields = [
            ("x-ratelimit-remaining-requests", "99"),
            ("x-ratelimit-reset-requests", "8h0m0s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "1.5s"),
        ];
        assert_eq!(hint(429, &fields), Some(after_ms(1500)));
    }

    #[test]
    fn every_reset_is_known() {
        for name in LIMITS.iter().flat_map(|limit| limit.resets) {
            assert_eq!(hint(429, &[(name, "30")]), Some(after(30)), "{name}");
            let fields = [(*name, "30"), ("ratelimit", r#""p";r=0;t=60"#)];
            assert_eq!(hint(429, &fields), Some(after(60)), "{name}");
        }
        assert_eq!(hint(429, &[("x-ratelimit-limit", "30")]), None);
    }

    #[test]
    fn a_number_is_told_by_its_size() {
        let read = |value: &str| hint(429, &[DATE, ("x-ratelimit-reset", value)]);
        assert_eq!(read("999999999"), Some(after(999_999_999)));
        assert_eq!(read("1000000000"), Some(after(1_000_000_000 - DATE_UNIX)));
        let bound = DATE_UNIX + LONGEST_HINT.as_secs();
        assert_eq!(read(&bound.to_string()), Some(Hint::After(LONGEST_HINT)));
        assert_eq!(read(&(bound + 1).to_string()), None);
        assert_eq!(read("100000000000"), None);
        assert_eq!(read("999999999999"), None);
        assert_eq!(
            read("1000000000001"),
            Some(after_ms(1_000_000_000_001 - DATE_UNIX * 1000))
        );
        assert_eq!(read("100000000000000"), None);
    }

    #[test]
    fn without_a_date_unix_time_gives_a_moment() {
        let read = |value| hint(429, &[("x-rate-limit-reset", value)]);
        let at = |ms| Some(Hint::At(UNIX_EPOCH + Duration::from_millis(ms)));
        assert_eq!(read("1000000000"), at(1_000_000_000_000));
        assert_eq!(read("99999999999"), at(99_999_999_999_000));
        assert_eq!(read("1000000000000"), at(1_000_000_000_000));
        assert_eq!(read("99999999999999"), at(99_999_999_999_999));
        assert_eq!(read("100000000000000"), None);
        assert_eq!(read("1470173023.123"), at(1_470_173_023_123));
    }

    #[test]
    fn a_moment_that_has_passed_is_no_wait() {
        let fields = [
            ("date", "Wed, 01 Jan 2020 00:00:00 GMT"),
            ("x-ratelimit-reset", "1577836799"),
        ];
        assert_eq!(hint(429, &fields), Some(after(0)));
    }

    #[test]
    fn a_plain_wait_goes_before_a_moment_without_a_date() {
        let moment = ("x-ratelimit-reset", "1577836799");
        let wait = ("x-ratelimit-reset-after", "3");
        assert_eq!(hint(429, &[moment, wait]), Some(after(3)));
        assert_eq!(hint(429, &[wait, moment]), Some(after(3)));
        let later_moment = ("x-ratelimit-reset", "1577836800");
        let expected = Hint::At(UNIX_EPOCH + Duration::from_secs(1_577_836_800));
        assert_eq!(hint(429, &[later_moment, moment]), Some(expected));
    }

    #[test]
    fn fractions_are_rounded_up_to_the_nanosecond() {
        let read = |value| hint(429, &[("x-ratelimit-reset-after", value)]);
        assert_eq!(read("1.5"), Some(after_ms(1500)));
        let nanos = |n| Some(Hint::After(Duration::from_nanos(n)));
        assert_eq!(read("0.0000000001"), nanos(1));
        assert_eq!(read("0.0000000010"), nanos(1));
        assert_eq!(read("0.0000000011"), nanos(2));
        for wrong in ["1.", ".5", ".", "1.5.5", "-1.5", "1e3", "1,5"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_as_go_prints_them() {
        let read = |value| go(value);
        assert_eq!(read("6m0s"), Some(Duration::from_secs(360)));
        assert_eq!(read("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(read("120ms"), Some(Duration::from_millis(120)));
        assert_eq!(read("1.5h"), Some(Duration::from_secs(5_400)));
        assert_eq!(read("7us"), Some(Duration::from_micros(7)));
        assert_eq!(read("7\u{b5}s"), Some(Duration::from_micros(7)));
        assert_eq!(read("7\u{3bc}s"), Some(Duration::from_micros(7)));
        assert_eq!(read("7ns"), Some(Duration::from_nanos(7)));
        for wrong in [
            "1d", "1 s", "s", "1h2", "-1s", "+1s", "1S", "1sec", "1m s", "1.s", "P1D", "PT1S",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_up_to_the_bound_are_believed_and_not_more() {
        let hours = LONGEST_HINT.as_secs() / 3600;
        assert_eq!(go(&format!("{hours}h")), Some(LONGEST_HINT));
        assert_eq!(go(&format!("{hours}h1ns")), None);
        assert_eq!(go("18446744073709551615h18446744073709551615h"), None);
        assert_eq!(go("18446744073709551616ns"), None);
    }

    proptest! {
        #[test]
        fn no_header_panics_or_exceeds_the_bound(
            code in 100..1000_u16,
            fields in proptest::collection::vec((name(), value()), 0..6),
        ) {
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            if let Some(Hint::After(wait)) = hint(code, &fields) {
                prop_assert!(wait <= LONGEST_HINT);
            }
        }

        #[test]
        fn what_go_would_print_reads_back(minutes in 0..50_000_000_u64, ms in 0..60_000_u64) {
            let text = format!("{}h{}m{}.{:03}s", minutes / 60, minutes % 60, ms / 1000, ms % 1000);
            let expected = Duration::from_millis(minutes * 60_000 + ms);
            prop_assert_eq!(go(&text), Some(expected));
        }

        #[test]
        fn splitting_loses_nothing(text in r#"[a;,="\\ ]{0,20}"#) {
            let parts: Vec<&[u8]> = split(text.as_bytes(), b',').collect();
            prop_assert_eq!(parts.join(&b','), text.as_bytes());
        }
    }

    fn name() -> impl Strategy<Value = String> {
        let resets = LIMITS.iter().flat_map(|limit| limit.resets.iter().copied());
        let remaining = LIMITS.iter().map(|limit| limit.remaining);
        let others = [
            "date",
            "age",
            "ratelimit",
            "retry-after",
            "retry-after-ms",
            "grpc-retry-pushback-ms",
            "x-should-retry",
            "qos-retry-hint",
        ];
        let all: Vec<&str> = resets.chain(remaining).chain(others).collect();
        proptest::sample::select(all).prop_map(str::to_owned)
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9]{0,25}",
            "[0-9]{0,25}(\\.[0-9]{0,30})?(ns|us|ms|s|m|h)?[0-9]{0,25}(s|m|h)?",
            r#"("[a-z,;]{0,3}"(;[rt]=[0-9]{1,22}){0,3},?){0,3}"#,
            "[ -~]{0,30}",
        ]
    }

    fn go(value: &str) -> Option<Duration> {
        match hint(429, &[("x-ratelimit-reset-tokens", value)]) {
            Some(Hint::After(wait)) => Some(wait),
            _ => None,
        }
    }

    fn hint(code: u16, fields: &[(&str, &str)]) -> Option<Hint> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
            headers.append(name, value);
        }
        let status = StatusCode::from_u16(code).expect("a status code");
        server_hint(status, &headers)
    }

    fn after(seconds: u64) -> Hint {
        Hint::After(Duration::from_secs(seconds))
    }

    fn after_ms(milliseconds: u64) -> Hint {
        Hint::After(Duration::from_millis(milliseconds))
    }
}
