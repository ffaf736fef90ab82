// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a container's processes live and what they may use: cgroup2, hybrid and v1 hosts, by directory
//! descriptor.
//!
//! Never talks to a container, never moves a process out of its cgroup, never leaves the hierarchy's mount.
//! Limits come from the plan; the [`Location`] goes into the container's record, and every later verb starts
//! from it.
//!
//! # One container's life
//!
//! ```text
//! host → locate → (record the Location) → create → (record Cgroup::location: now exact)
//!      → enter → clone3(CLONE_INTO_CGROUP, clone_fd) → leave(pid)
//! record → open → pids, populated, is_frozen, kill, wait_empty, hint, remove
//! ```
//!
//! `delete` uses the recorded Location and does not locate again: what was there before create (`adopted`,
//! kept) and what was made (`made_parents`, removed) is known only from then. A Location that was recorded
//! and not created yet may be removed, but is to be killed only when its `adopted` is empty: else the
//! processes may be strangers. Controllers that create enabled in parents (`cgroup.subtree_control`) stay
//! enabled.
//!
//! # Which hierarchies
//!
//! * cgroup2 alone: one directory.
//! * hybrid: the same path in cgroup2, always, for `cgroup.kill`, `cgroup.events` and CLONE_INTO_CGROUP; and
//!   in the v1 hierarchies of memory, cpu, cpuacct, pids, freezer, devices and blkio, with limits or without,
//!   so that statistics and an engine's own reads find the container where they look. A controller that v1
//!   does not have is used in cgroup2.
//! * v1 alone: those seven. Signals go by pid there: pidfds need `sys`, which this crate does not use yet.
//! * cpuset, name=systemd, net_cls and the rest: the process stays in the caller's. (A hierarchy that has
//!   cpuset mounted together with one of the seven cannot be entered: its new directories have no CPUs.)
//!
//! Measured on a hybrid machine (Linux 6.18, 2 cores, debug build, medians of 200): create with three limits
//! 0.23 ms, enter 0.27 ms, leave 0.03 ms, remove 0.09 ms; with memory, cpu and pids only 0.15, 0.22, 0.01 and
//! 0.05 ms. The four more hierarchies cost 0.2 ms in all, so they are kept. A move by `cgroup.procs` instead
//! of [`Cgroup::enter`] costs 11 ms.
//!
//! # System calls
//!
//! cgroup2 alone, controllers enabled above already, all six limits with read-back of memory.max and pids.max
//! (strace of `examples/syscalls.rs` on Linux 6.1; the F_GETFD before each close of a debug build not
//! counted): locate 1, create 27, remove 4. Each limit less saves three (four where it is read back). A parent
//! between mount and cgroup costs two more calls in create and in remove.
//!
//! # What is done without cgroups-rs
//!
//! The v1 values of memory, cpu and pids are written by its controllers, which are given `/proc/self/fd/N` of
//! an open directory. Everything else is done here: it takes absolute paths for paths on the host, moves
//! processes to the root on removal, swallows errors, reports missing files as EACCES (O_CREAT), and its
//! weight formula is old.

mod cgroup;
mod convert;
mod dbus;
mod device_filter;
mod devices;
mod enter;
mod error;
mod explain;
mod gvariant;
mod host;
mod kept;
mod limits;
mod location;
pub mod stats;
mod systemd;
#[cfg(test)]
mod table;
mod tree;
mod v1;

pub use cgroup::Cgroup;
pub use enter::Entered;
pub use error::Error;
pub use host::host;
pub use location::{Directory, Location, locate};
pub use stats::{Poll, Stats};
pub use systemd::{Systemd, path_of};
