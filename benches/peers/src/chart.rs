//! Ours by the best peer's, a bar for each row, on a logarithmic axis.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::measure::{Role, Row, Unit};

const WIDTH: i32 = 900;
const STEP: i32 = 24;
const TOP: i32 = 42;
const LEFT: i32 = 330;
const RIGHT: i32 = 210;
/// Grey is read on white and on black.
const TEXT: RGBColor = RGBColor(0x80, 0x80, 0x80);
const LESS: RGBColor = RGBColor(0x2a, 0x91, 0xd8);
const MORE: RGBColor = RGBColor(0xd5, 0x5e, 0x00);

/// An SVG without a background, for light and dark pages.
pub fn ratios(rows: &[Row]) -> Result<String, Box<dyn Error>> {
    let bars: Vec<Bar> = rows.iter().filter_map(Bar::of).collect();
    let lowest = bars.iter().map(|it| it.ratio).fold(0.1, f64::min);
    let highest = bars.iter().map(|it| it.ratio).fold(1.0, f64::max);
    let axis = Axis {
        low: lowest.ln(),
        high: (highest * 1.1).ln(),
    };
    let bottom = TOP + STEP * i32::try_from(bars.len())?;
    let mut svg = String::new();
    {
        let size = (WIDTH.try_into()?, (bottom + 24).try_into()?);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        text(
            &area,
            "what evenkeel takes, by what the best peer takes (less is better)",
            (WIDTH / 2, 12),
            14.0,
            HPos::Center,
        )?;
        for tick in [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0] {
            if tick < lowest * 0.99 || tick > highest * 1.1 {
                continue;
            }
            let x = axis.at(tick);
            let line = TEXT.mix(if tick == 1.0 { 1.0 } else { 0.35 });
            area.draw(&PathElement::new(vec![(x, TOP - 6), (x, bottom)], line))?;
            text(&area, &format!("{tick}"), (x, TOP - 14), 12.0, HPos::Center)?;
        }
        for (bar, y) in bars.iter().zip((TOP..).step_by(STEP as usize)) {
            let (from, to) = (axis.at(1.0), axis.at(bar.ratio));
            let colour = if bar.ratio <= 1.0 { LESS } else { MORE };
            let corners = [(from.min(to), y + 3), (from.max(to), y + STEP - 4)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
            let middle = y + STEP / 2;
            text(
                &area,
                &bar.name.replace('`', ""),
                (LEFT - 14, middle),
                13.0,
                HPos::Right,
            )?;
            let beside = format!("{:.2} × {}", bar.ratio, bar.peer);
            text(
                &area,
                &beside,
                (axis.at(highest.max(1.0)) + 10, middle),
                12.0,
                HPos::Left,
            )?;
        }
        area.present()?;
    }
    Ok(svg)
}

struct Bar<'a> {
    name: &'a str,
    peer: &'a str,
    ratio: f64,
}

impl<'a> Bar<'a> {
    fn of(row: &'a Row) -> Option<Self> {
        let (ratio, peer) = (row.ratio()?, row.best_peer()?);
        row.one(Role::Ours)?;
        // More calls a second are less time for each.
        let ratio = if row.unit == Unit::Times {
            ratio.recip()
        } else {
            ratio
        };
        Some(Self {
            name: row.name,
            peer: peer.name,
            ratio,
        })
    }
}

struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn at(&self, ratio: f64) -> i32 {
        let share = (ratio.ln() - self.low) / (self.high - self.low);
        LEFT + (share * f64::from(WIDTH - LEFT - RIGHT)).round() as i32
    }
}

fn text(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    words: &str,
    at: (i32, i32),
    size: f64,
    anchor: HPos,
) -> Result<(), Box<dyn Error>> {
    let style = TextStyle::from(("sans-serif", size).into_font())
        .color(&TEXT)
        .pos(Pos::new(anchor, VPos::Center));
    Ok(area.draw(&Text::new(words.to_owned(), at, style))?)
}
