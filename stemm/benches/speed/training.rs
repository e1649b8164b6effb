//! An epoch of training beside the loop that a PyTorch user would write, matrix products beside those of a process in which
//! MKL chooses by itself, and reading a data set beside its bare bytes.

use std::process::Command;

use stemm::prelude::*;
use stemm::tch::{IndexOp, nn, nn::OptimizerConfig};

use super::measure::{Row, median, milliseconds, side_by_side};
use super::mlp::mlp;
use super::{Outcome, images};

const IMAGES: usize = 20_480;
const BATCH: usize = 512;

pub fn epoch() -> Outcome {
    let data = images(IMAGES, 512)?;
    let network = mlp(512)?;
    let trainer = Trainer { epochs: 1, progress: Progress::Silent, ..Trainer::default() };
    let ours = || _ = std::hint::black_box(trainer.train(&network, &data, &[0]));
    let floor = || {
        let store = nn::VarStore::new(Device::Cpu);
        let root = store.root();
        let mut plain = nn::seq();
        for (layer, (input, out)) in [(784, 512), (512, 512), (512, 512), (512, 10)].into_iter().enumerate() {
            plain = plain.add(nn::linear(&root / layer, input, out, nn::LinearConfig::default()));
            if layer < 3 {
                plain = plain.add_fn(|x| x.relu());
            }
        }
        let mut adam = nn::Adam::default().build(&store, 1e-3).expect("a valid learning rate");
        let order = Tensor::randperm(IMAGES as i64, (Kind::Int64, Device::Cpu));
        for step in 0..IMAGES / BATCH {
            let index = order.i((step * BATCH) as i64..((step + 1) * BATCH) as i64);
            let x = data.train.images().index_select(0, &index).flatten(1, -1);
            let y = data.train.labels().index_select(0, &index);
            let loss = x.apply(&plain).cross_entropy_for_logits(&y);
            adam.backward_step(&loss);
            std::hint::black_box(loss.double_value(&[]));
        }
    };
    side_by_side("training_epoch", format!("3x512 {IMAGES} images batch {BATCH}"), 7, ours, floor).report();
    Ok(())
}

pub fn loading() -> Outcome {
    let folder = "../data/fashion-mnist";
    let ours = || _ = std::hint::black_box(fashion_mnist("../data", Device::Cpu));
    let floor = || {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            _ = std::hint::black_box(std::fs::read(entry.path()));
        }
    };
    side_by_side("data_loading", "Fashion-MNIST; floor: bare bytes", 5, ours, floor).report();
    Ok(())
}

/// Products of matrices with the crate's answer to MKL (`src/mkl.rs`), and in a process without it.
pub fn products() -> Outcome {
    let plain = Command::new(std::env::current_exe()?).arg(PRODUCT).env("STEMM_MKL", "0").output()?;
    let floor_ms = Some(String::from_utf8(plain.stdout)?.trim().parse()?);
    let params = "n=1024; floor: STEMM_MKL=0".into();
    Row { bench: "products", params, ours_ms: product_ms(), floor_ms, peak_mb: None }.report();
    Ok(())
}

/// Asks a process of its own for nothing but [`product_ms`].
pub const PRODUCT: &str = "product";

pub fn product_ms() -> f64 {
    let matrix = Tensor::randn([1024, 1024], (Kind::Float, Device::Cpu));
    let times = (0..30).map(|_| milliseconds(|| _ = std::hint::black_box(matrix.matmul(&matrix))));
    median(times.collect())
}
