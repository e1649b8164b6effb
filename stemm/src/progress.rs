//! Progress of long work, and the question whether to stop it: a bar that redraws itself in a live notebook, whole lines in
//! other notebooks, a redrawn line in a terminal.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::notebook::{Bundle, Shown, escape, interrupted, is_live};

/// So often is asked whether the user wants to stop.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere.
    Silent,
    /// One display of the cell that redraws itself, in the kernel "Rust (stemm)".
    Live,
    /// Whole lines on standard output, at most one in five seconds: other kernels cannot redraw a line.
    Lines,
    /// One line on standard error that redraws itself.
    Redraw,
}

impl Default for Progress {
    /// A bar in a live notebook, lines in another evcxr notebook, a redrawn line in a terminal, else nothing.
    fn default() -> Self {
        if is_live() {
            Progress::Live
        } else if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
            Progress::Lines
        } else if std::io::stderr().is_terminal() {
            Progress::Redraw
        } else {
            Progress::Silent
        }
    }
}

/// What is known of a piece of work.
#[derive(Clone, Debug)]
struct State {
    progress: Progress,
    label: String,
    total: usize,
    done: usize,
    /// Steps that were done before this work began, such as those of a checkpoint: they took no time.
    before: usize,
    start: Instant,
    detail: String,
}

thread_local! {
    /// The work of this thread from the outermost to the innermost, and the display of its bars.
    static WORK: RefCell<Work> = const { RefCell::new(Work { states: Vec::new(), shown: None, asked: None }) };
}

struct Work {
    states: Vec<State>,
    shown: Option<Shown>,
    asked: Option<Instant>,
}

/// Fails when the user has asked the notebook to stop. Costs next to nothing; called for each step and each batch.
pub(crate) fn check() -> Result<()> {
    WORK.with_borrow_mut(|work| {
        if work.asked.is_some_and(|asked| asked.elapsed() < ASKED_EVERY) {
            return Ok(());
        }
        work.asked = Some(Instant::now());
        match interrupted() {
            true => Err(Error::Interrupted {
                done: work.states.first().map_or_else(|| "work without progress".into(), State::position),
            }),
            false => Ok(()),
        }
    })
}

/// A piece of long work that knows how many steps it has; ends when it is dropped.
pub(crate) struct Task {
    depth: usize,
    last_shown: Option<Instant>,
}

impl Progress {
    /// Begins a piece of work, within that of the same thread that has begun and not ended.
    pub(crate) fn task(self, label: impl Into<String>, total: usize) -> Task {
        let start = Instant::now();
        let state =
            State { progress: self, label: label.into(), total, done: 0, before: 0, start, detail: String::new() };
        WORK.with_borrow_mut(|work| work.states.push(state));
        Task { depth: WORK.with_borrow(|work| work.states.len() - 1), last_shown: None }
    }
}

impl Task {
    /// Steps are done already, without work.
    pub(crate) fn skip(&mut self, steps: usize) {
        self.with_state(|state| {
            state.done = state.done.saturating_add(steps);
            state.before = state.before.saturating_add(steps);
        });
    }

    /// Steps turn out not to be needed.
    pub(crate) fn spare(&mut self, steps: usize) {
        self.with_state(|state| state.total = state.total.saturating_sub(steps));
    }

    /// One step is done; `detail` (such as the current loss) is asked for only if it is shown.
    ///
    /// # Errors
    /// The user has asked to stop.
    pub(crate) fn step(&mut self, detail: impl FnOnce() -> String) -> Result<()> {
        let state = self.with_state(|state| {
            state.done += 1;
            (state.progress, state.done >= state.total, state.start)
        });
        if let Some((progress, is_finished, start)) = state {
            let pace = match progress {
                Progress::Silent => return check(),
                Progress::Lines => Duration::from_secs(5),
                Progress::Redraw | Progress::Live => Duration::from_millis(100),
            };
            // Work that is over before it is shown first stays quiet.
            let is_due = self.last_shown.unwrap_or(start).elapsed() >= pace;
            if is_due || is_finished && self.last_shown.is_some() {
                self.last_shown = Some(Instant::now());
                self.show(detail(), is_finished);
            }
        }
        check()
    }

    /// The work is done, with fewer steps than it might have needed.
    pub(crate) fn finish(mut self) {
        let detail = self.with_state(|state| {
            state.total = state.done.max(1);
            state.done = state.total;
            state.detail.clone()
        });
        if let Some(detail) = detail.filter(|_| self.last_shown.is_some()) {
            self.last_shown = Some(Instant::now());
            self.show(detail, true);
        }
    }

    fn with_state<R>(&self, change: impl FnOnce(&mut State) -> R) -> Option<R> {
        WORK.with_borrow_mut(|work| work.states.get_mut(self.depth).map(change))
    }

    fn show(&self, detail: String, is_finished: bool) {
        let Some(state) = self.with_state(|state| {
            state.detail = detail;
            state.clone()
        }) else {
            return;
        };
        // A broken pipe must not stop the work that the progress is about.
        let _ = match state.progress {
            Progress::Redraw => {
                let end = if is_finished { "\n" } else { "" };
                let mut out = std::io::stderr().lock();
                write!(out, "\r\x1b[2K{}{end}", state.line()).and_then(|()| out.flush())
            }
            Progress::Live => {
                WORK.with_borrow_mut(Work::redraw);
                Ok(())
            }
            _ => writeln!(std::io::stdout(), "{}", state.line()),
        };
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        WORK.with_borrow_mut(|work| {
            work.states.truncate(self.depth + 1);
            if work.owner() == Some(self.depth)
                && let Some(shown) = work.shown.take()
                && let Some(state) = work.states.last()
            {
                shown.update(&state.last_line()); // what a saved notebook keeps
            }
            work.states.truncate(self.depth);
        });
    }
}

impl Work {
    /// The outermost work that is shown as a bar: the display of the bars ends with it.
    fn owner(&self) -> Option<usize> {
        self.states.iter().position(|state| state.progress == Progress::Live)
    }

    /// Draws the bars of all work that is going on as one display.
    fn redraw(&mut self) {
        let live: Vec<&State> = self.states.iter().filter(|state| state.progress == Progress::Live).collect();
        let html = live.iter().map(|state| state.bar()).collect();
        let text = live.iter().map(|state| state.line()).collect::<Vec<_>>().join("\n");
        let bundle = Bundle::of([("text/html", html), ("text/plain", text)]).marked_as_progress();
        match &self.shown {
            Some(shown) => shown.update(&bundle),
            None => self.shown = Some(Shown::new(&bundle)),
        }
    }
}

impl State {
    /// How far it is, in words.
    fn position(&self) -> String {
        format!("{}, {} of {} steps", self.label, self.done, self.total)
    }

    /// Steps a second and seconds that are left; nothing is known before the first step.
    fn pace(&self) -> Option<(f64, f64)> {
        let own = self.done.saturating_sub(self.before);
        let rate = own as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        (own > 0).then(|| (rate, self.total.saturating_sub(self.done) as f64 / rate))
    }

    fn share(&self) -> f64 {
        (self.done as f64 / self.total.max(1) as f64).min(1.0)
    }

    /// Share, rate, time left and detail.
    fn facts(&self) -> String {
        let pace = self.pace().map(|(rate, left)| format!("{} · {} left", rate_text(rate), minutes(left)));
        let facts = [Some(format!("{:.0} %", 100.0 * self.share())), pace, Some(self.detail.clone())];
        facts.into_iter().flatten().filter(|fact| !fact.is_empty()).collect::<Vec<_>>().join(" · ")
    }

    fn line(&self) -> String {
        const WIDTH: usize = 20;
        let filled = (self.share() * WIDTH as f64) as usize;
        format!("{} [{}{}] {}", self.label, "█".repeat(filled), "░".repeat(WIDTH - filled), self.facts())
    }

    /// A bar as HTML; its colours are the page's own, light or dark.
    fn bar(&self) -> String {
        format!(
            "<div>{} <progress value=\"{:.4}\" max=\"1\"></progress> {}</div>",
            escape(&self.label),
            self.share(),
            escape(&self.facts())
        )
    }

    /// What is left of it when it has ended, finished or not.
    fn last_line(&self) -> Bundle {
        let seconds = self.start.elapsed().as_secs_f64();
        let steps = match self.done >= self.total {
            true => format!("{} steps", self.total),
            false => format!("ended after {} of {} steps", self.done, self.total),
        };
        let detail = if self.detail.is_empty() { String::new() } else { format!("; {}", self.detail) };
        let text = format!("{}: {steps} in {}{detail}", self.label, minutes(seconds));
        Bundle::of([("text/html", format!("<div>{}</div>", escape(&text))), ("text/plain", text)]).marked_as_progress()
    }
}

/// A rate in the unit that makes it a number above one.
fn rate_text(rate: f64) -> String {
    match rate {
        1.0.. => format!("{rate:.1} steps/s"),
        _ => format!("{:.1} s/step", 1.0 / rate),
    }
}

fn minutes(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(done: usize, before: usize) -> State {
        let start = Instant::now() - Duration::from_secs(30);
        let (label, detail) = ("training <3>".into(), "loss 0.5".into());
        State { progress: Progress::Live, label, total: 4, done, before, start, detail }
    }

    #[test]
    fn a_line_states_share_rate_and_remaining_time() {
        let line = state(1, 0).line();
        assert!(line.starts_with("training <3> [█████░"), "{line}");
        assert!(
            line.contains("25 %") && line.contains("30.0 s/step · 1:30 left") && line.ends_with("loss 0.5"),
            "{line}"
        );
    }

    #[test]
    fn steps_of_a_checkpoint_are_no_work_of_this_run() {
        assert!(state(3, 2).line().contains("75 % · 30.0 s/step · 0:30 left"), "{}", state(3, 2).line());
        assert!(!state(2, 2).line().contains("steps/s"), "no rate before the first step");
        assert_eq!(
            (rate_text(12.34), rate_text(0.04), minutes(3700.0)),
            ("12.3 steps/s".into(), "25.0 s/step".into(), "1:01:40".into())
        );
    }

    #[test]
    fn a_bar_ends_full_and_as_one_line() {
        assert!(state(4, 0).bar().contains("value=\"1.0000\"") && state(4, 0).bar().contains("training &lt;3&gt;"));
        assert_eq!(state(4, 0).last_line().get("text/plain"), Some("training <3>: 4 steps in 0:30; loss 0.5"));
        assert_eq!(
            state(1, 0).last_line().get("text/plain"),
            Some("training <3>: ended after 1 of 4 steps in 0:30; loss 0.5")
        );
    }

    #[test]
    fn steps_that_are_not_needed_count_neither_as_done_nor_as_left() {
        let mut task = Progress::Silent.task("search", 5);
        task.step(String::new).unwrap();
        task.spare(4);
        let line = WORK.with_borrow(|work| work.states[0].last_line());
        assert_eq!(line.get("text/plain"), Some("search: 1 steps in 0:00"));
    }

    #[test]
    fn the_bars_end_with_the_outermost_work_that_is_shown() {
        let owner = || WORK.with_borrow(Work::owner);
        let _quiet = Progress::Silent.task("quiet", 2);
        assert_eq!(owner(), None);
        let shown = Progress::Live.task("shown", 2);
        let _within = Progress::Live.task("within", 2);
        assert_eq!(owner(), Some(1));
        WORK.with_borrow_mut(Work::redraw);
        drop(shown);
        assert_eq!(owner(), None, "what is within it ends with it");
        assert!(WORK.with_borrow(|work| work.shown.is_none()), "later work has a display of its own");
    }

    #[test]
    fn work_within_work_is_known_until_it_ends() {
        let outer = Progress::Silent.task("outer", 2);
        let inner = Progress::Silent.task("inner", 3);
        let labels =
            || WORK.with_borrow(|work| work.states.iter().map(|state| state.label.clone()).collect::<Vec<_>>());
        assert_eq!(labels(), ["outer", "inner"]);
        drop(inner);
        assert_eq!(labels(), ["outer"]);
        drop(outer);
        assert!(labels().is_empty());
    }
}
