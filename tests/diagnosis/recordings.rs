//! How often the table is right, by recordings whose true cause is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use evenkeel::diagnosis::{Cause, Origin, Persistence, Signatures};
use evenkeel::verdict::Processed;

use crate::fixtures::{CONFIDENT, Judgement, Record, Sight, others, recorded};

#[test]
fn at_least_nine_in_ten_recordings_are_read_right_and_hardly_one_misleads() {
    let records = recorded();
    let whole = Score::of(&records, &Signatures::new(), Sight::Whole);
    assert!(whole.right() >= 0.94, "{whole:?}");
    assert!(whole.misled() <= 0.005, "{whole:?}");
    let headers = Score::of(&records, &Signatures::new(), Sight::Headers);
    assert!(headers.right() >= 0.87, "{headers:?}");
    assert!(headers.misled() <= 0.005, "{headers:?}");
    let status = Score::of(&records, &Signatures::new(), Sight::Status);
    assert!(status.right() < 0.75, "{status:?}: what is the table for?");
}

#[test]
fn other_programs_are_read_nearly_as_well() {
    let (records, table) = (others(), Signatures::new());
    let whole = Score::of(&records, &table, Sight::Whole);
    assert!(whole.right() >= 0.92, "{whole:?}");
    assert!(whole.misled() <= 0.005, "{whole:?}");
    let headers = Score::of(&records, &table, Sight::Headers);
    assert!(headers.right() >= 0.88, "{headers:?}");
    assert!(headers.misled() <= 0.005, "{headers:?}");
    let proxies: BTreeSet<_> = records.iter().map(|it| it.text("proxy")).collect();
    for proxy in proxies {
        let of = records.iter().filter(|it| it.text("proxy") == proxy);
        let one = Score::of(of, &table, Sight::Whole);
        assert!(one.right() >= 0.7, "{proxy}: {one:?}");
        assert!(one.misled <= 1, "{proxy}: {one:?}");
    }
}

#[test]
fn without_a_row_for_any_maker_hardly_one_of_them_misleads() {
    let table = Signatures::new().keep(|row| !matches!(row.origin(), Origin::Proxy(_)));
    let score = Score::of(&others(), &table, Sight::Whole);
    println!("without the rows of all proxies: {score:?}");
    assert!(score.right() >= 0.7, "{score:?}");
    assert!(score.misled() <= 0.01, "{score:?}");
}

#[test]
fn a_proxy_that_the_table_does_not_know_is_not_guessed_at() {
    let records = recorded();
    for proxy in ["envoy", "haproxy", "nginx"] {
        let table = Signatures::new().keep(|row| !row.name().starts_with(proxy));
        let of = |it: &&Record| it.text("proxy").split('>').any(|it| it == proxy);
        let unseen: Vec<_> = records.iter().filter(of).collect();
        let score = Score::of(unseen, &table, Sight::Whole);
        println!("without the rows of {proxy}: {score:?}");
        assert!(score.right() >= 0.5, "{proxy}: {score:?}");
        assert!(score.misled() <= 0.05, "{proxy}: {score:?}");
    }
}

#[test]
fn what_was_sent_is_never_said_not_to_be() {
    let sent = [
        "upstream_slow",
        "upstream_slow_body",
        "upstream_reset_mid_headers",
        "upstream_reset_mid_body",
        "server_reset_mid_body",
        "server_slow",
        "proxy_stopped_in_flight",
    ];
    let (mut checked, mut not_sent) = (0, 0);
    let all: Vec<_> = recorded().into_iter().chain(others()).collect();
    for record in all.iter().filter(|it| it.is_failure()) {
        let diagnosis = record.seen(Sight::Whole).diagnose();
        let condition = record.text("condition");
        let was_sent = sent.contains(&condition)
            || record.text("variant").contains("after_request")
            || record.truth("origin") == "upstream";
        if was_sent {
            checked += 1;
            assert_ne!(
                diagnosis.processed(),
                Processed::No,
                "{condition}: {diagnosis}"
            );
        } else if diagnosis.processed() == Processed::No {
            not_sent += 1;
        }
    }
    assert!(checked > 500, "{checked}");
    assert!(not_sent > 350, "{not_sent}");
}

#[test]
fn how_long_it_lasts_is_seldom_said_the_wrong_way_round() {
    let (mut said, mut wrong) = (0, 0);
    let all: Vec<_> = recorded().into_iter().chain(others()).collect();
    for record in all.iter().filter(|it| it.is_failure()) {
        let diagnosis = record.seen(Sight::Whole).diagnose();
        let hint = record.truth("persistence_hint");
        match diagnosis.persistence() {
            Persistence::Unknown => continue,
            Persistence::Announced(_) | Persistence::Momentary => {
                wrong += u32::from(hint == "persistent");
            }
            Persistence::Persistent => wrong += u32::from(hint == "temporary"),
            other => panic!("{other:?}"),
        }
        said += 1;
    }
    assert!(said > 600, "{said}");
    assert!(wrong * 15 <= said, "{wrong} of {said}");
}

#[test]
fn an_answered_request_is_not_diagnosed() {
    for record in recorded()
        .iter()
        .chain(&others())
        .filter(|it| !it.is_failure())
    {
        let diagnosis = record.seen(Sight::Whole).diagnose();
        assert_eq!(diagnosis.cause(), Cause::Unknown);
        assert!(diagnosis.evidence().is_empty());
    }
}

#[test]
fn who_answered_is_told_right() {
    let (mut told, mut wrong) = (0, BTreeMap::new());
    let all: Vec<_> = recorded().into_iter().chain(others()).collect();
    for record in all.iter().filter(|it| it.is_failure()) {
        let diagnosis = record.seen(Sight::Whole).diagnose();
        let by = match diagnosis.origin() {
            Origin::Application => "upstream",
            Origin::Edge(_) | Origin::Proxy(_) => "proxy",
            Origin::Network | Origin::Client => "network",
            _ => continue,
        };
        told += 1;
        // A proxy that cuts a connection off leaves no name.
        if by != record.truth("origin") && !(by == "network" && record.was_cut_off()) {
            let key = format!("{} for {}", record.text("condition"), diagnosis.origin());
            *wrong.entry(key).or_insert(0) += 1;
        }
    }
    let all: u32 = wrong.values().sum();
    assert!(told > 800, "{told}");
    assert!(all * 20 <= told, "{all} of {told}: {wrong:#?}");
}

#[test]
fn the_page_is_up_to_date() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/diagnosis.md");
    let mut text = std::fs::read_to_string(page).expect("docs/diagnosis.md");
    let sections = [
        ("causes", causes()),
        ("parts", parts()),
        ("figures", figures("figures", &recorded())),
        ("figures of others", figures("figures of others", &others())),
    ];
    for (_, now) in &sections[1..] {
        println!("{now}");
    }
    for (file, records) in [("recorded", recorded()), ("recorded-others", others())] {
        let count = format!("{file}.jsonl`: {} answers", records.len());
        assert!(text.contains(&count), "{count}");
    }
    if std::env::var_os("EVENKEEL_WRITE").is_some() {
        for (name, now) in &sections {
            text = text.replace(section(&text, name), now);
        }
        std::fs::write(page, text).unwrap();
        return;
    }
    for (name, now) in &sections {
        let again = "run again with EVENKEEL_WRITE=1 and look at the difference";
        assert_eq!(section(&text, name), now, "{again}");
    }
}

/// From one mark to the other, both included: so that it is never empty, and stands once.
fn section<'a>(text: &'a str, name: &str) -> &'a str {
    let end = format!("<!-- end of {name} -->");
    let from = text.find(&format!("<!-- {name} -->")).expect("a mark");
    let to = text.find(&end).expect("a mark") + end.len();
    &text[from..to]
}

fn causes() -> String {
    let mut page = String::from(
        "<!-- causes -->\n| cause | what to check next | meanwhile |\n|---|---|---|\n",
    );
    for cause in Cause::ALL {
        let checks = cause.checks().join("; ");
        writeln!(page, "| {cause} | {checks} | {} |", cause.advice()).unwrap();
    }
    page + "<!-- end of causes -->"
}

/// The later recordings, each part by itself.
fn parts() -> String {
    let (records, table) = (others(), Signatures::new());
    let mut page = String::from(
        "<!-- parts -->\n| recordings | failures | right with the body | right by headers alone | wrong, sure (body; headers) |\n\
         |---|---|---|---|---|\n",
    );
    for (part, set) in [("first part, now", 1), ("second part, now", 2)] {
        let of = |sight| {
            Score::of(
                records.iter().filter(|it| it.set() == Some(set)),
                &table,
                sight,
            )
        };
        let (whole, headers) = (of(Sight::Whole), of(Sight::Headers));
        writeln!(
            page,
            "| {part} | {} | {:.1} % | {:.1} % | {}; {} |",
            whole.all(),
            whole.right() * 100.0,
            headers.right() * 100.0,
            whole.misled,
            headers.misled,
        )
        .unwrap();
    }
    page + "<!-- end of parts -->"
}

#[derive(Debug, Default)]
struct Score {
    right: u32,
    unknown: u32,
    wrong: u32,
    misled: u32,
}

impl Score {
    fn of<'a>(
        records: impl IntoIterator<Item = &'a Record>,
        table: &Signatures,
        sight: Sight,
    ) -> Self {
        let mut score = Self::default();
        for record in records.into_iter().filter(|it| it.is_failure()) {
            score.count(record.judge(&table.diagnose(&record.seen(sight))));
        }
        score
    }

    fn count(&mut self, judgement: Judgement) {
        match judgement {
            Judgement::Right => self.right += 1,
            Judgement::Unknown => self.unknown += 1,
            Judgement::Wrong => self.wrong += 1,
            Judgement::Misled => self.misled += 1,
        }
    }

    fn all(&self) -> u32 {
        self.right + self.unknown + self.wrong + self.misled
    }

    fn right(&self) -> f64 {
        f64::from(self.right) / f64::from(self.all())
    }

    fn misled(&self) -> f64 {
        f64::from(self.misled) / f64::from(self.all())
    }

    fn line(&self, name: &str) -> String {
        let percent = self.right() * 100.0;
        format!(
            "| {name} | {} | {percent:.1} % | {} | {} | {} |\n",
            self.all(),
            self.unknown,
            self.wrong,
            self.misled
        )
    }
}

fn figures(name: &str, records: &[Record]) -> String {
    let table = Signatures::new();
    let mut page = format!("<!-- {name} -->\n");
    page += "| what is looked at | failures | right | unknown | wrong, unsure | wrong, sure |\n";
    page += "|---|---|---|---|---|---|\n";
    for (looked_at, sight) in [
        ("the status alone", Sight::Status),
        (
            "status, headers, phrase, time: as in a pipeline",
            Sight::Headers,
        ),
        ("that and the body", Sight::Whole),
    ] {
        page += &Score::of(records, &table, sight).line(looked_at);
    }
    page += "\nWith the body, per proxy (`a>b`: `b` behind `a`; `none`: no proxy):\n\n";
    page += "| proxy | failures | right | unknown | wrong, unsure | wrong, sure |\n";
    page += "|---|---|---|---|---|---|\n";
    let proxies: BTreeSet<_> = records.iter().map(|it| it.text("proxy")).collect();
    for proxy in proxies {
        let of = |it: &&Record| it.text("proxy") == proxy;
        page += &Score::of(records.iter().filter(of), &table, Sight::Whole).line(proxy);
    }
    page + &matrix(records, &table) + &format!("<!-- end of {name} -->")
}

/// True causes down, named ones across.
fn matrix(records: &[Record], table: &Signatures) -> String {
    let mut cells: BTreeMap<(&str, Cause), u32> = BTreeMap::new();
    let mut missed = BTreeMap::new();
    for record in records.iter().filter(|it| it.is_failure()) {
        let diagnosis = table.diagnose(&record.seen(Sight::Whole));
        let truth = record.truth("cause");
        *cells.entry((truth, diagnosis.cause())).or_default() += 1;
        if record.judge(&diagnosis) != Judgement::Right {
            let what = (
                record.text("proxy"),
                record.text("condition"),
                record.text("variant"),
            );
            let entry = missed.entry((what, truth, diagnosis.cause()));
            let (count, least) = entry.or_insert((0, u8::MAX));
            *count += 1;
            *least = diagnosis.confidence().min(*least);
        }
    }
    let causes: BTreeSet<_> = cells.keys().map(|(_, cause)| *cause).collect();
    let truths: BTreeSet<_> = cells.keys().map(|(truth, _)| *truth).collect();
    let mut page = String::from("\nTrue causes down, named ones across:\n\n| |");
    for cause in &causes {
        write!(page, " {cause} |").unwrap();
    }
    page += "\n|---|";
    page += &"---|".repeat(causes.len());
    for truth in truths {
        write!(page, "\n| {} |", truth.replace('_', " ")).unwrap();
        for cause in &causes {
            match cells.get(&(truth, *cause)) {
                Some(count) => write!(page, " {count} |").unwrap(),
                None => page += " |",
            }
        }
    }
    page += "\n\nWhat is not read right:\n\n| proxy | what was done | true cause | named | sure | times |\n";
    page += "|---|---|---|---|---|---|\n";
    for (((proxy, condition, variant), truth, cause), (count, least)) in missed {
        let truth = truth.replace('_', " ");
        writeln!(
            page,
            "| {proxy} | {condition}: {variant} | {truth} | {cause} | {least} % | {count} |"
        )
        .unwrap();
    }
    writeln!(
        page,
        "\n\"Sure\" is a confidence of {CONFIDENT} % and more."
    )
    .unwrap();
    page
}
