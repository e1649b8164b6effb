//! A chart of one's own, drawn with plotters.

use std::fmt::{self, Debug};
use std::sync::Arc;

use super::{Area, drawn};
use crate::error::Result;

/// How a picture is drawn; an error of any kind becomes one of the chart.
type Draw = dyn Fn(&Area<'_>) -> std::result::Result<(), Box<dyn std::error::Error>> + Send + Sync;

/// What a user's own code draws.
#[derive(Clone)]
pub struct Drawing {
    pub(super) size: (u32, u32),
    draw: Arc<Draw>,
}

impl Drawing {
    pub(super) fn new(
        size: (u32, u32),
        draw: impl Fn(&Area<'_>) -> std::result::Result<(), Box<dyn std::error::Error>> + Send + Sync + 'static,
    ) -> Drawing {
        Drawing { size, draw: Arc::new(draw) }
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> Result<()> {
        (self.draw)(area).map_err(drawn)
    }

    pub(super) fn title(&self) -> &str {
        "drawing"
    }
}

impl Debug for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Drawing").field("size", &self.size).finish_non_exhaustive()
    }
}
