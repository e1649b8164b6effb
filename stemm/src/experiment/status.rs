//! How far a plan is, by the names of the files of its results.

use std::collections::HashMap;
use std::fmt;

use polars::prelude::DataFrame;

use super::{Entry, Outcome};
use crate::align::Aligner;
use crate::frame::{column, frame};
use crate::notebook::{Bundle, Show};

/// How far a plan is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its experiments.
    pub entries: Vec<Entry>,
    /// How far each is.
    pub outcomes: Vec<Outcome>,
    /// Number and error of those that failed.
    pub errors: Vec<(usize, String)>,
}

impl Status {
    /// Experiments that came so far.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.iter().filter(|own| **own == outcome).count()
    }

    /// Numbers of the experiments that are not done.
    pub fn missing(&self) -> Vec<usize> {
        let outcomes = self.outcomes.iter().enumerate();
        outcomes.filter(|(_, outcome)| **outcome != Outcome::Done).map(|(number, _)| number).collect()
    }

    /// One row a data set, network, method and number of models, with what is done, failed and missing.
    pub fn frame(&self) -> DataFrame {
        let all = self.entries.iter().zip(&self.outcomes);
        let mut cells: Vec<(&str, &str, String, usize, [u64; 3])> = Vec::new();
        let mut places = HashMap::new();
        for (entry, outcome) in all {
            let (method, n) = (entry.experiment.method.name(), entry.experiment.models.len());
            let key = (entry.data.as_str(), entry.network.as_str(), method.to_owned(), n);
            let place = *places.entry(key.clone()).or_insert_with(|| {
                cells.push((key.0, key.1, key.2.clone(), key.3, [0; 3]));
                cells.len() - 1
            });
            cells[place].4[*outcome as usize] += 1;
        }
        frame([
            column("data", cells.iter().map(|cell| cell.0)),
            column("network", cells.iter().map(|cell| cell.1)),
            column("method", cells.iter().map(|cell| cell.2.as_str())),
            column("n_models", cells.iter().map(|cell| cell.3 as u64)),
            column("done", cells.iter().map(|cell| cell.4[Outcome::Done as usize])),
            column("failed", cells.iter().map(|cell| cell.4[Outcome::Failed as usize])),
            column("missing", cells.iter().map(|cell| cell.4[Outcome::Missing as usize])),
        ])
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [done, failed, missing] = [Outcome::Done, Outcome::Failed, Outcome::Missing].map(|own| self.count(own));
        write!(f, "{done} of {} experiments are done, {failed} failed, {missing} are missing", self.entries.len())
    }
}

impl Show for Status {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &self.to_string())
    }
}
