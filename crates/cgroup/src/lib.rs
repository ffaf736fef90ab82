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
//! with systemd, which makes a unit only around a process:
//! Systemd::connect, control_group → locate → (record) → clone3 → start(pid) → create → settle(pid)
//! record → open → pids, populated, freeze, is_frozen, resume, kill, wait_empty, hint, stats, update, remove
//! ```
//!
//! `delete` uses the recorded Location and does not locate again: what was there before create (`adopted`,
//! kept) and what was made (`made_parents`, removed) is known only from then. A Location that was recorded
//! and not created yet may be removed, but is to be killed only when its `adopted` is empty and it is no unit:
//! else the processes may be strangers. Controllers that create enabled in parents (`cgroup.subtree_control`)
//! stay enabled.
//!
//! # Which hierarchies
//!
//! * cgroup2 alone: one directory.
//! * hybrid: the same path in cgroup2, always, for `cgroup.kill`, `cgroup.events` and CLONE_INTO_CGROUP; and
//!   in the v1 hierarchies that `location.rs` lists, with limits or without, so that statistics and an engine's
//!   own reads find the container where they look. A controller that v1 does not have is used in cgroup2.
//! * v1 alone: those of the list. Signals go by pidfd there.
//! * name=systemd, perf_event and the rest: the process stays in the caller's, or where systemd puts it.
//!
//! A move by `cgroup.procs` instead of [`Cgroup::enter`] costs 11 ms (Linux 6.18, hybrid, median).
//!
//! # System calls
//!
//! cgroup2 alone, controllers enabled above already, six limits, four of them read back (strace of
//! `examples/syscalls.rs`, release build, Linux 6.12): locate 1, create 34, remove 4, and three for the mark. A
//! limit is open, write, close, and one read where it is read back. A parent between mount and cgroup costs two
//! more calls in create and in remove; the device filter five of bpf(2). With systemd on its private socket:
//! connect, ask, start and stop are 26.
//!
//! # What is done without cgroups-rs
//!
//! Its v1 controllers write memory, cpu, cpuset and pids; they are given `/proc/self/fd/N` of an open directory.
//! Everything else is done here: it takes absolute paths for paths on the host, moves processes to the root on
//! removal, swallows errors, reports missing files as EACCES (O_CREAT), has no cgroup2 devices, and its weight
//! formula is old.

mod cgroup;
mod convert;
mod dbus;
mod device_filter;
mod devices;
mod enter;
mod error;
mod explain;
mod freezer;
mod gvariant;
mod host;
mod inside;
mod kept;
mod limits;
mod location;
mod memory;
pub mod stats;
mod systemd;
#[cfg(test)]
mod table;
mod tree;
mod v1;
mod watch;

pub use cgroup::{Cgroup, Ownership};
pub use enter::Entered;
pub use error::{Error, is_exhausted};
pub use host::host;
pub use inside::{Apart, Inside};
pub use limits::Changed;
pub use location::{Directory, Location, Unit, find_rights, locate};
pub use stats::{Poll, Stats};
pub use systemd::{Systemd, path_of};
pub use watch::{Happened, Watch};
