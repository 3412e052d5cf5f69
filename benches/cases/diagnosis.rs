//! What a failure costs where it is diagnosed.

use std::future::ready;
use std::hint::black_box;

use evenkeel::Pipeline;
use evenkeel::diagnosis::Symptoms;
use evenkeel::http::Http;
use http::{Response, StatusCode};

use super::http::headers;
use super::{Case, Run, case, done, each};

pub const CASES: &[Case] = &[
    case("diagnosis", "of a 503, by its headers", of_headers),
    case("diagnosis", "of a 503, with 4 KiB of body", of_body),
    case("diagnosis", "a call that fails with a 503", of_a_call),
];

pub fn of_headers() -> Run {
    let busy = busy();
    each(move || {
        let _ = black_box(Symptoms::of_response(black_box(&busy)).diagnose());
    })
}

pub fn of_body() -> Run {
    let (busy, page) = (busy(), vec![b'x'; 4096]);
    each(move || {
        let seen = Symptoms::of_response(black_box(&busy));
        let _ = black_box(seen.body(black_box(&page)).diagnose());
    })
}

pub fn of_a_call() -> Run {
    let (pipeline, busy) = (Pipeline::new().classify(Http::new()), busy());
    each(move || {
        let mut answer = Some(ready(Ok::<_, std::io::Error>(busy.clone())));
        done(pipeline.run(|_| answer.take().expect("one attempt")));
    })
}

/// An overloaded envoy's.
fn busy() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    *response.headers_mut() = headers(&[
        ("server", "envoy"),
        ("content-type", "text/plain"),
        ("x-envoy-overloaded", "true"),
    ]);
    response
}
