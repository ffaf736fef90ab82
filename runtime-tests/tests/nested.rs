// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the runtime below another user namespace: in a container of its own, in `unshare -U`.
//! Never relies on the engine around: what is known there are facts of the kernel (maps, capabilities, owners).
//! Expectations come from user_namespaces(7), "Interaction of user namespaces and other types of namespaces".

use runtime_tests::{Accounts, Bundle, Out, Test, User, Value, give, json, oar_only, run_case, uid};
use std::fs;
use std::path::Path;

/// What Docker and Podman give to root of a container, and what `--privileged` has beside that.
const DEFAULT: &[&str] = PRIVILEGED.split_at(11).0;
const PRIVILEGED: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
    "CAP_NET_ADMIN",
    "CAP_SYS_ADMIN",
];

/// Makes `outer` one in whose root the runtime and the bundle `/inner` are, and whose command runs that. The inner one
/// says its id, its map and `in`, and ends with 5.
fn nest(
    outer: &mut Bundle,
    runtime: &Path,
    t: &Test,
    capabilities: &[&str],
    change: impl FnOnce(&mut Bundle),
) {
    let dir = outer.rootfs().join("inner");
    fs::create_dir(&dir).unwrap();
    let mut inner = Bundle::create(&dir, &t.tag);
    inner.sh("echo in; id -u; tr -s ' ' </proc/self/uid_map; exit 5");
    change(&mut inner);
    inner.write();
    // A runtime that is linked dynamically needs them.
    for lib in ["/usr", "/lib", "/lib64"] {
        if Path::new(lib).exists() {
            fs::create_dir_all(outer.rootfs().join(&lib[1..])).unwrap();
            outer.mount(lib, "bind", lib, &["rbind", "ro"]);
        }
    }
    fs::write(outer.rootfs().join("oar"), "").unwrap();
    outer.mount("/oar", "bind", runtime.to_str().unwrap(), &["bind", "ro"]);
    for set in ["bounding", "effective", "permitted"] {
        outer.set(&format!("/process/capabilities/{set}"), json!(capabilities));
    }
    outer.sh(
        "mkdir -p /run; /oar run --bundle /inner inner; code=$?; ls /run/oar | grep -c inner; exit $code",
    );
}

#[track_caller]
fn inside(out: &Out, map: &str) {
    assert_eq!((out.code, out.stdout.as_str()), (5, format!("in\n0\n{map}\n0\n").as_str()), "{out}");
}

#[test]
fn in_a_container_of_roots_with_a_user_namespace() {
    run_case(oar_only("the runtime is in the container"), |t| {
        let mut b = t.bundle();
        nest(&mut b, &t.runtime, t, PRIVILEGED, |_| ());
        b.user_namespace();
        inside(&t.run(&b), " 0 100000 65536");
    });
}

/// As Podman's and Docker's containers are: no CAP_SYS_ADMIN, so the inner one gets a user namespace of its own.
#[test]
fn in_a_container_without_cap_sys_admin() {
    run_case(oar_only("the runtime is in the container"), |t| {
        for user_namespace in [true, false] {
            let mut b = t.bundle();
            b.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
            nest(&mut b, &t.runtime, t, DEFAULT, |_| ());
            if user_namespace {
                b.user_namespace();
            }
            inside(&t.run(&b), " 0 0 1");
        }
    });
}

#[test]
fn what_the_container_around_has_to_allow_is_said() {
    run_case(oar_only("words of the errors"), |t| {
        let mut b = t.bundle();
        nest(&mut b, &t.runtime, t, DEFAULT, |_| ());
        b.set("/linux/maskedPaths", json!(["/proc/version"]));
        b.user_namespace();
        let out = t.run(&b);
        out.expect_code(1).says("mount proc at /proc (mounts[0]): operation not permitted");
        out.says("hint: in a user namespace that needs a /proc without mounts over parts of it: ");
        out.says("must be made with empty maskedPaths and readonlyPaths (Podman: --security-opt unmask=ALL)");
        // The other way that it names.
        let mut b = t.bundle();
        nest(&mut b, &t.runtime, t, DEFAULT, |inner| {
            inner.unmount("/proc").unmount("/sys").mount("/proc", "bind", "/proc", &["rbind"]);
        });
        b.set("/linux/maskedPaths", json!(["/proc/version"]));
        b.user_namespace();
        inside(&t.run(&b), " 0 0 1");
        let mut b = t.bundle();
        nest(&mut b, &t.runtime, t, &[DEFAULT, &["CAP_SYS_ADMIN"]].concat(), |_| ());
        b.user_namespace();
        let out = t.run(&b);
        out.expect_code(1).says("bring up the loopback device: operation not permitted");
        out.says("hint: it takes CAP_NET_ADMIN");
        // user_namespaces(7): who maps uid 0 needs CAP_SETFCAP.
        let mut b = t.bundle();
        nest(&mut b, &t.runtime, t, &["CAP_KILL"], |_| ());
        b.user_namespace();
        let out = t.run(&b);
        out.expect_code(1).says("write uid_map of the new user namespace: operation not permitted");
        out.says("hint: uid 0 of the caller's user namespace is mapped with CAP_SETFCAP only");
    });
}

#[test]
fn in_a_container_of_an_ordinary_user() {
    run_case(oar_only("the runtime is in the container"), |t| {
        let user = User::new(t);
        let sub_ids = format!("ann:{}:65536\n", Accounts::RANGE);
        // With many ids and with one; with the right to mount, and without.
        for (sub_ids, capabilities, map) in [
            (sub_ids.as_str(), PRIVILEGED, format!(" 0 {} 1\n 1 {} 65536", uid(), Accounts::RANGE)),
            (sub_ids.as_str(), DEFAULT, " 0 0 1".to_string()),
            ("", PRIVILEGED, format!(" 0 {} 1", uid())),
            ("", DEFAULT, " 0 0 1".to_string()),
        ] {
            let mut b = t.bundle();
            b.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
            nest(&mut b, &user.runtime, t, capabilities, |_| ());
            let accounts = Accounts { sub_ids, helpers: true };
            let out = accounts.of(t, user.making(&b, &["run"], &user.id())).run();
            inside(&out, &map);
        }
    });
}

/// By unshare(1), which makes the namespaces of these letters besides.
fn unshared<'a>(user: &User<'_>, flags: &'a str, words: &[&'a str]) -> runtime_tests::Invocation {
    user.program(&[&["unshare", flags, user.runtime.to_str().unwrap()], words].concat())
}

#[test]
fn in_unshare() {
    run_case(oar_only("peers take the caller for root"), |t| {
        let user = User::new(t);
        // A namespace that was not unshared belongs to the host: CAP_SYS_ADMIN is worth nothing there.
        for flags in ["-Ur", "-Urm", "-Urn", "-Urmn", "-Uri"] {
            let mut b = t.bundle();
            b.sh("echo in; id -u; tr -s ' ' </proc/self/uid_map; cat /proc/self/setgroups; exit 5");
            b.write();
            give(&b.dir);
            let (dir, id) = (b.dir.clone(), user.id());
            let dir = dir.to_str().unwrap();
            let out = unshared(&user, flags, &["--debug", "run", "--bundle", dir, &id]).run();
            out.expect_code(5);
            assert_eq!(out.stdout, format!("in\n0\n 0 {} 1\ndeny\n", uid()), "{flags}: {out}");
            assert!(!out.stderr.contains("a user namespace is added"), "{flags}: {out}");
            out.says("gid=5 is left out: the group is not mapped in the user namespace");
            // The same, as one more user namespace.
            b.namespace("user", "");
            let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
            b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
            b.without_namespace("network").without_namespace("ipc");
            b.write();
            let out = unshared(&user, flags, &["run", "--bundle", dir, &id]).run();
            out.expect_code(5);
            assert_eq!(out.stdout, "in\n0\n 0 0 1\ndeny\n", "{flags}: {out}");
        }
    });
}

#[test]
fn what_unshare_does_not_have_is_the_hosts() {
    run_case(oar_only("peers pass the kernel's EPERM on"), |t| {
        let user = User::new(t);
        let mut b = t.bundle();
        for name in ["network", "pid", "ipc"] {
            b.without_namespace(name);
        }
        b.sh("ls /sys/class/net; ls -d /proc/$PPID; exit 5");
        b.write();
        give(&b.dir);
        let (dir, id) = (b.dir.to_str().unwrap(), user.id());
        let out = unshared(&user, "-Ur", &["run", "--bundle", dir, &id]).run();
        out.expect_code(5);
        assert!(out.stdout.contains("lo\n/proc/"), "{out}");
        let out = unshared(&user, "-Ur", &["run", "--dry-run", "--bundle", dir, &id]).run();
        for bind in ["/sys at /sys", "/proc at /proc"] {
            assert!(out.ok().contains(&format!("bind {bind}: rbind ")), "{bind}: {out}");
        }
        // A network namespace of unshare's is its to show.
        let out = unshared(&user, "-Urn", &["run", "--dry-run", "--bundle", dir, &id]).run();
        assert!(out.ok().contains("mount sysfs at /sys"), "{out}");
    });
}

#[test]
fn ids_of_unshare_are_the_ids_that_there_are() {
    run_case(oar_only("words of the errors"), |t| {
        let user = User::new(t);
        let mut b = t.bundle();
        b.set("/process/user", json!({"uid": 7, "gid": 0, "additionalGids": [0]}));
        b.write();
        give(&b.dir);
        let out = unshared(&user, "-Ur", &["run", "--bundle", b.dir.to_str().unwrap(), &user.id()]).run();
        out.clean_error().says("process.user.uid: is not mapped in the user namespace (got 7)");
        out.says(
            "process.user.additionalGids: setting groups is not permitted in the caller's user namespace",
        );
    });
}

#[test]
fn inside_and_outside_see_the_same_containers() {
    run_case(oar_only("its default root"), |t| {
        let user = User::new(t);
        let mut b = t.bundle();
        b.sh("echo up; exec sleep 1000");
        b.write();
        give(&b.dir);
        let id = user.id();
        unshared(&user, "-Ur", &["create", "--bundle", b.dir.to_str().unwrap(), &id]).run().ok();
        user.rt(&["start", &id]).run().ok();
        assert_eq!(user.state(&id)["status"], "running");
        let out = unshared(&user, "-Ur", &["list", "-q"]).run();
        assert_eq!(out.ok(), format!("{id}\n"), "{out}");
        let out = user.rt(&["exec", &id, "id", "-u"]).run();
        assert_eq!(out.ok(), "0\n", "{out}");
        // Another one of unshare's is beside it.
        let out = unshared(&user, "-Ur", &["exec", &id, "id", "-u"]).run();
        out.expect_code(255).says("look at the container's namespaces: permission denied");
        out.says("hint: exec works from the user namespace in which the container was made, or one above");
        user.rt(&["delete", "--force", &id]).run().ok();
    });
}

#[test]
fn a_procfs_of_other_pids_is_refused() {
    run_case(oar_only("words of the error"), |t| {
        let user = User::new(t);
        let b = t.bundle();
        b.write();
        give(&b.dir);
        let dir = b.dir.to_str().unwrap();
        let out = unshared(&user, "-Urpf", &["run", "--bundle", dir, &user.id()]).run();
        out.clean_error().says("/proc is of another pid namespace: it calls this process ");
        let out = user
            .program(&[
                "unshare",
                "-Urpf",
                "--mount-proc",
                user.runtime.to_str().unwrap(),
                "run",
                "--bundle",
                dir,
                "x",
            ])
            .run();
        out.ok();
    });
}

/// Numbers of processes mean nothing there, and a container that seems to have ended must not be removed for it.
#[test]
fn a_container_of_another_pid_namespace_is_left_alone() {
    run_case(oar_only("runc takes it for ended, and deletes its state"), |t| {
        let mut b = t.bundle();
        b.sh("exec sleep 1000");
        let c = t.create(&b);
        c.start();
        for prefix in [&["unshare", "--pid", "--fork"][..], &["unshare", "--pid", "--fork", "--mount-proc"]] {
            let id = c.id.as_str();
            let verbs: [&[&str]; 9] = [
                &["delete", id],
                &["delete", "--force", id],
                &["state", id],
                &["wait", id],
                &["kill", id, "KILL"],
                &["pause", id],
                &["ps", "--format", "json", id],
                &["exec", id, "true"],
                &["update", "--pids-limit", "10", id],
            ];
            for verb in verbs {
                let out = t.rt(verb).wrap(prefix).run();
                out.failed().clean_error().says("was made in another pid namespace");
            }
            let list = t.rt(&["list"]).wrap(prefix).run();
            assert!(
                list.stderr.contains("another pid namespace") && !list.stdout.contains("stopped"),
                "{list}"
            );
        }
        assert_eq!(c.status(), "running");
    });
}

/// Whose namespace has ended with its processes: the kernel tells that nobody is left.
#[test]
fn a_container_whose_pid_namespace_ended_is_removed() {
    let unified = Path::new("/sys/fs/cgroup/cgroup.procs").exists()
        || Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
    run_case(oar_only("as above").needs(unified, "cgroup2"), |t| {
        let mut b = t.bundle();
        b.sh("exec sleep 1000");
        let (id, create) = t.creation(&b, &[]);
        create.wrap(&["unshare", "--pid", "--fork", "--mount-proc"]).run().ok();
        let state: Value = serde_json::from_str(t.rt(&["state", &id]).run().ok()).unwrap();
        assert_eq!(state["status"], "stopped");
        t.rt(&["delete", &id]).run().ok();
    });
}
