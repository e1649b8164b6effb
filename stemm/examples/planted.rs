//! How often each method finds a permutation that was planted: `cargo run --example planted [NETWORK [METHOD]]`, a table of docs/methods.md.

use stemm::data::{Dataset, Splits};
use stemm::prelude::*;

const SEEDS: u64 = 20;

fn main() -> stemm::Result<()> {
    let quiet = Progress::Silent;
    let matching = |restarts| WeightMatching { restarts, progress: quiet, ..WeightMatching::default() };
    let methods: [(&str, Box<dyn Aligner>); 7] = [
        ("weight matching", Box::new(matching(0))),
        ("weight matching, 4 restarts", Box::new(matching(4))),
        ("weight matching, 19 restarts", Box::new(matching(19))),
        (
            "activation matching",
            Box::new(ActivationMatching { samples: 500, progress: quiet, ..ActivationMatching::default() }),
        ),
        ("frank-wolfe", Box::new(FrankWolfe { progress: quiet, ..FrankWolfe::default() })),
        ("frank-wolfe, 5 starts", Box::new(FrankWolfe { starts: 5, progress: quiet, ..FrankWolfe::default() })),
        ("sinkhorn, distance", Box::new(Sinkhorn { progress: quiet, ..Sinkhorn::default() })),
    ];
    let networks = [
        ("mlp", Network::mlp(&[784, 128, 128, 128, 10])?),
        ("convnet", Network::convnet([1, 28, 28], 1.0, 10)?),
        ("resnet20", Network::resnet20(1.0)?),
    ];
    let wanted = |place: usize, name: &str| std::env::args().nth(place).is_none_or(|wanted| wanted == name);
    for (name, network) in networks.iter().filter(|(name, _)| wanted(1, name)) {
        let data = noise(network)?;
        for (label, method) in methods.iter().filter(|(label, _)| wanted(2, label)) {
            let found = (0..SEEDS)
                .map(|seed| finds(network, method.as_ref(), &data, seed))
                .collect::<stemm::Result<Vec<bool>>>()?;
            println!("{name}, {label}: {} of {SEEDS}", found.iter().filter(|found| **found).count());
        }
    }
    Ok(())
}

/// Whether the units of a network with random weights are found in the places to which they were moved.
fn finds(network: &Network, method: &dyn Aligner, data: &Splits, seed: u64) -> stemm::Result<bool> {
    let model = Model::new(network.clone(), network.init(seed, Device::Cpu)?)?;
    let spec = network.permutation_spec();
    tch::manual_seed(seed as i64);
    let shuffled = |n: usize| Vec::try_from(Tensor::randperm(n as i64, (Kind::Int64, Device::Cpu)));
    let hidden = spec.groups().iter().map(|group| Permutation::new(shuffled(group.size)?));
    let hidden = Permutations(hidden.collect::<stemm::Result<_>>()?);
    let moved = Model::new(network.clone(), hidden.apply(&spec, &model.params)?)?;
    let found = method.align(&[model, moved], data)?;
    Ok(found.permutations[1].0.iter().zip(&hidden.0).all(|(found, hidden)| *found == hidden.inverse()))
}

/// Pictures of noise, for activations.
fn noise(network: &Network) -> stemm::Result<Splits> {
    let part = |count: i64| {
        let shape = [&[count], network.input_shape()].concat();
        let images = Tensor::f_randn(shape, (Kind::Float, Device::Cpu))?;
        Dataset::new("noise", images, Tensor::f_zeros([count], (Kind::Int64, Device::Cpu))?, 10)
    };
    Ok(Splits { train: part(500)?, held_out: part(10)?, test: part(10)? })
}
