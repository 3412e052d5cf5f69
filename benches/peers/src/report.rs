//! The rows as Markdown and as JSON.

use std::fmt::Write as _;
use std::process::Command;

use crate::measure::{Contender, Goal, Role, Row, Unit};

/// A summary with one line for each row, and all figures below it.
pub fn tables(rows: &[Row]) -> String {
    format!("{}\n{}", summary(rows), details(rows))
}

/// The page with what stands between its markers replaced.
pub fn update(page: &str, rows: &[Row], tree: Option<&str>) -> Result<String, String> {
    let mut page = between(page, "machine", &machine())?;
    page = between(&page, "summary", summary(rows).trim_end())?;
    page = between(&page, "details", &details(rows))?;
    if let Some(tree) = tree {
        page = between(&page, "tree", tree.trim_end())?;
    }
    Ok(page)
}

/// Where this runs.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|it| it.strip_prefix("model name"));
    let model = model.map_or("unknown", |it| it.trim_start_matches([' ', '\t', ':']));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rustc = Command::new("rustc").arg("-V").output();
    let rustc = rustc.map_or(Vec::new(), |it| it.stdout);
    let rustc = String::from_utf8_lossy(&rustc);
    let rustc = rustc.split(" (").next().unwrap_or_default().trim();
    format!("Measured on a {model} with {threads} processors, by {rustc}.")
}

fn between(page: &str, name: &str, new: &str) -> Result<String, String> {
    let (begin, end) = (
        format!("<!-- {name}: begin -->"),
        format!("<!-- {name}: end -->"),
    );
    let missing = |marker: &str| format!("the page has no {marker}");
    let (head, rest) = page.split_once(&begin).ok_or_else(|| missing(&begin))?;
    let (_, tail) = rest.split_once(&end).ok_or_else(|| missing(&end))?;
    Ok(format!("{head}{begin}\n{new}\n{end}{tail}"))
}

fn summary(rows: &[Row]) -> String {
    let mut text = String::from(
        "| case | | floor | evenkeel | best peer | by best peer | goal | |\n|---|---|--:|--:|--:|--:|--:|---|\n",
    );
    for row in rows {
        let median = |it: Option<&Contender>| it.map_or("-".into(), |it| number(it.median()));
        let (floor, ours) = (row.one(Role::Floor), row.one(Role::Ours));
        let best = row.best_peer().map_or("-".into(), |it| {
            format!("{} ({})", number(it.median()), it.name)
        });
        let ratio = row.ratio().map_or("-".into(), |it| format!("{it:.2}"));
        let (goal, met) = match row.verdict() {
            None => ("-".into(), ""),
            Some((bound, met)) => (goal(row, bound), if met { "met" } else { "**missed**" }),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | **{}** | {best} | {ratio} | {goal} | {met} |",
            row.name,
            unit(row.unit),
            median(floor),
            median(ours),
        );
    }
    text
}

fn goal(row: &Row, bound: f64) -> String {
    if let Goal::OfFloorInPairs(ratio) = row.goal {
        return format!("≤ {ratio:.2} × floor; in pairs {bound:.3}");
    }
    let bound = number(bound);
    match row.goal {
        Goal::None | Goal::OfFloorInPairs(_) => "-".into(),
        Goal::AtMost(_) => format!("≤ {bound}"),
        Goal::AtLeast(_) => format!("≥ {bound}"),
        Goal::OfFloor(ratio) => format!("≤ {ratio:.2} × floor = {bound}"),
        Goal::Of(peer, ratio) => format!("≤ {ratio:.2} × {peer} = {bound}"),
        Goal::OfBest(_) => format!("≤ best peer = {bound}"),
    }
}

fn details(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let _ = write!(text, "### {}\n\n{}\n\n", row.name, row.note);
        let _ = write!(
            text,
            "| {} | median | quartiles | {} |\n|---|--:|--:|--:|\n",
            unit(row.unit),
            match row.goal {
                Goal::OfFloorInPairs(_) => "by floor, in pairs",
                _ => "by evenkeel",
            }
        );
        let ours = row.one(Role::Ours).map(Contender::median);
        for it in &row.contenders {
            let name = match it.role {
                Role::Floor => format!("*floor: {}*", it.name),
                Role::Ours => format!("**{}**", it.name),
                Role::Peer => it.name.to_owned(),
                Role::Aside => format!("({})", it.name),
            };
            let quartiles = if it.samples.len() > 1 {
                format!(
                    "{} - {}",
                    number(it.quantile(0.25)),
                    number(it.quantile(0.75))
                )
            } else {
                String::new()
            };
            let by = if let Goal::OfFloorInPairs(_) = row.goal {
                it.by_floor.map(|by| format!("{by:.3}"))
            } else {
                ours.map(|ours| format!("{:.2}", it.median() / ours))
            };
            let _ = writeln!(
                text,
                "| {name} | {} | {quartiles} | {} |",
                number(it.median()),
                by.unwrap_or_default()
            );
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

pub fn json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let contenders: Vec<_> = row
                .contenders
                .iter()
                .map(|it| {
                    serde_json::json!({
                        "name": it.name,
                        "role": format!("{:?}", it.role).to_lowercase(),
                        "median": it.median(),
                        "quartiles": [it.quantile(0.25), it.quantile(0.75)],
                        "by_floor_in_pairs": it.by_floor,
                    })
                })
                .collect();
            serde_json::json!({
                "case": row.name,
                "unit": unit(row.unit),
                "contenders": contenders,
                "ratio_to_best_peer": row.ratio(),
                "goal": row.verdict().map(|it| it.0),
                "met": row.verdict().map(|it| it.1),
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(rows))
}

pub const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Nanoseconds => "ns",
        Unit::Microseconds => "µs",
        Unit::Bytes => "bytes",
        Unit::Times => "×",
    }
}

/// Three digits, as a rule.
fn number(it: f64) -> String {
    match it {
        _ if it >= 100.0 => format!("{it:.0}"),
        _ if it >= 10.0 => format!("{it:.1}"),
        _ => format!("{it:.2}"),
    }
}
