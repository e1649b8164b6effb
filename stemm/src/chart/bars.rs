//! Bar charts with error bars.

use plotters::prelude::*;

use super::lines::short;
use super::{Area, Drawn, GRID, INK, PALETTE, TEXT, ink, padded_range, text, title_style};
use crate::notebook::number;

/// A bar chart: name, value and standard error (0: none) of each bar.
#[derive(Clone, Debug)]
pub struct Bars {
    title: String,
    y: String,
    bars: Vec<(String, f64, f64)>,
}

impl Bars {
    /// A chart of `(name, value, standard error)`, with the label of the value's axis (with its unit).
    pub fn new(title: impl Into<String>, y: impl Into<String>, bars: Vec<(String, f64, f64)>) -> Bars {
        Bars { title: title.into(), y: y.into(), bars }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn {
        let finite = || self.bars.iter().filter(|bar| bar.1.is_finite());
        let tops = finite().flat_map(|bar| [bar.1 - bar.2, bar.1 + bar.2]);
        let y_range = padded_range(tops.chain([0.0]));
        let low = if finite().all(|bar| bar.1 >= 0.0) { 0.0 } else { y_range.start };
        let high = y_range.end + 0.05 * (y_range.end - low); // room for the value above the tallest bar
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, title_style(&self.title, area.dim_in_pixel().0 - 20))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(62)
            .build_cartesian_2d(-0.5..self.bars.len() as f64 - 0.5, low..high)
            .map_err(text)?;
        let name = |x: &f64| {
            let index = x.round();
            let here = (x - index).abs() < 1e-6 && index >= 0.0;
            self.bars.get(index as usize).filter(|_| here).map_or(String::new(), |bar| bar.0.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(2 * self.bars.len() + 1)
            .x_label_formatter(&name)
            .y_desc(&self.y)
            .y_labels(8)
            .y_label_formatter(&short)
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(ink(TEXT))
            .axis_desc_style(ink(TEXT))
            .draw()
            .map_err(text)?;
        for (x, (_, value, error)) in self.bars.iter().enumerate().filter(|(_, bar)| bar.1.is_finite()) {
            let x = x as f64;
            let color = PALETTE[0].filled();
            chart.draw_series([Rectangle::new([(x - 0.35, 0.0), (x + 0.35, *value)], color)]).map_err(text)?;
            if *error > 0.0 {
                let bar = ErrorBar::new_vertical(x, value - error, *value, value + error, INK.filled(), 10);
                chart.draw_series([bar]).map_err(text)?;
            }
            let label = Text::new(number(*value), (x, value + error.max(0.0)), ink(TEXT).pos(above()));
            chart.draw_series([label]).map_err(text)?;
        }
        Ok(())
    }
}

fn above() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Center, VPos::Bottom)
}
