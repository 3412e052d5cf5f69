//! Retries of retries: which attempt of somebody else's a request serves.

use http::{HeaderMap, HeaderName};

/// The header in which Envoy and this crate say which attempt a request is: 1 is the first. In a
/// response Envoy says in it how many attempts it made. See [`Http::attempt_header`](super::Http::attempt_header).
pub static ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Which attempt of its own caller's a request serves, from 1: what the caller already spent counts
/// against this request's attempts. Zero counts as 1.
///
/// Insert it into `request.extensions_mut()`. A reqwest request has none: see
/// `Sending::caller_attempt`; a closure: see [`Call::caller_attempt`](crate::pipeline::Call::caller_attempt).
///
/// # Examples
///
/// A server that asks another one on behalf of the request it was sent:
///
/// ```
/// use evenkeel::http::{ATTEMPT_COUNT, CallerAttempt, attempts_seen};
/// use http::{HeaderValue, Request};
///
/// let mut incoming = Request::get("http://shop/basket").body(())?;
/// incoming.headers_mut().insert(&ATTEMPT_COUNT, HeaderValue::from(3));
///
/// let seen = attempts_seen(incoming.headers(), &ATTEMPT_COUNT);
/// assert_eq!(seen, 3);
/// let mut outgoing = Request::get("http://prices/").body(())?;
/// // Of four attempts two are left.
/// outgoing.extensions_mut().insert(CallerAttempt(seen));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerAttempt(pub u32);

/// Which attempt the sender of these headers says this is: 1 where it says nothing, nothing that is a
/// number from 1, or several things. Numbers beyond `u32` are its maximum. Never fails.
#[must_use]
pub fn attempts_seen(headers: &HeaderMap, name: &HeaderName) -> u32 {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return 1;
    };
    let digits = value.as_bytes().trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return 1;
    }
    let number = digits.iter().fold(0_u32, |number, digit| {
        let digit = u32::from(digit - b'0');
        number.saturating_mul(10).saturating_add(digit)
    });
    number.max(1)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn seen(values: &[&[u8]]) -> u32 {
        let values = values.iter().map(|value| {
            let value = HeaderValue::from_bytes(value).expect("a header's value");
            (ATTEMPT_COUNT.clone(), value)
        });
        let mut headers = HeaderMap::new();
        headers.extend(values);
        attempts_seen(&headers, &ATTEMPT_COUNT)
    }

    #[test]
    fn what_makes_no_sense_is_a_first_attempt() {
        let none: [&[u8]; 8] = [b"", b"0", b"-2", b"+2", b"2.0", b"two", b"2, 3", b"\xff"];
        for value in none {
            assert_eq!(seen(&[value]), 1, "{value:?}");
        }
        assert_eq!(seen(&[]), 1);
        assert_eq!(seen(&[b"2", b"3"]), 1);
        assert_eq!(seen(&[b" 2 "]), 2);
        assert_eq!(seen(&[b"007"]), 7);
        assert_eq!(seen(&[b"4294967295"]), u32::MAX);
        assert_eq!(seen(&[b"99999999999999999999"]), u32::MAX);
    }

    proptest! {
        #[test]
        fn every_number_is_read_as_it_was_written(number in 1_u32..) {
            prop_assert_eq!(seen(&[number.to_string().as_bytes()]), number);
        }

        #[test]
        fn nothing_makes_it_panic_or_say_zero(value in prop::collection::vec(0x20_u8..0x7f, 0..30)) {
            prop_assert!(seen(&[&value]) >= 1);
        }
    }
}
