//! All that was measured, as one table: `cargo bench` does the whole, and this comes last. By itself
//! (`cargo bench --bench table`) it counts allocations and reads what criterion and gungraun left in
//! the target folder.
//!
//! - `-- --check` compares instructions and allocations with `benches/baseline.txt`, and fails if a case
//!   takes 5 % more instructions or allocates more.
//! - `-- --renew` writes that file.
#![allow(missing_docs)]

#[allow(dead_code)] // others use more of it
mod cases;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use serde_json::Value;

use cases::Case;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// More instructions than this fail the check, in percent.
const TOLERANCE: f64 = 5.0;

/// And so many more don't matter however small the case: a call is aligned otherwise, a branch turns.
const SLACK: f64 = 3.0;

/// As often as `benches/instructions.rs` does it.
const TIMES: u64 = 1_000;

fn main() -> ExitCode {
    let asked = |what| env::args().any(|it| it == what);
    let target = target();
    let clock = by_criterion(&target.join("criterion"));
    let counted = by_gungraun(&target.join("gungraun"));
    let rows: Vec<Row> = cases::all()
        .into_iter()
        .enumerate()
        .map(|(number, case)| Row {
            name: name(&case),
            nanoseconds: clock.get(&name(&case)).copied(),
            instructions: counted.get(&number).copied(),
            allocations: allocations(&case),
        })
        .collect();
    if asked("--renew") {
        return renew(&rows);
    }
    print(&rows);
    sizes();
    if asked("--check") {
        return check(&rows);
    }
    ExitCode::SUCCESS
}

struct Row {
    name: String,
    nanoseconds: Option<f64>,
    instructions: Option<f64>,
    allocations: f64,
}

fn name(case: &Case) -> String {
    format!("{}: {}", case.concept, case.name)
}

fn print(rows: &[Row]) {
    println!(
        "{:<58} {:>8} {:>12} {:>11}",
        "case", "ns", "instructions", "allocations"
    );
    let number = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.1}"));
    for row in rows {
        let (ns, instructions) = (number(row.nanoseconds), number(row.instructions));
        let allocations = row.allocations;
        println!(
            "{:<58} {ns:>8} {instructions:>12} {allocations:>11}",
            row.name
        );
    }
    println!("A dash is what was not measured: benches/clock.rs, benches/instructions.rs.");
}

fn sizes() {
    let plain = cases::pipeline::all_four();
    let http = cases::http::by_host();
    println!("\n{:<58} {:>8}", "memory of a waiting call", "bytes");
    for (what, bytes) in [
        (
            "of a closure",
            size_of_val(&cases::pipeline::waiting(&plain)),
        ),
        ("of an http service", cases::http::size_of_waiting(http)),
        (
            "the http request alone",
            size_of::<http::Request<String>>(),
        ),
    ] {
        println!("{what:<58} {bytes:>8}");
    }
}

/// How much one round of the case allocates, once it is warm.
fn allocations(case: &Case) -> f64 {
    let _counting = dhat::Profiler::builder().testing().build();
    let mut run = (case.set_up)();
    run(TIMES);
    let before = dhat::HeapStats::get().total_blocks;
    run(TIMES);
    let blocks = dhat::HeapStats::get().total_blocks - before;
    per_round(blocks)
}

#[allow(clippy::cast_precision_loss)] // thousands
fn per_round(count: u64) -> f64 {
    count as f64 / TIMES as f64
}

/// The folder that cargo builds in: this runs in its `release/deps`.
fn target() -> PathBuf {
    let here = env::current_exe().expect("a path to this program");
    here.ancestors().nth(3).expect("in deps").to_owned()
}

/// Criterion's medians, in nanoseconds.
fn by_criterion(folder: &Path) -> BTreeMap<String, f64> {
    let found = files(folder, "benchmark.json").into_iter();
    let read = found.filter_map(|about| {
        let estimates = read(&about.with_file_name("estimates.json"))?;
        let about = read(&about)?;
        let (concept, case) = (about["group_id"].as_str()?, about["function_id"].as_str()?);
        let median = estimates["median"]["point_estimate"].as_f64()?;
        Some((format!("{concept}: {case}"), median))
    });
    read.collect()
}

/// Instructions, by the number of the case.
fn by_gungraun(folder: &Path) -> BTreeMap<usize, f64> {
    let found = files(folder, "summary.json").into_iter();
    let read = found.filter_map(|file| {
        let summary = read(&file)?;
        todo!("{summary}")
    });
    read.collect()
}

fn read(file: &Path) -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(file).ok()?).ok()
}

fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, name));
        } else if path.ends_with(name) {
            found.push(path);
        }
    }
    found
}
