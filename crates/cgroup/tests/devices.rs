// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device rules by their effect: a child in the cgroup opens and makes nodes, under the v1 `devices` controller and
//! under our program on cgroup2.
//!
//! Never touches a cgroup that it did not make; nodes are made in a temporary directory. What is expected is written
//! as the errno of the child's call.

// The helpers below belong to the tests, where a panic is the report.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_cgroup::{Cgroup, Error, Location, host, locate};
use coracle_plan::{
    CgroupHost, CgroupMode, CgroupPath, CgroupPlace, DeviceAccess, DeviceRule, DeviceRuleKind, Resources,
};
use coracle_sys::bpf;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Long enough for a busy machine; no test waits for it unless it fails.
const LONG: Duration = Duration::from_secs(20);

/// So many opens, while rules change; a multiple of 500.
const ENOUGH: u32 = 2000;

const EPERM: i32 = nix::errno::Errno::EPERM as i32;

/// Which of the two enforces.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    V1,
    Program,
}

/// A cgroup of its own and a directory for nodes; both removed on drop.
struct Place {
    host: CgroupHost,
    name: String,
    nodes: PathBuf,
}

impl Place {
    /// A stated skip where the machine lacks it.
    fn new(by: By) -> Option<Place> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skip: device rules need root");
            return None;
        }
        let mut host = host().unwrap();
        let has_v1 = host.v1.iter().any(|one| one.controllers.iter().any(|name| name == "devices"));
        match by {
            By::V1 if !has_v1 => {
                eprintln!("skip: needs the v1 devices hierarchy");
                return None;
            }
            By::Program if host.unified.is_empty() => {
                eprintln!("skip: needs cgroup2");
                return None;
            }
            By::V1 => {}
            By::Program => {
                host.mode = CgroupMode::V2;
                host.v1.clear();
            }
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("coracle-devices-{}-{number}", std::process::id());
        let nodes = std::env::temp_dir().join(&name);
        std::fs::create_dir(&nodes).unwrap();
        Some(Place { host, name, nodes })
    }

    fn locate(&self, tail: &str) -> Location {
        let path = CgroupPath::Absolute(format!("/{}{tail}", self.name));
        locate(&self.host, &CgroupPlace::Directory(path), "unused", "").unwrap()
    }

    fn location(&self) -> Location {
        self.locate("")
    }

    fn create(&self, text: &str) -> Result<Cgroup, Error> {
        self.location().create(&resources(text))
    }

    fn node(&self, name: &str) -> PathBuf {
        self.nodes.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let end = Instant::now() + LONG;
        let mounts = self.host.v1.iter().map(|one| &one.mount_point).chain([&self.host.unified]);
        for directory in
            mounts.filter(|mount| !mount.is_empty()).map(|mount| Path::new(mount).join(&self.name))
        {
            for directory in [directory.join("child"), directory] {
                // Workers are gone by now; the kernel may still count one.
                while directory.exists() && Instant::now() < end {
                    std::fs::remove_dir(&directory).ok();
                    std::thread::yield_now();
                }
            }
        }
        std::fs::remove_dir_all(&self.nodes).ok();
    }
}

/// `allow c 1:3 rwm; deny …`, after a deny of all.
fn rules(text: &str) -> Vec<DeviceRule> {
    let one = |line: &str| {
        let words: Vec<&str> = line.split([' ', ':']).collect();
        DeviceRule {
            allow: words[0] == "allow",
            kind: match words[1] {
                "a" => DeviceRuleKind::All,
                "b" => DeviceRuleKind::Block,
                _ => DeviceRuleKind::Character,
            },
            major: words[2].parse().ok(),
            minor: words[3].parse().ok(),
            access: DeviceAccess {
                read: words[4].contains('r'),
                write: words[4].contains('w'),
                mknod: words[4].contains('m'),
            },
        }
    };
    std::iter::once("deny a *:* rwm")
        .chain(text.split("; ").filter(|line| !line.is_empty()))
        .map(one)
        .collect()
}

fn resources(text: &str) -> Resources {
    Resources { devices: rules(text), ..Resources::default() }
}

/// This program again, as a child that does what it is told through a socket on its standard input.
struct Worker {
    child: Child,
    socket: BufReader<UnixStream>,
}

impl Worker {
    fn inside(cgroup: &Cgroup) -> Worker {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "worker"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        ours.set_read_timeout(Some(LONG)).unwrap();
        let worker = Worker { child, socket: BufReader::new(ours) };
        let pid = worker.child.id();
        for directory in cgroup.directories() {
            std::fs::write(directory.path.join("cgroup.procs"), pid.to_string()).unwrap();
        }
        worker
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.socket.get_mut(), "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.socket.read_line(&mut line).unwrap();
        line.trim().to_string()
    }

    /// 0, or the errno.
    fn errno(&mut self, order: &str) -> i32 {
        self.tell(order);
        self.answer().parse().unwrap()
    }

    fn open(&mut self, access: &str, path: &Path) -> i32 {
        self.errno(&format!("open {access} {}", path.display()))
    }

    fn mknod(&mut self, kind: &str, major: u32, minor: u32, path: &Path) -> i32 {
        std::fs::remove_file(path).ok();
        self.errno(&format!("mknod {kind} {major} {minor} {}", path.display()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
#[ignore = "the child of the other tests"]
fn worker() {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let socket = UnixStream::from(stdin);
    let mut answers = socket.try_clone().unwrap();
    for order in BufReader::new(socket).lines() {
        let order = order.unwrap();
        let words: Vec<&str> = order.split(' ').collect();
        let answer = match words[..] {
            ["open", access, path] => open(access, path).to_string(),
            ["mknod", kind, major, minor, path] => {
                let kind = if kind == "b" { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                let device = makedev(major.parse().unwrap(), minor.parse().unwrap());
                mknod(path, kind, Mode::S_IRUSR, device).map_or_else(|errno| errno as i32, |()| 0).to_string()
            }
            // Until the parent says stop, which it does after it has heard of enough: how many opens there were, and
            // how many succeeded.
            ["loop", access, path] => {
                let (mut all, mut good) = (0u32, 0u32);
                let end = Instant::now() + LONG;
                while !Path::new(path).with_file_name("stop").exists() && Instant::now() < end {
                    for _ in 0..500 {
                        all += 1;
                        good += u32::from(open(access, path) == 0);
                    }
                    if all == ENOUGH {
                        std::fs::write(Path::new(path).with_file_name("enough"), "").unwrap();
                    }
                }
                format!("{all} {good}")
            }
            _ => panic!("{order}"),
        };
        writeln!(answers, "{answer}").unwrap();
    }
}

fn open(access: &str, path: &str) -> i32 {
    let mut options = std::fs::OpenOptions::new();
    options.read(access.contains('r')).write(access.contains('w')).custom_flags(0o4000 /* O_NONBLOCK */);
    options.open(path).map_or_else(|error| error.raw_os_error().unwrap(), |_| 0)
}

/// T-71: nodes of devices that are not in the list can be neither opened nor made; for those in it the order counts.
fn effect(by: By) {
    let Some(place) = Place::new(by) else { return };
    let cgroup = place
        .create(
            "allow c 1:3 rwm; allow c 1:5 rwm; deny c 1:5 rwm; allow c 1:7 r; allow b *:* m; allow c 10:* r",
        )
        .unwrap();
    let mut worker = Worker::inside(&cgroup);
    let path = |name: &str| PathBuf::from(format!("/dev/{name}"));
    for (access, name, errno) in [
        ("r", "null", 0),
        ("rw", "null", 0),
        ("r", "zero", EPERM),
        ("w", "zero", EPERM),
        ("r", "full", 0),
        ("w", "full", EPERM),
        ("rw", "full", EPERM),
        ("r", "kmsg", EPERM),
        ("r", "urandom", EPERM),
    ] {
        assert_eq!(worker.open(access, &path(name)), errno, "{by:?} open {name} {access}");
    }
    for (kind, major, minor, errno) in
        [("c", 1, 3, 0), ("c", 1, 5, EPERM), ("c", 1, 7, EPERM), ("b", 7, 0, 0), ("c", 10, 229, EPERM)]
    {
        let node = place.node("node");
        assert_eq!(worker.mknod(kind, major, minor, &node), errno, "{by:?} mknod {kind} {major}:{minor}");
    }
    // A loop device's node may be made, and not be opened.
    assert_eq!(worker.mknod("b", 7, 0, &place.node("loop")), 0);
    assert_eq!(worker.open("r", &place.node("loop")), EPERM);
    // The caller is not in the cgroup.
    assert_eq!(open("r", "/dev/zero"), 0);

    // An empty list changes nothing; another one replaces the first.
    cgroup.update(&Resources::default()).unwrap();
    assert_eq!(worker.open("r", &path("zero")), EPERM);
    assert_eq!(worker.open("r", &path("null")), 0);
    cgroup.update(&resources("allow c 1:5 rw; allow c 1:8 r")).unwrap();
    for (access, name, errno) in
        [("rw", "zero", 0), ("r", "null", EPERM), ("r", "full", EPERM), ("r", "random", 0)]
    {
        assert_eq!(worker.open(access, &path(name)), errno, "{by:?} after the update: {name} {access}");
    }
    assert_eq!(worker.mknod("b", 7, 0, &place.node("loop")), EPERM);
    drop(worker);
    cgroup.remove(LONG).unwrap();
}

#[test]
fn v1_denies_what_the_rules_deny() {
    effect(By::V1);
}

#[test]
fn the_program_denies_what_the_rules_deny() {
    effect(By::Program);
}

/// All is allowed but for a part: both can say that.
fn all_but(by: By) {
    let Some(place) = Place::new(by) else { return };
    let cgroup = place.create("allow a *:* rwm; deny c 1:5 w; deny b 7:* rm").unwrap();
    let mut worker = Worker::inside(&cgroup);
    assert_eq!(worker.open("r", Path::new("/dev/zero")), 0);
    assert_eq!(worker.open("rw", Path::new("/dev/zero")), EPERM);
    assert_eq!(worker.open("w", Path::new("/dev/null")), 0);
    assert_eq!(worker.mknod("b", 7, 0, &place.node("loop")), EPERM);
    assert_eq!(worker.mknod("c", 10, 229, &place.node("fuse")), 0);
    let other = cgroup.update(&resources("allow a *:* rwm; deny c 1:3 w"));
    match by {
        By::Program => {
            other.unwrap();
            assert_eq!(worker.open("rw", Path::new("/dev/zero")), 0);
            assert_eq!(worker.open("w", Path::new("/dev/null")), EPERM);
        }
        By::V1 => {
            let error = other.unwrap_err().to_string();
            let expected =
                "device rules: cgroup v1 cannot change what it denies out of everything while process";
            assert!(error.starts_with(expected), "{error}");
            assert_eq!(worker.open("rw", Path::new("/dev/zero")), EPERM);
        }
    }
    cgroup.update(&resources("allow a *:* rwm")).unwrap();
    assert_eq!(worker.open("rw", Path::new("/dev/zero")), 0);
    assert_eq!(worker.open("w", Path::new("/dev/null")), 0);
    cgroup.update(&resources("")).unwrap();
    assert_eq!(worker.open("r", Path::new("/dev/null")), EPERM);
    // An update that fails later brings the rules back.
    let changed = cgroup.update(&resources("allow c 1:3 rwm")).unwrap();
    assert_eq!(worker.open("r", Path::new("/dev/null")), 0);
    assert_eq!(cgroup.undo(changed), []);
    assert_eq!(worker.open("r", Path::new("/dev/null")), EPERM);
}

#[test]
fn v1_allows_all_but_a_part() {
    all_but(By::V1);
}

#[test]
fn the_program_allows_all_but_a_part() {
    all_but(By::Program);
}

/// T-71, R-31: while lists replace each other, what both permit is never refused, nor what both refuse permitted.
fn no_window(by: By) {
    let Some(place) = Place::new(by) else { return };
    // null comes by its own rule, then by a wider one, then with other letters; zero has never both at once.
    let lists = [
        "allow c 1:3 rw; allow c 1:5 r; allow c 5:* rwm",
        "allow c 1:3 rwm; allow c 1:5 w",
        "deny c 1:* rwm; allow c 1:3 rw; allow c 5:0 r; allow b 7:* rwm",
    ];
    let cgroup = place.create(lists[0]).unwrap();
    for (access, device, expected) in [("rw", (1, 3), true), ("rw", (1, 5), false), ("r", (1, 11), false)] {
        let node = place.node("node");
        let (enough, stop) = (place.node("enough"), place.node("stop"));
        for file in [&node, &enough, &stop] {
            std::fs::remove_file(file).ok();
        }
        mknod(&node, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(device.0, device.1)).unwrap();
        let mut worker = Worker::inside(&cgroup);
        assert_eq!(worker.open(access, &node) == 0, expected);
        worker.tell(&format!("loop {access} {}", node.display()));
        let end = Instant::now() + LONG;
        for round in 1.. {
            cgroup.update(&resources(lists[round % lists.len()])).unwrap();
            if round >= 1500 && (enough.exists() || Instant::now() > end) {
                break;
            }
        }
        std::fs::write(&stop, "").unwrap();
        let answer = worker.answer();
        let (all, good) = answer.split_once(' ').unwrap();
        let (all, good): (u32, u32) = (all.parse().unwrap(), good.parse().unwrap());
        assert!(all >= ENOUGH, "{all} opens");
        assert_eq!(good, if expected { all } else { 0 }, "{by:?} {device:?} {access}: of {all} opens");
    }
    cgroup.remove(LONG).unwrap();
}

#[test]
fn v1_changes_without_a_window() {
    no_window(By::V1);
}

#[test]
fn programs_are_replaced_without_a_window() {
    no_window(By::Program);
}

#[test]
fn v1_says_what_it_cannot_express_and_nothing_stays() {
    let Some(place) = Place::new(By::V1) else { return };
    let error = place.create("allow c 1:* rwm; deny c 1:5 w").unwrap_err();
    assert_eq!(
        error.to_string(),
        "device rule deny c 1:5 w: cgroup v1 cannot deny a part of what an earlier rule allows"
    );
    assert!(place.location().directories().iter().all(|one| !one.path.exists()));
}

/// A parent that denies more: named, and optional only where the caller says so.
#[test]
fn v1_names_what_the_parent_does_not_allow() {
    let Some(place) = Place::new(By::V1) else { return };
    let parent = place.create("allow c 1:3 rw").unwrap();
    let child = |resources: &Resources| place.locate("/child").create(resources);
    let error = child(&resources("allow c 1:3 rw; allow c 1:5 r")).unwrap_err().to_string();
    let expected = "allow device c 1:5 r, which the parent cgroup may not allow, in ";
    assert!(
        error.starts_with(expected) && error.ends_with("devices.allow: operation not permitted"),
        "{error}"
    );
    child(&resources("allow c 1:3 r")).unwrap().remove(LONG).unwrap();
    parent.remove(LONG).unwrap();
}

fn programs(directory: &Path) -> Vec<(u32, String)> {
    let group = std::fs::File::open(directory).unwrap();
    let mut ids = [0; bpf::MAX_PROGRAMS];
    let ids = bpf::device_programs(group.as_raw_fd(), &mut ids).unwrap();
    let name = |id: u32| {
        let program = bpf::program_by_id(id).unwrap();
        let info = bpf::program_info(program.number()).unwrap();
        String::from_utf8(info.name().to_vec()).unwrap()
    };
    ids.iter().map(|id| (*id, name(*id))).collect()
}

/// systemd attaches programs of its own to the same directory.
#[test]
fn programs_of_others_stay() {
    let Some(place) = Place::new(By::Program) else { return };
    let cgroup = place.create("allow c 1:3 rw").unwrap();
    let directory = cgroup.directories()[0].path.clone();
    let first = programs(&directory);
    assert_eq!(first.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["oar_devices"]);

    let permit_all = [
        bpf::Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 1 },
        bpf::Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];
    let group = std::fs::File::open(&directory).unwrap();
    let load = |name| bpf::load_device_program(&permit_all, name, c"MIT OR Apache-2.0").unwrap();
    let other = load(c"sd_devices");
    bpf::attach_device_program(group.as_raw_fd(), other.number()).unwrap();
    // Left behind by two creates at once.
    let stale = load(c"oar_devices");
    bpf::attach_device_program(group.as_raw_fd(), stale.number()).unwrap();
    assert_eq!(programs(&directory).len(), 3);

    cgroup.update(&resources("allow c 1:5 r")).unwrap();
    let after = programs(&directory);
    assert_eq!(
        after.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
        ["oar_devices", "sd_devices"]
    );
    assert_ne!(after[0].0, first[0].0);
    let mut worker = Worker::inside(&cgroup);
    assert_eq!(worker.open("r", Path::new("/dev/zero")), 0);
    assert_eq!(worker.open("r", Path::new("/dev/null")), EPERM);
}

/// In a user namespace nobody may filter devices, by either way.
#[test]
fn without_the_right_rules_are_an_error_unless_they_are_optional() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skip: making cgroups needs root");
        return;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "in_a_user_namespace"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run in a user namespace by the test above"]
fn in_a_user_namespace() {
    for (by, what) in [(By::V1, "deny device a *:* rwm in"), (By::Program, "load device filter for cgroup")] {
        let Some(place) = Place::new(by) else { continue };
        let error = place.create("allow c 1:3 rw").unwrap_err().to_string();
        assert!(error.starts_with(what) && error.ends_with(": operation not permitted"), "{error}");
        assert!(place.location().directories().iter().all(|one| !one.path.exists()));
        let optional = Resources { devices_optional: true, ..resources("allow c 1:3 rw") };
        place.location().create(&optional).unwrap().remove(LONG).unwrap();
    }
}

#[test]
fn without_any_hierarchy_there_is_nothing_to_enforce_rules_with() {
    let location = Location::default();
    assert_eq!(
        location.create(&resources("allow c 1:3 rw")).unwrap_err().to_string(),
        "device filter needs the cgroup controller devices, which is not available in /sys/fs/cgroup"
    );
    location.create(&Resources { devices_optional: true, ..resources("") }).unwrap();
}
