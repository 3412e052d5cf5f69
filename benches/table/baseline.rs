//! What each case took when somebody last looked, and whether it is more by now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

/// A greater share of instructions more is too many.
const TOLERANCE: f64 = 0.05;

/// So many more don't matter, however small the case: a branch is turned around.
const SLACK: f64 = 3.0;

/// Each baseline has to name these. Other ones make other code of the same source, as other versions of the crates do
/// that are compiled into it.
const ALWAYS_THERE: [&str; 5] = ["host", "rustc", "libc", "http", "tokio"];

/// What is known of a case now.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) nanoseconds: Option<f64>,
    pub(crate) instructions: Option<f64>,
    pub(crate) allocations: f64,
}

/// Compiler, C library and crates, by name.
pub(crate) type Versions = BTreeMap<String, String>;

#[derive(Default)]
pub(crate) struct Baseline {
    versions: Versions,
    cases: BTreeMap<String, Counts>,
}

struct Counts {
    instructions: f64,
    allocations: f64,
}

/// What a comparison finds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) notes: Vec<String>,
    pub(crate) better: Vec<String>,
    pub(crate) worse: Vec<String>,
}

/// Fails if a case is worse than in the file. If that is the committed one (`complete`), both have to know all cases.
pub(crate) fn check(file: &Path, rows: &[Row], complete: bool) -> ExitCode {
    println!();
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return fail(&format!("{}: {error}", file.display())),
    };
    let found = Baseline::parse(&text).compare(rows, &versions(), complete);
    for line in &found.notes {
        println!("{line}");
    }
    for line in &found.better {
        println!("better: {line}");
    }
    for line in &found.worse {
        println!("worse:  {line}");
    }
    if !(found.better.is_empty() && found.worse.is_empty()) {
        println!("Where that is meant: cargo bench --bench table -- --renew");
    }
    if !found.worse.is_empty() {
        return fail("Some cases are worse than the baseline.");
    }
    println!("No case is worse than the baseline.");
    ExitCode::SUCCESS
}

pub(crate) fn write(file: &Path, rows: &[Row]) -> ExitCode {
    let mut text = String::from(
        "# What each case took when this was written:\n\
         # cargo bench --bench instructions && cargo bench --bench table -- --renew\n",
    );
    let versions = versions();
    if let Some(missing) = missing(&versions) {
        return fail(&format!("what version {missing} is can't be told here"));
    }
    for (what, version) in versions {
        let _ = writeln!(text, "# {what}: {version}");
    }
    text.push_str("# instructions allocations case\n");
    for row in rows {
        let (name, allocations) = (&row.name, row.allocations);
        let Some(instructions) = row.instructions else {
            return fail(&format!(
                "{name}: not counted; cargo bench --bench instructions first"
            ));
        };
        let _ = writeln!(text, "{instructions:14.1} {allocations:11} {name}");
    }
    match fs::write(file, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{}: {error}", file.display())),
    }
}

fn fail(why: &str) -> ExitCode {
    println!("{why}");
    ExitCode::FAILURE
}

impl Baseline {
    pub(crate) fn parse(text: &str) -> Self {
        let mut baseline = Self::default();
        for line in text.lines() {
            if let Some((what, version)) =
                line.strip_prefix("# ").and_then(|it| it.split_once(": "))
            {
                baseline
                    .versions
                    .insert(what.to_owned(), version.to_owned());
            } else if let Some((name, counts)) = Counts::parse(line) {
                baseline.cases.insert(name.to_owned(), counts);
            }
        }
        baseline
    }

    /// `complete`: the rows and the baseline are to be of the same cases.
    pub(crate) fn compare(&self, rows: &[Row], here: &Versions, complete: bool) -> Found {
        let mut found = Found::default();
        let comparable = self.is_comparable(here, &mut found.notes);
        for row in rows {
            match self.cases.get(&row.name) {
                Some(then) => row.compare(then, comparable, &mut found),
                None if complete => found
                    .worse
                    .push(format!("{}: not in the baseline", row.name)),
                None => found.notes.push(format!("new:    {}", row.name)),
            }
        }
        let gone = |name: &&String| rows.iter().all(|row| row.name != **name);
        for name in self.cases.keys().filter(gone) {
            if complete {
                let why = "in the baseline, and no such case";
                found.worse.push(format!("{name}: {why}"));
            } else {
                found.notes.push(format!("gone:   {name}"));
            }
        }
        found
    }

    /// Whether its instructions mean something here. Says what is different.
    fn is_comparable(&self, here: &Versions, notes: &mut Vec<String>) -> bool {
        let mut comparable = true;
        if let Some(missing) = missing(here) {
            notes.push(format!("what version {missing} is can't be told here"));
            comparable = false;
        }
        for (what, version) in here {
            let then = match self.versions.get(what) {
                Some(then) if then == version => continue,
                // A crate more is a change of ours, as one less is; another version of one is not.
                None if !ALWAYS_THERE.contains(&&**what) => continue,
                then => then.map_or(UNKNOWN, String::as_str),
            };
            notes.push(format!("{what} is {version}, was {then}"));
            comparable = false;
        }
        if !comparable {
            notes.push(
                "INSTRUCTIONS ARE NOT COMPARED, only allocations: the baseline is of another compiler, C library or \
                 version of a crate. `benches/against COMMIT` builds one here."
                    .to_owned(),
            );
        }
        comparable
    }
}

impl Row {
    fn compare(&self, then: &Counts, comparable: bool, found: &mut Found) {
        let name = &self.name;
        let (now, was) = (self.allocations, then.allocations);
        let change = format!("{name}: {now} allocations, was {was}");
        if now > was + 0.000_5 {
            found.worse.push(change);
        } else if now < was - 0.000_5 {
            found.better.push(change);
        }
        if !comparable {
            return;
        }
        let Some(now) = self.instructions else {
            let why = "instructions were not counted";
            return found.worse.push(format!("{name}: {why}"));
        };
        let was = then.instructions;
        let percent = (now / was - 1.0) * 100.0;
        let change = format!("{name}: {now:.1} instructions, was {was:.1} ({percent:+.1} %)");
        if now > (was * (1.0 + TOLERANCE)).max(was + SLACK) {
            found.worse.push(change);
        } else if now < (was * (1.0 - TOLERANCE)).min(was - SLACK) {
            found.better.push(change);
        }
    }
}

impl Counts {
    fn parse(line: &str) -> Option<(&str, Self)> {
        let (instructions, rest) = line.trim_start().split_once(' ')?;
        let (allocations, name) = rest.trim_start().split_once(' ')?;
        let counts = Self {
            instructions: instructions.parse().ok()?,
            allocations: allocations.parse().ok()?,
        };
        Some((name, counts))
    }
}

/// What these versions should name and don't: then nobody knows what they are of.
fn missing(versions: &Versions) -> Option<&'static str> {
    let named = |what: &&str| versions.get(*what).is_some_and(|it| it != UNKNOWN);
    ALWAYS_THERE.into_iter().find(|it| !named(it))
}

const UNKNOWN: &str = "unknown";

/// What the counts depend on besides the code: compiler, C library, and the crates that it stands on, all of the default
/// tree but what only runs in the compiler.
fn versions() -> Versions {
    let mut versions = Versions::new();
    let rustc = output(Command::new("rustc").arg("-vV"));
    let mut word = |what, line: &str| {
        let version = rustc.lines().find_map(|it| it.strip_prefix(line));
        versions.insert(String::from(what), version.unwrap_or(UNKNOWN).to_owned());
    };
    word("rustc", "release: ");
    word("host", "host: ");
    let libc = output(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    versions.insert("libc".to_owned(), libc.trim().to_owned());
    let tree = output(Command::new(env!("CARGO")).args([
        "tree",
        "--offline",
        "--manifest-path",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        "--edges=normal,no-proc-macro",
        "--prefix=none",
        "--no-dedupe",
    ]));
    // The crate of that name only declares what the C library has.
    let crates: BTreeSet<_> = tree
        .lines()
        .skip(1)
        .filter(|it| !it.starts_with("libc "))
        .collect();
    for line in crates {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            let all = versions.entry(name.to_owned()).or_default();
            if !all.is_empty() {
                all.push_str(" and ");
            }
            all.push_str(version);
        }
    }
    versions
}

fn output(command: &mut Command) -> String {
    let output = command.output().ok().filter(|it| it.status.success());
    let output = output.map(|it| it.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).into_owned()
}
