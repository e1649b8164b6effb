//! Text of a chart: measured, and cut in its middle where it is too wide; numbers in few characters.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, INK, NOT_FINITE, TEXT, TITLE, drawn, font};
use crate::error::Result;

/// Pixels above a plot: the title's line.
pub(super) const TOP: i32 = 42;
/// Titles are written smaller before they are cut.
const SMALLEST_TITLE: u32 = 13;
/// No chart has room for more characters in a line.
const MOST_CHARACTERS: usize = 300;
/// Browsers write SVG in a font of their own, wider than the embedded one by up to so much.
const RESERVE: f64 = 1.12;

/// Width of a line of text in pixels, as the widest usual font writes it.
pub(super) fn text_width(text: &str, size: u32) -> i32 {
    let ((left, _), (right, _)) = font(size).layout_box(text).unwrap_or_default();
    (RESERVE * f64::from(right - left)).ceil() as i32
}

/// The widest of some texts, in pixels.
pub(super) fn widest<T: AsRef<str>>(texts: impl IntoIterator<Item = T>, size: u32) -> i32 {
    texts.into_iter().map(|text| text_width(&fitted(text.as_ref(), size, i32::MAX), size)).max().unwrap_or(0)
}

/// The text, cut in its middle where it is wider than `room` pixels: names often differ at their ends.
pub(crate) fn fitted(text: &str, size: u32, room: i32) -> String {
    // Control characters and these two may not occur in XML.
    let printable = |c: char| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c };
    let characters: Vec<char> = text.chars().map(printable).collect();
    let cut = |kept: usize| -> String {
        if kept >= characters.len() {
            return characters.iter().collect();
        }
        let tail = kept / 3;
        let (head, tail) = (&characters[..kept - tail], &characters[characters.len() - tail..]);
        head.iter().chain(['…'].iter()).chain(tail).collect()
    };
    if characters.len() <= MOST_CHARACTERS && text_width(&cut(characters.len()), size) <= room {
        return cut(characters.len());
    }
    // The largest number of characters that fit beside the ellipsis.
    let (mut fits, mut too_many) = (0, characters.len().min(MOST_CHARACTERS + 1));
    while too_many - fits > 1 {
        let middle = (fits + too_many) / 2;
        match text_width(&cut(middle), size) <= room {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    if fits == 0 { String::new() } else { cut(fits) }
}

/// Text in the chart's ink, at a place by its anchor.
pub(super) fn write(area: &Area<'_>, text: String, at: (i32, i32), (horizontal, vertical): (HPos, VPos)) -> Result<()> {
    let style = font(TEXT).color(&INK).pos(Pos::new(horizontal, vertical));
    area.draw(&Text::new(text, at, style)).map_err(drawn)
}

/// Text from below to above, at a place by its anchor along and across the line.
pub(super) fn write_upwards(
    area: &Area<'_>,
    text: String,
    at: (i32, i32),
    (along, across): (HPos, VPos),
) -> Result<()> {
    let style = font(TEXT).transform(FontTransform::Rotate270).color(&INK).pos(Pos::new(along, across));
    area.draw(&Text::new(text, at, style)).map_err(drawn)
}

/// The title, above the middle of the first `width` pixels of an area.
pub(super) fn write_title(area: &Area<'_>, title: &str, width: i32) -> Result<()> {
    let room = width - 20;
    let fits = |size: &u32| fitted(title, *size, room).chars().count() == title.chars().count();
    let size = (SMALLEST_TITLE..=TITLE).rev().find(fits).unwrap_or(SMALLEST_TITLE);
    let style = font(size).color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
    area.draw(&Text::new(fitted(title, size, room), (width / 2, 12), style)).map_err(drawn)
}

/// Says what the ground of values that are not finite means, below a bar of colours.
pub(super) fn explain_not_finite(area: &Area<'_>, (x, y): (i32, i32)) -> Result<()> {
    area.draw(&Rectangle::new([(x, y - 8), (x + 16, y + 8)], NOT_FINITE.filled())).map_err(drawn)?;
    write(area, "NaN, inf".to_owned(), (x + 22, y), (HPos::Left, VPos::Center))
}

/// A number without needless zeros, in scientific notation where its digits would pile up.
pub(super) fn short(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) {
        return format!("{value:.2e}").replace(".00e", "e");
    }
    let rounded = format!("{value:.4}");
    match rounded.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_wide_keeps_its_beginning_and_its_end() {
        let name = format!("weight matching, {}, seed 12", "very ".repeat(50_000));
        let cut = fitted(&name, TEXT, 150);
        assert!(cut.starts_with("weight") && cut.ends_with(" 12") && cut.contains('…'), "{cut}");
        assert!((120..=150).contains(&text_width(&cut, TEXT)), "{cut}");
        assert_eq!(fitted("seed 12", TEXT, 150), "seed 12");
        assert_eq!(fitted("a\u{0}\nb", TEXT, 150), "a  b");
        assert_eq!(fitted("seed 12", TEXT, 3), "");
    }

    #[test]
    fn a_short_number_keeps_its_size_whatever_it_is() {
        let shown = [0.0, -0.0, 0.25, -3.0, 1e-5, 123_456.0, 1e6, 1.5e308, -2.34e-300].map(short);
        assert_eq!(shown, ["0", "0", "0.25", "-3", "1e-5", "123456", "1e6", "1.50e308", "-2.34e-300"]);
    }
}
