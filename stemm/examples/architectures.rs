//! The paper's comparison for one architecture: trains three models, aligns them by weight matching and STE-MM, and
//! prints the merged losses without and with repair and the barriers.
//!
//! `python3 scripts/run.py cargo run --example architectures -- NETWORK WIDTH [IMAGES EPOCHS STE_EPOCHS]` with NETWORK
//! `vgg11` or `resnet20`, on Fashion-MNIST padded to 3 x 32 x 32. The paper's scale, on a GPU:
//! `... -- resnet20 16 55000 100 10`.

use std::time::Instant;

use stemm::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, width, rest @ ..] = arguments.as_slice() else {
        return Err("give a network, vgg11 or resnet20, and its width".into());
    };
    let number = |place: usize, default: usize| rest.get(place).map_or(Ok(default), |text| text.parse());
    let (images, epochs, ste_epochs) = (number(0, 10_000)?, number(1, 4)?, number(2, 3)?);
    let network = match name.as_str() {
        "vgg11" => Network::vgg11(width.parse()?)?,
        "resnet20" => Network::resnet20(width.parse()?)?,
        other => return Err(format!("unknown network {other}: choose vgg11 or resnet20").into()),
    };
    let recipe = Recipe::paper_cifar10()?;
    let data = recipe.prepare(&fashion_mnist("data", device())?)?.take(images, 10_000)?;
    let full = epochs >= 50; // the paper's schedule needs room to rise
    let recipe = if full { recipe } else { recipe.demo()? };
    let trainer = Trainer { epochs, ..recipe.trainer };
    println!("{}: {name} x{width}, {images} images, {epochs} and {ste_epochs} epochs", device());

    let training = trainer.train(&network, &data, &[0, 1, 2])?;
    let start = Instant::now();
    let naive = Alignment::naive(&training.models)?;
    let matched = WeightMatching::default().align(&training.models, &data)?;
    let aligned = SteMm { epochs: ste_epochs, ..recipe.ste_mm }.align(&training.models, &data)?;
    let steps = ste_epochs * images.div_ceil(256);
    println!(
        "alignments in {:.0} s, STE-MM {:.2} s a step",
        start.elapsed().as_secs_f64(),
        aligned.seconds / steps as f64
    );
    let table = compare(&training, &[&naive, &matched, &aligned], &data)?;
    for row in &table.rows {
        println!(
            "| {} | {} | {:.4} | {:.4} | {:.0} |",
            row.method, row.repair, row.test_loss, row.test_accuracy, row.seconds
        );
    }
    let walk = Interpolation { points: 5, ..Interpolation::default() };
    let small = data.take(images.min(5_000), 5_000)?;
    let before = walk.barriers("before alignment", &training.models, &small)?;
    let after = walk.barriers("after STE-MM", &aligned.apply(&training.models)?, &small)?;
    for barriers in [&before, &after] {
        for curve in &barriers.curves {
            println!("{} {}-{}: barrier {:.4}", barriers.label, curve.from, curve.to, curve.loss_barrier());
        }
    }
    let stem = format!("out/architectures/{name}_x{width}");
    table.save(format!("{stem}.csv"))?;
    before.chart_beside(&[&after]).save(format!("{stem}_barriers.png"))?;
    Ok(())
}
