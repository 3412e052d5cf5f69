//! The page: one file that needs nothing else.

use std::fmt::Write as _;

use evenkeel::sim::{Second, scenarios};

use crate::{Cell, Outcome, Table, plots};

pub(crate) fn html(table: &Table) -> Outcome<String> {
    let mut page = String::from(HEAD);
    write!(
        page,
        "<h1>What an outage does to a fleet of clients</h1>
<p>{} scenarios under {} policies, {} runs of {} attempts in all. Each client has a pipeline of its own, of the
parts that production uses; time and chance are simulated, so that every run can be repeated.</p>
<h2>Share of the attainable</h2>
<p>Successes of the requests that a fault may have touched, in percent of what an omniscient client gets:
one that knows of every fault and every free worker at once.</p>
<figure class=\"wide\">{}</figure><dl>",
        table.scenarios.len(),
        table.policies.len(),
        table.runs,
        table.attempts,
        plots::heat_map(table)?,
    )?;
    for scenario in &table.scenarios {
        let (name, about) = (escape(scenario.name()), escape(scenario.description()));
        write!(page, "<dt>{name}</dt><dd>{about}</dd>")?;
    }
    page.push_str("</dl>");
    reference(&mut page)?;
    for scenario in 0..table.scenarios.len() {
        section(&mut page, table, scenario)?;
    }
    page.push_str("</main></body></html>\n");
    Ok(page)
}

/// What was known before.
fn reference(page: &mut String) -> Outcome<()> {
    page.push_str(
        "<details><summary>Reference: what policies reached in an independent implementation of the same \
         world, mean of three seeds</summary><div class=\"scroll\"><table><thead><tr><th>policy</th>\
         <th>S1</th><th>S2</th><th>S6</th></tr></thead><tbody>",
    );
    for (policy, shares) in scenarios::REFERENCE {
        write!(page, "<tr><th>{}</th>", escape(policy))?;
        for share in shares {
            let share = share.map_or("–".into(), |it| format!("{it}"));
            write!(page, "<td>{share}</td>")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div></details>");
    Ok(())
}

fn section(page: &mut String, table: &Table, scenario: usize) -> Outcome<()> {
    let it = &table.scenarios[scenario];
    let (name, about) = (escape(it.name()), escape(it.description()));
    let id = crate::slug(it.name());
    write!(
        page,
        "<section id=\"{id}\"><h2>{name} <small>{about}</small></h2><p class=\"legend\">"
    )?;
    for (index, policy) in table.policies.iter().enumerate() {
        let (colour, policy) = (plots::css(index), escape(policy));
        write!(
            page,
            "<span><i style=\"background:{colour}\"></i>{policy}</span> "
        )?;
    }
    page.push_str("</p><div class=\"plots\">");
    for (_, title, of) in PLOTS {
        let plot = plots::over_time(table, scenario, title, false, of)?;
        write!(page, "<figure>{plot}</figure>")?;
    }
    page.push_str("</div><div class=\"scroll\"><table><thead><tr><th>policy</th>");
    for (title, _) in COLUMNS {
        write!(page, "<th>{title}</th>")?;
    }
    page.push_str("<th>what was met, all in all</th></tr></thead><tbody>");
    for (index, policy) in table.policies.iter().enumerate() {
        let cell = &table.cells[scenario][index];
        write!(page, "<tr><th>{}</th>", escape(policy))?;
        for (_, of) in COLUMNS {
            write!(page, "<td>{}</td>", of(cell))?;
        }
        let causes = cell.runs[0].causes.iter();
        let causes: Vec<_> = causes
            .map(|(cause, count)| format!("{} × {count}", escape(cause)))
            .collect();
        write!(page, "<td class=\"causes\">{}</td></tr>", causes.join("; "))?;
    }
    page.push_str("</tbody></table></div></section>");
    Ok(())
}

/// A name for files, a title, and what is plotted.
type Plot = (&'static str, &'static str, fn(&Second) -> f64);

pub(crate) const PLOTS: [Plot; 6] = [
    ("goodput", "goodput: successes per second", |it| {
        f64::from(it.answered)
    }),
    ("attempts", "attempts per second", |it| {
        f64::from(it.attempts)
    }),
    ("queue", "waiting at the hosts", |it| f64::from(it.queued)),
    ("limited", "clients whose window is limited", |it| {
        f64::from(it.limited)
    }),
    ("window", "what limited windows let be under way", |it| {
        it.window
    }),
    ("parked", "parked at the clients", |it| f64::from(it.parked)),
];

type Column = (&'static str, fn(&Cell) -> String);

const COLUMNS: [Column; 9] = [
    ("% of attainable", |it| format!("{:.1}", it.share())),
    ("success in the fault", |it| {
        percent(it.mean(|it| it.during))
    }),
    ("in the minute after", |it| percent(it.mean(|it| it.after))),
    ("recovery", Cell::recovery_in_words),
    ("attempts per request", |it| {
        format!("{:.2}", it.mean(|it| it.amplification))
    }),
    ("in the worst second", |it| {
        format!("{:.1}", it.mean(|it| it.worst))
    }),
    ("work for nobody", |it| percent(it.mean(|it| it.wasted))),
    ("p50", |it| {
        seconds(it.mean(|it| it.p50.map_or(f64::NAN, |it| it.as_secs_f64())))
    }),
    ("p99", |it| {
        seconds(it.mean(|it| it.p99.map_or(f64::NAN, |it| it.as_secs_f64())))
    }),
];

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn seconds(length: f64) -> String {
    match length {
        length if length.is_nan() => "–".into(),
        length => format!("{length:.2} s"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

const HEAD: &str = r##"<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What an outage does to a fleet of clients</title>
<style>
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #161616; --line: #444 } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem }
svg { max-width: 100%; height: auto } svg text[fill="#808080"] { fill: var(--ink) }
figure { margin: 0 } .wide { overflow-x: auto } .wide svg { max-width: none }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: .5rem }
.legend span { white-space: nowrap; margin-right: 1rem } .legend i { display: inline-block; width: 1.4em; height: .3em; margin-right: .4em; vertical-align: middle }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; width: 100% }
td:not(.causes) { white-space: nowrap } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem } dt { font-weight: 600 } dd { margin: 0 } h2 small { font-weight: 400; opacity: .75 }
th, td { padding: .3em .6em; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top }
th:first-child, .causes, th:last-child { text-align: left } .causes { font-size: 11px; min-width: 22em }
@media print { section { break-inside: avoid } }
</style></head><body><main>
"##;
