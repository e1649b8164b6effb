//! The tournaments of docs/methods.md: `make tournament WHAT=mlp`, `mnist`, `vgg11` or `resnet20`; takes hours, and goes on where it was.
//! Their rows and tables come to the page; `report` in place of a name writes the tables of the rows that lie there.

use std::path::{Path, PathBuf};

use stemm::Error;
use stemm::analysis::mean_and_error;
use stemm::experiment::{Measured, Verdicts};
use stemm::polars::prelude::{DataType, PolarsError};
use stemm::prelude::*;

const NAMES: [&str; 4] = ["mlp", "mnist", "vgg11", "resnet20"];
const PAGE: &str = "docs/methods.md";
const BASELINE: &str = "weight matching";
/// A corrected p-value below it is written in bold.
const SURE: f64 = 0.05;

fn main() -> stemm::Result<()> {
    let what = std::env::args().nth(1).unwrap_or_else(|| "mlp".to_owned());
    if what == "report" {
        return NAMES.iter().filter(|name| rows_of(name).exists()).try_for_each(|name| write_tables(name));
    }
    if !NAMES.contains(&what.as_str()) {
        eprintln!("{what}: the tournaments are {}", NAMES.join(", "));
        std::process::exit(2)
    }
    page_around(&what)?; // not to find out after hours
    let folder = PathBuf::from("out/tournament");
    let tournament = Tournament { results: Some(folder.join(&what)), ..settings(&what)? };
    let data = if what == "mnist" { mnist("data", device())? } else { fashion_mnist("data", device())? };
    let data = match tournament.network.input_shape() {
        [channels, height, width] => data.fit_to(&[*channels, *height, *width])?.take(10_000, 2_000)?,
        _ => data,
    };
    let verdicts = tournament.run(&data)?;
    println!("{}", verdicts.summary(BASELINE)?);
    verdicts.chart().save(folder.join(format!("{what}.png")))?;
    save_parquet(&verdicts.frame(), rows_of(&what))?;
    write_tables(&what)
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
    let (network, counts, groups) = match what {
        "vgg11" => (Network::vgg11(0.25)?, vec![3], 3),
        "resnet20" => (Network::resnet20(1.0)?, vec![3], 3),
        _ => (Network::mlp(&[784, 512, 512, 512, 10])?, vec![2, 3, 5], 5),
    };
    Ok(Tournament { methods, merges, counts, groups, barrier_points: 5, ..Tournament::new(network) })
}

fn rows_of(what: &str) -> PathBuf {
    Path::new("docs/methods").join(format!("{what}.parquet"))
}

/// Puts the tables of a tournament where the page has its marks.
fn write_tables(what: &str) -> stemm::Result<()> {
    let tables = tables(what, &Verdicts::load(rows_of(what))?)?;
    let (before, after) = page_around(what)?;
    std::fs::write(PAGE, format!("{before}{tables}{after}")).map_err(|source| unusable("write", source))
}

/// The page up to the tables of a tournament, and from their end on.
fn page_around(what: &str) -> stemm::Result<(String, String)> {
    let page = std::fs::read_to_string(PAGE).map_err(|source| unusable("read", source))?;
    let (start, end) = (format!("<!-- {what}: written by `make tournament WHAT={what}` -->\n"), "<!-- end -->");
    let parts = page.split_once(&start).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.ok_or_else(|| unusable("find the marks in", std::io::ErrorKind::InvalidData.into()))?;
    Ok((format!("{before}{start}"), format!("{end}{after}")))
}

fn unusable(action: &'static str, source: std::io::Error) -> Error {
    Error::File { action, path: PAGE.into(), source, hint: "run this in the checkout, and leave the page its marks" }
}

/// One table a merge: a row a method, and a column a number of models.
fn tables(what: &str, verdicts: &Verdicts) -> stemm::Result<String> {
    let rows = &verdicts.rows;
    let (merges, methods) =
        (names(rows.iter().map(|row| row.merge.as_str())), names(rows.iter().map(|row| row.method.as_str())));
    let counts = names(rows.iter().map(|row| row.n_models));
    let (groups, most) = (names(rows.iter().map(|row| row.group)).len(), counts.iter().max().copied().unwrap_or(0));
    if groups < 2 {
        return Ok(format!(
            "\nOne group so far, which gives no standard errors: [{what}.parquet](methods/{what}.parquet).\n"
        ));
    }
    let (sure, tests) = sure(verdicts)?;
    let mut text = format!(
        "\n{groups} groups; rows: [{what}.parquet](methods/{what}.parquet). Excess test loss in nats: mean ± standard error over the groups; **bold** where it differs from \
         that of weight matching with the same merge, p < {SURE} after Holm's correction over all {tests} tests of this section. Seconds of the alignment: median of the groups.\n"
    );
    for &merge in &merges {
        let header: Vec<String> = counts.iter().map(|n| format!("n = {n}")).collect();
        text += &format!("\n| by {merge} | {} | accuracy, n = {most} |", header.join(" | "));
        // What does not depend on the merge stands once.
        let alignment = merge == merges[0];
        if alignment {
            text += &format!(" mean barrier, n = {most} | seconds, n = {most} |");
        }
        text += &format!("\n|---|{}\n", "---:|".repeat(counts.len() + if alignment { 3 } else { 1 }));
        for &method in &methods {
            let own = |n: usize, value: fn(&Measured) -> f64| -> Vec<f64> {
                let own = rows.iter().filter(|row| row.merge == merge && row.method == method && row.n_models == n);
                own.filter_map(|row| Some(value(row.measured.as_ref().ok()?))).collect()
            };
            let excess = |&n: &usize| {
                let bold = if sure.contains(&(merge.to_owned(), method.to_owned(), n)) { "**" } else { "" };
                format!("{bold}{}{bold}", shown(mean_and_error(&own(n, Measured::excess))))
            };
            let cells: Vec<String> = counts.iter().map(excess).collect();
            let accuracy = mean_and_error(&own(most, |own| own.test_accuracy)).0;
            text += &format!("| {method} | {} | {accuracy:.3} |", cells.join(" | "));
            if alignment {
                let barrier = shown(mean_and_error(&own(most, |own| own.mean_barrier)));
                text += &format!(" {barrier} | {:.1} |", median(own(most, |own| own.seconds)));
            }
            text.push('\n');
        }
    }
    let ensemble = |&n: &usize| {
        let own = rows.iter().filter(|row| row.merge == merges[0] && row.method == methods[0] && row.n_models == n);
        let excess = own.filter_map(|row| row.measured.as_ref().ok()).map(|own| own.ensemble_loss - own.models_loss);
        format!("{} (n = {n})", shown(mean_and_error(&excess.collect::<Vec<f64>>())))
    };
    text += &format!("\nThe ensemble: {}.\n", counts.iter().map(ensemble).collect::<Vec<String>>().join(", "));
    Ok(text)
}

/// Merge, method and number of models.
type Contest = (String, String, usize);

/// Where the difference from the baseline is sure, and how many tests there were.
fn sure(verdicts: &Verdicts) -> stemm::Result<(Vec<Contest>, usize)> {
    let summary = verdicts.summary(BASELINE)?;
    let missing = |error: PolarsError| Error::Experiment { reason: error.to_string() };
    let number = |name: &str| -> stemm::Result<Vec<Option<f64>>> {
        let column = summary.column(name).and_then(|column| column.cast(&DataType::Float64));
        column.and_then(|column| Ok(column.f64()?.iter().collect())).map_err(missing)
    };
    let text = |name: &str| -> stemm::Result<Vec<String>> {
        let column = summary.column(name);
        column.and_then(|column| Ok(column.str()?.iter().flatten().map(str::to_owned).collect())).map_err(missing)
    };
    let (p, counts) = (number("p_holm")?, number("n_models")?);
    let contests = text("merge")?.into_iter().zip(text("method")?).zip(counts.into_iter().flatten());
    let contests = contests.map(|((merge, method), n)| (merge, method, n as usize)).zip(&p);
    let sure = contests.filter(|(_, p)| p.is_some_and(|p| p < SURE)).map(|(contest, _)| contest).collect();
    Ok((sure, p.iter().flatten().count()))
}

/// What there is, each once.
fn names<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    all.for_each(|own| {
        if !once.contains(&own) {
            once.push(own)
        }
    });
    once
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn shown((mean, error): (f64, f64)) -> String {
    format!("{mean:.3} ± {error:.3}")
}
