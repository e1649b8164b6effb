//! Weight matching and STE-MM for the MLP of the paper. The floor is what no implementation of the algorithm can leave
//! out: the bare matrix products, done by libtorch with the same threads. For each aligned model one sweep of gain
//! matrices; for a step of STE-MM also one forward and backward pass of a batch.

use stemm::prelude::*;

use super::measure::{Row, median, milliseconds, peak_mb, side_by_side};
use super::mlp::{batch_pass, mlp, sweep_products};
use super::{Outcome, images, trained};

const BATCH: usize = 256;
const STEPS: usize = 40;

pub fn weight_matching() -> Outcome {
    matching("weight_matching", &[2])
}

pub fn weight_matching_many() -> Outcome {
    matching("weight_matching_many", &[3, 4, 8])
}

fn matching(bench: &'static str, counts: &[usize]) -> Outcome {
    let data = images(256, 256)?;
    let models = trained(&mlp(512)?, 8)?;
    let matching = WeightMatching { progress: Progress::Silent, ..WeightMatching::default() };
    for &n in counts {
        matching.align(&models[..n], &data)?;
        let mut sweep = sweep_products(512, Device::Cpu);
        let aligned = if n == 2 { 1 } else { n };
        let ours = || _ = std::hint::black_box(matching.align(&models[..n], &data));
        let floor = || (0..aligned).for_each(|_| sweep());
        side_by_side(bench, format!("3x512 n={n}"), 7, ours, floor).report();
    }
    Ok(())
}

pub fn ste_mm_step() -> Outcome {
    let data = images(BATCH * STEPS, BATCH)?;
    let models = trained(&mlp(512)?, 20)?;
    for n in [2, 3, 4, 8, 20] {
        step(&models[..n], &data, 512)?.report();
    }
    for width in [128, 256, 1024] {
        step(&trained(&mlp(width)?, 3)?, &data, width)?.report();
    }
    Ok(())
}

/// Time of a step, after the first epoch, in which the assignments start from nothing.
fn step(models: &[Model], data: &stemm::data::Splits, width: i64) -> stemm::Result<Row> {
    let n = models.len();
    let settings = |epochs| SteMm { epochs, progress: Progress::Silent, ..SteMm::default() };
    let peak_mb = peak_mb(|| _ = settings(1).align(models, data));
    let (mut sweep, mut batch) = (sweep_products(width, Device::Cpu), batch_pass(width, BATCH, Device::Cpu));
    let mut floor = || {
        let time = milliseconds(|| {
            for _ in 0..STEPS {
                (1..n).for_each(|_| sweep());
                batch();
            }
        });
        time / STEPS as f64
    };
    let mut bare = vec![floor(), floor()];
    let history = settings(6).align(models, data)?.history;
    let ours = history[1..].iter().map(|epoch| epoch.seconds * 1e3 / STEPS as f64).collect();
    bare.extend([floor(), floor()]);
    let params = format!("3x{width} n={n}");
    Ok(Row { bench: "ste_mm_step", params, ours_ms: median(ours), floor_ms: Some(median(bare)), peak_mb })
}

/// Time of a solution on the consecutive matrices of STE-MM; the "floor" is the same from a cold start.
pub fn warm_assignment() -> Outcome {
    let data = images(BATCH * STEPS, BATCH)?;
    for width in [256, 512, 1024] {
        let models = trained(&mlp(width)?, 2)?;
        let run = |solver| -> stemm::Result<f64> {
            let settings = SteMm { epochs: 3, solver, progress: Progress::Silent, ..SteMm::default() };
            let history = settings.align(&models, &data)?.history;
            let seconds: f64 = history[1..].iter().map(|epoch| epoch.assignment_seconds).sum();
            let solved: usize = history[1..].iter().map(|epoch| epoch.solved_groups).sum();
            Ok(seconds * 1e3 / solved as f64)
        };
        let params = format!("STE-MM n={width}; floor: cold");
        let (warm, cold) = (run(Solver::WarmStarted)?, run(Solver::Plain)?);
        Row { bench: "assignment_warm", params, ours_ms: warm, floor_ms: Some(cold), peak_mb: None }.report();
    }
    Ok(())
}
