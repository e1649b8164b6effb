//! What experiments say together: means with standard errors over groups of models, and tests against one of the methods.

use std::path::Path;

use polars::prelude::DataFrame;

use super::rows::{self, Measured, Row, to_frame};
use crate::analysis::{distinct, holm, mean_and_band, mean_and_error, student};
use crate::chart::{Chart, Lines, Series};
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::notebook::{Bundle, Show};

/// The rows of a tournament or plan, and what follows from them.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// One row an experiment.
    pub rows: Vec<Row>,
}

/// What one line of the summary is about.
#[derive(Clone, Copy, PartialEq)]
struct Contest<'a> {
    data: &'a str,
    network: &'a str,
    merge: &'a str,
    method: &'a str,
    n_models: usize,
}

impl<'a> From<&'a Row> for Contest<'a> {
    fn from(row: &'a Row) -> Contest<'a> {
        let Row { data, network, merge, method, n_models, .. } = row;
        Contest { data, network, merge, method, n_models: *n_models }
    }
}

impl Verdicts {
    /// Those of a Parquet file of [`Verdicts::frame`]: gathered rows, or those beside a page of this project.
    ///
    /// ```
    /// use stemm::experiment::Verdicts;
    /// use stemm::prelude::*;
    /// # let data = blobs(0, Device::Cpu)?;
    /// # let trainer = Trainer { epochs: 1, batch_size: 64, ..Trainer::default() };
    /// # let methods = vec![Naive.into(), WeightMatching::default().into()];
    /// # let network = Network::mlp(&[16, 12, 4])?;
    /// # let tournament = Tournament { trainer, methods, counts: vec![2], groups: 2, ..Tournament::new(network) };
    /// let path = std::env::temp_dir().join("stemm-doc-verdicts.parquet");
    /// let verdicts = tournament.run(&data)?;
    /// save_parquet(&verdicts.frame(), &path)?;
    /// assert_eq!(Verdicts::load(&path)?.rows, verdicts.rows);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// A file that cannot be read, or is no such table.
    pub fn load(path: impl AsRef<Path>) -> Result<Verdicts> {
        Ok(Verdicts { rows: rows::load(path.as_ref())? })
    }

    /// One row a method, merge, number of models, group and seed: losses and barriers in nats, and the error of a cell that failed.
    pub fn frame(&self) -> DataFrame {
        to_frame(&self.rows)
    }

    /// Mean and standard error over the groups, and a paired test against the method `baseline` (`naive`, say), with Holm's
    /// correction over all tests of the table.
    ///
    /// Seeds of a method share their models: they are averaged within each group first, and only groups count as repeats.
    ///
    /// # Errors
    /// A baseline that did not take part.
    pub fn summary(&self, baseline: &str) -> Result<DataFrame> {
        if !self.rows.iter().any(|row| row.method == baseline) {
            let names: Vec<&str> = self.contests().into_iter().map(|contest| contest.method).collect();
            let value = format!("{baseline}, but the methods are {}", distinct(names).join(", "));
            return Err(Error::Setting { setting: "baseline", value, requirement: "one of the methods" });
        }
        let contests = self.contests();
        let tests: Vec<Option<(f64, f64, f64, f64)>> =
            contests.iter().map(|contest| self.against(contest, baseline)).collect();
        let p_values: Vec<f64> = tests.iter().flatten().map(|test| test.3).collect();
        let mut corrected = holm(&p_values)?.into_iter();
        let corrected: Vec<Option<f64>> = tests.iter().map(|test| test.and_then(|_| corrected.next())).collect();
        let mean = |value: fn(&Measured) -> f64| -> Vec<Option<f64>> {
            let means = contests.iter().map(|contest| mean_and_error(&self.by_group(contest, value)).0);
            means.map(known).collect()
        };
        let error = |value: fn(&Measured) -> f64| -> Vec<Option<f64>> {
            contests.iter().map(|contest| known(mean_and_error(&self.by_group(contest, value)).1)).collect()
        };
        Ok(frame([
            column("data", contests.iter().map(|contest| contest.data)),
            column("network", contests.iter().map(|contest| contest.network)),
            column("merge", contests.iter().map(|contest| contest.merge)),
            column("method", contests.iter().map(|contest| contest.method)),
            column("n_models", contests.iter().map(|contest| contest.n_models as u64)),
            column("groups", contests.iter().map(|contest| self.by_group(contest, |own| own.test_loss).len() as u64)),
            column(
                "failed",
                contests.iter().map(|contest| self.of(contest).filter(|row| row.measured.is_err()).count() as u64),
            ),
            column("test_loss_nats", mean(|own| own.test_loss)),
            column("test_loss_error", error(|own| own.test_loss)),
            column("excess_nats", mean(Measured::excess)),
            column("excess_error", error(Measured::excess)),
            column("test_accuracy", mean(|own| own.test_accuracy)),
            column("test_accuracy_error", error(|own| own.test_accuracy)),
            column("mean_barrier_nats", mean(|own| own.mean_barrier)),
            column("mean_barrier_error", error(|own| own.mean_barrier)),
            column("difference_nats", tests.iter().map(|test| test.map(|test| test.0)).collect::<Vec<Option<f64>>>()),
            column("difference_error", tests.iter().map(|test| test.map(|test| test.1)).collect::<Vec<Option<f64>>>()),
            column("p_value", tests.iter().map(|test| test.map(|test| test.3)).collect::<Vec<Option<f64>>>()),
            column("p_holm", corrected),
            column("seconds", mean(|own| own.seconds + own.merge_seconds)),
        ]))
    }

    /// Loss beyond the mean of the models' against the number of models: one line a method, with 95 % confidence bands.
    pub fn chart(&self) -> Chart {
        let contests = self.contests();
        // What all lines share need not be said of each.
        let differ = |part: fn(&Contest) -> String| distinct(contests.iter().map(part)).len() > 1;
        let mut parts: Vec<fn(&Contest) -> String> = vec![|own| own.method.to_owned()];
        let further: [fn(&Contest) -> String; 3] =
            [|own| own.merge.to_owned(), |own| own.network.to_owned(), |own| own.data.to_owned()];
        parts.extend(further.into_iter().filter(|part| differ(*part)));
        let name = |contest: &Contest| parts.iter().map(|part| part(contest)).collect::<Vec<_>>().join(", ");
        let series = distinct(contests.iter().map(name)).into_iter().map(|line| {
            let own = contests.iter().filter(|contest| name(contest) == line);
            let points = own.map(|contest| {
                let (mean, band) = mean_and_band(&self.by_group(contest, Measured::excess));
                ((contest.n_models as f64, mean), band)
            });
            let (points, band): (Vec<_>, Vec<_>) = points.unzip();
            Series::new(line, points).band(band)
        });
        Lines::new("Merged models, beyond the mean of their own losses", "models", "excess test loss (nats)")
            .series(series)
            .into()
    }

    /// Data, networks, merges, methods and numbers of models, in the order of the rows.
    fn contests(&self) -> Vec<Contest<'_>> {
        let mut contests = distinct(self.rows.iter().map(Contest::from));
        contests.sort_by_key(|contest| contest.n_models);
        contests
    }

    /// A value of each group in which the contest was measured, averaged over the seeds of the method.
    fn by_group(&self, contest: &Contest, value: fn(&Measured) -> f64) -> Vec<f64> {
        self.groups(contest, value).into_iter().map(|(_, mean)| mean).collect()
    }

    /// The rows of a contest.
    fn of<'a>(&'a self, contest: &'a Contest) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(|row| Contest::from(*row) == *contest)
    }

    fn groups(&self, contest: &Contest, value: fn(&Measured) -> f64) -> Vec<(usize, f64)> {
        let mut groups: Vec<usize> = self.of(contest).map(|row| row.group).collect();
        groups = distinct(groups);
        let mean = |group: usize| {
            let rows = self.of(contest).filter(|row| row.group == group);
            let values: Vec<f64> = rows.filter_map(|row| row.measured.as_ref().ok()).map(value).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            mean.is_finite().then_some((group, mean))
        };
        groups.into_iter().filter_map(mean).collect()
    }

    /// Student's test of the loss against the baseline's in the groups that both have; none against itself, or of fewer than two.
    fn against(&self, contest: &Contest, baseline: &str) -> Option<(f64, f64, f64, f64)> {
        if contest.method == baseline {
            return None;
        }
        let others = self.groups(&Contest { method: baseline, ..*contest }, |own| own.test_loss);
        let own = self.groups(contest, |own| own.test_loss);
        let other = |group: usize| others.iter().find(|(other, _)| *other == group).map(|(_, loss)| loss);
        let differences: Vec<f64> = own.iter().filter_map(|(group, loss)| Some(loss - other(*group)?)).collect();
        (differences.len() > 1).then(|| student(&differences))
    }
}

/// What is a number; a missing value else.
fn known(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

impl Show for Verdicts {
    fn look(&self) -> Bundle {
        let failed = self.rows.iter().filter(|row| row.measured.is_err()).count();
        let remark =
            if failed == 0 { "losses in nats".to_owned() } else { format!("losses in nats; {failed} cells failed") };
        Bundle::table(&self.frame(), &remark)
    }
}
