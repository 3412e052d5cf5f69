//! Any order of deposits, withdrawals, spending and cancelling: the budget is exactly the slow,
//! obvious bucket, and extra attempts stay within capacity and share over every stretch.
//!
//! The input is a list of bytes: ratio, capacity, then one operation each.

#![no_main]

use std::time::{Duration, Instant};

use evenkeel::Budget;
use evenkeel::budget::{Ratio, Withdrawal};
use evenkeel::verdict::Kind;
use libfuzzer_sys::fuzz_target;

/// A token in hundredths, so that percentages are exact.
const TOKEN: u64 = 100;

const DEAR: u32 = 2;

fuzz_target!(|data: &[u8]| {
    let [ratio, capacity, operations @ ..] = data else {
        return;
    };
    let (ratio, capacity) = (u64::from(*ratio), u64::from(*capacity % 16));
    let budget = Budget::new(Ratio::percent(ratio as u16))
        .capacity(capacity as u32)
        .cost(Kind::Overloaded, DEAR);
    let mut model = Model {
        level: capacity * TOKEN,
        capacity: capacity * TOKEN,
        reserved: 0,
    };
    let mut held: Vec<(Withdrawal, u64)> = Vec::new();
    let mut now = Instant::now();
    let (mut firsts, mut extra) = (0_u64, 0_u64);
    let mut history = vec![(0, 0)];

    for operation in operations.iter().take(2_000) {
        let pick = |held: &Vec<_>| usize::from(operation >> 3) % held.len();
        match operation % 8 {
            0 | 1 | 2 => {
                if budget.deposit() {
                    budget.tick(now);
                }
                firsts += 1;
                model.level = (model.level + ratio).min(model.capacity);
            }
            3 | 4 => {
                let (kind, cost) = match operation % 8 {
                    3 => (Kind::Transient, TOKEN),
                    _ => (Kind::Overloaded, u64::from(DEAR) * TOKEN),
                };
                let got = budget.withdraw(kind, now);
                assert_eq!(got.is_some(), model.level - model.reserved >= cost);
                if let Some(withdrawal) = got {
                    model.reserved += cost;
                    held.push((withdrawal, cost));
                }
            }
            5 if !held.is_empty() => {
                let (withdrawal, cost) = held.swap_remove(pick(&held));
                withdrawal.spend();
                extra += 1;
                model.reserved -= cost;
                model.level -= cost;
            }
            6 if !held.is_empty() => {
                let (withdrawal, cost) = held.swap_remove(pick(&held));
                drop(withdrawal);
                model.reserved -= cost;
            }
            _ => now += Duration::from_millis(u64::from(operation >> 3) * 100),
        }
        for (firsts_then, extra_then) in history.iter().rev().step_by(1 + history.len() / 64) {
            let earned = (firsts - firsts_then) * ratio;
            assert!((extra - extra_then) * TOKEN <= model.capacity + earned);
        }
        history.push((firsts, extra));
    }

    let snapshot = budget.snapshot();
    assert_eq!(
        (snapshot.first_attempts, snapshot.extra_attempts),
        (firsts, extra)
    );
    let free = (model.level - model.reserved) as f64 / TOKEN as f64;
    assert!((snapshot.available - free).abs() < 1e-6);
});

/// Filled at every deposit; reserved tokens still take up room.
struct Model {
    level: u64,
    capacity: u64,
    reserved: u64,
}
