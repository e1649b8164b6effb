//! The chart of how a step of STE-MM grows with the number of models and with the width.

use std::fs;

use stemm::chart::{Chart, Lines, Series};

use super::Outcome;

/// Draws the rows `ste_mm_step` of a table of results.
pub fn draw(results: &str, chart: &str) -> Outcome {
    let table = fs::read_to_string(results)?;
    let mut steps = Vec::new();
    for line in table.lines() {
        if let ["ste_mm_step", params, ours, floor, ..] = line.split(',').collect::<Vec<_>>()[..] {
            let (width, n) = params.trim_start_matches("3x").split_once(" n=").ok_or("another name than 3x512 n=2")?;
            steps.push([width.parse::<f64>()?, n.parse()?, ours.parse()?, floor.parse()?]);
        }
    }
    let panel = |title: &str, x: &str, along: usize, other: usize, held: f64| -> Chart {
        let mut rows: Vec<_> = steps.iter().filter(|row| row[other] == held).collect();
        rows.sort_by(|a, b| a[along].total_cmp(&b[along]));
        let series = |name: &str, y: usize| Series::new(name, rows.iter().map(|row| (row[along], row[y])).collect());
        Lines::new(title, x, "ms a step")
            .series([series("ours", 2), series("floor", 3).dashed()])
            .log_x()
            .log_y()
            .into()
    };
    let (width, n) = (0, 1);
    let models = panel("3 x 512 units", "models", n, width, 512.0);
    models.beside(panel("3 models", "units a layer", width, n, 3.0)).save(chart)?;
    Ok(())
}
