//! Data sets as tensors: images, labels and the one way to walk through them in batches.

mod batches;
mod built_in;
mod bytes;
mod cifar;
mod digest;
mod idx;
mod image_folder;
mod mnist;
mod pictures;
mod preparation;
mod splits;

pub(crate) use batches::Order;
pub use built_in::blobs;
pub use cifar::{cifar10, cifar100, read_cifar};
pub use idx::{IdxArray, read_idx};
pub use image_folder::{image_folder, image_folder_of};
pub use mnist::{fashion_mnist, mnist};
pub use pictures::Pictures;
pub use preparation::Augmentation;
use preparation::Normalisation;
pub use splits::{Part, Splits};

use std::collections::HashSet;
use std::sync::Arc;

use rand::seq::SliceRandom;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::notebook::{Bundle, Show};
use crate::rng::{Purpose, rng};

/// Labelled samples on one device, and how a batch of them is prepared: augmented (for training only), then normalised.
#[derive(Debug)]
pub struct Dataset {
    name: String,
    images: Tensor, // [n, ...], f32
    labels: Tensor, // [n], i64
    classes: i64,
    class_names: Arc<[String]>, // none, if only their number is known
    skipped_files: usize,
    normalisation: Option<Normalisation>,
    augmentation: Augmentation,
}

impl Clone for Dataset {
    /// Shares the tensors: nothing in the crate writes to them.
    fn clone(&self) -> Self {
        self.with(self.name.clone(), self.images.shallow_clone(), self.labels.shallow_clone())
    }
}

impl Dataset {
    /// Makes a data set of images `[n, ...]` and labels `[n]` in `0..classes`; labels are whole numbers of any kind, pixels
    /// are taken as they are (the readers of this module scale theirs to [0, 1]).
    ///
    /// # Errors
    /// Different numbers of images and labels, no samples, a label that is no whole number or outside `0..classes`, NaN
    /// or infinite pixels.
    ///
    /// ```
    /// use tch::{Kind, Tensor, Device};
    /// let images = Tensor::zeros([4, 1, 2, 2], (Kind::Float, Device::Cpu));
    /// let data = stemm::data::Dataset::new("dark", images, Tensor::from_slice(&[0i64, 1, 1, 0]), 2)?;
    /// assert_eq!(data.len(), 4);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn new(name: impl Into<String>, images: Tensor, labels: Tensor, classes: i64) -> Result<Dataset> {
        let data = Dataset::of_finite(name.into(), images, labels, classes)?;
        if !all_finite(&data.images)? {
            let hint = "find the samples by `images.isfinite()`, and correct them or leave them out";
            return Err(Error::NonFinite { tensor: format!("images of `{}`", data.name), hint });
        }
        Ok(data)
    }

    /// Of images whose values are finite, by where they come from.
    fn of_finite(name: String, images: Tensor, labels: Tensor, classes: i64) -> Result<Dataset> {
        let size = images.size();
        let n = size.first().copied().unwrap_or(0);
        if n == 0 {
            return Err(Error::Empty { what: format!("data set `{name}`") });
        }
        if size.len() < 2 || images.numel() == 0 {
            return Err(Error::ShapeMismatch {
                tensor: format!("images of `{name}`"),
                expected: vec![n, -1],
                found: size,
                hint: "a sample has at least one axis, and at least one value",
            });
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
        let given = Vec::<f64>::try_from(labels.f_to_kind(Kind::Double)?)?;
        let labels = labels.f_to_kind(Kind::Int64)?.f_to_device(images.device())?.f_detach_copy()?; // they stay as checked
        let values = Vec::<i64>::try_from(&labels)?;
        if let Some(index) = (0..values.len()).find(|&index| values[index] as f64 != given[index]) {
            return Err(Error::FractionalLabel { data: format!("`{name}`"), index, label: given[index] });
        }
        if let Some(index) = values.iter().position(|label| !(0..classes).contains(label)) {
            return Err(Error::LabelOutOfRange { data: format!("`{name}`"), index, label: values[index], classes });
        }
        Ok(Dataset {
            name,
            images,
            labels,
            classes,
            class_names: Arc::new([]),
            skipped_files: 0,
            normalisation: None,
            augmentation: Augmentation::default(),
        })
    }

    /// Other samples of the same kind.
    fn with(&self, name: String, images: Tensor, labels: Tensor) -> Dataset {
        Dataset {
            name,
            images,
            labels,
            classes: self.classes,
            class_names: self.class_names.clone(),
            skipped_files: self.skipped_files,
            normalisation: self.normalisation.clone(),
            augmentation: self.augmentation,
        }
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

    /// Names of the classes, by label; empty if only their number is known.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Files of an image folder that were passed over because they are no images.
    pub fn skipped_files(&self) -> usize {
        self.skipped_files
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

    /// The first `n` samples, or all if there are fewer; [`Dataset::sample`] takes them from everywhere, as data that are
    /// sorted by class need it.
    ///
    /// # Errors
    /// No samples.
    pub fn take(&self, n: usize) -> Result<Dataset> {
        self.nonempty(n)?;
        let n = n.min(self.len()) as i64;
        Ok(self.with(self.name.clone(), self.images.f_narrow(0, 0, n)?, self.labels.f_narrow(0, 0, n)?))
    }

    /// `n` samples drawn at random by the seed, each at most once, or all in their order if there are no more.
    ///
    /// # Errors
    /// No samples.
    ///
    /// ```
    /// let data = stemm::data::blobs(0, tch::Device::Cpu)?.train;
    /// assert_eq!(data.sample(100, 0)?.len(), 100);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn sample(&self, n: usize, seed: u64) -> Result<Dataset> {
        self.nonempty(n)?;
        if n >= self.len() {
            return Ok(self.clone());
        }
        let mut order: Vec<i64> = (0..self.len() as i64).collect();
        let (chosen, _) = order.partial_shuffle(&mut rng(seed, Purpose::Sample), n);
        self.pick(chosen, self.name.clone())
    }

    fn nonempty(&self, n: usize) -> Result<()> {
        if n == 0 { Err(Error::Empty { what: format!("a part of 0 samples of `{}`", self.name) }) } else { Ok(()) }
    }

    /// The samples at some places.
    fn pick(&self, places: &[i64], name: String) -> Result<Dataset> {
        let index = Tensor::f_from_slice(places)?.f_to_device(self.device())?;
        Ok(self.with(name, self.images.f_index_select(0, &index)?, self.labels.f_index_select(0, &index)?))
    }

    /// Splits off `held_out` samples chosen by the seed: `(the rest, the held-out)`.
    ///
    /// # Errors
    /// `held_out` is 0 or leaves nothing.
    pub fn split(&self, held_out: usize, seed: u64) -> Result<(Dataset, Dataset)> {
        let (rest, held) = split_places(self.len(), held_out, seed)?;
        Ok((self.pick(&rest, self.name.clone())?, self.pick(&held, held_out_name(&self.name))?))
    }

    /// One row: name, samples, classes, shape of a sample.
    pub fn frame(&self) -> polars::prelude::DataFrame {
        splits::table(&[("all", self)])
    }

    /// The named classes of which there are no samples.
    fn absent_classes(&self) -> Result<Vec<&str>> {
        let present: HashSet<i64> = Vec::<i64>::try_from(&self.labels)?.into_iter().collect();
        let absent = (0i64..).zip(self.class_names.iter()).filter(|(label, _)| !present.contains(label));
        Ok(absent.map(|(_, name)| name.as_str()).collect())
    }

    /// Names of the classes, those without samples, and files that were passed over.
    fn remark(&self) -> String {
        let mut remark = match self.class_names.len() {
            0 => String::new(),
            named => {
                let more = if named > SHOWN_CLASSES { ", ..." } else { "" };
                format!("classes {}{more}", self.class_names[..named.min(SHOWN_CLASSES)].join(", "))
            }
        };
        let absent = self.absent_classes().unwrap_or_default();
        if !absent.is_empty() {
            remark += &format!("; no samples of {}", absent.join(", "));
        }
        if self.skipped_files > 0 {
            remark += &format!("; {} files that are no images were passed over", self.skipped_files);
        }
        remark
    }
}

impl Show for Dataset {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &self.remark())
    }
}

/// The places of the samples that stay and of those that are held out.
fn split_places(samples: usize, held_out: usize, seed: u64) -> Result<(Vec<i64>, Vec<i64>)> {
    if held_out == 0 || held_out >= samples {
        return Err(Error::Setting {
            setting: "held_out",
            value: held_out.to_string(),
            requirement: "at least 1 and less than the number of samples",
        });
    }
    let mut order: Vec<i64> = (0..samples as i64).collect();
    order.shuffle(&mut rng(seed, Purpose::Split));
    let rest = order.split_off(held_out);
    Ok((rest, order))
}

fn held_out_name(name: &str) -> String {
    format!("{name} (held out)")
}

/// Names of classes that a table's remark has room for.
const SHOWN_CLASSES: usize = 20;

pub(crate) fn all_finite(tensor: &Tensor) -> Result<bool> {
    // A sum is finite only if every value is; unlike isfinite() it needs no second tensor of the same size.
    Ok(tensor.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_out_of_range_are_named() {
        let images = Tensor::zeros([3, 1], (Kind::Float, Device::Cpu));
        let error = Dataset::new("bad", images, Tensor::from_slice(&[0i64, 1, 7]), 2).unwrap_err();
        assert!(matches!(error, Error::LabelOutOfRange { index: 2, label: 7, classes: 2, .. }));
    }

    #[test]
    fn infinite_pixels_are_refused() {
        let images = Tensor::from_slice(&[1f32, f32::INFINITY]).view([2, 1]);
        let error = Dataset::new("bad", images, Tensor::from_slice(&[0i64, 1]), 2).unwrap_err();
        assert!(matches!(error, Error::NonFinite { .. }));
    }
}
