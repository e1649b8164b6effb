//! Plain forms of the algorithms, for tests of the fast ones: every gain matrix from nothing and in f64, every assignment
//! problem solved by another library, every sweep over all groups, straight-through gradients by autograd. They draw
//! the same random numbers, so the fast forms must find the same permutations.

use pathfinding::prelude::{Matrix, kuhn_munkres};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::{Aligner, Mixing, Permutation, Permutations, Solver, SteMm, WeightMatching};
use crate::data::{Order, blobs};
use crate::error::Result;
use crate::evaluate::cross_entropy;
use crate::network::{
    Add, BatchNorm, Concat, Conv2d, Dropout, Flatten, Layer, Linear, Mode, Model, Network, Params, Pass,
    PermutationSpec, Relu, Sequence,
};
use crate::rng::{Purpose, rng, step_seed};
use crate::train::Trainer;

const MAX_SWEEPS: usize = 100;
/// Gains as integers, which the oracle wants: finer than f32.
const SCALE: f64 = 1e12;
/// Below this relative gain the fast form sees rounding.
const ROUNDING: f64 = 1e-7;

/// `G[i, j]`, summed over every axis of every tensor that belongs to the group.
fn gain(spec: &PermutationSpec, group: usize, target: &Params, model: &Params, found: &Permutations) -> Vec<i64> {
    let units = spec.groups()[group].size as i64;
    let mut sum = Tensor::zeros([units, units], (Kind::Double, Device::Cpu));
    for member in spec.members(group) {
        let axis = member.axis as i64;
        let rows = |tensor: &Tensor| {
            let run = tensor.to_kind(Kind::Double).narrow(axis, member.offset, units * member.block);
            run.movedim_int(axis, 0).reshape([units, -1])
        };
        let (axes, tensor) = (&spec.axes()[member.tensor], &model.tensors()[member.tensor]);
        let permuted = found.apply_to_tensor(axes, tensor, Some(member.axis)).unwrap();
        sum += rows(&target.tensors()[member.tensor]).matmul(&rows(&permuted).tr());
    }
    let values = Vec::<f64>::try_from(sum.reshape([-1])).unwrap();
    values.into_iter().map(|value| (value * SCALE) as i64).collect()
}

/// Sweeps over all groups until one changes nothing; whether any group moved.
fn match_one(
    spec: &PermutationSpec,
    target: &Params,
    model: &Params,
    found: &mut Permutations,
    order: &mut ChaCha8Rng,
) -> Result<bool> {
    let (target, double) = (target.to_kind(Kind::Double)?, model.to_kind(Kind::Double)?);
    let mut any = false;
    for _ in 0..MAX_SWEEPS {
        let mut moved = false;
        let mut visit: Vec<usize> = (0..spec.groups().len()).collect();
        visit.shuffle(order);
        for group in visit {
            let n = spec.groups()[group].size;
            let gains = Matrix::from_vec(n, n, gain(spec, group, &target, model, found)).unwrap();
            let columns = kuhn_munkres(&gains).1.into_iter().map(|column| column as i64);
            let mut candidate = found.clone();
            candidate.0[group] = Permutation::new(columns.collect())?;
            let objective = |permutations: &Permutations| target.dot(&permutations.apply(spec, &double)?);
            let (now, then) = (objective(found)?, objective(&candidate)?);
            if candidate != *found && then - now > ROUNDING * now.abs() {
                *found = candidate;
                moved = true;
            }
        }
        if !moved {
            return Ok(any);
        }
        any = true;
    }
    panic!("no end after {MAX_SWEEPS} sweeps");
}

/// Weight matching of two models (Ito et al. 2025, Algorithm 2).
fn match_two(models: &[Model], seed: u64) -> Result<Vec<Permutations>> {
    let spec = models[0].network.permutation_spec();
    let mut found = vec![Permutations::identity(&spec); 2];
    match_one(&spec, &models[0].params, &models[1].params, &mut found[1], &mut rng(seed, Purpose::SweepOrder(0)))?;
    Ok(found)
}

/// Weight matching of many: each model to the mean of the others, until none moves.
fn match_many(models: &[Model], seed: u64) -> Result<Vec<Permutations>> {
    let spec = models[0].network.permutation_spec();
    let n = models.len();
    let mut order = rng(seed, Purpose::SweepOrder(0));
    let mut found = vec![Permutations::identity(&spec); n];
    let mut optimal = vec![false; n];
    let mut visit: Vec<usize> = (0..n).collect();
    while optimal.contains(&false) {
        visit.shuffle(&mut order);
        for &model in &visit {
            if optimal[model] {
                continue; // no other has moved since: the same problem again
            }
            let permuted = (0..n).filter(|&other| other != model).map(|other| {
                let params = models[other].params.to_kind(Kind::Double)?;
                found[other].apply(&spec, &params)
            });
            let permuted: Vec<Params> = permuted.collect::<Result<_>>()?;
            let mean =
                Params::weighted_sum(&permuted.iter().collect::<Vec<_>>(), &vec![1.0 / (n as f64 - 1.0); n - 1])?;
            if match_one(&spec, &mean, &models[model].params, &mut found[model], &mut order)? {
                optimal.fill(false);
            }
            optimal[model] = true;
        }
    }
    // The first model keeps its units.
    let back: Vec<Permutation> = found[0].0.iter().map(Permutation::inverse).collect();
    let moved = found
        .iter()
        .map(|own| Ok(Permutations(own.0.iter().zip(&back).map(|(p, b)| p.then(b)).collect::<Result<_>>()?)));
    moved.collect()
}

/// STE-MM (Ito et al. 2025, Algorithm 1) with the mixtures of the settings: permutations after the last step, and loss and
/// accuracy of the mixtures.
fn ste_mm(models: &[Model], data: &crate::data::Dataset, settings: &SteMm) -> Result<(Vec<Permutations>, f64, f64)> {
    let network = &models[0].network;
    let spec = network.permutation_spec();
    let n = models.len();
    let mut found = vec![Permutations::identity(&spec); n];
    let weights: Vec<Params> = (1..n).map(|_| models[0].params.leaves()).collect::<Result<_>>()?;
    let mut orders: Vec<ChaCha8Rng> = (1..n).map(|model| rng(settings.seed, Purpose::SweepOrder(model))).collect();
    let zeros = || models[0].params.tensors().iter().map(Tensor::zeros_like).collect::<Vec<_>>();
    let mut moments: Vec<[Vec<Tensor>; 2]> = (1..n).map(|_| [zeros(), zeros()]).collect();
    let (mut loss_sum, mut right, mut step) = (0.0, 0, 0);
    let mut mixing = rng(settings.seed, Purpose::Mixing);
    for batch in network.batches(data, settings.batch_size, Order::Shuffled { seed: settings.seed, epoch: 0 })? {
        let (x, y) = batch?;
        for model in 1..n {
            let target = weights[model - 1].map(|tensor| Ok(tensor.detach()))?;
            match_one(&spec, &target, &models[model].params, &mut found[model], &mut orders[model - 1])?;
        }
        let permuted: Vec<Params> =
            found.iter().zip(models).map(|(own, model)| own.apply(&spec, &model.params)).collect::<Result<_>>()?;
        let lambda = settings.mixing.draw(n, &mut mixing);
        let mixed = (0..models[0].params.tensors().len()).map(|k| {
            // θ'_i in value, w_i to the gradient
            let straight = weights.iter().zip(&permuted[1..]).map(|(w, value)| {
                let (w, value) = (&w.tensors()[k], &value.tensors()[k]);
                w + (value - w).detach()
            });
            let reference = &permuted[0].tensors()[k] * lambda[0];
            straight.zip(&lambda[1..]).fold(reference, |sum, (tensor, &lambda)| sum + tensor * lambda)
        });
        let mixture = models[0].params.with(mixed.collect());
        let logits = network.run(&mixture, &x, &Pass::new(Mode::Train { seed: step_seed(settings.seed, step) }))?;
        let loss = cross_entropy(&logits, &y, 0.0)?;
        loss.backward();
        loss_sum += loss.double_value(&[]) * y.size()[0] as f64;
        right += logits.argmax(-1, false).eq_tensor(&y).sum(Kind::Int64).int64_value(&[]);
        step += 1;
        let _guard = tch::no_grad_guard();
        for (set, [m, v]) in weights.iter().zip(&mut moments) {
            for ((w, m), v) in set.tensors().iter().zip(m).zip(v) {
                let g = w.grad();
                *m = &*m * 0.9 + &g * 0.1;
                *v = &*v * 0.999 + &g * &g * 0.001;
                let (m, v) = (&*m / (1.0 - 0.9f64.powi(step as i32)), &*v / (1.0 - 0.999f64.powi(step as i32)));
                let _ = w.shallow_clone().subtract_(&(m * settings.learning_rate / (v.sqrt() + 1e-8)));
                let _ = w.grad().zero_();
            }
        }
    }
    Ok((found, loss_sum / data.len() as f64, right as f64 / data.len() as f64))
}

/// A dense network, a small convolutional one, a residual one with batch norm, one with branches that are joined, and one
/// whose objective is not linear in the permutation of a group.
fn networks() -> Result<Vec<(&'static str, Network)>> {
    let conv = |from, to| Conv2d::new(from, to, 3).padding(1);
    let residual: Layer = Add::residual([
        ("a", Layer::from(conv(10, 10))),
        ("norm", BatchNorm::new(10).into()),
        ("relu", Relu.into()),
        ("b", conv(10, 10).into()),
    ])
    .into();
    let layers: [(&str, Layer); 6] = [
        ("stem", conv(2, 10).into()),
        ("block", residual),
        ("relu", Relu.into()),
        ("out", conv(10, 3).into()),
        ("flatten", Flatten.into()),
        ("head", Linear::new(3 * 36, 4).into()),
    ];
    let resnet = Network::new(vec![2, 6, 6], layers)?;
    let branch = |name: &'static str, to| Sequence::new([(name, Layer::from(conv(8, to)))]);
    let layers: [(&str, Layer); 5] = [
        ("stem", conv(2, 8).into()),
        ("branches", Concat::new([branch("a", 7), Sequence::identity(), branch("b", 5)]).into()),
        ("relu", Relu.into()),
        ("flatten", Flatten.into()),
        ("head", Linear::new(20 * 36, 4).into()),
    ];
    let joined = Network::new(vec![2, 6, 6], layers)?;
    let layers: [(&str, Layer); 6] = [
        ("stem", conv(2, 10).into()),
        ("block", Add::residual([("conv", Layer::from(conv(10, 10)))]).into()),
        ("relu", Relu.into()),
        ("out", conv(10, 3).into()),
        ("flatten", Flatten.into()),
        ("head", Linear::new(3 * 36, 4).into()),
    ];
    let coupled = Network::new(vec![2, 6, 6], layers)?;
    Ok(vec![
        ("MLP", Network::mlp(&[12, 24, 20, 16, 4])?),
        ("convnet", Network::convnet([1, 12, 12], 1.0, 4)?),
        ("residual", resnet),
        ("joined branches", joined),
        ("a convolution with one group on both axes", coupled),
    ])
}

fn models(network: &Network, n: u64) -> Result<Vec<Model>> {
    (0..n).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?)).collect()
}

#[test]
fn weight_matching_finds_what_its_plain_form_finds() -> Result<()> {
    let data = blobs(0, Device::Cpu)?;
    for (name, network) in networks()? {
        for (n, solver) in
            [(2, Solver::WarmStarted), (3, Solver::WarmStarted), (3, Solver::Plain), (5, Solver::WarmStarted)]
        {
            let models = models(&network, n)?;
            for seed in 0..3 {
                let fast = WeightMatching { seed, solver, ..WeightMatching::default() }.align(&models, &data)?;
                let plain = if n == 2 { match_two(&models, seed)? } else { match_many(&models, seed)? };
                assert!(fast.permutations == plain, "{name}, {n} models, {solver:?}, seed {seed}");
            }
        }
    }
    Ok(())
}

#[test]
fn ste_mm_finds_what_its_plain_form_finds() -> Result<()> {
    let data = blobs(0, Device::Cpu)?;
    let layers: [(&str, Layer); 6] = [
        ("layer1", Linear::new(16, 24).into()),
        ("relu1", Relu.into()),
        ("dropout", Dropout::new(0.2).into()), // other units in each step
        ("layer2", Linear::new(24, 20).into()),
        ("relu2", Relu.into()),
        ("layer3", Linear::new(20, 4).into()),
    ];
    let network = Network::new([16], layers)?;
    let trainer = Trainer { epochs: 3, batch_size: 64, ..Trainer::default() };
    let training = trainer.train(&network, &data, &[0, 1, 2, 3])?;
    for (solver, mixing) in [
        (Solver::WarmStarted, Mixing::Midpoint),
        (Solver::Plain, Mixing::Midpoint),
        (Solver::WarmStarted, Mixing::Uniforms),
        (Solver::WarmStarted, Mixing::Dirichlet),
    ] {
        let settings = SteMm {
            epochs: 1,
            batch_size: 32,
            mixing,
            choice: crate::train::Choice::LastStep,
            solver,
            ..SteMm::default()
        };
        let fast = settings.align(&training.models, &data)?;
        let (plain, loss, accuracy) = ste_mm(&training.models, &data.train, &settings)?;
        assert!(fast.permutations == plain, "{solver:?}, {mixing:?}");
        let found = fast.history[0].mixture_loss.unwrap_or(f64::NAN);
        assert!((found - loss).abs() < 1e-5 * loss, "{solver:?}, {mixing:?}: {found} instead of {loss}");
        assert_eq!(fast.history[0].mixture_accuracy, Some(accuracy), "{solver:?}, {mixing:?}");
    }
    Ok(())
}
