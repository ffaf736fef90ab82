// SPDX-License-Identifier: MIT OR Apache-2.0
//! The config.json that a user starts from: what `runc spec` writes, in the same order.
//!
//! Reads nothing but the caller's ids, and writes no file. It differs from runc's on purpose in the hostname, and in
//! a cgroup namespace on every host, where runc makes one on cgroup v2 only.

use nix::unistd::{getegid, geteuid};

/// An indented config.json, with a newline at its end. `rootless`: for a user without privileges, whose user and
/// group become root of the container; without a network namespace and limits, which such a user cannot set up.
pub fn spec(rootless: bool) -> String {
    let uid = geteuid();
    let gid = getegid();
    let (terminal_group, sys, resources, mappings, namespaces) = if rootless {
        let mappings =
            format!("{}{}", mapping("uidMappings", uid.as_raw()), mapping("gidMappings", gid.as_raw()));
        ("", SYS_OF_THE_HOST, "", mappings, ["pid", "ipc", "uts", "mount", "cgroup", "user"])
    } else {
        (TERMINAL_GROUP, SYS, RESOURCES, String::new(), ["pid", "network", "ipc", "uts", "mount", "cgroup"])
    };
    let namespaces =
        namespaces.map(|name| format!("\n\t\t\t{{\n\t\t\t\t\"type\": \"{name}\"\n\t\t\t}}")).join(",");
    format!(
        "{HEAD}{terminal_group}{AFTER_TERMINAL}{sys}{AFTER_SYS}{mappings}{resources}\t\t\"namespaces\": [{namespaces}\n\t\t],\n{TAIL}"
    )
}

/// One id, the caller's, as 0 inside.
fn mapping(name: &str, host: u32) -> String {
    format!(
        "\t\t\"{name}\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {host},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t],\n"
    )
}

const HEAD: &str = r#"{
	"ociVersion": "1.3.0",
	"process": {
		"terminal": true,
		"user": {
			"uid": 0,
			"gid": 0
		},
		"args": [
			"sh"
		],
		"env": [
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"TERM=xterm"
		],
		"cwd": "/",
		"capabilities": {
			"bounding": [
				"CAP_AUDIT_WRITE",
				"CAP_KILL",
				"CAP_NET_BIND_SERVICE"
			],
			"effective": [
				"CAP_AUDIT_WRITE",
				"CAP_KILL",
				"CAP_NET_BIND_SERVICE"
			],
			"permitted": [
				"CAP_AUDIT_WRITE",
				"CAP_KILL",
				"CAP_NET_BIND_SERVICE"
			]
		},
		"rlimits": [
			{
				"type": "RLIMIT_NOFILE",
				"hard": 1024,
				"soft": 1024
			}
		],
		"noNewPrivileges": true
	},
	"root": {
		"path": "rootfs",
		"readonly": true
	},
	"hostname": "oar",
	"mounts": [
		{
			"destination": "/proc",
			"type": "proc",
			"source": "proc"
		},
		{
			"destination": "/dev",
			"type": "tmpfs",
			"source": "tmpfs",
			"options": [
				"nosuid",
				"strictatime",
				"mode=755",
				"size=65536k"
			]
		},
		{
			"destination": "/dev/pts",
			"type": "devpts",
			"source": "devpts",
			"options": [
				"nosuid",
				"noexec",
				"newinstance",
				"ptmxmode=0666",
				"mode=0620""#;

/// The group `tty` of most distributions; a user alone cannot map it.
const TERMINAL_GROUP: &str = r#",
				"gid=5""#;

const AFTER_TERMINAL: &str = r#"
			]
		},
		{
			"destination": "/dev/shm",
			"type": "tmpfs",
			"source": "shm",
			"options": [
				"nosuid",
				"noexec",
				"nodev",
				"mode=1777",
				"size=65536k"
			]
		},
		{
			"destination": "/dev/mqueue",
			"type": "mqueue",
			"source": "mqueue",
			"options": [
				"nosuid",
				"noexec",
				"nodev"
			]
		},
		{
			"destination": "/sys",
"#;

const SYS: &str = r#"			"type": "sysfs",
			"source": "sysfs",
			"options": [
				"nosuid","#;

/// A new sysfs needs a network namespace of one's own.
const SYS_OF_THE_HOST: &str = r#"			"type": "none",
			"source": "/sys",
			"options": [
				"rbind",
				"nosuid","#;

const AFTER_SYS: &str = r#"
				"noexec",
				"nodev",
				"ro"
			]
		},
		{
			"destination": "/sys/fs/cgroup",
			"type": "cgroup",
			"source": "cgroup",
			"options": [
				"nosuid",
				"noexec",
				"nodev",
				"relatime",
				"ro"
			]
		}
	],
	"linux": {
"#;

const RESOURCES: &str = r#"		"resources": {
			"devices": [
				{
					"allow": false,
					"access": "rwm"
				}
			]
		},
"#;

const TAIL: &str = r#"		"maskedPaths": [
			"/proc/acpi",
			"/proc/asound",
			"/proc/kcore",
			"/proc/keys",
			"/proc/latency_stats",
			"/proc/timer_list",
			"/proc/timer_stats",
			"/proc/sched_debug",
			"/sys/firmware",
			"/proc/scsi"
		],
		"readonlyPaths": [
			"/proc/bus",
			"/proc/fs",
			"/proc/irq",
			"/proc/sys",
			"/proc/sysrq-trigger"
		]
	}
}
"#;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::{Value, json};

    use super::*;

    fn document(rootless: bool) -> Value {
        let text = spec(rootless);
        assert!(text.starts_with("{\n\t\"ociVersion\"") && text.ends_with("\n}\n"), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn it_is_a_document_of_the_specification() {
        for rootless in [false, true] {
            let typed: oci_spec::runtime::Spec = serde_json::from_str(&spec(rootless)).unwrap();
            assert_eq!(typed.version(), "1.3.0");
            assert_eq!(typed.hostname().as_deref(), Some("oar"));
        }
    }

    #[test]
    fn the_caller_is_root_of_a_rootless_container() {
        let linux = &document(true)["linux"];
        let mapping = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        assert_eq!(linux["uidMappings"], mapping(geteuid().as_raw()));
        assert_eq!(linux["gidMappings"], mapping(getegid().as_raw()));
        assert_eq!(linux["resources"], Value::Null);
        let types: Vec<_> =
            linux["namespaces"].as_array().unwrap().iter().map(|ns| ns["type"].clone()).collect();
        assert!(types.contains(&json!("user")) && !types.contains(&json!("network")), "{types:?}");
        assert!(!spec(true).contains("gid=5"));
    }

    /// What differs on purpose, and what runc itself changed between versions, made the same.
    fn comparable(mut document: Value) -> Value {
        document["ociVersion"] = Value::Null;
        document["hostname"] = Value::Null;
        // Up to 1.1. Ambient needs inheritable, so the kernel never granted these.
        document["process"]["capabilities"].as_object_mut().unwrap().remove("ambient");
        let linux = &mut document["linux"];
        linux["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "cgroup");
        linux["namespaces"].as_array_mut().unwrap().sort_by_key(|namespace| namespace["type"].to_string());
        // Newer ones mask more.
        linux["maskedPaths"].as_array_mut().unwrap().truncate(10);
        document
    }

    #[test]
    fn runc_writes_the_same() {
        for rootless in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let mut runc = Command::new("runc");
            runc.arg("spec").current_dir(directory.path()).args(rootless.then_some("--rootless"));
            // scripts/test-unit installs it.
            assert!(runc.status().expect("runc, to compare with").success());
            let text = std::fs::read(directory.path().join("config.json")).unwrap();
            let theirs = comparable(serde_json::from_slice(&text).unwrap());
            assert_eq!(comparable(document(rootless)), theirs, "rootless {rootless}");
        }
    }
}
