// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conditions on arguments → instructions.
//!
//! Owns comparisons, of both halves of 64-bit arguments, and the order of the rules of one call. Knows no names.
//! Comes from compile.rs as clauses; goes to program.rs, mostly as searches: many rules about one argument become
//! one tree over its values.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::profile::{Condition, Operator};
use crate::program::{Jump, Program, Range, Target};

/// If `conditions` hold, `action` is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clause<'a> {
    pub(crate) conditions: Conditions<'a>,
    pub(crate) action: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conditions<'a> {
    /// All of them.
    All(&'a [Condition]),
    /// The masked lower half of the first argument has this value.
    Call { mask: u32, value: u32 },
}

/// How an architecture passes arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) narrow: bool,
    pub(crate) big_endian: bool,
}

/// Offset of `args` in `struct seccomp_data`.
const ARGUMENTS: u32 = 16;

/// What a search compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subject {
    index: u8,
    /// Of the lower half, which alone is compared then.
    mask: Option<u32>,
}

/// Values `low` to `high` of a subject, if no interval with a smaller `order` holds.
#[derive(Clone, Copy, Debug)]
struct Interval {
    low: u64,
    high: u64,
    order: usize,
    target: Target,
}

/// The first clause that holds decides; `otherwise` if none does.
pub(crate) fn clauses(
    program: &mut Program,
    layout: Layout,
    clauses: &[Clause],
    otherwise: Target,
) -> Target {
    let mut next = otherwise;
    let mut end = clauses.len();
    // Backwards, as the program is written. Neighbours about one subject are one search.
    while end > 0 && !program.too_long() {
        let mut start = end - 1;
        match subject(clauses[start], layout) {
            Some(shared) => {
                while start > 0 && subject(clauses[start - 1], layout) == Some(shared) {
                    start -= 1;
                }
                let mut intervals = Vec::with_capacity(end - start);
                for (order, clause) in clauses[start..end].iter().enumerate() {
                    let target = Target::Return(clause.action);
                    for (low, high) in values(*clause, layout).into_iter().flatten() {
                        intervals.push(Interval { low, high, order, target });
                    }
                }
                next = search(program, layout, shared, &partition(intervals, next));
            }
            None => {
                let mut holds = Target::Return(clauses[start].action);
                if let Conditions::All(conditions) = clauses[start].conditions {
                    for condition in conditions.iter().rev() {
                        holds = test(program, layout, condition, holds, next);
                    }
                }
                next = holds;
            }
        }
        end = start;
    }
    next
}

/// What a clause is about, if one search can hold it together with its neighbours.
fn subject(clause: Clause, layout: Layout) -> Option<Subject> {
    match clause.conditions {
        Conditions::Call { mask, .. } => Some(Subject { index: 0, mask: Some(mask) }),
        Conditions::All([condition]) if condition.operator != Operator::MaskedEqual => {
            Some(Subject { index: condition.index, mask: layout.narrow.then_some(u32::MAX) })
        }
        Conditions::All(_) => None,
    }
}

/// The values of its subject for which a clause holds.
fn values(clause: Clause, layout: Layout) -> [Option<(u64, u64)>; 2] {
    match clause.conditions {
        Conditions::Call { value, .. } => [Some((u64::from(value), u64::from(value))), None],
        Conditions::All([condition]) => intervals(condition, layout),
        Conditions::All(_) => [None, None],
    }
}

fn intervals(condition: &Condition, layout: Layout) -> [Option<(u64, u64)>; 2] {
    let (value, last) = match layout.narrow {
        true => (u64::from(condition.value as u32), u64::from(u32::MAX)),
        false => (condition.value, u64::MAX),
    };
    let below = value.checked_sub(1).map(|high| (0, high));
    let above = (value < last).then(|| (value + 1, last));
    match condition.operator {
        Operator::NotEqual => [below, above],
        Operator::Less => [below, None],
        Operator::LessOrEqual => [Some((0, value)), None],
        Operator::Equal => [Some((value, value)), None],
        Operator::GreaterOrEqual => [Some((value, last)), None],
        Operator::Greater => [above, None],
        // Not an interval: see `masked`.
        Operator::MaskedEqual => [None, None],
    }
}

/// One condition: `holds` or `fails`.
fn test(
    program: &mut Program,
    layout: Layout,
    condition: &Condition,
    holds: Target,
    fails: Target,
) -> Target {
    if condition.operator == Operator::MaskedEqual {
        return masked(program, layout, condition, holds, fails);
    }
    let found = intervals(condition, layout).into_iter().flatten();
    let found = found.map(|(low, high)| Interval { low, high, order: 0, target: holds }).collect();
    let subject = Subject { index: condition.index, mask: layout.narrow.then_some(u32::MAX) };
    search(program, layout, subject, &partition(found, fails))
}

/// `(argument & value) == value_two`, of which only the bits of the mask count.
fn masked(
    program: &mut Program,
    layout: Layout,
    condition: &Condition,
    holds: Target,
    fails: Target,
) -> Target {
    let (mask, value) = (condition.value, condition.value_two & condition.value);
    let mut target = half(program, low(layout, condition.index), mask as u32, value as u32, holds, fails);
    if !layout.narrow {
        let (mask, value) = ((mask >> 32) as u32, (value >> 32) as u32);
        target = half(program, high(layout, condition.index), mask, value, target, fails);
    }
    target
}

fn half(program: &mut Program, offset: u32, mask: u32, value: u32, holds: Target, fails: Target) -> Target {
    if mask == 0 || holds == fails {
        return holds;
    }
    let decided = if value == 0 {
        program.jump(Jump::AnyBit, mask, fails, holds)
    } else if value == mask && mask.is_power_of_two() {
        program.jump(Jump::AnyBit, mask, holds, fails)
    } else {
        let equal = program.jump(Jump::Equal, value, holds, fails);
        if mask == u32::MAX { equal } else { program.and(mask, equal) }
    };
    program.load(offset, decided)
}

/// Ranges that cover all values: each goes where the interval of the smallest order goes, or to `otherwise`.
fn partition(mut intervals: Vec<Interval>, otherwise: Target) -> Vec<Range<u64>> {
    let mut borders = Vec::with_capacity(2 * intervals.len() + 1);
    borders.push(0);
    for interval in &intervals {
        borders.push(interval.low);
        borders.extend(interval.high.checked_add(1));
    }
    borders.sort_unstable();
    borders.dedup();
    intervals.sort_unstable_by_key(|interval| (interval.low, interval.order));

    let mut ranges: Vec<Range<u64>> = Vec::with_capacity(borders.len());
    let mut open = BinaryHeap::new();
    let mut begun = 0;
    for border in borders {
        while let Some(interval) = intervals.get(begun).filter(|interval| interval.low <= border) {
            open.push(Reverse((interval.order, begun)));
            begun += 1;
        }
        while open.peek().is_some_and(|Reverse((_, which))| intervals[*which].high < border) {
            open.pop();
        }
        let target = open.peek().map_or(otherwise, |Reverse((_, which))| intervals[*which].target);
        if ranges.last().is_none_or(|(_, last)| *last != target) {
            ranges.push((border, target));
        }
    }
    ranges
}

fn search(program: &mut Program, layout: Layout, subject: Subject, ranges: &[Range<u64>]) -> Target {
    if let [(_, target)] = ranges {
        return *target;
    }
    if let Some(mask) = subject.mask {
        // The last range may start beyond the lower half, where no value is.
        let fits = |(start, target): &Range<u64>| Some((u32::try_from(*start).ok()?, *target));
        let ranges: Vec<_> = ranges.iter().map_while(fits).collect();
        let mut target = program.search(&ranges);
        if mask != u32::MAX && ranges.len() > 1 {
            target = program.and(mask, target);
        }
        return if ranges.len() > 1 { program.load(low(layout, subject.index), target) } else { target };
    }
    let upper = upper_halves(program, layout, subject, ranges);
    if let [(_, target)] = upper[..] {
        return target;
    }
    let target = program.search(&upper);
    program.load(high(layout, subject.index), target)
}

/// The same ranges by the upper half alone; where a border is inside of one, a search of the lower half follows.
fn upper_halves(
    program: &mut Program,
    layout: Layout,
    subject: Subject,
    ranges: &[Range<u64>],
) -> Vec<Range<u32>> {
    let mut upper: Vec<Range<u32>> = Vec::with_capacity(ranges.len() + 1);
    let add = |upper: &mut Vec<Range<u32>>, start: u32, target: Target| {
        if upper.last().is_none_or(|(_, last)| *last != target) {
            upper.push((start, target));
        }
    };
    let mut at = 0;
    // Where values go that are above the last border.
    let mut current = Target::Return(0);
    while at < ranges.len() {
        let half = (ranges[at].0 >> 32) as u32;
        let within = ranges[at..].iter().take_while(|(start, _)| (*start >> 32) as u32 == half).count();
        let lower: Vec<Range<u32>> =
            ranges[at..at + within].iter().map(|(start, target)| (*start as u32, *target)).collect();
        at += within;
        let last = lower[lower.len() - 1].1;
        if let [(0, target)] = lower[..] {
            add(&mut upper, half, target);
        } else {
            let mut whole = Vec::with_capacity(lower.len() + 1);
            if lower[0].0 != 0 {
                whole.push((0, current));
            }
            whole.extend(lower);
            let target = program.search(&whole);
            let target = program.load(low(layout, subject.index), target);
            add(&mut upper, half, target);
            if let Some(next) = half.checked_add(1)
                && ranges.get(at).is_none_or(|(start, _)| (*start >> 32) as u32 != next)
            {
                add(&mut upper, next, last);
            }
        }
        current = last;
    }
    upper
}

fn low(layout: Layout, index: u8) -> u32 {
    ARGUMENTS + u32::from(index) * 8 + if layout.big_endian { 4 } else { 0 }
}

fn high(layout: Layout, index: u8) -> u32 {
    ARGUMENTS + u32::from(index) * 8 + if layout.big_endian { 0 } else { 4 }
}
