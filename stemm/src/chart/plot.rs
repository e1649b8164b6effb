//! The field between two axes: ticks and grid around it, and lines, dots, bands and bars that cannot leave it.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Axis;
use super::label::{fitted, write, write_upwards};
use super::{Area, GRID, INK, TEXT, drawn};
use crate::error::Result;

/// The corners of a field in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

/// A field of an area between two axes.
pub(super) struct Plot<'a, 'canvas> {
    pub area: &'a Area<'canvas>,
    pub field: Field,
    pub x: Axis,
    pub y: Axis,
}

/// How a line is drawn: lengths of its dashes and gaps in pixels by turns (none: an unbroken line), and how much of it can
/// be told apart by eye.
#[derive(Clone, Debug)]
pub(super) struct Stroke {
    pub color: RGBColor,
    pub dashes: Vec<f64>,
    pub most_points: usize,
    pub most_dashes: usize,
}

/// Pixels left of the labels of a vertical axis: its name and a gap.
const NAME: i32 = 36;

impl Field {
    pub(super) fn width(&self) -> i32 {
        self.right - self.left
    }

    pub(super) fn height(&self) -> i32 {
        self.bottom - self.top
    }
}

/// Pixels that a vertical axis needs beside a field of some height.
pub(super) fn room_beside(y: &Axis, height: i32) -> i32 {
    y.label_width(height) + NAME
}

impl Plot<'_, '_> {
    /// The pixel of a place, between the corners of the field; nothing for what has no place on the axes.
    fn pixel(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let Field { left, top, .. } = self.field;
        let (x, y) = (self.x.place(x)?, self.y.place(y)?);
        Some((
            f64::from(left) + x * f64::from(self.field.width()),
            f64::from(top) + (1.0 - y) * f64::from(self.field.height()),
        ))
    }

    /// The pixel of a place within the field.
    pub(super) fn inside(&self, place: (f64, f64)) -> Option<(i32, i32)> {
        let (x, y) = self.pixel(place).map(rounded)?;
        let Field { left, top, right, bottom } = self.field;
        ((left..=right).contains(&x) && (top..=bottom).contains(&y)).then_some((x, y))
    }

    /// The vertical axis with ticks, a grid if wanted, and its name.
    pub(super) fn draw_y(&self, name: &str, grid: bool) -> Result<()> {
        let Field { left, top, right, bottom } = self.field;
        let ticks = self.y.ticks_up(self.field.height());
        for (at, label) in ticks {
            let y = bottom - (at * f64::from(self.field.height())).round() as i32;
            if grid {
                self.area.draw(&PathElement::new([(left, y), (right, y)], GRID)).map_err(drawn)?;
            }
            self.area.draw(&PathElement::new([(left - 4, y), (left, y)], INK)).map_err(drawn)?;
            write(self.area, label, (left - 8, y), (HPos::Right, VPos::Center))?;
        }
        self.area.draw(&PathElement::new([(left, top), (left, bottom)], INK)).map_err(drawn)?;
        let at = left - room_beside(&self.y, self.field.height()) + 6;
        let name = fitted(name, TEXT, self.field.height());
        write_upwards(self.area, name, (at, (top + bottom) / 2), (HPos::Center, VPos::Top))
    }

    /// The horizontal axis with ticks, a grid if wanted, and its name.
    pub(super) fn draw_x(&self, name: &str, grid: bool) -> Result<()> {
        let Field { left, top, right, bottom } = self.field;
        for (at, label) in self.x.ticks_across(self.field.width()) {
            let x = left + (at * f64::from(self.field.width())).round() as i32;
            if grid {
                self.area.draw(&PathElement::new([(x, top), (x, bottom)], GRID)).map_err(drawn)?;
            }
            self.area.draw(&PathElement::new([(x, bottom), (x, bottom + 4)], INK)).map_err(drawn)?;
            write(self.area, label, (x, bottom + 9), (HPos::Center, VPos::Top))?;
        }
        self.area.draw(&PathElement::new([(left, bottom), (right, bottom)], INK)).map_err(drawn)?;
        let name = fitted(name, TEXT, self.field.width());
        write(self.area, name, ((left + right) / 2, bottom + 29), (HPos::Center, VPos::Top))
    }

    /// A line through places: those without a place on the axes are left out, and what lies outside the field is cut off.
    pub(super) fn draw_line(&self, places: impl Iterator<Item = (f64, f64)>, stroke: &Stroke) -> Result<()> {
        let mut parts: Vec<Vec<(i32, i32)>> = Vec::new();
        let mut before = None;
        for pixel in places.filter_map(|place| self.pixel(place)) {
            if let Some((from, to)) = before.and_then(|before| self.clipped(before, pixel)) {
                match parts.last_mut() {
                    Some(part) if part.last() == Some(&from) => part.push(to),
                    _ => parts.push(vec![from, to]),
                }
            }
            before = Some(pixel);
        }
        let whole: usize = parts.iter().map(|part| length(part) as usize).sum();
        for part in parts {
            // Each part gets its share of the dashes.
            let part = thinned(part, stroke.most_points);
            let most = (stroke.most_dashes as f64 * length(&part) / (whole as f64 + 1.0)).ceil();
            for piece in dashed(&part, &stroke.dashes, most) {
                let path = PathElement::new(without_spikes(piece), stroke.color.stroke_width(2));
                self.area.draw(&path).map_err(drawn)?;
            }
        }
        Ok(())
    }

    /// Dots at the places within the field.
    pub(super) fn draw_dots(
        &self,
        places: impl Iterator<Item = (f64, f64)>,
        radius: i32,
        color: RGBColor,
    ) -> Result<()> {
        for pixel in places.filter_map(|place| self.inside(place)) {
            self.area.draw(&Circle::new(pixel, radius, color.filled())).map_err(drawn)?;
        }
        Ok(())
    }

    /// Shades what lies between two lines over the same places; a single place gets a stroke.
    pub(super) fn draw_band(
        &self,
        low: &[(f64, f64)],
        high: &[(f64, f64)],
        color: RGBColor,
        most_points: usize,
    ) -> Result<()> {
        let Field { left, top, right, bottom } = self.field;
        let side = |places: &[(f64, f64)]| {
            let pixels = places.iter().filter_map(|&place| self.pixel(place).map(rounded));
            thinned(pixels.map(|(x, y)| (x.clamp(left, right), y.clamp(top, bottom))).collect(), most_points)
        };
        let mut outline = side(low);
        outline.extend(side(high).into_iter().rev());
        let (first, last) = (outline.iter().map(|p| p.0).min(), outline.iter().map(|p| p.0).max());
        if let (Some(first), Some(last)) = (first, last)
            && first == last
        {
            let (above, below) = (outline.iter().map(|p| p.1).min(), outline.iter().map(|p| p.1).max());
            let corners =
                [((first - 2).max(left), above.unwrap_or(top)), ((last + 2).min(right), below.unwrap_or(bottom))];
            return self.area.draw(&Rectangle::new(corners, color.mix(0.3).filled())).map_err(drawn);
        }
        self.area.draw(&Polygon::new(outline, color.mix(0.18))).map_err(drawn)
    }

    /// A filled rectangle between two corners, cut at the edges of the field.
    pub(super) fn draw_box(&self, corners: [(f64, f64); 2], color: RGBColor) -> Result<()> {
        let Field { left, top, right, bottom } = self.field;
        let pixels = corners.map(|corner| self.pixel(corner).map(rounded));
        let [Some(from), Some(to)] = pixels else { return Ok(()) };
        let within = |(x, y): (i32, i32)| (x.clamp(left, right), y.clamp(top, bottom));
        let (from, to) = (within(from), within(to));
        let corners = [(from.0.min(to.0), from.1.min(to.1)), (from.0.max(to.0), from.1.max(to.1))];
        self.area.draw(&Rectangle::new(corners, color.filled())).map_err(drawn)
    }

    /// What of the line between two pixels lies in the field (Liang & Barsky, 1984).
    fn clipped(&self, from: (f64, f64), to: (f64, f64)) -> Option<((i32, i32), (i32, i32))> {
        let Field { left, top, right, bottom } = self.field;
        let step = (to.0 - from.0, to.1 - from.1);
        let sides = [
            (-step.0, from.0 - f64::from(left)),
            (step.0, f64::from(right) - from.0),
            (-step.1, from.1 - f64::from(top)),
            (step.1, f64::from(bottom) - from.1),
        ];
        let (mut start, mut end) = (0.0_f64, 1.0_f64);
        for (step, distance) in sides {
            if step == 0.0 && distance < 0.0 {
                return None;
            } else if step < 0.0 {
                start = start.max(distance / step);
            } else if step > 0.0 {
                end = end.min(distance / step);
            }
        }
        let at = |share: f64| match share {
            1.0 => rounded(to),
            share => rounded((from.0 + share * step.0, from.1 + share * step.1)),
        };
        (start <= end).then(|| (at(start), at(end)))
    }
}

fn rounded((x, y): (f64, f64)) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}

fn length(part: &[(i32, i32)]) -> f64 {
    part.windows(2).map(|pair| distance(pair[0], pair[1])).sum()
}

fn distance(from: (i32, i32), to: (i32, i32)) -> f64 {
    f64::from(to.0 - from.0).hypot(f64::from(to.1 - from.1))
}

/// At most so many points of a line: within columns as narrow as that allows, its first, lowest, highest and last one, so
/// that no peak is lost.
fn thinned(part: Vec<(i32, i32)>, most: usize) -> Vec<(i32, i32)> {
    let mut points = part;
    points.dedup();
    for width in [1, 2, 4, 8, 16, 32, 64] {
        if points.len() <= most {
            return points;
        }
        let columns = points.chunk_by(|a, b| a.0 / width == b.0 / width);
        let kept = columns.flat_map(|column| {
            let index = |(index, _): (usize, &(i32, i32))| index;
            let lowest = column.iter().enumerate().min_by_key(|(_, point)| point.1).map(index);
            let highest = column.iter().enumerate().max_by_key(|(_, point)| point.1).map(index);
            let mut kept: Vec<usize> =
                [Some(0), lowest, highest, Some(column.len() - 1)].into_iter().flatten().collect();
            kept.sort_unstable();
            kept.dedup();
            kept.into_iter().map(|index| column[index])
        });
        points = kept.collect();
    }
    // A scribble to and fro: no part of it can be told from another.
    let every = points.len().div_ceil(most.max(1));
    points.into_iter().step_by(every).collect()
}

/// Cuts a line into its dashes, at most so many: longer ones if need be.
fn dashed(part: &[(i32, i32)], pattern: &[f64], most: f64) -> Vec<Vec<(i32, i32)>> {
    if pattern.is_empty() {
        return vec![part.to_vec()];
    }
    let dashes = length(part) / pattern.iter().sum::<f64>() * (pattern.len() / 2) as f64;
    let scale = (dashes / most).max(1.0);
    let mut lengths = pattern.iter().map(|length| scale * length).cycle();
    let (mut pieces, mut on, mut left) = (vec![vec![part[0]]], true, lengths.next().unwrap_or(f64::INFINITY));
    for pair in part.windows(2) {
        let (whole, mut gone) = (distance(pair[0], pair[1]), 0.0);
        let at = |gone: f64| {
            let share = if whole > 0.0 { gone / whole } else { 1.0 };
            let between = |from: i32, to: i32| f64::from(from) + share * f64::from(to - from);
            rounded((between(pair[0].0, pair[1].0), between(pair[0].1, pair[1].1)))
        };
        while whole - gone > left {
            gone += left;
            match pieces.last_mut() {
                Some(piece) if on => piece.push(at(gone)),
                _ => pieces.push(vec![at(gone)]),
            }
            (on, left) = (!on, lengths.next().unwrap_or(f64::INFINITY));
        }
        left -= whole - gone;
        if let Some(piece) = pieces.last_mut().filter(|_| on) {
            piece.push(pair[1]);
        }
    }
    pieces
}

/// A line without turns so sharp that the bitmap's outline of it, two pixels wide, would shoot far beyond them: a turn
/// back becomes two right angles, one pixel apart.
fn without_spikes(part: Vec<(i32, i32)>) -> Vec<(i32, i32)> {
    let mut points: Vec<(i32, i32)> = Vec::with_capacity(part.len());
    for point in part {
        if let [.., before, turn] = points[..] {
            let (came, goes) = ((turn.0 - before.0, turn.1 - before.1), (point.0 - turn.0, point.1 - turn.1));
            let (product, lengths) =
                (came.0 * goes.0 + came.1 * goes.1, distance(before, turn) * distance(turn, point));
            if f64::from(product) < -0.5 * lengths {
                // Across the line, to the side that it goes to.
                let size = distance(before, turn) * if came.0 * goes.1 >= came.1 * goes.0 { 1.0 } else { -1.0 };
                let across = (-f64::from(came.1) / size, f64::from(came.0) / size);
                points.push(rounded((f64::from(turn.0) + across.0, f64::from(turn.1) + across.1)));
            }
        }
        if points.last() != Some(&point) {
            points.push(point);
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn points() -> impl Strategy<Value = Vec<(i32, i32)>> {
        proptest::collection::vec((0..300, 0..200), 2..400)
    }

    proptest! {
        #[test]
        fn a_thinned_line_keeps_its_ends_and_its_extremes_and_is_short(mut part in points(), most in 40..100_usize) {
            part.sort_by_key(|point| point.0);
            let thin = thinned(part.clone(), most);
            let heights = |part: &[(i32, i32)]| (part.iter().map(|p| p.1).min(), part.iter().map(|p| p.1).max());
            prop_assert!(thin.len() <= most);
            prop_assert_eq!((thin.first(), thin.last(), heights(&thin)), (part.first(), part.last(), heights(&part)));
        }

        #[test]
        fn a_dashed_line_has_few_dashes_along_the_line(part in points(), most in 10..60_u32) {
            let pieces = dashed(&part, &[6.0, 5.0], f64::from(most));
            prop_assert!(pieces.len() <= most as usize + 2, "{}", pieces.len());
            let drawn: f64 = pieces.iter().map(|piece| length(piece)).sum();
            let share = drawn / length(&part);
            prop_assert!(length(&part) < 300.0 || (0.4..0.7).contains(&share), "{share}");
        }
    }
}
