//! Named places on a plot: each name stands beside its place, where nothing else is written.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::label::{fitted, text_width, write};
use super::plot::{Field, Plot};
use super::{TEXT, drawn};
use crate::error::Result;

/// Pixels that a name gets at most.
const NAME: i32 = 150;
/// Half the height of a name's plate, in pixels.
const HALF: i32 = 9;
/// From a place to the middle of the name above it, in pixels.
const ABOVE: i32 = 15;

/// A named place, and whether its name stands rather below it than above.
pub(super) struct Mark<'a> {
    pub name: &'a str,
    pub place: (f64, f64),
    pub below: bool,
}

/// Draws dots at the places within the field, and their names on pale plates within bounds; a name that finds no room among
/// the others is left out.
pub(super) fn draw<'a>(
    plot: &Plot<'_, '_>,
    bounds: &Field,
    marks: impl Iterator<Item = Mark<'a>>,
    color: RGBColor,
) -> Result<()> {
    let places: Vec<_> = marks.filter_map(|mark| Some((plot.inside(mark.place)?, mark))).collect();
    for &(pixel, _) in &places {
        plot.area.draw(&Circle::new(pixel, 5, WHITE.filled())).map_err(drawn)?;
        plot.area.draw(&Circle::new(pixel, 4, color.filled())).map_err(drawn)?;
    }
    let mut plates: Vec<[(i32, i32); 2]> = Vec::new();
    for ((x, y), mark) in places {
        let name = fitted(mark.name, TEXT, NAME);
        let half = text_width(&name, TEXT) / 2 + 3;
        let beside = half + 8;
        let above = if mark.below { -ABOVE } else { ABOVE };
        // Above and below, but not beyond the sides.
        let near = x.max(bounds.left + half).min(bounds.right - half);
        let middles = [(near, y - above), (near, y + above), (x + beside, y), (x - beside, y)];
        let plate = |(x, y): (i32, i32)| [(x - half, y - HALF), (x + half, y + HALF)];
        let free = |middle: &(i32, i32)| {
            let own = plate(*middle);
            within(own, bounds) && !plates.iter().any(|other| overlap(own, *other))
        };
        let Some(middle) = middles.into_iter().find(free) else { continue };
        // Dark on a pale plate: readable on every band.
        plot.area.draw(&Rectangle::new(plate(middle), WHITE.mix(0.75).filled())).map_err(drawn)?;
        write(plot.area, name, middle, (HPos::Center, VPos::Center))?;
        plates.push(plate(middle));
    }
    Ok(())
}

fn within([(left, top), (right, bottom)]: [(i32, i32); 2], field: &Field) -> bool {
    field.left <= left && right <= field.right && field.top <= top && bottom <= field.bottom
}

fn overlap([(left, top), (right, bottom)]: [(i32, i32); 2], [from, to]: [(i32, i32); 2]) -> bool {
    left <= to.0 && from.0 <= right && top <= to.1 && from.1 <= bottom
}
