//! Texts and numbers for people: long ones are cut, with a count of what is not shown.

use std::fmt::{self, Write};

/// Characters that are counted of a long text; after so many nobody needs to know how many more there are.
const COUNTED: usize = 10_000_000;

/// The beginning of a text, and how much more there is: entries of a list, characters of anything else. The whole text is
/// never in memory.
pub(crate) fn beginning(text: fmt::Arguments, most: usize) -> String {
    let mut beginning = Beginning { most, ..Beginning::default() };
    // It ends early where it has counted enough, and where the value's own text fails: what there is of it is shown.
    let _ = beginning.write_fmt(text);
    beginning.shown()
}

/// Keeps the first characters written to it and counts the others.
#[derive(Default)]
struct Beginning {
    kept: String,
    /// Characters that may be kept.
    most: usize,
    characters: usize,
    /// Brackets that are open.
    depth: usize,
    /// Within text in quotes, and behind its backslash.
    quoted: bool,
    escaped: bool,
    /// Commas between the entries of the outermost list.
    commas: usize,
    /// Length of the kept text before the last of these commas in it, and their number up to there.
    complete: (usize, usize),
}

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' if self.quoted => self.escaped = true,
                '"' => self.quoted = !self.quoted,
                _ if self.quoted => (),
                '[' | '{' | '(' => self.depth += 1,
                ']' | '}' | ')' => self.depth = self.depth.saturating_sub(1),
                ',' if self.depth == 1 => {
                    self.commas += 1;
                    if self.characters < self.most {
                        self.complete = (self.kept.len(), self.commas);
                    }
                }
                _ => (),
            }
            if self.characters < self.most {
                self.kept.push(character);
            }
            self.characters += 1;
        }
        if self.characters < COUNTED { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Beginning {
    fn shown(mut self) -> String {
        let more = self.characters.saturating_sub(self.most);
        if more == 0 {
            return self.kept;
        }
        let than = if self.characters < COUNTED { "" } else { "more than " };
        let (length, entries) = self.complete;
        // Brackets or quotes of a text of its own kind may not match: then its characters are counted.
        if self.kept.starts_with(['[', '{']) && entries > 0 && (self.depth == 0 || !than.is_empty()) && !self.quoted {
            self.kept.truncate(length);
            return format!("{}, ... and {than}{} more entries", self.kept, grouped(self.commas + 1 - entries));
        }
        format!("{}... and {than}{} more characters", self.kept, grouped(more))
    }
}

/// A count with its digits in groups of three.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    groups.map(|group| group.iter().map(|&digit| char::from(digit)).collect::<String>()).collect::<Vec<_>>().join(",")
}

/// Four significant digits, in scientific notation where zeros would pile up.
pub(crate) fn number(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 || !x.is_finite() {
        format!("{x}")
    } else if !(1e-3..1e6).contains(&size) {
        format!("{x:.3e}")
    } else {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{x:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    const MOST: usize = 1500;

    #[test]
    fn the_text_of_a_huge_value_is_cut_and_says_how_much_more_there_is() {
        let shown = |value: &dyn Debug| beginning(format_args!("{value:?}"), MOST);
        let list = shown(&(0..1_000_000).collect::<Vec<i32>>());
        assert!(list.starts_with("[0, 1, 2, 3,") && list.len() < 2000, "{list}");
        // What stands there and what is counted is the whole list.
        let (head, count) = list.split_once(", ... and ").unwrap();
        let last: usize = head.rsplit(", ").next().unwrap().parse().unwrap();
        assert_eq!(count, format!("{} more entries", grouped(1_000_000 - last - 1)));
        let pairs = shown(&vec![("a, b] \"c\"", [1, 2]); 1000]);
        let whole = head_entries(&pairs, "(\"a, b] \\\"c\\\"\", [1, 2])");
        assert!(pairs.ends_with(&format!("and {} more entries", 1000 - whole)), "{pairs}");
        let text = shown(&"y".repeat(5000));
        assert!(text.starts_with("\"yyy") && text.ends_with("... and 3,502 more characters"), "{text}");
        assert_eq!(shown(&[1, 2, 3]), "[1, 2, 3]");
        assert_eq!(shown(&Some(vec![7; 3])), "Some([7, 7, 7])");
    }

    /// How often an entry stands in a text.
    fn head_entries(text: &str, entry: &str) -> usize {
        text.matches(entry).count()
    }

    #[test]
    fn a_value_that_is_too_long_to_be_counted_is_shown() {
        struct Endless; // as good as
        impl Debug for Endless {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.debug_list().entries(std::iter::repeat_n(1, 100_000_000)).finish()
            }
        }
        let shown = beginning(format_args!("{Endless:?}"), 20);
        let (head, count) = shown.split_once(" and more than ").unwrap();
        let count: usize = count.replace(',', "").trim_end_matches(" more entries").parse().unwrap();
        assert!(head.starts_with("[1, 1, 1") && (3_000_000..4_000_000).contains(&count), "{shown}");
    }

    #[test]
    fn numbers_keep_four_significant_digits() {
        assert_eq!([0.0, 1.0, 123.456, 87654.3, 1e-7].map(number), ["0", "1.000", "123.5", "87654", "1.000e-7"]);
    }
}
