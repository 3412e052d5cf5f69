//! Reads `Retry-After`, and the response's own clock that its dates are measured by.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use httpdate::HttpDate;

use crate::verdict::Hint;

/// The longest wait that any hint may ask for, inclusive: 100 years of 365.25 days.
///
/// Anything longer is a mistake and is ignored. The bound is far above every wait that makes
/// sense, so that policies see what the server said and judge it themselves; it keeps all
/// arithmetic on what they see far from overflow.
pub const LONGEST_HINT: Duration = Duration::from_secs(100 * 31_557_600);

/// Longer field values are ignored unread. The longest valid one, an RFC 850 date, has 33 bytes.
const MAX_VALUE: usize = 128;

/// The first second that no HTTP date can name: the start of the year 10000.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// When to come back, as `Retry-After` says it (RFC 9110, 10.2.3).
///
/// All four forms are read: seconds, and the three date formats of RFC 9110, 5.6.7. Dates are
/// measured by the response's own `Date`, so a server whose clock is wrong still gives the wait
/// that it means; the time the answer spent in caches (`Age`) is taken off. A moment that has
/// passed is [`Hint::After`] zero. Without a valid `Date` the answer is [`Hint::At`].
///
/// The two-digit year of the RFC 850 form is the latest one that is at most 50 years after the
/// server's now. Without a valid `Date` it is read as 1970 to 2069.
///
/// Everything else is ignored, and nothing is an error: signs, fractions, lists, values longer
/// than 128 bytes, dates before 1970 or after 9999, weekdays that don't fit their date, waits
/// beyond [`LONGEST_HINT`]. A header that comes twice counts if both say the same.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use evenkeel::http::retry_after;
/// use evenkeel::verdict::Hint;
/// use http::{HeaderMap, HeaderValue, header};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::RETRY_AFTER, HeaderValue::from_static("120"));
/// assert_eq!(retry_after(&headers), Some(Hint::After(Duration::from_secs(120))));
///
/// headers.insert(header::DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:00 GMT"));
/// headers.insert(header::RETRY_AFTER, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
/// assert_eq!(retry_after(&headers), Some(Hint::After(Duration::from_secs(37))));
///
/// headers.insert(header::RETRY_AFTER, HeaderValue::from_static("soon"));
/// assert_eq!(retry_after(&headers), None);
/// ```
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Hint> {
    let value = sole(headers, &header::RETRY_AFTER)?;
    if value.first()?.is_ascii_digit() {
        return bounded(Duration::from_secs(digits(value)?)).map(Hint::After);
    }
    let now = server_now(headers);
    wait_until(http_date(value, now)?, now)
}

/// The server's clock when the response left it for us: `Date`, plus what it spent in caches.
pub(super) fn server_now(headers: &HeaderMap) -> Option<SystemTime> {
    let date = http_date(sole(headers, &header::DATE)?, None)?;
    nameable(date.checked_add(age(headers))?)
}

/// How long the response has been in caches; zero if it came straight from the server.
pub(super) fn age(headers: &HeaderMap) -> Duration {
    // RFC 9111, 5.1: of a list the first member counts, and an invalid one is ignored.
    let first = headers.get(header::AGE).map(HeaderValue::as_bytes);
    first
        .filter(|value| value.len() <= MAX_VALUE)
        .and_then(|value| value.split(|&byte| byte == b',').next())
        .and_then(|value| bounded(Duration::from_secs(digits(value.trim_ascii())?)))
        .unwrap_or_default()
}

/// The hint for a moment that the server named.
pub(super) fn wait_until(moment: SystemTime, now: Option<SystemTime>) -> Option<Hint> {
    let Some(now) = now else {
        return Some(Hint::At(moment));
    };
    bounded(moment.duration_since(now).unwrap_or_default()).map(Hint::After)
}

/// The wait, unless it is longer than any hint may be.
pub(super) fn bounded(wait: Duration) -> Option<Duration> {
    (wait <= LONGEST_HINT).then_some(wait)
}

/// A field's value without white space round it, or `None` if it is too long to be read.
pub(super) fn trimmed(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes();
    (value.len() <= MAX_VALUE).then(|| value.trim_ascii())
}

/// A number of one or more digits and nothing else.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let digit = (digit < 10).then_some(digit)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The one value that all fields of this name agree on.
fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter().map(trimmed);
    let first = values.next()??;
    values.all(|other| other == Some(first)).then_some(first)
}

const ASCTIME: usize = "Sun Nov  6 08:49:37 1994".len();
const IMF_FIXDATE: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();

/// Reads the date formats of RFC 9110, 5.6.7; only RFC 850 has neither of these lengths.
fn http_date(value: &[u8], now: Option<SystemTime>) -> Option<SystemTime> {
    let rewritten;
    let text = match value.len() {
        ASCTIME | IMF_FIXDATE => value,
        _ => {
            rewritten = imf_fixdate(value, now)?;
            &rewritten
        }
    };
    parse(text).or_else(|| leap_second(text))
}

fn parse(text: &[u8]) -> Option<SystemTime> {
    fixdate(text).or_else(|| any_date(text))
}

/// The usual form. `httpdate` reads it too, and for that works out the date again from what it has read:
/// that takes three times as long.
fn fixdate(text: &[u8]) -> Option<SystemTime> {
    let &[
        ref weekday @ ..,
        b',',
        b' ',
        d1,
        d2,
        b' ',
        m1,
        m2,
        m3,
        b' ',
        y1,
        y2,
        y3,
        y4,
        b' ',
        h1,
        h2,
        b':',
        i1,
        i2,
        b':',
        s1,
        s2,
        b' ',
        b'G',
        b'M',
        b'T',
    ] = text
    else {
        return None;
    };
    let weekday = match weekday {
        b"Thu" => 0, // 1 January 1970 was one
        b"Fri" => 1,
        b"Sat" => 2,
        b"Sun" => 3,
        b"Mon" => 4,
        b"Tue" => 5,
        b"Wed" => 6,
        _ => return None,
    };
    let year = number(y1, y2)? * 100 + number(y3, y4)?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // The days before the month, and those in it.
    let (before, length) = match &[m1, m2, m3] {
        b"Jan" => (0, 31),
        b"Feb" => (31, if is_leap { 29 } else { 28 }),
        b"Mar" => (59, 31),
        b"Apr" => (90, 30),
        b"May" => (120, 31),
        b"Jun" => (151, 30),
        b"Jul" => (181, 31),
        b"Aug" => (212, 31),
        b"Sep" => (243, 30),
        b"Oct" => (273, 31),
        b"Nov" => (304, 30),
        b"Dec" => (334, 31),
        _ => return None,
    };
    let (day, hour) = (number(d1, d2)?, number(h1, h2)?);
    let (minute, second) = (number(i1, i2)?, number(s1, s2)?);
    let is_one =
        year >= 1970 && (1..=length).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !is_one {
        return None;
    }
    let leap_days = |years: u64| years / 4 - years / 100 + years / 400;
    let leapt = u64::from(is_leap && before > 31);
    let past = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let days = past + before + leapt + day - 1;
    if days % 7 != weekday {
        return None;
    }
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Two digits.
fn number(tens: u8, ones: u8) -> Option<u64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u64::from(tens) * 10 + u64::from(ones))
}

fn any_date(text: &[u8]) -> Option<SystemTime> {
    let date: HttpDate = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(date.into())
}

/// The grammar has a second 60, Unix time doesn't: it is the first second of the next minute.
fn leap_second(text: &[u8]) -> Option<SystemTime> {
    let at = if text.len() == ASCTIME { 17 } else { 23 };
    let mut before = [0; IMF_FIXDATE];
    let before = &mut before[..text.len()];
    before.copy_from_slice(text);
    let seconds = &mut before[at..at + 2];
    if seconds != b"60" {
        return None;
    }
    seconds.copy_from_slice(b"59");
    nameable(parse(before)?.checked_add(Duration::from_secs(1))?)
}

/// A moment that has an HTTP date. Formatting any other panics in `httpdate`.
fn nameable(moment: SystemTime) -> Option<SystemTime> {
    let since_epoch = moment.duration_since(UNIX_EPOCH).ok()?;
    (since_epoch < YEAR_10000).then_some(moment)
}

/// Rewrites an RFC 850 date with its year in full. What is wrong with it stays wrong.
fn imf_fixdate(rfc850: &[u8], now: Option<SystemTime>) -> Option<[u8; IMF_FIXDATE]> {
    const WEEKDAYS: [&[u8]; 7] = [
        b"Monday",
        b"Tuesday",
        b"Wednesday",
        b"Thursday",
        b"Friday",
        b"Saturday",
        b"Sunday",
    ];

    let comma = rfc850.len().checked_sub(", 06-Nov-94 08:49:37 GMT".len())?;
    let (weekday, rest) = rfc850.split_at(comma);
    let &[
        b',',
        b' ',
        d1,
        d2,
        b'-',
        m1,
        m2,
        m3,
        b'-',
        y1,
        y2,
        ref time @ ..,
    ] = rest
    else {
        return None;
    };
    if !WEEKDAYS.contains(&weekday) {
        return None;
    }
    let year = full_year(digits(&[y1, y2])?, ([m1, m2, m3], [d1, d2], time), now)?;
    let mut text = [0; IMF_FIXDATE];
    let mut unwritten = &mut text[..];
    unwritten.write_all(&weekday[..3]).ok()?;
    unwritten
        .write_all(&[b',', b' ', d1, d2, b' ', m1, m2, m3])
        .ok()?;
    write!(unwritten, " {year:04}").ok()?;
    unwritten.write_all(time).ok()?;
    Some(text)
}

/// The year that two digits mean: the latest that isn't more than 50 years after `now`.
///
/// That is the rule of RFC 9110, 5.6.7. Without a `now` there is none to go by, and the digits
/// are read as POSIX does for dates that can't be older than its epoch.
fn full_year(
    digits: u64,
    (month, day, time): ([u8; 3], [u8; 2], &[u8]),
    now: Option<SystemTime>,
) -> Option<u64> {
    let Some(now) = now else {
        return Some(digits + if digits < 70 { 2000 } else { 1900 });
    };
    let mut today = [0; IMF_FIXDATE];
    write!(&mut today[..], "{}", HttpDate::from(nameable(now)?)).ok()?;
    let horizon = self::digits(&today[12..16])? + 50;
    let year = horizon - (horizon - digits) % 100;

    // In the year of the horizon itself the rest of the date decides.
    let today = (month_number(&today[8..11])?, &today[5..7], &today[16..]);
    let beyond = (month_number(&month)?, &day[..], time) > today;
    Some(if year == horizon && beyond {
        year - 100
    } else {
        year
    })
}

fn month_number(name: &[u8]) -> Option<usize> {
    b"JanFebMarAprMayJunJulAugSepOctNovDec"
        .chunks(3)
        .position(|month| month == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOV_6: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

    #[test]
    fn seconds_are_digits_and_nothing_else() {
        assert_eq!(read(b"120"), Some(after(120)));
        assert_eq!(read(b"0"), Some(after(0)));
        assert_eq!(read(b"000120"), Some(after(120)));
        for wrong in [
            &b""[..],
            b" ",
            b"+1",
            b"-1",
            b"1.5",
            b"1e3",
            b"0x10",
            b"1_000",
            b"1,000",
            b"1 2",
            b"120s",
            b"120, 120",
            b"inf",
            b"NaN",
            b"\"120\"",
            b"soon",
            b"\xef\xbc\x91",
            b"1\xb2",
            b"12\xff",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn seconds_up_to_the_bound_are_believed_and_not_one_more() {
        let bound = LONGEST_HINT.as_secs();
        assert_eq!(read(bound.to_string().as_bytes()), Some(after(bound)));
        assert_eq!(read((bound + 1).to_string().as_bytes()), None);
        for overflowing in ["4294967296000", "18446744073709551616", &"9".repeat(128)] {
            assert_eq!(read(overflowing.as_bytes()), None);
        }
    }

    #[test]
    fn white_space_round_the_value_is_trimmed() {
        assert_eq!(read(b" \t120 \t "), Some(after(120)));
        assert_eq!(read(b" Sun Nov  6 08:49:37 1994 "), Some(at(NOV_6)));
    }

    #[test]
    fn values_of_128_bytes_are_read_and_longer_ones_are_not() {
        assert_eq!(read(format!("{:0>128}", 7).as_bytes()), Some(after(7)));
        assert_eq!(read(format!("{:0>129}", 7).as_bytes()), None);
        assert_eq!(read(format!("{:>129}", 7).as_bytes()), None);
    }

    #[test]
    fn all_three_date_formats_name_the_same_moment() {
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(read(date.as_bytes()), Some(at(NOV_6)), "{date}");
            assert_eq!(
                read_at("Sun, 06 Nov 1994 08:49:00 GMT", date),
                Some(after(37)),
                "{date}"
            );
        }
    }

    #[test]
    fn a_date_is_measured_by_the_responses_own_clock() {
        let until = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(
            read_at("Sun, 06 Nov 1994 08:49:36 GMT", until),
            Some(after(1))
        );
        assert_eq!(read_at(until, until), Some(after(0)));
        assert_eq!(
            read_at("Sun, 06 Nov 1994 08:49:38 GMT", until),
            Some(after(0))
        );
        assert_eq!(
            read_at("Fri, 01 Jan 2049 00:00:00 GMT", until),
            Some(after(0))
        );
    }

    #[test]
    fn without_a_valid_date_the_wall_clock_has_to_do() {
        let until = "Sun, 06 Nov 1994 08:49:37 GMT";
        for date in ["", "now", "120", "Mon, 06 Nov 1994 08:49:36 GMT"] {
            assert_eq!(read_at(date, until), Some(at(NOV_6)), "{date}");
        }
        let differing = [
            ("date", "Sun, 06 Nov 1994 08:49:30 GMT"),
            ("date", "Sun, 06 Nov 1994 08:49:31 GMT"),
            ("retry-after", until),
        ];
        assert_eq!(retry_after(&headers(differing)), Some(at(NOV_6)));
    }

    #[test]
    fn time_spent_in_caches_is_taken_off() {
        let read = |age| {
            retry_after(&headers([
                ("date", "Sun, 06 Nov 1994 08:49:00 GMT"),
                ("age", age),
                ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ]))
        };
        assert_eq!(read("7"), Some(after(30)));
        assert_eq!(read("37"), Some(after(0)));
        assert_eq!(read("38"), Some(after(0)));
        assert_eq!(read(" 7 , 9"), Some(after(30)));
        for ignored in ["", "-7", "7.5", "seven", "99999999999999999999", "0"] {
            assert_eq!(read(ignored), Some(after(37)), "{ignored}");
        }
    }

    #[test]
    fn an_age_past_the_year_9999_leaves_no_clock() {
        let hint = retry_after(&headers([
            ("date", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("age", "1"),
            ("retry-after", "Sunday, 06-Nov-94 08:49:37 GMT"),
        ]));
        assert_eq!(hint, Some(at(NOV_6)));
    }

    #[test]
    fn dates_beyond_the_bound_are_ignored() {
        let date = "Thu, 01 Jan 1970 00:00:00 GMT";
        let at_bound = httpdate::fmt_http_date(UNIX_EPOCH + LONGEST_HINT);
        let past_bound =
            httpdate::fmt_http_date(UNIX_EPOCH + LONGEST_HINT + Duration::from_secs(1));
        assert_eq!(read_at(date, &at_bound), Some(Hint::After(LONGEST_HINT)));
        assert_eq!(read_at(date, &past_bound), None);
    }

    #[test]
    fn dates_lie_between_1970_and_9999() {
        assert_eq!(read(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(at(0)));
        assert_eq!(read(b"Wed, 31 Dec 1969 23:59:59 GMT"), None);
        let last = YEAR_10000.as_secs() - 1;
        assert_eq!(read(b"Fri, 31 Dec 9999 23:59:59 GMT"), Some(at(last)));
        assert_eq!(read(b"Fri, 31 Dec 9999 23:59:60 GMT"), None);
        assert_eq!(read(b"Sat, 01 Jan 10000 00:00:00 GMT"), None);
    }

    #[test]
    fn a_leap_second_is_the_first_of_the_next_minute() {
        let new_year_2017 = 1_483_228_800;
        for date in [
            "Sat, 31 Dec 2016 23:59:60 GMT",
            "Saturday, 31-Dec-16 23:59:60 GMT",
            "Sat Dec 31 23:59:60 2016",
        ] {
            assert_eq!(read(date.as_bytes()), Some(at(new_year_2017)), "{date}");
        }
        assert_eq!(read(b"Sat, 31 Dec 2016 23:59:61 GMT"), None);
        assert_eq!(read(b"Sat, 31 Dec 2016 23:60:00 GMT"), None);
    }

    #[test]
    fn malformed_dates_are_ignored() {
        for wrong in [
            "Mon, 06 Nov 1994 08:49:37 GMT", // it was a Sunday
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "sun, 06 nov 1994 08:49:37 gmt",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06 Nov 94 08:49:37 GMT",
            "Someday, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Now-94 08:49:37 GMT",
            "Sunday, 06-Nov-9x 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "1994-11-06T08:49:37Z",
            ", 06-Nov-94 08:49:37 GMT",
        ] {
            assert_eq!(read(wrong.as_bytes()), None, "{wrong}");
            assert_eq!(
                read_at("Sun, 06 Nov 1994 08:49:00 GMT", wrong),
                None,
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead_of_the_server() {
        // 2044 is fifty years after 1994, where 6 November is a Sunday too.
        let now = UNIX_EPOCH + Duration::from_secs(NOV_6);
        let year = |digits, month, day, time: &str| {
            full_year(digits, (month, day, time.as_bytes()), Some(now))
        };
        let same_moment = year(44, *b"Nov", *b"06", " 08:49:37 GMT");
        let a_second_more = year(44, *b"Nov", *b"06", " 08:49:38 GMT");
        assert_eq!((same_moment, a_second_more), (Some(2044), Some(1944)));
        assert_eq!(year(44, *b"Nov", *b"07", " 00:00:00 GMT"), Some(1944));
        assert_eq!(year(44, *b"Oct", *b"31", " 23:59:59 GMT"), Some(2044));
        assert_eq!(year(44, *b"Dec", *b"01", " 00:00:00 GMT"), Some(1944));
        assert_eq!(year(43, *b"Dec", *b"31", " 23:59:59 GMT"), Some(2043));
        assert_eq!(year(45, *b"Jan", *b"01", " 00:00:00 GMT"), Some(1945));
    }

    #[test]
    fn a_two_digit_year_may_lie_in_the_next_century_or_the_last() {
        let next = "Friday, 01-Jan-10 00:00:00 GMT"; // 2010
        assert_eq!(
            read_at("Thu, 31 Dec 2009 23:59:59 GMT", next),
            Some(after(1))
        );
        let turn = "Friday, 01-Jan-00 00:00:00 GMT"; // 2100
        assert_eq!(
            read_at("Thu, 31 Dec 2099 23:59:59 GMT", turn),
            Some(after(1))
        );
        let past = "Friday, 31-Dec-99 23:59:59 GMT"; // 1999
        assert_eq!(
            read_at("Sat, 01 Jan 2000 00:00:00 GMT", past),
            Some(after(0))
        );
    }

    #[test]
    fn without_a_date_two_digits_mean_1970_to_2069() {
        assert_eq!(read(b"Thursday, 01-Jan-70 00:00:00 GMT"), Some(at(0)));
        let end_of_2069 = 3_155_759_999;
        assert_eq!(
            read(b"Tuesday, 31-Dec-69 23:59:59 GMT"),
            Some(at(end_of_2069))
        );
    }

    #[test]
    fn a_header_that_comes_twice_counts_if_both_agree() {
        let twice = |a, b| retry_after(&headers([("retry-after", a), ("retry-after", b)]));
        assert_eq!(twice("120", "120"), Some(after(120)));
        assert_eq!(twice("120", " 120 "), Some(after(120)));
        assert_eq!(twice("120", "121"), None);
        assert_eq!(twice("120", ""), None);
        assert_eq!(twice("", "120"), None);
    }

    #[test]
    fn no_header_is_no_hint() {
        assert_eq!(retry_after(&HeaderMap::new()), None);
        assert_eq!(retry_after(&headers([("age", "3")])), None);
    }

    proptest! {
        #[test]
        fn any_moment_reads_back_in_every_format(
            now in 0..YEAR_10000.as_secs(),
            wait in 0..=1_000_000_000_u64,
        ) {
            let moment = UNIX_EPOCH + Duration::from_secs(now + wait);
            prop_assume!(nameable(moment).is_some());
            let imf = httpdate::fmt_http_date(moment);
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
            for text in [asctime(&imf), rfc850(&imf), imf] {
                prop_assert_eq!(read_at(&date, &text), Some(after(wait)), "{} after {}", text, date);
            }
        }

        #[test]
        fn a_fixdate_is_read_as_httpdate_reads_it_whatever_is_wrong_with_it(
            moment in 0..YEAR_10000.as_secs(),
            changes in prop::collection::vec(
                (0..IMF_FIXDATE, prop_oneof![b'0'..=b'9', any::<u8>()]), 0..3,
            ),
            (weekday, day, month) in ("(Mon|Sun|Thu)?", "([0-3][0-9])?", "(Feb|Dec)?"),
        ) {
            let mut text = fixdate_of(moment).into_bytes();
            for (at, part) in [(0, &weekday), (5, &day), (8, &month)] {
                text[at..at + part.len()].copy_from_slice(part.as_bytes());
            }
            for (at, byte) in changes {
                text[at] = byte;
            }
            prop_assert_eq!(fixdate(&text), any_date(&text), "{}", text.escape_ascii());
        }

        #[test]
        fn no_value_panics_or_exceeds_the_bound(value in "\\PC{0,140}", date in "\\PC{0,40}") {
            within_bounds(&value, &date)?;
        }

        #[test]
        fn nothing_that_looks_like_a_date_panics(
            value in "(Sun|Mon|Saturday)?,? ?[0-3]?[0-9][- ](Jan|Feb|Xxx)[- ][0-9]{2,5} [0-9:]{8} ?(GMT)?",
            date in "(Sun|Mon), [0-3][0-9] (Jan|Dec) [0-9]{4} [0-2][0-9]:[0-5][0-9]:[0-6][0-9] GMT",
        ) {
            within_bounds(&value, &date)?;
        }
    }

    #[test]
    fn every_day_of_each_kind_of_year_is_read_and_the_one_after_a_months_last_is_not() {
        const DAY: u64 = 86_400;
        for day in 0..400 * 366 {
            let moment = UNIX_EPOCH + Duration::from_secs(day * DAY + day % DAY);
            let text = httpdate::fmt_http_date(moment);
            assert_eq!(fixdate(text.as_bytes()), Some(moment), "{text}");
        }
        for year in [1970, 1972, 2000, 2023, 2024, 2100, 9999] {
            for (month, last) in [("Feb", 28), ("Apr", 30), ("Dec", 31)] {
                for weekday in ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"] {
                    for day in [0, last, last + 1, last + 2] {
                        let text = format!("{weekday}, {day:02} {month} {year} 23:59:59 GMT");
                        let text = text.as_bytes();
                        assert_eq!(fixdate(text), any_date(text), "{}", text.escape_ascii());
                    }
                }
            }
        }
    }

    fn fixdate_of(moment: u64) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(moment))
    }

    fn within_bounds(value: &str, date: &str) -> Result<(), TestCaseError> {
        let mut map = HeaderMap::new();
        for (name, text) in [(header::RETRY_AFTER, value), (header::DATE, date)] {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                map.insert(name, value);
            }
        }
        match retry_after(&map) {
            Some(Hint::After(wait)) => prop_assert!(wait <= LONGEST_HINT),
            Some(Hint::At(moment)) => prop_assert!(nameable(moment).is_some()),
            Some(Hint::Never) => prop_assert!(false, "Retry-After never says never"),
            None => {}
        }
        Ok(())
    }

    fn asctime(imf: &str) -> String {
        let day: u8 = imf[5..7].parse().expect("two digits");
        format!(
            "{} {} {day:2} {} {}",
            &imf[..3],
            &imf[8..11],
            &imf[17..25],
            &imf[12..16]
        )
    }

    fn rfc850(imf: &str) -> String {
        let rest = match &imf[..3] {
            "Tue" => "sday",
            "Wed" => "nesday",
            "Thu" => "rsday",
            "Sat" => "urday",
            _ => "day",
        };
        format!(
            "{}{rest}, {}-{}-{} {}",
            &imf[..3],
            &imf[5..7],
            &imf[8..11],
            &imf[14..16],
            &imf[17..]
        )
    }

    fn read(value: &[u8]) -> Option<Hint> {
        let value = HeaderValue::from_bytes(value).expect("a header value");
        retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value)]))
    }

    fn read_at(date: &str, value: &str) -> Option<Hint> {
        retry_after(&headers([("date", date), ("retry-after", value)]))
    }

    fn headers<const N: usize>(fields: [(&'static str, &str); N]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        map
    }

    fn after(seconds: u64) -> Hint {
        Hint::After(Duration::from_secs(seconds))
    }

    fn at(seconds: u64) -> Hint {
        Hint::At(UNIX_EPOCH + Duration::from_secs(seconds))
    }
}
