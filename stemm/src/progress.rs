//! Progress of long work: whole lines at a modest pace in a notebook, a redrawn line in a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere.
    Silent,
    /// Whole lines on standard output, at most one in five seconds: notebooks cannot redraw a line.
    Lines,
    /// One line on standard error that redraws itself.
    Redraw,
}

impl Default for Progress {
    /// Lines in an evcxr notebook, a redrawn line in a terminal, else nothing.
    fn default() -> Self {
        if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
            Progress::Lines
        } else if std::io::stderr().is_terminal() {
            Progress::Redraw
        } else {
            Progress::Silent
        }
    }
}

/// A piece of long work that knows how many steps it has.
pub(crate) struct Task {
    progress: Progress,
    label: String,
    total: usize,
    done: usize,
    start: Instant,
    last_shown: Option<Instant>,
}

impl Progress {
    pub(crate) fn task(self, label: impl Into<String>, total: usize) -> Task {
        Task { progress: self, label: label.into(), total, done: 0, start: Instant::now(), last_shown: None }
    }
}

impl Task {
    /// One step is done; `detail` (such as the current loss) is asked for only if a line is due.
    pub(crate) fn step(&mut self, detail: impl FnOnce() -> String) {
        self.done += 1;
        let pace = match self.progress {
            Progress::Silent => return,
            Progress::Lines => Duration::from_secs(5),
            Progress::Redraw => Duration::from_millis(100),
        };
        let finished = self.done == self.total;
        let due = self.last_shown.unwrap_or(self.start).elapsed() >= pace;
        // Work that is over before its first line is due stays quiet.
        if !(due || finished && self.last_shown.is_some()) {
            return;
        }
        self.last_shown = Some(Instant::now());
        let line = self.line(&detail());
        // A broken pipe must not stop the work that the progress is about.
        let _ = match self.progress {
            Progress::Redraw => {
                let end = if finished { "\n" } else { "" };
                let mut out = std::io::stderr().lock();
                write!(out, "\r\x1b[2K{line}{end}").and_then(|()| out.flush())
            }
            _ => writeln!(std::io::stdout(), "{line}"),
        };
    }

    fn line(&self, detail: &str) -> String {
        const WIDTH: usize = 20;
        let share = self.done as f64 / self.total.max(1) as f64;
        let filled = ((share * WIDTH as f64) as usize).min(WIDTH);
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds.max(1e-9);
        let remaining = (self.total.saturating_sub(self.done)) as f64 / rate.max(1e-9);
        format!(
            "{} [{}{}] {:3.0} %  {:.1} steps/s  {} left  {}",
            self.label,
            "█".repeat(filled),
            "░".repeat(WIDTH - filled),
            100.0 * share,
            rate,
            minutes(remaining),
            detail
        )
    }
}

fn minutes(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_states_share_rate_and_remaining_time() {
        let mut task = Progress::Silent.task("training", 4);
        task.done = 1;
        task.start = Instant::now() - Duration::from_secs(30);
        let line = task.line("loss 0.5");
        assert!(line.starts_with("training [█████░"), "{line}");
        assert!(line.contains("25 %") && line.contains("1:30 left") && line.ends_with("loss 0.5"), "{line}");
    }
}
