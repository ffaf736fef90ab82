// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns `doctor`: what it finds on this host, and on the same host with things taken away.
//! Never changes the host: what is hidden is hidden in a mount namespace of the command.
//! Expectations come from `oar help doctor`, subuid(5), user_namespaces(7) and cgroups(7).

use runtime_tests::{Case, Out, Test, Value, copy_program, oar_only, run_case};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Without a name, so that nothing on the machine is theirs.
const USER: u32 = 54321;

fn case() -> Case {
    oar_only("others have no doctor")
}

/// A copy that an ordinary user can reach.
fn program(t: &Test) -> PathBuf {
    let path = t.scratch("bin").join("oar");
    if !path.exists() {
        copy_program(&t.runtime, &path);
    }
    path
}

fn state_of(t: &Test, name: &str, owner: u32) -> PathBuf {
    let dir = t.scratch(name);
    chown(&dir, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// `oar doctor` after a script of root's in a mount namespace of its own, with `prefix` before it.
fn doctor(t: &Test, state: &Path, script: &str, prefix: &[&str], flags: &[&str]) -> Out {
    let mut argv = vec![program(t).into_os_string(), "--root".into(), state.into(), "doctor".into()];
    argv.extend(flags.iter().map(Into::into));
    let shell = format!("set -e; {script}\nexec \"$@\"");
    let hidden = ["unshare", "--mount", "sh", "-c", &shell, "sh"];
    t.program(argv).wrap(prefix).wrap(&hidden).run()
}

fn as_user(t: &Test, script: &str, flags: &[&str]) -> Out {
    let id = USER.to_string();
    let prefix = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"];
    doctor(t, &state_of(t, "user-state", USER), script, &prefix, flags)
}

/// The objects of `--json`, which is whole whatever the exit status.
#[track_caller]
fn checks(out: &Out) -> Vec<Value> {
    let list: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|error| panic!("{out}\n{error}"));
    let list = list.as_array().unwrap().clone();
    for check in &list {
        let object = check.as_object().unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), ["detail", "mend", "name", "status"], "{out}");
        assert!(["ok", "missing", "note"].contains(&check["status"].as_str().unwrap()), "{check}");
        assert!(!check["detail"].as_str().unwrap().is_empty(), "{check}");
        assert!(check["status"] != "missing" || check["mend"].is_string(), "{check}");
    }
    list
}

#[track_caller]
fn find(out: &Out, name: &str) -> Value {
    let all = checks(out);
    all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{out}\nno {name}")).clone()
}

/// The check is missing, and these words are in its detail and in what mends it.
#[track_caller]
fn is_missing(out: &Out, name: &str, detail: &str, mend: &str) {
    let check = find(out, name);
    assert_eq!(check["status"], "missing", "{check}");
    assert!(check["detail"].as_str().unwrap().contains(detail), "{check}\nexpected: {detail}");
    assert!(check["mend"].as_str().unwrap().contains(mend), "{check}\nexpected: {mend}");
}

#[test]
fn root_can_run_containers_here() {
    run_case(case(), |t| {
        let state = state_of(t, "root-state", 0);
        let out = doctor(t, &state, "", &[], &["--json"]);
        out.ok();
        for name in ["kernel", "calls", "memfd", "namespaces", "state", "container", "root"] {
            assert_eq!(find(&out, name)["status"], "ok", "{out}");
        }
        // Who runs containers in the other cases finds the limits too.
        assert_ne!(find(&out, "cgroups")["status"], "missing", "{out}");
        assert_eq!(out.stderr, "");
    });
}

#[test]
fn the_table_has_the_same_findings() {
    run_case(case(), |t| {
        let state = state_of(t, "root-state", 0);
        let table = doctor(t, &state, "", &[], &[]);
        let out = doctor(t, &state, "", &[], &["--json"]);
        let mut lines = table.ok().lines();
        for check in checks(&out) {
            let line = lines.next().unwrap();
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), check["status"].as_str(), "{table}");
            assert_eq!(words.next(), check["name"].as_str(), "{table}");
            if let Some(mend) = check["mend"].as_str() {
                let line = lines.next().unwrap();
                assert!(line.trim_start().starts_with('→') && line.ends_with(mend), "{line}");
            }
        }
        assert_eq!(lines.next(), None);
    });
}

#[test]
fn an_ordinary_user_can_run_containers_here() {
    run_case(case(), |t| {
        let out = as_user(t, "", &["--json"]);
        out.ok();
        for name in ["kernel", "calls", "memfd", "user-namespaces", "state", "container", "rootless"] {
            assert_eq!(find(&out, name)["status"], "ok", "{out}");
        }
        assert_eq!(find(&out, "root")["status"], "note", "{out}");
        is_missing(&out, "subuid", "no entry for 54321", "usermod --add-subuids");
    });
}

#[test]
fn subids_are_found_and_tried() {
    let tools = ["newuidmap", "newgidmap"].iter().all(|name| Path::new("/usr/bin").join(name).exists());
    run_case(case().needs(tools, "newuidmap and newgidmap"), |t| {
        let file = t.dir.join("subid");
        fs::write(&file, format!("someone:1:5\n{USER}:200000:65536\n")).unwrap();
        let file = file.display();
        let both = format!("mount --bind {file} /etc/subuid; mount --bind {file} /etc/subgid");
        is_missing(&as_user(t, &both, &["--json"]), "id-maps", "user name", "useradd --uid 54321");
        let passwd = t.dir.join("passwd");
        let known = fs::read_to_string("/etc/passwd").unwrap();
        fs::write(&passwd, format!("{known}doctors-user:x:{USER}:{USER}::/:/bin/sh\n")).unwrap();
        let both = format!("{both}; mount --bind {} /etc/passwd", passwd.display());
        let out = as_user(t, &both, &["--json"]);
        out.ok();
        for name in ["subuid", "subgid", "newuidmap", "newgidmap", "id-maps"] {
            assert_eq!(find(&out, name)["status"], "ok", "{out}");
        }
        assert!(find(&out, "subuid")["detail"].as_str().unwrap().contains("65536 from 200000"), "{out}");
        // The tools ask the kernel, which takes no rights from a file behind nosuid.
        let nosuid = format!("{both}; mount --bind /usr/bin /usr/bin; mount -o remount,bind,nosuid /usr/bin");
        let out = as_user(t, &nosuid, &["--json"]);
        is_missing(&out, "newuidmap", "nosuid", "remount");
        is_missing(&out, "id-maps", "", "");
        assert_eq!(find(&out, "rootless")["status"], "ok", "with one id: {out}");
    });
}

#[test]
fn without_newuidmap() {
    run_case(case(), |t| {
        let hide = "for f in /bin /usr/bin /usr/local/bin /sbin /usr/sbin; do
            [ ! -e $f/newuidmap ] || mount --bind /dev/null $f/newuidmap; done";
        let out = as_user(t, hide, &["--json"]);
        is_missing(&out, "newuidmap", "not found", "uidmap");
        out.ok();
        assert!(find(&out, "rootless")["detail"].as_str().unwrap().contains("newuidmap"), "{out}");
    });
}

#[test]
fn without_subids() {
    run_case(case(), |t| {
        let empty = t.dir.join("empty");
        fs::write(&empty, "").unwrap();
        let empty = empty.display();
        let hide =
            format!("for f in /etc/subuid /etc/subgid; do [ ! -e $f ] || mount --bind {empty} $f; done");
        let out = as_user(t, &hide, &["--json"]);
        is_missing(&out, "subuid", "54321", "usermod --add-subuids");
        is_missing(&out, "subgid", "54321", "usermod --add-subgids");
        out.ok();
    });
}

#[test]
fn without_cgroups() {
    run_case(case(), |t| {
        let hide = "mount -t tmpfs none /sys/fs/cgroup";
        let out = doctor(t, &state_of(t, "root-state", 0), hide, &[], &["--json"]);
        out.expect_code(1);
        is_missing(&out, "cgroups", "none is mounted", "mount -t cgroup2");
        is_missing(&out, "root", "cannot run", "cgroups");
        let out = as_user(t, hide, &["--json"]);
        out.expect_code(1);
        is_missing(&out, "rootless", "cannot run", "cgroups");
    });
}

#[test]
fn without_cgroup2() {
    let unified = Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
    run_case(case().needs(unified, "a hybrid host"), |t| {
        let out = doctor(t, &state_of(t, "root-state", 0), "umount /sys/fs/cgroup/unified", &[], &["--json"]);
        out.ok();
        let found = find(&out, "cgroups");
        assert_eq!((&found["status"], &found["detail"]), (&"note".into(), &"v1 alone".into()));
    });
}

#[test]
fn where_user_namespaces_are_used_up() {
    run_case(case(), |t| {
        // The limit is of this user namespace; whoever runs the command has no capability to do without another one.
        let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
        let prefix = ["unshare", "--user", "--map-root-user", "sh", "-ec", script, "sh"];
        let out = doctor(t, &state_of(t, "root-state", 0), "", &prefix, &["--json"]);
        out.expect_code(1);
        is_missing(&out, "user-namespaces", "is 0", "sysctl -w user.max_user_namespaces");
        is_missing(&out, "container", "make a user namespace: no space left on device", "user-namespaces");
        is_missing(&out, "rootless", "cannot run", "user-namespaces, container");
    });
}

#[test]
fn inside_of_a_user_namespace() {
    run_case(case(), |t| {
        let prefix = ["unshare", "--user", "--map-root-user", "--mount"];
        let out = doctor(t, &state_of(t, "root-state", 0), "", &prefix, &["--json"]);
        out.ok();
        assert_eq!(find(&out, "rootless")["status"], "ok", "{out}");
        assert_eq!(find(&out, "subuid")["status"], "note", "{out}");
    });
}

#[test]
fn a_masked_proc() {
    run_case(case(), |t| {
        // As engines cover it: then the kernel gives no new one in a user namespace.
        let mask = "mount --bind /dev/null /proc/uptime";
        let out = as_user(t, mask, &["--json"]);
        out.expect_code(1);
        is_missing(&out, "container", "mount proc: operation not permitted", "systempaths=unconfined");
    });
}

#[test]
fn where_the_state_would_be() {
    run_case(case(), |t| {
        let state = state_of(t, "open-state", 0);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        let out = doctor(t, &state, "", &[], &["--json"]);
        out.expect_code(1);
        is_missing(&out, "state", "writable for others (mode 0777)", "chmod 0700");
        let out = doctor(t, &state_of(t, "others-state", USER), "", &[], &["--json"]);
        out.expect_code(1);
        is_missing(&out, "state", "belongs to uid 54321", "--root DIR");
        let above = t.scratch("read-only");
        let read_only = format!("mount -t tmpfs -o ro none {}", above.display());
        let out = doctor(t, &above.join("a/b"), &read_only, &[], &["--json"]);
        out.expect_code(1);
        is_missing(&out, "state", "read-only is not writable", "--root DIR");
    });
}

/// Mounts, processes and links are looked at after each case, its state too; this is what the attempts could leave.
#[test]
fn nothing_is_left() {
    run_case(case(), |t| {
        let look = || {
            let names = |dir: &str| {
                let entries = fs::read_dir(dir).unwrap().flatten();
                let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
                // Other cases have loop devices made.
                names.retain(|name| !name.to_string_lossy().starts_with("loop"));
                names.sort();
                names
            };
            let sysctls = ["max_user_namespaces", "max_mnt_namespaces", "max_net_namespaces"];
            let sysctls = sysctls.map(|name| fs::read_to_string(format!("/proc/sys/user/{name}")).unwrap());
            let modules = fs::read_to_string("/proc/modules").unwrap_or_default().lines().count();
            (names("/"), names("/dev"), sysctls, modules)
        };
        let absent = t.dir.join("absent/state");
        let oar = program(t);
        let before = look();
        let argv = vec![oar.into(), "--root".into(), absent.clone().into(), "doctor".into()];
        // Others are at work below /run, so that it has one of its own.
        let own = "mount -t tmpfs none /run; \"$@\"; ls -A /run >&2";
        let out = t.program(argv).wrap(&["unshare", "--mount", "sh", "-ec", own, "sh"]).run();
        out.ok();
        assert_eq!(out.stderr, "");
        assert_eq!(look(), before);
        assert!(!t.dir.join("absent").exists());
    });
}
