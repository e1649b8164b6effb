//! Contours of a value over a plane or over a triangle: bands of colour between levels, with a bar that names them.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::heatmap::shade;
use super::lines::short;
use super::{Area, Drawn, GRID, INK, TEXT, ink, text, title_style};

/// Contours of a value, with named places on top.
#[derive(Clone, Debug)]
pub struct Contours {
    title: String,
    /// Labels of the axes; a triangle has none.
    axes: Option<(String, String)>,
    x: (f64, f64),
    y: (f64, f64),
    field: Field,
    marks: Vec<(String, (f64, f64))>,
    path: Vec<(f64, f64)>,
    names: Option<[String; 3]>,
}

/// Values at the points of a lattice.
#[derive(Clone, Debug)]
enum Field {
    /// Rows from the lowest `y` to the highest, each from the lowest `x` to the highest.
    Grid { columns: usize, values: Vec<f64> },
    /// `values[row][column]`: weight `row / steps` on the third corner, `column / steps` on the second, the rest on the first.
    Triangle { values: Vec<Vec<f64>> },
}

const BANDS: usize = 12;
/// Side of the squares that the bands are made of, in pixels.
const PIXEL: i32 = 2;
/// Width of the colour bar with its labels.
const BAR: u32 = 95;
/// What is left free on the left side: labels of axes are drawn at the very edge.
const EDGE: u32 = 12;
const HEIGHT: f64 = 0.866_025_403_784_438_6; // of a triangle with sides of length 1

impl Contours {
    /// Contours over a rectangle: `values` by rows from the lowest `y`, each from the lowest `x`.
    pub fn plane(
        title: impl Into<String>,
        (x_label, x): (&str, (f64, f64)),
        (y_label, y): (&str, (f64, f64)),
        columns: usize,
        values: Vec<f64>,
    ) -> Contours {
        let axes = Some((x_label.to_owned(), y_label.to_owned()));
        let field = Field::Grid { columns, values };
        Contours { title: title.into(), axes, x, y, field, marks: Vec::new(), path: Vec::new(), names: None }
    }

    /// Contours over the mixtures of three things: `values[row][column]` where the third has the share `row / steps` and
    /// the second `column / steps`.
    pub fn triangle(title: impl Into<String>, corners: [String; 3], values: Vec<Vec<f64>>) -> Contours {
        let field = Field::Triangle { values };
        let (x, y) = ((-0.12, 1.12), (-0.14, HEIGHT + 0.14));
        let (marks, path, names) = (Vec::new(), Vec::new(), Some(corners));
        Contours { title: title.into(), axes: None, x, y, field, marks, path, names }
    }

    /// Names places.
    pub fn marks(mut self, marks: impl IntoIterator<Item = (String, (f64, f64))>) -> Contours {
        self.marks.extend(marks);
        self
    }

    /// Draws a path through places.
    pub fn path(mut self, places: Vec<(f64, f64)>) -> Contours {
        self.path = places;
        self
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn {
        let (width, height) = area.dim_in_pixel();
        let center = title_style(&self.title, width - 20).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(self.title.clone(), (width as i32 / 2, 8), center)).map_err(text)?;
        // Both axes have one scale: distances on the page are distances in the space.
        let (left, below, top) = if self.axes.is_some() { (70, 55, 36) } else { (20, 20, 36) };
        let free =
            (f64::from(width as i32 - left - BAR as i32 - 20 - EDGE as i32), f64::from(height as i32 - below - top));
        let (x_range, y_range) = (self.x.1 - self.x.0, self.y.1 - self.y.0);
        let scale = (free.0 / x_range).min(free.1 / y_range);
        let (plot_width, plot_height) = ((scale * x_range) as u32, (scale * y_range) as u32);
        let margin = EDGE + (free.0 as u32).saturating_sub(plot_width) / 2;
        let whole = area.clone().shrink((margin, top), (plot_width + left as u32, plot_height + below as u32));
        let mut chart = ChartBuilder::on(&whole);
        chart.x_label_area_size(below).y_label_area_size(left);
        let mut chart = chart.build_cartesian_2d(self.x.0..self.x.1, self.y.0..self.y.1).map_err(text)?;
        let levels = Levels::new(self.field.values());
        for (corners, band) in self.runs(&levels, plot_width as i32, plot_height as i32) {
            let color = levels.color(band).filled();
            chart.draw_series([Rectangle::new(corners, color)]).map_err(text)?;
        }
        if let Some((x, y)) = &self.axes {
            chart
                .configure_mesh()
                .disable_mesh()
                .x_desc(x)
                .y_desc(y)
                .x_labels(6)
                .y_labels(6)
                .axis_style(INK)
                .label_style(ink(TEXT))
                .axis_desc_style(ink(TEXT))
                .x_label_formatter(&short)
                .y_label_formatter(&short)
                .draw()
                .map_err(text)?;
        }
        if !self.path.is_empty() {
            let style = RGBColor(213, 94, 0).stroke_width(2);
            chart.draw_series(LineSeries::new(self.path.iter().copied(), style)).map_err(text)?;
            chart.draw_series(self.path.iter().map(|&p| Circle::new(p, 2, style.filled()))).map_err(text)?;
        }
        for (name, place) in self.all_marks() {
            // Above its place, but at the bottom of a triangle below it.
            let above = self.axes.is_some() || place.1 > 0.0;
            let (middle, half) = (if above { -14 } else { 15 }, 4 * name.chars().count() as i32 + 2);
            chart.draw_series([Circle::new(place, 5, WHITE.filled())]).map_err(text)?;
            chart.draw_series([Circle::new(place, 4, RGBColor(213, 94, 0).filled())]).map_err(text)?;
            // Dark on a pale plate: readable on every band.
            let anchor = Pos::new(HPos::Center, VPos::Center);
            let label = EmptyElement::at(place)
                + Rectangle::new([(-half, middle - 8), (half, middle + 8)], WHITE.mix(0.75).filled())
                + Text::new(name, (0, middle), ink(TEXT).pos(anchor));
            chart.draw_series([label]).map_err(text)?;
        }
        levels.draw_bar(area, (margin as i32 + left + plot_width as i32 + 18, top), plot_height as i32)
    }

    /// Neighbouring squares of one band in a row, as one rectangle each with its band.
    fn runs(&self, levels: &Levels, width: i32, height: i32) -> Vec<([(f64, f64); 2], usize)> {
        let (columns, rows) = ((width / PIXEL).max(1), (height / PIXEL).max(1));
        let at = |(low, high): (f64, f64), index: f64, count: i32| low + (high - low) * index / f64::from(count);
        let mut runs = Vec::new();
        for row in 0..rows {
            let y = |offset: f64| at(self.y, f64::from(row) + offset, rows);
            let band = |column: i32| {
                let place = (at(self.x, f64::from(column) + 0.5, columns), y(0.5));
                self.value(place).map(|value| levels.band(value))
            };
            let mut start = 0;
            for column in 1..=columns {
                let own = band(start);
                if column == columns || band(column) != own {
                    if let Some(own) = own {
                        let x = |column: i32| at(self.x, f64::from(column), columns);
                        runs.push(([(x(start), y(0.0)), (x(column), y(1.0))], own));
                    }
                    start = column;
                }
            }
        }
        runs
    }

    /// The value at a place, by linear interpolation; nothing outside.
    fn value(&self, (x, y): (f64, f64)) -> Option<f64> {
        let value = match &self.field {
            Field::Grid { columns, values } => {
                let rows = values.len() / columns;
                let share =
                    |(low, high): (f64, f64), at: f64, count: usize| (at - low) / (high - low) * (count - 1) as f64;
                let (column, row) = (share(self.x, x, *columns), share(self.y, y, rows));
                let (i, j) =
                    ((column as usize).min(columns.saturating_sub(2)), (row as usize).min(rows.saturating_sub(2)));
                let (u, v) = (column - i as f64, row - j as f64);
                let at = |i: usize, j: usize| values[j.min(rows - 1) * columns + i.min(columns - 1)];
                (1.0 - v) * ((1.0 - u) * at(i, j) + u * at(i + 1, j))
                    + v * ((1.0 - u) * at(i, j + 1) + u * at(i + 1, j + 1))
            }
            Field::Triangle { values } => {
                let steps = values.len() - 1;
                let (third, second) = (y / HEIGHT, x - y / HEIGHT / 2.0);
                if third < 0.0 || second < 0.0 || third + second > 1.0 {
                    return None;
                }
                let (row, column) = (third * steps as f64, second * steps as f64);
                let (i, j) = ((row as usize).min(steps - 1), (column as usize).min(steps - 1));
                let (u, v) = (row - i as f64, column - j as f64);
                let at = |i: usize, j: usize| values.get(i).and_then(|row| row.get(j)).copied();
                if u + v <= 1.0 {
                    let first = at(i, j)?;
                    first + u * (at(i + 1, j).unwrap_or(first) - first) + v * (at(i, j + 1).unwrap_or(first) - first)
                } else {
                    let last = at(i + 1, j + 1)?;
                    last + (1.0 - u) * (at(i, j + 1)? - last) + (1.0 - v) * (at(i + 1, j)? - last)
                }
            }
        };
        Some(value).filter(|value| value.is_finite())
    }

    fn all_marks(&self) -> Vec<(String, (f64, f64))> {
        let corners = [(0.0, 0.0), (1.0, 0.0), (0.5, HEIGHT)];
        let named = self.names.iter().flat_map(|names| names.iter().cloned().zip(corners));
        named.chain(self.marks.iter().cloned()).collect()
    }
}

impl Field {
    fn values(&self) -> Vec<f64> {
        match self {
            Field::Grid { values, .. } => values.clone(),
            Field::Triangle { values } => values.concat(),
        }
    }
}

/// Levels between bands: in equal ratios if the values are positive and far apart, else in equal steps.
struct Levels(Vec<f64>);

impl Levels {
    fn new(values: Vec<f64>) -> Levels {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = if low <= high { (low, high.max(low + 1e-9)) } else { (0.0, 1.0) };
        let share = |step: usize| step as f64 / BANDS as f64;
        let level = |step| match low > 0.0 && high > 3.0 * low {
            true => low * (high / low).powf(share(step)),
            false => low + (high - low) * share(step),
        };
        Levels((0..=BANDS).map(level).collect())
    }

    fn band(&self, value: f64) -> usize {
        self.0[1..BANDS].iter().filter(|&&level| value >= level).count()
    }

    fn color(&self, band: usize) -> RGBColor {
        shade(band as f64 / (BANDS - 1) as f64)
    }

    fn draw_bar<DB: DrawingBackend>(&self, area: &Area<DB>, (x, top): (i32, i32), height: i32) -> Drawn {
        let y = |step: usize| top + height - height * step as i32 / BANDS as i32;
        for band in 0..BANDS {
            let cell = [(x, y(band + 1)), (x + 16, y(band))];
            area.draw(&Rectangle::new(cell, self.color(band).filled())).map_err(text)?;
        }
        area.draw(&Rectangle::new([(x, y(BANDS)), (x + 16, y(0))], GRID)).map_err(text)?;
        for step in (0..=BANDS).step_by(2) {
            let style = ink(TEXT).pos(Pos::new(HPos::Left, VPos::Center));
            let digits = (2.0 - self.0[step].abs().max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
            let label = format!("{:.*}", digits, self.0[step]);
            area.draw(&Text::new(label, (x + 22, y(step)), style)).map_err(text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_between_the_points_of_a_plane_are_interpolated() {
        let values = (0..3).flat_map(|row| (0..4).map(move |column| f64::from(2 * column + 10 * row))).collect();
        let plane = Contours::plane("", ("x", (0.0, 3.0)), ("y", (0.0, 2.0)), 4, values);
        for (x, y) in [(0.0, 0.0), (3.0, 2.0), (1.25, 0.5), (2.9, 1.99)] {
            assert!((plane.value((x, y)).unwrap() - (2.0 * x + 10.0 * y)).abs() < 1e-9, "{x} {y}");
        }
    }

    #[test]
    fn values_over_a_triangle_are_interpolated_and_end_at_its_sides() {
        let steps = 5;
        let values = (0..=steps)
            .map(|row| (0..=steps - row).map(|column| f64::from(3 * column + 7 * row) / f64::from(steps)).collect())
            .collect();
        let triangle = Contours::triangle("", ["a".into(), "b".into(), "c".into()], values);
        for (second, third) in [(0.0, 0.0), (0.33, 0.21), (0.5, 0.49), (0.11, 0.87)] {
            let place = (second + third / 2.0, third * HEIGHT);
            assert!((triangle.value(place).unwrap() - (3.0 * second + 7.0 * third)).abs() < 1e-9, "{second} {third}");
        }
        assert_eq!(triangle.value((0.0, 0.5)), None);
    }

    #[test]
    fn levels_are_in_equal_ratios_where_values_are_far_apart() {
        let far = Levels::new(vec![0.1, 10.0, f64::NAN]);
        assert!((far.0[BANDS / 2] - 1.0).abs() < 1e-9);
        assert_eq!((far.band(0.1), far.band(10.0), far.band(100.0)), (0, BANDS - 1, BANDS - 1));
        assert!((Levels::new(vec![1.0, 2.0]).0[BANDS / 2] - 1.5).abs() < 1e-9);
    }
}
