//! The assignment solver against an independent oracle: `pathfinding`'s Kuhn-Munkres on integers, which is exact.

use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;
use rand::{RngExt, SeedableRng};
use stemm::align::AssignmentSolver;

fn oracle(gain: &[f32], n: usize) -> i64 {
    let weights = gain.iter().map(|&value| value as i64).collect();
    kuhn_munkres(&Matrix::from_vec(n, n, weights).unwrap()).0
}

fn value(gain: &[f32], n: usize, solver: &AssignmentSolver) -> i64 {
    // `permutation` is a checked bijection only if built by `new`: check it here.
    let columns = solver.permutation().as_slice().to_vec();
    let checked = stemm::prelude::Permutation::new(columns).unwrap();
    checked.as_slice().iter().enumerate().map(|(row, &column)| gain[row * n + column as usize] as i64).sum()
}

#[test]
fn agrees_with_the_oracle_on_a_thousand_instances_cold_and_warm() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    for instance in 0..1_000 {
        let n = rng.random_range(1..=24);
        // Small ranges of integers give many ties, large ones nearly none.
        let range = [1, 2, 5, 100, 1_000_000][instance % 5];
        let mut gain: Vec<f32> = (0..n * n).map(|_| rng.random_range(-range..=range) as f32).collect();
        let mut warm = AssignmentSolver::new(n);
        warm.solve(&gain).unwrap();
        assert_eq!(value(&gain, n, &warm), oracle(&gain, n), "cold, instance {instance}");
        for step in 0..3 {
            // A few entries change, as between the steps of STE-MM; at last everything does.
            let changes = if step == 2 { n * n } else { n };
            for _ in 0..changes {
                let place = rng.random_range(0..n * n);
                gain[place] = rng.random_range(-range..=range) as f32;
            }
            warm.solve(&gain).unwrap();
            let mut cold = AssignmentSolver::new(n);
            cold.solve(&gain).unwrap();
            let best = oracle(&gain, n);
            assert_eq!(value(&gain, n, &warm), best, "warm, instance {instance}, step {step}");
            assert_eq!(value(&gain, n, &cold), best, "cold, instance {instance}, step {step}");
        }
    }
}

#[test]
fn brute_force_over_all_permutations_of_seven_agrees() {
    fn best(gain: &[f32], row: usize, used: u32) -> i64 {
        if row == 7 {
            return 0;
        }
        let free = (0..7).filter(|column| used >> column & 1 == 0);
        free.map(|column| gain[row * 7 + column] as i64 + best(gain, row + 1, used | 1 << column)).max().unwrap()
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for _ in 0..20 {
        let gain: Vec<f32> = (0..49).map(|_| rng.random_range(-9i32..=9) as f32).collect();
        let mut solver = AssignmentSolver::new(7);
        solver.solve(&gain).unwrap();
        assert_eq!(value(&gain, 7, &solver), best(&gain, 0, 0));
    }
}

#[test]
fn duals_stay_good_over_thousands_of_small_changes() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let n = 12;
    let mut gain: Vec<f32> = (0..n * n).map(|_| rng.random_range(-1000i32..=1000) as f32).collect();
    let mut solver = AssignmentSolver::new(n);
    for step in 0..5_000 {
        let place = rng.random_range(0..n * n);
        gain[place] += rng.random_range(-50i32..=50) as f32;
        solver.solve(&gain).unwrap();
        if step % 500 == 0 {
            assert_eq!(value(&gain, n, &solver), oracle(&gain, n), "step {step}");
        }
    }
}
