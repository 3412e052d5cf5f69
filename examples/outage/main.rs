//! An outage before it happens: fleets of clients with real pipelines, against services that fail, under
//! this crate's default and under what others do.
//!
//! ```sh
//! cargo run --release --example outage --all-features
//! cargo run --release --example outage --all-features -- --policy ours.toml --scenario S2 --seeds 3
//! ```
//!
//! It writes `outage.html`, a page that needs nothing else, with a heat map and plots; `outage.csv` with
//! a row for every run, and `outage-seconds.csv` with a row for every second of them.

// Counts of requests and pixels: far from the bounds of any of these.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]

mod page;
mod plots;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use evenkeel::config::Config;
use evenkeel::sim::{Job, Policy, Report, Scenario, Second, play, scenarios};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match play_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn play_all() -> Outcome<()> {
    let asked = Asked::parse(std::env::args().skip(1))?;
    let began = Instant::now();
    let table = Table::play(&asked)?;
    let took = began.elapsed();
    table.print();
    println!(
        "\n{} runs, {} attempts in {:.1} s: {:.1} million per second",
        table.runs,
        table.attempts,
        took.as_secs_f64(),
        table.attempts as f64 / 1e6 / took.as_secs_f64()
    );
    std::fs::create_dir_all(&asked.out)?;
    std::fs::write(asked.out.join("outage.html"), page::html(&table)?)?;
    write_runs(&table, &asked.out.join("outage.csv"))?;
    write_seconds(&table, &asked.out.join("outage-seconds.csv"))?;
    if let Some(folder) = &asked.plots {
        write_plots(&table, folder)?;
    }
    println!("wrote {}", asked.out.join("outage.html").display());
    Ok(())
}

/// What the command line asks for.
struct Asked {
    scenarios: Vec<Scenario>,
    policies: Vec<Policy>,
    seeds: u64,
    out: PathBuf,
    /// Where to put the heat map and the plots as files of their own.
    plots: Option<PathBuf>,
}

impl Asked {
    fn parse(arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut asked = Self {
            scenarios: Vec::new(),
            policies: vec![
                Policy::none(),
                Policy::immediate_retries(),
                Policy::exponential(),
                Policy::full_jitter(),
                Policy::budget(10),
                Policy::breaker(),
                Policy::evenkeel(),
                Policy::with_endpoints(),
            ],
            seeds: 1,
            out: PathBuf::from("target/outage"),
            plots: None,
        };
        let mut arguments = arguments.peekable();
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{flag} wants a value"));
            match flag.as_str() {
                "--all" => {
                    asked.scenarios.extend(scenarios::known());
                    asked.scenarios.extend(scenarios::more());
                }
                "--out" => asked.out = value()?.into(),
                "--plots" => asked.plots = Some(value()?.into()),
                "--policy" => asked.policies.push(from_file(Path::new(&value()?))?),
                "--scenario" => {
                    let name = value()?;
                    let known = scenarios::named(&name);
                    asked
                        .scenarios
                        .push(known.ok_or(format!("there is no scenario {name}"))?);
                }
                "--seeds" => asked.seeds = value()?.parse::<u64>()?.max(1),
                _ => return Err(format!("{HELP}\nnot known: {flag}").into()),
            }
        }
        if asked.scenarios.is_empty() {
            asked.scenarios = scenarios::known();
        }
        Ok(asked)
    }
}

/// A policy of the user's own, from a configuration file.
fn from_file(path: &Path) -> Outcome<Policy> {
    let text = std::fs::read_to_string(path)?;
    let config: Config = toml::from_str(&text).map_err(|it| format!("{}: {it}", path.display()))?;
    let checked = config.check();
    checked.map_err(|it| format!("{}: {it}", path.display()))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Policy::of(name.into_owned(), move || {
        config.pipeline().expect("checked above")
    }))
}

const HELP: &str = "\
usage: outage [--scenario NAME].. [--all] [--policy FILE.toml].. [--seeds N] [--out FOLDER] [--plots FOLDER]";

/// Every scenario under every policy.
struct Table {
    scenarios: Vec<Scenario>,
    policies: Vec<String>,
    /// By scenario, then by policy.
    cells: Vec<Vec<Cell>>,
    runs: usize,
    attempts: u64,
}

/// A scenario under a policy: means over all seeds, and the seconds of the first.
struct Cell {
    runs: Vec<Run>,
}

/// What is kept of a run.
struct Run {
    seed: u64,
    /// The successes that could be had of those that the fault may have touched.
    attainable: u64,
    touched: u64,
    during: f64,
    after: f64,
    recovery: Option<Duration>,
    amplification: f64,
    worst: f64,
    busiest: u32,
    wasted: f64,
    p50: Option<Duration>,
    p99: Option<Duration>,
    attempts: u64,
    seconds: Vec<Second>,
    causes: Vec<(String, u64)>,
}

impl Run {
    fn of(report: &Report) -> Self {
        let best = report.scenario().oracle(report.seed());
        let best = best.expect("it was played").map(|it| it.won);
        let sum = |counts: &[u32]| counts.iter().map(|it| u64::from(*it)).sum();
        Self {
            seed: report.seed(),
            // Where nobody can know that: all that asked.
            attainable: best.unwrap_or(report.touched().arrived),
            touched: report.touched().won,
            during: report.during().share(),
            after: report.after().share(),
            recovery: report.recovery(),
            amplification: report.amplification(),
            worst: report.worst_second(),
            busiest: report.busiest_after(),
            wasted: report.wasted(),
            p50: report.latency(0.5),
            p99: report.latency(0.99),
            attempts: report.counts().attempts,
            seconds: report.seconds().to_vec(),
            causes: report
                .causes()
                .iter()
                .map(|(cause, counts)| (cause.to_string(), sum(counts)))
                .collect(),
        }
    }
}

impl Cell {
    /// In percent of what an omniscient client gets.
    fn share(&self) -> f64 {
        let won: u64 = self.runs.iter().map(|it| it.touched).sum();
        let best: u64 = self.runs.iter().map(|it| it.attainable).sum();
        100.0 * won as f64 / best.max(1) as f64
    }

    fn mean(&self, of: impl Fn(&Run) -> f64) -> f64 {
        self.runs.iter().map(of).sum::<f64>() / self.runs.len() as f64
    }

    /// In seconds; infinite if it never came in one of the runs.
    fn recovery(&self) -> f64 {
        self.mean(|it| it.recovery.map_or(f64::INFINITY, |it| it.as_secs_f64()))
    }

    fn recovery_in_words(&self) -> String {
        match self.recovery() {
            seconds if seconds.is_finite() => format!("{seconds:.0} s"),
            _ => "never".into(),
        }
    }
}

impl Table {
    fn play(asked: &Asked) -> Outcome<Self> {
        let mut jobs = Vec::new();
        for scenario in &asked.scenarios {
            for policy in &asked.policies {
                jobs.extend((1..=asked.seeds).map(|seed| Job {
                    scenario: scenario.clone(),
                    policy: policy.clone(),
                    seed,
                }));
            }
        }
        let (all, done) = (jobs.len(), AtomicUsize::new(0));
        let runs = play(&jobs, |report| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            let (scenario, policy) = (report.scenario().name(), report.policy());
            eprint!("\r\x1b[K[{done}/{all}] {scenario}, {policy}");
            let _ = std::io::stderr().flush();
            Run::of(&report)
        })?;
        eprintln!("\r\x1b[K");
        let attempts = runs.iter().map(|it| it.attempts).sum();
        let mut runs = runs.into_iter();
        let mut cell = || Cell {
            runs: runs.by_ref().take(asked.seeds as usize).collect(),
        };
        let mut row = || asked.policies.iter().map(|_| cell()).collect();
        Ok(Self {
            cells: asked.scenarios.iter().map(|_| row()).collect(),
            scenarios: asked.scenarios.clone(),
            policies: asked.policies.iter().map(|it| it.name().into()).collect(),
            runs: all,
            attempts,
        })
    }

    fn print(&self) {
        println!(
            "successes of what a fault may have touched, in percent of an omniscient client:\n"
        );
        let width = self.policies.iter().map(String::len).max().unwrap_or(0);
        print!("{:width$}", "");
        for scenario in &self.scenarios {
            print!("  {:>7}", clip(scenario.name(), 7));
        }
        println!();
        for (index, policy) in self.policies.iter().enumerate() {
            print!("{policy:width$}");
            for row in &self.cells {
                print!("  {:7.1}", row[index].share());
            }
            println!();
        }
        println!(
            "\nuntil what arrives succeeds again after the fault, and attempts per request in the worst second:\n"
        );
        for (index, policy) in self.policies.iter().enumerate() {
            print!("{policy:width$}");
            for row in &self.cells {
                let cell = &row[index];
                let both = format!(
                    "{} {:.1}",
                    cell.recovery_in_words(),
                    cell.mean(|it| it.worst)
                );
                print!("  {both:>10}");
            }
            println!();
        }
    }
}

fn clip(text: &str, most: usize) -> &str {
    text.char_indices()
        .nth(most)
        .map_or(text, |(end, _)| &text[..end])
}

/// For names of files and places on a page.
fn slug(name: &str) -> String {
    name.replace(|it: char| !it.is_ascii_alphanumeric(), "-")
}

fn write_plots(table: &Table, folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("outages.svg"), plots::heat_map(table)?)?;
    for (index, scenario) in table.scenarios.iter().enumerate() {
        for (name, title, of) in page::PLOTS {
            let file = format!("{}-{name}.svg", slug(scenario.name()));
            let plot = plots::over_time(table, index, title, true, of)?;
            std::fs::write(folder.join(file), plot)?;
        }
    }
    Ok(())
}

fn write_runs(table: &Table, path: &Path) -> Outcome<()> {
    let mut csv = csv::Writer::from_path(path)?;
    csv.write_record([
        "scenario",
        "policy",
        "seed",
        "percent_of_attainable",
        "success_during",
        "success_after",
        "recovery_s",
        "attempts_per_request",
        "attempts_per_request_worst_second",
        "attempts_busiest_second_after",
        "wasted_share",
        "p50_s",
        "p99_s",
        "causes",
    ])?;
    let seconds = |it: Option<Duration>| it.map(|it| it.as_secs_f64().to_string());
    for (scenario, row) in table.scenarios.iter().zip(&table.cells) {
        for (policy, cell) in table.policies.iter().zip(row) {
            for run in &cell.runs {
                let causes: Vec<_> = run
                    .causes
                    .iter()
                    .map(|(cause, n)| format!("{cause} × {n}"))
                    .collect();
                csv.write_record([
                    scenario.name().to_owned(),
                    policy.clone(),
                    run.seed.to_string(),
                    (100.0 * run.touched as f64 / run.attainable.max(1) as f64).to_string(),
                    run.during.to_string(),
                    run.after.to_string(),
                    seconds(run.recovery).unwrap_or("never".into()),
                    run.amplification.to_string(),
                    run.worst.to_string(),
                    run.busiest.to_string(),
                    run.wasted.to_string(),
                    seconds(run.p50).unwrap_or_default(),
                    seconds(run.p99).unwrap_or_default(),
                    causes.join("; "),
                ])?;
            }
        }
    }
    Ok(csv.flush()?)
}

fn write_seconds(table: &Table, path: &Path) -> Outcome<()> {
    let mut csv = csv::Writer::from_path(path)?;
    csv.write_record([
        "scenario", "policy", "seed", "second", "arrived", "won", "answered", "failed", "attempts",
        "extra", "rejected", "queued", "parked", "limited", "window",
    ])?;
    for (scenario, row) in table.scenarios.iter().zip(&table.cells) {
        for (policy, cell) in table.policies.iter().zip(row) {
            for run in &cell.runs {
                for (second, it) in run.seconds.iter().enumerate() {
                    let numbers = [
                        i64::from(it.arrived),
                        i64::from(it.won),
                        i64::from(it.answered),
                        i64::from(it.failed),
                        i64::from(it.attempts),
                        it.extra(),
                        i64::from(it.rejected),
                        i64::from(it.queued),
                        i64::from(it.parked),
                        i64::from(it.limited),
                    ];
                    let names = [scenario.name().to_owned(), policy.clone()];
                    let time = [run.seed.to_string(), second.to_string()];
                    let numbers = numbers.iter().map(i64::to_string);
                    let last = [format!("{:.2}", it.window)];
                    csv.write_record(names.into_iter().chain(time).chain(numbers).chain(last))?;
                }
            }
        }
    }
    Ok(csv.flush()?)
}
