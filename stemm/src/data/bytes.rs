//! Labelled images of one byte a value, as files have them: a quarter of a data set's memory, and so what is split and moved.

use tch::{Device, Kind, Tensor};

use super::{Dataset, Splits};
use crate::error::Result;

/// What becomes a [`Dataset`], with values scaled to [0, 1].
pub(super) struct Bytes {
    name: String,
    pixels: Tensor, // [n, channels, height, width], u8
    labels: Tensor, // [n], i64
    classes: i64,
}

impl Bytes {
    /// Images `shape: [channels, height, width]` with their labels, on the device.
    pub(super) fn new(
        name: impl Into<String>,
        pixels: &[u8],
        shape: [i64; 3],
        labels: &[i64],
        classes: i64,
        device: Device,
    ) -> Result<Bytes> {
        let [channels, height, width] = shape;
        let n = pixels.len() as i64 / (channels * height * width);
        let pixels = Tensor::f_from_data_size(pixels, &[n, channels, height, width], Kind::Uint8)?;
        let labels = Tensor::f_from_slice(labels)?.f_to_device(device)?;
        Ok(Bytes { name: name.into(), pixels: pixels.f_to_device(device)?, labels, classes })
    }

    /// The data set; bytes are finite numbers, so that nobody has to look.
    pub(super) fn dataset(self) -> Result<Dataset> {
        let images = self.pixels.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?;
        Dataset::of_finite(self.name, images, self.labels, self.classes)
    }

    fn pick(&self, name: String, places: &[i64]) -> Result<Bytes> {
        let places = Tensor::f_from_slice(places)?.f_to_device(self.pixels.device())?;
        let pixels = self.pixels.f_index_select(0, &places)?;
        Ok(Bytes { name, pixels, labels: self.labels.f_index_select(0, &places)?, classes: self.classes })
    }
}

impl Splits {
    /// As [`Splits::new`], of bytes.
    pub(super) fn of_bytes(train: Bytes, held_out: usize, seed: u64, test: Bytes) -> Result<Splits> {
        let (rest, held) = super::split_places(train.labels.size()[0] as usize, held_out, seed)?;
        let held = train.pick(super::held_out_name(&train.name), &held)?.dataset()?;
        let train = train.pick(train.name.clone(), &rest)?.dataset()?;
        let splits = Splits { train, held_out: held, test: test.dataset()? };
        splits.check()?;
        Ok(splits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_split_as_the_data_set_of_them_is() -> Result<()> {
        let pixels: Vec<u8> = (0..=255).chain(0..=143).collect(); // 100 images of 2 x 2
        let labels: Vec<i64> = (0..100).map(|image| image % 7).collect();
        let bytes = |count| Bytes::new("small", &pixels[..4 * count], [1, 2, 2], &labels[..count], 7, Device::Cpu);
        let ours = Splits::of_bytes(bytes(100)?, 30, 5, bytes(10)?)?;
        let theirs = Splits::new(&bytes(100)?.dataset()?, 30, 5, bytes(10)?.dataset()?)?;
        for ((_, ours), (_, theirs)) in ours.named_parts().into_iter().zip(theirs.named_parts()) {
            assert_eq!((ours.name(), ours.len()), (theirs.name(), theirs.len()));
            assert!(ours.images() == theirs.images() && ours.labels() == theirs.labels());
        }
        let first = Vec::<f32>::try_from(ours.test.images().f_get(0)?.f_view([-1])?)?;
        assert_eq!(first, [0.0, 1.0 / 255.0, 2.0 / 255.0, 3.0 / 255.0]);
        Ok(())
    }
}
