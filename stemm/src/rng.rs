//! Random numbers: ChaCha8 streams, so that each use of a seed has numbers of its own and the order of uses does not matter.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use crate::error::Result;

/// What the numbers are for; each purpose is a separate stream of the same seed.
pub(crate) enum Purpose {
    Initialisation,
    Split,
    Mixing,
    /// The order of the groups in weight matching; of each model in STE-MM, which are matched side by side.
    SweepOrder(usize),
    Probe,
    /// A part of the data.
    Sample,
    BuiltInData,
    /// Points of a simplex, directions of a plane, subsets of models.
    Landscape,
    /// Places on a curve that is being fitted.
    Curve,
    /// Flips and shifts of an epoch's images.
    Augmentation(usize),
    /// The mask of a dropout layer, by its position in the network.
    Dropout(u64),
    /// The order of the samples in an epoch: resuming at epoch `e` needs no earlier numbers.
    Shuffle(usize),
}

pub(crate) fn rng(seed: u64, purpose: Purpose) -> ChaCha8Rng {
    let stream = match purpose {
        Purpose::Initialisation => 0,
        Purpose::Split => 1,
        Purpose::Mixing => 2,
        Purpose::Probe => 4,
        Purpose::BuiltInData => 5,
        Purpose::Landscape => 6,
        Purpose::Curve => 7,
        Purpose::Sample => 8,
        Purpose::Shuffle(epoch) => 1_000 + epoch as u64,
        Purpose::Augmentation(epoch) => (1 << 32) + epoch as u64,
        Purpose::SweepOrder(model) => (3 << 32) + model as u64,
        Purpose::Dropout(layer) => (2 << 32) + layer,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Independent normal numbers, by Box and Muller's transform of two uniforms: f64, on the CPU.
pub(crate) fn normal(shape: &[i64], rng: &mut impl Rng) -> Result<Tensor> {
    let mut uniform = || -> Result<Tensor> {
        let values: Vec<f64> = (0..shape.iter().product::<i64>()).map(|_| 1.0 - rng.random::<f64>()).collect();
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
    };
    let radius = uniform()?.f_log()?.f_mul_scalar(-2.0)?.f_sqrt()?;
    Ok(radius.f_mul(&uniform()?.f_mul_scalar(std::f64::consts::TAU)?.f_cos()?)?)
}

/// The seed of one step of a training, for its dropout masks (SplitMix64's finaliser, which spreads neighbouring inputs).
pub(crate) fn step_seed(seed: u64, step: usize) -> u64 {
    let mut z = seed.wrapping_add((step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
