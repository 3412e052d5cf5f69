//! Heat map and plots, as SVG whose grey text reads in the light and in the dark.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use evenkeel::sim::Second;

use crate::{Outcome, Table};

/// Policies against scenarios: what share of the attainable they got.
pub(crate) fn heat_map(table: &Table) -> Outcome<String> {
    let (columns, rows) = (table.scenarios.len() as i32, table.policies.len() as i32);
    let (left, top, wide, high) = (230, 34, 90, 32);
    let size = (
        (left + columns * wide + 8) as u32,
        (top + rows * high + 8) as u32,
    );
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let centre = Pos::new(HPos::Center, VPos::Center);
        for (column, scenario) in table.scenarios.iter().enumerate() {
            let at = (left + column as i32 * wide + wide / 2, top / 2);
            write(&area, scenario.name(), at, 16, centre, GREY)?;
        }
        for (row, policy) in table.policies.iter().enumerate() {
            let y = top + row as i32 * high;
            let at = (left - 10, y + high / 2);
            write(
                &area,
                policy,
                at,
                16,
                Pos::new(HPos::Right, VPos::Center),
                GREY,
            )?;
            for column in 0..table.scenarios.len() {
                let share = table.cells[column][row].share();
                let x = left + column as i32 * wide;
                let cell = [(x + 1, y + 1), (x + wide - 1, y + high - 1)];
                area.draw(&Rectangle::new(cell, heat(share).filled()))?;
                let at = (x + wide / 2, y + high / 2);
                write(&area, &format!("{share:.0}"), at, 17, centre, BLACK)?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

/// One number of each second, for every policy. A plot that stands alone has a legend.
pub(crate) fn over_time(
    table: &Table,
    scenario: usize,
    title: &str,
    alone: bool,
    of: impl Fn(&Second) -> f64,
) -> Outcome<String> {
    let cells = &table.cells[scenario];
    let series: Vec<Vec<f64>> = cells
        .iter()
        .map(|cell| cell.runs[0].seconds.iter().map(&of).collect())
        .collect();
    let most = series.iter().flatten().copied().fold(1.0, f64::max) * 1.05;
    let seconds = series.iter().map(Vec::len).max().unwrap_or(1) as f64;
    // Room for the legend, beside the lines.
    let width = if alone { seconds * 1.45 } else { seconds };
    let size = if alone { (720, 240) } else { (560, 240) };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 17).into_font().color(&GREY))
            .margin(6)
            .x_label_area_size(22)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..width, 0.0..most)?;
        let watched = table.scenarios[scenario].watched();
        let fault = [
            (watched.start.as_secs_f64(), 0.0),
            (watched.end.as_secs_f64(), most),
        ];
        chart.draw_series([Rectangle::new(fault, GREY.mix(0.18).filled())])?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .label_style(("sans-serif", 14).into_font().color(&GREY))
            .x_label_formatter(&|second| format!("{second:.0} s"))
            .y_label_formatter(&|number| thousands(*number))
            .draw()?;
        for (index, numbers) in series.iter().enumerate() {
            // The default is the last but for the user's own, and stands out.
            let strong = table.policies[index].starts_with("evenkeel") || index > 7;
            let style = colour(index).stroke_width(if strong { 3 } else { 1 });
            let points = numbers.iter().enumerate();
            let points = points.map(|(second, number)| (second as f64, *number));
            let line = chart.draw_series(LineSeries::new(points, style))?;
            if alone {
                line.label(table.policies[index].as_str())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
            }
        }
        if alone {
            chart
                .configure_series_labels()
                .label_font(("sans-serif", 13).into_font().color(&GREY))
                .position(SeriesLabelPosition::UpperRight)
                .draw()?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// The colour of a policy, for legends.
pub(crate) fn css(index: usize) -> String {
    let RGBColor(r, g, b) = colour(index);
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn write(
    area: &DrawingArea<SVGBackend, Shift>,
    text: &str,
    at: (i32, i32),
    size: i32,
    position: Pos,
    colour: RGBColor,
) -> Outcome<()> {
    let style = ("sans-serif", size)
        .into_font()
        .color(&colour)
        .pos(position);
    Ok(area.draw_text(text, &style, at)?)
}

fn thousands(number: f64) -> String {
    match number {
        number if number >= 1000.0 => format!("{:.1}k", number / 1000.0),
        number if number >= 10.0 || number == 0.0 => format!("{number:.0}"),
        number => format!("{number:.1}"),
    }
}

/// From red over yellow to green: 0, 60 and 100 percent. Light enough for black text.
fn heat(share: f64) -> RGBColor {
    let stops = [
        (0.0, (0xe5, 0x73, 0x73)),
        (60.0, (0xff, 0xe0, 0x82)),
        (90.0, (0xc5, 0xe1, 0xa5)),
        (100.0, (0x66, 0xbb, 0x6a)),
    ];
    let share = share.clamp(0.0, 100.0);
    let upper = stops
        .iter()
        .position(|(at, _)| share <= *at)
        .unwrap_or(3)
        .max(1);
    let ((from, a), (to, b)) = (stops[upper - 1], stops[upper]);
    let part = (share - from) / (to - from);
    let mix = |a: i32, b: i32| (f64::from(a) + part * f64::from(b - a)) as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// Colours that are told apart in the light, in the dark, and by those who are blind to some.
fn colour(index: usize) -> RGBColor {
    const COLOURS: [RGBColor; 9] = [
        RGBColor(0x99, 0x99, 0x99),
        RGBColor(0xd5, 0x5e, 0x00),
        RGBColor(0xcc, 0x79, 0xa7),
        RGBColor(0xe6, 0x9f, 0x00),
        RGBColor(0x56, 0xb4, 0xe9),
        RGBColor(0xb0, 0x9f, 0x00),
        RGBColor(0x00, 0x9e, 0x73),
        RGBColor(0x88, 0x66, 0xff),
        RGBColor(0xff, 0x55, 0x55),
    ];
    COLOURS[index % COLOURS.len()]
}

const GREY: RGBColor = RGBColor(0x80, 0x80, 0x80);
