//! Bar charts with error bars.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Axis;
use super::label::{TOP, fitted, text_width, write, write_title};
use super::plot::{Field, Plot, room_beside};
use super::{Area, INK, NOT_FINITE, PALETTE, TEXT, drawn, refused};
use crate::error::Result;
use crate::notebook::number;

/// A bar chart: name, value and standard error (0: none) of each bar.
#[derive(Clone, Debug)]
pub struct Bars {
    title: String,
    y: String,
    bars: Vec<(String, f64, f64)>,
}

/// Bars of a chart, at most: more are narrower than a pixel.
const MOST_BARS: usize = 600;
/// Lines that a bar's name may take.
const LINES: usize = 2;
/// Height of a line of a name, in pixels.
const LINE: i32 = 17;
/// Of bars narrower than this only every second is named, or every third, ..., so that a name has the room below.
const NARROWEST_NAMED: i32 = 44;
const NAME: i32 = 100;

impl Bars {
    /// A chart of `(name, value, standard error)`, with the label of the value's axis (with its unit). A value that is not
    /// finite is named in the place of its bar.
    pub fn new(title: impl Into<String>, y: impl Into<String>, bars: Vec<(String, f64, f64)>) -> Bars {
        Bars { title: title.into(), y: y.into(), bars }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.bars.len() {
            0..=MOST_BARS => Ok(()),
            many => refused("bars", many, "at most 600 bars: more cannot be told apart"),
        }
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Result<()> {
        let (width, height) = (area.dim_in_pixel().0 as i32, area.dim_in_pixel().1 as i32);
        write_title(area, &self.title, width)?;
        let y = self.y_axis();
        let (top, bottom) = (TOP, height - 16 - LINES as i32 * LINE);
        let field = Field { left: room_beside(&y, bottom - top), top, right: width - 18, bottom };
        let plot = Plot { area, field, x: Axis::between(-0.5, self.bars.len().max(1) as f64 - 0.5), y };
        plot.draw_y(&self.y, true)?;
        let slot = field.width() / self.bars.len().max(1) as i32;
        for (index, (_, value, error)) in self.bars.iter().enumerate() {
            self.draw_bar(&plot, index as f64, (*value, *error), slot)?;
        }
        area.draw(&PathElement::new([(field.left, bottom), (field.right, bottom)], INK)).map_err(drawn)?;
        let every = if slot < NARROWEST_NAMED { NAME / slot.max(1) + 1 } else { 1 };
        for (index, (name, ..)) in self.bars.iter().enumerate().step_by(every as usize) {
            let Some((x, _)) = plot.inside((index as f64, 0.0)) else { continue };
            // Names of neighbours must not touch; at the edges they may not leave the chart.
            let room = (every * slot - 8).min(2 * x.min(width - x));
            for (line, text) in (0..).zip(lines(name, room)) {
                write(area, text, (x, bottom + 8 + LINE * line), (HPos::Center, VPos::Top))?;
            }
        }
        Ok(())
    }

    /// From 0 (or below), with room for the value above the tallest bar.
    fn y_axis(&self) -> Axis {
        let ends = self.bars.iter().flat_map(|&(_, value, error)| [value, value - error, value + error]);
        let axis = Axis::over(ends.chain([0.0]), false).extended_by(0.05);
        match self.bars.iter().all(|bar| bar.1 >= 0.0 || bar.1.is_nan()) {
            true => axis.starting_at(0.0),
            false => axis,
        }
    }

    /// A bar with its standard error and its value, where that is narrow enough.
    fn draw_bar(&self, plot: &Plot<'_, '_>, x: f64, (value, error): (f64, f64), slot: i32) -> Result<()> {
        let Field { top, bottom, .. } = plot.field;
        if !value.is_finite() {
            let Some((x, y)) = plot.inside((x, 0.0)) else { return Ok(()) };
            let half = (slot / 2 - 1).clamp(1, 20);
            let ground = Rectangle::new([(x - half, y - 20), (x + half, y)], NOT_FINITE.filled());
            plot.area.draw(&ground).map_err(drawn)?;
            let text = fitted(&value.to_string(), TEXT, slot);
            return write(plot.area, text, (x, y - 10), (HPos::Center, VPos::Center));
        }
        plot.draw_box([(x - 0.35, 0.0), (x + 0.35, value)], PALETTE[0])?;
        let mut above = value;
        let known = error > 0.0 && error.is_finite();
        if let Some(((x, low), (_, high))) =
            plot.inside((x, value - error)).zip(plot.inside((x, value + error))).filter(|_| known)
        {
            above = value + error;
            let half = (slot / 6).clamp(1, 5);
            for line in
                [[(x, low), (x, high)], [(x - half, low), (x + half, low)], [(x - half, high), (x + half, high)]]
            {
                plot.area.draw(&PathElement::new(line, INK)).map_err(drawn)?;
            }
        }
        let label = number(value);
        match plot.inside((x, above.max(0.0))) {
            Some((x, y)) if text_width(&label, TEXT) <= slot => {
                write(plot.area, label, (x, (y - 4).clamp(top + LINE, bottom)), (HPos::Center, VPos::Bottom))
            }
            // Beside many others the axis has to do.
            _ => Ok(()),
        }
    }
}

/// A name in at most two lines, broken at a blank, each as wide as may be.
fn lines(name: &str, room: i32) -> Vec<String> {
    let whole = fitted(name, TEXT, 2 * room);
    let broken = whole.match_indices(' ').map(|(at, _)| (&whole[..at], &whole[at + 1..]));
    let wider = |(first, second): &(&str, &str)| text_width(first, TEXT).max(text_width(second, TEXT));
    match broken.min_by_key(wider) {
        Some((first, second)) if text_width(&whole, TEXT) > room => {
            vec![fitted(first, TEXT, room), fitted(second, TEXT, room)]
        }
        _ => vec![fitted(name, TEXT, room)],
    }
}
