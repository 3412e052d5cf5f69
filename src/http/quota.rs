//! What a response says is left of the service's quota.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};

use super::hints::{LIMITS, is_of_limits, key_value, list, reset, seconds, split};
use super::retry_after::{age, digits, server_now, trimmed};
use crate::clock::until;
use crate::verdict::Hint;

/// How much a service's quota leaves, and when it is whole again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// How many requests are left.
    pub remaining: u64,
    /// In how long the quota is whole again.
    pub reset: Duration,
}

/// The tightest quota that a response tells, for
/// [`RateLimit::observe`](crate::limit::RateLimit::observe): of several, the one that leaves the
/// fewest per second.
///
/// Read are `RateLimit` in both its forms (`"policy";r=7;t=30` and `limit=9, remaining=7,
/// reset=30`), and the pairs `RateLimit-`, `X-RateLimit-`, `X-Rate-Limit-` with `Remaining` and
/// `Reset`, and `X-RateLimit-Remaining-Requests` with its reset. How a reset is told (seconds, a
/// moment, a Go duration) is found out as in [`server_hint`](super::server_hint); `wall` is asked
/// for a moment if the response has no `Date`. Quotas of tokens, malformed fields and stale
/// responses are ignored.
///
/// # Examples
///
/// ```
/// use evenkeel::http::quota;
/// use http::{HeaderMap, HeaderValue};
/// use std::time::{Duration, SystemTime};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("ratelimit", HeaderValue::from_static(r#""burst";r=9;t=1, "daily";r=50;t=3600"#));
/// let quota = quota(&headers, SystemTime::now()).unwrap();
/// assert_eq!((quota.remaining, quota.reset), (50, Duration::from_secs(3600)));
/// ```
#[must_use]
pub fn quota(headers: &HeaderMap, wall: SystemTime) -> Option<Quota> {
    quota_by(headers, || wall)
}

/// The same with a clock, which is read only where a response tells a moment and has no `Date`.
pub(crate) fn quota_by(headers: &HeaderMap, wall: impl Fn() -> SystemTime) -> Option<Quota> {
    if !headers.keys().any(|name| is_of_limits(name.as_str())) {
        return None; // as of most services, and this is asked of every response
    }
    if !age(headers).is_zero() {
        return None; // somebody else's quota, some time ago
    }
    let lists = headers.get_all("ratelimit").iter();
    let of_lists = lists.filter_map(tightest_of).reduce(tighter);
    let now = server_now(headers);
    let pairs = LIMITS
        .iter()
        .filter(|limit| !counts_tokens(limit.remaining));
    let of_pairs = pairs.filter_map(|limit| {
        let values = headers.get_all(limit.remaining).iter();
        let remaining = values.filter_map(|it| digits(trimmed(it)?)).min()?;
        let values = limit.resets.iter().flat_map(|name| headers.get_all(*name));
        let resets = values.filter_map(|it| reset(it, now));
        let reset = resets.filter_map(|hint| length(hint, &wall)).max()?;
        Some(Quota { remaining, reset })
    });
    of_lists.into_iter().chain(of_pairs).reduce(tighter)
}

fn counts_tokens(name: &str) -> bool {
    name.ends_with("-tokens")
}

fn length(hint: Hint, wall: impl Fn() -> SystemTime) -> Option<Duration> {
    match hint {
        Hint::After(length) => Some(length),
        Hint::At(moment) => Some(until(moment, wall())),
        Hint::Never => None,
    }
}

/// The tightest quota of a `RateLimit` field.
fn tightest_of(field: &HeaderValue) -> Option<Quota> {
    let mut tightest = None;
    let mut old = (None, None);
    for member in split(list(field)?, b',') {
        let mut new = (None, None);
        for parameter in split(member, b';') {
            let (key, value) = key_value(parameter);
            match key {
                b"r" => new.0 = digits(value),
                b"t" => new.1 = seconds(value),
                b"remaining" => old.0 = digits(value),
                b"reset" => old.1 = seconds(value),
                _ => {}
            }
        }
        tightest = tightest.into_iter().chain(pair(new)).reduce(tighter);
    }
    tightest.into_iter().chain(pair(old)).reduce(tighter)
}

fn pair(found: (Option<u64>, Option<Duration>)) -> Option<Quota> {
    let (Some(remaining), Some(reset)) = found else {
        return None;
    };
    Some(Quota { remaining, reset })
}

/// The one that leaves fewer per second; of two that leave none, the longer.
fn tighter(one: Quota, other: Quota) -> Quota {
    // Crosswise instead of divided: exact, and nothing is divided by zero.
    let of_one = u128::from(one.remaining).saturating_mul(other.reset.as_nanos());
    let of_other = u128::from(other.remaining).saturating_mul(one.reset.as_nanos());
    let is_tighter = of_one < of_other || (of_one == of_other && one.reset >= other.reset);
    if is_tighter { one } else { other }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    const WALL: Duration = Duration::from_secs(1_700_000_000);

    fn read(fields: &[(&str, &str)]) -> Option<(u64, u64)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        quota(&headers, UNIX_EPOCH + WALL).map(|it| (it.remaining, it.reset.as_secs()))
    }

    #[test]
    fn both_forms_of_the_list_are_read_and_the_tightest_counts() {
        let list = |value| read(&[("ratelimit", value)]);
        assert_eq!(list(r#""a";r=7;t=30"#), Some((7, 30)));
        assert_eq!(list(r#""a";r=7;t=30, "b";r=6;t=30"#), Some((6, 30)));
        assert_eq!(list(r#""a;r=1;t=9";r=7;t=30"#), Some((7, 30)));
        assert_eq!(list("limit=9, remaining=7, reset=30"), Some((7, 30)));
        assert_eq!(list(r#""a";r=0;t=30, "b";r=0;t=60"#), Some((0, 60)));
        assert_eq!(list(r#""a";r=7"#), None);
        assert_eq!(list(r#""a";r=-7;t=30"#), None);
        assert_eq!(list("7;30"), None);
    }

    #[test]
    fn pairs_are_read_with_seconds_and_moments() {
        let pair = |reset| read(&[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", reset)]);
        assert_eq!(pair("30"), Some((7, 30)));
        assert_eq!(pair("1700000060"), Some((7, 60)));
        assert_eq!(pair("soon"), None);
        assert_eq!(pair(""), None);
        assert_eq!(
            read(&[("ratelimit-remaining", "7"), ("ratelimit-reset", "9")]),
            Some((7, 9))
        );
        assert_eq!(read(&[("x-ratelimit-remaining", "7")]), None);
        assert_eq!(read(&[("x-ratelimit-reset", "7")]), None);
    }

    #[test]
    fn a_moment_is_taken_relative_to_the_responses_own_date() {
        let fields = [
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("x-ratelimit-remaining", "7"),
            ("x-ratelimit-reset", "1000000000"),
        ];
        assert_eq!(read(&fields), Some((7, 1_000_000_000 - 784_111_777)));
    }

    #[test]
    fn what_a_cache_remembers_and_quotas_of_tokens_are_ignored() {
        assert_eq!(
            read(&[("ratelimit", r#""a";r=7;t=30"#), ("age", "3")]),
            None
        );
        let tokens = [
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "9s"),
        ];
        assert_eq!(read(&tokens), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 6)) {
            let names = [
                "ratelimit", "date", "x-ratelimit-remaining", "x-ratelimit-reset",
                "ratelimit-remaining", "ratelimit-reset",
            ];
            let mut headers = HeaderMap::new();
            for (name, value) in names.into_iter().zip(values) {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.insert(name, value);
                }
            }
            let _ = quota(&headers, UNIX_EPOCH);
        }

        #[test]
        fn no_numbers_panic(r: u64, t: u64, remaining: u64, reset: u64) {
            let list = format!("\"a\";r={r};t={t}, \"b\";r={t};t={r}");
            let (remaining, reset) = (remaining.to_string(), reset.to_string());
            let _ = read(&[
                ("ratelimit", &list),
                ("x-ratelimit-remaining", &remaining),
                ("x-ratelimit-reset", &reset),
            ]);
        }
    }
}
