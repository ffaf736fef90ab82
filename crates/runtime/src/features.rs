// SPDX-License-Identifier: MIT OR Apache-2.0
//! The features document (runtime-spec features.md, features-linux.md): what this build can do, on any host.
//!
//! Never promises what is not there: engines decide by it what they put into a config. Names come from the planner,
//! which accepts exactly these; the host is asked for seccomp's flags only, as the specification wants it.

use serde_json::{Value, json};

/// The oldest config that is understood, and the newest (state documents follow it).
const OCI_VERSION_MIN: &str = "1.0.0";

/// As `oar features` prints it.
pub fn features() -> Value {
    json!({
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": crate::OCI_VERSION,
        "hooks": coracle_plan::hook_names(),
        "mountOptions": coracle_plan::mount_option_names(),
        "linux": {
            "namespaces": coracle_plan::namespace_names(),
            "capabilities": coracle_plan::capability_names(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": true,
                "rdma": true,
            },
            "seccomp": seccomp(),
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": coracle_plan::memory_policy_modes(),
                "flags": coracle_plan::memory_policy_flags(),
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {"org.coracle.oar.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

/// Which of the flags the running kernel takes is the one thing that the host is asked.
fn seccomp() -> Value {
    let flags = coracle_plan::seccomp_flags();
    let supported = flags.iter().filter(|(_, bits)| coracle_sys::seccomp::knows_flags(*bits));
    json!({
        "enabled": true,
        "actions": coracle_plan::seccomp_actions(),
        "operators": coracle_plan::seccomp_operators(),
        "archs": coracle_plan::seccomp_architecture_names(),
        "knownFlags": flags.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "supportedFlags": supported.map(|(name, _)| *name).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // engines.md §0.21
    #[test]
    fn what_engines_look_for_is_there() {
        let features = features();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        assert_eq!(features["ociVersionMax"], "1.3.0");
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        let holds = |list: &Value, name: &str| list.as_array().unwrap().contains(&json!(name));
        assert!(holds(&features["linux"]["namespaces"], "user"));
        for option in ["rro", "bind", "ro", "idmap", "ridmap", "tmpcopyup"] {
            assert!(holds(&features["mountOptions"], option), "{option}");
        }
        for hook in
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        {
            assert!(holds(&features["hooks"], hook), "{hook}");
        }
        assert!(holds(&features["linux"]["capabilities"], "CAP_CHECKPOINT_RESTORE"));
        assert_eq!(features["linux"]["namespaces"].as_array().unwrap().len(), 8);
    }

    #[test]
    fn it_is_a_document_of_the_specification() {
        let typed: oci_spec::runtime::Features = serde_json::from_value(features()).unwrap();
        let linux = typed.linux().as_ref().unwrap();
        let seccomp = linux.seccomp().as_ref().unwrap();
        assert_eq!(seccomp.enabled(), &Some(true));
        assert_eq!(seccomp.actions().as_ref().unwrap().len(), 9);
        assert_eq!(seccomp.archs().as_ref().unwrap().len(), 23);
        assert_eq!(seccomp.known_flags().as_ref().unwrap().len(), 4);
        // Older than the oldest kernel that this runs on.
        let supported = seccomp.supported_flags().as_ref().unwrap();
        assert!(supported.contains(&"SECCOMP_FILTER_FLAG_SPEC_ALLOW".to_string()), "{supported:?}");
        assert_eq!(linux.cgroup().as_ref().unwrap().systemd(), &Some(true));
        assert_eq!(linux.intel_rdt().as_ref().unwrap().monitoring(), &Some(true));
        assert!(!linux.memory_policy().as_ref().unwrap().modes().as_ref().unwrap().is_empty());
    }
}
