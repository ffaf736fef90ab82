// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hooks`: which program runs when, with exactly the environment that the document gives it.
//!
//! Never checks that a program exists: that is the runtime's, or init's. Those inside the container become steps.

use oci_spec::runtime;

use crate::check::Check;
use crate::types::{Action, Hook, Hooks, InitHook, Step};

/// Names of the hooks for the features document, in the order in which they run.
pub fn hook_names() -> Vec<&'static str> {
    vec!["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
}

#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub(crate) outside: Hooks,
    pub(crate) create_container: Vec<Step>,
    pub(crate) start_container: Vec<Step>,
}

pub(crate) fn plan(given: Option<&runtime::Hooks>, check: &mut Check) -> Planned {
    let Some(given) = given else {
        return Planned::default();
    };
    // Deprecated in the specification, and still what the NVIDIA and podman hooks of many hosts are.
    #[allow(deprecated)]
    let prestart = given.prestart();
    let outside = Hooks {
        prestart: list(prestart.as_deref(), "prestart", check),
        create_runtime: list(given.create_runtime().as_deref(), "createRuntime", check),
        poststart: list(given.poststart().as_deref(), "poststart", check),
        poststop: list(given.poststop().as_deref(), "poststop", check),
    };
    let create = list(given.create_container().as_deref(), "createContainer", check);
    let start = list(given.start_container().as_deref(), "startContainer", check);
    Planned {
        outside,
        create_container: steps(create, InitHook::CreateContainer),
        start_container: steps(start, InitHook::StartContainer),
    }
}

fn steps(hooks: Vec<Hook>, kind: InitHook) -> Vec<Step> {
    hooks
        .into_iter()
        .map(|hook| {
            let place = hook.place.clone();
            Step { action: Action::Hook { hook, kind }, place }
        })
        .collect()
}

fn list(given: Option<&[runtime::Hook]>, kind: &str, check: &mut Check) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for (i, entry) in given.unwrap_or_default().iter().enumerate() {
        let place = format!("hooks.{kind}[{i}]");
        let path = entry.path().to_string_lossy().into_owned();
        check.absolute(&format!("{place}.path"), &path);
        let timeout = entry.timeout().unwrap_or(0);
        if entry.timeout().is_some() && timeout <= 0 {
            check.refuse(format!("{place}.timeout"), "must be at least 1 second", timeout);
        }
        let args = match entry.args().as_deref() {
            None | Some([]) => vec![path.clone()],
            Some(args) => args.to_vec(),
        };
        let env = entry.env().clone().unwrap_or_default();
        for (field, values) in [("args", &args), ("env", &env)] {
            for (j, value) in values.iter().enumerate() {
                check.text(&format!("{place}.{field}[{j}]"), value);
            }
        }
        hooks.push(Hook { path, args, env, timeout: u32::try_from(timeout).unwrap_or(u32::MAX), place });
    }
    hooks
}
