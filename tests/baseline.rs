//! When the benchmarks' check against `benches/baseline.txt` fails, and when it doesn't.
#![allow(missing_docs)]

#[allow(dead_code)] // what reads and writes the file
#[path = "../benches/table/baseline.rs"]
mod baseline;

use baseline::{Baseline, Found, Row, Versions};

const BEFORE: &str = "\
# What each case took when this was written:
# host: here
# http: v1.0.0
# libc: 2
# rand: v1.0.0
# rustc: 1
# tokio: v1.0.0
# instructions allocations case
         100.0           1 retry: one
          20.0           0 gates: two
";

#[test]
fn the_same_is_neither_better_nor_worse() {
    assert!(found(&[one(), two()], &[], true).is_nothing());
}

#[test]
fn more_than_five_percent_is_worse_and_five_are_not() {
    for (instructions, worse) in [(105.0, 0), (105.1, 1)] {
        let found = found(&[one().takes(instructions), two()], &[], true);
        assert_eq!(found.worse.len(), worse, "{found:?}");
    }
    for (instructions, better) in [(95.0, 0), (94.9, 1)] {
        let found = found(&[one().takes(instructions), two()], &[], true);
        assert_eq!((found.better.len(), found.worse.len()), (better, 0));
    }
    // In a small case three don't matter.
    for (instructions, worse) in [(23.0, 0), (23.1, 1)] {
        let found = found(&[one(), two().takes(instructions)], &[], true);
        assert_eq!(found.worse.len(), worse, "{found:?}");
    }
}

#[test]
fn any_allocation_more_is_worse() {
    for (allocations, worse) in [(0.0, 0), (1.0, 0), (1.001, 1)] {
        let found = found(&[one().allocates(allocations), two()], &[], true);
        assert_eq!(found.worse.len(), worse, "{found:?}");
    }
}

#[test]
fn a_case_that_disappears_is_worse_than_the_committed_baseline_and_not_than_another_commit() {
    let missing = found(&[one()], &[], true);
    assert_eq!(missing.worse.len(), 1);
    assert!(missing.worse[0].starts_with("gates: two: "), "{missing:?}");
    let other = found(&[one()], &[], false);
    assert_eq!((other.worse.len(), other.notes.len()), (0, 1));
}

#[test]
fn a_renamed_case_is_worse_twice() {
    let mut renamed = two();
    renamed.name = "gates: three".to_owned();
    let complete = found(&[one(), renamed], &[], true);
    assert_eq!(complete.worse.len(), 2, "{complete:?}");
}

#[test]
fn what_was_not_counted_is_worse() {
    let mut uncounted = one();
    uncounted.instructions = None;
    assert_eq!(found(&[uncounted, two()], &[], true).worse.len(), 1);
}

#[test]
fn with_another_compiler_library_or_crate_only_allocations_are_compared() {
    for what in ["host", "libc", "rand", "rustc", "tokio"] {
        let there = [(what, "other")];
        let more = found(&[one().takes(1000.0), two()], &there, true);
        assert!(more.worse.is_empty() && more.better.is_empty(), "{more:?}");
        assert!(more.notes[0].starts_with(what), "{more:?}");
        let more = found(&[one().allocates(2.0), two()], &there, true);
        assert_eq!(more.worse.len(), 1, "{more:?}");
        assert_eq!(found(&[one()], &there, true).worse.len(), 1, "missing");
    }
}

#[test]
fn a_crate_more_or_less_is_a_change_of_ours() {
    let worse = [one().takes(1000.0), two()];
    assert_eq!(found(&worse, &[("bytes", "v1.0.0")], true).worse.len(), 1);
    let mut here = here();
    here.remove("rand");
    let found = Baseline::parse(BEFORE).compare(&worse, &here, true);
    assert_eq!((found.worse.len(), found.notes.len()), (1, 0));
}

#[test]
fn where_versions_can_not_be_told_instructions_are_not_compared() {
    for gone in ["http", "rustc", "tokio"] {
        let mut here = here();
        here.remove(gone);
        let found = Baseline::parse(BEFORE).compare(&[one().takes(1000.0), two()], &here, true);
        assert!(
            found.worse.is_empty() && found.notes[0].contains(gone),
            "{found:?}"
        );
    }
    let unknown = found(&[one().takes(1000.0), two()], &[("rustc", "unknown")], true);
    assert!(
        unknown.worse.is_empty() && unknown.notes.len() >= 2,
        "{unknown:?}"
    );
}

#[test]
fn without_a_compiler_named_instructions_are_not_compared() {
    let unknown = Baseline::parse("# libc: 2\n# host: here\n 100.0 1 retry: one\n");
    let found = unknown.compare(&[one().takes(1000.0)], &here(), true);
    assert!(found.worse.is_empty() && !found.notes.is_empty());
}

fn found(rows: &[Row], other: &[(&str, &str)], complete: bool) -> Found {
    let mut here = here();
    for (what, version) in other {
        here.insert((*what).to_owned(), (*version).to_owned());
    }
    Baseline::parse(BEFORE).compare(rows, &here, complete)
}

fn here() -> Versions {
    let here = [
        ("host", "here"),
        ("http", "v1.0.0"),
        ("libc", "2"),
        ("rand", "v1.0.0"),
        ("rustc", "1"),
        ("tokio", "v1.0.0"),
    ];
    here.map(|(what, version)| (what.to_owned(), version.to_owned()))
        .into()
}

fn one() -> Row {
    row("retry: one", 100.0, 1.0)
}

fn two() -> Row {
    row("gates: two", 20.0, 0.0)
}

fn row(name: &str, instructions: f64, allocations: f64) -> Row {
    Row {
        name: name.to_owned(),
        nanoseconds: None,
        instructions: Some(instructions),
        allocations,
    }
}

impl Row {
    fn takes(mut self, instructions: f64) -> Self {
        self.instructions = Some(instructions);
        self
    }

    fn allocates(mut self, allocations: f64) -> Self {
        self.allocations = allocations;
        self
    }
}

impl Found {
    fn is_nothing(&self) -> bool {
        self.notes.is_empty() && self.better.is_empty() && self.worse.is_empty()
    }
}
