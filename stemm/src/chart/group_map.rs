//! The permutation groups of a network at a glance: one row a layer, one column a group; a filled square where the
//! layer writes the units of the group, an open circle where it reads them.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::label::{TOP, fitted, text_width, widest, write, write_title};
use super::{Area, GRID, INK, PALETTE, TEXT, drawn, refused};
use crate::error::Result;

/// Which layers write and read the units of which group.
#[derive(Clone, Debug)]
pub struct GroupMap {
    title: String,
    sizes: Vec<usize>,
    rows: Vec<(String, Vec<usize>, Vec<usize>)>,
}

const ROW: i32 = 20;
const MARGIN: i32 = 14;
/// Pixels from the legend, under the title, to the numbers of units.
const LEGEND: i32 = 26;
/// Height of a line of numbers of units, in pixels.
const LINE: i32 = 16;
/// Pixels that a layer's name gets at most.
const NAME: i32 = 260;
/// Columns are at least so wide, in pixels.
const NARROWEST: i32 = 9;
/// Layers of a map, at most: its picture grows with them.
const MOST_ROWS: usize = 400;

/// Where the columns of a map are, in pixels.
struct Columns {
    left: i32,
    width: i32,
    shown: usize,
    /// Lines that the numbers of units need where the columns are narrower than they.
    lines: i32,
}

impl GroupMap {
    /// A map of groups with so many units each, and of layers: name, groups written, groups read.
    pub fn new(title: impl Into<String>, sizes: Vec<usize>, rows: Vec<(String, Vec<usize>, Vec<usize>)>) -> GroupMap {
        GroupMap { title: title.into(), sizes, rows }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn check(&self) -> Result<()> {
        let groups = self.sizes.len();
        let named = self.rows.iter().flat_map(|(_, written, read)| written.iter().chain(read));
        match named.copied().find(|&group| group >= groups) {
            Some(group) => refused("rows", format!("group {group} of {groups}"), "groups by their positions, from 0"),
            None => Ok(()),
        }
    }

    /// Pixels that the rows need in a chart so wide.
    pub(super) fn height(&self, width: u32) -> u32 {
        let lines = self.columns(width as i32).lines;
        (first_row(lines) + ROW * self.rows.len().min(MOST_ROWS) as i32 + 2 * MARGIN) as u32
    }

    fn columns(&self, width: i32) -> Columns {
        let names = widest(self.rows.iter().map(|row| &row.0), TEXT).min(NAME).min(width / 2);
        let left = 2 * MARGIN + names.max(text_width("units", TEXT));
        let free = width - left - MARGIN;
        let fits = (free / NARROWEST) as usize;
        // The last columns make room for the number of those that are not shown.
        let shown = if self.sizes.len() > fits { fits.saturating_sub(13) } else { self.sizes.len() };
        let column = (free / self.sizes.len().max(1) as i32).clamp(NARROWEST, 60);
        let number = widest(self.sizes.iter().take(shown).map(usize::to_string), TEXT) + 4;
        Columns { left, width: column, shown, lines: (number + column - 1) / column }
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Result<()> {
        let (width, height) = (area.dim_in_pixel().0 as i32, area.dim_in_pixel().1 as i32);
        write_title(area, &self.title, width)?;
        draw_legend(area)?;
        let columns = self.columns(width);
        let top = first_row(columns.lines);
        let fits = ((height - top - MARGIN) / ROW).max(0) as usize;
        let shown = if self.rows.len() > fits { fits.saturating_sub(1) } else { self.rows.len() };
        let bottom = top + ROW * shown as i32;
        let x = |group: usize| columns.left + columns.width * group as i32 + columns.width / 2;
        write(area, "units".to_owned(), (columns.left - 8, top - 14), (HPos::Right, VPos::Center))?;
        for (group, size) in self.sizes.iter().enumerate().take(columns.shown) {
            // Where the columns are narrow, the numbers of units stand on several lines.
            let y = top - 14 - LINE * (group as i32 % columns.lines);
            area.draw(&PathElement::new([(x(group), y + 8), (x(group), bottom)], GRID)).map_err(drawn)?;
            write(area, size.to_string(), (x(group), y), (HPos::Center, VPos::Center))?;
        }
        if columns.shown < self.sizes.len() {
            let rest = format!("and {} more", self.sizes.len() - columns.shown);
            write(area, rest, (x(columns.shown) + 14, top - 14), (HPos::Left, VPos::Center))?;
        }
        let half = (columns.width / 2 - 1).clamp(2, 6);
        for (row, (name, written, read)) in (0..).zip(self.rows.iter().take(shown)) {
            let y = top + ROW * row + ROW / 2;
            let name = fitted(name, TEXT, columns.left - 2 * MARGIN);
            write(area, name, (columns.left - 8, y), (HPos::Right, VPos::Center))?;
            // A group counts once, however often it is named.
            for group in (0..columns.shown).filter(|group| read.contains(group)) {
                area.draw(&Circle::new((x(group), y), half, color(group).stroke_width(2))).map_err(drawn)?;
            }
            for group in (0..columns.shown).filter(|group| written.contains(group)) {
                let corners = [(x(group) - half, y - half), (x(group) + half, y + half)];
                area.draw(&Rectangle::new(corners, color(group).filled())).map_err(drawn)?;
            }
        }
        if shown < self.rows.len() {
            let rest = format!("and {} more layers", self.rows.len() - shown);
            write(area, rest, (MARGIN, bottom + ROW / 2), (HPos::Left, VPos::Center))?;
        }
        Ok(())
    }
}

/// The top of the first row, below title, legend and the numbers of units.
fn first_row(lines: i32) -> i32 {
    TOP + LEGEND + LINE * lines
}

fn draw_legend(area: &Area<'_>) -> Result<()> {
    let (x, y) = (area.dim_in_pixel().0 as i32 / 2 - 150, TOP + 6);
    area.draw(&Rectangle::new([(x - 6, y - 6), (x + 6, y + 6)], INK.filled())).map_err(drawn)?;
    write(area, "writes the units".to_owned(), (x + 14, y), (HPos::Left, VPos::Center))?;
    area.draw(&Circle::new((x + 160, y), 6, INK.stroke_width(2))).map_err(drawn)?;
    write(area, "reads the units".to_owned(), (x + 174, y), (HPos::Left, VPos::Center))
}

fn color(group: usize) -> RGBColor {
    PALETTE[group % PALETTE.len()]
}
