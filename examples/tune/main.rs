//! Which parameters? Policies tried on outages, with what each buys and costs.
//!
//! ```sh
//! cargo run --release --example tune --all-features
//! cargo run --release --example tune --all-features -- S2 "cold start"
//! cargo run --release --example tune --all-features -- --around
//! ```
//!
//! What is sought is not one number. More attempts bring more calls through, and more load with them; a
//! longer line brings more through, and later. So the grid names three: the policy that brings most
//! through, the knee (from which on more load buys little), and of those that recover and are
//! nearly as good the one that is done soonest. `--around` changes one setting of the default at a
//! time. Change both to what is yours to choose, and the scenarios to what you fear.

// Counts of requests and pixels: far from the bounds of any of these.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]

mod around;
mod grid;

use std::error::Error;

use evenkeel::sim::{Scenario, scenarios};

fn main() -> Result<(), Box<dyn Error>> {
    let (around, names): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|it| it == "--around");
    let asked: Vec<Scenario> = names.iter().map(|it| named(it)).collect::<Result<_, _>>()?;
    if !around.is_empty() {
        return around::show(&or(asked, &AROUND)?);
    }
    grid::show(&or(asked, &GRID)?)
}

fn or(asked: Vec<Scenario>, names: &[&str]) -> Result<Vec<Scenario>, String> {
    match asked.as_slice() {
        [] => names.iter().map(|it| named(it)).collect(),
        _ => Ok(asked),
    }
}

fn named(name: &str) -> Result<Scenario, String> {
    scenarios::named(name).ok_or(format!("there is no scenario {name}"))
}

const GRID: [&str; 4] = ["S0p", "S1", "S2", "S6"];

const AROUND: [&str; 11] = [
    "S0p",
    "S1",
    "S2",
    "S3",
    "S6",
    "S1 1000 clients",
    "S2 1000 clients",
    "cold start",
    "deep overload",
    "3 slow hosts",
    "quota 500/s",
];
