// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the races of research/security.md §2.4 and §2.5: a volume whose entries change while a container is made.
//! Never aims at anything but the sentinel directory, a canary sysctl and a name in `/` that only the case has.
//! A thread exchanges a good entry and a link for five seconds, or until there were enough attempts; each of them may
//! succeed inside or fail cleanly.

use runtime_tests::{Bundle, Console, Kind, Out, Test, any, json, run_case};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const RACE: Duration = Duration::from_secs(5);
/// For a machine that is too slow for the attempts that it takes.
const LONGEST: Duration = Duration::from_secs(30);
/// Fewer attempts than this say nothing; a machine under load makes hundreds in five seconds.
const ENOUGH: usize = 10;

fn exchange(a: &Path, b: &Path) {
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

/// Ends the swapper also when the attempt panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes attempts for as long as the race lasts, while each pair is exchanged and exchanged back in turn. An attempt says
/// whether all has happened by then that has to happen by chance: until it has, the race goes on.
#[track_caller]
fn race(pairs: &[(PathBuf, PathBuf)], mut attempt: impl FnMut(usize) -> bool) {
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut attempts = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (good, bad) in pairs {
                    for _ in 0..2 {
                        exchange(good, bad);
                        swaps.fetch_add(1, Ordering::Relaxed);
                        thread::yield_now();
                    }
                }
            }
        });
        let _stop = Stop(&stop);
        let (begin, mut all) = (Instant::now(), false);
        while begin.elapsed() < RACE || ((attempts < ENOUGH || !all) && begin.elapsed() < LONGEST) {
            all = attempt(attempts);
            attempts += 1;
        }
    });
    eprintln!("{attempts} attempts, {} exchanges", swaps.load(Ordering::Relaxed));
    assert!(attempts >= ENOUGH, "only {attempts} attempts");
}

/// A success, or an ordinary error (of oar: a clean one).
#[track_caller]
fn success(t: &Test, out: &Out) -> bool {
    if out.code != 0 && t.kind == Kind::Oar {
        out.clean_error();
    } else if out.code != 0 {
        out.failed();
    }
    out.code == 0
}

/// The mount points of the base config, which a racing one joins.
fn usual(b: &Bundle) -> Vec<String> {
    let points = b.config["mounts"].as_array().unwrap().iter();
    points.map(|m| m["destination"].as_str().unwrap().to_owned()).chain(["/".to_owned()]).collect()
}

#[test]
fn t31_exchange_of_a_directory_and_a_link() {
    run_case(any().differs("runc", "1.1.5 makes the mount point on the host, then refuses"), |t| {
        let name = format!("{}-d", t.tag);
        for target in [PathBuf::from("/"), t.sentinel(), PathBuf::from("..")] {
            let volume = t.scratch(&format!("volume-{}", target.display().to_string().replace('/', "_")));
            fs::create_dir(volume.join("a")).unwrap();
            symlink(&target, volume.join("b")).unwrap();
            let source = t.scratch("source");
            fs::write(source.join("marker"), "source\n").unwrap();
            let mut b = t.bundle();
            let mut allowed = usual(&b);
            allowed.extend(["/v".to_owned(), format!("/v/a/{name}"), format!("/v/b/{name}")]);
            allowed.extend([format!("/{name}"), format!("{}/{name}", t.sentinel().display())]);
            allowed.push(format!("/v/{name}"));
            b.mount("/v", "bind", volume.to_str().unwrap(), &["rbind"]);
            b.mount(&format!("/v/a/{name}"), "bind", source.to_str().unwrap(), &["bind"]);
            b.sh("cat /proc/self/mountinfo");
            let (mut straight, mut otherwise) = (0, 0);
            race(&[(volume.join("a"), volume.join("b"))], |_| {
                let out = t.run(&b);
                assert!(!Path::new("/").join(&name).exists(), "a directory of the host was made: {out}");
                if !success(t, &out) {
                    otherwise += 1;
                    return straight > 0;
                }
                let at: Vec<_> = out.stdout.lines().filter_map(|l| l.split(' ').nth(4)).collect();
                for point in &at {
                    assert!(allowed.iter().any(|a| a == point), "{point} is mounted: {out}");
                }
                let moved = at.iter().filter(|p| p.ends_with(&name)).count();
                assert_eq!(moved, 1, "the source is there once: {out}");
                if at.contains(&format!("/v/a/{name}").as_str()) {
                    straight += 1
                } else {
                    otherwise += 1
                }
                straight > 0 && otherwise > 0
            });
            eprintln!("{}: {straight} onto the directory, {otherwise} otherwise", target.display());
            assert!(straight > 0 && otherwise > 0, "no race: {straight} {otherwise}");
        }
    });
}

#[test]
fn t32_directories_on_the_way() {
    run_case(any().differs("runc", "CVE-2024-45310 is not fixed in 1.1.5"), |t| {
        let volume = t.scratch("volume");
        fs::create_dir_all(volume.join("1/2/3")).unwrap();
        let evil = volume.join("evil");
        symlink(t.sentinel(), &evil).unwrap();
        let pairs = ["1/2/3", "1/2", "1"].map(|p| (volume.join(p), evil.clone()));
        let mut made = 0;
        race(&pairs, |n| {
            let mut b = t.bundle();
            b.mount("/v", "bind", volume.to_str().unwrap(), &["bind"]);
            b.mount(&format!("/v/1/2/3/{n}/5/6/f"), "tmpfs", "tmpfs", &[]);
            b.set("/process/cwd", json!(format!("/v/1/2/3/{n}/cwd/a/b")));
            if success(t, &t.run(&b)) {
                made += 1;
            }
            fs::remove_dir_all(&b.dir).unwrap();
            let names: Vec<_> =
                fs::read_dir(t.sentinel()).unwrap().flatten().map(|e| e.file_name()).collect();
            assert!(!names.iter().any(|f| *f == *n.to_string()), "made in the sentinel: {names:?}");
            made > 0
        });
        eprintln!("{made} were made");
        assert!(made > 0, "no attempt has succeeded");
    });
}

/// A volume that is to be /dev: what runtimes look for there, each beside a link to the sentinel's file of that name.
fn device_volume(t: &Test) -> (PathBuf, Vec<(PathBuf, PathBuf)>) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let volume = t.scratch("device-volume");
    let pairs = ["null", "console", "pts", "ptmx"].map(|name| {
        let good = volume.join(name);
        match name {
            "pts" => fs::create_dir(&good).unwrap(),
            "null" => mknod(&good, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap(),
            _ => fs::write(&good, "").unwrap(),
        }
        let bad = volume.join(format!("{name}-link"));
        symlink(t.sentinel().join("dev").join(name), &bad).unwrap();
        (good, bad)
    });
    (volume, pairs.to_vec())
}

#[test]
fn t36_the_device_directory_is_a_shared_volume() {
    run_case(any().differs("runc", "1.1.5 makes files where the link points (CVE-2024-45310)"), |t| {
        let (volume, pairs) = device_volume(t);
        race(&pairs, |n| {
            let mut b = t.bundle();
            for point in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
                b.unmount(point);
            }
            b.mount("/dev", "bind", volume.to_str().unwrap(), &["rbind"]);
            b.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]);
            b.set("/linux/maskedPaths", json!(["/proc/version"]));
            b.set("/linux/devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]));
            b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
            let socket = t.dir.join(format!("console-{n}"));
            let terminal = n % 2 == 0;
            b.set("/process/terminal", json!(terminal));
            let flags = ["--console-socket", socket.to_str().unwrap()];
            let console = terminal.then(|| Console::listen(&socket));
            let (id, run) = t.creation(&b, if terminal { &flags } else { &[] });
            let out = run.run();
            let created = success(t, &out);
            if created {
                t.rt(&["delete", "--force", &id]).run().ok();
            }
            if let Some(console) = console {
                if !created {
                    // The receiver is told that nothing comes.
                    drop(std::os::unix::net::UnixStream::connect(&console.path));
                }
                drop(console);
            }
            fs::remove_dir_all(&b.dir).unwrap();
            true
        });
    });
}

#[test]
fn t47_null_is_now_a_node_now_a_link() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    run_case(
        any().differs("runc", "CVE-2025-31133 is not fixed in 1.1.5").differs("crun", "nor in 1.8.1"),
        |t| {
            let volume = t.scratch("volume");
            mknod(&volume.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))
                .unwrap();
            symlink("/proc/sys/kernel/printk_ratelimit_burst", volume.join("link")).unwrap();
            let mut b = t.bundle();
            for point in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
                b.unmount(point);
            }
            b.mount("/dev", "bind", volume.to_str().unwrap(), &["rbind"]);
            b.set("/linux/maskedPaths", json!(["/proc/version", "/proc/meminfo"]));
            // The write reaches the canary if that is what lies on the masked path; the host check looks.
            b.sh("stat -c %t:%T /proc/version /proc/meminfo; echo 77 > /proc/version; cat /proc/meminfo; exit 0");
            let mut masked = 0;
            race(&[(volume.join("null"), volume.join("link"))], |_| {
                let out = t.run(&b);
                if success(t, &out) {
                    assert_eq!(out.stdout, "1:3\n1:3\n", "{out}");
                    masked += 1;
                }
                masked > 0
            });
            eprintln!("{masked} were masked");
            assert!(masked > 0, "no attempt has succeeded");
        },
    );
}
