//! Gain matrices: what it is worth to put unit `j` of a model in the place of unit `i` of the target.
//!
//! The gain matrix of a group is a sum of terms, one for each run of a tensor axis that belongs to the group. A term is
//! a matrix product, the costly part of weight matching; when few units moved since, only their share is exchanged.

use tch::{Kind, Tensor};

use super::Permutations;
use super::soft::SoftMaps;
use crate::error::Result;
use crate::network::{Member, Params, PermutationSpec};
use crate::slice;
use crate::train::Precision;

/// Units are exchanged up to this share of a new matrix's multiplications; beyond it, a new one costs less.
const EXCHANGED: f64 = 0.6;

/// The gain matrix of a group, `G[i, j] = Σ < slice i of the target, slice j of the model with its other axes permuted >`.
pub(super) struct Gain {
    group: usize,
    units: i64,
    terms: Vec<Term>,
    /// Number format of the products.
    precision: Precision,
    value: Option<Value>,
}

/// The share of one run of an axis.
struct Term {
    member: Member,
    /// The runs of the tensor's other axes that groups move.
    neighbours: Vec<Neighbour>,
}

struct Neighbour {
    group: usize,
    run: Member,
}

struct Value {
    matrix: Tensor, // [units, units]
    /// The permutations of the other groups that it holds for.
    permutations: Permutations,
}

impl Gain {
    pub(super) fn new(spec: &PermutationSpec, group: usize, precision: Precision) -> Gain {
        let terms = spec.members(group).into_iter().map(|member| {
            let neighbours = (0..spec.groups().len()).flat_map(|group| {
                let runs = spec.members(group).into_iter();
                let runs = runs.filter(|run| run.tensor == member.tensor && run.axis != member.axis);
                runs.map(move |run| Neighbour { group, run })
            });
            Term { member, neighbours: neighbours.collect() }
        });
        Gain { group, units: spec.groups()[group].size as i64, terms: terms.collect(), precision, value: None }
    }

    /// The tensors that the group moves, each once.
    pub(super) fn tensors(&self) -> Vec<usize> {
        let mut tensors: Vec<usize> = self.terms.iter().map(|term| term.member.tensor).collect();
        tensors.dedup(); // members are in the order of the tensors
        tensors
    }

    /// The groups whose permutations the matrix depends on.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = usize> + '_ {
        self.terms.iter().flat_map(|term| term.neighbours.iter().map(|neighbour| neighbour.group))
    }

    /// Forgets the matrix: the target is another one.
    pub(super) fn clear(&mut self) {
        self.value = None;
    }

    /// The matrix for permutations of the other groups.
    pub(super) fn matrix(
        &mut self,
        spec: &PermutationSpec,
        model: &Params,
        target: &Params,
        permutations: &Permutations,
    ) -> Result<&Tensor> {
        let matrix = match self.value.take() {
            Some(value) if self.few_moved(model, &value.permutations, permutations) => {
                self.exchange(value, model, target, permutations)?
            }
            _ => self.new_rows(spec, model, target, permutations, None)?,
        };
        let value = Value { matrix, permutations: permutations.clone() };
        Ok(&self.value.insert(value).matrix)
    }

    /// Rows of the matrix from nothing: those of some units of the target, or all.
    fn new_rows(
        &self,
        spec: &PermutationSpec,
        model: &Params,
        target: &Params,
        permutations: &Permutations,
        units: Option<&[i64]>,
    ) -> Result<Tensor> {
        self.products(target, units, |term| term.permuted(spec, model, permutations))
    }

    /// `Σ ours theirsᵀ` over the terms: some units of the target, or all, and what `theirs` makes of the model.
    fn products(
        &self,
        target: &Params,
        units: Option<&[i64]>,
        theirs: impl Fn(&Term) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut sum = None;
        for term in &self.terms {
            let all = self.rows(term, &target.tensors()[term.member.tensor])?;
            let ours = units.map_or(Ok(all.shallow_clone()), |units| slice::select(&all, 0, units))?;
            sum = Some(self.add_product(sum, &ours, &self.rows(term, &theirs(term)?)?)?);
        }
        Ok(sum.map_or_else(|| Tensor::f_zeros([self.units; 2], (Kind::Float, target.device())), Ok)?)
    }

    /// The gradient of `<target, X·model>` for the group's matrix `X`, with the model's other axes mapped: what the gain matrix is
    /// where all matrices are permutations.
    pub(super) fn soft(
        &self,
        spec: &PermutationSpec,
        model: &Params,
        target: &Params,
        maps: &SoftMaps,
    ) -> Result<Tensor> {
        self.products(target, None, |term| {
            let Member { tensor, axis, .. } = term.member;
            maps.apply_to_tensor(&spec.axes()[tensor], &model.tensors()[tensor], Some(axis))
        })
    }

    /// Whether exchanging the units that moved costs much less than a new matrix.
    fn few_moved(&self, model: &Params, before: &Permutations, now: &Permutations) -> bool {
        let (mut moved, mut whole) = (0.0, 0.0);
        for term in &self.terms {
            let values = model.tensors()[term.member.tensor].numel() as f64;
            whole += values;
            for neighbour in &term.neighbours {
                let (before, now) = (&before.0[neighbour.group], &now.0[neighbour.group]);
                moved += values * before.moved(now).len() as f64 / now.len() as f64;
            }
        }
        moved <= EXCHANGED * whole
    }

    /// The matrix with the units of other groups that moved exchanged.
    fn exchange(&self, value: Value, model: &Params, target: &Params, now: &Permutations) -> Result<Tensor> {
        let mut matrix = value.matrix;
        for term in &self.terms {
            let (model, target) = (&model.tensors()[term.member.tensor], &target.tensors()[term.member.tensor]);
            for neighbour in &term.neighbours {
                let (before, now) = (&value.permutations.0[neighbour.group], &now.0[neighbour.group]);
                let moved = before.moved(now);
                if !moved.is_empty() {
                    let come = neighbour.select(model, &now.at(&moved))?;
                    let change = come.f_sub(&neighbour.select(model, &before.at(&moved))?)?;
                    let ours = self.rows(term, &neighbour.select(target, &moved)?)?;
                    matrix = self.add_product(Some(matrix), &ours, &self.rows(term, &change)?)?;
                }
            }
        }
        Ok(matrix)
    }

    /// Brings the matrix from one target to another that differs only in some units of each group, or forgets it where
    /// that costs more than a new one.
    pub(super) fn follow_target(
        &mut self,
        spec: &PermutationSpec,
        model: &Params,
        [before, target]: [&Params; 2],
        changed: &[Vec<i64>],
    ) -> Result<()> {
        let few = |group: usize| changed[group].len() as f64 <= EXCHANGED * spec.groups()[group].size as f64;
        let Some(Value { mut matrix, permutations }) = self.value.take() else { return Ok(()) };
        if !few(self.group) || !self.neighbours().all(few) {
            return Ok(());
        }
        for term in &self.terms {
            let [before, target] = [before, target].map(|params| &params.tensors()[term.member.tensor]);
            let model = &model.tensors()[term.member.tensor];
            for neighbour in &term.neighbours {
                let places = &changed[neighbour.group];
                if !places.is_empty() {
                    let change = neighbour.select(target, places)?.f_sub(&neighbour.select(before, places)?)?;
                    let theirs = neighbour.select(model, &permutations.0[neighbour.group].at(places))?;
                    matrix = self.add_product(Some(matrix), &self.rows(term, &change)?, &self.rows(term, &theirs)?)?;
                }
            }
        }
        let rows = &changed[self.group];
        if !rows.is_empty() {
            let new = self.new_rows(spec, model, target, &permutations, Some(rows))?;
            let index = Tensor::f_from_slice(rows)?.f_to_device(matrix.device())?;
            let _ = matrix.f_index_copy_(0, &index, &new)?;
        }
        self.value = Some(Value { matrix, permutations });
        Ok(())
    }

    /// `sum + ours theirsᵀ`, in place.
    fn add_product(&self, sum: Option<Tensor>, ours: &Tensor, theirs: &Tensor) -> Result<Tensor> {
        Ok(match (sum, self.precision) {
            (None, Precision::F32) => ours.f_matmul(&theirs.f_tr()?)?,
            (Some(mut sum), Precision::F32) => sum.f_addmm_(ours, &theirs.f_tr()?)?,
            (sum, Precision::Bf16) => {
                let (ours, theirs) = (ours.f_to_kind(Kind::BFloat16)?, theirs.f_to_kind(Kind::BFloat16)?);
                let product = ours.f_matmul(&theirs.f_tr()?)?.f_to_kind(Kind::Float)?;
                sum.map_or(Ok(product.shallow_clone()), |mut sum| sum.f_add_(&product))?
            }
        })
    }

    /// The units of a term's run as the rows of a matrix: `[units, block * the rest]`.
    fn rows(&self, term: &Term, tensor: &Tensor) -> Result<Tensor> {
        let Member { axis, offset, block, .. } = term.member;
        let run = tensor.f_narrow(axis as i64, offset, self.units * block)?;
        Ok(run.f_movedim_int(axis as i64, 0)?.f_reshape([self.units, -1])?)
    }
}

impl Term {
    /// The model's tensor with its other axes permuted.
    fn permuted(&self, spec: &PermutationSpec, model: &Params, permutations: &Permutations) -> Result<Tensor> {
        let Member { tensor, axis, .. } = self.member;
        permutations.apply_to_tensor(&spec.axes()[tensor], &model.tensors()[tensor], Some(axis))
    }
}

impl Neighbour {
    /// The entries of some units on the neighbour's axis.
    fn select(&self, tensor: &Tensor, units: &[i64]) -> Result<Tensor> {
        let Member { axis, offset, block, .. } = self.run;
        let entries: Vec<i64> =
            units.iter().flat_map(|unit| (0..block).map(move |entry| offset + unit * block + entry)).collect();
        slice::select(tensor, axis, &entries)
    }
}
