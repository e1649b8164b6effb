//! Covariances and correlations between the units of several models, over batches of samples.
//!
//! What is multiplied are deviations from each unit's first sample, so that small ones beside a large mean survive, and a unit that
//! never varies has none. Products within a batch are in the format of the samples or in bfloat16, everything else in f64.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::moments::Pooled;
use crate::network::by_unit;
use crate::train::Precision;

/// Running sums for some pairs of sets of units.
pub(crate) struct Covariance {
    pairs: Vec<(usize, usize)>,
    precision: Precision,
    samples: f64,
    sums: Option<Sums>,
}

struct Sums {
    /// The first sample of each set, `[1, units, 1, ...]`.
    origins: Vec<Tensor>,
    /// Means and variances of the deviations of each set.
    moments: Vec<Pooled>,
    /// Sums of products of deviations of each pair, `[units, units]`.
    products: Vec<Tensor>,
}

impl Covariance {
    /// For pairs of places in the list of sets.
    pub(crate) fn new(pairs: Vec<(usize, usize)>, precision: Precision) -> Covariance {
        Covariance { pairs, precision, samples: 0.0, sums: None }
    }

    /// Where in the list a pair is.
    pub(crate) fn place(&self, pair: (usize, usize)) -> Option<usize> {
        self.pairs.iter().position(|own| *own == pair)
    }

    /// Adds a batch of all sets, `[batch, units, ...]` each.
    pub(crate) fn add(&mut self, sets: &[Tensor]) -> Result<()> {
        let _guard = tch::no_grad_guard();
        if self.sums.is_none() {
            let first = |set: &Tensor| -> Result<Tensor> {
                // The first position of the first sample.
                let first =
                    (2..set.dim() as i64).try_fold(set.f_narrow(0, 0, 1)?, |first, axis| first.f_narrow(axis, 0, 1))?;
                Ok(first.f_detach_copy()?)
            };
            let origins = sets.iter().map(first).collect::<Result<Vec<_>>>()?;
            let of_pair = |&(a, b): &(usize, usize)| -> Result<Tensor> {
                let size = [origins[a].size()[1], origins[b].size()[1]];
                Ok(Tensor::f_zeros(size, (Kind::Double, origins[a].device()))?)
            };
            let products = self.pairs.iter().map(of_pair).collect::<Result<_>>()?;
            self.sums = Some(Sums { moments: sets.iter().map(|_| Pooled::default()).collect(), products, origins });
        }
        let Some(sums) = &mut self.sums else { return Ok(()) };
        let apart = sets.iter().zip(&sums.origins).map(|(set, origin)| set.f_sub(origin));
        let apart: Vec<Tensor> = apart.collect::<Result<_, _>>()?;
        sums.moments.iter_mut().zip(&apart).try_for_each(|(moments, apart)| moments.add(apart))?;
        let units = apart.iter().map(|apart| match self.precision {
            Precision::F32 => by_unit(apart),
            Precision::Bf16 => by_unit(&apart.f_to_kind(Kind::BFloat16)?),
        });
        let units = units.collect::<Result<Vec<_>>>()?;
        for (&(a, b), sum) in self.pairs.iter().zip(&mut sums.products) {
            let _ = sum.f_add_(&units[a].f_matmul(&units[b].f_tr()?)?)?;
        }
        self.samples += units.first().map_or(0, |units| units.size()[1]) as f64;
        Ok(())
    }

    /// Covariance of each unit of a pair's first set with each of its second, `[units, units]` in f64; `None` before the first
    /// samples.
    pub(crate) fn covariance(&self, pair: usize) -> Result<Option<Tensor>> {
        let Some(sums) = &self.sums else { return Ok(None) };
        let (a, b) = self.pairs[pair];
        let mean = |set: usize| Ok::<_, Error>(sums.moments[set].mean_and_variance()?.map(|(mean, _)| mean));
        let (Some(a), Some(b)) = (mean(a)?, mean(b)?) else { return Ok(None) };
        Ok(Some(sums.products[pair].f_div_scalar(self.samples)?.f_sub_(&a.f_outer(&b)?)?))
    }

    /// Standard deviation of each unit of a set, `[units]` in f64; 0 where nothing but rounding varies.
    pub(crate) fn std(&self, set: usize) -> Result<Option<Tensor>> {
        let Some(sums) = &self.sums else { return Ok(None) };
        let Some((_, variance)) = sums.moments[set].mean_and_variance()? else { return Ok(None) };
        let std = variance.f_sqrt()?;
        let unit = if sums.origins[set].kind() == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let rounding = sums.origins[set].f_view([-1])?.f_abs()?.f_to_kind(Kind::Double)?.f_mul_scalar(4.0 * unit)?;
        // What is not a number stays so.
        Ok(Some(std.f_zeros_like()?.f_where_self(&std.f_le_tensor(&rounding)?, &std)?))
    }

    /// Pearson's correlation of a pair; 0 where one of two units never varies.
    pub(crate) fn correlation(&self, pair: usize) -> Result<Option<Tensor>> {
        let (a, b) = self.pairs[pair];
        let (Some(covariance), Some(a), Some(b)) = (self.covariance(pair)?, self.std(a)?, self.std(b)?) else {
            return Ok(None);
        };
        let scale = a.f_outer(&b)?;
        let mut covariance = covariance;
        let correlation = covariance.f_div_(&scale)?.f_clamp_(-1.0, 1.0)?;
        Ok(Some(scale.f_zeros_like()?.f_where_self(&scale.f_eq(0.0)?, &correlation)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn correlations_are_pearsons_however_the_samples_are_cut() {
        let mut seeded = crate::rng::rng(1, crate::rng::Purpose::Landscape);
        let mut noise = || crate::rng::normal(&[5, 90], &mut seeded, Device::Cpu).unwrap() * 1e-3;
        let a = noise() + 1e3;
        let b = &a * 0.5 + noise();
        let all = Tensor::cat(&[&a, &b], 0);
        let (exact, covariance) =
            (all.corrcoef().narrow(0, 0, 5).narrow(1, 5, 5), all.cov(0, None::<Tensor>, None::<Tensor>));
        for cut in [90, 40, 1] {
            let mut own = Covariance::new(vec![(0, 1), (1, 1)], Precision::F32);
            for start in (0..90).step_by(cut) {
                let len = (cut as i64).min(90 - start);
                own.add(&[a.narrow(1, start, len).tr(), b.narrow(1, start, len).tr()]).unwrap();
            }
            let furthest = |a: Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            assert!(furthest(own.correlation(0).unwrap().unwrap(), &exact) < 1e-6, "{cut}");
            let expected = covariance.narrow(0, 5, 5).narrow(1, 5, 5);
            assert!(furthest(own.covariance(1).unwrap().unwrap() / 1e-6, &(&expected / 1e-6)) < 1e-3, "{cut}");
            assert!(furthest(own.std(1).unwrap().unwrap().square() / 1e-6, &(expected.diag(0) / 1e-6)) < 1e-3, "{cut}");
        }
    }

    #[test]
    fn products_of_three_digits_give_correlations_of_nearly_as_many() {
        let mut seeded = crate::rng::rng(2, crate::rng::Purpose::Landscape);
        let mut noise = || crate::rng::normal(&[400, 6], &mut seeded, Device::Cpu).unwrap();
        let (a, b) = (noise() + 10.0, noise() - 10.0);
        let b = &b + &a;
        let correlation = |precision| {
            let mut own = Covariance::new(vec![(0, 1)], precision);
            own.add(&[a.shallow_clone(), b.shallow_clone()]).unwrap();
            own.correlation(0).unwrap().unwrap()
        };
        let apart = (correlation(Precision::F32) - correlation(Precision::Bf16)).abs().max().double_value(&[]);
        assert!((1e-6..2e-2).contains(&apart), "{apart}");
    }

    #[test]
    fn what_rounding_leaves_of_a_constant_correlates_with_nothing() {
        let constant = Tensor::full([1, 21], 0.1, (Kind::Float, Device::Cpu));
        let rounded = &constant + (Tensor::arange(21, (Kind::Float, Device::Cpu)).remainder(2) * 1e-8).view([1, 21]);
        let mut own = Covariance::new(vec![(0, 1)], Precision::F32);
        assert!(own.correlation(0).unwrap().is_none());
        for (start, len) in [(0, 7), (7, 3), (10, 11)] {
            own.add(&[constant.narrow(1, start, len).tr(), rounded.narrow(1, start, len).tr()]).unwrap();
        }
        let (_, variance) = own.sums.as_ref().unwrap().moments[1].mean_and_variance().unwrap().unwrap();
        assert!(variance.double_value(&[0]) > 0.0, "rounding is wanted");
        assert_eq!(own.std(1).unwrap().unwrap().double_value(&[0]), 0.0);
        assert_eq!(own.correlation(0).unwrap().unwrap().double_value(&[0, 0]), 0.0);
        own.add(&[constant.narrow(1, 0, 1), constant.narrow(1, 0, 1) * f64::NAN]).unwrap();
        assert!(own.std(1).unwrap().unwrap().double_value(&[0]).is_nan(), "NaN is not a unit that never varies");
        assert!(own.correlation(0).unwrap().unwrap().double_value(&[0, 0]).is_nan());
    }
}
