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
    if file.is_file()
        && let Some(reason) = lost(&verdicts, file, csv)?
    {
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
fn lost(verdicts: &Verdicts, file: &Path, csv: bool) -> Result<Option<String>> {
    let before = match csv {
        true => written_as_csv(verdicts, file)?,
        false => match Verdicts::load(file) {
            // The error of a row is in the results.
            Ok(before) => {
                Ok(before.rows.into_iter().filter(|row| row.measured.is_ok()).map(|row| row.experiment).collect())
            }
            Err(Error::Corrupt { reason, .. }) => Err(reason),
            Err(other) => return Err(other),
        },
    };
    let rows: HashSet<&str> = verdicts.rows.iter().map(|row| row.experiment.as_str()).collect();
    Ok(match before.map(|before: Vec<String>| before.iter().filter(|row| !rows.contains(row.as_str())).count()) {
        Ok(0) => None,
        Ok(others) => Some(format!("it holds {others} rows that the plan does not have now")),
        Err(reason) => Some(format!("it is no table of experiments: {reason}")),
    })
}

/// The experiments of a CSV table, or why it is none of ours. Their names, which need no quotation marks, end its rows.
fn written_as_csv(verdicts: &Verdicts, file: &Path) -> Result<std::result::Result<Vec<String>, String>> {
    let bytes = std::fs::read(file).map_err(|source| {
        let path = file.into();
        Error::File { action: "read", path, source, hint: "give the table another path" }
    })?;
    let frame = verdicts.frame();
    let names: Vec<&str> = frame.get_column_names().iter().map(|name| name.as_str()).collect();
    let text = String::from_utf8_lossy(&bytes);
    let Some(rows) = text.strip_prefix(&names.join(",")).and_then(|rows| rows.strip_prefix('\n')) else {
        return Ok(Err("its first line is another".into()));
    };
    let experiment = |(number, line): (usize, &str)| match line.rsplit_once(',') {
        Some((_, name)) if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(name.to_owned()),
        _ => Err(format!("line {} is none of one", number + 2)),
    };
    Ok(rows.lines().enumerate().map(experiment).collect())
}
