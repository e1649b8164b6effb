//! The permutation groups of a network at a glance: one row a layer, one column a group; a filled square where the
//! layer writes the units of the group, an open circle where it reads them.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, Drawn, GRID, INK, PALETTE, TEXT, TITLE, ink, text};

/// Which layers write and read the units of which group.
#[derive(Clone, Debug)]
pub struct GroupMap {
    title: String,
    sizes: Vec<usize>,
    rows: Vec<(String, Vec<usize>, Vec<usize>)>,
}

const ROW: i32 = 20;
const TOP: i32 = 84;
const MARGIN: i32 = 14;
const CHARACTER: i32 = 8;

impl GroupMap {
    /// A map of groups with so many units each, and of layers: name, groups written, groups read.
    pub fn new(title: impl Into<String>, sizes: Vec<usize>, rows: Vec<(String, Vec<usize>, Vec<usize>)>) -> GroupMap {
        GroupMap { title: title.into(), sizes, rows }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Pixels that all rows need.
    pub(super) fn height(&self) -> u32 {
        (TOP + ROW * self.rows.len() as i32 + 2 * MARGIN) as u32
    }

    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn {
        let (width, _) = area.dim_in_pixel();
        let centre = Pos::new(HPos::Center, VPos::Center);
        area.draw(&Text::new(self.title.clone(), (MARGIN, 10), ink(TITLE))).map_err(text)?;
        self.draw_legend(area, width as i32 - 330)?;
        let longest = self.rows.iter().map(|(name, ..)| name.chars().count() as i32).max().unwrap_or(0);
        let left = 2 * MARGIN + CHARACTER * longest;
        let column = ((width as i32 - left - MARGIN) / self.sizes.len().max(1) as i32).clamp(1, 60);
        let bottom = TOP + ROW * self.rows.len() as i32;
        let x = |group: usize| left + column * group as i32 + column / 2;
        // Where the columns are narrow, the numbers of units stand on two levels.
        let levels = if column < 34 { 2 } else { 1 };
        area.draw(&Text::new("units", (left - 8, TOP - 14), ink(TEXT).pos(Pos::new(HPos::Right, VPos::Center))))
            .map_err(text)?;
        for (group, size) in self.sizes.iter().enumerate() {
            let y = TOP - 14 - if group % levels == 0 { 0 } else { 16 };
            area.draw(&Text::new(size.to_string(), (x(group), y), ink(TEXT).pos(centre))).map_err(text)?;
            area.draw(&PathElement::new(vec![(x(group), TOP), (x(group), bottom)], GRID)).map_err(text)?;
        }
        let half = (column / 2 - 1).clamp(2, 6);
        for (row, (name, written, read)) in (0..).zip(&self.rows) {
            let y = TOP + ROW * row + ROW / 2;
            let at_right = ink(TEXT).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name.clone(), (left - 8, y), at_right)).map_err(text)?;
            for &group in read {
                let style = color(group).stroke_width(2);
                area.draw(&Circle::new((x(group), y), half, style)).map_err(text)?;
            }
            for &group in written {
                let corners = [(x(group) - half, y - half), (x(group) + half, y + half)];
                area.draw(&Rectangle::new(corners, color(group).filled())).map_err(text)?;
            }
        }
        Ok(())
    }

    fn draw_legend<DB: DrawingBackend>(&self, area: &Area<DB>, x: i32) -> Drawn {
        let y = 20;
        let entry = |x: i32, label: &str| Text::new(label.to_owned(), (x + 14, y - 8), ink(TEXT));
        area.draw(&Rectangle::new([(x - 6, y - 6), (x + 6, y + 6)], INK.filled())).map_err(text)?;
        area.draw(&entry(x, "writes the units")).map_err(text)?;
        area.draw(&Circle::new((x + 160, y), 6, INK.stroke_width(2))).map_err(text)?;
        area.draw(&entry(x + 160, "reads the units")).map_err(text)
    }
}

fn color(group: usize) -> RGBColor {
    PALETTE[group % PALETTE.len()]
}
