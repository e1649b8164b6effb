//! A small built-in set: noisy points around one centre a class, for tests, doc examples and first tries.

use rand::RngExt;
use tch::{Device, Tensor};

use super::{Dataset, Splits};
use crate::error::Result;
use crate::rng::{Purpose, rng};

const CLASSES: i64 = 4;
const FEATURES: usize = 16;
const NOISE: f32 = 1.0;

/// Four classes of points in 16 dimensions: 512 to train on, 128 held out, 256 to test on; learnt in a second.
///
/// ```
/// let data = stemm::data::blobs(0, tch::Device::Cpu)?;
/// assert_eq!(data.train.images().size(), [512, 16]);
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn blobs(seed: u64, device: impl Into<Device>) -> Result<Splits> {
    let device = device.into();
    let mut rng = rng(seed, Purpose::BuiltInData);
    let centres: Vec<f32> = (0..CLASSES as usize * FEATURES).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut part = |name: &str, n: usize| -> Result<Dataset> {
        let labels: Vec<i64> = (0..n as i64).map(|index| index % CLASSES).collect();
        let mut points = Vec::with_capacity(n * FEATURES);
        for &label in &labels {
            let start = label as usize * FEATURES;
            points.extend(centres[start..start + FEATURES].iter().map(|c| c + rng.random_range(-NOISE..NOISE)));
        }
        let points = Tensor::f_from_slice(&points)?.f_view([n as i64, FEATURES as i64])?.f_to_device(device)?;
        Dataset::new(format!("blobs {name}"), points, Tensor::f_from_slice(&labels)?.f_to_device(device)?, CLASSES)
    };
    Ok(Splits { train: part("train", 512)?, held_out: part("held out", 128)?, test: part("test", 256)? })
}
