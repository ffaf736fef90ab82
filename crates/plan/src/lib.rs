// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spec → Plan, and Plan → text.
//!
//! Owns every rule about what a config may say and what it then means. Touches nothing: no file, clock,
//! environment or call. Comes from config.json's bytes and the runtime's [`Host`] facts; goes to the runtime.

mod capabilities;
mod cgroup;
mod cgroup_mount;
mod check;
mod device_rules;
mod devices;
mod document;
mod exec;
mod explain;
mod explain_cgroup;
mod hooks;
mod intel_rdt;
mod list;
mod memory_policy;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod plan;
mod process;
mod resources;
mod rootfs;
mod scheduling;
mod seccomp;
mod sub_ids;
mod sysctl;
mod systemd_unit;
mod types;
mod update;

pub use capabilities::capability_names;
pub use cgroup::cgroup_path;
pub use check::clean;
pub use document::{parse, parse_resources};
pub use exec::{Changes, Exec, parse_process, plan_exec};
pub use explain::{describe, explain};
pub use hooks::hook_names;
pub use memory_policy::{memory_policy_flags, memory_policy_modes};
pub use mount_options::mount_option_names;
pub use mounts::NOTIFY_SOCKET;
pub use namespaces::namespace_names;
pub use plan::plan;
pub use seccomp::{
    architecture_names as seccomp_architecture_names, seccomp_actions, seccomp_flags, seccomp_operators,
};
pub use types::*;
pub use update::{Given, Update, update};
