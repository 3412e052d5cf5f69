//! What evenkeel costs beside what one would take instead: `cargo run --release` prints it as a table.
//!
//! - `--chart FILE` draws it, `--json FILE` writes every figure, `--update FILE` puts the tables between their markers in a page,
//!   and with `--tree FILE` that file's as well. `./renew` does all of that for `docs/performance.md`.
//! - `--only WORD` measures the rows with that word, `--who WORD` those in them, `--rounds N` takes another number of rounds
//!   than 151.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]

#[path = "../../cases/mod.rs"]
#[allow(dead_code)] // evenkeel's side of the rows
mod cases;
mod chart;
mod heap;
mod measure;
mod peers;
mod report;
mod rows;

use std::error::Error;
use std::fs;

use measure::Row;

#[global_allocator]
static ALLOCATOR: heap::Counting = heap::Counting;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read(std::env::args().skip(1))?;
    // Timers are made in it; what it is polled by is each row's own affair.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let _inside = runtime.enter();
    let mut measured: Vec<Row> = Vec::new();
    for set_up in rows::ROWS {
        let mut row = set_up();
        if !options.only.iter().all(|word| row.name.contains(word)) {
            continue;
        }
        row.contenders
            .retain(|it| options.who.iter().all(|word| it.name.contains(word)));
        eprintln!("{}", row.name);
        row.measure(options.rounds);
        row.finish();
        measured.push(row);
    }
    println!("{}", report::tables(&measured));
    if let Some(file) = options.chart {
        fs::write(file, chart::ratios(&measured)?)?;
    }
    if let Some(file) = options.json {
        fs::write(file, report::json(&measured))?;
    }
    if let Some(file) = options.update {
        let page = fs::read_to_string(&file)?;
        let tree = options.tree.map(fs::read_to_string).transpose()?;
        fs::write(file, report::update(&page, &measured, tree.as_deref())?)?;
    }
    Ok(())
}

struct Options {
    chart: Option<String>,
    json: Option<String>,
    update: Option<String>,
    tree: Option<String>,
    only: Vec<String>,
    who: Vec<String>,
    rounds: usize,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            chart: None,
            json: None,
            update: None,
            tree: None,
            only: Vec::new(),
            who: Vec::new(),
            rounds: 151,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match &*word {
                "--chart" => options.chart = Some(value()?),
                "--json" => options.json = Some(value()?),
                "--update" => options.update = Some(value()?),
                "--tree" => options.tree = Some(value()?),
                "--only" => options.only.push(value()?),
                "--who" => options.who.push(value()?),
                "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
                _ => return Err(format!("what is {word}?").into()),
            }
        }
        if !options.who.is_empty() && options.update.is_some() {
            return Err("a page wants everybody: --who is for looking".into());
        }
        Ok(options)
    }
}
