//! The linear assignment problem: the permutation `p` that maximises `Σ_i gain[i, p(i)]`, exactly.
//!
//! Shortest augmenting paths on dual potentials (Jonker & Volgenant 1987). The prices `v_j` of the columns are kept
//! between calls: `u_i = max_j (gain[i, j] - v_j)` makes any prices feasible, so old prices never change the optimum,
//! only the time. Rows whose old column is still tight (`u_i + v_j = gain[i, j]`) keep it; only the others are
//! augmented. If all rows keep theirs, the call ends after one pass over the matrix: the duals certify the optimum.
//! Prices are f64 and centred after each call, since in f32 they drift over thousands of calls.
//!
//! All loops over a row lie in [`scan`], compiled for several instruction sets and chosen at run time.

mod scan;

use tch::{Kind, Tensor};

use super::Permutation;
use crate::error::{Error, Result};

const NONE: u64 = u64::MAX;

/// A column is tight if it misses the best by less than this share of the largest entry and price: far below f32's
/// rounding of the entries (6e-8), above the rounding of f64 prices.
const TIGHT: f64 = 1e-12;

/// A solver for matrices of one size; it remembers prices and assignment from call to call.
#[derive(Clone, Debug)]
pub struct AssignmentSolver {
    n: usize,
    prices: Vec<f64>,
    column_of: Vec<u64>,
    row_of: Vec<u64>,
    warm: bool,
    // Scratch space of one augmentation: no allocation a call.
    open_prices: Vec<f64>,
    distance: Vec<f64>,
    previous_row: Vec<u64>,
    scanned: Vec<(usize, f64)>,
    free_rows: Vec<usize>,
    waiting: Vec<usize>,
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
            open_prices: vec![0.0; n],
            distance: vec![0.0; n],
            previous_row: vec![NONE; n],
            scanned: Vec::with_capacity(n),
            free_rows: Vec::with_capacity(n),
            waiting: Vec::with_capacity(n),
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
        if self.warm {
            self.keep_tight_rows(gain)?
        } else {
            self.start_cold(gain)?
        }
        let solved = self.free_rows.len();
        self.reduce_rows(gain);
        self.reduce_rows(gain);
        for position in 0..self.free_rows.len() {
            self.augment(gain, self.free_rows[position]);
        }
        let mean = self.prices.iter().sum::<f64>() / n.max(1) as f64;
        self.prices.iter_mut().for_each(|price| *price -= mean);
        self.warm = true;
        Ok(solved)
    }

    /// Whether the prices show, on the device of `gain: [n, n]`, that the assignment of the last call is still optimal:
    /// then [`AssignmentSolver::solve`] would keep it.
    pub(crate) fn certifies(&self, gain: &Tensor) -> Result<bool> {
        if !self.warm {
            return Ok(false);
        }
        let device = gain.device();
        let columns: Vec<i64> = self.column_of.iter().map(|&column| column as i64).collect();
        let columns = Tensor::f_from_slice(&columns)?.f_unsqueeze(1)?.f_to_device(device)?;
        let reduced = gain.f_to_kind(Kind::Double)?.f_sub(&Tensor::f_from_slice(&self.prices)?.f_to_device(device)?)?;
        let own = reduced.f_gather(1, &columns, false)?.f_squeeze()?;
        let best = reduced.f_amax([1i64], false)?;
        let scale = gain.f_abs()?.f_amax([1i64], false)?.f_to_kind(Kind::Double)?.f_add_scalar(self.largest_price())?;
        let tolerance = scale.f_mul_scalar(TIGHT)?;
        // A comparison with NaN is false, so that `solve` gets to see it.
        Ok(own.f_ge_tensor(&best.f_sub(&tolerance)?)?.f_all()?.f_int64_value(&[])? != 0)
    }

    /// The assignment of the last call: row `i` gets column `p[i]`.
    pub fn permutation(&self) -> Permutation {
        if !self.warm {
            return Permutation::identity(self.n);
        }
        Permutation::from_assignment(self.column_of.iter().map(|&column| column as usize))
    }

    /// Starts from the highest gain of each column as its price, and frees every row.
    fn start_cold(&mut self, gain: &[f32]) -> Result<()> {
        check_finite(scan::largest_magnitude(gain))?;
        self.prices.fill(f64::NEG_INFINITY);
        for row in gain.chunks_exact(self.n.max(1)) {
            scan::raise_to(&mut self.prices, row);
        }
        self.column_of.fill(NONE);
        self.row_of.fill(NONE);
        self.free_rows.clear();
        self.free_rows.extend(0..self.n);
        Ok(())
    }

    /// Frees the rows whose column no longer has the best reduced gain.
    fn keep_tight_rows(&mut self, gain: &[f32]) -> Result<()> {
        self.free_rows.clear();
        self.warm = false; // in case of an error
        let scale = self.largest_price();
        for (row, values) in gain.chunks_exact(self.n.max(1)).enumerate() {
            let column = self.column_of[row] as usize;
            let own = f64::from(values[column]) - self.prices[column];
            let (best, largest) = scan::best_and_largest(values, &self.prices);
            check_finite(largest)?;
            if own < best - TIGHT * (scale + f64::from(largest)) {
                self.column_of[row] = NONE;
                self.row_of[column] = NONE;
                self.free_rows.push(row);
            }
        }
        Ok(())
    }

    fn largest_price(&self) -> f64 {
        self.prices.iter().fold(0.0, |largest, price| price.abs().max(largest))
    }

    /// Augmenting row reduction: each free row takes its best column and raises its price to where the second best is
    /// as good; a row that loses its column by that tries again at once.
    fn reduce_rows(&mut self, gain: &[f32]) {
        let n = self.n;
        std::mem::swap(&mut self.waiting, &mut self.free_rows);
        self.free_rows.clear();
        // Ties of floating-point prices could hand a column to and fro for ever.
        let mut budget = 4 * self.waiting.len();
        while let Some(row) = self.waiting.pop() {
            let values = &gain[row * n..(row + 1) * n];
            let (best, second) = scan::two_best(values, &self.prices);
            let tied = best == second;
            let column = scan::place_of(values, &self.prices, best, tied, &self.row_of);
            let loser = self.row_of[column];
            if loser != NONE && tied {
                self.free_rows.push(row);
                continue;
            }
            if second.is_finite() {
                self.prices[column] += best - second;
            }
            self.row_of[column] = row as u64;
            self.column_of[row] = column as u64;
            if loser != NONE {
                self.column_of[loser as usize] = NONE;
                if budget > 0 {
                    budget -= 1;
                    self.waiting.push(loser as usize);
                } else {
                    self.free_rows.push(loser as usize);
                }
            }
        }
    }

    /// Assigns a free row along the path of least total slack (Dijkstra over columns) and adjusts the prices.
    fn augment(&mut self, gain: &[f32], free_row: usize) {
        let n = self.n;
        self.distance.fill(f64::INFINITY);
        // A scanned column gets an infinite price here, so that nothing reaches it again.
        self.open_prices.copy_from_slice(&self.prices);
        self.scanned.clear();
        let row_of = |row: usize| &gain[row * n..(row + 1) * n];
        let (mut row, mut row_dual, mut length) =
            (free_row, scan::best_and_largest(row_of(free_row), &self.prices).0, 0.0f64);
        let sink = loop {
            // slack[i, j] = u_i + v_j - gain[i, j], never negative but by rounding
            let nearest = scan::relax(
                row_of(row),
                &self.open_prices,
                length + row_dual,
                row as u64,
                &mut self.distance,
                &mut self.previous_row,
            );
            length = length.max(nearest);
            let column = scan::free_or_first(&self.distance, nearest, &self.row_of);
            if self.row_of[column] == NONE {
                break column;
            }
            self.distance[column] = f64::INFINITY;
            self.open_prices[column] = f64::INFINITY;
            self.scanned.push((column, nearest));
            row = self.row_of[column] as usize;
            row_dual = f64::from(gain[row * n + column]) - self.prices[column];
        };
        for &(column, distance) in &self.scanned {
            self.prices[column] += length - distance;
        }
        let mut column = sink as u64;
        loop {
            let row = self.previous_row[column as usize];
            self.row_of[column as usize] = row;
            column = std::mem::replace(&mut self.column_of[row as usize], column);
            if row == free_row as u64 {
                break;
            }
        }
    }
}

fn check_finite(largest: f32) -> Result<()> {
    if largest.is_finite() {
        Ok(())
    } else {
        Err(Error::NonFinite { tensor: "the gain matrix".into(), hint: crate::error::RETRAIN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use tch::Device;

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
    fn the_certificate_on_tensors_is_that_of_the_solver() {
        let n = 24;
        let mut solver = AssignmentSolver::new(n);
        let mut gain = Tensor::randn([n as i64; 2], (Kind::Float, Device::Cpu));
        assert!(!solver.certifies(&gain).unwrap(), "nothing is known yet");
        let mut answers = [0, 0];
        for step in 0..200 {
            let certified = solver.certifies(&gain).unwrap();
            let solved = solver.solve(&Vec::<f32>::try_from(gain.reshape([-1])).unwrap()).unwrap();
            assert_eq!(certified, solved == 0, "step {step}");
            answers[usize::from(certified)] += 1;
            if step % 2 == 0 {
                gain += Tensor::randn([n as i64; 2], (Kind::Float, Device::Cpu)); // another optimum
            } else {
                for (row, &column) in solver.permutation().as_slice().iter().enumerate() {
                    let _ = gain.get(row as i64).get(column).g_add_scalar_(0.01); // only better than before
                }
            }
        }
        assert!(answers.iter().all(|&count| count > 10), "both answers occur: {answers:?}");
        let _ = gain.get(3).get(5).fill_(f64::NAN);
        assert!(!solver.certifies(&gain).unwrap());
    }

    fn random(n: usize, values: std::ops::RangeInclusive<i32>, seed: u64) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n * n).map(|_| rng.random_range(values.clone()) as f32).collect()
    }

    #[test]
    fn a_solver_that_has_forgotten_assigns_every_row_anew() {
        let gain = random(6, -99..=99, 0);
        let mut solver = AssignmentSolver::new(6);
        solver.solve(&gain).unwrap();
        solver.forget();
        assert_eq!(solver.permutation(), Permutation::identity(6), "nothing is known");
        assert_eq!(solver.solve(&gain).unwrap(), 6);
    }

    #[test]
    fn the_scale_of_a_matrix_changes_neither_its_optimum_nor_the_certificate() {
        let n = 12;
        let value = |gain: &[f32], solver: &AssignmentSolver| value(gain, n, &solver.permutation());
        for (scale, seed) in [-60, 0, 60].into_iter().flat_map(|power| (0..5).map(move |seed| (2f32.powi(power), seed)))
        {
            let [first, second] = [seed, seed + 5].map(|seed| random(n, -99..=99, seed));
            let scaled = |gain: &[f32]| gain.iter().map(|gain| gain * scale).collect::<Vec<_>>();
            let (mut solver, mut cold) = (AssignmentSolver::new(n), AssignmentSolver::new(n));
            solver.solve(&scaled(&first)).unwrap();
            assert_eq!(solver.solve(&scaled(&first)).unwrap(), 0, "{scale}");
            solver.solve(&scaled(&second)).unwrap();
            cold.solve(&second).unwrap();
            assert_eq!(value(&second, &solver), value(&second, &cold), "{scale}");
        }
        let mut solver = AssignmentSolver::new(n);
        solver.solve(&vec![0.0; n * n]).unwrap();
        assert_eq!(solver.solve(&vec![0.0; n * n]).unwrap(), 0, "zeros");
        // Prices that are large beside a row's entries round them.
        for seed in 0..5 {
            let gain = random(n, -99..=99, seed).into_iter().enumerate();
            let gain: Vec<f32> = gain.map(|(place, gain)| gain * if place < n { 3e5 } else { 3e-5 }).collect();
            let mut solver = AssignmentSolver::new(n);
            solver.solve(&gain).unwrap();
            assert_eq!(solver.solve(&gain).unwrap(), 0, "one large row");
        }
    }

    #[test]
    fn prices_are_centred_and_prove_the_optimum_of_large_matrices() {
        // Duality: no assignment is worth more than Σ max_j (gain[i, j] - v_j) + Σ v_j.
        for (n, seed) in [(255, 0), (256, 1), (300, 2)] {
            let mut solver = AssignmentSolver::new(n);
            for values in [-3..=3, -99_999..=99_999] {
                let gain = random(n, values, seed);
                solver.solve(&gain).unwrap();
                let found = Permutation::new(solver.permutation().as_slice().to_vec()).unwrap();
                let rows = gain.chunks(n).map(|row| {
                    row.iter()
                        .zip(&solver.prices)
                        .map(|(&gain, price)| f64::from(gain) - price)
                        .fold(f64::MIN, f64::max)
                });
                let sum: f64 = solver.prices.iter().sum();
                let (bound, found) = (rows.sum::<f64>() + sum, value(&gain, n, &found));
                assert!((found - bound).abs() < 1e-6, "{n}: {found} of {bound}");
                assert!(sum.abs() < 1e-6, "{n}: {sum}");
            }
        }
    }

    #[test]
    fn nan_infinity_and_wrong_sizes_are_errors() {
        let mut solver = AssignmentSolver::new(2);
        assert!(matches!(solver.solve(&[0.0, f32::NAN, 0.0, 0.0]), Err(Error::NonFinite { .. })));
        assert!(matches!(solver.solve(&[0.0, f32::INFINITY, 0.0, 0.0]), Err(Error::NonFinite { .. })));
        assert!(matches!(solver.solve(&[0.0; 3]), Err(Error::ShapeMismatch { .. })));
        // A warm solver refuses them as well, and works on afterwards.
        solver.solve(&[1.0, 5.0, 4.0, 6.0]).unwrap();
        assert!(matches!(solver.solve(&[0.0, f32::NAN, 0.0, 0.0]), Err(Error::NonFinite { .. })));
        solver.solve(&[1.0, 5.0, 4.0, 6.0]).unwrap();
        assert_eq!(solver.permutation().as_slice(), [1, 0]);
    }

    #[test]
    fn sizes_zero_and_one_work() {
        assert_eq!(AssignmentSolver::new(0).solve(&[]).unwrap(), 0);
        let mut one = AssignmentSolver::new(1);
        one.solve(&[-3.0]).unwrap();
        assert_eq!(one.permutation().as_slice(), [0]);
    }
}
