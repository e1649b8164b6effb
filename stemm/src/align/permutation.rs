//! Permutations of units: a checked bijection, a set with one of them a group, and what they do to parameters.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::network::{AxisSegment, Params, PermutationSpec};
use crate::slice;

/// A bijection of `0..n`: unit `i` of the permuted layer is unit `p[i]` of the original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<i64>", into = "Vec<i64>")]
pub struct Permutation(Vec<i64>, OnDevice);

/// The indices on the GPU where they were needed last: they are uploaded once, not for each tensor and axis.
#[derive(Debug, Default)]
struct OnDevice(Mutex<Option<Tensor>>);

impl Clone for OnDevice {
    fn clone(&self) -> OnDevice {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        OnDevice(Mutex::new(cached.as_ref().map(Tensor::shallow_clone)))
    }
}

impl PartialEq for OnDevice {
    /// What is only kept to save time does not count.
    fn eq(&self, _: &OnDevice) -> bool {
        true
    }
}

impl Eq for OnDevice {}

impl Permutation {
    /// Checks that each index of `0..n` occurs once.
    pub fn new(indices: Vec<i64>) -> Result<Permutation> {
        let mut seen = vec![false; indices.len()];
        for &index in &indices {
            let slot = usize::try_from(index).ok().and_then(|index| seen.get_mut(index));
            match slot {
                Some(slot) if !*slot => *slot = true,
                _ => {
                    let reason = format!("index {index} is repeated or outside 0..{}", indices.len());
                    return Err(Error::Permutation { reason });
                }
            }
        }
        Ok(Permutation::trusted(indices))
    }

    /// The permutation that changes nothing.
    pub fn identity(n: usize) -> Permutation {
        Permutation::trusted((0..n as i64).collect())
    }

    /// The indices.
    pub fn as_slice(&self) -> &[i64] {
        &self.0
    }

    /// Number of units.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no units.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// First `self`, then `next`: `π(π(θ; self); next) = π(θ; self.then(next))`.
    pub fn then(&self, next: &Permutation) -> Result<Permutation> {
        if self.len() != next.len() {
            let reason = format!("one has {} units, the other {}", self.len(), next.len());
            return Err(Error::Permutation { reason });
        }
        Ok(Permutation::trusted(next.0.iter().map(|&index| self.0[index as usize]).collect()))
    }

    /// The permutation that undoes this one.
    pub fn inverse(&self) -> Permutation {
        let mut inverse = vec![0; self.len()];
        for (position, &index) in (0..).zip(&self.0) {
            inverse[index as usize] = position;
        }
        Permutation::trusted(inverse)
    }

    /// Number of units that stay where they are.
    pub fn fixed_points(&self) -> usize {
        (0..).zip(&self.0).filter(|(position, index)| position == *index).count()
    }

    /// The places at which `other` has another unit.
    pub(crate) fn moved(&self, other: &Permutation) -> Vec<i64> {
        let pairs = (0..).zip(self.0.iter().zip(&other.0));
        pairs.filter(|(_, (own, other))| own != other).map(|(place, _)| place).collect()
    }

    /// The units at some places.
    pub(crate) fn at(&self, places: &[i64]) -> Vec<i64> {
        places.iter().map(|&place| self.0[place as usize]).collect()
    }

    /// Takes an assignment that the solver made: a bijection by construction.
    pub(crate) fn from_assignment(columns: impl Iterator<Item = usize>) -> Permutation {
        Permutation::trusted(columns.map(|column| column as i64).collect())
    }

    /// Takes indices that are known to be a bijection.
    fn trusted(indices: Vec<i64>) -> Permutation {
        Permutation(indices, OnDevice::default())
    }

    /// The indices as a tensor on a device.
    pub(crate) fn on(&self, device: Device) -> Result<Tensor> {
        let mut cached = self.1.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensor) = cached.as_ref().filter(|tensor| tensor.device() == device) {
            return Ok(tensor.shallow_clone());
        }
        let tensor = Tensor::f_from_slice(&self.0)?.f_to_device(device)?;
        Ok(cached.insert(tensor).shallow_clone())
    }
}

impl TryFrom<Vec<i64>> for Permutation {
    type Error = Error;
    fn try_from(indices: Vec<i64>) -> Result<Permutation> {
        Permutation::new(indices)
    }
}

impl From<Permutation> for Vec<i64> {
    fn from(permutation: Permutation) -> Vec<i64> {
        permutation.0
    }
}

/// One permutation for each group of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permutations(pub Vec<Permutation>);

impl Permutations {
    /// Leaves every unit where it is.
    pub fn identity(spec: &PermutationSpec) -> Permutations {
        Permutations(spec.groups().iter().map(|group| Permutation::identity(group.size)).collect())
    }

    /// `π(θ; P)`: every axis of every tensor re-indexed by its group's permutation; the function stays the same.
    ///
    /// # Errors
    /// Permutations or parameters of another network.
    pub fn apply(&self, spec: &PermutationSpec, params: &Params) -> Result<Params> {
        self.check(spec)?;
        spec.check(params)?;
        let mut axes = spec.axes().iter().chain(spec.buffer_axes());
        params.map(|tensor| self.apply_to_tensor(axes.next().map_or(&[], Vec::as_slice), tensor, None))
    }

    /// Checks that there is one permutation of the right size for each group.
    pub(crate) fn check(&self, spec: &PermutationSpec) -> Result<()> {
        let sizes: Vec<usize> = spec.groups().iter().map(|group| group.size).collect();
        if !self.0.iter().map(Permutation::len).eq(sizes.iter().copied()) {
            return Err(Error::Permutation { reason: format!("the network's groups have sizes {sizes:?}") });
        }
        Ok(())
    }

    /// A tensor with its axes re-indexed, but for the axis `except`.
    pub(crate) fn apply_to_tensor(
        &self,
        axes: &[Vec<AxisSegment>],
        tensor: &Tensor,
        except: Option<usize>,
    ) -> Result<Tensor> {
        let mut permuted = tensor.shallow_clone();
        for (axis, segments) in axes.iter().enumerate().filter(|(axis, _)| except != Some(*axis)) {
            if tensor.device() == Device::Cpu {
                if let Some(index) = self.index(segments) {
                    permuted = slice::select(&permuted, axis, &index)?;
                }
            } else if let Some(index) = self.index_on(tensor.device(), segments)? {
                permuted = permuted.f_index_select(axis as i64, &index)?;
            }
        }
        Ok(permuted)
    }

    /// `sum += weight * tensor`, in place, with the tensor's axes re-indexed.
    pub(crate) fn add_to(
        &self,
        sum: &mut Tensor,
        axes: &[Vec<AxisSegment>],
        tensor: &Tensor,
        weight: f64,
    ) -> Result<()> {
        let on_cpu = tensor.device() == Device::Cpu;
        let index = || axes.iter().map(|segments| self.index(segments)).collect::<Vec<_>>();
        if !on_cpu || slice::add_selected(sum, tensor, &index(), weight as f32).is_none() {
            let _ = sum.f_add_(&self.apply_to_tensor(axes, tensor, None)?.f_mul_scalar(weight)?)?;
        }
        Ok(())
    }

    /// Which old entry comes to each place of an axis; `None` if no group moves it.
    fn index(&self, segments: &[AxisSegment]) -> Option<Vec<i64>> {
        if segments.iter().all(|segment| segment.group.is_none()) {
            return None;
        }
        let mut index = Vec::new();
        for segment in segments {
            let start = index.len() as i64;
            match segment.group {
                None => index.extend(start..start + segment.units * segment.block),
                Some(group) => index.extend(self.0[group].as_slice().iter().flat_map(|&unit| {
                    let first = start + unit * segment.block;
                    first..first + segment.block
                })),
            }
        }
        Some(index)
    }

    /// The same as a tensor on a device, made there from the groups' indices.
    fn index_on(&self, device: Device, segments: &[AxisSegment]) -> Result<Option<Tensor>> {
        if segments.iter().all(|segment| segment.group.is_none()) {
            return Ok(None);
        }
        let integers = (Kind::Int64, device);
        let (mut start, mut parts) = (0, Vec::new());
        for &AxisSegment { group, units, block } in segments {
            let end = start + units * block;
            parts.push(match group {
                None => Tensor::f_arange_start(start, end, integers)?,
                Some(group) if (start, block) == (0, 1) => self.0[group].on(device)?,
                Some(group) => {
                    let first = self.0[group].on(device)?.f_mul_scalar(block)?.f_unsqueeze(1)?;
                    first.f_add(&Tensor::f_arange_start(start, start + block, integers)?)?.f_view([-1])?
                }
            });
            start = end;
        }
        Ok(Some(if parts.len() == 1 { parts.remove(0) } else { Tensor::f_cat(&parts, 0)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_permutation_of_no_units_is_empty() {
        assert!(Permutation::identity(0).is_empty() && !Permutation::identity(1).is_empty());
    }

    #[test]
    fn repeated_and_foreign_indices_are_refused() {
        for bad in [vec![0, 0], vec![1, 2], vec![-1, 0]] {
            assert!(matches!(Permutation::new(bad), Err(Error::Permutation { .. })));
        }
    }

    #[test]
    fn json_is_the_list_and_what_is_no_permutation_is_refused() {
        assert!(serde_json::from_str::<Permutation>("[1,0]").is_ok());
        assert!(serde_json::from_str::<Permutation>("[1,1]").is_err());
        assert_eq!(serde_json::to_string(&Permutation::trusted(vec![2, 0, 1])).unwrap(), "[2,0,1]");
    }

    #[test]
    fn segments_move_on_their_own_and_blocks_whole() {
        let swap = Permutation::new(vec![1, 0]).unwrap();
        let segment = |group, units, block| AxisSegment { group, units, block };
        let axis = vec![segment(None, 2, 3), segment(Some(0), 2, 2), segment(Some(0), 2, 1)];
        let tensor = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        let swap = Permutations(vec![swap]);
        let moved = swap.apply_to_tensor(std::slice::from_ref(&axis), &tensor, None).unwrap();
        assert_eq!(Vec::<i64>::try_from(moved).unwrap(), [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 11, 10]);
        // What a GPU would be given, made anew and from what is kept.
        for _ in 0..2 {
            let index = swap.index_on(Device::Cpu, &axis).unwrap().unwrap();
            assert_eq!(Vec::<i64>::try_from(index).ok(), swap.index(&axis));
        }
        let plain = [segment(Some(0), 2, 1)];
        let index = swap.index_on(Device::Cpu, &plain).unwrap().unwrap();
        assert_eq!(Vec::<i64>::try_from(index).unwrap(), [1, 0]);
        assert!(swap.index_on(Device::Cpu, &[segment(None, 2, 1)]).unwrap().is_none());
    }

    #[test]
    fn indices_on_a_device_are_uploaded_once_and_copies_share_them() {
        let own = Permutation::new(vec![2, 0, 1]).unwrap();
        let address = |permutation: &Permutation| permutation.on(Device::Cpu).unwrap().data_ptr();
        let first = address(&own);
        assert!(address(&own) == first && address(&own.clone()) == first);
        assert_ne!(address(&own.inverse()), first);
    }
}
