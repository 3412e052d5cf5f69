//! All that was measured, as one table: `cargo bench` does the whole, and this comes last. By itself
//! (`cargo bench --bench table`) it counts allocations and reads what criterion and gungraun left in the
//! target folder, if the code is still the same.
//!
//! - `-- --check` compares instructions and allocations with `benches/baseline.txt`, or with `--baseline FILE`,
//!   and fails if a case takes 5 % more instructions, allocates more or is missing.
//! - `-- --renew` writes that file.
#![allow(missing_docs)]

mod baseline;
#[path = "../cases/mod.rs"]
#[allow(dead_code, unreachable_pub)] // a folder that several programs share
mod cases;
mod measured;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use baseline::Row;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let asked = |what| words.iter().any(|it| it == what);
    let other = words.windows(2).find(|it| it[0] == "--baseline");
    if asked("--baseline") && other.is_none() {
        println!("--baseline needs a file");
        return ExitCode::FAILURE;
    }
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/baseline.txt");
    let file = other.map_or(committed, |it| PathBuf::from(&it[1]));
    let rows = measured::rows();
    if asked("--renew") {
        return baseline::write(&file, &rows);
    }
    print(&rows);
    sizes();
    if asked("--check") {
        return baseline::check(&file, &rows, other.is_none());
    }
    ExitCode::SUCCESS
}

fn print(rows: &[Row]) {
    let head = ("case", "ns", "instructions", "allocations");
    println!("{:<58} {:>8} {:>12} {:>11}", head.0, head.1, head.2, head.3);
    let number = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.1}"));
    for row in rows {
        println!(
            "{:<58} {:>8} {:>12} {:>11}",
            row.name,
            number(row.nanoseconds),
            number(row.instructions),
            row.allocations,
        );
    }
    println!("A dash is what was not measured since the code has changed.");
}

fn sizes() {
    let (plain, http) = (cases::pipeline::all_four(), cases::http::by_host());
    let closure = size_of_val(&cases::pipeline::waiting(&plain));
    println!("\n{:<58} {:>8}", "memory of a waiting call", "bytes");
    for (what, bytes) in [
        ("of a closure", closure),
        ("of an http service", cases::http::size_of_waiting(&http)),
        ("the http request in it", cases::http::size_of_request()),
    ] {
        println!("{what:<58} {bytes:>8}");
    }
}
