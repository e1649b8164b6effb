//! Line charts.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::{Area, Drawn, GRID, INK, PALETTE, TEXT, ink, padded_range, text, title_style};

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
    /// A line through points; a line without a name has no entry in the legend.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points, band: Vec::new(), color: None, dashed: false, dots: true }
    }

    /// Shades the range from `low` to `high` at each point: a standard error, say.
    pub fn band(mut self, low_and_high: Vec<(f64, f64)>) -> Series {
        self.band = low_and_high;
        self
    }

    /// Position in the palette; by default that of the line in the chart.
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

/// Pixels a character of the legend, at most.
const CHARACTER: u32 = 8;

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

    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn {
        let (width, _) = area.dim_in_pixel();
        let named = || self.series.iter().enumerate().filter(|(_, series)| !series.name.is_empty());
        // The axis already says what a single line is.
        let legend_needed = named().count() > 1;
        let longest = self.series.iter().map(|series| series.name.chars().count() as u32).max().unwrap_or(0);
        let legend_width = if legend_needed { (50 + CHARACTER * longest).min(width / 2) } else { 0 };
        let (plot, legend) = area.split_horizontally(width - legend_width);
        let place = |&(x, y): &(f64, f64)| (scaled(x, self.log_x), scaled(y, self.log_y));
        let points = || self.series.iter().flat_map(|series| series.points.iter().map(place));
        let bands = || self.series.iter().flat_map(|series| &series.band);
        let heights = bands().flat_map(|&(low, high)| [low, high]).map(|value| scaled(value, self.log_y));
        let x_range = padded_range(points().map(|p| p.0));
        // Epochs and sweeps are whole numbers: no ticks between them.
        let whole = !self.log_x && points().all(|p| p.0.fract() == 0.0);
        let x_labels = if whole { 8.min((x_range.end - x_range.start) as usize + 1) } else { 8 };
        let mut chart = ChartBuilder::on(&plot)
            .caption(&self.title, title_style(&self.title, width - legend_width - 20))
            .margin(10)
            .x_label_area_size(45)
            .y_label_area_size(62)
            .build_cartesian_2d(
                Scale { places: x_range, log: self.log_x },
                Scale { places: padded_range(points().map(|p| p.1).chain(heights)), log: self.log_y },
            )
            .map_err(text)?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_labels(x_labels)
            .y_labels(8)
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(ink(TEXT))
            .axis_desc_style(ink(TEXT))
            .draw()
            .map_err(text)?;
        for (index, series) in self.series.iter().enumerate() {
            let ends = |end: fn(&(f64, f64)) -> f64| {
                let pairs = series.points.iter().zip(&series.band);
                pairs.map(move |(point, band)| place(&(point.0, end(band)))).filter(finite)
            };
            let outline: Vec<_> =
                ends(|band| band.0).chain(ends(|band| band.1).collect::<Vec<_>>().into_iter().rev()).collect();
            if !outline.is_empty() {
                chart.draw_series([Polygon::new(outline, self.style(index).color.mix(0.18))]).map_err(text)?;
            }
        }
        for (index, series) in self.series.iter().enumerate() {
            let style = self.style(index);
            let points = series.points.iter().map(place).filter(finite);
            if series.dashed {
                let points: Vec<_> = points.collect();
                chart.draw_series(DashedLineSeries::new(points, 6, 5, style)).map_err(text)?;
            } else {
                let dots: Vec<_> = points.clone().filter(|_| series.dots).collect();
                chart.draw_series(LineSeries::new(points, style)).map_err(text)?;
                chart.draw_series(dots.into_iter().map(|p| Circle::new(p, 2, style.filled()))).map_err(text)?;
            }
        }
        for (row, (index, series)) in (0..).zip(named().filter(|_| legend_needed)) {
            let y = 55 + 22 * row;
            let style = self.style(index);
            let dashes: &[(i32, i32)] = if series.dashed { &[(0, 8), (13, 21)] } else { &[(0, 22)] };
            for &(from, to) in dashes {
                legend.draw(&PathElement::new(vec![(from, y), (to, y)], style)).map_err(text)?;
            }
            legend.draw(&Text::new(series.name.clone(), (30, y - 8), ink(TEXT))).map_err(text)?;
        }
        Ok(())
    }

    fn style(&self, index: usize) -> ShapeStyle {
        let color = self.series[index].color.unwrap_or(index);
        PALETTE[color % PALETTE.len()].stroke_width(2)
    }
}

fn finite(&(x, y): &(f64, f64)) -> bool {
    x.is_finite() && y.is_finite()
}

/// A value's place on an axis; on a logarithmic one only positive values have any.
fn scaled(value: f64, log: bool) -> f64 {
    match log {
        true if value > 0.0 => value.log10(),
        true => f64::NAN,
        false => value,
    }
}

/// An axis; a logarithmic one has its ticks at 1, 2 and 5 times the powers of ten, or at powers alone if there are many.
struct Scale {
    places: Range<f64>,
    log: bool,
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.places.clone()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if !self.log {
            return RangedCoordf64::from(self.places.clone()).key_points(hint);
        }
        let decades = self.places.start.floor() as i32..=self.places.end.ceil() as i32;
        let span = self.places.end - self.places.start;
        let (factors, every): (&[f64], i32) = match span {
            span if span < 2.5 => (&[1.0, 2.0, 5.0], 1),
            span => (&[1.0], (span / 8.0).ceil() as i32),
        };
        let ticks = decades.filter(|decade| decade % every == 0);
        let ticks = ticks.flat_map(|decade| factors.iter().map(move |factor| f64::from(decade) + factor.log10()));
        ticks.filter(|place| self.places.contains(place)).collect()
    }

    fn range(&self) -> Range<f64> {
        self.places.clone()
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, place: &f64) -> String {
        match 10f64.powf(*place) {
            _ if !self.log => short(place),
            value if (1e-3..1e5).contains(&value) => short(&value),
            value => format!("{value:.0e}"),
        }
    }
}

/// A tick's label without needless zeros.
pub(super) fn short(value: &f64) -> String {
    let rounded = format!("{value:.4}");
    let trimmed = rounded.trim_end_matches('0').trim_end_matches('.');
    match trimmed {
        "-0" => "0".to_owned(),
        "0" if *value != 0.0 && value.abs() > 1e-12 => format!("{value:.0e}"),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plotters::coord::ranged1d::BoldPoints;

    #[test]
    fn ticks_of_a_logarithmic_axis_are_round_numbers() {
        let ticks = |low: f64, high: f64| -> Vec<String> {
            let scale = Scale { places: low.log10()..high.log10(), log: true };
            scale.key_points(BoldPoints(8)).iter().map(|place| scale.format_ext(place)).collect()
        };
        assert_eq!(ticks(1.5, 30.0), ["2", "5", "10", "20"]);
        assert_eq!(ticks(1e-7, 2.0), ["1e-7", "1e-6", "1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]);
    }
}
