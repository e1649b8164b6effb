//! Named tensors in a fixed order: the parameters of a network as one value.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// The parameter tensors of a network, in the order of its layers.
#[derive(Debug)]
pub struct Params {
    names: Arc<[String]>,
    tensors: Vec<Tensor>,
}

impl Clone for Params {
    /// Shares the tensors: functions that take `&Params` never write to them.
    fn clone(&self) -> Self {
        self.with(self.tensors.iter().map(Tensor::shallow_clone).collect())
    }
}

impl Params {
    /// Makes a set of named tensors.
    pub fn new(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Params {
        let (names, tensors): (Vec<String>, Vec<Tensor>) = tensors.into_iter().unzip();
        Params { names: names.into(), tensors }
    }

    /// The same names with other tensors.
    pub(crate) fn with(&self, tensors: Vec<Tensor>) -> Params {
        Params { names: self.names.clone(), tensors }
    }

    /// Tensors in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// The tensor of a name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter().find(|(own, _)| *own == name).map(|(_, tensor)| tensor)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of values in all tensors.
    pub fn numel(&self) -> usize {
        self.tensors.iter().map(Tensor::numel).sum()
    }

    /// Device of the tensors (the CPU if there are none).
    pub fn device(&self) -> Device {
        self.tensors.first().map_or(Device::Cpu, Tensor::device)
    }

    /// Applies a function to every tensor.
    pub(crate) fn map(&self, f: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Params> {
        Ok(self.with(self.tensors.iter().map(f).collect::<Result<_>>()?))
    }

    /// The same values on another device.
    pub fn to_device(&self, device: impl Into<Device>) -> Result<Params> {
        let device = device.into();
        self.map(|tensor| Ok(tensor.f_to_device(device)?))
    }

    /// A copy that shares no memory, outside any autograd graph.
    pub(crate) fn copied(&self) -> Result<Params> {
        self.map(copied)
    }

    /// A copy whose tensors are leaves that gather gradients.
    pub(crate) fn leaves(&self) -> Result<Params> {
        self.map(|tensor| Ok(copied(tensor)?.f_set_requires_grad(true)?))
    }

    /// Inner product `Σ <a, b>` over all tensors, summed in f64.
    pub fn dot(&self, other: &Params) -> Result<f64> {
        self.tensors
            .iter()
            .zip(&other.tensors)
            .try_fold(0.0, |sum, (a, b)| Ok(sum + a.f_mul(b)?.f_sum(Kind::Double)?.f_double_value(&[])?))
    }

    /// Weighted sum `Σ weights[i] sets[i]` of sets with the same shapes.
    pub(crate) fn weighted_sum(sets: &[&Params], weights: &[f64]) -> Result<Params> {
        let (first, rest) =
            sets.split_first().ok_or(Error::TooFewModels { operation: "a weighted sum", found: 0, needed: 1 })?;
        let mut sum = first.map(|tensor| Ok(tensor.f_mul_scalar(weights[0])?))?;
        for (set, &weight) in rest.iter().zip(&weights[1..]) {
            for (sum, tensor) in sum.tensors.iter_mut().zip(&set.tensors) {
                let _ = sum.f_add_(&tensor.f_mul_scalar(weight)?)?;
            }
        }
        Ok(sum)
    }
}

/// A copy that shares no memory, outside any autograd graph.
pub(crate) fn copied(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach_copy()?)
}
