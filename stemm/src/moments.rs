//! Mean and variance of channels, pooled over batches in f64: `x: [batch, channels, ...]`, positions count as
//! samples.
//!
//! Batches are put together by the law of total variance (Chan, Golub, LeVeque 1979), around means of their own: the
//! result depends neither on the order nor on the size of the batches, and a small variance beside a large mean survives.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::slice;

/// Running moments of some channels.
#[derive(Debug, Default)]
pub(crate) struct Pooled {
    count: f64,
    sums: Option<Sums>,
}

#[derive(Debug)]
struct Sums {
    mean: Tensor,
    /// Sum of squared deviations from the mean.
    squares: Tensor,
}

impl Pooled {
    /// Adds a batch `[batch, channels, ...]`.
    pub(crate) fn add(&mut self, x: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let size = x.size();
        let count = (x.numel() as i64 / size[1]) as f64;
        let (mean, squares) = match slice::values(&x.f_contiguous()?) {
            Some(values) => in_one_pass(values, size[1] as usize, size[2..].iter().product::<i64>() as usize, count)?,
            None => by_tensors(x, count)?,
        };
        let total = self.count + count;
        self.sums = Some(match self.sums.take() {
            None => Sums { mean, squares },
            Some(own) => {
                let apart = mean.f_sub(&own.mean)?;
                let between = apart.f_square()?.f_mul_scalar(self.count * count / total)?;
                Sums {
                    mean: own.mean.f_add(&apart.f_mul_scalar(count / total)?)?,
                    squares: own.squares.f_add(&squares)?.f_add(&between)?,
                }
            }
        });
        self.count = total;
        Ok(())
    }

    /// Mean and variance (by the number of samples, not one less) of each channel, f64; `None` before the first batch.
    pub(crate) fn mean_and_variance(&self) -> Result<Option<(Tensor, Tensor)>> {
        let Some(Sums { mean, squares }) = &self.sums else { return Ok(None) };
        Ok(Some((mean.shallow_clone(), squares.f_div_scalar(self.count)?.f_clamp_min(0.0)?)))
    }
}

/// Samples whose sums are added up by one thread; a fixed number, so that the result does not depend on the threads.
const SAMPLES: usize = 64;

/// Mean and sum of squared deviations of each channel of values `[batch, channels, positions]` in one pass over memory,
/// where tensor operations need copies in f64.
fn in_one_pass(values: &[f32], channels: usize, positions: usize, count: f64) -> Result<(Tensor, Tensor)> {
    // Deviations from a value of the channel: what is squared is as small as the channel varies.
    let shifts: Vec<f64> = (0..channels).map(|channel| f64::from(values[channel * positions])).collect();
    let add = |samples: &[f32]| {
        let mut sums = vec![(0.0, 0.0); channels];
        for sample in samples.chunks_exact(channels * positions) {
            for ((values, (sum, squares)), shift) in sample.chunks_exact(positions).zip(&mut sums).zip(&shifts) {
                for value in values {
                    let deviation = f64::from(*value) - shift;
                    *sum += deviation;
                    *squares += deviation * deviation;
                }
            }
        }
        sums
    };
    let parts: Vec<Vec<(f64, f64)>> = values.par_chunks(SAMPLES * channels * positions).map(add).collect();
    let of = |channel: usize| {
        let (sum, squares) = parts.iter().fold((0.0, 0.0), |(s, q), part| (s + part[channel].0, q + part[channel].1));
        (shifts[channel] + sum / count, squares - sum * sum / count)
    };
    let (means, squares): (Vec<f64>, Vec<f64>) = (0..channels).map(of).unzip();
    Ok((Tensor::f_from_slice(&means)?, Tensor::f_from_slice(&squares)?))
}

/// The same by tensor operations, for other number formats and devices.
fn by_tensors(x: &Tensor, count: f64) -> Result<(Tensor, Tensor)> {
    let size = x.size();
    let others: Vec<i64> = (0..size.len() as i64).filter(|&axis| axis != 1).collect();
    let mut shape = vec![1; size.len()];
    shape[1] = size[1];
    let over = |t: &Tensor| t.f_sum_dim_intlist(others.as_slice(), false, Kind::Double);
    let x = x.f_to_kind(Kind::Double)?;
    let mean = over(&x)?.f_div_scalar(count)?;
    let squares = over(&x.f_sub(&mean.f_view(shape.as_slice())?)?.f_square()?)?;
    Ok((mean, squares))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn pooled(x: &Tensor, batches: &[i64]) -> (f64, f64) {
        let mut own = Pooled::default();
        let mut start = 0;
        for &len in batches {
            own.add(&x.narrow(0, start, len)).unwrap();
            start += len;
        }
        let (mean, variance) = own.mean_and_variance().unwrap().unwrap();
        (mean.double_value(&[0]), variance.double_value(&[0]))
    }

    #[test]
    fn the_law_of_total_variance_holds_for_sorted_data() {
        let x = Tensor::cat(
            &[
                Tensor::zeros([1000, 1], (Kind::Float, Device::Cpu)),
                Tensor::full([1000, 1], 10.0, (Kind::Float, Device::Cpu)),
            ],
            0,
        );
        for batches in [[1000, 1000], [1, 1999]] {
            let (mean, variance) = pooled(&x, &batches);
            assert!((mean - 5.0).abs() < 1e-12 && (variance - 25.0).abs() < 1e-6, "{mean} {variance}");
        }
    }

    #[test]
    fn a_small_variance_beside_a_large_mean_survives() {
        tch::manual_seed(0);
        let x = Tensor::randn([5000, 1], (Kind::Float, Device::Cpu)) + 1e4; // the sum rounds to 1/1024
        let exact = x.to_kind(Kind::Double).var_dim([0i64].as_slice(), false, false).double_value(&[0]);
        for batches in [vec![5000], vec![1000, 3, 3997]] {
            let (_, variance) = pooled(&x, &batches);
            assert!((variance / exact - 1.0).abs() < 1e-6, "{variance} instead of {exact}");
        }
    }

    #[test]
    fn a_channel_with_a_large_mean_beside_one_without_keeps_its_variance() {
        tch::manual_seed(0);
        let noise = Tensor::randn([300, 2, 4], (Kind::Float, Device::Cpu)) * 100.0;
        let x = noise + Tensor::from_slice(&[0f32, 1e7]).view([1, 2, 1]); // where f32 has whole numbers only
        let exact = x.to_kind(Kind::Double).transpose(0, 1).reshape([2, -1]).var_dim([1i64].as_slice(), false, false);
        let mut own = Pooled::default();
        own.add(&x).unwrap();
        let (_, variance) = own.mean_and_variance().unwrap().unwrap();
        let error = (variance / exact - 1.0).abs().max().double_value(&[]);
        assert!(error < 1e-8, "{error}");
    }

    #[test]
    fn positions_count_as_samples_in_every_format() {
        for shape in [[150, 3, 5, 5], [70, 5, 3, 2]] {
            let exact = Tensor::randn(shape, (Kind::Double, Device::Cpu)).to_kind(Kind::BFloat16);
            for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
                check(&exact.to_kind(kind));
                check(&exact.to_kind(kind).transpose(2, 3));
            }
        }
    }

    fn check(x: &Tensor) {
        let mut own = Pooled::default();
        own.add(x).unwrap();
        let (mean, variance) = own.mean_and_variance().unwrap().unwrap();
        let flat = x.to_kind(Kind::Double).transpose(0, 1).reshape([x.size()[1], -1]);
        assert!((mean - flat.mean_dim([1i64].as_slice(), false, Kind::Double)).abs().max().double_value(&[]) < 1e-12);
        assert!((variance - flat.var_dim([1i64].as_slice(), false, false)).abs().max().double_value(&[]) < 1e-12);
    }
}
