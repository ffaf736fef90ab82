// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns mounts, masked and read-only paths and propagation, as the container's own mountinfo shows them.
//! Never mounts on the host outside of the case's private mount namespace.
//! Expectations come from config.md (Mounts), config-linux.md (rootfs, masked, read-only paths) and mount(8).

use nix::mount::{MsFlags, mount};
use runtime_tests::{Bundle, Kind, Test, any, json, oar_only, run_case};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

/// mountinfo of one mount point: per-mount options, propagation fields, type, source, superblock options.
struct Seen {
    options: Vec<String>,
    propagation: Vec<String>,
    kind: String,
    superblock: Vec<String>,
}

fn seen(text: &str, point: &str) -> Seen {
    let line = text.lines().rfind(|l| l.split(' ').nth(4) == Some(point));
    let line = line.unwrap_or_else(|| panic!("{point} is not mounted:\n{text}"));
    let (left, right) = line.split_once(" - ").unwrap();
    let left: Vec<_> = left.split(' ').collect();
    let right: Vec<_> = right.split(' ').collect();
    let list = |s: &str| s.split(',').map(str::to_owned).collect();
    Seen {
        options: list(left[5]),
        propagation: left[6..].iter().map(|s| (*s).to_owned()).collect(),
        kind: right[0].to_owned(),
        superblock: list(right[2]),
    }
}

impl Seen {
    #[track_caller]
    fn has(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.options.iter().any(|o| o == word), "{:?} lacks {word}", self.options);
        }
        self
    }

    #[track_caller]
    fn lacks(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(!self.options.iter().any(|o| o == word), "{:?} has {word}", self.options);
        }
        self
    }
}

fn mountinfo(t: &Test, b: &mut Bundle) -> String {
    b.sh("cat /proc/self/mountinfo");
    t.run(b).ok().to_owned()
}

fn source(t: &Test, name: &str) -> PathBuf {
    let dir = t.scratch(name);
    fs::write(dir.join("file"), "content\n").unwrap();
    dir
}

fn tmpfs(at: &Path) {
    fs::create_dir_all(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

#[test]
fn the_usual_file_systems() {
    run_case(any(), |t| {
        let text = mountinfo(t, &mut t.bundle());
        for (point, kind) in
            [("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/dev/mqueue", "mqueue")]
        {
            assert_eq!(seen(&text, point).kind, kind);
        }
        seen(&text, "/sys").has(&["ro", "nosuid", "nodev", "noexec"]);
        seen(&text, "/dev").has(&["nosuid"]).lacks(&["noexec", "nodev"]);
        assert!(seen(&text, "/dev").superblock.iter().any(|o| o == "mode=755" || o == "size=65536k"));
        let pts = seen(&text, "/dev/pts");
        assert!(
            pts.superblock.iter().any(|o| o == "ptmxmode=666") && pts.superblock.iter().any(|o| o == "gid=5")
        );
    });
}

#[test]
fn options_of_the_vfs() {
    run_case(any().differs("crun", "1.8.1 does not let a later option undo an earlier one"), |t| {
        let mut b = t.bundle();
        for (point, options) in [
            ("/m/plain", &[][..]),
            ("/m/all", &["ro", "nosuid", "nodev", "noexec", "noatime"]),
            ("/m/undone", &["nosuid", "suid", "nodev", "dev", "noexec", "exec", "ro", "rw"]),
            ("/m/strict", &["strictatime"]),
            ("/m/nodiratime", &["nodiratime"]),
        ] {
            b.mount(point, "tmpfs", "tmpfs", options);
        }
        let text = mountinfo(t, &mut b);
        seen(&text, "/m/plain").has(&["rw", "relatime"]).lacks(&["nosuid", "nodev", "noexec"]);
        seen(&text, "/m/all").has(&["ro", "nosuid", "nodev", "noexec", "noatime"]);
        seen(&text, "/m/undone").has(&["rw"]).lacks(&["nosuid", "nodev", "noexec", "ro"]);
        seen(&text, "/m/strict").lacks(&["relatime", "noatime"]);
        seen(&text, "/m/nodiratime").has(&["nodiratime"]);
    });
}

#[test]
fn nosymfollow() {
    let old = "this version is older than nosymfollow";
    run_case(any().differs("runc", old).differs("crun", old), |t| {
        let mut b = t.bundle();
        b.mount("/m", "tmpfs", "tmpfs", &["nosymfollow"]);
        seen(&mountinfo(t, &mut b), "/m").has(&["nosymfollow"]);
    });
}

#[test]
fn options_of_the_file_system() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.mount("/m", "tmpfs", "tmpfs", &["size=4096k", "mode=1711", "nr_inodes=100"]);
        b.sh("cat /proc/self/mountinfo; stat -c %a /m > /m/x; cat /m/x");
        let out = t.run(&b);
        let m = seen(out.ok(), "/m");
        assert!(m.superblock.contains(&"size=4096k".to_owned()), "{:?}", m.superblock);
        assert!(m.superblock.contains(&"nr_inodes=100".to_owned()), "{:?}", m.superblock);
        assert_eq!(out.stdout.lines().last(), Some("1711"));
    });
}

#[test]
fn sync_and_dirsync() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.mount("/m", "tmpfs", "tmpfs", &["sync", "dirsync"]);
        let m = seen(&mountinfo(t, &mut b), "/m");
        assert!(m.superblock.contains(&"sync".to_owned()), "{:?}", m.superblock);
    });
}

#[test]
fn tmpfs_takes_the_mode_of_what_it_covers() {
    run_case(any().differs("crun", "1.8.1 does so for tmpcopyup only"), |t| {
        let mut b = t.bundle();
        fs::create_dir(b.rootfs().join("m")).unwrap();
        fs::set_permissions(b.rootfs().join("m"), std::os::unix::fs::PermissionsExt::from_mode(0o1770))
            .unwrap();
        b.mount("/m", "tmpfs", "tmpfs", &[]);
        b.sh("stat -c %a /m");
        assert_eq!(t.run(&b).ok(), "1770\n");
    });
}

#[test]
fn bind_read_only_top_only() {
    run_case(any(), |t| {
        let dir = source(t, "source");
        tmpfs(&dir.join("sub"));
        let mut b = t.bundle();
        b.mount("/ro", "bind", dir.to_str().unwrap(), &["rbind", "ro", "nosuid", "nodev", "noexec"]);
        b.mount("/rw", "none", dir.to_str().unwrap(), &["bind"]);
        b.sh("cat /proc/self/mountinfo; cat /ro/file; echo new > /rw/new; echo sub > /ro/sub/f; echo x > /ro/x; ls /rw/sub; exit 0");
        let out = t.run(&b);
        let text = out.ok();
        seen(text, "/ro").has(&["ro", "nosuid", "nodev", "noexec"]);
        seen(text, "/ro/sub").has(&["rw"]).lacks(&["nosuid"]);
        seen(text, "/rw").has(&["rw"]);
        assert!(!text.lines().any(|l| l.split(' ').nth(4) == Some("/rw/sub")), "bind is not recursive");
        assert!(text.contains("content") && out.stderr.contains("Read-only file system"), "{out}");
        assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "new\n");
        assert!(!dir.join("x").exists());
        nix::mount::umount(&dir.join("sub")).unwrap();
    });
}

#[test]
fn recursive_attributes() {
    run_case(
        any().differs("crun", "1.8.1 applies the recursive ones to the top mount first and fails here"),
        |t| {
            let dir = source(t, "source");
            tmpfs(&dir.join("sub"));
            tmpfs(&dir.join("sub/deep"));
            let mut b = t.bundle();
            b.mount(
                "/r",
                "bind",
                dir.to_str().unwrap(),
                &["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"],
            );
            let text = mountinfo(t, &mut b);
            for point in ["/r", "/r/sub", "/r/sub/deep"] {
                seen(&text, point).has(&["ro", "nosuid", "nodev", "noexec", "noatime"]);
            }
            nix::mount::umount(&dir.join("sub/deep")).unwrap();
            nix::mount::umount(&dir.join("sub")).unwrap();
        },
    );
}

#[test]
fn bind_keeps_what_the_source_has() {
    run_case(any().differs("crun", "1.8.1 clears the flags of the source"), |t| {
        let dir = t.scratch("flagged");
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None::<&str>)
            .unwrap();
        let mut b = t.bundle();
        b.mount("/b", "bind", dir.to_str().unwrap(), &["bind"]);
        b.mount("/c", "bind", dir.to_str().unwrap(), &["bind", "noexec"]);
        let text = mountinfo(t, &mut b);
        seen(&text, "/b").has(&["nosuid", "nodev", "rw"]);
        seen(&text, "/c").has(&["noexec"]);
        nix::mount::umount(&dir).unwrap();
    });
}

#[test]
fn bind_of_a_file_makes_its_mount_point() {
    run_case(any(), |t| {
        let dir = source(t, "source");
        let mut b = t.bundle();
        b.mount("/new/dir/file", "bind", dir.join("file").to_str().unwrap(), &["bind", "ro"]);
        b.sh("cat /new/dir/file; [ -f /new/dir/file ] && echo file");
        assert_eq!(t.run(&b).ok(), "content\nfile\n");
        assert!(b.rootfs().join("new/dir/file").is_file());
    });
}

#[test]
fn relative_source_is_below_the_bundle() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        fs::create_dir(b.dir.join("data")).unwrap();
        fs::write(b.dir.join("data/file"), "from the bundle\n").unwrap();
        b.mount("/data", "bind", "data", &["bind"]).sh("cat /data/file");
        assert_eq!(t.run(&b).ok(), "from the bundle\n");
    });
}

#[test]
fn propagation_of_each_mount() {
    run_case(any().differs("crun", "1.8.1 applies propagation to bind mounts only"), |t| {
        let mut b = t.bundle();
        for word in
            ["shared", "slave", "private", "unbindable", "rshared", "rprivate", "rslave", "runbindable"]
        {
            b.mount(&format!("/p/{word}"), "tmpfs", "tmpfs", &[word]);
        }
        let text = mountinfo(t, &mut b);
        let fields = |word: &str| seen(&text, &format!("/p/{word}")).propagation;
        for word in ["shared", "rshared"] {
            assert!(fields(word).iter().any(|f| f.starts_with("shared:")), "{word}: {:?}", fields(word));
        }
        for word in ["private", "rprivate"] {
            assert!(fields(word).is_empty(), "{word}: {:?}", fields(word));
        }
        for word in ["unbindable", "runbindable"] {
            assert_eq!(fields(word), ["unbindable"]);
        }
    });
}

#[test]
fn a_slave_bind_sees_what_the_host_mounts_later() {
    run_case(any(), |t| {
        let dir = t.scratch("volume");
        mount(Some(&dir), &dir, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        fs::create_dir(dir.join("late")).unwrap();
        let mut b = t.bundle();
        b.set("/linux/rootfsPropagation", json!("rslave"));
        b.mount("/slave", "bind", dir.to_str().unwrap(), &["rbind", "rslave"]);
        b.mount("/shared", "bind", dir.to_str().unwrap(), &["rbind", "rshared"]);
        b.mount("/private", "bind", dir.to_str().unwrap(), &["rbind", "rprivate"]);
        b.sh("sleep 1000");
        let c = t.create(&b);
        c.start();
        tmpfs(&dir.join("late"));
        let text = fs::read_to_string(c.proc("mountinfo")).unwrap();
        let there = |point: &str| text.lines().any(|l| l.split(' ').nth(4) == Some(point));
        let found = (there("/slave/late"), there("/shared/late"), there("/private/late"));
        drop(c);
        nix::mount::umount(&dir.join("late")).unwrap();
        nix::mount::umount(&dir).unwrap();
        assert_eq!(found, (true, true, false), "{text}");
    });
}

#[test]
fn rootfs_propagation() {
    run_case(any().differs("runc", "shared has worked since 1.3.1 only"), |t| {
        for (word, field) in
            [("private", ""), ("slave", ""), ("shared", "shared:"), ("unbindable", "unbindable")]
        {
            let mut b = t.bundle();
            b.set("/linux/rootfsPropagation", json!(word));
            let root = seen(&mountinfo(t, &mut b), "/").propagation;
            match field {
                "" => assert!(!root.iter().any(|f| f.starts_with("shared:")), "{word}: {root:?}"),
                _ => assert!(root.iter().any(|f| f.starts_with(field)), "{word}: {root:?}"),
            }
        }
    });
}

#[test]
fn rootfs_propagation_leaves_mounts_their_own_words() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/linux/rootfsPropagation", json!("rshared"));
        let dir = source(t, "source");
        b.mount("/p", "bind", dir.to_str().unwrap(), &["rbind", "rprivate"]);
        let propagation = seen(&mountinfo(t, &mut b), "/p").propagation;
        assert!(!propagation.iter().any(|f| f.starts_with("shared:")), "{propagation:?}");
    });
}

#[test]
fn nothing_of_the_host_is_mounted_inside() {
    run_case(any(), |t| {
        let text = mountinfo(t, &mut t.bundle());
        // Exactly the root, the six mounts of the config, and what is bound onto the default devices.
        let extra: Vec<_> = text
            .lines()
            .map(|l| l.split(' ').nth(4).unwrap())
            .filter(|p| !["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"].contains(p))
            .collect();
        assert!(extra.is_empty(), "{extra:?}");
    });
}

#[test]
fn tmpcopyup() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let dir = b.rootfs().join("data");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "copied\n").unwrap();
        std::os::unix::fs::symlink("sub/file", dir.join("link")).unwrap();
        chown(dir.join("sub/file"), Some(7), Some(8)).unwrap();
        b.mount("/data", "tmpfs", "tmpfs", &["tmpcopyup"]);
        b.sh("cat /data/link; stat -c %u:%g /data/sub/file; echo new > /data/sub/file; stat -f -c %T /data");
        assert_eq!(t.run(&b).ok(), "copied\n7:8\ntmpfs\n");
        assert_eq!(fs::read_to_string(dir.join("sub/file")).unwrap(), "copied\n");
    });
}

#[test]
fn idmapped_bind_shows_shifted_owners() {
    let old = "this version has no id-mapped mounts of this form";
    run_case(any().differs("runc", old).differs("crun", old), |t| {
        let dir = source(t, "source");
        chown(dir.join("file"), Some(1000), Some(1000)).unwrap();
        let map = json!([{"containerID": 1000, "hostID": 2000, "size": 1}]);
        let mut b = t.bundle();
        b.set(
            "/mounts/-",
            json!({"destination": "/b", "type": "bind", "source": dir, "options": ["bind"],
                   "uidMappings": map, "gidMappings": map}),
        );
        b.sh("stat -c %u:%g /b/file");
        assert_eq!(t.run(&b).ok(), "2000:2000\n");
    });
}

#[test]
fn idmap_by_the_containers_own_mappings() {
    run_case(any().differs("runc", "1.1.5 has no id-mapped mounts"), |t| {
        let dir = source(t, "source");
        let mut b = t.bundle();
        b.user_namespace();
        b.mount("/b", "bind", dir.to_str().unwrap(), &["bind", "idmap"]);
        b.mount("/plain", "bind", dir.to_str().unwrap(), &["bind"]);
        b.sh("stat -c %u:%g /b/file /plain/file; echo new > /b/new");
        assert_eq!(t.run(&b).ok(), "0:0\n65534:65534\n");
        assert_eq!(fs::metadata(dir.join("new")).unwrap().uid(), 0);
    });
}

#[test]
fn ridmap_reaches_submounts() {
    run_case(oar_only("ridmap with the container's own mappings"), |t| {
        let dir = source(t, "source");
        tmpfs(&dir.join("sub"));
        fs::write(dir.join("sub/file"), "").unwrap();
        let mut b = t.bundle();
        b.user_namespace();
        b.mount("/r", "bind", dir.to_str().unwrap(), &["rbind", "ridmap"]);
        b.mount("/i", "bind", dir.to_str().unwrap(), &["rbind", "idmap"]);
        b.sh("stat -c %u /r/file /r/sub/file /i/file /i/sub/file");
        let out = t.run(&b);
        nix::mount::umount(&dir.join("sub")).unwrap();
        assert_eq!(out.ok(), "0\n0\n0\n65534\n");
    });
}

#[test]
fn idmap_on_a_new_file_system() {
    run_case(oar_only("id-mapped mounts of any file system that allows it"), |t| {
        let map = json!([{"containerID": 0, "hostID": 3000, "size": 1}]);
        let mut b = t.bundle();
        b.set(
            "/mounts/-",
            json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"],
                   "uidMappings": map, "gidMappings": map}),
        );
        b.sh("stat -c %u /m");
        assert_eq!(t.run(&b).ok(), "3000\n");
    });
}

#[test]
fn remount() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.mount("/m", "tmpfs", "tmpfs", &[]);
        b.mount("/m", "tmpfs", "tmpfs", &["remount", "ro", "nosuid"]);
        seen(&mountinfo(t, &mut b), "/m").has(&["ro", "nosuid"]);
    });
}

#[test]
fn later_mounts_lie_on_earlier_ones() {
    run_case(any(), |t| {
        let dir = source(t, "source");
        let mut b = t.bundle();
        b.mount("/a/b", "bind", dir.to_str().unwrap(), &["bind"]);
        b.mount("/a", "tmpfs", "tmpfs", &[]);
        b.mount("/a/c", "bind", dir.to_str().unwrap(), &["bind"]);
        b.sh("ls -A /a; cat /a/c/file");
        assert_eq!(t.run(&b).ok(), "c\ncontent\n");
    });
}

#[test]
fn masked_paths() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        fs::create_dir(b.rootfs().join("secret")).unwrap();
        fs::write(b.rootfs().join("secret/in"), "hidden").unwrap();
        fs::write(b.rootfs().join("secret-file"), "hidden").unwrap();
        b.set("/linux/maskedPaths", json!(["/secret", "/secret-file", "/proc/version", "/not/there"]));
        b.sh("ls -A /secret; cat /secret-file; echo x > /secret/new; stat -c %t:%T /proc/version /secret-file; exit 0");
        let out = t.run(&b);
        assert_eq!(out.ok(), "1:3\n1:3\n");
        assert!(out.stderr.contains("Read-only file system"), "{out}");
        assert!(!b.rootfs().join("not").exists());
    });
}

#[test]
fn readonly_paths() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        fs::create_dir(b.rootfs().join("data")).unwrap();
        b.set("/linux/readonlyPaths", json!(["/data", "/proc/sys", "/etc/passwd", "/not/there"]));
        b.sh("cat /proc/self/mountinfo; echo x > /data/x; echo x >> /etc/passwd; echo 1 > /proc/sys/kernel/shmmax; exit 0");
        let out = t.run(&b);
        for point in ["/data", "/proc/sys", "/etc/passwd"] {
            seen(out.ok(), point).has(&["ro"]);
        }
        assert_eq!(out.stderr.matches("Read-only file system").count(), 3, "{out}");
        seen(&out.stdout, "/proc/sys").has(&["relatime"]);
    });
}

#[test]
fn root_readonly() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.set("/root/readonly", json!(true));
        b.mount("/made", "tmpfs", "tmpfs", &[]); // its mount point is made before the root is sealed
        b.sh("cat /proc/self/mountinfo; echo x > /x; echo x > /made/x && cat /made/x");
        let out = t.run(&b);
        seen(out.ok(), "/").has(&["ro"]);
        assert!(out.stderr.contains("Read-only file system"), "{out}");
        assert_eq!(out.stdout.lines().last(), Some("x"));
    });
}

#[test]
fn a_root_on_a_read_only_file_system() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        let root = b.rootfs();
        mount(Some(&root), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &root, None::<&str>, flags, None::<&str>).unwrap();
        b.sh("exit 5");
        let out = t.run(&b);
        nix::mount::umount(&root).unwrap();
        out.expect_code(5);
    });
}

#[test]
fn root_path_absolute_relative_and_linked() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 5");
        b.set("/root/path", json!(b.rootfs()));
        t.run(&b).expect_code(5);
        b.set("/root/path", json!("./rootfs/"));
        t.run(&b).expect_code(5);
        let link = t.dir.join("link-to-bundle");
        std::os::unix::fs::symlink(&b.dir, &link).unwrap();
        let mut linked = b.clone();
        linked.dir = link;
        t.run(&linked).expect_code(5);
    });
}

#[test]
fn a_cgroup_mount_shows_the_containers_own() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.namespace("cgroup", "");
        b.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
        // One directory for each hierarchy on v1, the container's own on v2.
        b.sh("cd /sys/fs/cgroup; ls; if [ -d pids ]; then cd pids; fi; grep -c 1 cgroup.procs; echo 1 > cgroup.procs");
        let out = t.run_with(&b, &[]).run();
        assert!(out.stdout.contains("memory") && out.stderr.contains("Read-only"), "{out}");
    });
}

#[test]
fn mount_points_are_all_that_is_made_in_the_root() {
    run_case(any(), |t| {
        fn tree(dir: &Path, list: &mut Vec<String>) {
            for e in fs::read_dir(dir).unwrap().flatten() {
                list.push(e.path().display().to_string());
                if e.file_type().unwrap().is_dir() {
                    tree(&e.path(), list);
                }
            }
        }
        let b = t.bundle();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        tree(&b.rootfs(), &mut before);
        t.run(&b).ok();
        tree(&b.rootfs(), &mut after);
        after.retain(|p| !before.contains(p));
        assert!(after.is_empty(), "{after:?}");
        assert_ne!(t.kind, Kind::Other);
    });
}

/// Each word of the table in config.md that a mount of its own can show: what it adds, what it takes away.
const WORDS: [(&[&str], &[&str], &[&str]); 44] = [
    (&["defaults"], &["rw", "relatime"], &["nosuid", "nodev", "noexec"]),
    (&["ro"], &["ro"], &["rw"]),
    (&["ro", "rw"], &["rw"], &["ro"]),
    (&["rro"], &["ro"], &["rw"]),
    (&["rro", "rrw"], &["rw"], &["ro"]),
    (&["nosuid"], &["nosuid"], &[]),
    (&["nosuid", "suid"], &[], &["nosuid"]),
    (&["rnosuid"], &["nosuid"], &[]),
    (&["rnosuid", "rsuid"], &[], &["nosuid"]),
    (&["nodev"], &["nodev"], &[]),
    (&["nodev", "dev"], &[], &["nodev"]),
    (&["rnodev"], &["nodev"], &[]),
    (&["rnodev", "rdev"], &[], &["nodev"]),
    (&["noexec"], &["noexec"], &[]),
    (&["noexec", "exec"], &[], &["noexec"]),
    (&["rnoexec"], &["noexec"], &[]),
    (&["rnoexec", "rexec"], &[], &["noexec"]),
    (&["nodiratime"], &["nodiratime"], &[]),
    (&["nodiratime", "diratime"], &[], &["nodiratime"]),
    (&["rnodiratime"], &["nodiratime"], &[]),
    (&["rnodiratime", "rdiratime"], &[], &["nodiratime"]),
    (&["noatime"], &["noatime"], &["relatime"]),
    (&["noatime", "atime"], &["relatime"], &["noatime"]),
    (&["rnoatime"], &["noatime"], &["relatime"]),
    (&["rnoatime", "ratime"], &["relatime"], &["noatime"]),
    (&["relatime"], &["relatime"], &["noatime"]),
    (&["norelatime"], &[], &["noatime"]),
    (&["rrelatime"], &["relatime"], &["noatime"]),
    (&["rnorelatime"], &[], &["noatime"]),
    (&["strictatime"], &[], &["relatime", "noatime"]),
    (&["strictatime", "nostrictatime"], &["relatime"], &[]),
    (&["rstrictatime"], &[], &["relatime", "noatime"]),
    (&["rstrictatime", "rnostrictatime"], &["relatime"], &[]),
    (&["nosymfollow"], &["nosymfollow"], &[]),
    (&["nosymfollow", "symfollow"], &[], &["nosymfollow"]),
    (&["rnosymfollow"], &["nosymfollow"], &[]),
    (&["rnosymfollow", "rsymfollow"], &[], &["nosymfollow"]),
    (&["sync"], &["sync"], &[]),
    (&["sync", "async"], &[], &["sync"]),
    (&["dirsync"], &["dirsync"], &[]),
    (&["lazytime"], &["lazytime"], &[]),
    (&["lazytime", "nolazytime"], &[], &["lazytime"]),
    // Nothing of these can be seen from inside: they are accepted.
    (&["iversion", "noiversion", "silent", "loud"], &["rw"], &[]),
    (&["mand", "nomand"], &["rw"], &[]),
];

#[test]
fn every_word_of_the_table() {
    let old = "this version knows fewer words";
    run_case(any().differs("runc", old).differs("crun", old), |t| {
        let mut b = t.bundle();
        for (i, (words, _, _)) in WORDS.iter().enumerate() {
            b.mount(&format!("/w/{i}"), "tmpfs", "tmpfs", words);
        }
        let text = mountinfo(t, &mut b);
        for (i, (words, has, lacks)) in WORDS.iter().enumerate() {
            let m = seen(&text, &format!("/w/{i}"));
            let all = [m.options, m.superblock].concat();
            for word in *has {
                assert!(all.iter().any(|o| o == word), "{words:?}: {all:?} lacks {word}");
            }
            // The superblock always says rw; what is read-only is the mount.
            for word in lacks.iter().filter(|w| **w != "rw") {
                assert!(!all.iter().any(|o| o == word), "{words:?}: {all:?} has {word}");
            }
        }
    });
}

#[test]
fn recursive_attributes_are_taken_away_below() {
    let old = "this version adds recursive attributes, but does not take them away in one go";
    run_case(any().differs("crun", old).differs("runc", old), |t| {
        let dir = source(t, "source");
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let flags = flags | MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME;
        mount(Some("tmpfs"), &sub, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mount(None::<&str>, &sub, None::<&str>, flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND, None::<&str>)
            .unwrap();
        let mut b = t.bundle();
        let words = ["rbind", "rrw", "rsuid", "rdev", "rexec", "rrelatime", "rdiratime", "rsymfollow"];
        b.mount("/r", "bind", dir.to_str().unwrap(), &words);
        b.mount("/kept", "bind", dir.to_str().unwrap(), &["rbind"]);
        let text = mountinfo(t, &mut b);
        nix::mount::umount(&sub).unwrap();
        let all = ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"];
        seen(&text, "/kept/sub").has(&all);
        seen(&text, "/r/sub").has(&["rw", "relatime"]).lacks(&all);
    });
}

/// The bundle's root as a mount that the host shares.
fn share(dir: &Path) {
    mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(None::<&str>, dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
}

#[test]
fn rootfs_propagation_from_a_shared_host_mount() {
    let own = "1.8.1 makes the root private first";
    run_case(any().differs("runc", "shared has worked since 1.3.1 only").differs("crun", own), |t| {
        for (word, master, shared) in [
            ("slave", true, false),
            ("rslave", true, false),
            ("private", false, false),
            ("rprivate", false, false),
            ("shared", true, true),
            ("rshared", true, true),
        ] {
            let mut b = t.bundle();
            share(&b.rootfs());
            b.set("/linux/rootfsPropagation", json!(word)).sh("cat /proc/self/mountinfo");
            let out = t.run(&b);
            nix::mount::umount(&b.rootfs()).unwrap();
            let root = seen(out.ok(), "/").propagation;
            let has = |field: &str| root.iter().any(|f| f.starts_with(field));
            // A root that is shared is so with the container's own copies; whether it follows the host too is open.
            assert!(has("master:") == master || shared, "{word}: {root:?}");
            assert_eq!(has("shared:"), shared, "{word}: {root:?}");
        }
        for word in ["unbindable", "runbindable"] {
            let mut b = t.bundle();
            b.set("/linux/rootfsPropagation", json!(word));
            assert_eq!(seen(&mountinfo(t, &mut b), "/").propagation, ["unbindable"], "{word}");
        }
    });
}

#[test]
fn a_shared_bind_shows_the_host_what_the_container_mounts() {
    run_case(any(), |t| {
        for (root, word, reaches) in [
            ("rshared", "rshared", true),
            ("shared", "rshared", true),
            ("rshared", "rslave", false),
            ("rshared", "rprivate", false),
        ] {
            let dir = t.scratch(&format!("volume-{root}-{word}"));
            fs::create_dir(dir.join("late")).unwrap();
            share(&dir);
            let mut b = t.bundle();
            for set in ["bounding", "effective", "permitted"] {
                b.set(&format!("/process/capabilities/{set}/-"), json!("CAP_SYS_ADMIN"));
            }
            b.set("/linux/rootfsPropagation", json!(root));
            b.mount("/v", "bind", dir.to_str().unwrap(), &["rbind", word]);
            b.sh("mount -t tmpfs late /v/late && echo mounted");
            let out = t.run(&b);
            let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let late = dir.join("late");
            let there = text.lines().any(|l| l.split(' ').nth(4) == late.to_str());
            if there {
                nix::mount::umount(&late).unwrap();
            }
            nix::mount::umount(&dir).unwrap();
            assert_eq!(out.ok(), "mounted\n");
            assert_eq!(there, reaches, "{root} {word}: {text}");
        }
    });
}

#[test]
fn idmap_without_mappings_is_refused() {
    run_case(oar_only("the error names the option"), |t| {
        for word in ["idmap", "ridmap"] {
            let dir = source(t, "source");
            let mut b = t.bundle();
            b.mount("/b", "bind", dir.to_str().unwrap(), &["rbind", word]);
            t.try_create(&b).clean_error().says("mounts[6].options").says("idmap needs uidMappings");
        }
    });
}
