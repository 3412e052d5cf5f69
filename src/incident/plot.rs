//! The timeline as SVG. Written by hand: a few rectangles and lines need no crate, and their colours are the
//! page's own, so that they suit the dark and the paper.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use crate::breaker;
use crate::endpoints;
use crate::event;
use crate::incident::dates;
use crate::incident::page::escape;
use crate::incident::report::{Change, Moment, Report};
use crate::throttle;
use crate::window;

/// What is plotted, one on top of the other.
pub(super) fn svg(report: &Report) -> Result<String, fmt::Error> {
    let mut plot = Plot {
        report,
        axis: Axis::new(report),
        body: String::new(),
        top: 0.0,
    };
    plot.failures()?;
    plot.calls()?;
    plot.extra()?;
    plot.lanes()?;
    plot.budget()?;
    let height = plot.times()?;
    let mut svg = String::new();
    write!(
        svg,
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"Timeline of the incident\">\
         <defs><pattern id=\"hatch\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><rect width=\"2\" height=\"5\" class=\"ink\"/></pattern></defs>"
    )?;
    let (from, to) = plot.axis.incident(report);
    let end = height - 22.0;
    write!(
        svg,
        "<rect class=\"span\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{end:.1}\"/>",
        (to - from).max(1.0),
    )?;
    svg.push_str(&plot.body);
    if let Some(at) = report.back_at {
        let x = plot.axis.x(at);
        if x < RIGHT {
            write!(
                svg,
                "<path class=\"line back\" d=\"M{x:.1} 0V{end:.1}\"><title>the server said: back at {}</title></path>",
                dates::near(at, report.begin)
            )?;
        }
    }
    svg.push_str("</svg>");
    Ok(svg)
}

/// The class of the cause at this place of the report.
pub(super) fn class(place: Option<usize>) -> &'static str {
    match place.and_then(|place| CLASSES.get(place)) {
        Some(class) => class,
        None => "cx",
    }
}

struct Plot<'a> {
    report: &'a Report,
    axis: Axis,
    body: String,
    /// Where the next panel goes.
    top: f64,
}

/// Time, from left to right.
struct Axis {
    origin: SystemTime,
    /// Of a step, in seconds.
    step: f64,
    /// From the origin to the last step's end, in seconds.
    whole: f64,
}

/// How many of a moment, and in which class.
type Series = (&'static str, Box<dyn Fn(&Moment) -> u64>);

impl Plot<'_> {
    fn failures(&mut self) -> fmt::Result {
        let causes = self.report.causes.iter().enumerate();
        let causes = causes.take(CLASSES.len());
        let mut series: Vec<Series> = causes
            .map(|(place, (cause, _))| {
                let cause = *cause;
                let of = move |it: &Moment| {
                    let found = it.failures.iter().find(|row| row.0 == cause);
                    found.map_or(0, |row| row.1)
                };
                (class(Some(place)), Box::new(of) as _)
            })
            .collect();
        let named: Vec<_> = self
            .report
            .causes
            .iter()
            .map(|it| it.0)
            .take(CLASSES.len())
            .collect();
        let others = move |it: &Moment| {
            let rows = it.failures.iter().filter(|row| !named.contains(&row.0));
            rows.map(|row| row.1).sum::<u64>() + it.failed_otherwise
        };
        series.push(("cx", Box::new(others)));
        self.stack("failed attempts per second, by cause", 130.0, &series)
    }

    fn calls(&mut self) -> fmt::Result {
        let series: [Series; 2] = [
            ("refused", Box::new(|it| it.refused)),
            ("answered", Box::new(|it| it.answered)),
        ];
        self.stack(
            "calls per second: refused and not sent, answered",
            100.0,
            &series,
        )
    }

    /// A panel of bars, each series on top of the one before.
    fn stack(&mut self, title: &str, height: f64, series: &[Series]) -> fmt::Result {
        let total = |it: &Moment| series.iter().map(|(_, of)| of(it)).sum::<u64>();
        let most = self.report.timeline.iter().map(total).max().unwrap_or(0);
        if most == 0 {
            return Ok(());
        }
        self.panel(title, height, self.per_second(most), |plot, scale| {
            let mut below = vec![0; plot.report.timeline.len()];
            for (class, of) in series {
                let mut path = String::new();
                let moments = plot.report.timeline.iter().enumerate();
                for ((index, moment), below) in moments.zip(&mut below) {
                    let count = of(moment);
                    if count == 0 {
                        continue;
                    }
                    let (low, high) = (*below, *below + count);
                    *below = high;
                    let (left, width) = plot.axis.bar(index);
                    let top = scale.y(plot.per_second(high));
                    let height = scale.y(plot.per_second(low)) - top;
                    write!(
                        path,
                        "M{left:.1} {top:.1}h{width:.1}v{height:.1}h-{width:.1}z"
                    )?;
                }
                if !path.is_empty() {
                    write!(plot.body, "<path class=\"{class}\" d=\"{path}\"/>")?;
                }
            }
            Ok(())
        })
    }

    fn extra(&mut self) -> fmt::Result {
        let moments = self.report.timeline.iter();
        let most = moments
            .map(|it| it.retries.max(it.parked))
            .max()
            .unwrap_or(0);
        if most == 0 {
            return Ok(());
        }
        let title =
            "per second: retries planned (line), attempts that began to wait in line (dashes)";
        self.panel(title, 80.0, self.per_second(most), |plot, scale| {
            plot.line("retries", scale, |it| it.retries)?;
            plot.line("parked", scale, |it| it.parked)
        })
    }

    fn budget(&mut self) -> fmt::Result {
        if self.report.timeline.iter().all(|it| it.budget.is_none()) {
            return Ok(());
        }
        self.panel(
            "budget left, in percent, where a failure asked for it",
            70.0,
            100.0,
            |plot, scale| {
                let (mut path, mut dots) = (String::new(), String::new());
                for (index, moment) in plot.report.timeline.iter().enumerate() {
                    let Some(level) = moment.budget else {
                        continue;
                    };
                    let (left, width) = plot.axis.bar(index);
                    let (x, y) = (left + width / 2.0, scale.y(100.0 * level));
                    let verb = if path.is_empty() { 'M' } else { 'L' };
                    write!(path, "{verb}{x:.1} {y:.1}")?;
                    write!(dots, "M{x:.1} {y:.1}h0")?;
                }
                write!(plot.body, "<path class=\"line between\" d=\"{path}\"/>")?;
                write!(plot.body, "<path class=\"line dots\" d=\"{dots}\"/>")
            },
        )
    }

    /// A frame with a title and a scale, and what `draw` draws into it.
    fn panel(
        &mut self,
        title: &str,
        height: f64,
        most: f64,
        draw: impl FnOnce(&mut Self, &Scale) -> fmt::Result,
    ) -> fmt::Result {
        let most = round_up(most);
        let scale = Scale {
            most,
            bottom: self.top + 20.0 + height,
            height,
        };
        let (top, bottom) = (self.top + 20.0, scale.bottom);
        write!(
            self.body,
            "<text class=\"title\" x=\"{LEFT}\" y=\"{:.1}\">{title}</text>",
            self.top + 13.0
        )?;
        for (value, y) in [(0.0, bottom), (most / 2.0, top + height / 2.0), (most, top)] {
            write!(
                self.body,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text class=\"tick\" text-anchor=\"end\" \
                 x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(value)
            )?;
        }
        self.top = bottom + 10.0;
        draw(self, &scale)
    }

    /// A line of steps.
    fn line(&mut self, class: &str, scale: &Scale, of: impl Fn(&Moment) -> u64) -> fmt::Result {
        let mut path = String::new();
        for (index, moment) in self.report.timeline.iter().enumerate() {
            let ((left, width), y) = (self.axis.bar(index), scale.y(self.per_second(of(moment))));
            if index == 0 {
                write!(path, "M{left:.1} {y:.1}h{width:.1}")?;
            } else {
                write!(path, "V{y:.1}h{width:.1}")?;
            }
        }
        write!(self.body, "<path class=\"line {class}\" d=\"{path}\"/>")
    }

    /// A lane for the state of each policy that changed it.
    fn lanes(&mut self) -> fmt::Result {
        let lanes = lanes(&self.report.changes);
        if lanes.is_empty() {
            return Ok(());
        }
        let more = match lanes.len().saturating_sub(LANES)
            + usize::from(self.report.changes_left_out > 0)
        {
            0 => "",
            _ => " (not all are shown)",
        };
        write!(
            self.body,
            "<text class=\"title\" x=\"{LEFT}\" y=\"{:.1}\">states of policies: filled closed to calls, hatched \
             in part{more}</text>",
            self.top + 13.0
        )?;
        self.top += 20.0;
        for lane in lanes.iter().take(LANES) {
            let y = self.top;
            write!(
                self.body,
                "<rect class=\"lane\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"14\"/>",
                RIGHT - LEFT
            )?;
            let mut spans = lane.spans.iter().peekable();
            while let Some(span) = spans.next() {
                let place = |at: Option<SystemTime>| at.map(|at| self.axis.x(at));
                let from = place(span.from).unwrap_or(LEFT);
                let to = spans.peek().and_then(|next| place(next.from));
                let class = match span.grip {
                    Grip::Free => continue,
                    Grip::Partly => "part",
                    Grip::Shut => "shut",
                };
                write!(
                    self.body,
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"14\">\
                     <title>{}</title></rect>",
                    (to.unwrap_or(RIGHT) - from).max(1.5),
                    escape(&span.words)
                )?;
            }
            let mut name: String = lane.name.chars().take(LONGEST_NAME).collect();
            if name.len() < lane.name.len() {
                name.push('…');
            }
            write!(
                self.body,
                "<text class=\"name\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                y + 11.0,
                escape(&name)
            )?;
            self.top += 19.0;
        }
        self.top += 8.0;
        Ok(())
    }

    /// The times below all. Gives the height of the whole.
    fn times(&mut self) -> Result<f64, fmt::Error> {
        let (between, y) = (self.axis.between(), self.top + 12.0);
        let origin = self.axis.origin.duration_since(SystemTime::UNIX_EPOCH);
        let origin = origin.unwrap_or_default().as_secs_f64();
        let first = (origin / between).ceil() * between - origin;
        for number in 0..=MOST_TICKS {
            let since = first + f64::from(number) * between;
            if since > self.axis.whole {
                break;
            }
            let ahead = Duration::try_from_secs_f64(since).unwrap_or_default();
            let Some(at) = self.axis.origin.checked_add(ahead) else {
                break;
            };
            let mut label = if between < 86_400.0 {
                dates::time_of_day(at)
            } else {
                dates::in_words(at)[..10].to_owned()
            };
            if (60.0..86_400.0).contains(&between) {
                label.truncate(5);
            }
            let x = self.axis.x(at);
            // The last one would be cut off.
            let anchor = if x > RIGHT - 24.0 { "end" } else { "middle" };
            write!(
                self.body,
                "<path class=\"grid\" d=\"M{x:.1} {:.1}v4\"/><text class=\"tick\" text-anchor=\"{anchor}\" \
                 x=\"{x:.1}\" y=\"{:.1}\">{label}</text>",
                self.top - 8.0,
                y
            )?;
        }
        Ok(self.top + 20.0)
    }

    #[allow(clippy::cast_precision_loss)] // for a plot
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.axis.step
    }
}

/// Values, from bottom to top.
struct Scale {
    most: f64,
    bottom: f64,
    height: f64,
}

impl Scale {
    fn y(&self, value: f64) -> f64 {
        self.bottom - self.height * (value / self.most).clamp(0.0, 1.0)
    }
}

impl Axis {
    fn new(report: &Report) -> Self {
        let steps = u32::try_from(report.timeline.len()).unwrap_or(u32::MAX);
        let step = report.step.as_secs_f64();
        let first = report.timeline.first();
        Self {
            origin: first.map_or(report.begin, |it| it.from),
            step,
            whole: step * f64::from(steps.max(1)),
        }
    }

    fn x(&self, at: SystemTime) -> f64 {
        let since = at.duration_since(self.origin).unwrap_or_default();
        self.place(since.as_secs_f64())
    }

    fn place(&self, since: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (since / self.whole).clamp(0.0, 1.0)
    }

    /// Where a step is drawn, and how wide.
    fn bar(&self, index: usize) -> (f64, f64) {
        let index = f64::from(u32::try_from(index).unwrap_or(u32::MAX));
        let left = self.place(index * self.step);
        (left, self.place((index + 1.0) * self.step) - left)
    }

    fn incident(&self, report: &Report) -> (f64, f64) {
        let to = report.end.map_or(RIGHT, |end| self.x(end));
        (self.x(report.begin), to)
    }

    /// The time between two ticks: a round one.
    fn between(&self) -> f64 {
        let most = self.whole / f64::from(MOST_TICKS);
        let round = ROUND.into_iter().find(|it| *it >= most);
        round.unwrap_or_else(|| (most / 86_400.0).ceil() * 86_400.0)
    }
}

/// The state of one policy over time.
struct Lane {
    name: String,
    spans: Vec<Span>,
}

/// A stretch of it, up to the next one.
struct Span {
    /// `None`: with what the plot begins.
    from: Option<SystemTime>,
    grip: Grip,
    words: String,
}

/// How much a policy lets through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grip {
    Free,
    Partly,
    Shut,
}

fn lanes(changes: &[Change]) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    for change in changes {
        let Some((what, before, grip)) = grip(&change.change) else {
            continue;
        };
        let name = format!("{what}, {}", change.name);
        let place = lanes.iter().position(|lane| lane.name == name);
        let place = place.unwrap_or_else(|| {
            let spans = vec![Span {
                from: None,
                grip: before,
                words: String::new(),
            }];
            lanes.push(Lane { name, spans });
            lanes.len() - 1
        });
        let spans = &mut lanes[place].spans;
        // A quiet that ended was not told of, and this change came in the middle of it or after.
        spans.retain(|span| span.from <= Some(change.at));
        spans.push(Span {
            from: Some(change.at),
            grip,
            words: change.words(),
        });
        if let event::Change::Window(window::Change {
            quiet: Some(quiet), ..
        }) = change.change
        {
            if let Some(end) = change.at.checked_add(quiet) {
                spans.push(Span {
                    from: Some(end),
                    grip: Grip::Partly,
                    words: "window limited".to_owned(),
                });
            }
        }
    }
    lanes
}

/// Which policy it is, what it let through before, and what now.
fn grip(change: &event::Change) -> Option<(String, Grip, Grip)> {
    let of_state = |state| match state {
        breaker::State::Closed => Grip::Free,
        breaker::State::HalfOpen => Grip::Partly,
        breaker::State::Open => Grip::Shut,
    };
    Some(match *change {
        event::Change::Breaker(it) => ("breaker".into(), of_state(it.from), of_state(it.to)),
        event::Change::Endpoint(it) => {
            let now = match it {
                endpoints::Change::Ejected { .. } => Grip::Shut,
                endpoints::Change::Probing { .. } => Grip::Partly,
                endpoints::Change::Returned { .. } => Grip::Free,
            };
            let name = format!("endpoint {}", it.endpoint().index());
            (name, Grip::Free, now)
        }
        // Health lets all through, and of a quota's pause nobody says that it is over.
        event::Change::Health(_) | event::Change::Keyed(_) | event::Change::Limit(_) => {
            return None;
        }
        event::Change::Throttle(throttle::Change::Began { .. }) => {
            ("throttle".into(), Grip::Free, Grip::Partly)
        }
        event::Change::Throttle(throttle::Change::Ended) => {
            ("throttle".into(), Grip::Partly, Grip::Free)
        }
        event::Change::Window(it) => {
            let now = match it.state {
                window::State::Limited | window::State::Shrunk => Grip::Partly,
                window::State::Open => Grip::Free,
                window::State::Quiet => Grip::Shut,
            };
            ("window".into(), Grip::Free, now)
        }
    })
}

/// The next round number; at least 1.
fn round_up(most: f64) -> f64 {
    let mut tens = 1.0;
    while tens * 10.0 < most {
        tens *= 10.0;
    }
    let round = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0].map(|factor| factor * tens);
    let next = round.into_iter().find(|round| *round >= most);
    next.unwrap_or(10.0 * tens)
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e4 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 140.0;
const RIGHT: f64 = 948.0;

/// So that their labels have room.
const MOST_TICKS: u32 = 10;

/// In seconds.
const ROUND: [f64; 18] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
    14_400.0, 21_600.0, 43_200.0, 86_400.0,
];

/// More colours can't be told apart.
const CLASSES: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];

const LANES: usize = 12;

/// In characters: what fits beside the plot.
const LONGEST_NAME: usize = 20;
