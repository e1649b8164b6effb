//! Data by their names, as plans and experiments have them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Device;

use crate::data::{Augmentation, Splits, blobs, cifar10, cifar100, fashion_mnist, mnist};
use crate::error::Result;
use crate::network::Network;

/// A published data set. Its files are compared with their published digests when they are read, so that the name says which samples
/// these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataSet {
    /// The small built-in set, by its seed.
    Blobs(u64),
    /// MNIST.
    Mnist,
    /// Fashion-MNIST.
    FashionMnist,
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100 with its fine labels.
    Cifar100,
}

/// A data set as a network takes it: which samples, normalised and augmented how.
///
/// ```
/// use stemm::experiment::{DataSet, Published};
/// use stemm::prelude::*;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let data = Published { samples: Some([100, 50]), ..Published::from(DataSet::Blobs(0)) };
/// assert_eq!(data.load("data", Device::Cpu, &network)?.train.len(), 100);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Which data set.
    pub set: DataSet,
    /// Training samples, and samples of each other part, at most; all if there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<[usize; 2]>,
    /// Mean and standard deviation of each channel, if pixels are normalised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalisation: Option<[Vec<f64>; 2]>,
    /// Random changes of training images.
    #[serde(default)]
    pub augmentation: Augmentation,
}

impl From<DataSet> for Published {
    fn from(set: DataSet) -> Published {
        Published { set, samples: None, normalisation: None, augmentation: Augmentation::default() }
    }
}

impl Published {
    /// The data from `folder`, images fitted to the input of the network.
    ///
    /// # Errors
    /// Files that are missing or are not the published ones, images that do not fit.
    pub fn load(&self, folder: impl AsRef<Path>, device: impl Into<Device>, network: &Network) -> Result<Splits> {
        let (folder, device) = (folder.as_ref(), device.into());
        let mut data = match self.set {
            DataSet::Blobs(seed) => blobs(seed, device),
            DataSet::Mnist => mnist(folder, device),
            DataSet::FashionMnist => fashion_mnist(folder, device),
            DataSet::Cifar10 => cifar10(folder, device),
            DataSet::Cifar100 => cifar100(folder, device),
        }?;
        if let Some([train, rest]) = self.samples {
            data = data.take(train, rest)?;
        }
        if let [_, _, _] = network.input_shape() {
            data = data.fit_to(network.input_shape())?;
        }
        if let Some([mean, std]) = &self.normalisation {
            data = data.normalised(mean, std)?;
        }
        match self.augmentation == Augmentation::default() {
            true => Ok(data),
            false => data.augmented(self.augmentation),
        }
    }
}

/// Its name, with all in which it differs from the whole set as it is published.
impl std::fmt::Display for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", self.set)?;
        if let Some([train, rest]) = self.samples {
            write!(f, ", {train} + {rest}")?;
        }
        if let Some([mean, std]) = &self.normalisation {
            write!(f, ", normalised by {mean:?} {std:?}")?;
        }
        let Augmentation { flip, crop_padding } = self.augmentation;
        if flip {
            f.write_str(", flipped")?;
        }
        if crop_padding > 0 {
            write!(f, ", cropped by {crop_padding}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for DataSet {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            DataSet::Blobs(seed) => return write!(f, "blobs {seed}"),
            DataSet::Mnist => "MNIST",
            DataSet::FashionMnist => "Fashion-MNIST",
            DataSet::Cifar10 => "CIFAR-10",
            DataSet::Cifar100 => "CIFAR-100",
        })
    }
}
