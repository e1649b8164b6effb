//! `stemm`: runs plans of experiments on this machine, on a Slurm cluster or on Kubernetes.

mod gather;
mod kubernetes;
mod local;
mod part;
mod process;
mod slurm;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use stemm::experiment::{Outcome, Plan, Status};
use stemm::prelude::*;

use part::Part;

const EXIT_CODES: &str = "\
Exit codes:
  0  everything that was asked for is done
  1  an error, or `sweep` left rows that are missing
  2  the command line is wrong
  3  some experiments failed; their errors are in the results, and the next run tries them again
  4  `status`: some experiments are not there yet, and none failed";

const EXAMPLE: &str = r#"
A plan, say plan.toml:

    results = "results"                  # a folder beside the plan; what is there is not done again
    data_folder = "data"
    data = [{ set = "FashionMnist", samples = [10000, 2000] }]
    networks = [{ Mlp = [784, 64, 10] }, { Mlp = [784, 256, 10] }]
    methods = ["Naive", { WeightMatching = {} }, { SteMm = { epochs = 5 } }]
    counts = [2, 3, 5]                   # how many models are merged
    groups = 5                           # repeats, of models that share none
    [trainer]
    epochs = 10
    [slurm]
    partition = "gpu"
    time = "02:00:00"

    stemm sweep plan.toml                runs it here, as much at once as there is room for
    stemm sweep plan.toml --slurm        submits it to the cluster
    stemm status plan.toml               says how far it is

Killed or interrupted, the same command goes on."#;

/// Runs plans of experiments: which method of alignment and merging is best, for which data, networks and numbers of models.
#[derive(Parser)]
#[command(name = "stemm", version, after_help = EXIT_CODES, after_long_help = format!("{EXAMPLE}\n\n{EXIT_CODES}"))]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs a whole plan: here, or on a Slurm cluster
    Sweep {
        /// The plan, a TOML file
        plan: PathBuf,
        /// Processes at the same time [default: what cores and memory allow; one on a GPU]
        #[arg(long, value_parser = at_least_one())]
        jobs: Option<usize>,
        /// Submit two job arrays to Slurm instead: the models, and the experiments after them
        #[arg(long, conflicts_with = "jobs")]
        slurm: bool,
        /// Only write the scripts for Slurm, into the folder of results
        #[arg(long, requires = "slurm")]
        dry: bool,
    },
    /// Runs one experiment of a plan, or one part of them
    Run(Work),
    /// Trains one model of a plan, or one part of them, and leaves it for the experiments
    Train(Work),
    /// Says how far a plan is, and what failed
    Status {
        /// The plan
        plan: PathBuf,
        /// Print the numbers of the experiments that are not done, a line each
        #[arg(long)]
        missing: bool,
    },
    /// Writes all rows that are there as one table
    Gather {
        /// The plan
        plan: PathBuf,
        /// The table: CSV if it ends in .csv, else Parquet
        file: PathBuf,
    },
    /// Prints a manifest for Kubernetes: an indexed Job of the plan
    Kubernetes {
        /// The plan, as the containers see it: in the mounted volume
        plan: PathBuf,
        /// The image
        #[arg(long, default_value = "stemm")]
        image: String,
        /// The claim of the volume that holds plan, data and results
        #[arg(long, default_value = "stemm")]
        claim: String,
        /// Where the volume is mounted; the plan lies below
        #[arg(long, default_value = "/work")]
        mount: String,
        /// Pods
        #[arg(long, default_value_t = 10, value_parser = at_least_one())]
        pods: usize,
        /// Pods at the same time
        #[arg(long, default_value_t = 2, value_parser = at_least_one())]
        at_once: usize,
        /// GPUs of a pod
        #[arg(long, default_value_t = 0)]
        gpus: usize,
    },
}

#[derive(Args)]
struct Work {
    /// The plan
    plan: PathBuf,
    /// Which one, from 0 [default: HQ_TASK_ID, SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX; without them all]
    index: Option<usize>,
    /// Divide them into so many parts, and take part INDEX
    #[arg(long, value_name = "PARTS", value_parser = at_least_one())]
    of: Option<usize>,
}

/// The exit code where experiments failed.
const FAILED: u8 = 3;

fn main() -> ExitCode {
    // SAFETY: there is no other thread yet. Tables are shown whole.
    unsafe { std::env::set_var("POLARS_FMT_MAX_ROWS", "200") };
    match Command::parse().what.run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "stemm: {error}"); // whoever cannot be told is not told
            ExitCode::from(1)
        }
    }
}

impl What {
    fn run(self) -> stemm::Result<ExitCode> {
        match self {
            What::Sweep { plan, slurm: true, dry, .. } => slurm::sweep(&plan, dry),
            What::Sweep { plan, jobs, .. } => local::sweep(&plan, jobs),
            What::Run(work) => {
                let plan = Plan::load(&work.plan)?;
                let entries = plan.entries()?;
                let own = Part::new(work.index, work.of)?.of(&entries)?;
                let verdicts = plan.run(own, device(), Progress::default())?;
                let failed = verdicts.rows.iter().filter(|row| row.measured.is_err()).count();
                out(format_args!("experiments done: {}, of them failed: {failed}", own.len()))?;
                Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
            }
            What::Train(work) => {
                let plan = Plan::load(&work.plan)?;
                let models = Plan::models(&plan.entries()?);
                let own = Part::new(work.index, work.of)?.of(&models)?;
                let failed = plan.train(own, device(), Progress::default())?;
                failed.iter().try_for_each(|error| out(format_args!("failed: {error}")))?;
                out(format_args!("models trained: {}, of them failed: {}", own.len(), failed.len()))?;
                Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
            }
            What::Status { plan: path, missing } => {
                let plan = Plan::load(&path)?;
                let status = plan.status()?;
                if missing {
                    status.missing().iter().try_for_each(out)?;
                } else {
                    out(status.frame())?;
                    say(&status)?;
                    slurm::queue(&plan)?;
                }
                Ok(end(&status))
            }
            What::Gather { plan, file } => gather::gather(&plan, &file),
            What::Kubernetes { plan, image, claim, mount, pods, at_once, gpus } => {
                let manifest = kubernetes::Job { plan, image, claim, mount, pods, at_once, gpus }.manifest()?;
                out(manifest.trim_end())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// A number of something of which there must be one.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Writes a line to the standard output. Whoever does not read to the end has seen enough.
fn out(line: impl Display) -> stemm::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            let (path, hint) = ("the standard output".into(), "give it a place that can be written to");
            Err(stemm::Error::File { action: "write to", path, source, hint })
        }
        _ => Ok(()),
    }
}

/// How far a plan is, and the first errors.
fn say(status: &Status) -> stemm::Result<()> {
    out(status)?;
    let mut first = status.errors.iter().take(10);
    first.try_for_each(|(number, error)| out(format_args!("experiment {number} failed: {error}")))
}

/// A path or name as text of a script: some words, in one line.
fn written(setting: &'static str, value: &Path) -> stemm::Result<String> {
    match value.to_str() {
        Some(text) if !text.is_empty() && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => {
            let requirement = "some text, in UTF-8 and of one line";
            Err(stemm::Error::Setting { setting, value: format!("{value:?}"), requirement })
        }
    }
}

/// The error of a file in the folder of results that cannot be made.
fn unwritable(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> stemm::Error {
    let path = path.to_owned();
    move |source| stemm::Error::File { action, path, source, hint: "give `results` a folder that can be written to" }
}

/// The exit code that says how far a plan is.
fn end(status: &Status) -> ExitCode {
    match (status.count(Outcome::Failed), status.count(Outcome::Missing)) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(4),
        _ => ExitCode::from(FAILED),
    }
}
