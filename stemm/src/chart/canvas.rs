//! One backend for pictures in both formats, so that everything is drawn by one code, a user's own drawings too.

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, DrawingBackend};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind};

/// A part of a picture, as plotters draws on it.
pub type Area<'a> = DrawingArea<Canvas<'a>, Shift>;

/// A picture in vectors or in pixels.
pub enum Canvas<'a> {
    #[doc(hidden)]
    Svg(SVGBackend<'a>),
    #[doc(hidden)]
    Bitmap(BitMapBackend<'a>),
}

/// What went wrong while a picture was drawn.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CanvasError(String);

type Drawn<T = ()> = Result<T, DrawingErrorKind<CanvasError>>;

/// The two backends have errors of their own, of which only the text matters.
fn drawn<T, E: std::error::Error + Send + Sync + 'static>(result: Result<T, DrawingErrorKind<E>>) -> Drawn<T> {
    result.map_err(|error| match error {
        DrawingErrorKind::DrawingError(error) => DrawingErrorKind::DrawingError(CanvasError(error.to_string())),
        DrawingErrorKind::FontError(error) => DrawingErrorKind::FontError(error),
    })
}

/// The same call on either backend.
macro_rules! either {
    ($canvas:expr, $backend:ident => $call:expr) => {
        match $canvas {
            Canvas::Svg($backend) => drawn($call),
            Canvas::Bitmap($backend) => drawn($call),
        }
    };
}

impl DrawingBackend for Canvas<'_> {
    type ErrorType = CanvasError;

    fn get_size(&self) -> (u32, u32) {
        match self {
            Canvas::Svg(backend) => backend.get_size(),
            Canvas::Bitmap(backend) => backend.get_size(),
        }
    }

    fn ensure_prepared(&mut self) -> Drawn {
        either!(self, backend => backend.ensure_prepared())
    }

    fn present(&mut self) -> Drawn {
        either!(self, backend => backend.present())
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Drawn {
        either!(self, backend => backend.draw_pixel(point, color))
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        either!(self, backend => backend.draw_line(from, to, style))
    }

    fn draw_rect<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S, fill: bool) -> Drawn {
        either!(self, backend => backend.draw_rect(from, to, style, fill))
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        either!(self, backend => backend.draw_path(path, style))
    }

    fn draw_circle<S: BackendStyle>(&mut self, center: BackendCoord, radius: u32, style: &S, fill: bool) -> Drawn {
        either!(self, backend => backend.draw_circle(center, radius, style, fill))
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, corners: I, style: &S) -> Drawn {
        either!(self, backend => backend.fill_polygon(corners, style))
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, place: BackendCoord) -> Drawn {
        either!(self, backend => backend.draw_text(text, style, place))
    }

    fn estimate_text_size<T: BackendTextStyle>(&self, text: &str, style: &T) -> Drawn<(u32, u32)> {
        either!(self, backend => backend.estimate_text_size(text, style))
    }

    fn blit_bitmap(&mut self, place: BackendCoord, size: (u32, u32), pixels: &[u8]) -> Drawn {
        either!(self, backend => backend.blit_bitmap(place, size, pixels))
    }
}
