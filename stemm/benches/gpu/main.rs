//! What a GPU brings, and whether it computes what the CPU does: one row a process, as a line of JSON. `scripts/gpu.py` makes a
//! bundle of this program that runs where there is PyTorch and neither Rust nor a network, and a report of its results.
//!
//! `gpu ROW [--small]`; without a row it lists them, the most telling first.

mod checks;
#[path = "../shared/mlp.rs"]
mod mlp;
mod speed;

use std::error::Error;
use std::time::Instant;

use serde_json::{Map, Value};
use stemm::prelude::*;
use stemm::tch::Cuda;

pub type Outcome = Result<Map<String, Value>, Box<dyn Error>>;

/// Where a row runs, and how large it is.
#[derive(Clone, Copy)]
pub struct Place {
    pub device: Device,
    pub small: bool,
}

/// A name, and what measures its values.
type Row = (&'static str, fn(Place) -> Outcome);

const ROWS: [Row; 10] = [
    ("device", checks::device_in_use),
    ("same_results", checks::same_results),
    ("errors", checks::errors_leave_the_device_usable),
    ("train_many", speed::train_many),
    ("ste_mm_step", speed::ste_mm_step),
    ("weight_matching", speed::weight_matching),
    ("training_step", speed::training_step),
    ("hessian", speed::hessian),
    ("evaluation", speed::evaluation),
    ("quickstart", speed::quickstart),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let small = arguments.iter().any(|argument| argument == "--small");
    let Some(name) = arguments.iter().find(|argument| !argument.starts_with("--")) else {
        ROWS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let (_, run) = ROWS.iter().find(|(row, _)| row == name).ok_or("no row of that name")?;
    let values = run(Place { device: stemm::device().into(), small })?;
    println!("{}", Value::Object(values));
    Ok(())
}

impl Place {
    /// The large size, or the one for a test on a CPU.
    pub fn size<T>(self, large: T, small: T) -> T {
        if self.small { small } else { large }
    }

    /// Milliseconds until the device has done the work: the median of some rounds after one that warms up.
    pub fn milliseconds(self, rounds: usize, mut work: impl FnMut() -> stemm::Result<()>) -> stemm::Result<f64> {
        let mut times = Vec::new();
        for _ in 0..=rounds {
            self.finish();
            let start = Instant::now();
            work()?;
            self.finish();
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn finish(self) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
    }

    /// Fashion-MNIST's first images on the device.
    pub fn images(self, train: usize, rest: usize) -> stemm::Result<stemm::data::Splits> {
        fashion_mnist("data", self.device)?.take(train, rest)
    }
}
