//! The report as Markdown: a screen of it.

use std::fmt::Write as _;

use crate::incident::cause::checks;
use crate::incident::dates;
use crate::incident::report::{Report, percent};

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
        it.summary()
    )?;
    if !it.causes.is_empty() {
        writeln!(
            text,
            "\n| cause | failures | share | seen as |\n|---|--:|--:|---|"
        )?;
        for (cause, times) in it.causes.iter().take(ROWS) {
            let seen = it.seen.iter().filter(|row| row.0 == *cause);
            let seen: Vec<_> = seen
                .map(|(_, label, times)| format!("{} × {times}", escape(&label.to_string())))
                .take(3)
                .collect();
            writeln!(
                text,
                "| {cause} | {times} | {} | {} |",
                percent(*times, it.failures()),
                seen.join(", ")
            )?;
        }
        rest(text, it.causes.len(), "causes")?;
    }
    if it.phases.len() > 1 {
        text.push('\n');
        for phase in it.phases.iter().take(ROWS) {
            let from = dates::time_of_day(phase.from);
            writeln!(
                text,
                "- from {from}: {}, {} of {} failures",
                phase.cause, phase.failures, phase.of
            )?;
        }
        rest(text, it.phases.len(), "phases")?;
    }
    writeln!(
        text,
        "\n| service | calls | gave up | refused | succeeded | after retries | slow |\n|---|--:|--:|--:|--:|--:|--:|"
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
        checks(cause)
            .iter()
            .map(move |check| format!("{cause}: {check}"))
    });
    section(text, "Look at next", &lines.collect::<Vec<_>>())?;
    let advice = it.advice.iter().take(ROWS);
    let advice = advice.map(|it| format!("{}: {}", it.reason, it.advice));
    section(text, "Consider", &advice.collect::<Vec<_>>())
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
    for it in text.chars() {
        match it {
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
