//! The list of promises names tests that exist and run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The promises that are kept so far.
const KEPT: [u32; 21] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
];

/// No promise's number.
const PREFACE: u32 = 0;

#[test]
fn every_test_named_here_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/promises.md")).expect("the list of promises");
    let files: Vec<_> = ["src", "tests"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .map(|file| fs::read_to_string(file).expect("a source file"))
        .collect();
    let promises = promises(&page);
    for number in KEPT {
        let names = promises.get(&number);
        assert!(
            names.is_some_and(|it| !it.is_empty()),
            "promise {number} names no test"
        );
    }
    for name in promises.values().flatten() {
        assert!(
            files.iter().any(|file| has_test(file, name)),
            "no test is named {name}"
        );
    }
}

#[test]
fn only_what_runs_as_a_test_counts() {
    let file = "
#[test]
#[should_panic]
fn told() {}

fn helper() {}

#[tokio::test(start_paused = true)]
async fn later() {}

// #[test]
fn silenced() {}

#[test]
#[ignore]
fn skipped() {}
";
    for (name, counts) in [
        ("told", true),
        ("later", true),
        ("helper", false),
        ("silenced", false),
        ("skipped", false),
        ("later()", false),
        ("unheard", false),
    ] {
        assert_eq!(has_test(file, name), counts, "{name}");
    }
}

/// The names of tests under each promise: words in backquotes that are long enough to be one.
fn promises(page: &str) -> BTreeMap<u32, Vec<&str>> {
    let mut promises = BTreeMap::new();
    let mut number = PREFACE;
    let mut rest = page;
    while let Some(at) = rest.find(['\n', '`']) {
        let (found, after) = rest[at..].split_at(1);
        rest = after;
        if found == "\n" {
            let (first, _) = after.split_once('.').unwrap_or_default();
            if after.starts_with('#') {
                number = PREFACE;
            } else if let Ok(next) = first.parse() {
                number = next;
                promises.insert(next, Vec::new());
            }
            continue;
        }
        let (name, after) = after.split_once('`').expect("backquotes come in pairs");
        rest = after;
        if name.matches('_').count() >= 3 && !name.contains("::") {
            // Those that stand under no promise have to exist too.
            promises.entry(number).or_default().push(name);
        }
    }
    promises
}

/// Whether a function of this name is there, behind an attribute that makes a test of it. Those in
/// `proptest!` and in loom's models have one too.
fn has_test(file: &str, name: &str) -> bool {
    let lines: Vec<_> = file.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let mut heads = lines.iter().enumerate().filter(|(_, line)| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.starts_with(&head)
    });
    heads.any(|(at, _)| {
        // Attributes and comments belong to the function; anything else ends the one before.
        let above = lines[..at].iter().rev();
        let above: Vec<_> = above
            .take_while(|line| line.starts_with('#') || line.starts_with("//"))
            .collect();
        let is = |start: &str| above.iter().any(|line| line.starts_with(start));
        (is("#[test]") || is("#[tokio::test")) && !is("#[ignore")
    })
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .collect()
}
