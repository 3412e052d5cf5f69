//! The report as a page: one file that needs nothing else.

use std::fmt::{self, Write as _};

use crate::incident::dates;
use crate::incident::plot;
use crate::incident::report::{Report, percent};

pub(super) fn write(it: &Report) -> String {
    let mut page = String::new();
    // Writing to a string can't fail.
    let _ = fill(it, &mut page);
    page
}

/// What means anything to HTML, as text or in an attribute, means nothing any more.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            it => escaped.push(it),
        }
    }
    escaped
}

fn fill(it: &Report, page: &mut String) -> fmt::Result {
    let title = it.headline(escape);
    write!(
        page,
        "{HEAD}<title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>\
         <p class=\"when\">{}</p><p>{}</p>",
        escape(&it.when()),
        it.summary(escape),
    )?;
    page.push_str("<figure><div class=\"wide\">");
    page.push_str(&plot::svg(it)?);
    page.push_str("</div><figcaption>");
    legend(it, page)?;
    page.push_str("</figcaption></figure>");
    found(it, page)?;
    page.push_str("<div class=\"two\">");
    seen(it, page)?;
    list(
        page,
        "What the client did",
        it.did().iter().map(|it| escape(it)),
    )?;
    page.push_str("</div>");
    affected(it, page)?;
    page.push_str("<div class=\"two\">");
    next(it, page)?;
    let advice = it.advice.iter();
    let advice = advice.map(|it| format!("<b>{}</b>: {}", escape(&it.reason), escape(it.advice)));
    list(page, "Consider", advice)?;
    page.push_str("</div>");
    changes(it, page)?;
    page.push_str("</main></body></html>\n");
    Ok(())
}

fn legend(it: &Report, page: &mut String) -> fmt::Result {
    for (place, (cause, times)) in it.causes.iter().enumerate() {
        let class = plot::class(Some(place));
        let cause = escape(&cause.to_string());
        write!(
            page,
            "<span><i class=\"{class}\"></i>{cause} {times}</span> "
        )?;
    }
    if it.seen_otherwise > 0 {
        write!(
            page,
            "<span><i class=\"cx\"></i>other failures {}</span> ",
            it.seen_otherwise
        )?;
    }
    write!(
        page,
        "<span><i class=\"refused\"></i>refused, not sent {}</span> <span><i class=\"answered\"></i>answered</span> \
         <span><i class=\"span\"></i>the incident</span>",
        it.refused()
    )?;
    if let Some(at) = it.back_at {
        let at = dates::near(at, it.begin);
        write!(
            page,
            " <span>dotted: the server said it would be back at {at}</span>"
        )?;
    }
    Ok(())
}

/// The diagnoses: by cause with their evidence, and as they changed.
fn found(it: &Report, page: &mut String) -> fmt::Result {
    if it.findings.is_empty() {
        return Ok(());
    }
    page.push_str(
        "<section><h2>Diagnosis</h2><div class=\"scroll\"><table class=\"words\"><thead><tr><th>cause</th><th>failures</th>\
         <th>sure</th><th>said by</th><th>how long</th><th>told by</th></tr></thead><tbody>",
    );
    for of in &it.findings {
        let sure = of.confidence.map(|it| format!("{it} %"));
        let by = of
            .said_by
            .iter()
            .map(|(origin, times)| match &of.said_by[..] {
                [_] => origin.to_string(),
                _ => format!("{origin} {times}"),
            });
        let by = by.collect::<Vec<_>>().join(", ");
        let lasts = it.lasts(of.outlook).unwrap_or_default();
        let clues = of.evidence.iter().map(|it| it.words(escape));
        write!(
            page,
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&of.cause.to_string()),
            of.failures,
            sure.unwrap_or_default(),
            escape(&by),
            escape(&lasts),
            clues.collect::<Vec<_>>().join("<br>")
        )?;
    }
    page.push_str("</tbody></table></div>");
    if it.phases.len() > 1 {
        page.push_str("<p>As it changed:</p><ul>");
        for phase in it.phases.iter().take(PHASES) {
            write!(page, "<li>{}</li>", it.phase(phase, escape))?;
        }
        if let Some(more) = it.phases.len().checked_sub(PHASES).filter(|it| *it > 0) {
            write!(page, "<li><em>and {more} more</em></li>")?;
        }
        page.push_str("</ul>");
    }
    page.push_str("</section>");
    Ok(())
}

fn seen(it: &Report, page: &mut String) -> fmt::Result {
    if it.seen.is_empty() {
        return Ok(());
    }
    page.push_str(
        "<section><h2>Seen</h2><div class=\"scroll\"><table><thead><tr><th>cause</th><th>as</th><th>failures</th>\
         <th>share</th></tr></thead><tbody>",
    );
    for (cause, label, times) in &it.seen {
        let (cause, label) = (escape(&cause.to_string()), escape(&label.to_string()));
        let share = percent(*times, it.failures());
        write!(
            page,
            "<tr><th>{cause}</th><td>{label}</td><td>{times}</td><td>{share}</td></tr>"
        )?;
    }
    if it.seen_otherwise > 0 {
        let share = percent(it.seen_otherwise, it.failures());
        write!(
            page,
            "<tr><th>others</th><td></td><td>{}</td><td>{share}</td></tr>",
            it.seen_otherwise
        )?;
    }
    page.push_str("</tbody></table></div></section>");
    Ok(())
}

fn affected(it: &Report, page: &mut String) -> fmt::Result {
    page.push_str(
        "<section><h2>Affected</h2><div class=\"scroll\"><table><thead><tr><th>service</th>",
    );
    for title in COLUMNS {
        write!(page, "<th>{title}</th>")?;
    }
    page.push_str("</tr></thead><tbody>");
    for of in &it.affected {
        write!(page, "<tr><th>{}</th>", escape(&of.name))?;
        let numbers = [
            of.calls(),
            of.gave_up,
            of.refused,
            of.succeeded,
            of.succeeded_later,
            of.slow,
            of.request_faults,
            of.failures,
        ];
        for number in numbers {
            write!(page, "<td>{number}</td>")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div></section>");
    Ok(())
}

fn next(it: &Report, page: &mut String) -> fmt::Result {
    if it.causes.is_empty() {
        return Ok(());
    }
    page.push_str("<section><h2>Look at next</h2>");
    for cause in it.leading() {
        write!(page, "<h3>{}</h3><ul>", escape(&cause.to_string()))?;
        for check in cause.checks() {
            write!(page, "<li>{}</li>", escape(check))?;
        }
        write!(page, "</ul><p>Meanwhile: {}.</p>", escape(cause.advice()))?;
    }
    page.push_str("</section>");
    Ok(())
}

fn changes(it: &Report, page: &mut String) -> fmt::Result {
    let lines = it.changes.iter().enumerate();
    let gap = it.changes.len() / 2;
    let lines = lines.map(|(index, change)| {
        let left_out = match it.changes_left_out {
            more if more > 0 && index == gap => {
                format!("<em>{more} more are left out here</em></li><li>")
            }
            _ => String::new(),
        };
        format!(
            "{left_out}<time>{}</time> {}: {}",
            dates::time_of_day(change.at),
            escape(&change.name),
            escape(&change.words())
        )
    });
    list(page, "Changes of state", lines)
}

fn list(page: &mut String, title: &str, lines: impl Iterator<Item = String>) -> fmt::Result {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    write!(page, "<section><h2>{title}</h2><ul>")?;
    lines.try_for_each(|line| write!(page, "<li>{line}</li>"))?;
    page.push_str("</ul></section>");
    Ok(())
}

/// So many lines of how it changed are read; the plot has them all.
const PHASES: usize = 16;

const COLUMNS: [&str; 8] = [
    "calls",
    "gave up",
    "refused",
    "succeeded",
    "after retries",
    "slow",
    "request's fault",
    "failed attempts",
];

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">";

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --soft: #666; --span: #f4efe2;
  --c0: #c0392b; --c1: #e69f00; --c2: #7b4ea3; --c3: #1f77b4; --c4: #8c6d31; --c5: #d16ba5; --cx: #888;
  --good: #9fcfae; --lane: #eee; --shut: #555 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #161616; --line: #444; --soft: #aaa; --span: #33291a;
  --c0: #e5604f; --c1: #f0b429; --c2: #a47fd0; --c3: #4fa3dd; --c4: #b8954f; --c5: #e08fbf; --cx: #999;
  --good: #3f6f50; --lane: #2a2a2a; --shut: #aaa } }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; --line: #bbb; --soft: #333; --span: #f4efe2;
  --c0: #c0392b; --c1: #e69f00; --c2: #7b4ea3; --c3: #1f77b4; --c4: #8c6d31; --c5: #d16ba5; --cx: #888;
  --good: #9fcfae; --lane: #eee; --shut: #555 }
  main { max-width: none; padding: 0 } section, figure { break-inside: avoid }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact } @page { margin: 14mm } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1000px; margin: 0 auto; padding: 1.5rem }
h1 { line-height: 1.2; margin: 0; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin: 1.5rem 0 .4rem; border-top: 1px solid var(--line); padding-top: .7rem }
h3 { font-size: 1rem; margin: .6rem 0 .2rem } p { max-width: 54em } .when { font-weight: 600 }
figure { margin: 1rem 0 } .wide { overflow-x: auto } svg { display: block; width: 100%; min-width: 640px; height: auto }
figcaption { font-size: 13px; margin-top: .3rem } figcaption span { white-space: nowrap; margin-right: 1rem }
figcaption i { display: inline-block; width: 1em; height: .8em; margin-right: .35em; border: 1px solid var(--line) }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 0 2rem }
section { min-width: 0 } ul { margin: .2rem 0; padding-left: 1.2em } li { overflow-wrap: anywhere } time { color: var(--soft); font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3em .6em; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
.words td:nth-child(-n + 3) { white-space: nowrap } .words td:nth-child(n + 4), .words th:nth-child(n + 4) { text-align: left }
th:first-child { text-align: left; overflow-wrap: anywhere; min-width: 7em } tbody th { font-weight: 400 }
.c0 { fill: var(--c0); background: var(--c0) } .c1 { fill: var(--c1); background: var(--c1) } .c2 { fill: var(--c2); background: var(--c2) }
.c3 { fill: var(--c3); background: var(--c3) } .c4 { fill: var(--c4); background: var(--c4) } .c5 { fill: var(--c5); background: var(--c5) }
.cx { fill: var(--cx); background: var(--cx) } .answered { fill: var(--good); background: var(--good) } .span { fill: var(--span); background: var(--span) }
.refused { fill: url(#hatch); stroke: var(--ink); stroke-width: .3; background: repeating-linear-gradient(135deg, var(--ink) 0 2px, transparent 2px 4px) }
.ink { fill: var(--ink) } .grid { stroke: var(--line); fill: none; stroke-width: 1 } .lane { fill: var(--lane) } .shut { fill: var(--shut) } .part { fill: url(#hatch) }
.line { fill: none; stroke: var(--ink); stroke-width: 1.4 } .parked { stroke-dasharray: 4 3 } .between { stroke: var(--c3); stroke-width: 1 } .dots { stroke: var(--c3); stroke-width: 5; stroke-linecap: round } .back { stroke-width: 1; stroke-dasharray: 2 3 }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } svg .tick, svg .title { fill: var(--soft); font-size: 11px }
svg .name { font-size: 11px }
";
