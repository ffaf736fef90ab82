// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the harness of the black-box suite: bundles, runs of the runtime binary, the host check after each case.
//! Never links the runtime's own code and never mocks the kernel: what is tested is a file named by `RUNTIME`.
//! Cases come from `tests/*.rs`; what they leave out (skips) goes to the file named by `RUNTIME_TESTS_SKIPS`.

mod bundle;
mod case;
mod cgroups;
mod container;
mod host;
mod loop_device;
pub mod netns;
mod process;
mod receive;
mod runtime;
mod user;

pub use bundle::{Bundle, busybox, copy_program, hand_made_elf, hand_made_program, write_program};
pub use case::{Case, Kind, Test, any, oar_only, run_case, within_case};
pub use cgroups::{Cgroups, has_controller, pure_v2, v1, v2_controllers};
pub use container::Container;
pub use host::Host;
pub use loop_device::LoopDevice;
pub use process::{executes, settled};
pub use receive::{Console, Received};
pub use runtime::{Invocation, Out, Running, patience};
pub use serde_json::{Value, json};
pub use user::{Accounts, User, give, uid};
