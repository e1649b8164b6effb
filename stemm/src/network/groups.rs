//! Symbols for axes, and which of them are tied.
//!
//! An axis is a list of segments; a segment says that so many units of a symbol lie side by side, each a block of
//! neighbouring entries (more than one after a flatten). Concatenation appends segments, a sum unifies two axes. Where
//! two axes are cut differently, symbols are split or gathered into blocks until both are cut alike; where even that
//! does not help, the symbols are fixed, which is always right, if not always the most that could be permuted.

/// A tensor axis in terms of symbols.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Axis(Vec<Segment>);

/// `units` units of a symbol, `block` entries each; no symbol: entries that stay where they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Segment {
    pub symbol: Option<usize>,
    pub units: i64,
    pub block: i64,
}

impl Segment {
    fn entries(&self) -> i64 {
        self.units * self.block
    }
}

impl Axis {
    /// An axis that no permutation moves, such as the positions in a kernel.
    pub(crate) fn fixed(size: i64) -> Axis {
        Axis(vec![Segment { symbol: None, units: size, block: 1 }])
    }

    /// Number of entries.
    pub(crate) fn size(&self) -> i64 {
        self.0.iter().map(Segment::entries).sum()
    }

    /// The axis with each entry repeated for `positions` neighbouring entries: what flattening does to channels.
    pub(crate) fn blocked(&self, positions: i64) -> Axis {
        Axis(self.0.iter().map(|segment| Segment { block: segment.block * positions, ..*segment }).collect())
    }

    /// The axes one after the other.
    pub(crate) fn concatenated(axes: impl IntoIterator<Item = Axis>) -> Axis {
        Axis(axes.into_iter().flat_map(|axis| axis.0).collect())
    }
}

/// The state of a symbol.
#[derive(Clone, Debug)]
enum Symbol {
    Free,
    Fixed,
    /// The same as these segments: an alias, a split, or a gathering into blocks.
    Is(Vec<Segment>),
}

/// All symbols of a network: a union-find that can also split and gather.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ties {
    symbols: Vec<Symbol>,
}

impl Ties {
    /// A new symbol for an axis of `size` units.
    pub(crate) fn new_axis(&mut self, size: i64) -> Axis {
        Axis(vec![self.new_segment(size)])
    }

    fn new_segment(&mut self, units: i64) -> Segment {
        self.symbols.push(Symbol::Free);
        Segment { symbol: Some(self.symbols.len() - 1), units, block: 1 }
    }

    /// Fixes every symbol of an axis.
    pub(crate) fn fix(&mut self, axis: &Axis) {
        for segment in self.resolve(axis) {
            self.fix_symbol(&segment);
        }
    }

    fn fix_symbol(&mut self, segment: &Segment) {
        if let Some(symbol) = segment.symbol {
            self.symbols[symbol] = Symbol::Fixed;
        }
    }

    /// The axis in terms of free symbols.
    pub(crate) fn resolve(&self, axis: &Axis) -> Vec<Segment> {
        let mut resolved = Vec::new();
        for segment in &axis.0 {
            self.resolve_into(*segment, &mut resolved);
        }
        resolved
    }

    fn resolve_into(&self, segment: Segment, resolved: &mut Vec<Segment>) {
        match segment.symbol.map(|symbol| &self.symbols[symbol]) {
            Some(Symbol::Free) => resolved.push(segment),
            Some(Symbol::Is(parts)) => {
                for part in parts {
                    self.resolve_into(Segment { block: part.block * segment.block, ..*part }, resolved);
                }
            }
            None | Some(Symbol::Fixed) => {
                resolved.push(Segment { symbol: None, units: segment.entries(), block: 1 });
            }
        }
    }

    /// Ties two axes of the same size: they move together, entry by entry.
    pub(crate) fn unify(&mut self, a: &Axis, b: &Axis) {
        debug_assert_eq!(a.size(), b.size());
        // Each round removes a free symbol or cuts one at a boundary that both axes then share.
        while let Some((left, right)) = self.first_difference(a, b) {
            self.reconcile(left, right);
        }
    }

    /// The first two segments that begin at the same entry and are not the same.
    fn first_difference(&self, a: &Axis, b: &Axis) -> Option<(Segment, Segment)> {
        let (mut left, mut right) = (self.resolve(a).into_iter(), self.resolve(b).into_iter());
        let (mut l, mut r) = (left.next(), right.next());
        while let (Some(x), Some(y)) = (l, r) {
            if x.symbol.is_some() || y.symbol.is_some() {
                if x != y {
                    return Some((x, y));
                }
                (l, r) = (left.next(), right.next());
                continue;
            }
            // Fixed entries may be cut anywhere.
            let shared = x.entries().min(y.entries());
            let rest = |segment: Segment| Segment { units: segment.units - shared, ..segment };
            l = Some(rest(x)).filter(|rest| rest.units > 0).or_else(|| left.next());
            r = Some(rest(y)).filter(|rest| rest.units > 0).or_else(|| right.next());
        }
        None
    }

    fn reconcile(&mut self, left: Segment, right: Segment) {
        let (short, long) = if left.entries() <= right.entries() { (left, right) } else { (right, left) };
        if short.entries() < long.entries() && short.entries() % long.block == 0 && short.symbol != long.symbol {
            if let Some(symbol) = long.symbol {
                let first = short.entries() / long.block;
                let parts = vec![self.new_segment(first), self.new_segment(long.units - first)];
                self.symbols[symbol] = Symbol::Is(parts);
            } else {
                self.fix_symbol(&short);
            }
            return;
        }
        match (short.symbol, long.symbol) {
            (Some(s), Some(l)) if s != l && short.entries() == long.entries() => {
                // Units of both must move whole: gather them into blocks of the least common multiple.
                let block = least_common_multiple(short.block, long.block);
                if block == long.block {
                    self.symbols[s] = Symbol::Is(vec![Segment { block: block / short.block, ..long }]);
                } else if block == short.block {
                    self.symbols[l] = Symbol::Is(vec![Segment { block: block / long.block, ..short }]);
                } else {
                    let whole = self.new_segment(short.entries() / block);
                    self.symbols[s] = Symbol::Is(vec![Segment { block: block / short.block, ..whole }]);
                    self.symbols[l] = Symbol::Is(vec![Segment { block: block / long.block, ..whole }]);
                }
            }
            _ => {
                self.fix_symbol(&short);
                self.fix_symbol(&long);
            }
        }
    }

    /// Restricts an axis to what normalising `groups` equal runs of channels allows: permutations inside each run, or
    /// of whole runs; of these two subgroups the larger.
    pub(crate) fn divide(&mut self, axis: &Axis, groups: i64) {
        let run = axis.size() / groups;
        let ln_factorial = |n: i64| statrs::function::gamma::ln_gamma(n as f64 + 1.0);
        let cut = if groups as f64 * ln_factorial(run) >= ln_factorial(groups) {
            Axis::concatenated((0..groups).map(|_| self.new_axis(run)))
        } else {
            self.new_axis(groups).blocked(run)
        };
        self.unify(axis, &cut);
    }
}

fn least_common_multiple(a: i64, b: i64) -> i64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(ties: &Ties, axis: &Axis) -> Vec<(bool, i64, i64)> {
        ties.resolve(axis).iter().map(|s| (s.symbol.is_some(), s.units, s.block)).collect()
    }

    #[test]
    fn a_sum_with_a_concatenation_splits_the_other_axis() {
        let mut ties = Ties::default();
        let (a, b, c) = (ties.new_axis(3), ties.new_axis(5), ties.new_axis(8));
        let joined = Axis::concatenated([a.clone(), b.clone()]);
        ties.unify(&joined, &c);
        assert_eq!(ties.resolve(&c), ties.resolve(&joined));
        assert_eq!(shape(&ties, &c), [(true, 3, 1), (true, 5, 1)]);
    }

    #[test]
    fn a_sum_with_flattened_channels_gathers_units_into_blocks() {
        let mut ties = Ties::default();
        let (channels, units) = (ties.new_axis(4), ties.new_axis(36));
        ties.unify(&units, &channels.blocked(9));
        assert_eq!(shape(&ties, &units), [(true, 4, 9)]);
        assert_eq!(shape(&ties, &channels), [(true, 4, 1)]);
    }

    #[test]
    fn blocks_of_four_and_of_six_move_in_dozens() {
        let mut ties = Ties::default();
        let (a, b) = (ties.new_axis(6), ties.new_axis(4));
        ties.unify(&a.blocked(4), &b.blocked(6));
        assert_eq!(shape(&ties, &a), [(true, 2, 3)]);
        assert_eq!(shape(&ties, &b), [(true, 2, 2)]);
    }

    #[test]
    fn axes_that_cannot_be_cut_alike_are_fixed() {
        let mut ties = Ties::default();
        let (a, b) = (ties.new_axis(3), ties.new_axis(5));
        let one = Axis::concatenated([a.clone(), b.clone()]);
        let other = Axis::concatenated([b.clone(), a.clone()]);
        ties.unify(&one, &other);
        assert_eq!(ties.resolve(&one).iter().map(|s| s.entries()).sum::<i64>(), 8);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for segment in ties.resolve(&one) {
            x.extend(std::iter::repeat_n(segment.symbol, segment.entries() as usize));
        }
        for segment in ties.resolve(&other) {
            y.extend(std::iter::repeat_n(segment.symbol, segment.entries() as usize));
        }
        assert_eq!(x, y, "each entry belongs to one symbol, whichever axis it is read from");
    }

    #[test]
    fn a_fixed_part_fixes_what_is_tied_to_it() {
        let mut ties = Ties::default();
        let units = ties.new_axis(8);
        let rest = ties.new_axis(5);
        ties.unify(&units, &Axis::concatenated([Axis::fixed(3), rest]));
        assert_eq!(shape(&ties, &units), [(false, 3, 1), (true, 5, 1)]);
    }

    #[test]
    fn what_is_tied_to_the_rest_of_a_longer_fixed_part_is_fixed() {
        for turned in [false, true] {
            let mut ties = Ties::default();
            let units = ties.new_axis(2);
            let (whole, cut) = (Axis::fixed(5), Axis::concatenated([Axis::fixed(3), units.clone()]));
            if turned {
                ties.unify(&cut, &whole)
            } else {
                ties.unify(&whole, &cut)
            }
            assert_eq!(shape(&ties, &units), [(false, 2, 1)], "{turned}");
        }
    }

    #[test]
    fn a_blocked_axis_is_cut_where_its_partner_is() {
        let mut ties = Ties::default();
        let (long, a, b) = (ties.new_axis(4), ties.new_axis(4), ties.new_axis(4));
        ties.unify(&long.blocked(2), &Axis::concatenated([a.clone(), b.clone()]));
        assert_eq!(shape(&ties, &long), [(true, 2, 1), (true, 2, 1)]);
        assert_eq!((shape(&ties, &a), shape(&ties, &b)), (vec![(true, 2, 2)], vec![(true, 2, 2)]));
    }

    #[test]
    fn units_that_would_have_to_be_torn_are_fixed() {
        let mut ties = Ties::default();
        let (three, one, pairs) = (ties.new_axis(3), ties.new_axis(1), ties.new_axis(2));
        ties.unify(&Axis::concatenated([three.clone(), one.clone()]), &pairs.blocked(2));
        assert_eq!((shape(&ties, &three), shape(&ties, &one)), (vec![(false, 3, 1)], vec![(false, 1, 1)]));
        assert!(shape(&ties, &pairs).iter().all(|(free, ..)| !free));
        // A symbol against itself in larger blocks.
        let (own, rest, more) = (ties.new_axis(2), ties.new_axis(2), ties.new_axis(4));
        ties.unify(&Axis::concatenated([own.blocked(2), rest]), &Axis::concatenated([own.clone(), more]));
        assert!(shape(&ties, &own).iter().all(|(free, ..)| !free));
    }

    #[test]
    fn group_norm_keeps_the_larger_subgroup() {
        let mut ties = Ties::default();
        let (few, many) = (ties.new_axis(12), ties.new_axis(12));
        ties.divide(&few, 2); // (6!)^2 > 2!
        ties.divide(&many, 12); // 12! > (1!)^12
        assert_eq!(shape(&ties, &few), [(true, 6, 1), (true, 6, 1)]);
        assert_eq!(shape(&ties, &many), [(true, 12, 1)]);
        let (three, six) = (ties.new_axis(3), ties.new_axis(6));
        ties.divide(&three, 3); // 3! > (1!)^3
        ties.divide(&six, 3); // (2!)^3 > 3!
        assert_eq!(shape(&ties, &three), [(true, 3, 1)]);
        assert_eq!(shape(&ties, &six), [(true, 2, 1); 3]);
    }
}
