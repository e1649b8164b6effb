//! The tournaments of docs/methods.md: `make tournament WHAT=mlp`, `mnist`, `vgg11` or `resnet20`; takes hours, and goes on where it was.

use std::path::PathBuf;

use stemm::experiment::Verdicts;
use stemm::prelude::*;

fn main() -> stemm::Result<()> {
    let what = std::env::args().nth(1).unwrap_or_else(|| "mlp".to_owned());
    let folder = PathBuf::from("out/tournament");
    let tournament = Tournament { results: Some(folder.join(&what)), ..settings(&what)? };
    let data = if what == "mnist" { mnist("data", device())? } else { fashion_mnist("data", device())? };
    let data = match tournament.network.input_shape() {
        [channels, height, width] => data.fit_to(&[*channels, *height, *width])?.take(10_000, 2_000)?,
        _ => data,
    };
    let verdicts = tournament.run(&data)?;
    save_parquet(&verdicts.frame(), folder.join(format!("{what}.parquet")))?;
    let summary = verdicts.summary("weight matching")?;
    println!("{}", markdown(&verdicts, &summary)?);
    save_csv(&summary, folder.join(format!("{what}.csv")))?;
    verdicts.chart().save(folder.join(format!("{what}.png")))
}

/// The paper's networks and optimisers, with fewer epochs.
fn settings(what: &str) -> stemm::Result<Tournament> {
    let methods = vec![
        Naive.into(),
        WeightMatching::default().into(),
        ActivationMatching::default().into(),
        ActivationMatching { to: MatchTo::Mean, ..ActivationMatching::default() }.into(),
        FrankWolfe::default().into(),
        Sinkhorn::default().into(),
        Sinkhorn { loss: SinkhornLoss::Random, ..Sinkhorn::default() }.into(),
        SteMm::default().into(),
    ];
    let merges = vec![
        Merging::Mean,
        Merging::Fisher(Fisher { samples: 200, ..Fisher::default() }),
        Merging::RegMean(RegMean { samples: 2_000, ..RegMean::default() }),
        Merging::GreedySoup,
    ];
    let with = |network, counts: Vec<usize>, groups| Tournament { counts, groups, ..Tournament::new(network) };
    let tournament = match what {
        "mlp" | "mnist" => with(Network::mlp(&[784, 512, 512, 512, 10])?, vec![2, 3, 5], 5),
        "vgg11" => with(Network::vgg11(0.25)?, vec![3], 3),
        "resnet20" => with(Network::resnet20(1.0)?, vec![3], 3),
        other => {
            eprintln!("{other}: the tournaments are mlp, mnist, vgg11 and resnet20");
            std::process::exit(2)
        }
    };
    Ok(Tournament { methods, merges, barrier_points: 5, ..tournament })
}

/// The summary as the page has it: a row a merge and method, a column a number of models, excess loss with its standard error; bold
/// where Holm's corrected p-value of the difference from weight matching is below 0.05.
fn markdown(verdicts: &Verdicts, summary: &DataFrame) -> stemm::Result<String> {
    let text = |name: &str| -> Vec<String> {
        let column = summary.column(name).and_then(|column| column.str().cloned());
        column.map(|own| own.iter().map(|value| value.unwrap_or_default().to_owned()).collect()).unwrap_or_default()
    };
    let number = |name: &str| -> Vec<f64> {
        let column = summary.column(name).and_then(|column| column.cast(&stemm::polars::prelude::DataType::Float64));
        let column = column.and_then(|column| column.f64().cloned());
        column.map(|own| own.iter().map(|value| value.unwrap_or(f64::NAN)).collect()).unwrap_or_default()
    };
    let (merges, methods, counts) = (text("merge"), text("method"), number("n_models"));
    let (excess, error, p) = (number("excess_nats"), number("excess_error"), number("p_holm"));
    let (barrier, seconds, groups) = (number("mean_barrier_nats"), number("seconds"), number("groups"));
    let mut sizes: Vec<usize> = verdicts.rows.iter().map(|row| row.n_models).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut table = format!("{} groups\n\n| merge | method |", groups.iter().copied().fold(f64::INFINITY, f64::min));
    sizes.iter().for_each(|n| table += &format!(" n = {n} |"));
    table += " mean barrier, largest n | seconds, largest n |\n|---|---|";
    table += &"---:|".repeat(sizes.len() + 2);
    let mut names: Vec<(&String, &String)> = merges.iter().zip(&methods).collect();
    names.sort_by_key(|(merge, _)| merges.iter().position(|own| own == *merge));
    names.dedup();
    let mut done: Vec<(&String, &String)> = Vec::new();
    for name in names {
        if done.contains(&name) {
            continue;
        }
        done.push(name);
        table += &format!("\n| {} | {} |", name.0, name.1);
        let row = |n: usize| {
            (0..counts.len()).find(|&row| (&merges[row], &methods[row], counts[row] as usize) == (name.0, name.1, n))
        };
        for &n in &sizes {
            let Some(row) = row(n) else { continue };
            let bold = if p[row] < 0.05 { "**" } else { "" };
            table += &format!(" {bold}{:.4}{bold} ± {:.4} |", excess[row], error[row]);
        }
        if let Some(row) = sizes.last().and_then(|&n| row(n)) {
            table += &format!(" {:.4} | {:.1} |", barrier[row], seconds[row]);
        }
    }
    Ok(table)
}
