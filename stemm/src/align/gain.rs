//! Gain matrices: what it is worth to put unit `j` of a model in the place of unit `i` of the target.
//!
//! The gain matrix of a group is a sum of terms, one for each run of a tensor axis that belongs to the group. A term is
//! a matrix product, the costly part of weight matching; when few units moved since, only their share is computed again.

use tch::Tensor;

use super::{Permutation, Permutations};
use crate::error::Result;
use crate::network::{AxisSegment, Member, Params, PermutationSpec};

/// Up to this share of a group's units is exchanged in a term; beyond it, a new product costs less.
const EXCHANGED: f64 = 0.4;

/// `G[i, j] = < slice i of the target, slice j of the model with its other axes permuted >`.
pub(super) struct Term {
    group: usize,
    units: i64,
    member: Member,
    /// The tensor's other axes, as far as groups move them.
    pub(super) neighbours: Vec<Neighbour>,
    value: Option<Value>,
}

/// A run of another axis of a term's tensor.
pub(super) struct Neighbour {
    pub(super) group: usize,
    run: Member,
}

struct Value {
    gain: Tensor, // [units, units]
    /// The permutations of the neighbours that it holds for.
    neighbours: Vec<Permutation>,
}

impl Term {
    pub(super) fn new(spec: &PermutationSpec, group: usize, member: Member) -> Term {
        let neighbours = (0..spec.groups().len()).flat_map(|group| {
            let runs = spec.members(group).into_iter();
            let runs = runs.filter(|run| run.tensor == member.tensor && run.axis != member.axis);
            runs.map(move |run| Neighbour { group, run })
        });
        let neighbours = neighbours.collect();
        Term { group, units: spec.groups()[group].size as i64, member, neighbours, value: None }
    }

    pub(super) fn tensor(&self) -> usize {
        self.member.tensor
    }

    /// Forgets the product: the target is another one.
    pub(super) fn clear(&mut self) {
        self.value = None;
    }

    /// The term for permutations of the other groups.
    pub(super) fn gain(
        &mut self,
        spec: &PermutationSpec,
        model: &Params,
        target: &Params,
        permutations: &Permutations,
    ) -> Result<&Tensor> {
        let neighbours: Vec<Permutation> =
            self.neighbours.iter().map(|neighbour| permutations.0[neighbour.group].clone()).collect();
        let (model, target) = (&model.tensors()[self.member.tensor], &target.tensors()[self.member.tensor]);
        let gain = match self.value.take() {
            Some(value) if value.neighbours == neighbours => value.gain,
            Some(value) if self.few_moved(&value.neighbours, &neighbours) => {
                let (neighbour, before, now) = (&self.neighbours[0], &value.neighbours[0], &neighbours[0]);
                let moved = before.moved(now);
                let come = neighbour.select(model, &now.at(&moved))?;
                let change = come.f_sub(&neighbour.select(model, &before.at(&moved))?)?;
                let ours = self.rows(&neighbour.select(target, &moved)?)?;
                let mut gain = value.gain;
                gain.f_addmm_(&ours, &self.rows(&change)?.f_tr()?)?
            }
            _ => {
                let permuted = permutations.apply_to_tensor(self.axes(spec), model, Some(self.member.axis))?;
                self.rows(target)?.f_matmul(&self.rows(&permuted)?.f_tr()?)?
            }
        };
        Ok(&self.value.insert(Value { gain, neighbours }).gain)
    }

    /// Whether there is one neighbour, and few of its units moved.
    fn few_moved(&self, before: &[Permutation], now: &[Permutation]) -> bool {
        matches!((before, now), ([before], [now]) if few(&before.moved(now), now.len()))
    }

    /// Brings the term from one target to another that differs only in some units of each group; false if that costs
    /// more than a new product.
    pub(super) fn follow_target(
        &mut self,
        spec: &PermutationSpec,
        model: &Params,
        targets: [&Params; 2],
        changed: &[Vec<i64>],
    ) -> Result<bool> {
        let Some(value) = &self.value else { return Ok(false) };
        let rows = &changed[self.group];
        let columns = self.neighbours.first().map_or(&[][..], |neighbour| &changed[neighbour.group]);
        let width = value.neighbours.first().map_or(0, Permutation::len);
        if self.neighbours.len() > 1 || !few(rows, self.units as usize) || !few(columns, width) {
            return Ok(false);
        }
        let [before, target] = targets.map(|params| &params.tensors()[self.member.tensor]);
        let model = &model.tensors()[self.member.tensor];
        let mut gain = value.gain.shallow_clone();
        if let ([neighbour], [permutation], false) =
            (self.neighbours.as_slice(), value.neighbours.as_slice(), columns.is_empty())
        {
            let change = neighbour.select(target, columns)?.f_sub(&neighbour.select(before, columns)?)?;
            let theirs = self.rows(&neighbour.select(model, &permutation.at(columns))?)?;
            let _ = gain.f_addmm_(&self.rows(&change)?, &theirs.f_tr()?)?;
        }
        if !rows.is_empty() {
            let mut permutations = Permutations::identity(spec);
            for (neighbour, permutation) in self.neighbours.iter().zip(&value.neighbours) {
                permutations.0[neighbour.group] = permutation.clone();
            }
            let permuted = permutations.apply_to_tensor(self.axes(spec), model, Some(self.member.axis))?;
            let index = Tensor::f_from_slice(rows)?.f_to_device(target.device())?;
            let ours = self.rows(target)?.f_index_select(0, &index)?;
            let _ = gain.f_index_copy_(0, &index, &ours.f_matmul(&self.rows(&permuted)?.f_tr()?)?)?;
        }
        Ok(true)
    }

    fn axes<'a>(&self, spec: &'a PermutationSpec) -> &'a [Vec<AxisSegment>] {
        &spec.axes()[self.member.tensor]
    }

    /// The units of the run as the rows of a matrix: `[units, block * the rest]`.
    fn rows(&self, tensor: &Tensor) -> Result<Tensor> {
        let Member { axis, offset, block, .. } = self.member;
        let run = tensor.f_narrow(axis as i64, offset, self.units * block)?;
        Ok(run.f_movedim_int(axis as i64, 0)?.f_reshape([self.units, -1])?)
    }
}

impl Neighbour {
    /// The entries of some units on the neighbour's axis.
    fn select(&self, tensor: &Tensor, units: &[i64]) -> Result<Tensor> {
        let Member { axis, offset, block, .. } = self.run;
        let entries: Vec<i64> =
            units.iter().flat_map(|unit| (0..block).map(move |entry| offset + unit * block + entry)).collect();
        Ok(tensor.f_index_select(axis as i64, &Tensor::f_from_slice(&entries)?.f_to_device(tensor.device())?)?)
    }
}

fn few(moved: &[i64], units: usize) -> bool {
    moved.len() as f64 <= EXCHANGED * units as f64
}
