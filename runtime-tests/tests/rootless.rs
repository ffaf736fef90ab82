// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns containers of an ordinary user on a host that gives them nothing: no account, no cgroup, no systemd.
//! Never uses root's rights for the runtime: the case has them, the command runs as the user, with a state directory of
//! theirs. Expectations come from user_namespaces(7), pid_namespaces(7) and the project's own promises.

use runtime_tests::{
    Accounts, Bundle, Invocation, Kind, Out, Test, User, Value, any, give, json, oar_only, run_case, settled,
    uid,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

fn alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X'])
}

#[test]
fn without_a_cgroup_it_runs() {
    run_case(any(), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("id -u; hostname; exit 5");
        let out = user.run(&b);
        out.expect_code(5);
        assert_eq!(out.stdout, "0\ncoracle-test\n", "{out}");
        if t.kind == Kind::Oar {
            assert_eq!(out.stderr, "", "{out}");
        }
    });
}

#[test]
fn that_there_is_no_cgroup_is_told() {
    run_case(oar_only("notes of --debug, and the plan"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        let id = user.id();
        let out = user.making(&b, &["--debug", "run"], &id).run();
        out.ok();
        out.says(&format!("the container has no cgroup: uid {} may not make a cgroup here; ", uid()));
        let out = user.making(&b, &["run", "--dry-run"], &id).run();
        assert!(out.ok().contains("cgroup   none: the caller may not make one\n"), "{out}");
        // Whoever names one hears of it.
        b.set("/linux/cgroupsPath", json!(format!("/{}", t.tag)));
        let out = user.making(&b, &["run"], &id).run();
        out.ok();
        let text = "warning: linux.cgroupsPath: the container has no cgroup: uid";
        out.says(&format!("{text} {} may not make a cgroup here", uid()));
        // Without a pid namespace nobody can tell its processes from others.
        b.without_namespace("pid").unmount("/proc").mount("/proc", "none", "/proc", &["rbind"]);
        let out = user.making(&b, &["run"], &id).run();
        out.ok();
        out.says("only its first process can be found");
    });
}

#[test]
fn limits_without_a_cgroup_are_an_error() {
    run_case(oar_only("words of the error"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.set("/linux/resources", json!({"memory": {"limit": 1 << 25}, "pids": {"limit": 9}}));
        let out = user.run(&b);
        out.clean_error();
        out.says(&format!(
            "linux.resources: memory.limit 33554432: uid {} may not make a cgroup here; ",
            uid()
        ));
        out.says(&format!("linux.resources: pids.limit 9: uid {} may not make a cgroup here; ", uid()));
        assert!(!out.stderr.contains("permission denied"), "{out}");
        // Rules for devices need no cgroup: nodes that this user could not open are not there.
        b.set("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}]}));
        user.run(&b).ok();
    });
}

#[test]
fn lifecycle_without_a_cgroup() {
    run_case(any(), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("trap 'exit 3' TERM; echo up; while :; do sleep 1000 & wait; done");
        let (id, pid) = user.running(&b);
        assert_eq!(user.state(&id)["status"], "running");
        let out = user.rt(&["exec", &id, "/bin/sh", "-c", "id -u; exit 7"]).run();
        out.expect_code(7);
        assert_eq!(out.stdout, "0\n", "{out}");
        user.rt(&["delete", &id]).run().failed();
        user.rt(&["kill", &id, "KILL"]).run().ok();
        t.wait_pid(pid);
        assert_eq!(user.state(&id)["status"], "stopped");
        user.rt(&["delete", &id]).run().ok();
        user.rt(&["state", &id]).run().failed().says(t.unknown());
    });
}

#[test]
fn processes_are_found_by_the_pid_namespace() {
    run_case(oar_only("ps and kill --all without a cgroup"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        // A namespace inside of the container's is the container's too.
        b.sh("trap 'echo heard >/tmp/first' TERM
              mkfifo /tmp/up
              sh -c 'trap \"echo heard >/tmp/second; exit\" TERM; echo >/tmp/up; sleep 1000 & wait' & read x </tmp/up
              unshare -U -p -f sh -c 'echo >/tmp/up; exec sleep 1000' & read x </tmp/up
              echo up; while :; do sleep 1000 & wait; done");
        let (id, pid) = user.running(&b);
        let pids = user.pids(&id);
        assert!(pids.contains(&pid.into()), "{pids:?}");
        let deep = pids.iter().filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
            line.split_whitespace().count() == 3
        });
        assert_eq!(deep.count(), 1, "{pids:?}");
        for pid in &pids {
            let environment = settled(*pid, "environ", |text| text.contains(&t.tag));
            assert!(environment.contains(&t.tag), "{pid}: {environment}");
        }
        user.rt(&["kill", "--all", &id, "TERM"]).run().ok();
        let rootfs = b.rootfs();
        let heard = || ["first", "second"].iter().all(|name| rootfs.join("tmp").join(name).exists());
        t.wait_for(&rootfs.join("tmp"), heard);
        user.rt(&["kill", "--all", &id, "KILL"]).run().ok();
        t.wait_pid(pid);
        assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
        user.rt(&["kill", &id, "TERM"]).run().clean_error().says("container not running");
        user.rt(&["kill", "--all", &id, "TERM"]).run().ok();
        user.rt(&["delete", &id]).run().ok();
    });
}

#[test]
fn what_needs_a_cgroup_says_so() {
    run_case(oar_only("words of the errors"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("echo up; exec sleep 1000");
        let (id, pid) = user.running(&b);
        let out = user.rt(&["pause", &id]).run();
        out.clean_error().says("its processes cannot be paused: the container has no cgroup");
        user.rt(&["resume", &id]).run().clean_error().says("container not paused");
        let out = user.rt(&["update", "--memory", "100000000", &id]).run();
        out.clean_error().says("limits cannot be changed: the container has no cgroup");
        // Those of the process itself are no cgroup's.
        user.rt(&["update", "--rlimit", "RLIMIT_NOFILE=99:99", &id]).run().ok();
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some("99"), "{limits}");
        let out = user.rt(&["events", "--stats", &id]).run();
        let stats: Value = serde_json::from_str(out.ok()).unwrap();
        assert_eq!(stats["data"]["pids"]["current"], 1, "{out}");
        user.rt(&["delete", "--force", &id]).run().ok();
        assert!(!alive(pid.into()));
    });
}

/// Where the state went: the directory that holds one for the container.
fn made_in(out: &Out) -> String {
    let line = out.stderr.lines().find_map(|line| line.strip_prefix("oar: debug: open ")).unwrap();
    line.rsplit_once(": ").unwrap().0.to_owned()
}

#[test]
fn two_commands_to_a_shell() {
    run_case(any(), |t| {
        let user = User::new(t);
        let b = user.bundle();
        give(&b.dir);
        user.rt(&["spec", "--rootless"]).cwd(&b.dir).run().ok();
        // Its shell asks for a terminal.
        let id = user.id();
        let run = format!("{} run {id}", user.runtime.display());
        let input = t.dir.join("input");
        fs::write(&input, "id -u; touch /tmp/x; cat /proc/1/comm; exit 5\n").unwrap();
        let out = user.program(&["script", "-qec", &run, "/dev/null"]).cwd(&b.dir).stdin(&input).run();
        assert_eq!(out.code, 5, "{out}");
        assert!(out.stdout.contains("\r\n0\r\n") || out.stdout.starts_with("0\r\n"), "{out}");
        assert!(out.stdout.contains("Read-only file system"), "{out}");
    });
}

#[test]
fn places_for_the_state() {
    run_case(oar_only("its default root"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("exit 0");
        let place = |run_dir: Option<&Path>| {
            let id = user.id();
            let run = user.making(&b, &["--debug", "run"], &id);
            let run = match run_dir {
                Some(path) => run.env("XDG_RUNTIME_DIR", path.to_str().unwrap()),
                None => run.wrap(&["env", "-u", "XDG_RUNTIME_DIR"]),
            };
            let out = run.run();
            out.ok();
            made_in(&out)
        };
        let named = user.run_dir.join("oar");
        assert_eq!(place(Some(&user.run_dir)), named.to_str().unwrap());
        let mode = named.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1700, "sticky: tmp cleaners spare it");
        // Another user's, one that is not there, none at all, and there is no /run/user of theirs.
        let other = t.scratch("other");
        let fallback = PathBuf::from(format!("/tmp/oar-{}", uid()));
        let places =
            [Some(other.as_path()), Some(Path::new("/does/not/exist")), Some(Path::new("run")), None];
        let found: Vec<String> = places.into_iter().map(place).collect();
        let mode = fallback.metadata().unwrap().permissions().mode();
        fs::remove_dir(&fallback).unwrap();
        assert!(found.iter().all(|place| Path::new(place) == fallback), "{found:?}");
        assert_eq!(mode & 0o7777, 0o1700);
        // Somebody was there before: a directory, a link.
        fs::create_dir(&fallback).unwrap();
        let out = user.making(&b, &["run"], &user.id()).env("XDG_RUNTIME_DIR", "").run();
        fs::remove_dir(&fallback).unwrap();
        out.clean_error().says("it belongs to another user");
        std::os::unix::fs::symlink(&user.run_dir, &fallback).unwrap();
        lchown(&fallback, Some(1), Some(1)).unwrap();
        let out = user.making(&b, &["run"], &user.id()).env("XDG_RUNTIME_DIR", "").run();
        fs::remove_file(&fallback).unwrap();
        out.clean_error().says("it is a symbolic link of another user");
    });
}

/// As another ordinary user.
fn stranger(user: &User<'_>, words: &[&str]) -> Invocation {
    let argv = [&[user.runtime.to_str().unwrap()], words].concat();
    let run = user.t.program(argv.iter().map(Into::into).collect());
    let other =
        run.wrap(&["setpriv", "--reuid", "424242", "--regid", "424242", "--clear-groups", "--inh-caps=-all"]);
    other.env("XDG_RUNTIME_DIR", "/does/not/exist")
}

#[test]
fn others_have_no_part_in_it() {
    run_case(any(), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("echo up; exec sleep 1000");
        let (id, pid) = user.running(&b);
        let root = user.run_dir.join(t.runtime.file_name().unwrap());
        let root = root.to_str().unwrap();
        let mine: &[&[&str]] = &[&["events", "--stats"], &["start"], &["wait"]];
        let all: &[&[&str]] = &[
            &["state"],
            &["kill"],
            &["kill", "--all"],
            &["exec"],
            &["delete"],
            &["delete", "--force"],
            &["pause"],
            &["resume"],
            &["ps"],
            &["update", "--pids-limit", "1"],
        ];
        let own = if t.kind == Kind::Oar { mine } else { &[] };
        for verb in all.iter().chain(own) {
            let command: &[&str] = if verb[0] == "exec" { &["/bin/true"] } else { &[] };
            let out = stranger(&user, &[&["--root", root], *verb, &[&id], command].concat()).run();
            out.failed();
            if t.kind == Kind::Oar {
                // exec has a status of its own for that.
                assert_eq!(out.code, if verb[0] == "exec" { 255 } else { 1 }, "{out}");
                assert!(out.is_one_line(), "{out}");
                out.says("permission denied");
            }
        }
        // In a state of theirs there is no such container.
        let theirs = t.scratch("theirs");
        lchown(&theirs, Some(424_242), Some(424_242)).unwrap();
        let out = stranger(&user, &["--root", theirs.to_str().unwrap(), "state", &id]).run();
        out.failed().says(t.unknown());
        assert!(alive(pid.into()));
        assert_eq!(user.state(&id)["status"], "running");
        user.rt(&["delete", "--force", &id]).run().ok();
    });
}

/// A range that no account of the machine has.
const RANGE: u32 = Accounts::RANGE;

const NO_AUTOMATIC: &str = "refuses a config without a user namespace";

#[test]
fn helpers_write_maps_of_more_than_the_own_id() {
    const NO_GROUPS: &str = "no additional groups for ordinary users, also with maps that have them";
    run_case(any().differs("runc", NO_GROUPS), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        let map = json!([
            {"containerID": 0, "hostID": uid(), "size": 1},
            {"containerID": 1, "hostID": RANGE, "size": 1000},
        ]);
        b.set("/linux/uidMappings", map.clone());
        b.set("/linux/gidMappings", map);
        b.set("/process/user", json!({"uid": 7, "gid": 8, "additionalGids": [9]}));
        b.sh("id -u; id -G; tr -s ' ' </proc/self/uid_map; exit 5");
        let accounts = Accounts { sub_ids: &format!("ann:{RANGE}:65536\n"), helpers: true };
        let out = accounts.of(t, user.making(&b, &["run"], &user.id())).run();
        out.expect_code(5);
        assert_eq!(out.stdout, format!("7\n8 9\n 0 {} 1\n 1 {RANGE} 1000\n", uid()), "{out}");
    });
}

#[test]
fn what_the_helper_refuses_is_told_in_its_words() {
    run_case(oar_only("words of the error"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.set("/linux/uidMappings", json!([{"containerID": 0, "hostID": RANGE, "size": 1000}]));
        let own = Accounts { sub_ids: &format!("ann:{RANGE}:999\n"), helpers: true };
        let id = user.id();
        let out = own.of(t, user.making(&b, &["run"], &id)).run();
        out.clean_error()
            .says("/usr/bin/newuidmap: exit status 1: uid range [0-1000) -> [1000000000-1000001000)");
        out.says("hint: ids that a user may map are in /etc/subuid: `usermod --add-subuids ");
        let none = Accounts { sub_ids: "", helpers: false };
        let out = none.of(t, user.making(&b, &["run"], &id)).run();
        out.clean_error().says("by newuidmap, which is not installed (Debian: uidmap)");
    });
}

#[test]
fn a_user_namespace_is_added_with_all_that_the_user_has() {
    run_case(any().differs("runc", NO_AUTOMATIC), |t| {
        let user = User::new(t);
        let mut b = t.bundle();
        b.set("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [5]}));
        b.sh("id -u; id -G; tr -s ' ' </proc/self/uid_map; ls -d /sys/class/net/lo; exit 5");
        let accounts = Accounts { sub_ids: &format!("ann:{RANGE}:65536\n"), helpers: true };
        let id = user.id();
        let out = accounts.of(t, user.making(&b, &["run"], &id)).run();
        out.expect_code(5);
        let map = format!(" 0 {} 1\n 1 {RANGE} 65536\n", uid());
        assert_eq!(out.stdout, format!("0\n0 5\n{map}/sys/class/net/lo\n"), "{out}");
        if t.kind == Kind::Oar {
            assert_eq!(out.stderr, "", "{out}");
            // From another shell, and another process in there.
            b.sh("echo up; exec sleep 1000");
            let created = accounts.of(t, user.making(&b, &["create"], &id)).run();
            created.ok();
            user.rt(&["start", &id]).run().ok();
            let out = user.rt(&["exec", "--user", "3:4", &id, "/bin/sh", "-c", "id -u; id -G"]).run();
            assert_eq!(out.ok(), "3\n4 5\n", "{out}");
            assert_eq!(user.pids(&id).len(), 1);
            user.rt(&["delete", "--force", &id]).run().ok();
        }
    });
}

#[test]
fn a_user_namespace_is_added_with_one_id() {
    run_case(any().differs("runc", NO_AUTOMATIC), |t| {
        let user = User::new(t);
        let mut b = t.bundle();
        b.unmount("/dev/pts");
        b.sh("id -u; tr -s ' ' </proc/self/uid_map; cat /proc/self/setgroups; exit 5");
        let accounts = Accounts { sub_ids: "somebody:1:1\n", helpers: true };
        let id = user.id();
        let out = accounts.of(t, user.making(&b, &["run"], &id)).run();
        out.expect_code(5);
        assert_eq!(out.stdout, format!("0\n 0 {} 1\ndeny\n", uid()), "{out}");
        if t.kind == Kind::Oar {
            let note =
                "linux.namespaces: a user namespace is added: it has one id, because /etc/subuid has no ids";
            accounts.of(t, user.making(&b, &["--debug", "run"], &id)).run().says(note);
            let accounts = Accounts { sub_ids: &format!("{}:{RANGE}:10\n", uid()), helpers: false };
            let out = accounts.of(t, user.making(&b, &["run", "--dry-run"], &id)).run();
            out.says("added    the user namespace: it has one id, because newuidmap and newgidmap are not installed");
        }
    });
}

/// A bundle with a file that only root and a group of the user's may read; the command reads it and shows its groups.
fn with_a_groups_file(user: &User<'_>) -> (Bundle, String) {
    let group = uid() + 1;
    let mut b = user.t.bundle();
    b.sh("cat /tmp/shared; id -G; exit 5");
    b.write();
    give(&b.dir);
    let file = b.rootfs().join("tmp/shared");
    fs::write(&file, "shared\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    lchown(&file, Some(0), Some(group)).unwrap();
    (b, group.to_string())
}

/// As the user, with this group besides.
fn in_group(user: &User<'_>, group: &str, args: &[&str]) -> Invocation {
    let id = uid().to_string();
    let argv = [&[user.runtime.to_str().unwrap()], args].concat();
    let run = user.t.program(argv.iter().map(Into::into).collect());
    run.wrap(&["setpriv", "--reuid", &id, "--regid", &id, "--groups", group, "--inh-caps=-all"])
        .env("XDG_RUNTIME_DIR", user.run_dir.to_str().unwrap())
}

#[test]
fn the_annotation_keeps_the_callers_groups() {
    run_case(any().differs("runc", NO_AUTOMATIC), |t| {
        let user = User::new(t);
        let (mut b, group) = with_a_groups_file(&user);
        b.set("/annotations", json!({"run.oci.keep_original_groups": "1"}));
        b.set("/process/user/additionalGids", json!([7]));
        b.write();
        let id = user.id();
        let allow: &[&str] = if t.kind == Kind::Oar { &["--allow-annotations"] } else { &[] };
        let words = [&["run"], allow, &["--bundle", b.dir.to_str().unwrap(), &id]].concat();
        let accounts = Accounts { sub_ids: &format!("ann:{RANGE}:65536\n"), helpers: true };
        let out = accounts.of(t, in_group(&user, &group, &words)).run();
        out.expect_code(5);
        assert_eq!(out.stdout, "shared\n0 65534\n", "{out}");
        if t.kind == Kind::Oar {
            out.says("warning: process.user.additionalGids: not set: the process keeps its caller's groups");
            let words = ["run", "--bundle", b.dir.to_str().unwrap(), &id];
            let out = accounts.of(t, in_group(&user, &group, &words)).run();
            out.expect_code(5);
            assert_eq!(out.stdout, "0 7\n", "without --allow-annotations it is a label: {out}");
        }
    });
}

#[test]
fn the_callers_groups_are_kept_for_exec_too() {
    run_case(oar_only("its flag"), |t| {
        let user = User::new(t);
        let (mut b, group) = with_a_groups_file(&user);
        b.sh("echo up; exec sleep 1000");
        b.write();
        let id = user.id();
        let accounts = Accounts { sub_ids: &format!("ann:{RANGE}:65536\n"), helpers: true };
        let dir = b.dir.clone();
        let bundle = dir.to_str().unwrap();
        accounts.of(t, in_group(&user, &group, &["create", "--keep-groups", "-b", bundle, &id])).run().ok();
        user.rt(&["start", &id]).run().ok();
        let read = ["exec", "--user", "3:4", &id, "/bin/sh", "-c", "cat /tmp/shared; id -G"];
        let out = in_group(&user, &group, &read).run();
        assert_eq!(out.ok(), "shared\n4 65534\n", "{out}");
        user.rt(&read).run().says("Permission denied");
        let more = in_group(&user, &group, &["exec", "--additional-gids", "7", &id, "true"]).run();
        more.failed().says("there is no way to have these and keep");
        user.rt(&["delete", "--force", &id]).run().ok();
        // With one id there is no other way.
        b.sh("cat /tmp/shared; id -G");
        b.unmount("/dev/pts");
        b.write();
        let words = ["run", "--keep-groups", "-b", bundle, &id];
        let accounts = Accounts { sub_ids: "", helpers: false };
        let out = accounts.of(t, in_group(&user, &group, &words)).run();
        assert_eq!(out.ok(), "shared\n0 65534\n", "{out}");
        let dry = ["run", "--keep-groups", "--dry-run", "-b", bundle, &id];
        accounts.of(t, in_group(&user, &group, &dry)).run().says("groups kept");
        b.set("/process/user/additionalGids", json!([7]));
        b.write();
        let out = user.rt(&words).run();
        out.clean_error().says("process.user.additionalGids: there is no way to have these and keep");
    });
}

/// `id -u` and this, in a container with these of the host's namespaces.
fn with_the_hosts(user: &User<'_>, namespaces: &[&str], script: &str) -> Bundle {
    let mut b = user.bundle();
    for name in namespaces {
        b.without_namespace(name);
    }
    b.sh(&format!("id -u; {script}; exit 5"));
    b
}

#[test]
fn sysfs_without_a_network_namespace_is_the_hosts() {
    run_case(any().differs("runc", "passes the kernel's EPERM on"), |t| {
        let user = User::new(t);
        let mut b = with_the_hosts(&user, &["network"], "ls /sys/class/net; touch /sys/x");
        b.mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
        let out = user.run(&b);
        out.expect_code(5);
        assert!(out.stdout.contains("lo"), "{out}");
        out.says_any(&["Read-only file system", "Permission denied"]);
        if t.kind == Kind::Oar {
            let out = user.making(&b, &["run", "--dry-run"], &user.id()).run();
            out.says("bind /sys at /sys: rbind rro rnosuid rnodev rnoexec ");
            let out = user.making(&b, &["--debug", "run"], &user.id()).run();
            out.says("mounts[5]: a new sysfs needs a network namespace, so the host's /sys is bound");
            // All below it too.
            b.sh("grep ' /sys' /proc/self/mountinfo | cut -d' ' -f5,6");
            let out = user.run(&b);
            for line in out.ok().lines() {
                assert!(line.split(' ').nth(1).unwrap().starts_with("ro,nosuid,nodev,noexec"), "{out}");
            }
        }
    });
}

#[test]
fn procfs_without_a_pid_namespace_is_the_hosts() {
    run_case(oar_only("the other two pass the kernel's EPERM on"), |t| {
        let user = User::new(t);
        let b = with_the_hosts(&user, &["pid"], "cat /proc/self/comm; ls -d /proc/$PPID");
        let out = user.run(&b);
        out.expect_code(5);
        assert!(out.stdout.starts_with("0\ncat\n/proc/"), "{out}");
        user.making(&b, &["run", "--dry-run"], &user.id()).run().says("bind /proc at /proc: rbind ");
    });
}

#[test]
fn queues_without_an_ipc_namespace_are_the_hosts() {
    run_case(oar_only("a host's /dev that the case has made"), |t| {
        let user = User::new(t);
        let b = with_the_hosts(&user, &["ipc"], "ls /dev/mqueue");
        let dev = t.scratch("dev");
        let with = |queues: &str| {
            let script = format!(
                "set -e; cd {}; mount -t tmpfs dev .; cd $PWD; mkdir pts shm; for name in null zero full random \
                 urandom tty; do : >$name; mount --bind /dev/$name $name; done; {queues}; mount --rbind . /dev; exec \"$@\"",
                dev.display()
            );
            let run = user.making(&b, &["--debug", "run"], &user.id());
            run.wrap(&["unshare", "-m", "-i", "sh", "-c", &script, "sh"]).run()
        };
        let out = with("mkdir mqueue; mount -t mqueue queues mqueue; : >mqueue/seen");
        out.expect_code(5);
        assert_eq!(out.stdout, "0\nseen\n", "{out}");
        out.says("a new mqueue needs an ipc namespace, so the host's /dev/mqueue is bound");
        let out = with(":");
        out.expect_code(5);
        out.says("warning: mounts[");
        out.says("a new mqueue needs an ipc namespace, and the host has no /dev/mqueue: left out");
    });
}

const REFUSED: &str = "refuses a gid that is not mapped";
const EINVAL: &str = "passes the kernel's EINVAL on";

#[test]
fn terminals_do_without_a_group_that_is_not_mapped() {
    run_case(any().differs("runc", REFUSED).differs("crun", EINVAL), |t| {
        let user = User::new(t);
        let mut b = with_the_hosts(&user, &[], "grep -o 'devpts.*' /proc/mounts");
        b.unmount("/dev/pts");
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
        b.mount("/dev/pts", "devpts", "devpts", &options);
        let out = user.run(&b);
        out.expect_code(5);
        assert!(out.stdout.contains("ptmxmode=666") && !out.stdout.contains("gid=5"), "{out}");
        if t.kind == Kind::Oar {
            let out = user.making(&b, &["--debug", "run"], &user.id()).run();
            out.says("gid=5 is left out: the group is not mapped in the user namespace");
        }
    });
}

#[test]
fn device_nodes_are_the_hosts() {
    run_case(any(), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("for name in null zero full random urandom tty; do stat -c '%n %t:%T' /dev/$name; done; \
              head -c 4 /dev/zero | wc -c; echo gone >/dev/null && echo full >/dev/full");
        let out = user.run(&b);
        assert_eq!(
            out.stdout,
            "/dev/null 1:3\n/dev/zero 1:5\n/dev/full 1:7\n/dev/random 1:8\n/dev/urandom 1:9\n/dev/tty 5:0\n4\n",
            "{out}"
        );
        out.says("No space left on device");
    });
}

#[test]
fn the_cgroup_tree_without_a_namespace_is_the_hosts() {
    run_case(oar_only("shows the host's hierarchies where the container has no part of them"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]);
        b.sh("cat /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/unified/cgroup.procs 2>/dev/null | wc -l; \
              mkdir /sys/fs/cgroup/x /sys/fs/cgroup/unified/x; exit 5");
        let out = user.run(&b);
        out.expect_code(5);
        assert_ne!(out.stdout, "0\n", "{out}");
        out.says("Read-only file system");
    });
}

/// Where cgroup2 is mounted.
fn cgroup2() -> Option<&'static Path> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists())
}

/// A cgroup of the user's, in which commands run; it ends with the case.
struct Delegated(PathBuf);

impl Delegated {
    fn new(t: &Test) -> Self {
        let dir = cgroup2().unwrap().join(&t.tag);
        for path in [&dir, &dir.join("shell")] {
            fs::create_dir(path).unwrap();
            for file in [".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                lchown(path.join(file), Some(uid()), Some(uid())).unwrap();
            }
        }
        Delegated(dir)
    }

    fn enter(&self, run: Invocation) -> Invocation {
        self.enter_at("shell", run)
    }

    fn enter_at(&self, name: &str, run: Invocation) -> Invocation {
        let script = format!("echo $$ >{}/{name}/cgroup.procs && exec \"$@\"", self.0.display());
        run.wrap(&["sh", "-c", &script, "sh"])
    }

    fn has(&self, controller: &str) -> bool {
        let text = fs::read_to_string(self.0.join("cgroup.controllers")).unwrap();
        text.split_whitespace().any(|name| name == controller)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for path in [self.0.join("shell"), self.0.clone()] {
            fs::remove_dir(&path).unwrap_or_else(|error| eprintln!("{}: {error}", path.display()));
        }
    }
}

#[test]
fn a_cgroup_that_is_the_users_is_used() {
    run_case(oar_only("peers want all hierarchies or none").needs(cgroup2().is_some(), "cgroup2"), |t| {
        let delegated = Delegated::new(t);
        let user = User::new(t);
        let mut b = user.bundle();
        b.sh("sleep 1000 & sleep 1000 & echo up; wait");
        let id = user.id();
        let created = delegated.enter(user.making(&b, &["--debug", "create"], &id)).run();
        created.ok();
        assert!(!created.stderr.contains("cgroup"), "{created}");
        user.rt(&["start", &id]).run().ok();
        t.wait_for(&t.dir, || fs::read_to_string(&created.stdout_path).unwrap().contains("up"));
        let group = delegated.0.join(&id);
        let procs = || fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let pid = user.state(&id)["pid"].as_i64().unwrap();
        assert!(procs().lines().any(|line| line == pid.to_string()), "{}", procs());
        // It is frozen by cgroup2 alone, and by whoever owns it.
        user.rt(&["pause", &id]).run().ok();
        assert_eq!(user.state(&id)["status"], "paused");
        user.rt(&["resume", &id]).run().ok();
        assert_eq!(user.pids(&id).len(), procs().lines().count());
        // To be born there takes a right on the nearest cgroup above both places.
        delegated.enter(user.rt(&["exec", &id, "/bin/true"])).run().ok();
        let out = user.rt(&["exec", &id, "/bin/true"]).run();
        out.clean_error()
            .says("in the container's cgroup from the cgroup of this command: permission denied");
        out.says("hint: begin in one that the user may leave: ");
        user.rt(&["delete", "--force", &id]).run().ok();
        assert!(!group.exists());
        b.set("/linux/resources", json!({"pids": {"limit": 9}}));
        b.sh("i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; echo all");
        let out = delegated.enter(user.making(&b, &["run"], &id)).run();
        if delegated.has("pids") {
            assert!(out.stderr.contains("fork") && !out.stdout.contains("all"), "{out}");
        } else {
            // It is not the user's: the error names it, and what helps.
            out.clean_error()
                .says("needs the cgroup controller pids")
                .says("hint: on cgroup v2 root can delegate it: ");
        }
        assert!(!group.exists(), "{out}");
    });
}

/// As in a service with `User=` and `Delegate=yes`: the cgroup above is root's.
#[test]
fn the_own_cgroup_is_used_when_what_is_above_is_not_the_users() {
    run_case(
        oar_only("peers want a path that the user may make").needs(cgroup2().is_some(), "cgroup2"),
        |t| {
            let delegated = Delegated::new(t);
            let user = User::new(t);
            let mut b = user.bundle();
            b.sh("echo up; exec sleep 1000");
            let id = user.id();
            let enter = |run| delegated.enter_at(".", run);
            let out = enter(user.making(&b, &["run", "--dry-run"], &id)).run();
            out.says(&format!(
                "cgroup   cgroupfs: {id} (below the caller's own: what is above is not theirs)"
            ));
            let created = enter(user.making(&b, &["--debug", "create"], &id)).run();
            created.ok();
            assert!(!created.stderr.contains("no cgroup"), "{created}");
            let group = delegated.0.join(&id);
            let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap();
            assert_eq!(procs.trim(), user.state(&id)["pid"].to_string());
            user.rt(&["start", &id]).run().ok();
            user.rt(&["pause", &id]).run().ok();
            user.rt(&["resume", &id]).run().ok();
            enter(user.rt(&["exec", &id, "/bin/true"])).run().ok();
            // From a sibling of the container as well.
            delegated.enter(user.rt(&["exec", &id, "/bin/true"])).run().ok();
            user.rt(&["delete", "--force", &id]).run().ok();
            assert!(!group.exists());
            // Limits and processes exclude each other: this command is one.
            b.set("/linux/resources", json!({"pids": {"limit": 9}}));
            let out = enter(user.making(&b, &["run"], &id)).run();
            out.clean_error();
            if delegated.has("pids") {
                out.says("enable cgroup controllers (+pids) where processes are in the cgroup itself: ");
                out.says("hint: processes and limits below them exclude each other in cgroup v2: `mkdir CGROUP/shell");
            } else {
                out.says("needs the cgroup controller pids");
            }
            assert!(!group.exists(), "{out}");
        },
    );
}

#[test]
fn sysctls_of_the_own_network_namespace() {
    run_case(any(), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.namespace("network", "").set("/linux/sysctl", json!({"net.ipv4.ping_group_range": "0 0"}));
        b.sh("cat /proc/sys/net/ipv4/ping_group_range");
        assert_eq!(user.run(&b).ok(), "0\t0\n");
        // Of the host's nothing is set.
        b.without_namespace("network");
        user.run(&b).failed();
    });
}

#[test]
fn what_root_alone_may_do_is_refused_in_words() {
    run_case(oar_only("words of the errors"), |t| {
        let user = User::new(t);
        let mut b = user.bundle();
        b.namespace("network", "").set("/linux/netDevices", json!({"eth9": {}}));
        user.run(&b).clean_error().says("linux.netDevices");
        let mut b = user.bundle();
        let source = t.scratch("shared");
        give(&source);
        let map = json!([{"containerID": 0, "hostID": uid(), "size": 1}]);
        b.set(
            "/mounts/-",
            json!({"destination": "/mnt", "type": "bind", "source": source,
            "options": ["bind"], "uidMappings": map, "gidMappings": map}),
        );
        user.run(&b).clean_error().says("mapping the ids of a bind takes CAP_SYS_ADMIN");
        let mut b = user.bundle();
        b.set("/linux/intelRdt", json!({"closID": "x"}));
        user.run(&b).clean_error().says("linux.intelRdt");
        let out = user.rt(&["checkpoint", "x"]).run();
        out.failed().says("checkpoint");
    });
}
