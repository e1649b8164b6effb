//! Soft permutations: doubly stochastic matrices in the place of permutations, and what they do to parameters.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::Permutations;
use crate::error::Result;
use crate::network::{AxisSegment, Params, PermutationSpec};
use crate::rng::normal;

/// Where a search over soft permutations begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Each unit in its place.
    Identity,
    /// Each unit in all places alike: the barycentre of all permutations.
    Barycentre,
    /// Random, by the seed.
    Random,
}

/// One matrix a group, `[units, units]`: row = place, column = unit of the model; all axes of the group are multiplied by it.
pub(super) struct SoftMaps(pub Vec<Tensor>);

impl SoftMaps {
    /// Makes a matrix of each group's number of units.
    pub(super) fn each(spec: &PermutationSpec, make: impl FnMut(i64) -> Result<Tensor>) -> Result<SoftMaps> {
        Ok(SoftMaps(spec.groups().iter().map(|group| group.size as i64).map(make).collect::<Result<_>>()?))
    }

    /// Doubly stochastic matrices to start from.
    pub(super) fn start(
        spec: &PermutationSpec,
        start: Start,
        rng: &mut impl rand::Rng,
        options: (Kind, Device),
    ) -> Result<SoftMaps> {
        SoftMaps::each(spec, |n| match start {
            Start::Identity => Ok(Tensor::f_eye(n, options)?),
            Start::Barycentre => Ok(Tensor::f_full([n; 2], 1.0 / n as f64, options)?),
            Start::Random => Ok(sinkhorn(&normal(&[n; 2], rng, options.1)?)?.f_to_kind(options.0)?),
        })
    }

    /// `X + step (P - X)`.
    pub(super) fn between(&self, corner: &Permutations, step: f64) -> Result<SoftMaps> {
        let moved = self.0.iter().zip(&corner.0).map(|(map, corner)| {
            let mut moved = map.f_mul_scalar(1.0 - step)?;
            let index = corner.on(map.device())?.f_unsqueeze(1)?;
            let _ =
                moved.f_scatter_add_(1, &index, &Tensor::f_full(index.size(), step, (map.kind(), map.device()))?)?;
            Ok(moved)
        });
        Ok(SoftMaps(moved.collect::<Result<_>>()?))
    }

    /// `X·θ`, parameters only.
    pub(super) fn apply(&self, spec: &PermutationSpec, params: &Params) -> Result<Params> {
        let mapped = spec.axes().iter().zip(params.tensors());
        let mapped = mapped.map(|(axes, tensor)| self.apply_to_tensor(axes, tensor, None));
        Ok(params.with(mapped.collect::<Result<_>>()?))
    }

    /// A tensor with its axes mapped, but for the axis `except`.
    pub(super) fn apply_to_tensor(
        &self,
        axes: &[Vec<AxisSegment>],
        tensor: &Tensor,
        except: Option<usize>,
    ) -> Result<Tensor> {
        let moved = |(axis, segments): &(usize, &Vec<AxisSegment>)| {
            except != Some(*axis) && segments.iter().any(|segment| segment.group.is_some())
        };
        let mut mapped = tensor.shallow_clone();
        for (axis, segments) in axes.iter().enumerate().filter(moved) {
            mapped = self.apply_to_axis(axis as i64, segments, &mapped)?;
        }
        Ok(mapped)
    }

    fn apply_to_axis(&self, axis: i64, segments: &[AxisSegment], tensor: &Tensor) -> Result<Tensor> {
        let first = tensor.f_movedim_int(axis, 0)?;
        let (shape, mut offset, mut parts) = (first.size(), 0, Vec::new());
        for &AxisSegment { group, units, block } in segments {
            let run = first.f_narrow(0, offset, units * block)?;
            offset += units * block;
            parts.push(match group {
                None => run.f_reshape([units * block, -1])?,
                Some(group) => self.0[group].f_matmul(&run.f_reshape([units, -1])?)?.f_reshape([units * block, -1])?,
            });
        }
        let mapped = if parts.len() == 1 { parts.remove(0) } else { Tensor::f_cat(&parts, 0)? };
        Ok(mapped.f_reshape(shape)?.f_movedim_int(0, axis)?)
    }
}

/// Rounds of [`sinkhorn`] after which rows and columns sum to 1 but for a little.
const ROUNDS: usize = 20;

/// The doubly stochastic matrix of `exp(logits)`, `[n, n]`: its rows and columns are divided by their sums in turn (Sinkhorn 1964).
///
/// Rounds in f64 without a graph find the scale of each row and column; from there, where all sums are about 1, rounds in the
/// logits' own format carry the gradient. Only vectors are iterated: with the gradient 2.4 to 2.9 times as fast as rounds on a
/// matrix of logarithms (512 units, both written in PyTorch, in turn).
pub(super) fn sinkhorn(logits: &Tensor) -> Result<Tensor> {
    let n = logits.size()[0];
    let (rows, columns) = {
        let _guard = tch::no_grad_guard();
        let double = logits.f_detach()?.f_to_kind(Kind::Double)?;
        let highest = double.f_amax([1i64].as_slice(), true)?;
        let matrix = double.f_sub(&highest)?.f_exp()?;
        let (rows, columns) = scales(&matrix, Tensor::f_ones([n, 1], (Kind::Double, logits.device()))?)?;
        // As logarithms, which are added to the logits before these are exponents.
        let log = |scale: Tensor| scale.f_log()?.f_to_kind(logits.kind());
        (log(rows)?.f_sub(&highest.f_to_kind(logits.kind())?)?, log(columns)?.f_tr()?)
    };
    let matrix = logits.f_add(&rows)?.f_add(&columns)?.f_exp()?;
    let (rows, columns) = scales(&matrix, Tensor::f_ones([n, 1], (logits.kind(), logits.device()))?)?;
    Ok(matrix.f_mul(&rows)?.f_mul(&columns.f_tr()?)?)
}

/// Factors of the rows and columns of a matrix, `[n, 1]` each, after some rounds from given factors of the columns.
fn scales(matrix: &Tensor, mut columns: Tensor) -> Result<(Tensor, Tensor)> {
    let (mut rows, turned) = (columns.shallow_clone(), matrix.f_tr()?);
    // Entries may be too small to be told from 0 where logits are thousands apart.
    let inverse = |sums: Tensor| sums.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_reciprocal();
    for _ in 0..ROUNDS {
        rows = inverse(matrix.f_matmul(&columns)?)?;
        columns = inverse(turned.f_matmul(&rows)?)?;
    }
    Ok((rows, columns))
}

#[cfg(test)]
mod tests {
    use super::super::{Permutation, Permutations};
    use super::*;
    use crate::network::{Add, Concat, Conv2d, Flatten, Layer, Linear, Network, Sequence};
    use crate::rng::{Purpose, rng};

    #[test]
    fn a_permutation_as_a_matrix_does_what_the_permutation_does() -> Result<()> {
        // Segments, blocks after a flatten, and a group on two axes of one tensor.
        let branch = |name: &'static str, channels| Sequence::new([(name, Conv2d::new(3, channels, 1).into())]);
        let layers: [(&str, Layer); 4] = [
            ("join", Concat::new([branch("a", 4), branch("b", 5)]).into()),
            ("twice", Add::residual([("c", Conv2d::new(9, 9, 3).padding(1).into())]).into()),
            ("flatten", Flatten.into()),
            ("head", Linear::new(36, 3).into()),
        ];
        let network = Network::new([3, 2, 2], layers)?;
        let (spec, params) = (network.permutation_spec(), network.init(0, Device::Cpu)?);
        let turn = |n: usize| Permutation::new((0..n as i64).map(|unit| (unit + 1) % n as i64).collect());
        let hard = Permutations(spec.groups().iter().map(|group| turn(group.size)).collect::<Result<_>>()?);
        let soft = SoftMaps::each(&spec, |n| {
            let eye = Tensor::eye(n, (Kind::Float, Device::Cpu));
            Ok(eye.index_select(0, &Tensor::from_slice(turn(n as usize)?.as_slice())))
        })?;
        for (a, b) in soft.apply(&spec, &params)?.tensors().iter().zip(hard.apply(&spec, &params)?.tensors()) {
            assert!((a - b).abs().max().double_value(&[]) < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn every_start_is_doubly_stochastic_and_gradients_pass_through_the_rounds() -> Result<()> {
        let spec = Network::mlp(&[3, 7, 2])?.permutation_spec();
        let options = (Kind::Double, Device::Cpu);
        for start in [Start::Identity, Start::Barycentre, Start::Random] {
            let maps = SoftMaps::start(&spec, start, &mut rng(0, Purpose::Landscape), options)?;
            for axis in [0i64, 1] {
                let sums = maps.0[0].sum_dim_intlist([axis].as_slice(), false, Kind::Double);
                assert!((sums - 1.0).abs().max().double_value(&[]) < 1e-4, "{start:?}");
            }
            assert!(maps.0[0].min().double_value(&[]) >= 0.0);
        }
        // Against central differences of a linear function of the matrix.
        let mut seeded = rng(1, Purpose::Landscape);
        let (logits, weights) =
            (normal(&[4, 4], &mut seeded, Device::Cpu)?, normal(&[4, 4], &mut seeded, Device::Cpu)?);
        let value = |logits: &Tensor| -> Result<Tensor> { Ok((sinkhorn(logits)? * &weights).sum(Kind::Double)) };
        let leaf = logits.copy().set_requires_grad(true);
        let gradient = Tensor::run_backward(&[value(&leaf)?], &[&leaf], false, false).remove(0);
        for (row, column) in [(0, 0), (1, 3), (3, 2)] {
            let moved = |step: f64| -> Result<f64> {
                let moved = logits.copy();
                let _ = moved.get(row).get(column).f_add_scalar_(step)?;
                Ok(value(&moved)?.double_value(&[]))
            };
            let slope = (moved(1e-5)? - moved(-1e-5)?) / 2e-5;
            assert!((slope - gradient.double_value(&[row, column])).abs() < 1e-7, "{row} {column}");
        }
        // Rounds on a matrix of logarithms, spelt out.
        let mut log = logits.copy();
        for _ in 0..200 {
            log = &log - log.logsumexp([1i64].as_slice(), true);
            log = &log - log.logsumexp([0i64].as_slice(), true);
        }
        assert!((sinkhorn(&logits)? - log.exp()).abs().max().double_value(&[]) < 1e-9);
        // Far apart, in f32.
        let far = sinkhorn(&(Tensor::eye(5, (Kind::Float, Device::Cpu)) * 300.0))?;
        assert!((far - Tensor::eye(5, (Kind::Float, Device::Cpu))).abs().max().double_value(&[]) < 1e-6);
        Ok(())
    }
}
