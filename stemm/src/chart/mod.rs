//! Charts: one way to draw each kind, with colours for the colour-blind, labelled axes, and the legend outside the data.
//! A chart has a white background of its own, so that it reads the same on light and dark pages.

mod axis;
mod bars;
mod canvas;
mod contours;
mod drawing;
mod group_map;
mod heatmap;
mod label;
mod lines;
mod marks;
mod plot;
#[cfg(test)]
mod properties;

pub use bars::Bars;
pub use canvas::{Area, Canvas, CanvasError};
pub use contours::Contours;
pub use drawing::Drawing;
pub use group_map::GroupMap;
pub use heatmap::Heatmap;
pub(crate) use label::fitted;
pub use lines::{Lines, Series};

use std::path::Path;
use std::sync::Once;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use plotters::prelude::*;
use plotters::style::register_font;

use crate::error::{Error, Result};
use crate::file::write_atomically;
use crate::notebook::{Bundle, Show, escape};

/// Okabe & Ito's palette (2008), in an order in which neighbours differ most; told apart by colour-blind readers.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
pub(crate) const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// The ground of what is not finite: as striking as a warning, and in no map of colours.
const NOT_FINITE: RGBColor = RGBColor(255, 176, 0);
const FONT: &str = "sans-serif";
pub(crate) const TEXT: u32 = 15;
const TITLE: u32 = 18;

/// Panels of a chart, at most: its PNG is drawn in memory.
const MOST_PANELS: usize = 60;
/// Pixels that a notebook's page is wide.
const WIDTH: u32 = 760;
/// Pixels along a side of a picture, at least, and in all of it, at most: it is drawn in memory.
const SMALLEST: u32 = 50;
const MOST_PIXELS: u64 = 50_000_000;

/// A drawing of a result: shows itself in a notebook, saves itself as SVG or PNG.
///
/// ```
/// use stemm::chart::{Chart, Lines, Series};
/// let points = (0..5).map(|x| (x as f64, (x * x) as f64)).collect();
/// let chart: Chart = Lines::new("Squares", "x", "x²").series([Series::new("x²", points)]).into();
/// assert!(chart.svg()?.starts_with("<svg"));
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Chart {
    panels: Vec<Panel>,
    /// Panels side by side, at most.
    columns: usize,
    /// Width and height in pixels, where they were asked for.
    size: Option<(u32, u32)>,
}

#[derive(Clone, Debug)]
enum Panel {
    Lines(Lines),
    Bars(Bars),
    Heatmap(Heatmap),
    GroupMap(GroupMap),
    Contours(Contours),
    Drawing(Drawing),
}

impl Panel {
    fn draw(&self, area: &Area<'_>) -> Result<()> {
        match self {
            Panel::Lines(lines) => lines.draw(area),
            Panel::Bars(bars) => bars.draw(area),
            Panel::Heatmap(heatmap) => heatmap.draw(area),
            Panel::GroupMap(map) => map.draw(area),
            Panel::Contours(contours) => contours.draw(area),
            Panel::Drawing(drawing) => drawing.draw(area),
        }
    }
}

/// Every kind is a chart, and shows itself as one.
macro_rules! kinds {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Chart {
            fn from(kind: $kind) -> Chart {
                Chart::of(Panel::$kind(kind))
            }
        }

        impl Show for $kind {
            fn look(&self) -> Bundle {
                Chart::from(self.clone()).look()
            }
        })*
    };
}

kinds!(Lines, Bars, Heatmap, Contours, GroupMap, Drawing);

impl Chart {
    fn of(panel: Panel) -> Chart {
        Chart { panels: vec![panel], columns: 2, size: None }
    }

    /// A drawing of your own, with anything that plotters draws; width and height are in pixels.
    ///
    /// ```
    /// use stemm::plotters::prelude::*;
    /// use stemm::prelude::*;
    /// let chart = Chart::draw((640, 480), |area| {
    ///     let mut chart = ChartBuilder::on(area).margin(20).build_cartesian_2d(0.0..10.0, 0.0..100.0)?;
    ///     chart.draw_series(LineSeries::new((0..=10).map(|x| (x as f64, (x * x) as f64)), &RED))?;
    ///     Ok(())
    /// });
    /// assert!(chart.svg()?.contains("polyline"));
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn draw(
        size: (u32, u32),
        draw: impl Fn(&Area<'_>) -> std::result::Result<(), Box<dyn std::error::Error>> + Send + Sync + 'static,
    ) -> Chart {
        Chart { size: Some(size), ..Chart::of(Panel::Drawing(Drawing::new(size, draw))) }
    }

    /// Puts another chart to the right of this one, or below where a row is full: two charts, unless [`Chart::columns`] says
    /// otherwise.
    pub fn beside(mut self, other: Chart) -> Chart {
        self.panels.extend(other.panels);
        self.size = None;
        self
    }

    /// Puts so many charts side by side, at most.
    pub fn columns(mut self, columns: usize) -> Chart {
        self.columns = columns;
        self
    }

    /// Sets width and height in pixels; by default a chart is as wide as a notebook.
    pub fn sized(mut self, width: u32, height: u32) -> Chart {
        self.size = Some((width, height));
        self
    }

    /// Rows and columns.
    fn grid(&self) -> (usize, usize) {
        let columns = self.panels.len().min(self.columns).max(1);
        (self.panels.len().div_ceil(columns), columns)
    }

    /// Width and height in pixels: one panel fills a notebook's width, several share it.
    fn size(&self) -> (u32, u32) {
        match (self.size, self.panels.as_slice()) {
            (Some(size), _) => size,
            (None, [Panel::GroupMap(map)]) => (WIDTH, map.height(WIDTH)),
            (None, [Panel::Drawing(drawing)]) => drawing.size,
            (None, [_]) => (WIDTH, 400),
            (None, _) => (WIDTH, 320 * self.grid().0 as u32),
        }
    }

    fn check(&self) -> Result<()> {
        if self.panels.len() > MOST_PANELS {
            return refused("panels", self.panels.len(), "at most 60: show the others in another cell");
        }
        let (width, height) = self.size();
        if width.min(height) < SMALLEST || u64::from(width) * u64::from(height) > MOST_PIXELS {
            return refused(
                "size",
                format!("({width}, {height})"),
                "at least 50 pixels along each side and at most 50 million",
            );
        }
        if self.columns == 0 {
            return refused("columns", 0, "at least 1");
        }
        self.panels.iter().try_for_each(|panel| match panel {
            Panel::Lines(_) => Ok(()),
            Panel::Bars(bars) => bars.check(),
            Panel::Heatmap(heatmap) => heatmap.check(),
            Panel::GroupMap(map) => map.check(),
            Panel::Contours(contours) => contours.check(),
            Panel::Drawing(_) => Ok(()),
        })
    }

    fn paint(&self, root: &Area<'_>) -> Result<()> {
        register_fonts();
        root.fill(&WHITE).map_err(drawn)?;
        for (panel, area) in self.panels.iter().zip(root.split_evenly(self.grid())) {
            panel.draw(&area)?;
        }
        root.present().map_err(drawn)
    }

    /// The chart as SVG.
    ///
    /// # Errors
    /// More cells, bars or panels than can be told apart; tables of values that are not rectangular. Values that are not
    /// finite are no error: they have no place in a line, and are named as such in bars and maps.
    pub fn svg(&self) -> Result<String> {
        self.check()?;
        let mut svg = String::new();
        self.paint(&Canvas::Svg(SVGBackend::with_string(&mut svg, self.size())).into_drawing_area())?;
        // What a screen reader says of the picture.
        let label = format!(
            "<svg role=\"img\" aria-label=\"{}\" ",
            escape(&fitted(&self.titles(), TEXT, 4 * WIDTH as i32)).replace('"', "&quot;")
        );
        Ok(svg.replacen("<svg ", &label, 1))
    }

    /// The chart as a PNG file's bytes.
    ///
    /// # Errors
    /// As [`Chart::svg`].
    pub fn png(&self) -> Result<Vec<u8>> {
        self.check()?;
        png(self.size(), |root| self.paint(root))
    }

    /// Writes the chart as SVG or PNG, by the ending of the path; makes the folder if need be.
    ///
    /// # Errors
    /// Another ending; a file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => write_atomically(path, self.svg()?.as_bytes()),
            Some("png") => write_atomically(path, &self.png()?),
            _ => {
                let requirement = "a path that ends in .svg or .png";
                Err(Error::Setting { setting: "path", value: path.display().to_string(), requirement })
            }
        }
    }

    fn titles(&self) -> String {
        let titles = self.panels.iter().map(|panel| match panel {
            Panel::Lines(lines) => lines.title(),
            Panel::Bars(bars) => bars.title(),
            Panel::Heatmap(heatmap) => heatmap.title(),
            Panel::GroupMap(map) => map.title(),
            Panel::Contours(contours) => contours.title(),
            Panel::Drawing(drawing) => drawing.title(),
        });
        titles.map(crate::notebook::title).collect::<Vec<_>>().join(" | ")
    }
}

impl Show for Chart {
    fn look(&self) -> Bundle {
        match self.svg().and_then(|svg| Ok((svg, self.png()?))) {
            Ok((svg, png)) => Bundle::picture(&png, &format!("[chart: {}]", self.titles())).with("image/svg+xml", svg),
            Err(error) => Bundle::text(format_args!("no chart: {error}")),
        }
    }
}

impl Show for Vec<Chart> {
    fn look(&self) -> Bundle {
        match self.as_slice() {
            [] => Bundle::text(format_args!("no charts")),
            [first, others @ ..] => others.iter().cloned().fold(first.clone(), Chart::beside).look(),
        }
    }
}

/// The embedded font (Lato, SIL Open Font License) gives the same picture on every machine.
fn register_fonts() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        for style in [FontStyle::Normal, FontStyle::Bold] {
            // Fails only for bytes that are no font; drawing text then reports it.
            let _ = register_font(FONT, style, include_bytes!("../../assets/Lato-Regular.ttf"));
        }
    });
}

/// What is drawn on a picture of a size, as a PNG file's bytes.
pub(crate) fn png((width, height): (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<Vec<u8>> {
    let mut pixels = vec![0; 3 * (width * height) as usize];
    draw(&Canvas::Bitmap(BitMapBackend::with_buffer(&mut pixels, (width, height))).into_drawing_area())?;
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(&pixels, width, height, ExtendedColorType::Rgb8).map_err(drawn)?;
    Ok(bytes)
}

/// Backends have errors of different types, so only their text is kept.
pub(crate) fn drawn(error: impl std::fmt::Display) -> Error {
    Error::Chart(error.to_string())
}

/// The error for what a chart cannot show.
fn refused<T>(setting: &'static str, value: impl std::fmt::Display, requirement: &'static str) -> Result<T> {
    Err(Error::Setting { setting, value: value.to_string(), requirement })
}

pub(crate) fn font(size: u32) -> FontDesc<'static> {
    register_fonts();
    (FONT, size).into_font()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_draws_as_svg_and_png_even_without_values() {
        let lines = Lines::new("a", "x", "y").series([Series::new("s", vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)])]);
        let charts: [Chart; 7] = [
            Contours::plane("p", ("x", (0.0, 1.0)), ("y", (0.0, 2.0)), 2, vec![1.0, 2.0, f64::NAN, 9.0]).into(),
            Contours::triangle("t", ["a".into(), "b".into(), "c".into()], vec![vec![0.0, 1.0], vec![2.0]]).into(),
            GroupMap::new("g", vec![8, 16], vec![("a".into(), vec![0], vec![]), ("b".into(), vec![1], vec![0])]).into(),
            lines.clone().into(),
            Lines::new("empty", "x", "y").into(),
            Bars::new("b", "y", vec![("one".into(), 1.0, 0.1), ("two".into(), -2.0, 0.0)]).into(),
            Heatmap::new("h", vec!["a".into(), "b".into()], vec![vec![None, Some(1.0)], vec![Some(0.5), None]]).into(),
        ];
        for chart in charts {
            let svg = chart.svg().unwrap();
            assert!(svg.starts_with("<svg") && svg.contains(&chart.titles()), "{svg}");
            assert!(chart.png().unwrap().starts_with(b"\x89PNG"));
        }
        assert_eq!(Chart::from(lines.clone()).beside(lines.into()).size().0, 760);
    }

    #[test]
    fn an_unknown_ending_is_refused() {
        let chart: Chart = Lines::new("a", "x", "y").into();
        assert!(matches!(chart.save("chart.jpeg"), Err(Error::Setting { setting: "path", .. })));
    }
}
