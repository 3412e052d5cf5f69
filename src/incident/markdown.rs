//! The report as Markdown: a screen of it.

use std::fmt::Write as _;

use crate::incident::dates;
use crate::incident::report::{Finding, Report, percent};

pub(super) fn write(it: &Report) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = fill(it, &mut text);
    text
}

fn fill(it: &Report, text: &mut String) -> std::fmt::Result {
    writeln!(
        text,
        "# {}\n\n**{}**\n\n{}",
        it.headline(escape),
        it.when(),
        it.summary(escape)
    )?;
    if !it.causes.is_empty() {
        writeln!(
            text,
            "\n| cause | failures | share | sure | said by | how long | seen as |\n|---|--:|--:|--:|---|---|---|"
        )?;
        for (cause, times) in it.causes.iter().take(ROWS) {
            let seen = it.seen.iter().filter(|row| row.0 == *cause);
            let seen: Vec<_> = seen
                .map(|(_, label, times)| format!("{} × {times}", escape(&label.to_string())))
                .take(3)
                .collect();
            let found = it.findings.iter().find(|row| row.cause == *cause);
            let (sure, by, lasts) = found.map_or_else(Default::default, |found| told(it, found));
            writeln!(
                text,
                "| {cause} | {times} | {} | {sure} | {by} | {lasts} | {} |",
                percent(*times, it.failures()),
                seen.join(", ")
            )?;
        }
        rest(text, it.causes.len(), "causes")?;
    }
    let findings = it.findings.iter().filter(|it| !it.evidence.is_empty());
    let told_by = findings.take(ROWS).map(|it| {
        let clues = it.evidence.iter().map(|it| it.words(escape));
        format!("{}: {}", it.cause, clues.collect::<Vec<_>>().join("; "))
    });
    section(text, "Told by", &told_by.collect::<Vec<_>>())?;
    if it.phases.len() > 1 {
        let lines = it.phases.iter().take(ROWS);
        let lines: Vec<_> = lines.map(|phase| it.phase(phase, escape)).collect();
        section(text, "As it changed", &lines)?;
        rest(text, it.phases.len(), "phases")?;
    }
    writeln!(
        text,
        "\n## Affected\n\n| service | calls | gave up | refused | succeeded | after retries | slow |\n|---|--:|--:|--:|--:|--:|--:|"
    )?;
    for of in it.affected.iter().take(ROWS) {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            escape(&of.name),
            of.calls(),
            of.gave_up,
            of.refused,
            of.succeeded,
            of.succeeded_later,
            of.slow
        )?;
    }
    rest(text, it.affected.len(), "services")?;
    section(text, "What the client did", &it.did())?;
    let few = it.changes.len() <= 2 * CHANGES;
    let shown = it.changes.iter().enumerate();
    let shown =
        shown.filter(|(index, _)| few || *index < CHANGES || index + CHANGES >= it.changes.len());
    let mut lines: Vec<_> = shown
        .map(|(_, change)| {
            let at = dates::time_of_day(change.at);
            format!("{at} {}: {}", escape(&change.name), change.words())
        })
        .collect();
    let left_out = it.changes_left_out + (it.changes.len() - lines.len()) as u64;
    if left_out > 0 {
        lines.insert(CHANGES, format!(".. {left_out} more .."));
    }
    section(text, "Changes of state", &lines)?;
    let lines = it.leading().take(2).flat_map(|cause| {
        let checks = cause.checks().iter();
        checks.map(move |check| format!("{cause}: {check}"))
    });
    section(text, "Look at next", &lines.collect::<Vec<_>>())?;
    let lines = it.leading().take(2);
    let lines = lines.map(|cause| format!("{cause}: {}", cause.advice()));
    section(text, "Meanwhile", &lines.collect::<Vec<_>>())?;
    let advice = it.advice.iter().take(ROWS);
    let advice = advice.map(|it| format!("{}: {}", it.reason, it.advice));
    section(text, "Consider", &advice.collect::<Vec<_>>())
}

/// How sure, who says so, and how long it would last.
fn told(it: &Report, found: &Finding) -> (String, String, String) {
    let by = found.said_by.iter().take(2);
    let by = by.map(|(origin, _)| escape(&origin.to_string()));
    (
        found
            .confidence
            .map_or_else(String::new, |it| format!("{it} %")),
        by.collect::<Vec<_>>().join(", "),
        it.lasts(found.outlook).unwrap_or_default(),
    )
}

fn section(text: &mut String, title: &str, lines: &[String]) -> std::fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n## {title}\n")?;
    lines.iter().try_for_each(|line| writeln!(text, "- {line}"))
}

fn rest(text: &mut String, rows: usize, what: &str) -> std::fmt::Result {
    match rows.checked_sub(ROWS) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(text, "\n.. and {more} more {what}"),
    }
}

/// Nothing in it means anything to a reader of Markdown, or of the HTML in it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(it) = rest.next() {
        match it {
            // A link has no space there.
            ':' if rest.peek() == Some(&' ') => escaped.push(it),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            it if it.is_ascii_punctuation() && !matches!(it, '-' | '.' | ',' | '/') => {
                escaped.push('\\');
                escaped.push(it);
            }
            it => escaped.push(it),
        }
    }
    escaped
}

/// So that it stays a screen.
const ROWS: usize = 5;
const CHANGES: usize = 4;
