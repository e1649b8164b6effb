//! The assignment solver on single matrices. The floor, SciPy's `linear_sum_assignment` on the same matrices, is timed by
//! `scripts/bench.py`, for which the matrices are left in `out/bench/matrices`.

use std::fs;

use rand::{RngExt, SeedableRng};
use stemm::align::AssignmentSolver;
use stemm::prelude::*;

use super::measure::{Row, median, milliseconds, peak_mb};
use super::{Outcome, trained};

const FOLDER: &str = "../out/bench/matrices";

pub fn cold() -> Outcome {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    fs::create_dir_all(FOLDER)?;
    for n in [64, 128, 256, 512, 1024, 2048, 4096] {
        let random: Vec<f32> = (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
        let ties: Vec<f32> = (0..n * n).map(|_| rng.random_range(0..10) as f32).collect();
        let mut kinds = vec![("random", random), ("ties", ties)];
        if n <= 2048 {
            kinds.push(("network", network_gain(n as i64)?));
        }
        for (kind, gain) in kinds {
            let bytes: Vec<u8> = gain.iter().flat_map(|value| value.to_le_bytes()).collect();
            fs::write(format!("{FOLDER}/{kind}_{n}.f32"), bytes)?;
            solve(&format!("{kind} n={n}"), n, &gain)?.report();
        }
    }
    Ok(())
}

fn solve(params: &str, n: usize, gain: &[f32]) -> stemm::Result<Row> {
    let mut solver = AssignmentSolver::new(n);
    let mut run = || {
        solver.forget();
        solver.solve(gain)
    };
    run()?;
    let peak_mb = peak_mb(|| _ = run());
    let times = (0..if n > 1024 { 3 } else { 15 }).map(|_| milliseconds(|| _ = run())).collect();
    Ok(Row { bench: "assignment_cold", params: params.into(), ours_ms: median(times), floor_ms: None, peak_mb })
}

/// The gain matrix of the hidden layer of two trained networks with one hidden layer.
fn network_gain(width: i64) -> stemm::Result<Vec<f32>> {
    let models = trained(&Network::mlp(&[784, width, 10])?, 2)?;
    let tensor = |model: usize, index: usize| models[model].params.tensors()[index].detach();
    let outer = |index: usize| tensor(0, index).unsqueeze(1).matmul(&tensor(1, index).unsqueeze(0));
    // Into the units, their biases, out of the units.
    let gain = tensor(0, 0).matmul(&tensor(1, 0).tr()) + outer(1) + tensor(0, 2).tr().matmul(&tensor(1, 2));
    Ok(Vec::<f32>::try_from(gain.reshape([-1]))?)
}
