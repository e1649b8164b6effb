//! All rows of a plan as one table.

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;

use stemm::experiment::{Plan, Verdicts};
use stemm::prelude::*;
use stemm::{Error, Result};

use crate::out;

/// Writes the rows that are there; a table of before is replaced if all of its rows are among them.
pub fn gather(plan: &Path, file: &Path) -> Result<ExitCode> {
    let plan = Plan::load(plan)?;
    let experiments = plan.entries()?.len();
    let verdicts = plan.verdicts()?;
    let csv = file.extension().is_some_and(|ending| ending == "csv");
    if let Some(reason) = file.is_file().then(|| lost(&verdicts, file, csv)).flatten() {
        let (path, source) = (file.into(), std::io::Error::other(reason));
        return Err(Error::File { action: "replace", path, source, hint: "give the table another path" });
    }
    match csv {
        true => save_csv(&verdicts.frame(), file)?,
        false => save_parquet(&verdicts.frame(), file)?,
    }
    let done = verdicts.rows.len();
    let others = if done < experiments { "; `stemm status` says what is missing" } else { "" };
    out(format_args!("{done} of {experiments} rows are in {}{others}", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// What would be lost with a file that stands where the table is to be.
fn lost(verdicts: &Verdicts, file: &Path, csv: bool) -> Option<String> {
    const OTHER: &str = "it is no table of experiments";
    if csv {
        let names = verdicts.frame().get_column_names().iter().map(|name| name.as_str()).collect::<Vec<_>>().join(",");
        let own = std::fs::read(file).is_ok_and(|bytes| bytes.starts_with(names.as_bytes()));
        return (!own).then(|| OTHER.to_owned());
    }
    let Ok(before) = Verdicts::load(file) else { return Some(OTHER.to_owned()) };
    let rows: HashSet<&str> = verdicts.rows.iter().map(|row| row.experiment.as_str()).collect();
    let others = before.rows.iter().filter(|row| !rows.contains(row.experiment.as_str())).count();
    (others > 0).then(|| format!("it holds {others} rows that the plan does not have now"))
}
