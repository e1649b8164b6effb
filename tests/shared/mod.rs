//! What the tests of trainings share.

mod folder;

use stemm::prelude::*;

pub use folder::folder;

pub fn network() -> Network {
    Network::mlp(&[16, 24, 24, 4]).unwrap()
}

pub fn trainer(epochs: usize) -> Trainer {
    Trainer { epochs, batch_size: 64, ..Trainer::default() }
}

pub fn equal_bits(a: &Model, b: &Model) -> bool {
    a.params.iter().zip(b.params.iter()).all(|((name, x), (other, y))| name == other && x == y)
}
