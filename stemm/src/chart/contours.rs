//! Contours of a value over a plane or over a triangle: bands of colour between levels, with a bar that names them.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Axis, is_narrow, span};
use super::heatmap::shade;
use super::label::{TOP, explain_not_finite, fitted, write, write_title};
use super::marks::{self, Mark};
use super::plot::{Field, Plot, Stroke, room_beside};
use super::{Area, GRID, NOT_FINITE, TEXT, drawn, refused};
use crate::error::Result;

/// Contours of a value, with named places on top.
#[derive(Clone, Debug)]
pub struct Contours {
    title: String,
    /// Labels of the axes; a triangle has none.
    axes: Option<(String, String)>,
    x: (f64, f64),
    y: (f64, f64),
    values: Lattice,
    marks: Vec<(String, (f64, f64))>,
    path: Vec<(f64, f64)>,
    names: Option<[String; 3]>,
}

/// Values at the points of a lattice.
#[derive(Clone, Debug)]
enum Lattice {
    /// Rows from the lowest `y` to the highest, each from the lowest `x` to the highest.
    Grid { columns: usize, values: Vec<f64> },
    /// `values[row][column]`: weight `row / steps` on the third corner, `column / steps` on the second, the rest on the first.
    Triangle { values: Vec<Vec<f64>> },
}

/// A rectangle between two corners with its band, or none where values are not finite.
type Patch = ([(f64, f64); 2], Option<usize>);

const BANDS: usize = 12;
/// Side of the squares that the bands are made of, in pixels: the first whose rectangles are few enough for a small picture.
const PIXELS: [i32; 5] = [2, 4, 8, 16, 32];
const MOST_RECTANGLES: usize = 2400;
/// Width of the colour bar with its labels, in pixels.
const BAR: i32 = 110;
/// Below the field: labels of ticks and the name of the axis.
const BELOW: i32 = 52;
/// A field is at least so wide and so high, in pixels, whatever its axes are to each other.
const SMALLEST: i32 = 40;
/// Of marks and paths: no colour of the bands.
const MARK: RGBColor = RGBColor(213, 94, 0);
/// Points that a path is drawn with, at most, and dots on it.
const MOST_POINTS: usize = 4000;
const MOST_DOTS: usize = 300;
const HEIGHT: f64 = 0.866_025_403_784_438_6; // of a triangle with sides of length 1

impl Contours {
    /// Contours over a rectangle: `values` by rows from the lowest `y`, each from the lowest `x`. Where values are not
    /// finite the ground has a colour of its own.
    pub fn plane(
        title: impl Into<String>,
        (x_label, x): (&str, (f64, f64)),
        (y_label, y): (&str, (f64, f64)),
        columns: usize,
        values: Vec<f64>,
    ) -> Contours {
        let axes = Some((x_label.to_owned(), y_label.to_owned()));
        let lattice = Lattice::Grid { columns, values };
        Contours { title: title.into(), axes, x, y, values: lattice, marks: Vec::new(), path: Vec::new(), names: None }
    }

    /// Contours over the mixtures of three things: `values[row][column]` where the third has the share `row / steps` and
    /// the second `column / steps`.
    pub fn triangle(title: impl Into<String>, corners: [String; 3], values: Vec<Vec<f64>>) -> Contours {
        let lattice = Lattice::Triangle { values };
        let (x, y) = ((-0.12, 1.12), (-0.14, HEIGHT + 0.14));
        let (marks, path, names) = (Vec::new(), Vec::new(), Some(corners));
        Contours { title: title.into(), axes: None, x, y, values: lattice, marks, path, names }
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

    /// The ends of the axes and the number of values must make a rectangle or a triangle.
    pub(super) fn check(&self) -> Result<()> {
        for (setting, (low, high)) in [("x", self.x), ("y", self.y)] {
            if !(low < high && low.is_finite() && high.is_finite()) || is_narrow(low, high) {
                let requirement = "a range from a finite value to a higher one, not only by rounding";
                return refused(setting, format!("{low} to {high}"), requirement);
            }
        }
        match &self.values {
            Lattice::Grid { columns, values } if values.is_empty() || !values.len().is_multiple_of(*columns) => {
                let found = format!("{columns} for {} values", values.len());
                refused(
                    "columns",
                    found,
                    "the number of values in a row, so that all rows are full and there is one at least",
                )
            }
            Lattice::Triangle { values } => {
                let rows = values.len();
                let requirement = "at least one row, each one shorter than the row before, to a single value";
                match values.iter().enumerate().find(|(row, cells)| cells.len() != rows - row) {
                    Some((row, cells)) => {
                        refused("values", format!("{} in row {row} of {rows}", cells.len()), requirement)
                    }
                    None if rows == 0 => refused("values", "0 rows", requirement),
                    None => Ok(()),
                }
            }
            Lattice::Grid { .. } => Ok(()),
        }
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Result<()> {
        let width = area.dim_in_pixel().0 as i32;
        write_title(area, &self.title, width)?;
        let (x, y) = (Axis::between(self.x.0, self.x.1), Axis::between(self.y.0, self.y.1));
        let plot = Plot { area, field: self.field(area, &y), x, y };
        let levels = Levels::new(self.values.all());
        for (corners, band) in self.rectangles(&levels, &plot.field) {
            plot.draw_box(corners, band.map_or(NOT_FINITE, |band| levels.color(band)))?;
        }
        if let Some((x, y)) = &self.axes {
            plot.draw_x(x, false)?;
            plot.draw_y(y, false)?;
        }
        // Beside a triangle nothing else is written.
        let free =
            Field { left: 4, top: TOP - 8, right: plot.field.right + 12, bottom: area.dim_in_pixel().1 as i32 - 4 };
        let bounds = if self.axes.is_some() { plot.field } else { free };
        let stroke = Stroke { color: MARK, dashes: Vec::new(), most_points: MOST_POINTS, most_dashes: 0 };
        plot.draw_line(self.path.iter().copied(), &stroke)?;
        if self.path.len() <= MOST_DOTS {
            plot.draw_dots(self.path.iter().copied(), 2, MARK)?;
        }
        marks::draw(&plot, &bounds, self.all_marks(), MARK)?;
        levels.draw_bar(area, &plot.field, self.values.all().any(|value| !value.is_finite()))
    }

    /// The field in the middle of its area. Both axes have one scale, so that distances on the page are distances in the
    /// space, unless one would be too short to be seen.
    fn field(&self, area: &Area<'_>, y: &Axis) -> Field {
        let (width, height) = (area.dim_in_pixel().0 as i32, area.dim_in_pixel().1 as i32);
        let below = if self.axes.is_some() { BELOW } else { 20 };
        let free_height = height - TOP - below;
        let beside = if self.axes.is_some() { room_beside(y, free_height) } else { 20 };
        let free_width = width - beside - BAR;
        // Width over height, by halves, whose differences are finite.
        let ratio = (self.x.1 / 2.0 - self.x.0 / 2.0) / (self.y.1 / 2.0 - self.y.0 / 2.0);
        let fitting = |free: i32, other: f64| (other.min(f64::from(free)) as i32).max(SMALLEST);
        let field_width = fitting(free_width, ratio * f64::from(free_height));
        let field_height = fitting(free_height, f64::from(free_width) / ratio);
        let left = beside + (free_width - field_width) / 2;
        Field { left, top: TOP, right: left + field_width, bottom: TOP + field_height }
    }

    /// Neighbouring squares of one band in a row, as one rectangle each.
    fn rectangles(&self, levels: &Levels, field: &Field) -> Vec<Patch> {
        let mut all = PIXELS.map(|pixel| (pixel, Vec::new()));
        for (pixel, runs) in &mut all {
            *runs = self.runs(levels, (field.width() / *pixel).max(1), (field.height() / *pixel).max(1));
            if runs.len() <= MOST_RECTANGLES {
                return std::mem::take(runs);
            }
        }
        let [.., (_, coarsest)] = all;
        coarsest
    }

    fn runs(&self, levels: &Levels, columns: i32, rows: i32) -> Vec<Patch> {
        let at = |(low, high): (f64, f64), index: f64, count: i32| {
            let share = index / f64::from(count);
            (1.0 - share) * low + share * high
        };
        let mut runs = Vec::new();
        for row in 0..rows {
            let y = |offset: f64| at(self.y, f64::from(row) + offset, rows);
            let band = |column: i32| {
                let value = self.value((at(self.x, f64::from(column) + 0.5, columns), y(0.5)))?;
                Some(value.is_finite().then(|| levels.band(value)))
            };
            let mut start = 0;
            let mut own = band(0);
            for column in 1..=columns {
                let next = if column < columns { band(column) } else { None };
                if column == columns || next != own {
                    if let Some(own) = own {
                        let x = |column: i32| at(self.x, f64::from(column), columns);
                        runs.push(([(x(start), y(0.0)), (x(column), y(1.0))], own));
                    }
                    (start, own) = (column, next);
                }
            }
        }
        runs
    }

    /// The value at a place, by linear interpolation: not finite beside one that is not, nothing outside.
    fn value(&self, (x, y): (f64, f64)) -> Option<f64> {
        // Between two values, whatever their size.
        let mix = |from: f64, to: f64, share: f64| if share == 0.0 { from } else { (1.0 - share) * from + share * to };
        match &self.values {
            Lattice::Grid { columns, values } => {
                let rows = values.len() / columns;
                let position = |(low, high): (f64, f64), at: f64, count: usize| {
                    let share = (at / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
                    let position = share * (count - 1) as f64;
                    let index = (position as usize).min(count.saturating_sub(2));
                    (index, position - index as f64)
                };
                let ((i, u), (j, v)) = (position(self.x, x, *columns), position(self.y, y, rows));
                let at = |i: usize, j: usize| values[j.min(rows - 1) * columns + i.min(columns - 1)];
                Some(mix(mix(at(i, j), at(i + 1, j), u), mix(at(i, j + 1), at(i + 1, j + 1), u), v))
            }
            Lattice::Triangle { values } => {
                let steps = values.len() - 1;
                let (third, second) = (y / HEIGHT, x - y / HEIGHT / 2.0);
                if third < 0.0 || second < 0.0 || third + second > 1.0 {
                    return None;
                }
                let (row, column) = (third * steps as f64, second * steps as f64);
                let most = steps.saturating_sub(1);
                let (i, j) = ((row as usize).min(most), (column as usize).min(most));
                let (u, v) = (row - i as f64, column - j as f64);
                let at = |i: usize, j: usize| values.get(i).and_then(|row| row.get(j)).copied();
                // In each small triangle: its corners by their shares, beginning where two sides are parallel to the axes.
                let corner = |corner: f64, along_row: f64, along_column: f64, (u, v): (f64, f64)| {
                    let rest = 1.0 - u - v;
                    let part = |share: f64, value: f64| if share == 0.0 { 0.0 } else { share * value };
                    part(rest, corner) + part(u, along_row) + part(v, along_column)
                };
                if u + v <= 1.0 {
                    let first = at(i, j)?;
                    Some(corner(first, at(i + 1, j).unwrap_or(first), at(i, j + 1).unwrap_or(first), (u, v)))
                } else {
                    Some(corner(at(i + 1, j + 1)?, at(i, j + 1)?, at(i + 1, j)?, (1.0 - u, 1.0 - v)))
                }
            }
        }
    }

    /// Names stand above their places, but at the lower side of a triangle below them.
    fn all_marks(&self) -> impl Iterator<Item = Mark<'_>> {
        let corners = [(0.0, 0.0), (1.0, 0.0), (0.5, HEIGHT)];
        let named = self.names.iter().flat_map(move |names| names.iter().zip(corners));
        let all = named.chain(self.marks.iter().map(|(name, place)| (name, *place)));
        all.map(|(name, place)| Mark { name, place, below: self.axes.is_none() && place.1 <= 0.0 })
    }
}

impl Lattice {
    fn all(&self) -> impl Iterator<Item = f64> + Clone {
        let (grid, triangle) = match self {
            Lattice::Grid { values, .. } => (values.as_slice(), [].as_slice()),
            Lattice::Triangle { values } => ([].as_slice(), values.as_slice()),
        };
        grid.iter().chain(triangle.iter().flatten()).copied()
    }
}

/// Levels between bands: in equal ratios if the values are positive and far apart, else in equal steps.
struct Levels(Vec<f64>);

impl Levels {
    fn new(values: impl Iterator<Item = f64>) -> Levels {
        let (low, high) = span(values);
        let share = |step: usize| step as f64 / BANDS as f64;
        let level = |step| match low > 0.0 && high / 3.0 > low {
            // By logarithms: the ratio may be beyond all numbers.
            true => ((1.0 - share(step)) * low.ln() + share(step) * high.ln()).exp(),
            false => (1.0 - share(step)) * low + share(step) * high,
        };
        Levels((0..=BANDS).map(level).collect())
    }

    fn band(&self, value: f64) -> usize {
        self.0[1..BANDS].iter().filter(|&&level| value >= level).count()
    }

    fn color(&self, band: usize) -> RGBColor {
        shade(band as f64 / (BANDS - 1) as f64)
    }

    /// The bar of colours right of a field, with its levels; below it the ground of what is not finite, if there is any.
    fn draw_bar(&self, area: &Area<'_>, field: &Field, not_finite: bool) -> Result<()> {
        let x = field.right + 18;
        // As high as its labels need, however flat the field is.
        let height = field.height().max(130);
        let y = |step: usize| TOP + height - height * step as i32 / BANDS as i32;
        for band in 0..BANDS {
            let cell = [(x, y(band + 1)), (x + 16, y(band))];
            area.draw(&Rectangle::new(cell, self.color(band).filled())).map_err(drawn)?;
        }
        area.draw(&Rectangle::new([(x, y(BANDS)), (x + 16, y(0))], GRID)).map_err(drawn)?;
        for step in (0..=BANDS).step_by(2) {
            let label = fitted(&level_label(self.0[step]), TEXT, BAR - 46);
            write(area, label, (x + 22, y(step)), (HPos::Left, VPos::Center))?;
        }
        if not_finite { explain_not_finite(area, (x, y(0) + 24)) } else { Ok(()) }
    }
}

/// Three significant digits.
fn level_label(level: f64) -> String {
    match level.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => {
            format!("{level:.*}", (2.0 - size.log10().floor()).clamp(0.0, 5.0) as usize)
        }
        _ => format!("{level:.1e}"),
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
        let far = Levels::new([0.1, 10.0, f64::NAN].into_iter());
        assert!((far.0[BANDS / 2] - 1.0).abs() < 1e-9);
        assert_eq!((far.band(0.1), far.band(10.0), far.band(100.0)), (0, BANDS - 1, BANDS - 1));
        assert!((Levels::new([1.0, 2.0].into_iter()).0[BANDS / 2] - 1.5).abs() < 1e-9);
    }
}
