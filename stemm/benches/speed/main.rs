//! Every benchmark beside its floor, measured in the same run: `make bench` (all, with SciPy and the kernel), or
//! `python3 scripts/run.py cargo bench --profile dev --bench speed -- ste_mm_step` (those of one name, as CSV on standard output).
//!
//! Each benchmark runs in a process of its own, so that its peak memory is its own.

mod alignment;
mod analysis;
mod assignment;
mod growth;
mod measure;
mod methods;
#[path = "../shared/mlp.rs"]
mod mlp;
mod training;

use std::error::Error;
use std::process::Command;

use stemm::prelude::*;

pub type Outcome = Result<(), Box<dyn Error>>;

/// A name, and what measures and prints its rows.
type Bench = (&'static str, fn() -> Outcome);

const BENCHES: [Bench; 14] = [
    ("assignment_cold", assignment::cold),
    ("assignment_warm", alignment::warm_assignment),
    ("weight_matching", alignment::weight_matching),
    ("weight_matching_many", alignment::weight_matching_many),
    ("ste_mm_step", alignment::ste_mm_step),
    ("activation_matching", methods::activation_matching),
    ("frank_wolfe_step", methods::frank_wolfe_step),
    ("sinkhorn_step", methods::sinkhorn_step),
    ("hessian_trace", analysis::hessian_trace),
    ("interpolation", analysis::interpolation),
    ("landscape", analysis::landscape),
    ("products", training::products),
    ("training_epoch", training::epoch),
    ("data_loading", training::loading),
];

fn main() -> Outcome {
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match names.as_slice() {
        [name, results, chart] if name == "growth" => growth::draw(results, chart)?,
        [name] if name == training::PRODUCT => println!("{}", training::product_ms()),
        [name] => {
            let (_, run) = BENCHES.iter().find(|(own, _)| own == name).ok_or("no benchmark of that name")?;
            run()?;
        }
        _ => {
            println!("bench,params,ours_ms,floor_ms,ratio,peak_mb");
            for (name, _) in BENCHES {
                let status = Command::new(std::env::current_exe()?).arg(name).status()?;
                if !status.success() {
                    return Err(format!("benchmark {name} failed").into());
                }
            }
        }
    }
    Ok(())
}

/// Fashion-MNIST's first images; cargo runs benchmarks in the folder of the package.
pub fn images(train: usize, test: usize) -> stemm::Result<stemm::data::Splits> {
    fashion_mnist("../data", Device::Cpu)?.take(train, test)
}

/// Models with weights as training leaves them.
pub fn trained(network: &Network, count: usize) -> stemm::Result<Vec<Model>> {
    mlp::trained(network, count, &images(10_000, 1_000)?)
}
