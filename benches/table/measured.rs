//! What is known of each case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::SystemTime;
use std::{env, fs};

use serde_json::Value;

use crate::baseline::Row;
use crate::cases::{self, Case};

/// As often as `benches/instructions.rs` does it.
const TIMES: u64 = 1_000;

pub(crate) fn rows() -> Vec<Row> {
    // The folder that cargo builds in: this runs in its `release/deps`.
    let here = env::current_exe().expect("a path to this program");
    let target = here.ancestors().nth(3).expect("in deps");
    let clock = by_criterion(&target.join("criterion"));
    let counted = by_gungraun(&target.join("gungraun/evenkeel/instructions"));
    let row = |(number, case): (usize, Case)| {
        let name = format!("{}: {}", case.concept, case.name);
        Row {
            nanoseconds: clock.get(&name).copied(),
            instructions: counted.get(&number).copied(),
            allocations: allocations(&case),
            name,
        }
    };
    cases::all().into_iter().enumerate().map(row).collect()
}

/// How much one round of the case allocates, once it is warm.
fn allocations(case: &Case) -> f64 {
    let _counting = dhat::Profiler::builder().testing().build();
    let mut run = (case.set_up)();
    run(TIMES);
    let before = dhat::HeapStats::get().total_blocks;
    run(TIMES);
    per_round(dhat::HeapStats::get().total_blocks - before)
}

#[allow(clippy::cast_precision_loss)] // far less than 2^52
fn per_round(count: u64) -> f64 {
    count as f64 / TIMES as f64
}

/// Criterion's medians, in nanoseconds.
fn by_criterion(folder: &Path) -> BTreeMap<String, f64> {
    let found = files(folder, "new/benchmark.json").into_iter();
    let read = found.filter_map(|about| {
        let json = |file: &Path| serde_json::from_str::<Value>(&read(file)?).ok();
        let estimates = json(&about.with_file_name("estimates.json"))?;
        let about = json(&about)?;
        let (concept, case) = (about["group_id"].as_str()?, about["function_id"].as_str()?);
        let median = estimates["median"]["point_estimate"].as_f64()?;
        Some((format!("{concept}: {case}"), median))
    });
    read.collect()
}

/// Instructions of one round, by the number of the case.
fn by_gungraun(folder: &Path) -> BTreeMap<usize, f64> {
    let found = files(folder, ".out").into_iter();
    let read = found.filter_map(|file| {
        let path = file.to_string_lossy();
        let number = path.rsplit_once("case_")?.1.strip_suffix(".out")?;
        let number = number.parse().ok()?;
        let counted = read(&file)?;
        let mut lines = counted.lines();
        let total = lines.find_map(|it| it.strip_prefix("summary: "))?;
        Some((number, per_round(total.trim().parse().ok()?)))
    });
    read.collect()
}

/// What the file holds; nothing if the code has changed since.
fn read(file: &Path) -> Option<String> {
    static CODE: LazyLock<Option<SystemTime>> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = ["src", "benches/cases"].map(|it| files(&root.join(it), ".rs"));
        let mut files = files.concat();
        // What is built of it depends on these as well.
        files.extend(["Cargo.toml", "Cargo.lock"].map(|it| root.join(it)));
        files.iter().filter_map(|it| changed(it)).max()
    });
    if changed(file) < *CODE {
        return None;
    }
    fs::read_to_string(file).ok()
}

fn changed(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).ok()?.modified().ok()
}

/// All below whose path ends so.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|it| it.path()) {
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}
