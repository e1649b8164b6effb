//! A sweep on this machine: as many processes as there is room for, and one line that says how far they are.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use stemm::Error;
use stemm::experiment::{Entry, Outcome, Plan, Store};
use stemm::prelude::*;

use crate::process::Process;
use crate::{end, out, say};

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
        out(verdicts.frame())?;
    } else if plan.verdicts()?.rows.len() < entries.len() {
        side_by_side(path, &plan, &entries, parts, jobs)?;
    }
    let status = plan.status()?;
    say(&status)?;
    match status.count(Outcome::Missing) {
        0 => Ok(end(&status)),
        // After all were tried.
        missing => Err(Error::Experiment {
            reason: format!(
                "{missing} rows are not in {}; mend what ended the parts, which is told above and in its folder logs, and run the same again",
                plan.results.display()
            ),
        }),
    }
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
    let mut running: Vec<Process> = Vec::new();
    let mut shown = String::new();
    let tell = |text: &str| {
        // Whoever does not listen misses nothing that `status` does not say.
        let _ = write!(std::io::stderr(), "{text}").and_then(|()| std::io::stderr().flush());
    };
    loop {
        running.retain_mut(|process| match process.end() {
            None => true,
            Some(Ok(())) => false,
            Some(Err(reason)) => {
                tell(&format!("\n{reason}\n"));
                false
            }
        });
        while running.len() < jobs {
            let Some(part) = waiting.next() else { break };
            running.push(Process::start(path, plan, (part, parts), threads)?);
        }
        let now = done()?;
        let left = match (now.saturating_sub(before), entries.len().saturating_sub(now)) {
            (0, _) | (_, 0) => String::new(),
            (some, rest) => {
                let seconds = start.elapsed().as_secs_f64() / some as f64 * rest as f64;
                format!(", about {:.0} min left", (seconds / 60.0).ceil())
            }
        };
        let line = format!("{now} of {} experiments, {} processes at work{left}", entries.len(), running.len());
        if line != shown {
            let again = std::io::stderr().is_terminal();
            tell(&format!("{}{line}{}", if again { "\r\x1b[K" } else { "" }, if again { "" } else { "\n" }));
            shown = line;
        }
        if running.is_empty() && waiting.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    tell("\n");
    Ok(())
}
