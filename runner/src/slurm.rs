//! A sweep on a Slurm cluster: one array of jobs for the models, and one for the experiments that waits for it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use stemm::experiment::{Plan, Slurm};
use stemm::{Error, Result};

use crate::{out, unwritable, written};

/// Tasks of an array where the plan says nothing: what clusters allow by default.
const MOST_TASKS: usize = 1_000;

/// Writes and, unless it is a dry run, submits both arrays.
pub fn sweep(path: &Path, dry: bool) -> Result<ExitCode> {
    let plan = Plan::load(path)?;
    let entries = plan.entries()?;
    let models = Plan::models(&entries).len();
    let folder = absolute(&plan.results).join("slurm");
    let list = folder.join("jobs");
    check(&plan.slurm)?;
    std::fs::create_dir_all(&folder).map_err(unwritable("make", &folder))?;
    let mut before: Option<String> = None;
    let mut jobs = Vec::new();
    for (what, count) in [("train", models), ("run", entries.len())] {
        let script = folder.join(format!("{what}.sh"));
        std::fs::write(&script, text(&plan, path, what, count)?).map_err(unwritable("write", &script))?;
        if dry {
            out(script.display())?;
            continue;
        }
        let mut submit = Command::new("sbatch");
        submit.arg("--parsable");
        if let Some(job) = &before {
            // Not `afterok`, by which one model that cannot be trained would hold up all experiments for ever: each says what it lacks.
            submit.arg(format!("--dependency=afterany:{job}"));
        }
        let said = submit.arg(&script).output().map_err(|source| Error::File {
            action: "run",
            path: "sbatch".into(),
            source,
            hint: "run this where jobs are submitted, or write the scripts with `--dry`",
        })?;
        if !said.status.success() {
            let source = std::io::Error::other(String::from_utf8_lossy(&said.stderr).trim().to_owned());
            let hint = match jobs.is_empty() {
                true => "correct the plan's [slurm]",
                false => {
                    "correct the plan's [slurm]; `stemm status` shows the array of the models, which is in the queue"
                }
            };
            return Err(Error::File { action: "submit", path: script, source, hint });
        }
        let job = String::from_utf8_lossy(&said.stdout).trim().split(';').next().unwrap_or_default().to_owned();
        jobs.push(job.clone());
        std::fs::write(&list, jobs.join("\n")).map_err(unwritable("write", &list))?;
        out(format_args!("{what}: job {job}"))?;
        before = Some(job);
    }
    if !dry {
        out(format_args!("stemm status {} says how far it is", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses what no option of `sbatch` can be.
fn check(slurm: &Slurm) -> Result<()> {
    let numbers = [
        ("slurm.tasks", slurm.tasks),
        ("slurm.at_once", slurm.at_once),
        ("slurm.gpus", slurm.gpus),
        ("slurm.cpus", slurm.cpus),
    ];
    if let Some((setting, _)) = numbers.iter().find(|(_, number)| *number == Some(0)) {
        return Err(Error::Setting { setting, value: "0".into(), requirement: "at least 1, or left out" });
    }
    let texts = [
        ("slurm.account", &slurm.account),
        ("slurm.partition", &slurm.partition),
        ("slurm.time", &slurm.time),
        ("slurm.memory", &slurm.memory),
    ];
    let given = texts.into_iter().filter_map(|(setting, text)| Some((setting, text.as_ref()?)));
    given.into_iter().try_for_each(|(setting, text)| written(setting, Path::new(text)).map(|_| ()))
}

/// The script of an array.
fn text(plan: &Plan, path: &Path, what: &str, count: usize) -> Result<String> {
    let slurm = &plan.slurm;
    let tasks = count.min(slurm.tasks.unwrap_or(MOST_TASKS)).max(1);
    let at_once = slurm.at_once.map(|most| format!("%{most}")).unwrap_or_default();
    let logs = absolute(&plan.results).join("slurm");
    let mut options = vec![
        ("job-name", format!("stemm-{what}")),
        ("array", format!("0-{}{at_once}", tasks - 1)),
        ("output", format!("{}/{what}-%a.log", written("results", &logs)?.replace('%', "%%"))),
        ("open-mode", "append".to_owned()),
        ("ntasks", "1".to_owned()),
    ];
    let further = [
        ("account", slurm.account.clone()),
        ("partition", slurm.partition.clone()),
        ("time", slurm.time.clone()),
        ("gpus-per-task", slurm.gpus.map(|count| count.to_string())),
        ("cpus-per-task", slurm.cpus.map(|count| count.to_string())),
        ("mem", slurm.memory.clone()),
    ];
    options.extend(further.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let program = std::env::current_exe().unwrap_or_else(|_| "stemm".into());
    let lines = options
        .iter()
        .map(|(name, value)| format!("#SBATCH --{name}=\"{}\"\n", value.replace('\\', "\\\\").replace('"', "\\\"")));
    let before: String = slurm.before.iter().map(|line| format!("{line}\n")).collect();
    Ok(format!(
        "#!/bin/bash\n{}#SBATCH --requeue\n{before}exec {} {what} {} --of {tasks}\n",
        lines.collect::<String>(),
        quoted(&written("stemm", &program)?),
        quoted(&written("PLAN", &absolute(path))?),
    ))
}

/// What the queue says of the jobs that were submitted, where there is one.
pub fn queue(plan: &Plan) -> Result<()> {
    let Ok(jobs) = std::fs::read_to_string(plan.results.join("slurm").join("jobs")) else { return Ok(()) };
    let jobs = jobs.lines().collect::<Vec<_>>().join(",");
    let arguments = ["--noheader", "--array", "--format=%T", "--jobs", &jobs];
    let Ok(said) = Command::new("squeue").args(arguments).output() else { return Ok(()) };
    let complaint = String::from_utf8_lossy(&said.stderr);
    // Slurm forgets jobs some minutes after their end.
    if !said.status.success() && !complaint.contains("Invalid job id") {
        return out(format_args!("the queue does not answer: {}", complaint.trim()));
    }
    let mut states: Vec<(String, usize)> = Vec::new();
    for state in String::from_utf8_lossy(&said.stdout).lines() {
        match states.iter_mut().find(|(own, _)| own == state) {
            Some((_, count)) => *count += 1,
            None => states.push((state.to_owned(), 1)),
        }
    }
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {}", state.to_lowercase())).collect();
    out(format_args!("in the queue: {}", if states.is_empty() { "nothing".to_owned() } else { states.join(", ") }))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// One word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
