//! The table, row by row.

use std::collections::BTreeSet;

use evenkeel::diagnosis::{Cause, Origin, Persistence, Signature, Signatures, Symptoms, Test};
use evenkeel::verdict::Processed;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::fixtures::{Sight, others, recorded, written};

#[test]
fn every_row_has_a_fixture() {
    let table = Signatures::new();
    let mut met = BTreeSet::new();
    let (recorded, others, written) = (recorded(), others(), written());
    for record in recorded.iter().chain(&others).chain(&written) {
        for sight in [Sight::Headers, Sight::Whole] {
            met.extend(
                table
                    .matching(&record.seen(sight))
                    .iter()
                    .map(|row| row.name()),
            );
        }
    }
    let missing: Vec<_> = table
        .rows()
        .filter(|row| !met.contains(row.name()))
        .collect();
    assert!(missing.is_empty(), "no fixture: {missing:#?}");
}

#[test]
fn what_the_sources_say_is_read_so() {
    let mut wrong = Vec::new();
    for (number, record) in written().iter().enumerate() {
        let diagnosis = record.seen(Sight::Whole).diagnose();
        let by = match diagnosis.origin() {
            Origin::Edge(name) | Origin::Proxy(name) => name,
            Origin::Application => "application",
            _ => "",
        };
        let origin = record.text("origin");
        let same = diagnosis.cause().as_str() == record.text("cause");
        if !same || (!origin.is_empty() && origin != by) {
            let evidence: Vec<_> = diagnosis
                .evidence()
                .iter()
                .map(ToString::to_string)
                .collect();
            let cause = record.text("cause");
            wrong.push(format!(
                "line {}: {cause} by {origin}, not {diagnosis}, of {evidence:?}",
                number + 1
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_are_unique_and_every_row_says_something_and_where_it_is_from() {
    let (mut names, table) = (BTreeSet::new(), Signatures::new());
    for row in table.rows() {
        assert!(names.insert(row.name()), "{} is there twice", row.name());
        assert!(!row.source().is_empty(), "{}", row.name());
        assert!(!row.weights().is_empty(), "{}", row.name());
        for (_, weight) in row.weights() {
            assert!(
                (-20..=35).contains(weight) && *weight != 0,
                "{}",
                row.name()
            );
        }
    }
    assert!(names.len() > 150);
}

#[test]
fn a_row_of_ones_own_counts_like_the_others_and_can_be_the_only_one() {
    const MINE: Signature = Signature::new("acme: at its limit", "our runbook")
        .by(Origin::Proxy("acme"))
        .on(&[503])
        .when(&[Test::HeaderHas("x-acme", "limit")])
        .says(&[(Cause::RateLimit, 25)])
        .processed(Processed::No)
        .lasts(Persistence::Momentary);
    let mut headers = HeaderMap::new();
    headers.insert("x-acme", HeaderValue::from_static("At its LIMIT"));
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
    assert_eq!(seen.diagnose().cause(), Cause::Unknown);

    let diagnosis = Signatures::new().with(MINE).diagnose(&seen);
    assert_eq!(diagnosis.cause(), Cause::RateLimit);
    assert_eq!(diagnosis.origin(), Origin::Proxy("acme"));
    assert_eq!(diagnosis.processed(), Processed::No);
    assert_eq!(diagnosis.evidence()[0].name(), MINE.name());
    assert_eq!(diagnosis.evidence()[0].source(), "our runbook");

    let alone = Signatures::new().keep(|_| false).with(MINE);
    assert_eq!(alone.rows().count(), 1);
    assert_eq!(alone.diagnose(&seen).evidence().len(), 1);
    let other = Symptoms::response(StatusCode::BAD_GATEWAY, &headers);
    assert_eq!(alone.diagnose(&other).cause(), Cause::Unknown);
    assert!(alone.diagnose(&other).evidence().is_empty());
}

#[test]
fn a_tie_is_unknown_and_a_little_more_is_not() {
    const fn towards(name: &'static str, says: &'static [(Cause, i8)]) -> Signature {
        Signature::new(name, "a test").on(&[503]).says(says)
    }
    let headers = HeaderMap::new();
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
    let cause = |row| {
        let table = Signatures::new().keep(|_| false).with(row);
        table.diagnose(&seen).cause()
    };
    // Not knowing has eight; twice as likely is three more.
    assert_eq!(
        cause(towards("weak", &[(Cause::Overload, 10)])),
        Cause::Unknown
    );
    assert_eq!(
        cause(towards("enough", &[(Cause::Overload, 11)])),
        Cause::Overload
    );
    let tied = &[(Cause::Overload, 22), (Cause::Maintenance, 20)];
    assert_eq!(cause(towards("tied", tied)), Cause::Unknown);
    let clear = &[(Cause::Overload, 23), (Cause::Maintenance, 20)];
    assert_eq!(cause(towards("clear", clear)), Cause::Overload);
}

#[test]
fn a_body_counts_only_if_it_is_text_not_coded_and_of_a_failure() {
    let body = b"no healthy upstream";
    let read = |status: u16, fields: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap();
        Symptoms::response(status, &headers)
            .body(body)
            .diagnose()
            .cause()
    };
    assert_eq!(read(503, &[]), Cause::UpstreamUnavailable);
    assert_eq!(
        read(503, &[("content-type", "Text/Plain")]),
        Cause::UpstreamUnavailable
    );
    assert_eq!(
        read(503, &[("content-type", "application/json")]),
        Cause::UpstreamUnavailable
    );
    assert_eq!(
        read(503, &[("content-encoding", "identity")]),
        Cause::UpstreamUnavailable
    );
    assert_eq!(read(503, &[("content-type", "image/png")]), Cause::Unknown);
    assert_eq!(read(503, &[("content-encoding", "gzip")]), Cause::Unknown);
    assert_eq!(read(200, &[]), Cause::Unknown);
}

#[test]
fn only_the_first_4_kib_of_a_body_are_read() {
    let headers = HeaderMap::new();
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
    let marker = b"no healthy upstream";
    for (before, cause) in [(4096 - marker.len(), true), (4097 - marker.len(), false)] {
        let mut body = vec![b' '; before];
        body.extend_from_slice(marker);
        let found = seen.body(&body).diagnose().cause() == Cause::UpstreamUnavailable;
        assert_eq!(found, cause, "{before}");
    }
}

#[test]
fn only_the_first_eight_values_of_a_header_are_read() {
    const LAST: Signature = Signature::new("last", "a test")
        .when(&[Test::HeaderIs("via", "last")])
        .says(&[(Cause::Overload, 20)]);
    let table = Signatures::new().keep(|_| false).with(LAST);
    for (before, cause) in [(7, Cause::Overload), (8, Cause::Unknown)] {
        let mut headers = HeaderMap::new();
        for _ in 0..before {
            headers.append("via", HeaderValue::from_static("1.1 other"));
        }
        headers.append("via", HeaderValue::from_static("last"));
        let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
        assert_eq!(table.diagnose(&seen).cause(), cause, "{before}");
    }
}

#[test]
fn what_has_no_body_is_told_by_its_length_or_by_the_body() {
    const MAY: Signature = Signature::new("some", "a test")
        .when(&[Test::Body])
        .says(&[(Cause::Overload, 20)]);
    const NONE: Signature = Signature::new("none", "a test")
        .when(&[Test::NoBody])
        .says(&[(Cause::Maintenance, 20)]);
    let table = Signatures::new().keep(|_| false).with(MAY).with(NONE);
    let cause = |length: &'static str, body: Option<&[u8]>| {
        let mut headers = HeaderMap::new();
        if !length.is_empty() {
            headers.insert("content-length", HeaderValue::from_static(length));
        }
        let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
        let seen = body.map_or(seen, |body| seen.body(body));
        table.diagnose(&seen).cause()
    };
    for (length, body) in [("0", None), ("", Some(&b""[..])), ("0", Some(&b""[..]))] {
        assert_eq!(cause(length, body), Cause::Maintenance, "{length} {body:?}");
    }
    for (length, body) in [("", None), ("10", None), ("", Some(&b"0"[..]))] {
        assert_eq!(cause(length, body), Cause::Overload, "{length} {body:?}");
    }
}

#[test]
fn a_proxy_that_tried_twice_proves_nothing() {
    let mut headers = HeaderMap::new();
    headers.insert("x-envoy-attempt-count", HeaderValue::from_static("1"));
    let processed = |headers: &HeaderMap| {
        let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, headers);
        seen.body(b"no healthy upstream").diagnose().processed()
    };
    assert_eq!(processed(&headers), Processed::No);
    headers.insert("x-envoy-attempt-count", HeaderValue::from_static("2"));
    assert_eq!(processed(&headers), Processed::Maybe);
}

#[test]
fn a_time_limit_is_told_by_a_failure_a_little_after_it() {
    let headers = HeaderMap::new();
    let seen = Symptoms::response(StatusCode::BAD_GATEWAY, &headers).reason(b"Proxy Error");
    let page = seen.body(b"Error reading from remote server");
    let at = |millis| {
        let elapsed = std::time::Duration::from_millis(millis);
        let diagnosis = page.elapsed(elapsed).diagnose();
        (diagnosis.cause(), diagnosis.confidence() >= 80)
    };
    // What breaks off does so at once; later it was likely a limit, and at a tidy time surely.
    assert_eq!(at(899), (Cause::UpstreamUnavailable, true));
    for (millis, sure) in [
        (900, false),
        (9_899, false),
        (9_900, true),
        (10_125, true),
        (10_126, false),
    ] {
        assert_eq!(at(millis), (Cause::GatewayTimeout, sure), "{millis}");
    }
}

#[test]
fn words_are_found_however_a_page_is_broken_into_lines() {
    let headers = HeaderMap::new();
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
    let page = "<html><head>\n<p>unable to service your\nrequest due to maintenance downtime or \
                capacity\r\n\tproblems. Please try again later.</p>";
    let one_line = page.replace(['\n', '\r', '\t'], " ");
    for page in [page, &one_line] {
        let diagnosis = seen.body(page.as_bytes()).diagnose();
        assert_eq!(diagnosis.origin(), Origin::Proxy("apache"));
        assert_eq!(diagnosis.cause(), Cause::UpstreamUnavailable);
        // It says maintenance whatever it is, so it can't be sure.
        assert!(diagnosis.confidence() < 80);
    }
}

#[test]
fn a_wait_that_never_changes_announces_no_end() {
    let announced = |server: &'static str, wait: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("server", HeaderValue::from_static(server));
        headers.insert("retry-after", HeaderValue::from_static(wait));
        let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
        let lasts = seen.diagnose().persistence();
        matches!(lasts, Persistence::Announced(_))
    };
    assert!(!announced("Varnish", "5"));
    assert!(announced("Varnish", "6") && announced("Varnish", "4"));
    assert!(announced("shop", "5"));
}

#[test]
fn words_in_an_object_weigh_more_than_in_a_page() {
    let score = |kind: &'static str, body: &str, cause| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(kind));
        let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
        seen.body(body.as_bytes()).diagnose().score(cause)
    };
    for (body, cause) in [
        ("{\"why\": \"under maintenance\"}", Cause::Maintenance),
        ("{\"why\": \"overloaded\"}", Cause::Overload),
        ("{\"why\": \"quota\"}", Cause::RateLimit),
        ("{\"why\": \"unreachable\"}", Cause::UpstreamUnavailable),
        ("{\"why\": \"deadline exceeded\"}", Cause::GatewayTimeout),
        ("{\"why\": \"no such host\"}", Cause::Configuration),
        ("{\"why\": \"circuit breaker\"}", Cause::UpstreamUnavailable),
    ] {
        let object = score("application/json", body, cause);
        assert!(object > score("text/html", body, cause), "{body}");
        // And more than all that says that an application made it.
        let maker = score("application/json", body, Cause::ApplicationError);
        assert!(object > maker, "{body}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn a_diagnosis_is_written_in_plain_words() {
    let mut headers = HeaderMap::new();
    headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    headers.insert("retry-after", HeaderValue::from_static("2"));
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
    let written = serde_json::to_value(seen.body(b"reset reason: overflow").diagnose()).unwrap();
    assert_eq!(written["cause"], "overload");
    assert_eq!(written["origin"]["proxy"], "envoy");
    assert_eq!(written["processed"], "no");
    assert_eq!(written["persistence"]["announced"]["secs"], 2);
    assert_eq!(written["confidence"], 99);
    assert_eq!(
        written["evidence"][0]["name"],
        "envoy: circuit breaker full"
    );
    assert_eq!(written["evidence"][0]["weight"], 25);
}

#[test]
fn no_row_of_ones_own_panics_however_odd_it_is() {
    const HEAVY: Signature = Signature::new("heavy", "a test")
        .on(&[503])
        .says(&[(Cause::Overload, i8::MAX), (Cause::Maintenance, i8::MIN)]);
    let odd: [&'static [Test]; 7] = [
        &[Test::HeaderHas("", ""), Test::HeaderHas("a b", "")],
        &[Test::HeaderHas("server", "")],
        &[
            Test::HeaderHasNone("server", &["", "x"]),
            Test::HeaderAny(&["", "\0"]),
        ],
        &[
            Test::Body,
            Test::BodyHas(&["", "ab"]),
            Test::NoBodyHas(""),
            Test::BodyBegins(""),
        ],
        &[Test::Waited(&[0, u32::MAX]), Test::RetryAfter(u64::MAX, 0)],
        &[
            Test::WaitedAtLeast(u32::MAX),
            Test::HeaderHasOne("", &[""]),
            Test::HeaderHasOne("server", &[]),
        ],
        &[Test::Reason(""), Test::Failed(""), Test::ProxyError(&[""])],
    ];
    let mut table = Signatures::new();
    for tests in odd {
        table = table.with(HEAVY.when(tests));
    }
    for _ in 0..300 {
        table = table.with(HEAVY);
    }
    let mut headers = HeaderMap::new();
    headers.insert("server", HeaderValue::from_static("x"));
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
    let diagnosis = table.diagnose(&seen.body(b"ab").elapsed(std::time::Duration::MAX));
    assert_eq!(diagnosis.cause(), Cause::Overload);
    assert_eq!(diagnosis.confidence(), 99);
    assert_eq!(diagnosis.score(Cause::Overload), i16::MAX);
    assert_eq!(diagnosis.score(Cause::Maintenance), i16::MIN);
}
