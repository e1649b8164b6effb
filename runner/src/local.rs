//! A sweep on this machine: as many processes as there is room for, and one line that says how far they are.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use stemm::experiment::{Entry, Outcome, Plan, Store};
use stemm::prelude::*;

use crate::{FAILED, end, say, unwritable};

/// Threads for which a process of its own pays.
const THREADS: usize = 2;
/// Memory that a process may need.
const BYTES: u64 = 3 << 30;

pub fn sweep(path: &Path, jobs: Option<usize>) -> stemm::Result<ExitCode> {
    let plan = Plan::load(path)?;
    let entries = plan.entries()?;
    // A part is a group of models, so that no two processes wait for the same ones.
    let parts = entries.chunk_by(|a, b| a.shares_models_with(b)).count();
    let jobs = jobs.unwrap_or_else(room).clamp(1, parts.max(1));
    if jobs == 1 {
        let verdicts = plan.run(&entries, device(), Progress::default())?;
        println!("{}", verdicts.frame());
    } else {
        side_by_side(path, &plan, &entries, parts, jobs)?;
    }
    let status = plan.status()?;
    say(&status);
    Ok(end(&status))
}

/// Processes that cores and memory have room for; one on a GPU.
fn room() -> usize {
    if device().device != Device::Cpu {
        return 1;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = stemm::free_memory().map_or(usize::MAX, |bytes| (bytes / BYTES) as usize);
    (cores / THREADS).min(memory).max(1)
}

fn side_by_side(path: &Path, plan: &Plan, entries: &[Entry], parts: usize, jobs: usize) -> stemm::Result<()> {
    let hashes: Vec<String> = entries.iter().map(|entry| entry.experiment.hash()).collect();
    let store = Store::open(&plan.results)?;
    let done = || -> stemm::Result<usize> {
        let outcomes = store.outcomes(hashes.iter().map(String::as_str))?;
        Ok(outcomes.into_iter().filter(|outcome| *outcome != Outcome::Missing).count())
    };
    let threads = (std::thread::available_parallelism().map_or(1, usize::from) / jobs).max(1);
    let (start, before) = (Instant::now(), done()?);
    let mut waiting = 0..parts;
    let mut running = Running(Vec::new());
    let mut shown = String::new();
    loop {
        let mut ended = Vec::new();
        running.0.retain_mut(|(part, child)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) if status.success() || status.code() == Some(i32::from(FAILED)) => false,
            _ => {
                ended.push(*part);
                false
            }
        });
        for part in ended {
            let log = std::fs::read_to_string(log_of(plan, part)).unwrap_or_default();
            eprintln!("\npart {part} ended early: {}", log.lines().last().unwrap_or("without a word"));
        }
        while running.0.len() < jobs {
            let Some(part) = waiting.next() else { break };
            running.0.push((part, started(path, plan, part, parts, threads)?));
        }
        let now = done()?;
        let left = match (now.saturating_sub(before), entries.len().saturating_sub(now)) {
            (0, _) => String::new(),
            (some, rest) => {
                let seconds = start.elapsed().as_secs_f64() / some as f64 * rest as f64;
                format!(", about {:.0} min left", (seconds / 60.0).ceil())
            }
        };
        let line = format!("{now} of {} experiments, {} processes at work{left}", entries.len(), running.0.len());
        if line != shown {
            let again = std::io::stderr().is_terminal();
            eprint!("{}{line}{}", if again { "\r\x1b[K" } else { "" }, if again { "" } else { "\n" });
            let _ = std::io::stderr().flush();
            shown = line;
        }
        if running.0.is_empty() && waiting.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    eprintln!();
    Ok(())
}

/// Processes by the number of their part; none of them stays when the sweep ends early.
struct Running(Vec<(usize, Child)>);

impl Drop for Running {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn log_of(plan: &Plan, part: usize) -> PathBuf {
    plan.results.join("logs").join(format!("part{part}.log"))
}

/// A process for one part; what it says is in the folder of results.
fn started(path: &Path, plan: &Plan, part: usize, parts: usize, threads: usize) -> stemm::Result<Child> {
    let log = log_of(plan, part);
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).map_err(unwritable("make", folder))?;
    }
    let own = std::fs::File::create(&log).map_err(unwritable("write", &log))?;
    let said = own.try_clone().map_err(unwritable("write", &log))?;
    let program = std::env::current_exe().map_err(unwritable("start a process for", &log))?;
    let threads = threads.to_string();
    Command::new(program)
        .args([
            "run".as_ref(),
            path.as_os_str(),
            part.to_string().as_ref(),
            "--of".as_ref(),
            parts.to_string().as_ref(),
        ])
        .envs([("OMP_NUM_THREADS", &threads), ("RAYON_NUM_THREADS", &threads)])
        .stdin(Stdio::null())
        .stdout(own)
        .stderr(said)
        .spawn()
        .map_err(unwritable("start a process for", &log))
}
