//! Data sets as tensors: images, labels and the one way to walk through them in batches.

mod built_in;
mod cifar;
mod idx;
mod image_folder;
mod mnist;
mod preparation;

pub use built_in::blobs;
pub use cifar::{cifar10, cifar100, read_cifar};
pub use idx::{IdxArray, read_idx};
pub use image_folder::image_folder;
pub use mnist::{fashion_mnist, mnist};
pub use preparation::Augmentation;
use preparation::Normalisation;

use rand::seq::SliceRandom;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::rng::{Purpose, rng};

/// Labelled samples on one device, and how a batch of them is prepared: augmented (for training only), then normalised.
#[derive(Debug)]
pub struct Dataset {
    name: String,
    images: Tensor, // [n, ...], f32
    labels: Tensor, // [n], i64
    classes: i64,
    normalisation: Option<Normalisation>,
    augmentation: Augmentation,
}

impl Clone for Dataset {
    /// Shares the tensors: nothing in the crate writes to them.
    fn clone(&self) -> Self {
        self.with(self.name.clone(), self.images.shallow_clone(), self.labels.shallow_clone())
    }
}

/// The order in which batches visit the samples; only shuffled ones, which are for training, are augmented.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Sequential,
    /// A new permutation for each seed and epoch.
    Shuffled {
        seed: u64,
        epoch: usize,
    },
}

impl Dataset {
    /// Makes a data set of images `[n, ...]` and labels `[n]` in `0..classes`.
    ///
    /// # Errors
    /// Different numbers of images and labels, no samples, a label outside `0..classes`, NaN or infinite pixels.
    ///
    /// ```
    /// use tch::{Kind, Tensor, Device};
    /// let images = Tensor::zeros([4, 1, 2, 2], (Kind::Float, Device::Cpu));
    /// let data = stemm::data::Dataset::new("dark", images, Tensor::from_slice(&[0i64, 1, 1, 0]), 2)?;
    /// assert_eq!(data.len(), 4);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn new(name: impl Into<String>, images: Tensor, labels: Tensor, classes: i64) -> Result<Dataset> {
        let name = name.into();
        let n = images.size().first().copied().unwrap_or(0);
        if n == 0 {
            return Err(Error::Empty { what: format!("data set `{name}`") });
        }
        if labels.size() != [n] {
            return Err(Error::ShapeMismatch {
                tensor: format!("labels of `{name}`"),
                expected: vec![n],
                found: labels.size(),
                hint: "give one label for each image",
            });
        }
        let images = images.f_to_kind(Kind::Float)?;
        let labels = labels.f_to_kind(Kind::Int64)?;
        if !all_finite(&images)? {
            return Err(Error::NonFinite { tensor: format!("images of `{name}`") });
        }
        let values = Vec::<i64>::try_from(&labels)?;
        if let Some(index) = values.iter().position(|label| !(0..classes).contains(label)) {
            return Err(Error::LabelOutOfRange { index, label: values[index], classes });
        }
        Ok(Dataset { name, images, labels, classes, normalisation: None, augmentation: Augmentation::default() })
    }

    /// A data set of images `shape: [channels, height, width]` given as one byte a pixel, scaled to [0, 1].
    fn from_bytes(
        name: impl Into<String>,
        pixels: &[u8],
        shape: [i64; 3],
        labels: &[i64],
        classes: i64,
        device: Device,
    ) -> Result<Dataset> {
        let [channels, height, width] = shape;
        let n = pixels.len() as i64 / (channels * height * width);
        let pixels = Tensor::f_from_data_size(pixels, &[n, channels, height, width], Kind::Uint8)?;
        // Moved as bytes: a quarter of what f32 would need.
        let pixels = pixels.f_to_device(device)?.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?;
        Dataset::new(name, pixels, Tensor::f_from_slice(labels)?.f_to_device(device)?, classes)
    }

    /// Other samples of the same kind.
    fn with(&self, name: String, images: Tensor, labels: Tensor) -> Dataset {
        let (classes, augmentation) = (self.classes, self.augmentation);
        Dataset { name, images, labels, classes, normalisation: self.normalisation.clone(), augmentation }
    }

    /// Name of the data set and the part, such as `Fashion-MNIST test`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.size()[0] as usize
    }

    /// Whether there are no samples (never true: [`Dataset::new`] refuses it).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of classes.
    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// Images `[n, ...]`, neither augmented nor normalised.
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// Labels `[n]`.
    pub fn labels(&self) -> &Tensor {
        &self.labels
    }

    /// Device of the tensors.
    pub fn device(&self) -> Device {
        self.images.device()
    }

    /// The same data on another device.
    pub fn to_device(&self, device: impl Into<Device>) -> Result<Dataset> {
        let device = device.into();
        let moved = self.with(self.name.clone(), self.images.f_to_device(device)?, self.labels.f_to_device(device)?);
        let normalisation = self.normalisation.as_ref().map(|own| own.to_device(device)).transpose()?;
        Ok(Dataset { normalisation, ..moved })
    }

    /// The first `n` samples, or all if there are fewer: for quick looks.
    pub fn take(&self, n: usize) -> Result<Dataset> {
        self.part(0, n.min(self.len()), self.name.clone())
    }

    /// Splits off `held_out` samples chosen by the seed: `(the rest, the held-out)`.
    ///
    /// # Errors
    /// `held_out` is 0 or leaves nothing.
    pub fn split(&self, held_out: usize, seed: u64) -> Result<(Dataset, Dataset)> {
        if held_out == 0 || held_out >= self.len() {
            return Err(Error::Setting {
                setting: "held_out",
                value: held_out.to_string(),
                requirement: "at least 1 and less than the number of samples",
            });
        }
        let mut order: Vec<i64> = (0..self.len() as i64).collect();
        order.shuffle(&mut rng(seed, Purpose::Split));
        let pick = |indices: &[i64], name: String| -> Result<Dataset> {
            let index = Tensor::from_slice(indices).f_to_device(self.device())?;
            let images = self.images.f_index_select(0, &index)?;
            let labels = self.labels.f_index_select(0, &index)?;
            Ok(self.with(name, images, labels))
        };
        let rest = pick(&order[held_out..], self.name.clone())?;
        let held = pick(&order[..held_out], format!("{} (held out)", self.name))?;
        Ok((rest, held))
    }

    fn part(&self, start: usize, len: usize, name: String) -> Result<Dataset> {
        let images = self.images.f_narrow(0, start as i64, len as i64)?;
        let labels = self.labels.f_narrow(0, start as i64, len as i64)?;
        Ok(self.with(name, images, labels))
    }

    /// Number of batches in one pass.
    pub(crate) fn batch_count(&self, batch_size: usize) -> usize {
        self.len().div_ceil(batch_size)
    }

    /// The only loop over samples in the crate: batches `(images, labels)`, the last one possibly smaller.
    pub(crate) fn batches(
        &self,
        batch_size: usize,
        order: Order,
    ) -> Result<impl Iterator<Item = Result<(Tensor, Tensor)>> + '_> {
        if batch_size == 0 {
            return Err(Error::Setting { setting: "batch_size", value: "0".into(), requirement: "at least 1" });
        }
        let n = self.len();
        let (index, views) = match order {
            Order::Sequential => (None, None),
            Order::Shuffled { seed, epoch } => {
                let mut order: Vec<i64> = (0..n as i64).collect();
                order.shuffle(&mut rng(seed, Purpose::Shuffle(epoch)));
                let views = self.augmentation.draw(n, &mut rng(seed, Purpose::Augmentation(epoch)));
                (Some(Tensor::from_slice(&order).f_to_device(self.device())?), views)
            }
        };
        Ok((0..n).step_by(batch_size).map(move |start| {
            let len = batch_size.min(n - start);
            let (from, count) = (start as i64, len as i64);
            let (mut images, labels) = match &index {
                None => (self.images.f_narrow(0, from, count)?, self.labels.f_narrow(0, from, count)?),
                Some(index) => {
                    let index = index.f_narrow(0, from, count)?;
                    (self.images.f_index_select(0, &index)?, self.labels.f_index_select(0, &index)?)
                }
            };
            if let Some(views) = &views {
                images = self.augmentation.apply(&images, &views[start..start + len])?;
            }
            if let Some(normalisation) = &self.normalisation {
                images = normalisation.apply(&images)?;
            }
            Ok((images, labels))
        }))
    }
}

pub(crate) fn all_finite(tensor: &Tensor) -> Result<bool> {
    // A sum is finite only if every value is; unlike isfinite() it needs no second tensor of the same size.
    Ok(tensor.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite())
}

/// What a study needs: data to train on, data held back from it to choose by, and data to report on.
#[derive(Clone, Debug)]
pub struct Splits {
    /// For training and for STE-MM's gradients.
    pub train: Dataset,
    /// Held back from the training set: early stopping and the choice of permutations.
    pub held_out: Dataset,
    /// For reporting only.
    pub test: Dataset,
}

/// One of the parts of a [`Splits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// The training data.
    Train,
    /// The data held back from it.
    HeldOut,
    /// The test data.
    #[default]
    Test,
}

impl Splits {
    /// One of the parts.
    pub fn part(&self, part: Part) -> &Dataset {
        match part {
            Part::Train => &self.train,
            Part::HeldOut => &self.held_out,
            Part::Test => &self.test,
        }
    }

    /// Splits off `held_out` samples of the training data, chosen by the seed.
    ///
    /// # Errors
    /// `held_out` is 0 or leaves nothing.
    pub fn new(train: &Dataset, held_out: usize, seed: u64, test: Dataset) -> Result<Splits> {
        let (train, held_out) = train.split(held_out, seed)?;
        Ok(Splits { train, held_out, test })
    }

    fn map(&self, f: impl Fn(&Dataset) -> Result<Dataset>) -> Result<Splits> {
        Ok(Splits { train: f(&self.train)?, held_out: f(&self.held_out)?, test: f(&self.test)? })
    }

    /// All parts fitted to an input shape ([`Dataset::fit_to`]).
    pub fn fit_to(&self, shape: &[i64]) -> Result<Splits> {
        self.map(|part| part.fit_to(shape))
    }

    /// All parts normalised alike ([`Dataset::normalised`]).
    pub fn normalised(&self, mean: &[f64], std: &[f64]) -> Result<Splits> {
        self.map(|part| part.normalised(mean, std))
    }

    /// The training part augmented, the others as they are.
    pub fn augmented(&self, augmentation: Augmentation) -> Result<Splits> {
        Ok(Splits { train: self.train.augmented(augmentation)?, ..self.clone() })
    }

    /// At most `train` training samples, and at most `rest` of each other part: for quick looks.
    pub fn take(&self, train: usize, rest: usize) -> Result<Splits> {
        let (held_out, test) = (self.held_out.take(rest)?, self.test.take(rest)?);
        Ok(Splits { train: self.train.take(train)?, held_out, test })
    }

    /// Shows name, size and shape of the parts in the notebook.
    pub fn evcxr_display(&self) {
        use crate::notebook::NotebookDisplay;
        self.frame().evcxr_display();
    }

    /// One row a part: name, samples, classes, shape of a sample.
    pub fn frame(&self) -> polars::prelude::DataFrame {
        let parts = [&self.train, &self.held_out, &self.test];
        crate::frame::frame([
            crate::frame::column("part", ["train", "held_out", "test"]),
            crate::frame::column("data_set", parts.map(|part| part.name.as_str())),
            crate::frame::column("samples", parts.map(|part| part.len() as u64)),
            crate::frame::column("classes", parts.map(|part| part.classes)),
            crate::frame::column("shape", parts.map(|part| format!("{:?}", &part.images.size()[1..]))),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_batches_visit_every_sample_once_and_differ_between_epochs() -> Result<()> {
        let images = Tensor::arange(10, (Kind::Float, Device::Cpu)).view([10, 1]);
        let data = Dataset::new("count", images, Tensor::zeros([10], (Kind::Int64, Device::Cpu)), 1)?;
        let visit = |epoch| -> Result<Vec<i64>> {
            let mut seen = Vec::new();
            for batch in data.batches(4, Order::Shuffled { seed: 3, epoch })? {
                seen.extend(Vec::<f32>::try_from(batch?.0.view([-1]))?.into_iter().map(|x| x as i64));
            }
            Ok(seen)
        };
        let (first, second) = (visit(0)?, visit(1)?);
        assert_ne!(first, second);
        assert_eq!(first, visit(0)?);
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn labels_out_of_range_are_named() {
        let images = Tensor::zeros([3, 1], (Kind::Float, Device::Cpu));
        let error = Dataset::new("bad", images, Tensor::from_slice(&[0i64, 1, 7]), 2).unwrap_err();
        assert!(matches!(error, Error::LabelOutOfRange { index: 2, label: 7, classes: 2 }));
    }

    #[test]
    fn infinite_pixels_are_refused() {
        let images = Tensor::from_slice(&[1f32, f32::INFINITY]).view([2, 1]);
        let error = Dataset::new("bad", images, Tensor::from_slice(&[0i64, 1]), 2).unwrap_err();
        assert!(matches!(error, Error::NonFinite { .. }));
    }
}
