//! Line charts.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Axis;
use super::label::{TOP, fitted, widest, write, write_title};
use super::plot::{Field, Plot, Stroke, room_beside};
use super::{Area, PALETTE, TEXT, drawn};
use crate::error::Result;

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    /// Lowest and highest value at each point.
    band: Vec<(f64, f64)>,
    color: Option<usize>,
    dashed: bool,
    dots: bool,
}

impl Series {
    /// A line through points, of which those with a NaN or an infinite coordinate are left out; a line without a name has
    /// no entry in the legend.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, band: Vec::new(), color: None, dashed: false, dots: true }
    }

    /// Shades the range from `low` to `high` at each point: a standard error, say. A point whose range has an end that is
    /// not finite has no shade.
    pub fn band(mut self, low_and_high: Vec<(f64, f64)>) -> Series {
        self.band = low_and_high;
        self
    }

    /// Position in the palette; by default that of the line in the chart. Where the colours begin again, the lines get
    /// dashes.
    pub fn color(mut self, index: usize) -> Series {
        self.color = Some(index);
        self
    }

    /// Draws the line alone: for curves of many points.
    pub fn without_dots(mut self) -> Series {
        self.dots = false;
        self
    }

    /// Draws the line dashed.
    pub fn dashed(mut self) -> Series {
        self.dashed = true;
        self
    }
}

/// A line chart.
#[derive(Clone, Debug)]
pub struct Lines {
    title: String,
    x: String,
    y: String,
    log_x: bool,
    log_y: bool,
    series: Vec<Series>,
}

/// Length of a line's sample in the legend, in pixels.
const SAMPLE: i32 = 42;
/// Height of an entry of the legend, in pixels.
const ENTRY: i32 = 19;
/// Below the field: labels of ticks and the name of the axis.
const BELOW: i32 = 52;
/// All lines of a chart together are drawn with about so many points and dashes, so that the picture stays small.
const MOST_POINTS: usize = 16_000;
const MOST_DASHES: usize = 1_200;
/// Dots of a chart, at most: more could not be told apart.
const MOST_DOTS: usize = 1_000;

impl Lines {
    /// An empty chart with its title and the labels of its axes (with units).
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Lines {
        Lines { title: title.into(), x: x.into(), y: y.into(), log_x: false, log_y: false, series: Vec::new() }
    }

    /// A logarithmic horizontal axis; points that are not positive are left out.
    pub fn log_x(mut self) -> Lines {
        self.log_x = true;
        self
    }

    /// A logarithmic vertical axis; points that are not positive are left out.
    pub fn log_y(mut self) -> Lines {
        self.log_y = true;
        self
    }

    /// Adds lines.
    pub fn series(mut self, series: impl IntoIterator<Item = Series>) -> Lines {
        self.series.extend(series);
        self
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Result<()> {
        let (width, height) = (area.dim_in_pixel().0 as i32, area.dim_in_pixel().1 as i32);
        let legend = self.legend_width(width);
        write_title(area, &self.title, width - legend)?;
        let (x, y) = (self.x_axis(), self.y_axis());
        let (top, bottom) = (TOP, height - BELOW);
        let field = Field { left: room_beside(&y, bottom - top), top, right: width - legend - 18, bottom };
        let plot = Plot { area, field, x, y };
        plot.draw_y(&self.y, true)?;
        plot.draw_x(&self.x, true)?;
        for index in 0..self.series.len() {
            self.draw_bands(&plot, index)?;
        }
        let all: usize = self.series.iter().map(|series| series.points.len()).sum();
        for (index, series) in self.series.iter().enumerate() {
            let stroke = self.stroke(index);
            plot.draw_line(series.points.iter().copied(), &stroke)?;
            // Dots that touch each other would only make the line thicker, and between dashes they would look like some; a
            // single point has nothing but its dot.
            let apart = all <= MOST_DOTS && series.points.len() as i32 <= field.width() / 4;
            let visible = series.points.iter().filter(|&&point| plot.inside(point).is_some()).take(2).count();
            if visible == 1 || series.dots && stroke.dashes.is_empty() && apart {
                plot.draw_dots(series.points.iter().copied(), 2, stroke.color)?;
            }
        }
        self.draw_legend(area, width - legend, height)
    }

    /// The horizontal axis over all points.
    fn x_axis(&self) -> Axis {
        Axis::over(self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0)), self.log_x)
    }

    /// The vertical axis over all points and bands.
    fn y_axis(&self) -> Axis {
        let points = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let bands = self.series.iter().flat_map(|series| series.points.iter().zip(&series.band));
        let bands = bands.filter(|(_, band)| band.0.is_finite() && band.1.is_finite());
        Axis::over(points.chain(bands.flat_map(|(_, band)| [band.0, band.1])), self.log_y)
    }

    /// The shades of a line: one for each run of points that have one.
    fn draw_bands(&self, plot: &Plot<'_, '_>, index: usize) -> Result<()> {
        let series = &self.series[index];
        let stroke = self.stroke(index);
        // On a logarithmic axis a range that ends at or below 0 reaches down to the edge.
        let end = |end: f64| if self.log_y && end <= 0.0 { f64::MIN_POSITIVE } else { end };
        let shaded = |&((x, _), (low, high)): &((f64, f64), (f64, f64))| {
            plot.x.place(x).is_some() && low.is_finite() && plot.y.place(high).is_some()
        };
        let places: Vec<_> = series.points.iter().copied().zip(series.band.iter().copied()).collect();
        for run in places.chunk_by(|a, b| shaded(a) == shaded(b)).filter(|run| shaded(&run[0])) {
            let low: Vec<_> = run.iter().map(|&((x, _), (low, _))| (x, end(low))).collect();
            let high: Vec<_> = run.iter().map(|&((x, _), (_, high))| (x, high)).collect();
            plot.draw_band(&low, &high, stroke.color, stroke.most_points)?;
        }
        Ok(())
    }

    fn named(&self) -> impl Iterator<Item = usize> {
        (0..self.series.len()).filter(|&index| !self.series[index].name.is_empty())
    }

    /// Pixels of the legend, which a single line does not need: the axis already says what it is.
    fn legend_width(&self, width: i32) -> i32 {
        match self.named().count() {
            0 | 1 => 0,
            _ => (SAMPLE + 14 + widest(self.named().map(|index| &self.series[index].name), TEXT)).min(width / 2),
        }
    }

    /// The legend from `left` to the right edge; what does not fit is counted in its last line.
    fn draw_legend(&self, area: &Area<'_>, left: i32, height: i32) -> Result<()> {
        let width = area.dim_in_pixel().0 as i32 - left;
        if width == 0 {
            return Ok(());
        }
        let (rows, entries) = (((height - TOP - 8) / ENTRY) as usize, self.named().count());
        let shown = if entries > rows { rows.saturating_sub(1) } else { entries };
        let middle = |row: usize| TOP + 12 + ENTRY * row as i32;
        for (row, index) in self.named().take(shown).enumerate() {
            let y = middle(row);
            let Stroke { color, dashes, .. } = self.stroke(index);
            let mut from = 0;
            for pair in if dashes.is_empty() { vec![f64::from(SAMPLE), 0.0] } else { dashes.repeat(3) }.chunks(2) {
                let to = (from + pair[0] as i32).min(SAMPLE - 6);
                if from < to {
                    area.draw(&PathElement::new([(left + from, y), (left + to, y)], color.stroke_width(2)))
                        .map_err(drawn)?;
                }
                from = to + pair[1] as i32;
            }
            let name = fitted(&self.series[index].name, TEXT, width - SAMPLE - 6);
            write(area, name, (left + SAMPLE, y), (HPos::Left, VPos::Center))?;
        }
        if shown < entries {
            let rest = fitted(&format!("and {} more", entries - shown), TEXT, width - 6);
            write(area, rest, (left, middle(shown)), (HPos::Left, VPos::Center))?;
        }
        Ok(())
    }

    /// A line's colour, and its dashes: beyond the palette a number of dots in the gaps says how often it was begun again.
    fn stroke(&self, index: usize) -> Stroke {
        let series = &self.series[index];
        let position = series.color.unwrap_or(index);
        let (color, again) = (PALETTE[position % PALETTE.len()], (position / PALETTE.len()).min(9));
        let mut dashes = match (series.dashed, again) {
            (false, 0) => Vec::new(),
            (false, _) => vec![10.0, 3.0],
            (true, _) => vec![6.0, 5.0],
        };
        dashes.extend([2.0, 3.0].repeat(again));
        let lines = self.series.len().max(1);
        let (most_points, most_dashes) = ((MOST_POINTS / lines).max(100), (MOST_DASHES / lines).max(10));
        Stroke { color, dashes, most_points, most_dashes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_colour_are_told_apart_by_their_dashes() {
        let solid = (0..40).map(|_| Series::new("", vec![]));
        let dashed = (0..40).map(|index| Series::new("", vec![]).color(index).dashed());
        let lines = Lines::new("", "", "").series(solid.chain(dashed));
        let look = |index: usize| format!("{:?} {:?}", lines.stroke(index).color, lines.stroke(index).dashes);
        let mut looks: Vec<String> = (0..80).map(look).collect();
        looks.sort();
        looks.dedup();
        assert_eq!(looks.len(), 80);
    }
}
