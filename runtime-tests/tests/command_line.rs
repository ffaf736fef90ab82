// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns what engines ask of the command line: flag habits, `--version`, `spec`, `features`.
//! Never checks the prose of help pages.
//! Expectations come from engines.md §0 (5–7, 21–23), features.md §1.10, §2 and features-linux.md.

use runtime_tests::{Kind, Value, any, json, oar_only, run_case};
use std::fs;

#[test]
fn version_has_one_line_with_the_word() {
    run_case(any(), |t| {
        let out = t.bare(&["--version"]).run();
        let lines: Vec<_> = out.ok().lines().collect();
        assert!(lines[0].contains("version"), "{out}");
        assert_eq!(lines.iter().filter(|l| l.contains("version")).count(), 1, "{out}");
        assert!(lines[1].starts_with("commit: "), "{out}");
        assert!(lines.iter().any(|l| l.starts_with("spec: ")), "{out}");
        assert_eq!(out.stderr, "");
    });
}

#[test]
fn repeated_flags_the_last_wins() {
    run_case(any().differs("crun", "argp: a switch takes no value"), |t| {
        let root = t.state_root();
        let root = root.to_str().unwrap();
        t.bare(&["--root", "/no/such", "--root", root, "--systemd-cgroup=false", "list"]).run().ok();
    });
}

#[test]
fn flags_with_and_without_equals() {
    run_case(any(), |t| {
        let root = t.state_root();
        let root = root.to_str().unwrap();
        t.bare(&[&format!("--root={root}"), "list", "--quiet"]).run().ok();
        t.bare(&["--root", root, "--log-format=json", "list", "-q"]).run().ok();
        t.bare(&["--root", root, "--rootless=false", "list"]).run();
    });
}

#[test]
fn single_dash_long_flags() {
    run_case(any().differs("crun", "uses argp: a single dash is a bundle of short flags"), |t| {
        let root = t.state_root();
        let root = root.to_str().unwrap();
        t.bare(&["-root", root, "list", "-quiet"]).run().ok();
    });
}

#[test]
fn spec_writes_a_template_and_never_over_another() {
    run_case(any(), |t| {
        let dir = t.scratch("spec");
        t.rt(&["spec"]).cwd(&dir).run().ok();
        let config: Value = fs::read_to_string(dir.join("config.json")).unwrap().parse().unwrap();
        assert!(config["process"]["args"][0].is_string() && config["linux"]["namespaces"].is_array());
        let before = fs::read(dir.join("config.json")).unwrap();
        t.rt(&["spec"]).cwd(&dir).run();
        assert_eq!(fs::read(dir.join("config.json")).unwrap(), before);
    });
}

#[test]
fn the_template_runs() {
    run_case(any(), |t| {
        let b = t.bundle();
        t.rt(&["spec"]).cwd(&b.dir).run().ok();
        let mut b = b;
        b.config = fs::read_to_string(b.dir.join("config.json")).unwrap().parse().unwrap();
        b.set("/process/terminal", json!(false)).args(&["sh", "-c", "id -u; hostname"]);
        b.set("/process/env/-", json!(format!("RT_TAG={}", t.tag)));
        // Its limit for open files may be above what this machine allows.
        b.remove("/process/rlimits");
        let out = t.run(&b);
        assert!(out.ok().starts_with("0\n"), "{out}");
    });
}

#[test]
fn the_template_runs_unchanged_in_a_terminal() {
    run_case(any(), |t| {
        let b = t.bundle();
        let id = t.id();
        t.rt(&["spec"]).cwd(&b.dir).run().ok();
        let input = t.dir.join("typed");
        fs::write(&input, "echo $((6*7))\nexit 4\n").unwrap();
        let line = format!(
            "{} --root {} run --bundle {} {id}",
            t.runtime.display(),
            t.state_root().display(),
            b.dir.display()
        );
        let argv = ["script", "-q", "-e", "-c", &line, "/dev/null"].map(std::ffi::OsString::from);
        let out = t.program(argv.to_vec()).env("TERM", "xterm").stdin(&input).run();
        out.expect_code(4);
        assert!(out.stdout.contains("42"), "{out}");
    });
}

#[test]
fn spec_rootless() {
    run_case(any().differs("crun", "1.8.1 leaves the mappings to run time"), |t| {
        let dir = t.scratch("spec");
        t.rt(&["spec", "--rootless"]).cwd(&dir).run().ok();
        let config: Value = fs::read_to_string(dir.join("config.json")).unwrap().parse().unwrap();
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.iter().any(|n| n["type"] == "user"));
        assert_eq!(config["linux"]["uidMappings"][0]["containerID"], 0);
        assert!(config["linux"].get("resources").is_none_or(Value::is_null), "no resources");
    });
}

#[test]
fn features() {
    let old = "this version has no features command, or a partial one";
    run_case(any().differs("crun", old), |t| {
        let out = t.rt(&["features"]).run();
        assert_eq!(out.stderr, "");
        let f: Value = out.ok().parse().unwrap();
        assert!(f["ociVersionMin"].is_string() && f["ociVersionMax"].is_string(), "{out}");
        assert_eq!(f["hooks"].as_array().unwrap().len(), 6);
        let list = |v: &Value| {
            v.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let mount_options = list(&f["mountOptions"]);
        for option in ["bind", "rbind", "ro", "rro", "nosuid", "rprivate", "tmpcopyup"] {
            assert!(mount_options.contains(&option.to_owned()), "{option}");
        }
        let namespaces = list(&f["linux"]["namespaces"]);
        for kind in ["pid", "network", "mount", "ipc", "uts", "user", "cgroup"] {
            assert!(namespaces.contains(&kind.to_owned()), "{kind}");
        }
        assert!(f["linux"]["capabilities"].as_array().is_some_and(|c| c.len() > 30));
        assert_eq!(f["linux"]["cgroup"]["v2"], true);
        if t.kind == Kind::Oar {
            assert_eq!(f["linux"]["mountExtensions"]["idmap"]["enabled"], true);
            assert!(namespaces.contains(&"time".to_owned()));
            assert!(
                mount_options.contains(&"idmap".to_owned()) && mount_options.contains(&"ridmap".to_owned())
            );
            assert_eq!(f["linux"]["netDevices"]["enabled"], true);
        }
    });
}

#[test]
fn help_is_no_error() {
    run_case(any().differs("crun", "argp: no -h, and usage errors on stderr"), |t| {
        for args in [&["--help"][..], &["-h"], &["create", "--help"], &["run", "-h"]] {
            let out = t.bare(args).run();
            if t.kind == Kind::Oar {
                out.ok();
                assert_eq!(out.stderr, "");
            }
            assert!(!out.stdout.is_empty(), "{out}");
        }
    });
}

#[test]
fn systemd_cgroup_is_accepted() {
    run_case(oar_only("--systemd-cgroup is accepted and remembered; the driver comes later"), |t| {
        let root = t.state_root();
        t.bare(&["--root", root.to_str().unwrap(), "--systemd-cgroup", "list"]).run().ok();
    });
}

#[test]
fn options_after_the_id_of_a_verb_are_accepted_where_go_does() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 3");
        let id = t.id();
        t.write(&b, &id);
        let dir = b.dir.to_str().unwrap();
        t.rt(&["run", "-b", dir, "-d=false", &id]).run();
        t.rt(&["delete", "-f", &id]).run();
        t.rt(&["run", "-b", dir, &id]).run().expect_code(3);
    });
}

/// Each word of the table of mount options in config.md, and the propagation words and extensions beside it.
const MOUNT_WORDS: &str = "async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud mand \
    noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private \
    ratime rbind rdev rdiratime relatime remount rexec ridmap rnoatime rnodev rnodiratime rnoexec rnorelatime \
    rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow \
    runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable";

#[test]
fn features_tell_of_each_extension() {
    run_case(oar_only("features of runtime-spec 1.3"), |t| {
        let f: Value = t.rt(&["features"]).run().ok().parse().unwrap();
        let mut words: Vec<_> = MOUNT_WORDS.split_whitespace().collect();
        words.sort_unstable();
        let mut told: Vec<_> =
            f["mountOptions"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        told.sort_unstable();
        assert_eq!(told, words);
        let linux = &f["linux"];
        for (pointer, value) in [
            ("/mountExtensions/idmap/enabled", true),
            ("/netDevices/enabled", true),
            ("/apparmor/enabled", true),
            ("/selinux/enabled", true),
        ] {
            assert_eq!(linux.pointer(pointer), Some(&json!(value)), "{pointer}: {linux}");
        }
        let modes = linux["memoryPolicy"]["modes"].as_array().unwrap();
        assert!(modes.contains(&json!("MPOL_BIND")) && modes.contains(&json!("MPOL_INTERLEAVE")), "{linux}");
        assert!(linux["intelRdt"]["enabled"].is_boolean(), "{linux}");
    });
}
