// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF, written backwards.
//!
//! Owns instructions, jump distances and search trees. Knows nothing of syscalls or actions. Comes from compile.rs
//! and arguments.rs, the last instruction first: BPF jumps forward only, so every target exists before its jump.
//! Uses only what the kernel's always-allow bitmap can follow (load, JA, JEQ, JGE, JSET, AND, RET).

use seccompiler::sock_filter;

/// The kernel's limit (BPF_MAXINSNS).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// The farthest a conditional jump is left as it is. Two below what a byte holds: making its other target reachable
/// may put an instruction in between.
const REACH: usize = 253;

/// Single values that a leaf of a search tree may hold besides its range, each one comparison for all of the leaf.
const EXCEPTIONS: usize = 2;

/// Where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Return this value; the instruction is written where it is needed.
    Return(u32),
    /// The instruction at this distance from the end of the program.
    At(usize),
}

/// A program under construction.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// The last instruction first.
    backwards: Vec<sock_filter>,
    /// The newest return of each value, and where it is.
    returns: Vec<(u32, usize)>,
    too_long: bool,
}

/// The condition of a jump (`BPF_JMP | … | BPF_K`).
#[derive(Clone, Copy)]
pub(crate) enum Jump {
    Equal = 0x15,
    GreaterOrEqual = 0x35,
    AnyBit = 0x45,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const ALWAYS: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Values from here up to the next range's start go to this target.
pub(crate) type Range<Value> = (Value, Target);

impl Program {
    pub(crate) fn new() -> Self {
        Self { backwards: Vec::with_capacity(1024), ..Self::default() }
    }

    /// The program in the order of its execution, or `None` if it is longer than the kernel takes.
    pub(crate) fn finish(mut self) -> Option<Vec<sock_filter>> {
        self.backwards.reverse();
        (!self.too_long).then_some(self.backwards)
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        if self.backwards.len() == MAX_INSTRUCTIONS {
            self.too_long = true;
        } else {
            self.backwards.push(sock_filter { code, jt, jf, k });
        }
        self.backwards.len() - 1
    }

    /// How many instructions lie between the next one to be written and `at`.
    fn distance(&self, at: usize) -> usize {
        self.backwards.len() - 1 - at
    }

    /// Puts `target` in reach of a conditional jump.
    fn reachable(&mut self, target: Target) -> usize {
        match target {
            Target::At(at) if self.distance(at) <= REACH => at,
            Target::At(at) => self.push(ALWAYS, 0, 0, self.distance(at) as u32),
            Target::Return(value) => {
                let known = self.returns.iter().position(|(returned, _)| *returned == value);
                match known {
                    Some(known) if self.distance(self.returns[known].1) <= REACH => self.returns[known].1,
                    _ => {
                        let at = self.push(RETURN, 0, 0, value);
                        match known {
                            Some(known) => self.returns[known].1 = at,
                            None => self.returns.push((value, at)),
                        }
                        at
                    }
                }
            }
        }
    }

    /// Makes `target` the next instruction, for one that does not jump.
    fn adjacent(&mut self, target: Target) {
        match target {
            // A second return costs as much as a jump to the first, and one step less.
            Target::Return(value) => {
                self.push(RETURN, 0, 0, value);
            }
            Target::At(at) if self.distance(at) > 0 => {
                self.push(ALWAYS, 0, 0, self.distance(at) as u32);
            }
            Target::At(_) => {}
        }
    }

    /// Nothing more is written: what follows only costs time.
    pub(crate) fn too_long(&self) -> bool {
        self.too_long
    }

    pub(crate) fn jump(&mut self, jump: Jump, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let yes = self.reachable(yes);
        let no = self.reachable(no);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        // Both fit, because of REACH; a program that is too long is thrown away.
        Target::At(self.push(jump as u16, jt.min(255) as u8, jf.min(255) as u8, k))
    }

    /// Loads a word of `seccomp_data`, then goes on at `next`.
    pub(crate) fn load(&mut self, offset: u32, next: Target) -> Target {
        self.adjacent(next);
        Target::At(self.push(LOAD, 0, 0, offset))
    }

    /// Keeps only these bits of what was loaded.
    pub(crate) fn and(&mut self, mask: u32, next: Target) -> Target {
        self.adjacent(next);
        Target::At(self.push(AND, 0, 0, mask))
    }

    /// A search for the range that what was loaded is in. `ranges` ascend; the first starts at 0.
    pub(crate) fn search(&mut self, ranges: &[Range<u32>]) -> Target {
        let leaves = leaves(ranges);
        self.subtree(ranges, &leaves)
    }

    fn subtree(&mut self, ranges: &[Range<u32>], leaves: &[Leaf]) -> Target {
        if let [leaf] = leaves {
            let mut target = ranges[leaf.first].1;
            for exception in 0..leaf.exceptions {
                let (value, other) = ranges[leaf.first + 2 * exception + 1];
                target = self.jump(Jump::Equal, value, other, target);
            }
            return target;
        }
        let (low, high) = leaves.split_at(leaves.len() / 2);
        let border = ranges[high[0].first].0;
        let high = self.subtree(ranges, high);
        let low = self.subtree(ranges, low);
        self.jump(Jump::GreaterOrEqual, border, high, low)
    }
}

/// A range of a search with single values in it that go elsewhere: `1 + 2 * exceptions` neighbours.
#[derive(Clone, Copy)]
struct Leaf {
    first: usize,
    exceptions: usize,
}

fn leaves(ranges: &[Range<u32>]) -> Vec<Leaf> {
    let mut leaves = Vec::with_capacity(ranges.len());
    let mut first = 0;
    while first < ranges.len() {
        let mut exceptions = 0;
        while exceptions < EXCEPTIONS {
            let at = first + 2 * exceptions + 1;
            let Some([(value, _), (after, target)]) = ranges.get(at..at + 2) else { break };
            if *target != ranges[first].1 || *after != value + 1 {
                break;
            }
            exceptions += 1;
        }
        leaves.push(Leaf { first, exceptions });
        first += 1 + 2 * exceptions;
    }
    leaves
}
