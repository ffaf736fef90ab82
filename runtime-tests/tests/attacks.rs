// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the attacks of research/security.md §2 by number: hostile roots, paths, links and configs.
//! Never aims at anything but the sentinel directory and a canary sysctl; the host check is the judge.
//! A case may end in the right result inside or in an error; what it may not do is touch what is outside.

use runtime_tests::{Bundle, Container, Kind, Out, Test, Value, any, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

/// create + start: either everything went well, or an ordinary error came (of oar: a clean one).
#[track_caller]
fn attempt(t: &Test, b: &Bundle) -> Out {
    let out = t.create_start(b);
    if out.code != 0 && t.kind == Kind::Oar {
        out.clean_error();
    } else if out.code != 0 {
        out.failed();
    }
    out
}

#[track_caller]
fn refused(t: &Test, b: &Bundle) -> Out {
    let out = t.try_create(b);
    if t.kind == Kind::Oar {
        out.clean_error();
    }
    out.failed();
    out
}

/// Replaces a directory of the root by a link.
fn relink(b: &Bundle, name: &str, target: impl AsRef<Path>) {
    let path = b.rootfs().join(name);
    match path.symlink_metadata() {
        Ok(m) if m.is_dir() => fs::remove_dir_all(&path).unwrap(),
        Ok(_) => fs::remove_file(&path).unwrap(),
        Err(_) => fs::create_dir_all(path.parent().unwrap()).unwrap(),
    }
    symlink(target, path).unwrap();
}

#[test]
fn t01_shebang_to_self() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        fs::write(b.rootfs().join("evil"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(b.rootfs().join("evil"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/proc/self/exe", b.rootfs().join("link")).unwrap();
        for program in ["/evil", "/link", "/proc/self/exe"] {
            b.args(&[program, "--version"]);
            let out = t.run(&b);
            assert!(!out.stdout.contains("version"), "the runtime itself has run: {out}");
        }
    });
}

#[test]
fn t01_the_binary_cannot_be_opened_for_writing() {
    run_case(oar_only("no process of the container has the runtime's file as its exe"), |t| {
        let mut b = t.bundle();
        b.sh("sleep 1000");
        let c = t.create(&b);
        let own = fs::metadata(&t.runtime).unwrap();
        let exe = fs::metadata(c.proc("exe")).unwrap();
        assert_ne!((own.dev(), own.ino()), (exe.dev(), exe.ino()));
    });
}

#[test]
fn t08_cwd_through_descriptors() {
    run_case(any(), |t| {
        let mut paths: Vec<_> = (3..24).map(|n| format!("/proc/self/fd/{n}")).collect();
        paths.extend((3..12).map(|n| format!("/proc/1/fd/{n}/..")));
        paths.extend(["/proc/self/cwd", "/proc/self/root/../.."].map(str::to_owned));
        let mut b = t.bundle();
        for path in paths {
            b.set("/process/cwd", json!(path)).sh("pwd -P; ls -A . | head -50");
            let out = attempt(t, &b);
            assert!(!out.stdout.contains("unreachable") && !out.stdout.contains("secret"), "{path}: {out}");
            assert!(!out.stdout.lines().any(|l| l == "boot" || l == "cgroup.procs"), "{path}: {out}");
        }
    });
}

#[test]
fn t09_cwd_through_a_link_of_the_image() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/process/cwd", json!("/work")).sh("pwd -P; ls -A . | head -50");
        for n in 3..20 {
            relink(&b, "work", format!("/proc/self/fd/{n}"));
            let out = attempt(t, &b);
            assert!(!out.stdout.contains("unreachable"), "{n}: {out}");
            assert!(!out.stdout.lines().any(|l| l == "boot" || l == "cgroup.procs"), "{n}: {out}");
        }
    });
}

#[test]
fn t10_args0_through_descriptors() {
    run_case(any(), |t| {
        let marker = t.sentinel().join("marker");
        let mut b = t.bundle();
        for n in 3..20 {
            b.args(&[&format!("/proc/self/fd/{n}/../../../../../..{}", marker.display())]);
            let out = t.create_start(&b);
            assert_ne!(out.code, 0, "{out}");
            fs::write(b.rootfs().join("s"), format!("#!/proc/self/fd/{n}/../../../bin/sh\nexit 0\n"))
                .unwrap();
        }
    });
}

#[test]
fn t15_environment_of_the_caller_stays_outside() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("cat /proc/1/environ; sleep 1000");
        let (id, run) = t.creation(&b, &[]);
        let created = run.env("SECRET", "xyzzy").run();
        created.ok();
        let state: Value = t.rt(&["state", &id]).run().ok().parse().unwrap();
        let environ = fs::read(format!("/proc/{}/environ", state["pid"])).unwrap();
        if t.kind == Kind::Oar {
            assert!(!String::from_utf8_lossy(&environ).contains("xyzzy"), "init in created has it");
        }
        t.rt(&["start", &id]).env("SECRET", "xyzzy").run().ok();
        t.wait_for(&t.dir, || fs::read_to_string(&created.stdout_path).unwrap().contains("RT_TAG"));
        let seen = fs::read_to_string(&created.stdout_path).unwrap();
        for entry in fs::read_dir(t.state_root().join(&id)).unwrap().flatten().filter(|e| e.path().is_file())
        {
            if entry.file_type().unwrap().is_file() {
                assert!(!fs::read_to_string(entry.path()).unwrap_or_default().contains("xyzzy"), "{entry:?}");
            }
        }
        t.rt(&["delete", "--force", &id]).run().ok();
        assert!(!seen.contains("xyzzy"), "{seen}");
    });
}

#[test]
fn t17_proc_or_sys_is_a_link() {
    run_case(any(), |t| {
        let sentinel = t.sentinel();
        for name in ["proc", "sys"] {
            for target in
                [sentinel.join("p").as_path(), Path::new("."), Path::new("etc"), Path::new("/no/where")]
            {
                let b = t.bundle();
                relink(&b, name, target);
                attempt(t, &b);
            }
            let b = t.bundle();
            relink(&b, "one", "two");
            relink(&b, "two", sentinel.join("p"));
            relink(&b, name, "one");
            attempt(t, &b);
        }
    });
}

#[test]
fn t18_parent_link() {
    run_case(any().differs("runc", "1.1.5 makes directories outside through the link"), |t| {
        let mut b = t.bundle();
        relink(&b, "a", t.sentinel());
        b.unmount("/proc").unmount("/sys");
        b.mount("/a/proc", "proc", "proc", &[]).mount("/a/sys", "sysfs", "sysfs", &["ro"]);
        attempt(t, &b);
    });
}

#[test]
fn t19_bind_below_proc() {
    run_case(any().differs("crun", "1.8.1 allows mounts inside /proc"), |t| {
        let source = t.scratch("source");
        fs::write(source.join("f"), "fake\n").unwrap();
        let file = source.join("f");
        for place in [
            "/proc/self/attr/exec",
            "/proc/sys/kernel/x",
            "/proc/./sys",
            "//proc//sys",
            "/proc/uptime/../sysrq-trigger",
        ] {
            let mut b = t.bundle();
            let from = if place.ends_with("sys") { &source } else { &file };
            b.mount(place, "bind", from.to_str().unwrap(), &["bind"]);
            refused(t, &b);
        }
        let mut b = t.bundle();
        relink(&b, "p", "/proc");
        b.mount("/p/sys", "bind", source.to_str().unwrap(), &["bind"]);
        refused(t, &b);
        // What lxcfs does is allowed.
        let mut b = t.bundle();
        b.mount("/proc/uptime", "bind", file.to_str().unwrap(), &["bind"]).sh("cat /proc/uptime");
        assert_eq!(t.run(&b).ok(), "fake\n");
    });
}

#[test]
fn t20_impostor_on_proc() {
    run_case(any().differs("crun", "1.8.1 writes to whatever lies on /proc"), |t| {
        let fake = t.scratch("fake");
        fs::create_dir_all(fake.join("self/attr")).unwrap();
        fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
        fs::write(fake.join("sys/net/ipv4/ip_forward"), "untouched").unwrap();
        for (kind, options) in [("bind", &["bind"][..]), ("tmpfs", &[])] {
            let mut b = t.bundle();
            b.unmount("/proc").mount("/proc", kind, fake.to_str().unwrap(), options);
            b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})).set("/process/oomScoreAdj", json!(5));
            attempt(t, &b);
            assert_eq!(fs::read_to_string(fake.join("sys/net/ipv4/ip_forward")).unwrap(), "untouched");
        }
    });
}

#[test]
fn t26_absolute_link_in_a_destination() {
    run_case(any(), |t| {
        let source = t.scratch("source");
        fs::write(source.join("f"), "x").unwrap();
        let mut b = t.bundle();
        relink(&b, "data", t.sentinel());
        b.mount("/data/sub", "tmpfs", "tmpfs", &[]);
        b.mount("/data/dir", "bind", source.to_str().unwrap(), &["bind"]);
        b.mount("/data/file", "bind", source.join("f").to_str().unwrap(), &["bind"]);
        let inside = t.sentinel();
        b.sh(&format!("ls {0}/dir {0}/file && ls -d {0}/sub", inside.display()));
        attempt(t, &b);
    });
}

#[test]
fn t27_dot_dot() {
    run_case(any(), |t| {
        let sentinel = t.sentinel();
        for place in
            [format!("/../../../../..{}/x", sentinel.display()), "/a/../../../..".to_owned() + "/tmp/y"]
        {
            let mut b = t.bundle();
            b.mount(&place, "tmpfs", "tmpfs", &[]);
            attempt(t, &b);
        }
        let mut b = t.bundle();
        relink(&b, "up", "../../../../../../../..");
        b.mount(&format!("/up{}/z", sentinel.display()), "tmpfs", "tmpfs", &[]);
        attempt(t, &b);
    });
}

#[test]
fn t28_loops() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        relink(&b, "self", "self");
        relink(&b, "ping", "pong");
        relink(&b, "pong", "ping");
        for i in 0..45 {
            relink(&b, &format!("l{i}"), format!("l{}", i + 1));
        }
        for place in ["/self", "/ping/x", "/l0/x"] {
            let mut one = b.clone();
            one.mount(place, "tmpfs", "tmpfs", &[]);
            let out = t.creation(&one, &[]).1.deadline(10).run();
            if t.kind == Kind::Oar {
                out.clean_error().says("too many levels of symbolic links");
            }
        }
        b.sh("exit 0");
        t.run(&b).ok();
    });
}

#[test]
fn t29_dangling() {
    run_case(any(), |t| {
        for place in ["/d", "/d/e"] {
            let mut b = t.bundle();
            relink(&b, "d", t.sentinel().join("no/where"));
            b.mount(place, "tmpfs", "tmpfs", &[]);
            attempt(t, &b);
        }
    });
}

#[test]
fn t30_file_bind_onto_a_link() {
    run_case(any(), |t| {
        let source = t.dir.join("resolv.conf");
        fs::write(&source, "nameserver 192.0.2.1\n").unwrap();
        let outside = t.sentinel();
        for target in ["new", "existing"] {
            let mut b = t.bundle();
            relink(&b, "etc/resolv.conf", format!("../../../../../../../..{}/{target}", outside.display()));
            b.mount("/etc/resolv.conf", "bind", source.to_str().unwrap(), &["bind"]);
            attempt(t, &b);
        }
    });
}

#[test]
fn t33_dev_is_a_link() {
    run_case(
        any()
            .differs("runc", "1.1.5 replaces ptmx and makes links outside")
            .differs("crun", "1.8.1 makes devices and links outside"),
        |t| {
            let sentinel = t.sentinel();
            let relative = format!("../../../../../../../..{}/dev", sentinel.display());
            for target in [sentinel.join("dev").to_str().unwrap(), &relative, "etc"] {
                for devices in [false, true] {
                    let mut b = t.bundle();
                    relink(&b, "dev", target);
                    for place in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
                        b.unmount(place);
                    }
                    if devices {
                        b.set(
                            "/linux/devices",
                            json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]),
                        );
                    }
                    attempt(t, &b);
                }
            }
        },
    );
}

#[test]
fn t34_links_in_dev() {
    run_case(any(), |t| {
        let sentinel = t.sentinel().join("dev");
        for name in ["console", "pts", "ptmx", "shm", "mqueue", "fd", "core", "null", "stdin", "tty"] {
            for terminal in [false, true] {
                let mut b = t.bundle();
                b.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
                fs::create_dir_all(b.rootfs().join("dev/pts")).unwrap();
                relink(&b, &format!("dev/{name}"), sentinel.join(name));
                b.set("/process/terminal", json!(terminal));
                if !terminal {
                    attempt(t, &b);
                    continue;
                }
                let socket = t.dir.join(format!("socket-{name}"));
                let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
                let (id, run) = t.creation(&b, &["--console-socket", socket.to_str().unwrap()]);
                run.run();
                t.rt(&["delete", "--force", &id]).run().ok();
                drop(listener);
            }
        }
    });
}

#[test]
fn t35_device_paths() {
    run_case(any(), |t| {
        let outside = t.sentinel();
        for path in [
            format!("/dev/../../../../../..{}/n", outside.display()),
            "/dev/x/../../y".to_owned(),
            "/dev/link/n".to_owned(),
            "relative".to_owned(),
            "/dev/".to_owned(),
            "/dev".to_owned(),
        ] {
            let mut b = t.bundle();
            b.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
            relink(&b, "dev/link", &outside);
            b.set("/linux/devices", json!([{"path": path, "type": "c", "major": 1, "minor": 3}]));
            attempt(t, &b);
        }
    });
}

#[test]
fn t38_read_only_is_read_only() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.unmount("/proc").set("/root/readonly", json!(true));
        fs::remove_dir_all(b.rootfs().join("proc")).unwrap();
        fs::create_dir_all(b.rootfs().join("proc/self/fd")).unwrap();
        for n in 0..12 {
            relink(&b, &format!("proc/self/fd/{n}"), "/tmp");
        }
        b.sh("echo x > /written; exit 0");
        attempt(t, &b);
        assert!(!b.rootfs().join("written").exists(), "the root was writable");
    });
}

#[test]
fn t41_cwd_creation() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        relink(&b, "out", t.sentinel());
        b.set("/process/cwd", json!("/out/made"));
        attempt(t, &b);
        let mut b = t.bundle();
        b.set("/process/cwd", json!("/etc/passwd"));
        refused_or_failed(t, &b);
        let mut b = t.bundle();
        fs::create_dir(b.rootfs().join("closed")).unwrap();
        fs::set_permissions(b.rootfs().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        chown(b.rootfs().join("closed"), Some(5), Some(5)).unwrap();
        b.set("/process/cwd", json!("/closed")).set("/process/user", json!({"uid": 1000, "gid": 1000}));
        b.remove("/process/capabilities").set("/process/capabilities", json!({}));
        attempt(t, &b);
    });
}

#[track_caller]
fn refused_or_failed(t: &Test, b: &Bundle) {
    let out = attempt(t, b);
    assert_ne!(out.code, 0, "{out}");
}

#[test]
fn t42_root_path() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 0");
        for path in ["/", "config.json", "no-such-dir", "../..", "/.."] {
            let mut bad = b.clone();
            bad.set("/root/path", json!(path));
            if path == "../.." || path == "/.." {
                attempt(t, &bad);
            } else {
                refused(t, &bad);
            }
        }
        b.set("/root/path", json!("rootfs///"));
        t.run(&b).ok();
    });
}

#[test]
fn t43_bind_sources() {
    run_case(any(), |t| {
        let dir = t.scratch("sources");
        fs::write(dir.join("file"), "x").unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        symlink(dir.join("file"), dir.join("link")).unwrap();
        for name in ["fifo", "socket", "link"] {
            let mut b = t.bundle();
            b.mount("/target", "bind", dir.join(name).to_str().unwrap(), &["bind"]).sh("test -e /target");
            t.run(&b).ok();
        }
        for (source, target) in [("missing", "/target"), ("file", "/etc"), (".", "/etc/passwd")] {
            let mut b = t.bundle();
            b.mount(target, "bind", dir.join(source).to_str().unwrap(), &["bind"]);
            refused(t, &b);
        }
    });
}

#[test]
fn t45_order_and_overlap() {
    run_case(any(), |t| {
        let source = t.scratch("source");
        let mut b = t.bundle();
        b.mount("/twice", "tmpfs", "tmpfs", &["size=1m"]).mount("/twice", "tmpfs", "tmpfs", &["size=2m"]);
        b.mount("/etc/below", "bind", source.to_str().unwrap(), &["bind"]);
        b.mount("/dev/pts/x", "tmpfs", "tmpfs", &[]);
        b.set("/linux/maskedPaths", json!(["/etc"]));
        attempt(t, &b);
        let mut b = t.bundle();
        b.mount("/", "tmpfs", "tmpfs", &[]);
        attempt(t, &b);
    });
}

#[test]
fn t46_null_is_a_link() {
    run_case(
        any().differs("runc", "CVE-2025-31133 is not fixed in 1.1.5").differs("crun", "nor in 1.8.1"),
        |t| {
            let mut b = t.bundle();
            b.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
            relink(&b, "dev/null", "/proc/sys/kernel/printk_ratelimit_burst");
            b.set("/linux/maskedPaths", json!(["/proc/version"]));
            b.sh("stat -c %t:%T /proc/version");
            let out = attempt(t, &b);
            assert!(out.code != 0 || out.stdout == "1:3\n", "{out}");
        },
    );
}

#[test]
fn t48_wrong_null() {
    run_case(any().differs("runc", "CVE-2025-31133").differs("crun", "as CVE-2025-31133"), |t| {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        for kind in ["file", "directory", "zero"] {
            let mut b = t.bundle();
            b.unmount("/dev").unmount("/dev/pts").unmount("/dev/shm").unmount("/dev/mqueue");
            let null = b.rootfs().join("dev/null");
            match kind {
                "file" => fs::write(&null, "").unwrap(),
                "directory" => fs::create_dir(&null).unwrap(),
                _ => mknod(&null, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).unwrap(),
            }
            b.set("/linux/maskedPaths", json!(["/proc/version"])).sh("stat -c %t:%T /proc/version");
            let out = attempt(t, &b);
            assert!(out.code != 0 || out.stdout == "1:3\n", "{kind}: {out}");
        }
    });
}

#[test]
fn t49_masked_through_a_link() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        relink(&b, "lnk", "/etc");
        relink(&b, "out", t.sentinel());
        b.set(
            "/linux/maskedPaths",
            json!(["/lnk", "/out/secret", "/lnk/../proc/version", "/not/there", "/etc/group"]),
        );
        attempt(t, &b);
    });
}

#[test]
fn t50_many_masks() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let mut list = Vec::new();
        for i in 0..300 {
            fs::create_dir_all(b.rootfs().join(format!("m/{i}"))).unwrap();
            list.push(format!("/m/{i}"));
        }
        b.set("/linux/maskedPaths", json!(list));
        b.sh("grep ' /m/' /proc/self/mountinfo | cut -d' ' -f3 | sort -u | wc -l; touch /m/7/x");
        let out = t.run(&b);
        assert!(out.stderr.contains("Read-only file system"), "{out}");
        if t.kind == Kind::Oar {
            assert_eq!(out.stdout, "1\n", "one superblock for all of them");
        }
    });
}

#[test]
fn t51_readonly_paths_hold() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        relink(&b, "lnk", "/etc");
        b.set("/linux/readonlyPaths", json!(["/lnk", "/bin/busybox", "/root"]));
        b.sh("touch /etc/x; touch /root/x; mount -o remount,rw /root; umount /root; exit 0");
        attempt(t, &b);
        assert!(!b.rootfs().join("etc/x").exists() && !b.rootfs().join("root/x").exists());
    });
}

#[test]
fn t54_owners_of_stdio() {
    run_case(any().differs("crun", "1.8.1 gives its stdio, /dev/null too, to the container's user"), |t| {
        let input = t.dir.join("input");
        fs::write(&input, "x").unwrap();
        let mut b = t.bundle();
        b.set("/process/user", json!({"uid": 1000, "gid": 1000})).sh("cat");
        let before = fs::metadata(&input).unwrap();
        let null = fs::metadata("/dev/null").unwrap();
        t.run_with(&b, &[]).stdin(&input).run().ok();
        t.run(&b).ok();
        if t.kind == Kind::Oar {
            let after = fs::metadata(&input).unwrap();
            assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
        }
        assert_eq!(null.uid(), fs::metadata("/dev/null").unwrap().uid());
    });
}

#[test]
fn t57_nul_in_strings() {
    run_case(oar_only("a NUL is an error that names the field"), |t| {
        for (place, pointer) in [
            ("process.args[0]", "/process/args/0"),
            ("process.env[0]", "/process/env/0"),
            ("process.cwd", "/process/cwd"),
            ("hostname", "/hostname"),
            ("mounts[0].destination", "/mounts/0/destination"),
            ("root.path", "/root/path"),
        ] {
            let mut b = t.bundle();
            b.set(pointer, json!("/a\u{0}b"));
            t.try_create(&b).clean_error().says(place);
        }
    });
}

#[test]
fn t59_capability_sets() {
    run_case(any(), |t| {
        let all = json!(["CAP_NET_RAW", "CAP_CHOWN"]);
        for uid in [0, 1000] {
            let mut b = t.bundle();
            b.set("/process/user", json!({"uid": uid, "gid": uid}));
            b.set("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}));
            b.sh("grep ^Cap /proc/self/status | tr -d '\\t'");
            let out = t.run(&b);
            out.ok();
            assert!(out.stdout.contains("CapInh:0000000000000000"), "{out}");
            assert!(out.stdout.contains("CapAmb:0000000000000000"), "{out}");
            assert!(out.stdout.contains("CapBnd:0000000000002001"), "{out}");
            let effective = if uid == 0 { "CapEff:0000000000002001" } else { "CapEff:0000000000000000" };
            assert!(out.stdout.contains(effective), "{out}");
        }
    });
}

#[test]
fn t61_ids_at_their_bounds() {
    run_case(any().differs("runc", "1.1.5 stops at 2147483647"), |t| {
        let mut b = t.bundle();
        b.set("/process/user", json!({"uid": 2_147_483_648_u32, "gid": 2_147_483_648_u32}));
        b.sh("grep -E '^[UG]id' /proc/self/status | tr '\\t' ' '");
        assert_eq!(t.run(&b).ok().matches("2147483648").count(), 8);
    });
}

#[test]
fn t64_groups_are_those_of_the_config() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("grep ^Groups /proc/self/status");
        let out = t.run_with(&b, &[]).wrap(&["setpriv", "--groups", "4,24,27"]).run();
        assert_eq!(out.ok().trim_end().trim_start_matches("Groups:").trim(), "");
    });
}

#[test]
fn t69_keyring_and_securebits() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("cat /proc/keys");
        let first = t.run(&b).ok().to_owned();
        assert!(!first.contains("harness-secret"), "{first}");
        assert!(first.contains("keyring"), "{first}");
    });
}

#[test]
fn t72_cgroups_path() {
    run_case(any(), |t| {
        let tag = &t.tag;
        for path in
            [format!("../../{tag}"), format!("/../../{tag}-a"), format!("a//{tag}"), format!("/./{tag}-b")]
        {
            let mut b = t.bundle();
            b.set("/linux/cgroupsPath", json!(path));
            attempt(t, &b);
        }
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{}", "x".repeat(4096))));
        refused(t, &b);
        // What engines leave above the container's own directory.
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            fs::remove_dir(entry.path().join("a")).ok();
        }
    });
}

#[test]
fn t74_foreign_cgroup() {
    run_case(oar_only("a cgroup that holds a foreign process is refused and left alone"), |t| {
        let name = format!("{}-foreign", t.tag);
        let place = Path::new("/sys/fs/cgroup/pids").join(&name);
        fs::create_dir(&place).unwrap();
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(place.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        let mut b = t.bundle();
        b.set("/linux/cgroupsPath", json!(format!("/{name}")));
        let (id, run) = t.creation(&b, &[]);
        let out = run.run();
        t.rt(&["delete", "--force", &id]).run();
        let alive = sleeper.try_wait().unwrap().is_none();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        fs::remove_dir(&place).ok();
        out.clean_error();
        assert!(alive, "the foreign process was killed");
    });
}

#[test]
fn t78_no_mount_namespace() {
    run_case(any().differs("runc", "1.1.5 goes on").differs("crun", "1.8.1 goes on"), |t| {
        let mut b = t.bundle();
        b.without_namespace("mount");
        refused(t, &b);
    });
}

#[test]
fn t82_namespace_paths() {
    run_case(any(), |t| {
        let file = t.dir.join("plain");
        fs::write(&file, "").unwrap();
        let paths = [file.to_str().unwrap(), t.dir.to_str().unwrap(), "/proc/999999999/ns/net", "ns/net"];
        for path in paths {
            let mut b = t.bundle();
            b.namespace("network", path);
            let (_, run) = t.creation(&b, &[]);
            let out = run.deadline(10).run();
            out.failed();
        }
        // A symbolic link of the host to a namespace is the engine's own business.
        symlink("/proc/self/ns/net", t.dir.join("link")).unwrap();
        let mut b = t.bundle();
        b.namespace("network", t.dir.join("link").to_str().unwrap()).unmount("/sys");
        attempt(t, &b);
    });
}

#[test]
fn t82_a_fifo_for_a_namespace_does_not_block() {
    run_case(
        any().differs("runc", "1.1.5 opens it and waits").differs("crun", "1.8.1 opens it and waits"),
        |t| {
            let fifo = t.dir.join("fifo");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let mut b = t.bundle();
            b.namespace("network", fifo.to_str().unwrap());
            t.creation(&b, &[]).1.deadline(10).run().clean_error();
        },
    );
}

#[test]
fn t83_root_of_a_user_namespace() {
    run_case(any(), |t| {
        let dir = t.scratch("private");
        fs::write(dir.join("secret"), "s3cr3t").unwrap();
        fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut b = t.bundle();
        b.user_namespace().mount("/private", "bind", dir.to_str().unwrap(), &["bind"]);
        b.sh("id -u; cat /private/secret; echo x > /private/secret; exit 0");
        let out = t.run(&b);
        assert_eq!(out.ok(), "0\n");
        assert_eq!(fs::read_to_string(dir.join("secret")).unwrap(), "s3cr3t");
    });
}

#[test]
fn t83_maps_that_make_no_sense() {
    run_case(any(), |t| {
        for map in [json!([]), json!([{"containerID": 0, "hostID": 100_000, "size": 0}])] {
            let mut b = t.bundle();
            b.user_namespace().set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
            let out = t.try_create(&b);
            assert_ne!(out.code, 0, "{out}");
        }
    });
}

#[test]
fn t84_breakout_by_chroot() {
    run_case(any(), |t| {
        let marker = t.sentinel().join("secret");
        let mut b = t.bundle();
        let script = format!(
            "mkdir -p /j; cd /; for p in ../../../../../.. /proc/1/root /proc/self/cwd/../../../..; do cat $p{0} && echo OUT; done; chroot /j true; ls /proc/1/root; exit 0",
            marker.display()
        );
        b.sh(&script);
        let out = t.run(&b);
        assert!(!out.stdout.contains("sentinel") && !out.stdout.contains("OUT"), "{out}");
    });
}

#[test]
fn t85_sysctl_keys() {
    run_case(any(), |t| {
        let canary = "printk_ratelimit_burst";
        for key in [
            format!("net.ipv4.../../../kernel/{canary}"),
            format!("net/../kernel/{canary}"),
            format!("net.ipv4/../../kernel.{canary}"),
            format!("kernel.{canary}"),
            "fs.mqueue.../../kernel/".to_owned() + canary,
            "kernel.hostname".to_owned(),
            String::new(),
        ] {
            let mut b = t.bundle();
            b.set("/linux/sysctl", json!({key.as_str(): "77"}));
            if t.kind == Kind::Crun && key == "kernel.hostname" {
                continue; // 1.8.1 sets it in the container's own namespace
            }
            refused(t, &b);
        }
        let mut b = t.bundle();
        b.without_namespace("network")
            .unmount("/sys")
            .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        refused(t, &b);
    });
}

#[test]
fn t86_annotations_are_inert() {
    run_case(oar_only("annotations never change behaviour"), |t| {
        let mut b = t.bundle();
        b.set(
            "/annotations",
            json!({
                "run.oci.keep_original_groups": "1", "run.oci.hooks.stdout": "/tmp/never", "run.oci.handler": "krun",
                "org.systemd.property.ExecStartPost": "'/bin/true'", "org.criu.config": "/etc/shadow",
                "run.oci.seccomp_bpf_data": "AAAA", "module.wasm.image/variant": "compat",
                "run.oci.mount_context_type": "rootcontext", "run.oci.systemd.force_cgroup_v1": "/sys"
            }),
        );
        b.sh("grep ^Groups /proc/self/status; exit 3");
        let out = t.run_with(&b, &[]).wrap(&["setpriv", "--groups", "4,24"]).run();
        out.expect_code(3);
        assert_eq!(out.stdout.trim(), "Groups:");
        assert!(!Path::new("/tmp/never").exists());
    });
}

#[test]
fn t87_environment_of_hooks() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let log = t.dir.join("log");
        let script =
            format!("cat >/dev/null; env | sort > {0}; ls /proc/self/fd | wc -l >> {0}", log.display());
        b.set("/process/env/-", json!("LD_PRELOAD=/evil.so"));
        b.set(
            "/hooks/createRuntime",
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", "A=b"]}]),
        );
        t.run_with(&b, &[]).env("SECRET", "xyzzy").run().ok();
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains("A=b") && !text.contains("LD_PRELOAD") && !text.contains("SECRET"), "{text}");
        if t.kind == Kind::Oar {
            assert_eq!(text.lines().last(), Some("4"), "0, 1, 2 and the directory: {text}");
        }
    });
}

#[test]
fn t88_hooks_that_misbehave() {
    run_case(
        any()
            .differs("runc", "1.1.5 kills the hook only, then waits for its child that holds stdout")
            .differs("crun", "1.8.1 dies of SIGPIPE when a hook does not read"),
        |t| {
            // 1 MiB of state on the hook's stdin; one value may have 64 KiB.
            let big: Value = (0..20).map(|i| (format!("big{i}"), json!("x".repeat(60 << 10)))).collect();
            let hooks = [
                ("exit 0", 30, true),
                ("head -c 10000000 /dev/zero", 30, true),
                ("trap '' TERM; sleep 1000", 1, false),
                ("echo first line >&2; echo second >&2; exit 4", 30, false),
            ];
            for (script, timeout, succeeds) in hooks {
                let mut b = t.bundle();
                b.set("/annotations", big.clone());
                b.set(
                    "/hooks/createRuntime",
                    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": timeout,
                        "env": ["PATH=/bin:/usr/bin", format!("RT_TAG={}", t.tag)]}]),
                );
                let out = t.creation(&b, &[]).1.deadline(20).run();
                if t.kind == Kind::Oar {
                    assert_eq!(out.code == 0, succeeds, "{script}: {out}");
                    if !succeeds {
                        out.clean_error();
                    }
                    if script.starts_with("echo first") {
                        out.says("first line");
                    }
                }
            }
        },
    );
}

#[test]
fn t89_poststop_runs_after_a_failed_start() {
    run_case(oar_only("a container that was created has its poststop hooks run by delete"), |t| {
        let mut b = t.bundle();
        let log = t.dir.join("log");
        let say = format!("cat >/dev/null; echo poststop >> {}", log.display());
        b.set("/hooks/startContainer", json!([{"path": "/bin/false"}]));
        b.set(
            "/hooks/poststop",
            json!([{"path": "/bin/sh", "args": ["sh", "-c", say], "env": ["PATH=/bin:/usr/bin"]}]),
        );
        let c = t.create(&b);
        c.verb(&["start"]).clean_error();
        c.verb(&["delete", "--force"]).ok();
        assert_eq!(fs::read_to_string(&log).unwrap(), "poststop\n");
    });
}

const BAD_IDS: [&str; 9] = ["", ".", "..", "a/b", "/", "a\n", "é", "a b", "*"];

#[test]
fn t90_ids() {
    run_case(any().differs("crun", "1.8.1 forbids the slash only"), |t| {
        let b = t.bundle();
        t.write(&b, "x");
        fs::write(t.state_root().join("neighbour"), "").unwrap();
        let long = "a".repeat(1025);
        let dir = b.dir.to_str().unwrap();
        for id in BAD_IDS.into_iter().chain([long.as_str(), "%s", "-f"]) {
            for verb in [&["create", "--bundle", dir, id][..], &["run", "--bundle", dir, id]] {
                let out = t.rt(verb).run();
                assert_ne!(out.code, 0, "{out}");
            }
            for verb in ["state", "start", "kill", "delete"] {
                let out = t.rt(&[verb, id]).run();
                assert_ne!(out.code, 0, "{out}");
            }
        }
        assert_eq!(fs::read_dir(t.state_root()).unwrap().count(), 1);
        fs::remove_file(t.state_root().join("neighbour")).unwrap();
    });
}

#[test]
fn t91_state_root() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 0");
        t.write(&b, "x");
        let dir = b.dir.to_str().unwrap();
        let file = t.dir.join("file");
        fs::write(&file, "").unwrap();
        let root = t.dir.join("deep/er/root");
        let id = t.tag.as_str();
        t.bare(&["--root", file.to_str().unwrap(), "run", "--bundle", dir, id]).run().failed();
        let made = t.bare(&["--root", root.to_str().unwrap(), "create", "--bundle", dir, id]).run();
        if made.code == 0 {
            let mode = fs::metadata(&root).unwrap().mode() & 0o077;
            for entry in fs::read_dir(root.join(id)).unwrap().flatten() {
                let m = entry.metadata().unwrap();
                if m.is_file() && t.kind == Kind::Oar {
                    assert_eq!(m.mode() & 0o077, 0, "{entry:?}");
                }
            }
            t.bare(&["--root", root.to_str().unwrap(), "delete", "--force", id]).run().ok();
            assert_eq!(mode, 0);
        }
    });
}

#[test]
fn t92_forged_state_never_reaches_an_innocent_process() {
    run_case(oar_only("the record's form is oar's own"), |t| {
        let mut b = t.bundle();
        b.sh("sleep 1000");
        let c = t.create(&b);
        c.start();
        let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        // Every number that is the container's pid becomes the innocent's; start time and boot id stay.
        for entry in fs::read_dir(t.state_root().join(&c.id)).unwrap().flatten() {
            if entry.metadata().unwrap().is_file() {
                let Ok(text) = fs::read_to_string(entry.path()) else { continue };
                let forged = text.replace(&c.pid.to_string(), &innocent.id().to_string());
                if forged != text {
                    fs::write(entry.path(), forged).unwrap();
                }
            }
        }
        t.rt(&["kill", &c.id, "KILL"]).run();
        t.rt(&["delete", "--force", &c.id]).run();
        let alive = innocent.try_wait().unwrap().is_none();
        innocent.kill().unwrap();
        innocent.wait().unwrap();
        assert!(alive, "the innocent process was killed");
    });
}

#[test]
fn t93_start_uses_the_snapshot() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("echo first");
        let c = t.create(&b);
        b.sh("echo second");
        t.write(&b, &c.id);
        c.start();
        assert_eq!(c.wait(), 0);
        assert_eq!(c.output(), "first\n");
    });
}

#[test]
fn t94_kinds_of_config() {
    run_case(
        any().differs("runc", "1.1.5 blocks on a FIFO").differs("crun", "1.8.1 blocks on a FIFO"),
        |t| {
            let b = t.bundle();
            let config = b.dir.join("config.json");
            let create = || {
                let out = t.rt(&["create", "--bundle", b.dir.to_str().unwrap(), &t.id()]).deadline(10).run();
                out.failed();
                if t.kind == Kind::Oar {
                    out.clean_error().says("config.json");
                }
            };
            nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
            create();
            fs::remove_file(&config).unwrap();
            fs::create_dir(&config).unwrap();
            create();
            fs::remove_dir(&config).unwrap();
            symlink("/dev/zero", &config).unwrap();
            create();
            fs::remove_file(&config).unwrap();
            fs::File::create(&config).unwrap().set_len(2 << 30).unwrap();
            create();
        },
    );
}

#[test]
fn t96_pid_file_and_console_socket() {
    run_case(any().differs("crun", "1.8.1 creates the container before it looks"), |t| {
        let b = t.bundle();
        for flag in ["/no/such/dir/pid", "/proc/pid"] {
            let (_, run) = t.creation(&b, &["--pid-file", flag]);
            run.run().failed();
        }
        let mut b = t.bundle();
        b.set("/process/terminal", json!(true));
        let long = t.dir.join("x".repeat(120));
        let plain = t.dir.join("plain");
        fs::write(&plain, "").unwrap();
        for socket in [long.as_path(), plain.as_path(), Path::new("/no/such/socket")] {
            let (_, run) = t.creation(&b, &["--console-socket", socket.to_str().unwrap()]);
            run.run().failed();
        }
        // A peer that accepts nothing and reads nothing does not stop create.
        let _listener = std::os::unix::net::UnixListener::bind(t.dir.join("silent")).unwrap();
        let _c: Container<'_> =
            t.create_with(&b, &["--console-socket", t.dir.join("silent").to_str().unwrap()]);
    });
}

#[test]
fn t37_a_prepared_read_only_root_is_enough() {
    run_case(any(), |t| {
        use nix::mount::{MsFlags, mount, umount};
        let mut b = t.bundle();
        let root = b.rootfs();
        mount(Some(&root), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &root, None::<&str>, flags, None::<&str>).unwrap();
        b.sh("echo fine");
        let out = t.run(&b);
        umount(&root).unwrap();
        assert_eq!(out.ok(), "fine\n");
    });
}
