//! Heat maps of a matrix between named things, with the value in each cell and a colour bar.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::lines::short;
use super::{Area, Drawn, INK, TEXT, ink, text, title_style};

/// A heat map: `values[row][column]`, `None` for cells without a value.
#[derive(Clone, Debug)]
pub struct Heatmap {
    title: String,
    names: Vec<String>,
    values: Vec<Vec<Option<f64>>>,
    highest: Option<f64>,
}

/// Width of the colour bar with its labels.
const BAR: u32 = 80;

/// Width of a digit of a cell's label, in pixels.
const DIGIT: i32 = 8;

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

    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn {
        let (width, height) = area.dim_in_pixel();
        area.draw(&Text::new(
            self.title.clone(),
            (width as i32 / 2, 12),
            title_style(&self.title, width - 20).pos(Pos::new(HPos::Center, VPos::Top)),
        ))
        .map_err(text)?;
        let n = self.names.len().max(1) as i32;
        let (left, top) = (80, 48);
        let side = ((height as i32 - top - 40).min(width as i32 - left - BAR as i32 - 30) / n).max(1);
        let left = left + (width as i32 - left - BAR as i32 - 30 - side * n).max(0) / 2;
        let all = || self.values.iter().flatten().flatten().copied().filter(|value| value.is_finite());
        let (low, high) = (all().fold(0.0, f64::min), all().chain(self.highest).fold(f64::MIN_POSITIVE, f64::max));
        let share = |value: f64| ((value - low) / (high - low)).clamp(0.0, 1.0);
        let center = Pos::new(HPos::Center, VPos::Center);
        for (row, values) in (0..).zip(&self.values) {
            for (column, value) in (0..).zip(values) {
                let (x, y) = (left + column * side, top + row * side);
                let cell = [(x, y), (x + side - 2, y + side - 2)];
                match value.filter(|value| value.is_finite()) {
                    None => area.draw(&Rectangle::new(cell, RGBColor(240, 240, 240).filled())).map_err(text)?,
                    Some(value) => {
                        let dark = share(value) > 0.55;
                        let style = ink(TEXT).pos(center).color(if dark { &WHITE } else { &INK });
                        area.draw(&Rectangle::new(cell, shade(share(value)).filled())).map_err(text)?;
                        let label = cell_label(value, high.max(-low));
                        // In cells too small for their numbers the colours have to do.
                        if label.len() as i32 * DIGIT <= side {
                            area.draw(&Text::new(label, (x + side / 2, y + side / 2), style)).map_err(text)?;
                        }
                    }
                }
            }
        }
        for (index, name) in (0..).zip(&self.names) {
            let middle = index * side + side / 2;
            let left_of = ink(TEXT).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name.clone(), (left - 8, top + middle), left_of)).map_err(text)?;
            let below = ink(TEXT).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(name.clone(), (left + middle, top + n * side + 6), below)).map_err(text)?;
        }
        // The colour bar, from the highest value at the top to the lowest.
        let (x, bar_height) = (left + n * side + 18, n * side - 2);
        for y in 0..bar_height {
            let color = shade(1.0 - f64::from(y) / f64::from(bar_height));
            area.draw(&Rectangle::new([(x, top + y), (x + 16, top + y + 1)], color.filled())).map_err(text)?;
        }
        for (value, y) in [(high, top), ((low + high) / 2.0, top + bar_height / 2), (low, top + bar_height)] {
            let style = ink(TEXT).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(short(&((value * 1e3).round() / 1e3)), (x + 22, y), style)).map_err(text)?;
        }
        Ok(())
    }
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
