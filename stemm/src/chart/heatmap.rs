//! Heat maps of a matrix between named things, with the value in each cell and a colour bar.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::span;
use super::label::{TOP, explain_not_finite, fitted, short, text_width, widest, write, write_title, write_upwards};
use super::{Area, INK, NOT_FINITE, TEXT, drawn, font, refused};
use crate::error::Result;

/// A heat map: `values[row][column]`, `None` for cells without a value. A value that is not finite stands in its cell as
/// such, on a ground of its own.
#[derive(Clone, Debug)]
pub struct Heatmap {
    title: String,
    names: Vec<String>,
    values: Vec<Vec<Option<f64>>>,
    highest: Option<f64>,
}

/// Width of the colour bar with its labels, in pixels.
const BAR: i32 = 110;
/// Steps of colour in the bar.
const STEPS: i32 = 64;
/// Rows and columns of a map, at most: cells of more are narrower than two pixels.
const MOST_NAMES: usize = 100;
/// Pixels that a name gets at most.
const NAME: i32 = 130;
/// Height of a line of names, in pixels.
const LINE: i32 = 17;
/// Smallest writing in a cell.
const SMALLEST: u32 = 10;

impl Heatmap {
    /// A map of a square matrix whose rows and columns have the same names.
    pub fn new(title: impl Into<String>, names: Vec<String>, values: Vec<Vec<Option<f64>>>) -> Heatmap {
        Heatmap { title: title.into(), names, values, highest: None }
    }

    /// The value of the darkest colour; by default the highest of the map. Maps to be compared need the same.
    pub fn highest(mut self, value: f64) -> Heatmap {
        self.highest = Some(value);
        self
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn check(&self) -> Result<()> {
        let names = self.names.len();
        if names > MOST_NAMES {
            return refused("names", names, "at most 100 names: cells of more cannot be told apart");
        }
        let (rows, wrong) = (self.values.len(), self.values.iter().position(|row| row.len() != names));
        match wrong.map(|row| format!("{names} names, but {} cells in row {row}", self.values[row].len())) {
            Some(found) => refused("values", found, "one row and one column for each name"),
            None if rows != names => {
                refused("values", format!("{rows} rows for {names} names"), "one row and one column for each name")
            }
            None => Ok(()),
        }
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Result<()> {
        let (width, height) = (area.dim_in_pixel().0 as i32, area.dim_in_pixel().1 as i32);
        write_title(area, &self.title, width)?;
        let n = self.names.len() as i32;
        if n == 0 {
            return Ok(());
        }
        let (top, name_width) = (TOP, widest(&self.names, TEXT).min(NAME));
        let free = width - name_width - BAR - 20;
        // Names stand upright below cells that are narrower than the names.
        let upright = name_width > (height - top - 30).min(free) / n - 3;
        let below = if upright { name_width + 14 } else { 30 };
        let side = ((height - top - below).min(free) / n).max(2);
        let left = name_width + 12 + (free - side * n).max(0) / 2;
        let (low, high) = self.ends();
        for (row, values) in (0..).zip(&self.values) {
            for (column, &value) in (0..).zip(values) {
                self.draw_cell(area, (left + column * side, top + row * side), side, value, (low, high))?;
            }
        }
        // Where the cells are lower than a line, every second name stands, or every third, ...
        let every = (LINE + side - 1) / side;
        for (index, name) in (0..).zip(&self.names).filter(|(index, _)| index % every == 0) {
            let (middle, name) = (index * side + side / 2, fitted(name, TEXT, name_width));
            write(area, name.clone(), (left - 8, top + middle), (HPos::Right, VPos::Center))?;
            let (x, y) = (left + middle, top + n * side + 6);
            match upright {
                true => write_upwards(area, name, (x, y), (HPos::Right, VPos::Center))?,
                false => write(area, name, (x, y), (HPos::Center, VPos::Top))?,
            }
        }
        let (x, height) = (left + n * side + 18, n * side - 2);
        draw_bar(area, (x, top), height, (low, high))?;
        match self.values.iter().flatten().flatten().any(|value| !value.is_finite()) {
            true => explain_not_finite(area, (x, top + height + 24)),
            false => Ok(()),
        }
    }

    /// The values of the lightest and the darkest colour: 0 or lower, and the highest.
    fn ends(&self) -> (f64, f64) {
        let values = || self.values.iter().flatten().flatten().copied().chain(self.highest).chain([0.0]);
        let (low, high) = span(values());
        if values().any(|value| value < 0.0) { (low, high) } else { (0.0, high) }
    }

    fn draw_cell(
        &self,
        area: &Area<'_>,
        (x, y): (i32, i32),
        side: i32,
        value: Option<f64>,
        (low, high): (f64, f64),
    ) -> Result<()> {
        let gap = if side > 6 { 2 } else { 0 };
        let (color, dark, label) = match value {
            None => (RGBColor(240, 240, 240), false, String::new()),
            Some(value) if !value.is_finite() => (NOT_FINITE, false, value.to_string()),
            Some(value) => {
                let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
                (shade(share), share > 0.55, cell_label(value, high.max(-low)))
            }
        };
        area.draw(&Rectangle::new([(x, y), (x + side - gap, y + side - gap)], color.filled())).map_err(drawn)?;
        // In cells too small for their numbers the colours have to do.
        match (SMALLEST..=TEXT).rev().find(|&size| text_width(&label, size) <= side - gap && size as i32 <= side) {
            Some(size) if !label.is_empty() => {
                let style =
                    font(size).color(if dark { &WHITE } else { &INK }).pos(Pos::new(HPos::Center, VPos::Center));
                area.draw(&Text::new(label, (x + side / 2, y + side / 2), style)).map_err(drawn)
            }
            _ => Ok(()),
        }
    }
}

/// The colour bar, from the highest value at the top to the lowest.
fn draw_bar(area: &Area<'_>, (x, top): (i32, i32), height: i32, (low, high): (f64, f64)) -> Result<()> {
    let y = |step: i32| top + height * step / STEPS;
    for step in 0..STEPS {
        let color = shade(1.0 - f64::from(step) / f64::from(STEPS - 1));
        area.draw(&Rectangle::new([(x, y(step)), (x + 16, y(step + 1))], color.filled())).map_err(drawn)?;
    }
    let middle = [low / 2.0 + high / 2.0].into_iter().filter(|_| height > 3 * LINE);
    for value in [high, low].into_iter().chain(middle) {
        let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
        let y = top + ((1.0 - share) * f64::from(height)) as i32;
        let label = fitted(&short(significant(value)), TEXT, BAR - 40);
        write(area, label, (x + 22, y), (HPos::Left, VPos::Center))?;
    }
    Ok(())
}

/// A value rounded to three significant digits.
fn significant(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// A value with the decimals that suit the largest of its map, so that cells compare at a glance and fit.
fn cell_label(value: f64, largest: f64) -> String {
    match largest {
        largest if largest < 0.01 => format!("{value:.1e}"),
        largest if largest < 1.0 => format!("{value:.3}"),
        largest if largest < 10.0 => format!("{value:.2}"),
        largest if largest < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.1e}"),
    }
}

/// From near white to dark blue: lightness falls evenly, so that it also reads in grey.
pub(super) fn shade(share: f64) -> RGBColor {
    let share = share.clamp(0.0, 1.0);
    let mix = |from: f64, to: f64| (from + (to - from) * share).round() as u8;
    RGBColor(mix(247.0, 8.0), mix(251.0, 48.0), mix(255.0, 107.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cells_of_a_map_have_the_decimals_of_its_largest() {
        let labels =
            |values: &[f64], largest| values.iter().map(|&value| cell_label(value, largest)).collect::<Vec<_>>();
        assert_eq!(labels(&[0.009_707, 0.954], 0.954), ["0.010", "0.954"]);
        assert_eq!(labels(&[0.009_707, 2.47], 2.47), ["0.01", "2.47"]);
        assert_eq!(labels(&[0.003_21], 0.0033), ["3.2e-3"]);
        assert_eq!(labels(&[123.44, 0.5], 123.44), ["123.4", "0.5"]);
    }
}
