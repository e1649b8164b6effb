//! Where models lie and what permutations do: distances and cosines before and after alignment, cycles of permutations,
//! agreement between methods, and whether permutations found pair by pair compose consistently.

use super::statistics::mean_and_error;
use crate::align::{Aligner, Alignment, Permutation, Permutations};
use crate::chart::{Bars, Chart};
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::{Model, Network, check_models, dot};
use polars::prelude::DataFrame;

/// l2 distance and cosine of one tensor of a pair of models.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorGeometry {
    /// Position of the first model.
    pub from: usize,
    /// Position of the second.
    pub to: usize,
    /// Name of the tensor; `all` for all of them as one vector.
    pub tensor: String,
    /// `|a - b|` before and after alignment.
    pub distance: [f64; 2],
    /// `<a, b> / (|a| |b|)` before and after alignment.
    pub cosine: [f64; 2],
}

/// Distances and cosines of all pairs of models, tensor by tensor.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// The method of the alignment.
    pub method: String,
    /// Pairs by tensors, then the whole.
    pub rows: Vec<TensorGeometry>,
}

/// Distances and cosines between all pairs of models before and after an alignment; buffers do not count.
///
/// # Errors
/// An alignment of other models.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let models = [model(0)?, model(1)?];
/// let matched = WeightMatching::default().align(&models, &data)?;
/// let whole = geometry(&models, &matched)?.rows.pop().unwrap();
/// assert!(whole.distance[1] < whole.distance[0]);
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn geometry(models: &[Model], alignment: &Alignment) -> Result<Geometry> {
    check_models("geometry", models, 2)?;
    let aligned = alignment.apply(models)?;
    let names: Vec<String> = models[0].params.iter().map(|(name, _)| name.to_owned()).collect();
    let mut rows = Vec::new();
    for (from, to) in pairs(models.len()) {
        // <a, a>, <a, b>, <b, b> of each tensor, before and after.
        let products = [models, &aligned].map(|set| {
            let tensors = set[from].params.tensors().iter().zip(set[to].params.tensors());
            tensors.map(|(a, b)| Ok([dot(a, a)?, dot(a, b)?, dot(b, b)?])).collect::<Result<Vec<_>>>()
        });
        let [before, after] = products;
        let (before, after) = (before?, after?);
        let whole = |all: &[[f64; 3]]| all.iter().fold([0.0; 3], |sum, own| [0, 1, 2].map(|i: usize| sum[i] + own[i]));
        let each = before.iter().zip(&after).map(|(b, a)| [*b, *a]).chain([[whole(&before), whole(&after)]]);
        let named = names[..before.len()].iter().map(String::as_str).chain(["all"]);
        for (tensor, products) in named.zip(each) {
            let distance = products.map(|[aa, ab, bb]| (aa - 2.0 * ab + bb).max(0.0).sqrt());
            let cosine = products.map(|[aa, ab, bb]| ab / (aa * bb).sqrt());
            rows.push(TensorGeometry { from, to, tensor: tensor.to_owned(), distance, cosine });
        }
    }
    Ok(Geometry { method: alignment.method.clone(), rows })
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |from| (from + 1..n).map(move |to| (from, to)))
}

impl Geometry {
    /// One row a pair and tensor.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        frame([
            column("method", rows.iter().map(|_| self.method.as_str())),
            column("from", rows.iter().map(|row| row.from as u64)),
            column("to", rows.iter().map(|row| row.to as u64)),
            column("tensor", rows.iter().map(|row| row.tensor.as_str())),
            column("distance_before", rows.iter().map(|row| row.distance[0])),
            column("distance_after", rows.iter().map(|row| row.distance[1])),
            column("cosine_before", rows.iter().map(|row| row.cosine[0])),
            column("cosine_after", rows.iter().map(|row| row.cosine[1])),
        ])
    }

    /// The mean cosine over all pairs before and after, as two bars: of all parameters as one vector.
    pub fn chart(&self) -> Chart {
        let whole: Vec<&TensorGeometry> = self.rows.iter().filter(|row| row.tensor == "all").collect();
        let bar = |name: &str, value: &dyn Fn(&TensorGeometry) -> f64| {
            let values: Vec<f64> = whole.iter().map(|row| value(row)).collect();
            let (mean, error) = mean_and_error(&values);
            (name.to_owned(), mean, if error.is_finite() { error } else { 0.0 })
        };
        let bars = |title: &str, label: &str, value: fn(&TensorGeometry) -> [f64; 2]| -> Chart {
            let both = [bar("before", &|row| value(row)[0]), bar(&self.method, &|row| value(row)[1])];
            Bars::new(title, label, both.into()).into()
        };
        let distance = bars("Distance between models", "mean l2 distance over pairs", |row| row.distance);
        distance.beside(bars("Cosine between models", "mean cosine over pairs", |row| row.cosine))
    }

    /// Shows the table in the notebook.
    pub fn evcxr_display(&self) {
        crate::notebook::show_frame(&self.frame(), &self.method);
    }
}

/// One row a model and group: units, share of them that stay, cycles, longest cycle.
///
/// # Errors
/// An alignment of models of another network.
pub fn cycles(alignment: &Alignment, network: &Network) -> Result<DataFrame> {
    let spec = network.permutation_spec();
    alignment.permutations.iter().try_for_each(|own| own.check(&spec))?;
    let rows: Vec<_> = each_group(alignment, network).collect();
    let lengths: Vec<Vec<usize>> = rows.iter().map(|(_, _, own)| cycle_lengths(own)).collect();
    Ok(frame([
        column("method", rows.iter().map(|_| alignment.method.as_str())),
        column("model", rows.iter().map(|(model, _, _)| *model as u64)),
        column("group", rows.iter().map(|(_, group, _)| group.as_str())),
        column("units", rows.iter().map(|(_, _, own)| own.len() as u64)),
        column("fixed_share", rows.iter().map(|(_, _, own)| own.fixed_points() as f64 / own.len() as f64)),
        column("cycles", lengths.iter().map(|lengths| lengths.len() as u64)),
        column("longest_cycle", lengths.iter().map(|lengths| lengths.iter().max().copied().unwrap_or(0) as u64)),
    ]))
}

fn each_group<'a>(
    alignment: &'a Alignment,
    network: &Network,
) -> impl Iterator<Item = (usize, String, &'a Permutation)> {
    let names: Vec<String> = network.permutation_spec().groups().iter().map(|group| group.name.clone()).collect();
    let models = alignment.permutations.iter().enumerate();
    models.flat_map(move |(model, own)| {
        names.clone().into_iter().zip(&own.0).map(move |(name, permutation)| (model, name, permutation))
    })
}

fn cycle_lengths(permutation: &Permutation) -> Vec<usize> {
    let mut seen = vec![false; permutation.len()];
    let mut lengths = Vec::new();
    for start in 0..permutation.len() {
        let (mut place, mut length) = (start, 0);
        while !seen[place] {
            seen[place] = true;
            length += 1;
            place = permutation.as_slice()[place] as usize;
        }
        if length > 0 {
            lengths.push(length);
        }
    }
    lengths
}

/// One row a model and group: the share of units that two methods send to the same place.
///
/// # Errors
/// Alignments of different numbers of models, or of models of another network.
pub fn agreement(first: &Alignment, second: &Alignment, network: &Network) -> Result<DataFrame> {
    let spec = network.permutation_spec();
    first.permutations.iter().chain(&second.permutations).try_for_each(|own| own.check(&spec))?;
    if first.permutations.len() != second.permutations.len() {
        let reason = format!("one aligns {} models, the other {}", first.permutations.len(), second.permutations.len());
        return Err(Error::Permutation { reason });
    }
    let rows: Vec<_> = each_group(first, network).zip(each_group(second, network)).collect();
    let share = |a: &Permutation, b: &Permutation| 1.0 - a.moved(b).len() as f64 / a.len() as f64;
    Ok(frame([
        column("first", rows.iter().map(|_| first.method.as_str())),
        column("second", rows.iter().map(|_| second.method.as_str())),
        column("model", rows.iter().map(|(own, _)| own.0 as u64)),
        column("group", rows.iter().map(|(own, _)| own.1.as_str())),
        column("agreement", rows.iter().map(|(a, b)| share(a.2, b.2))),
    ]))
}

/// How often units come home around a triangle of models whose permutations were found pair by pair.
///
/// Three models, `P_ij` the permutations that bring model `j` to model `i`: around the triangle `j → i → k → j` a unit
/// comes home if the composition leaves it where it was. Permutations to one common frame, such as those of an alignment
/// of all models at once, bring every unit home: the second value of each row shows it.
///
/// # Errors
/// Fewer than three models, and whatever the aligner reports.
pub fn cycle_consistency(aligner: &dyn Aligner, models: &[Model], data: &Splits) -> Result<DataFrame> {
    check_models("cycle consistency", models, 3)?;
    let n = models.len();
    let mut to: Vec<Vec<Option<Permutations>>> = vec![vec![None; n]; n];
    for (i, j) in pairs(n) {
        let mut found = aligner.align(&[models[i].clone(), models[j].clone()], data)?.permutations;
        let own = found.pop().unwrap_or(Permutations(Vec::new()));
        to[j][i] = Some(Permutations(own.0.iter().map(Permutation::inverse).collect()));
        to[i][j] = Some(own);
    }
    let together = aligner.align(models, data)?;
    let spec = models[0].network.permutation_spec();
    let mut rows = Vec::new();
    for (i, j) in pairs(n) {
        for k in j + 1..n {
            for (group, described) in spec.groups().iter().enumerate() {
                let pairwise = |to_model: usize, from: usize| -> Result<Permutation> {
                    let found = to[to_model][from].as_ref().map(|own| own.0[group].clone());
                    found.ok_or(Error::Permutation { reason: format!("no pair {to_model}, {from}") })
                };
                // Through the common frame and back: i's permutation undone after j's.
                let common = |to_model: usize, from: usize| -> Result<Permutation> {
                    let own = |model: usize| &together.permutations[model].0[group];
                    own(from).then(&own(to_model).inverse())
                };
                let home = |step: &dyn Fn(usize, usize) -> Result<Permutation>| -> Result<f64> {
                    let around = step(i, j)?.then(&step(k, i)?)?.then(&step(j, k)?)?;
                    Ok(around.fixed_points() as f64 / around.len() as f64)
                };
                rows.push(([i, j, k], described.name.clone(), home(&pairwise)?, home(&common)?));
            }
        }
    }
    Ok(frame([
        column("method", rows.iter().map(|_| aligner.name())),
        column("triangle", rows.iter().map(|row| format!("{:?}", row.0))),
        column("group", rows.iter().map(|row| row.1.as_str())),
        column("home_share_pairwise", rows.iter().map(|row| row.2)),
        column("home_share_together", rows.iter().map(|row| row.3)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::WeightMatching;
    use crate::data::blobs;
    use tch::Device;

    fn models(n: u64) -> Result<(Vec<Model>, Splits)> {
        let network = Network::mlp(&[16, 12, 10, 4])?;
        let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
        Ok(((0..n).map(model).collect::<Result<_>>()?, blobs(0, Device::Cpu)?))
    }

    #[test]
    fn cycles_of_a_known_permutation() {
        let permutation = Permutation::new(vec![1, 2, 0, 3, 5, 4]).unwrap();
        let mut lengths = cycle_lengths(&permutation);
        lengths.sort_unstable();
        assert_eq!(lengths, [1, 2, 3]);
    }

    #[test]
    fn a_permuted_copy_is_brought_home_by_weight_matching() -> Result<()> {
        let (models, data) = models(1)?;
        let spec = models[0].network.permutation_spec();
        let reverse =
            |group: &crate::network::PermutationGroup| Permutation::new((0..group.size as i64).rev().collect());
        let shuffled = Permutations(spec.groups().iter().map(reverse).collect::<Result<_>>()?);
        let copy = Model { params: shuffled.apply(&spec, &models[0].params)?, ..models[0].clone() };
        let pair = [models[0].clone(), copy];
        let alignment = WeightMatching::default().align(&pair, &data)?;
        let whole = geometry(&pair, &alignment)?.rows.pop().unwrap();
        assert!(whole.distance[0] > 1.0 && whole.distance[1] < 1e-3, "{whole:?}");
        assert!(whole.cosine[0] < 0.5 && whole.cosine[1] > 0.999, "{whole:?}");
        let fixed = cycles(&alignment, &models[0].network)?;
        let fixed = fixed.column("fixed_share").unwrap().f64().unwrap();
        assert_eq!(fixed.into_no_null_iter().collect::<Vec<_>>(), [1.0, 1.0, 0.0, 0.0]);
        let same = agreement(&alignment, &alignment, &models[0].network)?;
        assert!(same.column("agreement").unwrap().f64().unwrap().into_no_null_iter().all(|share| share == 1.0));
        Ok(())
    }

    #[test]
    fn units_come_home_through_a_common_frame_but_seldom_pair_by_pair() -> Result<()> {
        let (models, data) = models(4)?;
        let found = cycle_consistency(&WeightMatching::default(), &models, &data)?;
        let shares =
            |name: &str| -> Vec<f64> { found.column(name).unwrap().f64().unwrap().into_no_null_iter().collect() };
        assert_eq!(found.height(), 4 * 2); // triangles by groups
        assert!(shares("home_share_together").iter().all(|&share| share == 1.0));
        assert!(shares("home_share_pairwise").iter().all(|&share| share < 0.9)); // independent models
        Ok(())
    }
}
