//! The linear assignment problem: the permutation `p` that maximises `Σ_i gain[i, p(i)]`, exactly.
//!
//! Shortest augmenting paths on dual potentials (Jonker & Volgenant 1987). The prices `v_j` of the columns are kept
//! between calls: `u_i = max_j (gain[i, j] - v_j)` makes any prices feasible, so old prices never change the optimum,
//! only the time. Rows whose old column is still tight (`u_i + v_j = gain[i, j]`) keep it; only the others are
//! augmented. If all rows keep theirs, the call ends after one pass over the matrix: the duals certify the optimum.
//! Prices are f64 and centred after each call, since in f32 they drift over thousands of calls.

use super::Permutation;
use crate::error::{Error, Result};

const NONE: usize = usize::MAX;

/// A column is tight if it misses the best by less than this share of the largest entry: far below f32's rounding of
/// the entries (6e-8), above the rounding of f64 prices.
const TIGHT: f64 = 1e-12;

/// A solver for matrices of one size; it remembers prices and assignment from call to call.
#[derive(Clone, Debug)]
pub struct AssignmentSolver {
    n: usize,
    prices: Vec<f64>,
    column_of: Vec<usize>,
    row_of: Vec<usize>,
    warm: bool,
    // Scratch space of one augmentation: no allocation a call.
    distance: Vec<f64>,
    previous_row: Vec<usize>,
    scanned: Vec<(usize, f64)>,
    free_rows: Vec<usize>,
}

impl AssignmentSolver {
    /// A solver for `n x n` matrices that has seen none yet.
    pub fn new(n: usize) -> AssignmentSolver {
        AssignmentSolver {
            n,
            prices: vec![0.0; n],
            column_of: vec![NONE; n],
            row_of: vec![NONE; n],
            warm: false,
            distance: vec![0.0; n],
            previous_row: vec![NONE; n],
            scanned: Vec::with_capacity(n),
            free_rows: Vec::with_capacity(n),
        }
    }

    /// Forgets prices and assignment: the next call starts cold.
    pub fn forget(&mut self) {
        self.warm = false;
    }

    /// Solves for `gain: [n, n]` in row-major order; returns the number of rows that had to be assigned anew.
    ///
    /// # Errors
    /// A matrix of another size; NaN or infinite entries.
    ///
    /// ```
    /// let mut solver = stemm::align::AssignmentSolver::new(2);
    /// assert_eq!(solver.solve(&[1.0, 5.0, 4.0, 6.0])?, 2); // cold: both rows are new
    /// assert_eq!(solver.permutation().as_slice(), [1, 0]); // 5 + 4 > 1 + 6
    /// assert_eq!(solver.solve(&[1.0, 5.0, 4.0, 6.1])?, 0); // still optimal: certified by the duals
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn solve(&mut self, gain: &[f32]) -> Result<usize> {
        let n = self.n;
        if gain.len() != n * n {
            return Err(Error::ShapeMismatch {
                tensor: "gain matrix".into(),
                expected: vec![n as i64, n as i64],
                found: vec![gain.len() as i64],
                hint: "give n * n values in row-major order",
            });
        }
        if !gain.iter().all(|value| value.is_finite()) {
            return Err(Error::NonFinite { tensor: "the gain matrix".into() });
        }
        if self.warm {
            let largest = gain.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            self.keep_tight_rows(gain, TIGHT * f64::from(largest));
        } else {
            self.start_cold(gain);
        }
        let solved = self.free_rows.len();
        if !self.warm {
            self.reduce_rows(gain);
            self.reduce_rows(gain);
        }
        for position in 0..self.free_rows.len() {
            self.augment(gain, self.free_rows[position]);
        }
        let mean = self.prices.iter().sum::<f64>() / n.max(1) as f64;
        self.prices.iter_mut().for_each(|price| *price -= mean);
        self.warm = true;
        Ok(solved)
    }

    /// The assignment of the last call: row `i` gets column `p[i]`.
    pub fn permutation(&self) -> Permutation {
        if !self.warm {
            return Permutation::identity(self.n);
        }
        Permutation::from_assignment(self.column_of.iter().copied())
    }

    /// Starts from the highest gain of each column as its price, and frees every row.
    fn start_cold(&mut self, gain: &[f32]) {
        self.prices.fill(f64::NEG_INFINITY);
        for row in gain.chunks_exact(self.n.max(1)) {
            for (price, &value) in self.prices.iter_mut().zip(row) {
                *price = price.max(f64::from(value));
            }
        }
        self.column_of.fill(NONE);
        self.row_of.fill(NONE);
        self.free_rows.clear();
        self.free_rows.extend(0..self.n);
    }

    /// Frees the rows whose column no longer has the best reduced gain.
    fn keep_tight_rows(&mut self, gain: &[f32], tolerance: f64) {
        self.free_rows.clear();
        for (row, values) in gain.chunks_exact(self.n.max(1)).enumerate() {
            let column = self.column_of[row];
            let own = f64::from(values[column]) - self.prices[column];
            let best = values.iter().zip(&self.prices).fold(f64::NEG_INFINITY, |best, (&value, &price)| {
                let reduced = f64::from(value) - price;
                if reduced > best { reduced } else { best }
            });
            if own < best - tolerance {
                self.column_of[row] = NONE;
                self.row_of[column] = NONE;
                self.free_rows.push(row);
            }
        }
    }

    /// Augmenting row reduction: each free row takes its best column and raises its price to where the second best is
    /// as good; a row that loses its column by that tries again at once.
    fn reduce_rows(&mut self, gain: &[f32]) {
        let n = self.n;
        let mut waiting = std::mem::take(&mut self.free_rows);
        let mut left = Vec::new();
        // Ties of floating-point prices could hand a column to and fro for ever.
        let mut budget = 4 * n;
        while let Some(row) = waiting.pop() {
            let values = &gain[row * n..(row + 1) * n];
            let (mut best, mut second, mut best_column, mut second_column) =
                (f64::NEG_INFINITY, f64::NEG_INFINITY, NONE, NONE);
            for (column, (&value, &price)) in values.iter().zip(&self.prices).enumerate() {
                let reduced = f64::from(value) - price;
                if reduced > second {
                    if reduced > best {
                        (second, second_column) = (best, best_column);
                        (best, best_column) = (reduced, column);
                    } else {
                        (second, second_column) = (reduced, column);
                    }
                }
            }
            let strict = second_column != NONE && best > second;
            let column = if !strict && self.row_of[best_column] != NONE && second_column != NONE {
                second_column
            } else {
                best_column
            };
            if strict {
                self.prices[column] += best - second;
            }
            let loser = self.row_of[column];
            if loser != NONE && !strict {
                left.push(row);
                continue;
            }
            self.row_of[column] = row;
            self.column_of[row] = column;
            if loser != NONE {
                self.column_of[loser] = NONE;
                if budget > 0 {
                    budget -= 1;
                    waiting.push(loser);
                } else {
                    left.push(loser);
                }
            }
        }
        self.free_rows = left;
    }

    /// Assigns a free row along the path of least total slack (Dijkstra over columns) and adjusts the prices.
    fn augment(&mut self, gain: &[f32], free_row: usize) {
        /// Marks a column as scanned: no candidate distance is below it.
        const SCANNED: f64 = f64::NEG_INFINITY;
        let n = self.n;
        self.distance.fill(f64::INFINITY);
        self.scanned.clear();
        let first = &gain[free_row * n..(free_row + 1) * n];
        let top = first
            .iter()
            .zip(&self.prices)
            .fold(f64::NEG_INFINITY, |best, (&value, &price)| best.max(f64::from(value) - price));
        let (mut row, mut row_dual, mut length) = (free_row, top, 0.0);
        let sink = loop {
            // slack[i, j] = u_i + v_j - gain[i, j], never negative but by rounding
            let values = &gain[row * n..(row + 1) * n];
            let offset = length + row_dual;
            let (mut nearest, mut nearest_column) = (f64::INFINITY, NONE);
            let columns = values.iter().zip(&self.prices).zip(self.distance.iter_mut().zip(&mut self.previous_row));
            for (column, ((&value, &price), (distance, previous_row))) in columns.enumerate() {
                let candidate = offset + (price - f64::from(value));
                if candidate < *distance {
                    *distance = candidate;
                    *previous_row = row;
                }
                if *distance < nearest && *distance != SCANNED {
                    (nearest, nearest_column) = (*distance, column);
                }
            }
            length = length.max(nearest);
            self.distance[nearest_column] = SCANNED;
            if self.row_of[nearest_column] == NONE {
                break nearest_column;
            }
            self.scanned.push((nearest_column, nearest));
            row = self.row_of[nearest_column];
            row_dual = f64::from(gain[row * n + nearest_column]) - self.prices[nearest_column];
        };
        for &(column, distance) in &self.scanned {
            self.prices[column] += length - distance;
        }
        let mut column = sink;
        loop {
            let row = self.previous_row[column];
            self.row_of[column] = row;
            column = std::mem::replace(&mut self.column_of[row], column);
            if row == free_row {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(gain: &[f32], n: usize, permutation: &Permutation) -> f64 {
        permutation.as_slice().iter().enumerate().map(|(i, &j)| f64::from(gain[i * n + j as usize])).sum()
    }

    #[test]
    fn certifies_an_unchanged_matrix_without_work() {
        let gain: Vec<f32> = (0..64).map(|k| ((k * 37) % 61) as f32).collect();
        let mut solver = AssignmentSolver::new(8);
        assert_eq!(solver.solve(&gain).unwrap(), 8);
        let first = solver.permutation();
        assert_eq!(solver.solve(&gain).unwrap(), 0);
        assert_eq!(solver.permutation(), first);
    }

    #[test]
    fn wrong_prices_do_not_change_the_optimum() {
        let gain: Vec<f32> = (0..49).map(|k| ((k * 31) % 47) as f32).collect();
        let mut cold = AssignmentSolver::new(7);
        cold.solve(&gain).unwrap();
        let mut misled = cold.clone();
        misled.prices.iter_mut().enumerate().for_each(|(j, price)| *price = (j as f64 - 3.0) * 1e3);
        misled.solve(&gain).unwrap();
        assert_eq!(value(&gain, 7, &misled.permutation()), value(&gain, 7, &cold.permutation()));
    }

    #[test]
    fn nan_infinity_and_wrong_sizes_are_errors() {
        let mut solver = AssignmentSolver::new(2);
        assert!(matches!(solver.solve(&[0.0, f32::NAN, 0.0, 0.0]), Err(Error::NonFinite { .. })));
        assert!(matches!(solver.solve(&[0.0, f32::INFINITY, 0.0, 0.0]), Err(Error::NonFinite { .. })));
        assert!(matches!(solver.solve(&[0.0; 3]), Err(Error::ShapeMismatch { .. })));
    }

    #[test]
    fn sizes_zero_and_one_work() {
        assert_eq!(AssignmentSolver::new(0).solve(&[]).unwrap(), 0);
        let mut one = AssignmentSolver::new(1);
        one.solve(&[-3.0]).unwrap();
        assert_eq!(one.permutation().as_slice(), [0]);
    }
}
