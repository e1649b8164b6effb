//! Times two pieces of work side by side, and the memory that the first needs.

use std::fs;
use std::time::Instant;

/// One line of the table.
pub struct Row {
    pub bench: &'static str,
    pub params: String,
    pub ours_ms: f64,
    pub floor_ms: Option<f64>,
    pub peak_mb: Option<f64>,
}

impl Row {
    /// Prints the line as `bench,params,ours_ms,floor_ms,ratio,peak_mb`; what was not measured is empty.
    pub fn report(&self) {
        assert!(!self.params.contains(','), "`{}` is a column of a table with commas", self.params);
        let floor = self.floor_ms.map_or(String::new(), |floor| format!("{floor:.4}"));
        let ratio = self.floor_ms.map_or(String::new(), |floor| format!("{:.3}", self.ours_ms / floor));
        let peak = self.peak_mb.map_or(String::new(), |peak| format!("{peak:.1}"));
        println!("{},{},{:.4},{floor},{ratio},{peak}", self.bench, self.params, self.ours_ms);
    }
}

/// Runs `ours` and `floor` in turn, `rounds` times after one to warm up; the row holds the median of each.
pub fn side_by_side(
    bench: &'static str,
    params: impl Into<String>,
    rounds: usize,
    mut ours: impl FnMut(),
    mut floor: impl FnMut(),
) -> Row {
    let peak_mb = peak_mb(&mut ours);
    floor();
    let (mut own, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        own.push(milliseconds(&mut ours));
        bare.push(milliseconds(&mut floor));
    }
    Row { bench, params: params.into(), ours_ms: median(own), floor_ms: Some(median(bare)), peak_mb }
}

pub fn milliseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How far the resident memory of the process rises while `work` runs (`None` but on Linux).
pub fn peak_mb(work: impl FnOnce()) -> Option<f64> {
    let before = status_mb("VmRSS:");
    // Sets the high-water mark back to what is resident now.
    let _ = fs::write("/proc/self/clear_refs", "5");
    work();
    Some((status_mb("VmHWM:")? - before?).max(0.0))
}

fn status_mb(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
