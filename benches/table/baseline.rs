//! What each case took when somebody last looked, and whether it is more by now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::measured::Row;

/// More instructions than this are too many, in percent.
const TOLERANCE: f64 = 5.0;

/// So many more don't matter, however small the case: a branch is turned around.
const SLACK: f64 = 3.0;

/// Other compilers, C libraries and machines make other code of the same source.
const DECISIVE: [&str; 3] = ["host", "rustc", "libc"];

#[derive(Default)]
struct Baseline {
    versions: BTreeMap<String, String>,
    cases: BTreeMap<String, Counts>,
}

struct Counts {
    instructions: f64,
    allocations: f64,
}

/// Fails if a case is worse than in the file. If that is the committed one (`complete`), it has to know all cases.
pub(crate) fn check(file: &Path, rows: &[Row], complete: bool) -> ExitCode {
    println!();
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return fail(&format!("{}: {error}", file.display())),
    };
    let before = Baseline::parse(&text);
    let comparable = before.is_comparable();
    let (mut better, mut worse) = (Vec::new(), Vec::new());
    for row in rows {
        let name = &row.name;
        let Some(then) = before.cases.get(name) else {
            println!("new:    {name}");
            if complete {
                worse.push(format!("{name}: not in the baseline"));
            }
            continue;
        };
        let (now, was) = (row.allocations, then.allocations);
        let change = format!("{name}: {now} allocations, was {was}");
        if now > was + 0.000_5 {
            worse.push(change);
        } else if now < was - 0.000_5 {
            better.push(change);
        }
        if !comparable {
            continue;
        }
        let Some(now) = row.instructions else {
            worse.push(format!("{name}: instructions were not counted"));
            continue;
        };
        let was = then.instructions;
        let percent = (now / was - 1.0) * 100.0;
        let change = format!("{name}: {now:.1} instructions, was {was:.1} ({percent:+.1} %)");
        if percent > TOLERANCE && now > was + SLACK {
            worse.push(change);
        } else if percent < -TOLERANCE && now < was - SLACK {
            better.push(change);
        }
    }
    for line in &better {
        println!("better: {line}");
    }
    for line in &worse {
        println!("worse:  {line}");
    }
    if !(better.is_empty() && worse.is_empty()) {
        println!("Where that is meant: cargo bench --bench table -- --renew");
    }
    if !worse.is_empty() {
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
    for (what, version) in versions() {
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
    fn parse(text: &str) -> Self {
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

    /// Whether its instructions mean something here. Says what is different.
    fn is_comparable(&self) -> bool {
        let mut comparable = true;
        for (what, version) in versions() {
            let then = self.versions.get(&what).map_or("unknown", String::as_str);
            if then != version {
                println!("{what} is {version}, was {then}");
                comparable &= !DECISIVE.contains(&&*what);
            }
        }
        if !comparable {
            println!(
                "INSTRUCTIONS ARE NOT COMPARED, only allocations: the baseline is of another compiler or C library. \
                 `benches/against COMMIT` builds one here."
            );
        }
        comparable
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

/// What the counts depend on besides the code: compiler, C library, and the crates that it stands on.
fn versions() -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let rustc = output(Command::new("rustc").arg("-vV"));
    let mut word = |what, line: &str| {
        let version = rustc.lines().find_map(|it| it.strip_prefix(line));
        versions.insert(String::from(what), version.unwrap_or("unknown").to_owned());
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
        "--edges=normal",
        "--depth=1",
        "--prefix=none",
    ]));
    for line in tree.lines().skip(1) {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.insert(name.to_owned(), version.to_owned());
        }
    }
    versions
}

fn output(command: &mut Command) -> String {
    let output = command.output().map(|it| it.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).into_owned()
}
