//! The MLP of the paper, and what no implementation of an algorithm can leave out for it: the bare products, by libtorch.

use stemm::prelude::*;
use stemm::tch;

/// The MLP of the paper, with another width.
pub fn mlp(width: i64) -> stemm::Result<Network> {
    Network::mlp(&[784, width, width, width, 10])
}

/// Models with weights as training leaves them: two short epochs.
pub fn trained(network: &Network, count: usize, data: &stemm::data::Splits) -> stemm::Result<Vec<Model>> {
    let seeds: Vec<u64> = (0..count as u64).collect();
    let trainer = Trainer { epochs: 2, batch_size: 256, progress: Progress::Silent, ..Trainer::default() };
    Ok(trainer.train(network, data, &seeds)?.models)
}

/// The MLP's logits, written out.
pub fn logits(tensors: &[Tensor], x: &Tensor) -> Tensor {
    let mut x = x.flatten(1, -1);
    for (layer, pair) in tensors.chunks(2).enumerate() {
        x = x.linear(&pair[0], Some(&pair[1]));
        if layer < 3 {
            x = x.relu();
        }
    }
    x
}

/// Independent standard normal values.
fn normal(shape: &[i64], device: Device) -> Tensor {
    Tensor::randn(shape, (Kind::Float, device))
}

/// The products of one sweep over an MLP with three hidden layers: each hidden layer's weights in and out.
pub fn sweep_products(width: i64, device: Device) -> impl FnMut() {
    let (first, hidden) = (normal(&[width, 784], device), normal(&[width, width], device));
    let last = normal(&[width, 10], device);
    move || {
        let _guard = tch::no_grad_guard();
        let mut sum = first.matmul(&first.tr());
        for _ in 0..4 {
            sum = hidden.matmul(&hidden.tr());
        }
        _ = std::hint::black_box((sum, last.matmul(&last.tr())));
    }
}

/// A batch through the MLP, forward and backward.
pub fn batch_pass(width: i64, batch: usize, device: Device) -> impl FnMut() {
    let x = normal(&[batch as i64, 784], device);
    let y = Tensor::randint(10, [batch as i64], (Kind::Int64, device));
    let shapes = [(width, 784), (width, width), (width, width), (10, width)];
    let tensors =
        shapes.iter().flat_map(|&(out, input)| [normal(&[out, input], device) / 20.0, normal(&[out], device)]);
    let tensors: Vec<Tensor> = tensors.map(|tensor| tensor.set_requires_grad(true)).collect();
    move || {
        let loss = logits(&tensors, &x).cross_entropy_for_logits(&y);
        std::hint::black_box(Tensor::run_backward(&[loss], &tensors, false, false));
    }
}
