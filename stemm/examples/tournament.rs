//! The tournaments of docs/methods.md: `make tournament WHAT=mlp`, `vgg11` or `resnet20`; takes hours, and goes on where it was.

use std::path::PathBuf;

use stemm::prelude::*;

fn main() -> stemm::Result<()> {
    let what = std::env::args().nth(1).unwrap_or_else(|| "mlp".to_owned());
    let folder = PathBuf::from("out/tournament");
    let tournament = Tournament { results: Some(folder.join(format!("{what}.parquet"))), ..settings(&what)? };
    let data = fashion_mnist("data", device())?;
    let data = match tournament.network.input_shape() {
        [channels, height, width] => data.fit_to(&[*channels, *height, *width])?.take(10_000, 2_000)?,
        _ => data,
    };
    let verdicts = tournament.run(&data)?;
    let summary = verdicts.summary("weight matching")?;
    println!("{summary}");
    save_csv(&summary, folder.join(format!("{what}.csv")))?;
    verdicts.chart().save(folder.join(format!("{what}.png")))
}

/// The paper's networks and optimisers, with fewer epochs.
fn settings(what: &str) -> stemm::Result<Tournament> {
    let methods: Vec<Box<dyn Aligner>> = vec![
        Box::new(Naive),
        Box::new(WeightMatching::default()),
        Box::new(ActivationMatching::default()),
        Box::new(ActivationMatching { to: MatchTo::Mean, ..ActivationMatching::default() }),
        Box::new(FrankWolfe::default()),
        Box::new(Sinkhorn::default()),
        Box::new(Sinkhorn { loss: SinkhornLoss::Random, ..Sinkhorn::default() }),
        Box::new(SteMm::default()),
    ];
    let merges = vec![
        Merging::Mean,
        Merging::Fisher(Fisher { samples: 200, ..Fisher::default() }),
        Merging::RegMean(RegMean { samples: 2_000, ..RegMean::default() }),
        Merging::GreedySoup,
    ];
    let with = |network, counts: Vec<usize>, groups| Tournament { counts, groups, ..Tournament::new(network) };
    let tournament = match what {
        "mlp" => with(Network::mlp(&[784, 512, 512, 512, 10])?, vec![2, 3, 5], 5),
        "vgg11" => with(Network::vgg11(0.25)?, vec![3], 3),
        "resnet20" => with(Network::resnet20(1.0)?, vec![3], 3),
        other => {
            eprintln!("{other}: the tournaments are mlp, vgg11 and resnet20");
            std::process::exit(2)
        }
    };
    Ok(Tournament { methods, merges, barrier_points: 5, ..tournament })
}
