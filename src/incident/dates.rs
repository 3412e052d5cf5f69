//! Moments and lengths for people to read: pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As in RFC 3339, in UTC: `2026-01-31T09:05:00Z`. Before 1970 it is the first moment of it.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let (date, time) = parts(at);
    format!("{date}T{time}Z")
}

/// `2026-01-31 09:05:00 UTC`.
pub(super) fn in_words(at: SystemTime) -> String {
    let (date, time) = parts(at);
    format!("{date} {time} UTC")
}

/// `09:05:00`.
pub(super) fn time_of_day(at: SystemTime) -> String {
    parts(at).1
}

/// The time of day, and the date as well if it is another one than that of `beside`.
pub(super) fn near(at: SystemTime, beside: SystemTime) -> String {
    let (date, time) = parts(at);
    if date == parts(beside).0 {
        time
    } else {
        format!("{date} {time} UTC")
    }
}

/// `850 ms`, `7.5 s`, `4 min 10 s`, `3 h 5 min`.
pub(super) fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..=9 => format!("{:.1} s", length.as_secs_f64()),
        10..=59 => format!("{seconds} s"),
        60..=3599 => two(seconds / 60, "min", seconds % 60, "s"),
        _ => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
    }
}

fn two(large: u64, unit: &str, small: u64, of: &str) -> String {
    match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {of}"),
    }
}

fn parts(at: SystemTime) -> (String, String) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(since / 86_400);
    let of_day = since % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    (
        format!("{year:04}-{month:02}-{day:02}"),
        format!("{hour:02}:{minute:02}:{second:02}"),
    )
}

/// The date of a day counted from 1970-01-01. A year here begins in March, so that the day that some
/// years have more is their last one; 400 of them are always as long.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (year + era * 400 + next, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_short_and_in_the_unit_that_fits() {
        let of = |millis| length(Duration::from_millis(millis));
        let read = [
            0, 999, 1_000, 9_949, 10_000, 59_999, 60_000, 250_000, 3_600_000, 11_100_000,
        ];
        let said = read.map(of);
        assert_eq!(
            said,
            [
                "0 ms",
                "999 ms",
                "1.0 s",
                "9.9 s",
                "10 s",
                "59 s",
                "1 min",
                "4 min 10 s",
                "1 h",
                "3 h 5 min"
            ]
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let of = |seconds| in_words(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(of(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(of(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(of(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(of(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00Z"
        );
    }

    #[test]
    fn a_time_on_another_day_has_its_date() {
        let of = |seconds| near(UNIX_EPOCH + Duration::from_secs(seconds), UNIX_EPOCH);
        assert_eq!(of(86_399), "23:59:59");
        assert_eq!(of(86_400), "1970-01-02 00:00:00 UTC");
    }

    proptest! {
        #[test]
        fn they_are_what_another_library_says(seconds in 0_u64..253_402_300_800) {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            let theirs = httpdate::fmt_http_date(at);
            let ours = rfc3339(at);
            let (day, year, time) = (&theirs[5..7], &theirs[12..16], &theirs[17..25]);
            let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
            let month = months.find(&theirs[8..11]).expect("a month") / 3 + 1;
            prop_assert_eq!(ours, format!("{year}-{month:02}-{day}T{time}Z"));
        }
    }
}
