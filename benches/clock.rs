//! Nanoseconds for each case, by criterion: `cargo bench --bench clock`, or a part of them,
//! `cargo bench --bench clock -- breaker`. Clock times wobble; nothing asserts them.
#![allow(missing_docs)]

#[allow(dead_code, unreachable_pub)] // a folder that several programs share
mod cases;

use std::time::{Duration, Instant};

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    for case in cases::all() {
        let mut group = criterion.benchmark_group(case.concept);
        group.bench_function(case.name, |bencher| {
            let mut run = (case.set_up)();
            bencher.iter_custom(|count| {
                let begun = Instant::now();
                run(count);
                begun.elapsed()
            });
        });
        group.finish();
    }
    criterion.final_summary();
}
