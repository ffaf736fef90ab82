// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux.seccomp` of a config → one BPF program for seccomp(2).
//!
//! Owns what a profile means, in instructions. Loads nothing and touches nothing: no file, clock, environment or
//! call. Comes from a [`Profile`], mapped by the planner from the config; goes to init as a [`Filter`].
//!
//! What a profile means, where the runtime spec is silent (libseccomp and runc are the reference):
//!
//! * The native architecture is always part of the filter. A call of any other that is not named is killed, with its
//!   process. Numbers from 0x4000_0000 on are x32's, although the kernel calls their architecture x86_64.
//! * Several rules for one call: the first one without conditions decides, wherever it stands. If there is none, the
//!   first rule in the profile's order whose conditions hold decides; if none holds, the default action does.
//! * A rule that repeats the default action is ignored.
//! * The conditions of a rule must all hold. If a rule names one argument twice, each of its conditions is a rule.
//! * Arguments of 32-bit architectures, x32 and mips64n32 among them, are compared by their lower halves, and so are
//!   the values that they are compared with.
//! * Where a socket or System V IPC call is also reached through `socketcall` or `ipc`, its rules hold there too,
//!   without their conditions: the arguments are in memory, where a filter cannot read them.
//! * Numbers above the newest call that the profile names, on each architecture, are answered ENOSYS if the default
//!   action would refuse them, because a C library falls back on that errno only. On s390 number 0 is among them:
//!   it is what the kernel makes of a number that it does not know.

mod architecture;
mod arguments;
mod check;
mod compile;
mod names;
mod profile;
mod program;
mod tables;

pub use architecture::{Architecture, architectures};
pub use compile::{Filter, compile};
pub use names::syscall_number;
pub use profile::{Action, Condition, Flags, Operator, Problem, Profile, Rule, actions, flags, operators};
pub use program::MAX_INSTRUCTIONS;
pub use seccompiler::sock_filter;
