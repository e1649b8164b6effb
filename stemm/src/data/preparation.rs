//! What happens to a batch before a network sees it, on the device of the data: augmentation, then normalisation.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::Dataset;
use crate::error::{Error, Result};

/// Random changes of training images `[n, channels, height, width]`; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Mirrors half of the images, left to right.
    pub flip: bool,
    /// Adds so many black pixels on each side and cuts out the original size at a random place.
    pub crop_padding: usize,
}

impl Augmentation {
    /// The paper's for CIFAR-10: random flip, and random crop with a padding of 4.
    pub const CIFAR: Augmentation = Augmentation { flip: true, crop_padding: 4 };

    /// How each of `n` images is seen in an epoch, or `None` if nothing is to be done: `[n, 3]` on the device, a row an image,
    /// with the first row and column that are cut out, and 1 where it is mirrored.
    pub(super) fn draw(self, n: usize, rng: &mut ChaCha8Rng, device: Device) -> Result<Option<Tensor>> {
        if self == Augmentation::default() {
            return Ok(None);
        }
        let places = 2 * self.crop_padding as i64;
        let mut views: Vec<i64> = Vec::with_capacity(3 * n);
        for _ in 0..n {
            views.extend([rng.random_range(0..=places), rng.random_range(0..=places)]);
            views.push(i64::from(self.flip && rng.random()));
        }
        Ok(Some(Tensor::f_from_slice(&views)?.f_view([n as i64, 3])?.f_to_device(device)?))
    }

    /// The images as seen, `views` with a row for each: one gather on the device for all of them.
    pub(super) fn apply(self, images: &Tensor, views: &Tensor) -> Result<Tensor> {
        let size = images.size();
        let &[n, channels, height, width] = size.as_slice() else { return Ok(images.shallow_clone()) };
        let padding = self.crop_padding as i64;
        let padded = images.f_constant_pad_nd([padding; 4])?;
        let row = width + 2 * padding;
        let device = images.device();
        let column = |index: i64| Ok::<_, Error>(views.f_select(1, index)?.f_view([n, 1, 1])?);
        let (down, right, flipped) = (column(0)?, column(1)?, column(2)?);
        // A mirrored image is read from its last column backwards.
        let first = right.f_add(&flipped.f_mul_scalar(width - 1)?)?;
        let step = flipped.f_mul_scalar(-2)?.f_add_scalar(1)?;
        let positions =
            |count, shape: [i64; 3]| Tensor::f_arange(count, (Kind::Int64, device)).and_then(|t| t.f_view(shape));
        let rows = down.f_add(&positions(height, [1, height, 1])?)?.f_mul_scalar(row)?;
        let columns = first.f_add(&step.f_mul(&positions(width, [1, 1, width])?)?)?;
        let index =
            rows.f_add(&columns)?.f_view([n, 1, height * width])?.f_expand([n, channels, height * width], false)?;
        Ok(padded.f_reshape([n, channels, -1])?.f_gather(2, &index, false)?.f_view(size.as_slice())?)
    }
}

/// Pixels along a side, or added to it, at most.
const LARGEST_SIDE: usize = 1 << 14;

/// `(x - mean) / std` for each channel.
#[derive(Debug)]
pub(super) struct Normalisation {
    mean: Tensor, // [channels, 1, 1]
    std: Tensor,
}

impl Clone for Normalisation {
    fn clone(&self) -> Self {
        Normalisation { mean: self.mean.shallow_clone(), std: self.std.shallow_clone() }
    }
}

impl Normalisation {
    pub(super) fn to_device(&self, device: Device) -> Result<Normalisation> {
        Ok(Normalisation { mean: self.mean.f_to_device(device)?, std: self.std.f_to_device(device)? })
    }

    pub(super) fn apply(&self, images: &Tensor) -> Result<Tensor> {
        Ok(images.f_sub(&self.mean)?.f_div_(&self.std)?)
    }
}

impl Dataset {
    /// Name and preparation, to tell whether a checkpoint was trained on the same.
    pub(crate) fn description(&self) -> String {
        let normalisation = self.normalised_by();
        let shape = &self.images.size()[1..];
        format!("{} {shape:?}, {:?}, normalised by {normalisation:?}", self.name, self.augmentation)
    }

    /// Mean and standard deviation of each channel, if there is a normalisation.
    pub(crate) fn normalised_by(&self) -> Option<(Vec<f32>, Vec<f32>)> {
        let values = |tensor: &Tensor| Vec::<f32>::try_from(tensor.view([-1])).unwrap_or_default();
        self.normalisation.as_ref().map(|own| (values(&own.mean), values(&own.std)))
    }

    fn channels(&self) -> Result<i64> {
        let size = self.images.size();
        if size.len() == 4 {
            return Ok(size[1]);
        }
        let hint = "only images with channels, height and width can be prepared so";
        Err(Error::ShapeMismatch {
            tensor: format!("images of `{}`", self.name),
            expected: vec![-1, -1, -1, -1],
            found: size,
            hint,
        })
    }

    /// The same data, seen by networks as `(x - mean) / std`, with one mean and standard deviation a channel.
    ///
    /// # Errors
    /// Another number of values than channels; a standard deviation that is not positive.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let images = Tensor::rand([4, 3, 8, 8], (Kind::Float, Device::Cpu));
    /// let data = Dataset::new("noise", images, Tensor::from_slice(&[0i64, 1, 1, 0]), 2)?;
    /// let data = data.normalised(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225])?;
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn normalised(&self, mean: &[f64], std: &[f64]) -> Result<Dataset> {
        let channels = self.channels()?;
        let fits = |values: &[f64]| values.len() as i64 == channels && values.iter().all(|value| value.is_finite());
        if !fits(mean) || !fits(std) || std.iter().any(|&value| value <= 0.0) {
            let requirement = "one finite mean and one positive standard deviation for each channel";
            let value = format!("{mean:?} and {std:?} for {channels} channels");
            return Err(Error::Setting { setting: "normalisation", value, requirement });
        }
        let tensor = |values: &[f64]| -> Result<Tensor> {
            let values = Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?;
            Ok(values.f_view([channels, 1, 1])?.f_to_device(self.device())?)
        };
        let normalisation = Normalisation { mean: tensor(mean)?, std: tensor(std)? };
        // The largest and the smallest pixel of each channel: between them nothing overflows either.
        let ends = [self.images.f_amax([0, 2, 3], true)?, self.images.f_amin([0, 2, 3], true)?];
        for end in ends {
            if !super::all_finite(&normalisation.apply(&end)?)? {
                let requirement = "such that no pixel overflows";
                let value = format!("{mean:?} and {std:?}");
                return Err(Error::Setting { setting: "normalisation", value, requirement });
            }
        }
        Ok(Dataset { normalisation: Some(normalisation), ..self.clone() })
    }

    /// The same data, augmented anew in each epoch of a training and of STE-MM; never where a loss is reported.
    ///
    /// # Errors
    /// Samples that are not images with channels, height and width.
    pub fn augmented(&self, augmentation: Augmentation) -> Result<Dataset> {
        self.channels()?;
        if augmentation.crop_padding > LARGEST_SIDE {
            let value = augmentation.crop_padding.to_string();
            return Err(Error::Setting { setting: "crop_padding", value, requirement: "at most 16384 pixels" });
        }
        Ok(Dataset { augmentation, ..self.clone() })
    }

    /// The images with black margins, all sides alike, and their one channel repeated, so that they have `shape:
    /// [channels, height, width]`: a set of 28 x 28 feeds a network for 3 x 32 x 32. Takes no memory for the channels.
    ///
    /// # Errors
    /// A shape that is smaller than the images, or that needs several channels turned into another number of them.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let images = Tensor::rand([4, 1, 28, 28], (Kind::Float, Device::Cpu));
    /// let data = Dataset::new("noise", images, Tensor::from_slice(&[0i64, 1, 1, 0]), 2)?;
    /// assert_eq!(data.fit_to(&[3, 32, 32])?.images().size(), [4, 3, 32, 32]);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn fit_to(&self, shape: &[i64]) -> Result<Dataset> {
        let channels = self.channels()?;
        let size = self.images.size();
        let hint = "margins can be added and one channel repeated, but images are not cut";
        let unfit = || Error::ShapeMismatch {
            tensor: format!("one image of `{}`", self.name),
            expected: shape.to_vec(),
            found: size[1..].to_vec(),
            hint,
        };
        let &[wanted, height, width] = shape else { return Err(unfit()) };
        if shape.iter().any(|side| !(1..=LARGEST_SIDE as i64).contains(side)) {
            return Err(unfit());
        }
        let (rows, columns) = (height - size[2], width - size[3]);
        if rows < 0 || columns < 0 || (channels != wanted && (channels != 1 || self.normalisation.is_some())) {
            return Err(unfit());
        }
        let (top, left) = (rows / 2, columns / 2);
        let padded = self.images.f_constant_pad_nd([left, columns - left, top, rows - top])?;
        let images = padded.f_expand([size[0], wanted, height, width], false)?;
        Ok(Dataset { images, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Order;

    fn images(n: i64) -> Dataset {
        let pixels = Tensor::arange(n * 2 * 9, (Kind::Float, Device::Cpu)).view([n, 2, 3, 3]) + 1.0;
        Dataset::new("numbered", pixels, Tensor::zeros([n], (Kind::Int64, Device::Cpu)), 1).unwrap()
    }

    /// Oracle: pads, cuts and mirrors one image by slices.
    fn seen(image: &Tensor, padding: i64, view: &[i64]) -> Tensor {
        let cut = image.constant_pad_nd([padding; 4]).narrow(1, view[0], 3).narrow(2, view[1], 3);
        if view[2] == 1 { cut.flip([2]) } else { cut }
    }

    #[test]
    fn augmentation_cuts_and_mirrors_each_image_on_its_own() -> Result<()> {
        let data = images(40);
        let augmentation = Augmentation { flip: true, crop_padding: 2 };
        let mut rng = crate::rng::rng(0, crate::rng::Purpose::Augmentation(0));
        let drawn = augmentation.draw(40, &mut rng, Device::Cpu)?.unwrap();
        let views: Vec<Vec<i64>> = Vec::try_from(&drawn)?;
        let found = augmentation.apply(data.images(), &drawn)?;
        for (index, view) in views.iter().enumerate() {
            assert_eq!(found.get(index as i64), seen(&data.images().get(index as i64), 2, view), "image {index}");
        }
        let flipped = views.iter().filter(|view| view[2] == 1).count();
        assert!((8..32).contains(&flipped), "{flipped} of 40");
        assert!(views.iter().any(|view| view[0] == 0) && views.iter().any(|view| view[0] == 4));
        Ok(())
    }

    #[test]
    fn only_training_batches_are_augmented_and_the_seed_repeats_them() -> Result<()> {
        let data = images(6).augmented(Augmentation::CIFAR)?;
        let first = |order| -> Result<Tensor> { Ok(data.batches(6, order)?.next().unwrap()?.0) };
        assert_eq!(first(Order::Sequential)?, *data.images());
        let shuffled = |seed, epoch| first(Order::Shuffled { seed, epoch });
        assert_eq!(shuffled(1, 0)?, shuffled(1, 0)?);
        assert_ne!(shuffled(1, 0)?, shuffled(1, 1)?);
        Ok(())
    }

    #[test]
    fn normalised_batches_have_the_stated_means() -> Result<()> {
        let data = images(5).normalised(&[1.0, 2.0], &[2.0, 4.0])?;
        let (x, _) = data.batches(5, Order::Sequential)?.next().unwrap()?;
        let expected = (data.images().narrow(1, 1, 1) - 2.0) / 4.0;
        assert_eq!(x.narrow(1, 1, 1), expected);
        assert!(images(5).normalised(&[0.0], &[1.0]).is_err());
        assert!(images(5).normalised(&[0.0, 0.0], &[1.0, 0.0]).is_err());
        Ok(())
    }

    #[test]
    fn small_grey_images_fit_a_network_for_large_coloured_ones() -> Result<()> {
        let grey = Tensor::ones([2, 1, 3, 3], (Kind::Float, Device::Cpu));
        let data = Dataset::new("grey", grey, Tensor::from_slice(&[0i64, 0]), 1)?;
        let fitted = data.fit_to(&[3, 6, 5])?;
        assert_eq!(fitted.images().size(), [2, 3, 6, 5]);
        assert_eq!(fitted.images().sum(Kind::Float).double_value(&[]), 2.0 * 3.0 * 9.0);
        assert!(matches!(data.fit_to(&[3, 2, 5]), Err(Error::ShapeMismatch { .. })));
        assert!(matches!(images(2).fit_to(&[3, 3, 3]), Err(Error::ShapeMismatch { .. })));
        let flat = crate::data::blobs(0, Device::Cpu)?.train.fit_to(&[3, 3, 3]).unwrap_err().to_string();
        assert!(flat.contains("expected [any, any, any, any]"), "{flat}");
        Ok(())
    }
}
