//! `make reproduce SCALE=mlp` or `full`: the paper's experiments at the paper's scale, and `docs/reproduction.md` from their results.
//! Goes on where it was; `report` in place of a scale writes the page from what is there. Fails if a claim does.

use std::path::Path;

use stemm::analysis::{mean_and_band, mean_and_error};
use stemm::experiment::{Measured, Outcome, Verdicts};
use stemm::prelude::*;

/// A plan, what it is about, the hours that it takes on two cores (`None`: it wants a GPU), and the command.
struct Study {
    plan: &'static str,
    title: &'static str,
    hours: Option<f64>,
    scale: &'static str,
}

const STUDIES: [Study; 4] = [
    Study { plan: "fashion-mnist", title: "Fashion-MNIST, MLP 3 x 512", hours: Some(2.5), scale: "mlp" },
    Study { plan: "mnist", title: "MNIST, MLP 3 x 512", hours: Some(2.5), scale: "mlp" },
    Study { plan: "cifar10-vgg11", title: "CIFAR-10, VGG11 x4", hours: None, scale: "full" },
    Study { plan: "cifar10-resnet20", title: "CIFAR-10, ResNet20 x16", hours: None, scale: "full" },
];
const FOLDER: &str = "docs/reproduction";
const FAILS: &str = "FAILS";

fn main() -> stemm::Result<()> {
    let scale = std::env::args().nth(1).unwrap_or_else(|| "mlp".to_owned());
    let wanted = |study: &&Study| scale == "full" || scale == study.scale;
    if !["mlp", "full", "report"].contains(&scale.as_str()) {
        eprintln!("SCALE is {scale}: the scales are demo, mlp and full");
        std::process::exit(2);
    }
    for study in STUDIES.iter().filter(wanted) {
        let plan = Plan::load(format!("{FOLDER}/{}.toml", study.plan))?;
        let status = plan.status()?;
        let left = status.entries.len() - status.count(Outcome::Done);
        let hours = study.hours.map_or("for a GPU".to_owned(), |hours| {
            format!("about {:.1} hours on two cores", hours * left as f64 / status.entries.len() as f64)
        });
        println!("{}: {status}; {hours}", study.title);
        plan.run(&status.entries, device(), Progress::default())?;
        write_page()?;
    }
    let failing = write_page()?;
    failing.iter().for_each(|claim| eprintln!("FAILS: {claim}"));
    std::process::exit(i32::from(!failing.is_empty()))
}

/// The page, of all studies of which something is there; gives the claims that fail.
fn write_page() -> stemm::Result<Vec<String>> {
    let mut page = String::from(
        "# The paper's claims, at its own scale\n\nIto, Yamada, Kumagai, ICML 2025: the paper's networks and settings; the best of 100 epochs \
         on held-out data, 10 epochs of STE-MM. A group of five models is one repeat; means ± standard errors over groups; seconds and minutes are upper bounds where a machine had other work. This page is written by the command \
         that makes the results: `make reproduce SCALE=mlp` (both MNISTs, CPU) or `SCALE=full` (CIFAR-10 as well, GPU); each goes on where it was \
         interrupted. Rows beside this page as Parquet. A naive mean answers nearly the same to every input, so that its weighted trace is small as well: traces are worth \
         comparing between models that work. A claim holds if the whole 95 % confidence interval of the mean (Student's, over groups) lies on its side, fails if the whole of it \
         lies on the other, and is undecided else.\n",
    );
    let mut failing = Vec::new();
    for study in &STUDIES {
        let plan = Plan::load(format!("{FOLDER}/{}.toml", study.plan))?;
        let verdicts = plan.verdicts()?;
        let command = format!("make reproduce SCALE={}", study.scale);
        if verdicts.rows.is_empty() {
            page += &format!("\n## {}\n\nNot measured yet: `{command}`.\n", study.title);
            continue;
        }
        save_parquet(&verdicts.frame(), format!("{FOLDER}/{}.parquet", study.plan))?;
        page += &section(study, &command, &verdicts, plan.groups, &mut failing)?;
    }
    std::fs::write("docs/reproduction.md", page).map_err(|source| stemm::Error::File {
        action: "write",
        path: "docs/reproduction.md".into(),
        source,
        hint: "run this in the checkout",
    })?;
    Ok(failing)
}

fn section(
    study: &Study,
    command: &str,
    verdicts: &Verdicts,
    groups: usize,
    failing: &mut Vec<String>,
) -> stemm::Result<String> {
    let whole = Whole { verdicts, most: verdicts.rows.iter().map(|row| row.n_models).max().unwrap_or(0) };
    let minutes: f64 = verdicts.rows.iter().filter_map(|row| row.measured.as_ref().ok()).map(|own| own.seconds).sum();
    let far = match whole.groups() {
        all if all >= groups => format!("{all} groups"),
        some => format!("{some} of {groups} groups so far"),
    };
    let mut text = format!(
        "\n## {}\n\n`{command}`; {far}, {:.0} minutes in alignments. Losses in nats, on the test data.\n\n\
         | claim | measured | tolerance | verdict |\n|---|---:|---:|---|\n",
        study.title,
        minutes / 60.0
    );
    for claim in whole.claims() {
        text += &format!(
            "| {} | {} | {} | {} |\n",
            claim.text,
            shown(mean_and_error(&claim.groups)),
            claim.side,
            claim.verdict()
        );
        if claim.verdict() == FAILS {
            failing.push(format!("{}: {}", study.title, claim.text));
        }
    }
    text += "\n| method | n | excess loss | accuracy | mean barrier | worst barrier | weighted trace | seconds |\n|---|---:|---:|---:|---:|---:|---:|---:|\n";
    for n in 1..=whole.most {
        for method in ["naive", "weight matching", "ste-mm", "ste-mm, midpoint"] {
            if whole.values(method, n, |own| Some(own.test_loss)).is_empty() {
                continue;
            }
            let column = |value: fn(&Measured) -> Option<f64>| shown(mean_and_error(&whole.values(method, n, value)));
            let name = if n == 1 { "the models" } else { method };
            text += &format!(
                "| {name} | {n} | {} | {} | {} | {} | {} | {:.0} |\n",
                column(|own| Some(own.excess())),
                column(|own| Some(own.test_accuracy)),
                column(|own| Some(own.mean_barrier)),
                column(|own| Some(own.worst_barrier)),
                column(|own| own.trace.map(|trace| trace.0)),
                mean_and_error(&whole.values(method, n, |own| Some(own.seconds))).0,
            );
        }
    }
    let mut aligned = verdicts.clone();
    aligned.rows.retain(|row| row.method != "naive");
    let (excess, trace) = (format!("{}-excess.png", study.plan), format!("{}-trace.png", study.plan));
    aligned.chart().save(Path::new(FOLDER).join(&excess))?;
    whole.trace_chart().save(Path::new(FOLDER).join(&trace))?;
    text += &format!(
        "\n![excess loss against the number of models](reproduction/{excess})\n![weighted trace](reproduction/{trace})\n"
    );
    Ok(text)
}

/// A claim with the figure of each group.
struct Claim {
    text: String,
    groups: Vec<f64>,
    side: Side,
}

/// Where a figure has to be.
enum Side {
    Above(f64),
    AtMost(f64),
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Side::Above(least) => write!(f, "> {least}"),
            Side::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

impl Side {
    fn has(&self, value: f64) -> bool {
        match *self {
            Side::Above(least) => value > least,
            Side::AtMost(most) => value <= most,
        }
    }
}

impl Claim {
    fn verdict(&self) -> &'static str {
        let (mean, (low, high)) = mean_and_band(&self.groups);
        match (self.groups.len(), self.side.has(low), self.side.has(high)) {
            (0, ..) => "not measured yet",
            (1, ..) if self.side.has(mean) => "holds in the one group there is",
            (1, ..) => "does not hold in the one group there is",
            (_, true, true) => "holds",
            (_, false, false) => FAILS,
            _ if self.side.has(mean) => "undecided, rather holds",
            _ => "undecided, rather fails",
        }
    }
}

struct Whole<'a> {
    verdicts: &'a Verdicts,
    most: usize,
}

impl Whole<'_> {
    /// Groups that have all rows of the largest number of models.
    fn groups(&self) -> usize {
        self.values("ste-mm", self.most, |own| Some(own.test_loss)).len()
    }

    /// A figure of each group.
    fn values(&self, method: &str, n: usize, value: fn(&Measured) -> Option<f64>) -> Vec<f64> {
        let own = self.verdicts.rows.iter().filter(|row| row.method == method && row.n_models == n);
        own.filter_map(|row| value(row.measured.as_ref().ok()?)).collect()
    }

    /// Differences of a figure within groups.
    fn differences(&self, a: (&str, usize), b: (&str, usize), value: fn(&Measured) -> Option<f64>) -> Vec<f64> {
        let of = |(method, n): (&str, usize), group: usize| {
            let row = self
                .verdicts
                .rows
                .iter()
                .find(|row| row.method == method && row.n_models == n && row.group == group)?;
            value(row.measured.as_ref().ok()?)
        };
        (0..100).filter_map(|group| Some(of(a, group)? - of(b, group)?)).collect()
    }

    fn claims(&self) -> Vec<Claim> {
        let n = self.most;
        let excess: fn(&Measured) -> Option<f64> = |own| Some(own.excess());
        let trace: fn(&Measured) -> Option<f64> = |own| own.trace.map(|trace| trace.0);
        let claim = |text: String, groups, side| Claim { text, groups, side };
        vec![
            claim(
                format!("the naive mean of {n} models fails: excess loss"),
                self.values("naive", n, excess),
                Side::Above(0.5),
            ),
            claim(
                format!("weight matching's mean of {n} loses something: excess loss"),
                self.values("weight matching", n, excess),
                Side::Above(0.0),
            ),
            claim(
                format!("STE-MM's mean of {n} is about as good as the models: excess loss"),
                self.values("ste-mm", n, excess),
                Side::AtMost(0.02),
            ),
            claim(
                "STE-MM's is better than weight matching's: difference in the same groups".into(),
                self.differences(("weight matching", n), ("ste-mm", n), excess),
                Side::Above(0.0),
            ),
            claim(
                format!("all pairs of {n} aligned models are connected: worst barrier"),
                self.values("ste-mm", n, |own| Some(own.worst_barrier)),
                Side::AtMost(0.02),
            ),
            claim(
                format!("the merge is flatter than the models: fall of the trace from 1 to {n}"),
                self.differences(("naive", 1), ("ste-mm", n), trace),
                Side::Above(0.0),
            ),
        ]
    }

    /// The weighted trace of merges against their number of models.
    fn trace_chart(&self) -> Chart {
        let series = ["weight matching", "ste-mm", "ste-mm, midpoint"].map(|method| {
            let points = (1..=self.most).filter_map(|n| {
                let name = if n == 1 { "naive" } else { method };
                let (mean, error) = mean_and_error(&self.values(name, n, |own| own.trace.map(|trace| trace.0)));
                mean.is_finite().then_some(((n as f64, mean), (mean - error, mean + error)))
            });
            let (points, band): (Vec<_>, Vec<_>) = points.unzip();
            stemm::chart::Series::new(method, points).band(band)
        });
        Lines::new("Sharpness of the merge, with standard errors", "models", "weighted Hessian trace")
            .series(series)
            .into()
    }
}

fn shown((mean, error): (f64, f64)) -> String {
    if mean.is_nan() {
        return "-".to_owned();
    }
    if error.is_nan() { format!("{mean:.4}") } else { format!("{mean:.4} ± {error:.4}") }
}
