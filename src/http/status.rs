//! What a status code means, taken by itself.

use http::StatusCode;

use crate::verdict::{Kind, Label, Processed, Verdict};

/// What a status code means for the policies, before any header is read.
///
/// | status | kind | processed | why |
/// |---|---|---|---|
/// | 1xx-3xx | success | yes | the target did its part; redirects are the client's business |
/// | 408 | transient | maybe | the request was too slow, or the connection idle |
/// | 421 | transient | no | the wrong server for this host (RFC 9110, 15.5.20) |
/// | 425 | transient | no | came as TLS early data, and was refused for it (RFC 8470) |
/// | 429 | rate-limited | maybe | limiters mostly stand before the work, but need not (RFC 6585) |
/// | 500, 502, 520 | transient | maybe | a crash, or no usable answer: either can come after the work |
/// | 503, 529 | overloaded | maybe | usually shed in time; some gateways say it of anything |
/// | 504, 522, 524, 527 | transient | maybe | a gateway stopped waiting; the work may be done |
/// | 521, 523 | transient | no | the edge had no connection to the origin |
/// | 525, 526 | target's fault | no | TLS to the origin failed, until somebody mends it |
/// | 501, 505, 511, other 5xx, 600 and up | target's fault | maybe | a missing ability, not a bad moment |
/// | other 4xx | request's fault | maybe | repeating it gives the same answer |
///
/// 520 to 527 are Cloudflare's; 529 is what several APIs say when the whole service is too busy.
/// Codes of 600 and up belong to no class: RFC 9110, 15, has clients treat them as a 5xx.
///
/// Evidence in the headers can turn maybe into no: see
/// [`provably_not_sent`](crate::http::provably_not_sent).
///
/// # Examples
///
/// ```
/// use evenkeel::http::status_verdict;
/// use evenkeel::verdict::{Kind, Processed};
/// use http::StatusCode;
///
/// let busy = status_verdict(StatusCode::SERVICE_UNAVAILABLE);
/// assert_eq!(busy.kind(), Kind::Overloaded);
/// assert_eq!(busy.was_processed(), Processed::Maybe);
///
/// assert!(!status_verdict(StatusCode::NOT_FOUND).is_retryable());
/// ```
#[inline]
pub fn status_verdict(status: StatusCode) -> Verdict {
    match status.as_u16() {
        code @ 100..400 => Verdict::success().label(Label::Status(code)),
        code => failure(code),
    }
}

fn failure(code: u16) -> Verdict {
    let (kind, processed) = match code {
        421 | 425 | 521 | 523 => (Kind::Transient, Processed::No),
        429 => (Kind::RateLimited, Processed::Maybe),
        // 522 means no answer to the SYN, or none to the request: the code is the same.
        408 | 500 | 502 | 504 | 520 | 522 | 524 | 527 => (Kind::Transient, Processed::Maybe),
        // Usually turned away at the door. But Varnish and Fastly say 503 for a timeout as well,
        // so the status is no proof: that takes evidence.
        503 | 529 => (Kind::Overloaded, Processed::Maybe),
        525 | 526 => (Kind::TargetFault, Processed::No),
        400..=499 => (Kind::RequestFault, Processed::Maybe),
        _ => (Kind::TargetFault, Processed::Maybe),
    };
    Verdict::new(kind)
        .processed(processed)
        .label(Label::Status(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_below_400_is_success_and_none_above() {
        for code in 100..=999 {
            assert_eq!(verdict(code).is_success(), code < 400, "{code}");
        }
    }

    #[test]
    fn exactly_these_codes_can_be_retried() {
        let retryable: Vec<u16> = (100..=999).filter(|&c| verdict(c).is_retryable()).collect();
        assert_eq!(
            retryable,
            [
                408, 421, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 527, 529
            ]
        );
    }

    #[test]
    fn exactly_these_codes_prove_that_nothing_was_processed() {
        let unprocessed: Vec<u16> = (100..=999)
            .filter(|&code| verdict(code).was_processed() == Processed::No)
            .collect();
        assert_eq!(unprocessed, [421, 425, 521, 523, 525, 526]);
    }

    #[test]
    fn too_much_work_and_too_many_calls_are_told_apart() {
        assert_eq!(verdict(503).kind(), Kind::Overloaded);
        assert_eq!(verdict(529).kind(), Kind::Overloaded);
        assert_eq!(verdict(429).kind(), Kind::RateLimited);
    }

    #[test]
    fn permanent_failures_name_whose_fault_they_are() {
        for code in [400, 401, 403, 404, 409, 410, 412, 422, 451, 499] {
            assert_eq!(verdict(code).kind(), Kind::RequestFault, "{code}");
        }
        for code in [501, 505, 506, 508, 511, 525, 526, 528, 530, 599, 600, 999] {
            assert_eq!(verdict(code).kind(), Kind::TargetFault, "{code}");
        }
    }

    #[test]
    fn the_label_is_the_code_and_there_is_no_hint() {
        for code in 100..=999 {
            assert_eq!(verdict(code).error_type(), Label::Status(code));
            assert_eq!(verdict(code).server_hint(), None);
        }
    }

    fn verdict(code: u16) -> Verdict {
        status_verdict(StatusCode::from_u16(code).expect("100 to 999 are status codes"))
    }
}
