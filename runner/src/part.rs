//! Which part of the work a process does: by its argument, or as the system says that started it.

use stemm::{Error, Result};

/// Variables in which HyperQueue, Slurm and Kubernetes number the tasks of an array: HyperQueue's workers run in jobs of the others.
const NUMBERS: [&str; 3] = ["HQ_TASK_ID", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];

/// One of so many equal parts; all of it, if there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: Option<usize>,
    /// What said so.
    source: &'static str,
    parts: Option<usize>,
}

impl Part {
    pub fn new(index: Option<usize>, parts: Option<usize>) -> Result<Part> {
        let said = || NUMBERS.iter().find_map(|name| Some((*name, std::env::var_os(name)?)));
        let (index, source) = match (index, said()) {
            (Some(index), _) => (Some(index), "INDEX"),
            (None, Some((setting, value))) => match value.to_str().and_then(|value| value.parse().ok()) {
                Some(index) => (Some(index), setting),
                None => {
                    let (value, requirement) = (value.to_string_lossy().into_owned(), "a whole number, from 0");
                    return Err(Error::Setting { setting, value, requirement });
                }
            },
            (None, None) => (None, "INDEX"),
        };
        if let (Some(parts), None) = (parts, index) {
            let requirement = "with the number of the part before it";
            return Err(Error::Setting { setting: "--of", value: parts.to_string(), requirement });
        }
        Ok(Part { index, source, parts })
    }

    /// Its share of some items, which all parts together have once each; their sizes differ by one at most.
    pub fn of<T>(self, items: &[T]) -> Result<&[T]> {
        let Some(index) = self.index else { return Ok(items) };
        let parts = self.parts.unwrap_or(items.len());
        if index >= parts {
            let requirement = "below the number of parts, or of experiments";
            return Err(Error::Setting { setting: self.source, value: format!("{index} of {parts}"), requirement });
        }
        let start = |part: usize| (part as u128 * items.len() as u128 / parts as u128) as usize;
        Ok(&items[start(index)..start(index + 1)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_everything_once_and_equally_much() {
        let items: Vec<usize> = (0..23).collect();
        for parts in [1, 2, 7, 23, 40] {
            let shares: Vec<&[usize]> =
                (0..parts).map(|index| Part::new(Some(index), Some(parts)).unwrap().of(&items).unwrap()).collect();
            assert_eq!(shares.concat(), items, "{parts}");
            let sizes: Vec<usize> = shares.iter().map(|share| share.len()).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
        assert_eq!(Part::new(Some(22), None).unwrap().of(&items).unwrap(), [22]);
        assert!(Part::new(Some(23), None).unwrap().of(&items).is_err());
        assert!(Part::new(Some(2), Some(2)).unwrap().of(&items).is_err());
    }
}
