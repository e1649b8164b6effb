//! What samples look like.

use plotters::prelude::{Rectangle, WHITE};
use plotters::style::{Color, RGBColor};
use tch::{Device, Kind};

use super::Dataset;
use crate::chart::{INK, TEXT, drawn, fitted, font, png};
use crate::error::{Error, Result};
use crate::notebook::{Bundle, Show};

/// Pictures that are shown, and how many a row.
const SHOWN: i64 = 24;
const ACROSS: usize = 8;
/// Pixels of a picture with its label, and along a side of the picture in it.
const CELL: (u32, u32) = (95, 116);
const SIDE: u32 = 84;

/// The first samples of a data set as pictures with their labels; made by [`Dataset::pictures`].
#[derive(Clone, Debug)]
pub struct Pictures {
    labels: Vec<String>,
    /// Colours of each picture, row by row.
    pixels: Vec<Vec<RGBColor>>,
    /// Height and width in pixels of the data.
    size: (usize, usize),
}

impl Dataset {
    /// The first 24 samples as pictures, their values from the lowest (black) to the highest (white). Others by
    /// `data.sample(24, seed)?.pictures()?`.
    ///
    /// # Errors
    /// Samples that are no images of one or three channels.
    pub fn pictures(&self) -> Result<Pictures> {
        let first = self.images().f_narrow(0, 0, SHOWN.min(self.len() as i64))?;
        let (channels, height, width) = match first.size()[..] {
            [_, height, width] => (1, height, width),
            [_, channels @ (1 | 3), height, width] => (channels, height, width),
            _ => {
                return Err(Error::ShapeMismatch {
                    tensor: format!("one sample of `{}`", self.name()),
                    expected: vec![3, 32, 32],
                    found: first.size()[1..].to_vec(),
                    hint: "pictures have one or three channels, a height and a width",
                });
            }
        };
        let values = first.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
        let (low, high) = (values.f_min()?, values.f_max()?);
        let range = high.f_sub(&low)?.f_clamp_min(f64::MIN_POSITIVE)?;
        let bytes = values.f_sub(&low)?.f_div(&range)?.f_mul_scalar(255.0)?.f_to_kind(Kind::Uint8)?;
        // [n, height, width, 3]
        let bytes = bytes
            .f_view([-1, channels, height, width])?
            .f_expand([-1, 3, height, width], false)?
            .f_permute([0, 2, 3, 1])?;
        let pixels = (0..bytes.size()[0]).map(|index| {
            let bytes = Vec::<u8>::try_from(&bytes.f_select(0, index)?.f_contiguous()?.f_view([-1])?)?;
            Ok(bytes.chunks_exact(3).map(|color| RGBColor(color[0], color[1], color[2])).collect())
        });
        let labels = Vec::<i64>::try_from(&self.labels().f_narrow(0, 0, first.size()[0])?)?;
        let name = |label: i64| self.class_names().get(label as usize).cloned().unwrap_or_else(|| label.to_string());
        Ok(Pictures {
            labels: labels.into_iter().map(name).collect(),
            pixels: pixels.collect::<Result<_>>()?,
            size: (height as usize, width as usize),
        })
    }
}

impl Pictures {
    /// The pictures as a PNG file's bytes.
    ///
    /// # Errors
    /// The picture cannot be written.
    pub fn png(&self) -> Result<Vec<u8>> {
        let rows = self.labels.len().div_ceil(ACROSS) as u32;
        png((CELL.0 * ACROSS as u32, CELL.1 * rows), |root| {
            root.fill(&WHITE).map_err(drawn)?;
            let (height, width) = self.size;
            let place = |index: usize, count: usize| (index * SIDE as usize / count) as i32;
            for (index, (label, pixels)) in self.labels.iter().zip(&self.pixels).enumerate() {
                let (left, top) =
                    ((index % ACROSS) as i32 * CELL.0 as i32 + 5, (index / ACROSS) as i32 * CELL.1 as i32 + 5);
                for (at, color) in pixels.iter().enumerate() {
                    let (row, column) = (at / width, at % width);
                    let corners = [
                        (left + place(column, width), top + place(row, height)),
                        (left + place(column + 1, width), top + place(row + 1, height)),
                    ];
                    root.draw(&Rectangle::new(corners, color.filled())).map_err(drawn)?;
                }
                let text = fitted(label, TEXT, SIDE as i32);
                root.draw_text(&text, &font(TEXT).color(&INK), (left, top + SIDE as i32 + 6)).map_err(drawn)?;
            }
            Ok(())
        })
    }
}

impl Show for Pictures {
    fn look(&self) -> Bundle {
        match self.png() {
            Ok(png) => Bundle::picture(&png, &format!("[pictures of {}]", self.labels.join(", "))),
            Err(error) => Bundle::text(format_args!("no pictures: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::NotebookDisplay;
    use tch::Tensor;

    fn data(shape: &[i64]) -> Dataset {
        let images = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).view(shape);
        let labels = Tensor::arange(shape[0], (Kind::Int64, Device::Cpu)).remainder(3);
        Dataset::new("some", images, labels, 3).unwrap()
    }

    #[test]
    fn pictures_show_the_lowest_value_black_and_the_highest_white() {
        let pictures = data(&[30, 1, 4, 5]).pictures().unwrap();
        assert_eq!((pictures.pixels.len(), pictures.labels.len(), pictures.size), (24, 24, (4, 5)));
        assert_eq!(pictures.pixels[0][0], RGBColor(0, 0, 0));
        assert_eq!(pictures.pixels[23][19], RGBColor(255, 255, 255));
        assert!(pictures.png().unwrap().starts_with(b"\x89PNG"));
        assert!(pictures.bundle().get("text/plain").unwrap().starts_with("[pictures of 0, 1, 2, 0"));
    }

    #[test]
    fn channels_are_colours() {
        let images = Tensor::from_slice(&[1.0f32, 0.0, 0.5]).view([1, 3, 1, 1]);
        let data = Dataset::new("one", images, Tensor::from_slice(&[0i64]), 1).unwrap();
        assert_eq!(data.pictures().unwrap().pixels, [[RGBColor(255, 0, 127)]]);
    }

    #[test]
    fn what_is_no_picture_is_refused_by_its_shape() {
        for shape in [&[2i64, 7][..], &[2, 2, 3, 3]] {
            assert!(matches!(data(shape).pictures(), Err(Error::ShapeMismatch { .. })));
        }
        assert!(data(&[2, 3, 3]).pictures().is_ok());
    }
}
