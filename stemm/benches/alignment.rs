//! Times of the hot paths: assignment (cold, warm), weight matching of three 3x512 MLPs, and STE-MM from a cold start (two steps).

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use stemm::align::AssignmentSolver;
use stemm::prelude::*;

fn assignment(criterion: &mut Criterion) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    for n in [128, 512, 1024] {
        let gain: Vec<f32> = (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
        criterion.bench_function(&format!("assignment_cold/{n}"), |bencher| {
            let mut solver = AssignmentSolver::new(n);
            bencher.iter(|| {
                solver.forget();
                solver.solve(&gain)
            });
        });
        let mut changed = gain.clone();
        for value in changed.iter_mut().step_by(97) {
            *value += rng.random_range(-0.001..0.001);
        }
        criterion.bench_function(&format!("assignment_warm/{n}"), |bencher| {
            let mut solver = AssignmentSolver::new(n);
            let mut odd = false;
            bencher.iter(|| {
                odd = !odd;
                solver.solve(if odd { &changed } else { &gain })
            });
        });
    }
}

fn alignment(criterion: &mut Criterion) {
    let data = blobs(0, Device::Cpu).unwrap();
    let network = Network::mlp(&[16, 512, 512, 512, 4]).unwrap();
    let trainer = Trainer { epochs: 5, batch_size: 64, ..Trainer::default() };
    let models = trainer.train(&network, &data, &[0, 1, 2]).unwrap().models;
    let mut group = criterion.benchmark_group("mlp_3x512");
    group.sample_size(10);
    group.bench_function("weight_matching_many/3", |bencher| {
        bencher.iter(|| WeightMatching::default().align(&models, &data).unwrap());
    });
    group.bench_function("ste_mm_first_two_steps/3", |bencher| {
        bencher.iter(|| SteMm { epochs: 1, ..SteMm::default() }.align(&models, &data).unwrap());
    });
    group.finish();
}

criterion_group!(benches, assignment, alignment);
criterion_main!(benches);
