//! Random numbers: ChaCha8 streams, so that each use of a seed has numbers of its own and the order of uses does not matter;
//! where a tensor of them is wanted, the stream gives a key, and the device of the tensor draws by it.

use multiversion::multiversion;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::slice;

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
    /// Seeds of the trainings that part at a step.
    Fork(usize),
    /// Labels that a network's probabilities are asked for.
    Label,
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
        Purpose::Label => 9,
        Purpose::Shuffle(epoch) => 1_000 + epoch as u64,
        Purpose::Augmentation(epoch) => (1 << 32) + epoch as u64,
        Purpose::Fork(step) => (4 << 32) + step as u64,
        Purpose::SweepOrder(model) => (3 << 32) + model as u64,
        Purpose::Dropout(layer) => (2 << 32) + layer,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Independent uniform numbers in 0..1, multiples of 2^-24 in f32, drawn where they are needed: a number depends on the
/// generator's next word and on its place alone (SplitMix64), so that every device draws the same bits, and a GPU need not
/// wait for a list of them.
pub(crate) fn uniform(shape: &[i64], rng: &mut impl Rng, device: Device) -> Result<Tensor> {
    let key = rng.next_u64();
    if device != Device::Cpu {
        return uniform_by_tensors(shape, key, device);
    }
    let mut numbers = Tensor::f_empty(shape, (Kind::Float, device))?;
    if let Some(values) = slice::values_mut(&mut numbers) {
        fill(values, key);
    }
    Ok(numbers)
}

/// 2^-24: the distance between two uniform numbers.
const UNIT: f32 = 1.0 / (1u32 << 24) as f32;

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
fn fill(values: &mut [f32], key: u64) {
    // One thread: waking others costs more than the masks of a step.
    for (place, value) in values.iter_mut().enumerate() {
        *value = (step_seed(key, place) >> 40) as u32 as f32 * UNIT;
    }
}

/// The same by integer operations on the device, which wrap there as everywhere.
fn uniform_by_tensors(shape: &[i64], key: u64, device: Device) -> Result<Tensor> {
    let shifted = |z: &Tensor, bits: i64| -> Result<Tensor> {
        let mask = (u64::MAX >> bits) as i64; // the shift repeats the sign
        Ok(z.f_bitwise_right_shift_tensor_scalar(bits)?.f_bitwise_and(mask)?)
    };
    let places = Tensor::f_arange_start(1, 1 + shape.iter().product::<i64>(), (Kind::Int64, device))?;
    let mut z = places.f_mul_scalar(GOLDEN as i64)?.f_add_scalar(key as i64)?;
    for (bits, factor) in MIXED {
        z = z.f_bitwise_xor_tensor(&shifted(&z, bits)?)?.f_mul_scalar(factor as i64)?;
    }
    z = z.f_bitwise_xor_tensor(&shifted(&z, LAST)?)?;
    Ok(shifted(&z, 40)?.f_to_kind(Kind::Float)?.f_mul_scalar(f64::from(UNIT))?.f_view(shape)?)
}

/// Independent normal numbers, f64, by Box and Muller's transform of two uniforms; on another device they differ in the last
/// digit at most.
pub(crate) fn normal(shape: &[i64], rng: &mut impl Rng, device: Device) -> Result<Tensor> {
    let mut uniform = || Ok::<_, Error>(uniform(shape, rng, device)?.f_to_kind(Kind::Double)?);
    // 1 - u is never 0, which has no logarithm.
    let radius = uniform()?.f_neg_()?.f_log1p_()?.f_mul_scalar_(-2.0)?.f_sqrt_()?;
    Ok(radius.f_mul(&uniform()?.f_mul_scalar_(std::f64::consts::TAU)?.f_cos_()?)?)
}

/// SplitMix64: the step of its counter, and its finaliser, which spreads neighbouring inputs.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const MIXED: [(i64, u64); 2] = [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)];
const LAST: i64 = 31;

/// The seed of one step of a training, for its dropout masks: the step's number in the sequence of the seed.
#[inline(always)]
pub(crate) fn step_seed(seed: u64, step: usize) -> u64 {
    let mut z = seed.wrapping_add((step as u64 + 1).wrapping_mul(GOLDEN));
    for (bits, factor) in MIXED {
        z = (z ^ (z >> bits)).wrapping_mul(factor);
    }
    z ^ (z >> LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_would_draw_the_bits_that_the_cpu_draws() -> Result<()> {
        let count = 50_005;
        for seed in 0..3 {
            let new = || rng(seed, Purpose::Probe);
            let here = uniform(&[count], &mut new(), Device::Cpu)?;
            assert!(here.equal(&uniform_by_tensors(&[count], new().next_u64(), Device::Cpu)?), "seed {seed}");
        }
        Ok(())
    }

    #[test]
    fn uniform_and_normal_numbers_have_the_moments_of_their_kind() -> Result<()> {
        let (count, device) = (200_000, Device::Cpu);
        let mut rng = rng(0, Purpose::Probe);
        let (uniform, normal) = (uniform(&[count], &mut rng, device)?, normal(&[count], &mut rng, device)?);
        // Mean, variance, and correlation of neighbours, each within five standard errors.
        let error = 5.0 / (count as f64).sqrt();
        for (values, mean, variance) in [(uniform, 0.5, 1.0 / 12.0), (normal, 0.0, 1.0)] {
            let standard = (values.to_kind(Kind::Double) - mean) / f64::sqrt(variance);
            let average = |values: Tensor| values.mean(Kind::Double).double_value(&[]);
            let neighbours = standard.narrow(0, 1, count - 1) * standard.narrow(0, 0, count - 1);
            assert!(average(standard.shallow_clone()).abs() < error);
            assert!((average(standard.square()) - 1.0).abs() < 2.0 * error);
            assert!(average(neighbours).abs() < error);
        }
        Ok(())
    }

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first numbers of the seed 1234567 by Vigna's reference implementation.
        let published = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423u64];
        assert_eq!([0, 1, 2].map(|step| step_seed(1_234_567, step)), published);
    }
}
