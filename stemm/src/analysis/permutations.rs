//! What permutations do: their cycles, whether two methods agree on them, and whether those found pair by pair compose
//! consistently.

use polars::prelude::DataFrame;

use super::pairs;
use super::statistics::mean_and_error;
use crate::align::{Aligner, Alignment, Permutation, Permutations};
use crate::chart::{Chart, Lines, Series};
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::{Model, Network, PermutationSpec, check_models};
use crate::notebook::{Bundle, Show};

/// The permutations of one group of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupCycles {
    /// Position of the model.
    pub model: usize,
    /// Name of the group.
    pub group: String,
    /// Number of units.
    pub units: usize,
    /// Share of the units that stay where they are.
    pub fixed_share: f64,
    /// Number of cycles; a unit that stays is one.
    pub cycles: usize,
    /// Units of the longest cycle.
    pub longest: usize,
}

/// The cycle structure of an alignment.
#[derive(Clone, Debug)]
pub struct Cycles {
    /// The method of the alignment.
    pub method: String,
    /// One row a model and group.
    pub rows: Vec<GroupCycles>,
}

/// The cycle structure of an alignment's permutations.
///
/// # Errors
/// An alignment of models of another network.
///
/// ```
/// use stemm::prelude::*;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let alignment = WeightMatching::default().align(&[model(0)?, model(1)?], &blobs(0, Device::Cpu)?)?;
/// assert_eq!(cycles(&alignment, &network)?.rows[0].fixed_share, 1.0); // the first model keeps its units
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn cycles(alignment: &Alignment, network: &Network) -> Result<Cycles> {
    let spec = network.permutation_spec();
    let rows = each_group(alignment, &spec)?.into_iter().map(|(model, group, permutation)| {
        let lengths = cycle_lengths(permutation);
        GroupCycles {
            model,
            group: group.to_owned(),
            units: permutation.len(),
            fixed_share: share(permutation.fixed_points(), permutation.len()),
            cycles: lengths.len(),
            longest: lengths.into_iter().max().unwrap_or(0),
        }
    });
    Ok(Cycles { method: alignment.method.clone(), rows: rows.collect() })
}

impl Cycles {
    /// One row a model and group: units, share of them that stay, cycles, longest cycle.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        frame([
            column("method", rows.iter().map(|_| self.method.as_str())),
            column("model", rows.iter().map(|row| row.model as u64)),
            column("group", rows.iter().map(|row| row.group.as_str())),
            column("units", rows.iter().map(|row| row.units as u64)),
            column("fixed_share", rows.iter().map(|row| row.fixed_share)),
            column("cycles", rows.iter().map(|row| row.cycles as u64)),
            column("longest_cycle", rows.iter().map(|row| row.longest as u64)),
        ])
    }

    /// The share of units that stay, and the share that is in the longest cycle, group by group; one line a model.
    pub fn chart(&self) -> Chart {
        let panel = |title: &str, value: fn(&GroupCycles) -> f64| -> Chart {
            by_model(title, self.rows.iter().map(|row| (row.model, value(row))))
        };
        let stay = panel("Units that stay", |row| row.fixed_share);
        stay.beside(panel("Units in the longest cycle", |row| share(row.longest, row.units)))
    }
}

impl Show for Cycles {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &self.method)
    }
}

/// What two methods agree on in one group of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupAgreement {
    /// Position of the model.
    pub model: usize,
    /// Name of the group.
    pub group: String,
    /// Share of the units that both send to the same place.
    pub share: f64,
}

/// How far two methods agree.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The two methods.
    pub methods: [String; 2],
    /// One row a model and group.
    pub rows: Vec<GroupAgreement>,
}

/// The share of units that two methods send to the same place.
///
/// # Errors
/// Alignments of different numbers of models, or of models of another network.
///
/// ```
/// use stemm::prelude::*;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let models = [model(0)?, model(1)?];
/// let matched = WeightMatching::default().align(&models, &blobs(0, Device::Cpu)?)?;
/// let found = agreement(&Alignment::naive(&models)?, &matched, &network)?;
/// assert_eq!(found.rows[0].share, 1.0); // the first model keeps its units, whatever the method
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn agreement(first: &Alignment, second: &Alignment, network: &Network) -> Result<Agreement> {
    let spec = network.permutation_spec();
    let (ours, theirs) = (each_group(first, &spec)?, each_group(second, &spec)?);
    if first.permutations.len() != second.permutations.len() {
        let reason = format!("one aligns {} models, the other {}", first.permutations.len(), second.permutations.len());
        return Err(Error::Permutation { reason });
    }
    let rows = ours.into_iter().zip(theirs).map(|((model, group, own), (_, _, other))| GroupAgreement {
        model,
        group: group.to_owned(),
        share: share(own.len() - own.moved(other).len(), own.len()),
    });
    Ok(Agreement { methods: [first.method.clone(), second.method.clone()], rows: rows.collect() })
}

impl Agreement {
    /// One row a model and group: the share of units that both methods send to the same place.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        frame([
            column("first", rows.iter().map(|_| self.methods[0].as_str())),
            column("second", rows.iter().map(|_| self.methods[1].as_str())),
            column("model", rows.iter().map(|row| row.model as u64)),
            column("group", rows.iter().map(|row| row.group.as_str())),
            column("agreement", rows.iter().map(|row| row.share)),
        ])
    }

    /// The shares group by group; one line a model.
    pub fn chart(&self) -> Chart {
        let title = format!("Agreement of {} and {}", self.methods[0], self.methods[1]);
        by_model(&title, self.rows.iter().map(|row| (row.model, row.share)))
    }
}

impl Show for Agreement {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &self.methods.join(" and "))
    }
}

/// The units of one group that come home around one triangle of models.
#[derive(Clone, Debug, PartialEq)]
pub struct Triangle {
    /// Positions of the models.
    pub models: [usize; 3],
    /// Name of the group.
    pub group: String,
    /// Share of the units that come home if the pairs are matched one by one.
    pub pairwise: f64,
    /// The same if all models are aligned at once, to one common frame.
    pub together: f64,
}

/// How consistently pairwise permutations compose.
#[derive(Clone, Debug)]
pub struct CycleConsistency {
    /// The method.
    pub method: String,
    /// One row a triangle and group.
    pub rows: Vec<Triangle>,
}

/// How often units come home around a triangle of models whose permutations were found pair by pair.
///
/// Three models, `P_ij` the permutations that bring model `j` to model `i`: around the triangle `j → i → k → j` a unit
/// comes home if the composition leaves it where it was. Permutations to one common frame, such as those of an alignment
/// of all models at once, bring every unit home: the second value of each row shows it.
///
/// # Errors
/// Fewer than three models, and whatever the aligner reports.
///
/// ```
/// use stemm::prelude::*;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let models = (0..3).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
/// let models = models.collect::<stemm::Result<Vec<_>>>()?;
/// let found = cycle_consistency(&WeightMatching::default(), &models, &blobs(0, Device::Cpu)?)?;
/// assert_eq!(found.rows[0].together, 1.0);
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn cycle_consistency(aligner: &dyn Aligner, models: &[Model], data: &Splits) -> Result<CycleConsistency> {
    check_models("cycle consistency", models, 3)?;
    let n = models.len();
    let spec = models[0].network.permutation_spec();
    let mut to: Vec<Vec<Option<Permutations>>> = vec![vec![None; n]; n];
    for (i, j) in pairs(n) {
        let mut found = aligner.align(&[models[i].clone(), models[j].clone()], data)?;
        found.check(2, &spec)?;
        let own = found.permutations.pop().unwrap_or(Permutations(Vec::new()));
        to[j][i] = Some(Permutations(own.0.iter().map(Permutation::inverse).collect()));
        to[i][j] = Some(own);
    }
    let together = aligner.align(models, data)?;
    together.check(n, &spec)?;
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
                    Ok(share(around.fixed_points(), around.len()))
                };
                let group = described.name.clone();
                let (pairwise, together) = (home(&pairwise)?, home(&common)?);
                rows.push(Triangle { models: [i, j, k], group, pairwise, together });
            }
        }
    }
    Ok(CycleConsistency { method: aligner.name().to_owned(), rows })
}

impl CycleConsistency {
    /// One row a triangle and group: the shares of units that come home.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        frame([
            column("method", rows.iter().map(|_| self.method.as_str())),
            column("triangle", rows.iter().map(|row| format!("{:?}", row.models))),
            column("group", rows.iter().map(|row| row.group.as_str())),
            column("home_share_pairwise", rows.iter().map(|row| row.pairwise)),
            column("home_share_together", rows.iter().map(|row| row.together)),
        ])
    }

    /// The shares group by group, pair by pair and through the common frame: means over the triangles, with their range.
    pub fn chart(&self) -> Chart {
        let first = self.rows.iter().take_while(|row| row.models == self.rows[0].models);
        let groups: Vec<&str> = first.map(|row| row.group.as_str()).collect();
        let line = |name: &str, value: fn(&Triangle) -> f64| {
            let (mut points, mut band) = (Vec::new(), Vec::new());
            for (place, group) in groups.iter().enumerate() {
                let of_group = self.rows.iter().filter(|row| row.group == *group);
                let values: Vec<f64> = of_group.map(value).collect();
                points.push(((place + 1) as f64, mean_and_error(&values).0));
                let range = (f64::INFINITY, f64::NEG_INFINITY);
                band.push(values.iter().fold(range, |(low, high), &value| (low.min(value), high.max(value))));
            }
            Series::new(name, points).band(band)
        };
        let lines = [line("pair by pair", |row| row.pairwise), line("through a common frame", |row| row.together)];
        let title = format!("Units that come home around a triangle, {}", self.method);
        Lines::new(title, GROUPS, SHARE).series(lines).into()
    }
}

impl Show for CycleConsistency {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &self.method)
    }
}

const GROUPS: &str = "permutation group, from the input on";
const SHARE: &str = "share of the units";

/// A line for each model but the first, whose units stay where they are, over the groups in order.
fn by_model(title: &str, values: impl Iterator<Item = (usize, f64)>) -> Chart {
    let mut lines: Vec<Vec<(f64, f64)>> = Vec::new();
    for (model, value) in values {
        lines.resize(lines.len().max(model + 1), Vec::new());
        let place = lines[model].len() + 1;
        lines[model].push((place as f64, value));
    }
    let series = lines.into_iter().enumerate().skip(1);
    let series = series.map(|(model, points)| Series::new(format!("model {model}"), points));
    Lines::new(title, GROUPS, SHARE).series(series).into()
}

/// The permutations of an alignment one by one, with model and name of the group.
fn each_group<'a>(
    alignment: &'a Alignment,
    spec: &'a PermutationSpec,
) -> Result<Vec<(usize, &'a str, &'a Permutation)>> {
    alignment.permutations.iter().try_for_each(|own| own.check(spec))?;
    let groups = spec.groups();
    let models = alignment.permutations.iter().enumerate();
    let named = models.flat_map(|(model, own)| {
        groups.iter().zip(&own.0).map(move |(group, permutation)| (model, group.name.as_str(), permutation))
    });
    Ok(named.collect())
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

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::align::WeightMatching;
    use crate::data::blobs;
    use tch::Device;

    pub(in crate::analysis) fn models_and_data(n: u64) -> Result<(Vec<Model>, Splits)> {
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
    fn a_chart_has_a_line_for_each_model_but_the_first_over_the_groups_in_order() {
        let chart = by_model("t", [(0, 0.1), (0, 0.2), (1, 0.3), (1, 0.4), (2, 0.5)].into_iter());
        let lines = [("model 1", vec![(1.0, 0.3), (2.0, 0.4)]), ("model 2", vec![(1.0, 0.5)])];
        let lines = lines.map(|(name, points)| Series::new(name, points));
        let expected: Chart = Lines::new("t", GROUPS, SHARE).series(lines).into();
        assert_eq!(format!("{chart:?}"), format!("{expected:?}"));
    }

    #[test]
    fn units_come_home_through_a_common_frame_but_seldom_pair_by_pair() -> Result<()> {
        let (models, data) = models_and_data(4)?;
        let found = cycle_consistency(&WeightMatching::default(), &models, &data)?;
        assert_eq!(found.rows.len(), 4 * 2); // triangles by groups
        assert!(found.rows.iter().all(|row| row.together == 1.0));
        assert!(found.rows.iter().all(|row| row.pairwise < 0.9)); // independent models
        assert_eq!(found.frame().height(), 8);
        let svg = found.chart().svg()?;
        assert!(svg.contains("pair by pair") && svg.contains("through a common frame"), "{svg}");
        Ok(())
    }
}
