//! Instructions for each case, counted by callgrind through gungraun: `cargo bench --bench instructions`.
//! Needs valgrind, and `cargo install --locked gungraun-runner` in the version of gungraun that
//! Cargo.toml names. `benches/table` reads what it leaves in the target folder.
#![allow(missing_docs)]

#[allow(dead_code, unreachable_pub)] // a folder that several programs share
mod cases;

use gungraun::Callgrind;
use gungraun::prelude::*;

use cases::Run;

/// How often a case is done under the counter, after it was done as often without.
const TIMES: u64 = 1_000;

#[library_benchmark]
#[benches::case(iter = 0..cases::all().len(), setup = warm)]
fn count(mut run: Run) -> Run {
    run(TIMES);
    run
}

fn warm(case: usize) -> Run {
    let mut run = (cases::all()[case].set_up)();
    run(TIMES);
    run
}

library_benchmark_group!(name = instructions, benchmarks = count);

main!(
    // Addresses and environment are the same in each run anyway; the caches are not simulated.
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::with_args(["--cache-sim=no"]));
    library_benchmark_groups = instructions
);
