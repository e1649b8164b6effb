//! Named tensors in a fixed order: the parameters and buffers of a network as one value.

use std::sync::Arc;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::slice;

/// The tensors of a network, in the order of its layers: parameters, which are trained, and buffers (running
/// statistics), which only follow their channels.
#[derive(Debug)]
pub struct Params {
    names: Arc<[String]>, // of the tensors, then of the buffers
    tensors: Vec<Tensor>,
    buffers: Vec<Tensor>,
}

impl Clone for Params {
    /// Shares the tensors: functions that take `&Params` never write to them.
    fn clone(&self) -> Self {
        Params { names: self.names.clone(), tensors: shared(&self.tensors), buffers: shared(&self.buffers) }
    }
}

impl Params {
    /// Makes a set of named parameters and buffers.
    pub fn new(
        parameters: impl IntoIterator<Item = (String, Tensor)>,
        buffers: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Params {
        let (mut names, tensors): (Vec<String>, Vec<Tensor>) = parameters.into_iter().unzip();
        let (buffer_names, buffers): (Vec<String>, Vec<Tensor>) = buffers.into_iter().unzip();
        names.extend(buffer_names);
        Params { names: names.into(), tensors, buffers }
    }

    /// The same names and buffers with other parameters.
    pub(crate) fn with(&self, tensors: Vec<Tensor>) -> Params {
        Params { names: self.names.clone(), tensors, buffers: shared(&self.buffers) }
    }

    /// The same parameters with other buffers.
    pub(crate) fn with_buffers(&self, buffers: Vec<Tensor>) -> Params {
        Params { names: self.names.clone(), tensors: shared(&self.tensors), buffers }
    }

    /// The parameters alone: moments of an optimiser, random vectors.
    pub(crate) fn without_buffers(&self) -> Params {
        let names: Vec<String> = self.names[..self.tensors.len()].to_vec();
        Params { names: names.into(), tensors: shared(&self.tensors), buffers: Vec::new() }
    }

    /// The parameters in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The buffers in order.
    pub fn buffers(&self) -> &[Tensor] {
        &self.buffers
    }

    /// Names and tensors in order: parameters, then buffers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> + DoubleEndedIterator {
        let tensor =
            |index: usize| self.tensors.get(index).unwrap_or_else(|| &self.buffers[index - self.tensors.len()]);
        self.names.iter().enumerate().map(move |(index, name)| (name.as_str(), tensor(index)))
    }

    /// The parameter or buffer of a name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter().find(|(own, _)| *own == name).map(|(_, tensor)| tensor)
    }

    /// Parameters, then buffers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().chain(&self.buffers)
    }

    /// Parameters, then buffers, to be changed in place.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.tensors.iter_mut().chain(&mut self.buffers)
    }

    /// `factor * θ`, buffers as well.
    pub(crate) fn scaled(&self, factor: f64) -> Result<Params> {
        self.map(|tensor| Ok(tensor.f_mul_scalar(factor)?))
    }

    /// Number of values in all parameters.
    pub fn numel(&self) -> usize {
        self.tensors.iter().map(Tensor::numel).sum()
    }

    /// Number format of the tensors (f32 if there are none).
    pub fn kind(&self) -> Kind {
        self.tensors.first().map_or(Kind::Float, Tensor::kind)
    }

    /// Device of the tensors (the CPU if there are none).
    pub fn device(&self) -> Device {
        self.tensors.first().map_or(Device::Cpu, Tensor::device)
    }

    /// Applies a function to every parameter and buffer.
    pub(crate) fn map(&self, mut f: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Params> {
        let tensors = self.tensors.iter().map(&mut f).collect::<Result<_>>()?;
        let buffers = self.buffers.iter().map(f).collect::<Result<_>>()?;
        Ok(Params { names: self.names.clone(), tensors, buffers })
    }

    /// The same values on another device.
    pub fn to_device(&self, device: impl Into<Device>) -> Result<Params> {
        let device = device.into();
        self.map(|tensor| Ok(tensor.f_to_device(device)?))
    }

    /// The same values in another number format, such as [`Kind::Double`] for exact comparisons.
    pub fn to_kind(&self, kind: Kind) -> Result<Params> {
        self.map(|tensor| Ok(tensor.f_to_kind(kind)?))
    }

    /// A copy that shares no memory, outside any autograd graph.
    pub(crate) fn copied(&self) -> Result<Params> {
        self.map(copied)
    }

    /// A copy whose parameters are leaves that gather gradients.
    pub(crate) fn leaves(&self) -> Result<Params> {
        self.copied()?.into_leaves()
    }

    /// These parameters, outside any graph so far, as leaves that gather gradients.
    pub(crate) fn into_leaves(self) -> Result<Params> {
        let leaves = self.tensors.iter().map(|tensor| Ok(tensor.f_set_requires_grad(true)?));
        Ok(self.with(leaves.collect::<Result<_>>()?))
    }

    /// Several sets side by side, as networks run them at once: each tensor a copy with the sets as its first axis. A
    /// single one is copied as it is.
    pub(crate) fn stacked(sets: &[&Params]) -> Result<Params> {
        let _guard = tch::no_grad_guard();
        if let [set] = sets {
            return set.copied();
        }
        let first = sets.first().ok_or(Error::TooFewModels { operation: "a stack", found: 0, needed: 1 })?;
        let stack = |all: fn(&Params) -> &[Tensor]| {
            let of = |index: usize| sets.iter().map(|set| &all(set)[index]).collect::<Vec<_>>();
            (0..all(first).len()).map(|index| Ok(Tensor::f_stack(&of(index), 0)?)).collect::<Result<Vec<_>>>()
        };
        Ok(Params { names: first.names.clone(), tensors: stack(Params::tensors)?, buffers: stack(Params::buffers)? })
    }

    /// The sets that [`Params::stacked`] put side by side.
    pub(crate) fn unstacked(&self, sets: usize) -> Result<Vec<Params>> {
        if sets == 1 {
            return Ok(vec![self.clone()]);
        }
        (0..sets).map(|set| self.map(|tensor| copied(&tensor.f_select(0, set as i64)?))).collect()
    }

    /// Checks that another set has parameters of the same names and shapes.
    pub(crate) fn check_same(&self, other: &Params) -> Result<()> {
        let (own, others) = (&self.names[..self.tensors.len()], &other.names[..other.tensors.len()]);
        if own != others {
            return Err(Error::tensor_names(own, others));
        }
        for ((tensor, own), other) in self.names.iter().zip(&self.tensors).zip(&other.tensors) {
            if own.size() != other.size() {
                let hint = "give parameters of the same network";
                let (tensor, expected, found) = (tensor.clone(), own.size(), other.size());
                return Err(Error::ShapeMismatch { tensor, expected, found, hint });
            }
        }
        Ok(())
    }

    /// Inner product `Σ <a, b>` over all parameters, summed in f64; buffers do not count.
    ///
    /// # Errors
    /// Parameters of another network.
    pub fn dot(&self, other: &Params) -> Result<f64> {
        self.check_same(other)?;
        self.tensors.iter().zip(&other.tensors).try_fold(0.0, |sum, (a, b)| Ok(sum + dot(a, b)?))
    }

    /// Weighted sum `Σ weights[i] sets[i]` of sets with the same shapes, of buffers as well; the first has the names.
    pub(crate) fn weighted_sum(sets: &[&Params], weights: &[f64]) -> Result<Params> {
        let (first, rest) =
            sets.split_first().ok_or(Error::TooFewModels { operation: "a weighted sum", found: 0, needed: 1 })?;
        let mut sum = first.scaled(weights[0])?;
        for (set, &weight) in rest.iter().zip(&weights[1..]).filter(|(_, weight)| **weight != 0.0) {
            for (sum, tensor) in sum.all_mut().zip(set.all()) {
                let _ = sum.f_add_(&tensor.f_mul_scalar(weight)?)?;
            }
        }
        Ok(sum)
    }
}

/// All tensors as one vector, a copy.
pub(crate) fn flat(tensors: &[Tensor]) -> Result<Tensor> {
    if tensors.is_empty() {
        return Err(Error::Empty { what: "the set of parameters".into() });
    }
    let parts: Vec<Tensor> = tensors.iter().map(|tensor| Ok(tensor.f_reshape([-1])?)).collect::<Result<_>>()?;
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// `<a, b>` of two tensors, multiplied and summed in f64.
pub(crate) fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    match sum_of_pairs(a, b, |a, b| a * b) {
        Some(sum) => Ok(sum),
        None => Ok(a
            .f_to_kind(Kind::Double)?
            .f_mul(&b.f_to_kind(Kind::Double)?)?
            .f_sum(Kind::Double)?
            .f_double_value(&[])?),
    }
}

/// `|a - b|²` of two tensors, in f64: from inner products little would be left where the two are close.
pub(crate) fn squared_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    match sum_of_pairs(a, b, |a, b| (a - b) * (a - b)) {
        Some(sum) => Ok(sum),
        None => {
            let difference = a.f_to_kind(Kind::Double)?.f_sub(&b.f_to_kind(Kind::Double)?)?;
            Ok(difference.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?)
        }
    }
}

/// Values whose sum one thread makes; a fixed number, so that the result does not depend on the threads.
const PIECE: usize = 1 << 14;

/// The sum of a function of the pairs of values of two f32 tensors on the CPU, in one pass over memory.
fn sum_of_pairs(a: &Tensor, b: &Tensor, of: impl Fn(f64, f64) -> f64 + Sync) -> Option<f64> {
    let (a, b) = (slice::values(a)?, slice::values(b)?);
    let pieces = a.par_chunks(PIECE).zip(b.par_chunks(PIECE));
    let sums: Vec<f64> = pieces
        .map(|(a, b)| {
            // Eight sums side by side, which the processor adds at once.
            let mut lanes = [0.0; 8];
            for (a, b) in a.chunks(8).zip(b.chunks(8)) {
                for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                    *lane += of(f64::from(*a), f64::from(*b));
                }
            }
            lanes.iter().sum::<f64>()
        })
        .collect();
    Some(sums.iter().sum())
}

/// The same tensors, not copied.
fn shared(tensors: &[Tensor]) -> Vec<Tensor> {
    tensors.iter().map(Tensor::shallow_clone).collect()
}

/// A copy that shares no memory, outside any autograd graph.
fn copied(tensor: &Tensor) -> Result<Tensor> {
    // With gradients on, the copy of a leaf would be a node of its graph.
    let _guard = tch::no_grad_guard();
    Ok(tensor.f_detach_copy()?)
}
