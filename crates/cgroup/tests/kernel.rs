// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crate against the real kernel, as root, in directories of its own that are removed also after a panic.
//!
//! Never touches a cgroup that it did not make, nor a mount of the host: the view of a host with cgroup2
//! alone is made in a mount namespace of a child. Facts are checked with plain file reads, not with the
//! crate's own.

// A panic is a test's report.
#![allow(clippy::unwrap_used)]

mod place;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle_cgroup::{Cgroup, Error, Location, host, locate};
use coracle_plan::{CgroupHost, CgroupMode, CgroupPath, CgroupPlace, Resources};

use place::{
    LONG, Place, Sleeper, procs, root, sub_cgroups, unified, until, v1, v1_directory, v1_has, v2, value,
};

/// Tests of this program that others run, as this command does.
#[track_caller]
fn passes(command: &mut Command, count: u32) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{count} passed")), "{text}");
}

fn limits() -> Resources {
    Resources {
        memory_limit: Some((64 << 20) + 1),
        memory_reservation: Some(32 << 20),
        memory_swap: Some(96 << 20),
        cpu_shares: Some(512),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        pids_limit: Some(77),
        ..Resources::default()
    }
}

#[test]
fn host_agrees_with_the_mount_table() {
    let host = host().unwrap();
    assert_ne!(host.mode, CgroupMode::None);
    if !host.unified.is_empty() {
        let controllers = value(Path::new(&host.unified), "cgroup.controllers");
        assert_eq!(host.unified_controllers.join(" "), controllers);
    }
    for hierarchy in &host.v1 {
        assert!(Path::new(&hierarchy.mount_point).join("tasks").exists(), "{hierarchy:?}");
    }
}

#[test]
fn v1_limits_are_written_and_kept() {
    let place = Place::new();
    if !root() || !v1_has(&place, "memory") {
        return;
    }
    let location = place.locate("/web");
    let cgroup = location.create(&limits()).unwrap();
    let memory = v1_directory(&location, "memory");
    assert_eq!(value(&memory, "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(value(&memory, "memory.memsw.limit_in_bytes"), (96 << 20).to_string());
    assert_eq!(value(&memory, "memory.soft_limit_in_bytes"), (32 << 20).to_string());
    let cpu = v1_directory(&location, "cpu");
    assert_eq!(value(&cpu, "cpu.shares"), "512");
    assert_eq!(value(&cpu, "cpu.cfs_quota_us"), "20000");
    assert_eq!(value(&cpu, "cpu.cfs_period_us"), "50000");
    assert_eq!(value(&v1_directory(&location, "pids"), "pids.max"), "77");
    assert!(cgroup.created());
    assert!(location.directories().iter().all(|one| one.path.is_dir()));
    cgroup.remove(LONG).unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn v1_limits_of_an_adopted_cgroup_change_in_either_direction() {
    let place = Place::new();
    if !root() || !v1_has(&place, "memory") {
        return;
    }
    let location = place.locate("");
    let of = |memory: i64, swap: i64, quota: i64, period: u64| Resources {
        memory_limit: Some(memory),
        memory_swap: Some(swap),
        cpu_quota: Some(quota),
        cpu_period: Some(period),
        ..Resources::default()
    };
    drop(location.create(&of(16 << 20, 16 << 20, 1_000, 1_000)).unwrap());
    let memory = v1_directory(&location, "memory");
    let cpu = v1_directory(&location, "cpu");
    for (limit, swap, quota, period) in [
        (64 << 20, 64 << 20, 400_000, 1_000_000),
        (8 << 20, 12 << 20, 1_000, 1_000),
        (-1, -1, -1, 50_000),
        (8 << 20, -1, 2_000, 100_000),
    ] {
        let adopted = place.locate("").create(&of(limit, swap, quota, period)).unwrap();
        assert!(!adopted.created());
        let kept = |file| value(&memory, file).parse::<i64>().unwrap();
        let same = |kept: i64, wanted: i64| kept == wanted || (wanted == -1 && kept > 1 << 60);
        assert!(same(kept("memory.limit_in_bytes"), limit), "limit {limit}");
        assert!(same(kept("memory.memsw.limit_in_bytes"), swap), "swap {swap}");
        assert_eq!(value(&cpu, "cpu.cfs_quota_us"), quota.to_string());
        assert_eq!(value(&cpu, "cpu.cfs_period_us"), period.to_string());
    }
}

#[test]
fn a_value_that_the_kernel_refuses_is_named_and_nothing_stays() {
    let place = Place::new();
    if !root() || !v1(&place) {
        return;
    }
    let too_short = Resources { cpu_quota: Some(1), ..Resources::default() };
    let error = place.locate("/a/b").create(&too_short).unwrap_err();
    let expected = "set cpu quota to \"1\" in";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert!(error.to_string().ends_with("cpu.cfs_quota_us: invalid argument"), "{error}");
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn attach_puts_a_process_into_each_v1_hierarchy() {
    let place = Place::new();
    if !root() || !v1(&place) {
        return;
    }
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    let sleeper = Sleeper::inside(&cgroup);
    for directory in cgroup.directories() {
        assert_eq!(procs(&directory.path), [sleeper.pid()], "{directory:?}");
    }
    assert_eq!(cgroup.pids().unwrap(), [sleeper.pid()]);
    assert!(cgroup.populated().unwrap());
    let gone = cgroup.attach(i32::MAX).unwrap_err();
    assert!(gone.to_string().ends_with("no such process"), "{gone}");
}

#[test]
fn a_child_made_inside_enter_is_born_there_and_the_caller_comes_back() {
    let place = Place::new();
    if !root() || !v1(&place) {
        return;
    }
    // The smallest limits take the slow way for memory and pids, and must end in the same place.
    let tight = Resources { memory_limit: Some(4 << 20), pids_limit: Some(1), ..Resources::default() };
    for (tail, resources) in [("/plain", Resources::default()), ("/tight", tight)] {
        let cgroup = place.locate(tail).create(&resources).unwrap();
        let before = std::fs::read_to_string("/proc/thread-self/cgroup").unwrap();
        let entered = cgroup.enter().unwrap();
        let sleeper = Sleeper::new();
        entered.leave(Some(sleeper.pid())).unwrap();
        assert_eq!(std::fs::read_to_string("/proc/thread-self/cgroup").unwrap(), before);
        for directory in cgroup.directories().iter().filter(|one| !one.controllers.is_empty()) {
            assert_eq!(procs(&directory.path), [sleeper.pid()], "{tail} {directory:?}");
        }
        // Left without leave, it goes back as well.
        drop(cgroup.enter().unwrap());
        assert_eq!(std::fs::read_to_string("/proc/thread-self/cgroup").unwrap(), before);
    }
}

#[test]
fn kill_reaches_nested_cgroups_and_remove_takes_them_away() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let cgroup = place.locate("/deep/web").create(&Resources::default()).unwrap();
    let mut outer = Sleeper::inside(&cgroup);
    let mut inner = Sleeper::inside(&cgroup);
    let unified = cgroup.location().unified.clone().unwrap();
    let nested = unified.join("a".to_string() + &"/b".repeat(30));
    std::fs::create_dir_all(&nested).unwrap();
    for number in 0..50 {
        std::fs::create_dir(unified.join(format!("many-{number}"))).unwrap();
    }
    for (controllers, path) in &cgroup.location().v1 {
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        // A new cpuset takes no process before somebody has given it CPUs.
        if !controllers.iter().any(|name| name == "cpuset") {
            inner.move_to(&path.join("a/b"));
        }
    }
    inner.move_to(&nested);
    let mut expected = [outer.pid(), inner.pid()];
    expected.sort();
    // A later command has only the record.
    let later = cgroup.location().clone().open();
    assert_eq!(later.pids().unwrap(), expected);
    let busy = later.remove(Duration::ZERO).unwrap_err();
    assert!(matches!(&busy, Error::Busy { pids, .. } if pids == &expected), "{busy}");
    assert!(matches!(later.wait_empty(Duration::ZERO), Err(Error::Busy { .. })));
    later.kill().unwrap();
    assert_eq!(outer.killed_by(), Some(9));
    assert_eq!(inner.killed_by(), Some(9));
    later.wait_empty(LONG).unwrap();
    assert!(!later.populated().unwrap());
    later.remove(LONG).unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
    later.remove(LONG).unwrap();
}

#[test]
fn remove_waits_for_the_kernel_to_say_that_it_is_empty() {
    let place = Place::new();
    if !root() {
        return;
    }
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    let sleeper = Sleeper::inside(&cgroup);
    let remover = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cgroup.remove(LONG));
        drop(sleeper);
        waiting.join().unwrap()
    });
    remover.unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn a_frozen_container_is_killed_and_thawed() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    let mut sleeper = Sleeper::inside(&cgroup);
    let unified = cgroup.location().unified.clone().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    std::fs::write(unified.join("cgroup.freeze"), "1").unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    std::fs::write(unified.join("cgroup.freeze"), "1").unwrap();
    if place.host.mode == CgroupMode::Hybrid {
        let freezer = v1_directory(cgroup.location(), "freezer");
        let nested = freezer.join("nested");
        std::fs::create_dir(&nested).unwrap();
        sleeper.move_to(&nested);
        std::fs::write(nested.join("freezer.state"), "FROZEN").unwrap();
        std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    }
    cgroup.kill().unwrap();
    assert_eq!(sleeper.killed_by(), Some(9));
    cgroup.remove(LONG).unwrap();
}

/// Forks all the time, in all directories of the container, and each child writes a byte; killed and reaped on
/// drop.
struct Forking {
    child: std::process::Child,
    bytes: UnixStream,
}

impl Forking {
    fn inside(cgroup: &Cgroup) -> Forking {
        let (bytes, theirs) = UnixStream::pair().unwrap();
        bytes.set_nonblocking(true).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "read line; while :; do (echo) & wait; done"]);
        let mut child = command.stdin(Stdio::piped()).stdout(OwnedFd::from(theirs)).spawn().unwrap();
        for directory in cgroup.directories() {
            std::fs::write(directory.path.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Forking { child, bytes }
    }

    /// Whether it has written since this was asked last. Not by CPU time: a frozen process may have its last
    /// microseconds in the kernel accounted after the kernel has said that it is frozen.
    fn has_moved(&mut self) -> bool {
        let mut moved = false;
        loop {
            match self.bytes.read(&mut [0; 4096]) {
                Ok(0) => panic!("it has ended"),
                Ok(_) => moved = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// It goes on, whenever this machine lets it.
    fn moves(&mut self) {
        self.bytes.set_nonblocking(false).unwrap();
        self.bytes.set_read_timeout(Some(LONG)).unwrap();
        self.bytes.read_exact(&mut [0; 1]).unwrap();
        self.bytes.set_nonblocking(true).unwrap();
    }
}

impl Drop for Forking {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The same host, as if it had v1 alone.
fn only_v1(place: &mut Place) -> bool {
    if !v1_has(place, "freezer") {
        return false;
    }
    place.host.unified.clear();
    place.host.unified_controllers.clear();
    place.host.mode = CgroupMode::V1;
    true
}

fn freezes_and_thaws(place: &Place) {
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    let mut forking = Forking::inside(&cgroup);
    for _ in 0..20 {
        cgroup.freeze(LONG).unwrap();
        assert!(cgroup.is_frozen().unwrap());
        forking.has_moved();
        std::thread::sleep(Duration::from_millis(20)); // Nothing is to happen, and nothing would tell of it.
        assert!(!forking.has_moved());
        cgroup.resume(LONG).unwrap();
        assert!(!cgroup.is_frozen().unwrap());
        forking.moves();
    }
    cgroup.freeze(LONG).unwrap();
    cgroup.kill().unwrap();
    drop(forking);
    cgroup.wait_empty(LONG).unwrap();
    cgroup.remove(LONG).unwrap();
    let gone = cgroup.location().open().freeze(LONG).unwrap_err().to_string();
    assert!(gone.ends_with(": no such file or directory"), "{gone}");
}

#[test]
fn what_forks_all_the_time_freezes() {
    let place = Place::new();
    if root() && unified(&place) {
        freezes_and_thaws(&place);
    }
}

#[test]
fn what_forks_all_the_time_freezes_on_v1_alone() {
    let mut place = Place::new();
    if root() && only_v1(&mut place) {
        freezes_and_thaws(&place);
    }
}

#[test]
fn what_does_not_freeze_is_named_and_thawed() {
    let place = Place::new();
    // A process that v1 holds never comes to where cgroup2 would stop it.
    if !root() || !unified(&place) || !v1_has(&place, "freezer") {
        return;
    }
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    let (held, free) = (Sleeper::inside(&cgroup), Sleeper::inside(&cgroup));
    let path = cgroup.location().unified.clone().unwrap();
    // This one is frozen already, by itself: it cannot be late.
    let frozen = path.join("frozen");
    std::fs::create_dir(&frozen).unwrap();
    free.move_to(&frozen);
    std::fs::write(frozen.join("cgroup.freeze"), "1").unwrap();
    until(|| value(&frozen, "cgroup.events").contains("frozen 1"));
    let nested = v1_directory(cgroup.location(), "freezer").join("nested");
    std::fs::create_dir(&nested).unwrap();
    held.move_to(&nested);
    std::fs::write(nested.join("freezer.state"), "FROZEN").unwrap();
    until(|| value(&nested, "freezer.state") == "FROZEN");
    let error = cgroup.freeze(Duration::from_millis(300)).unwrap_err();
    assert_eq!(error, Error::Unfrozen { path: path.clone(), pids: vec![held.pid()] });
    assert_eq!(value(&path, "cgroup.freeze"), "0");
    assert_eq!(value(&frozen, "cgroup.freeze"), "1");
    assert_eq!(value(&nested, "freezer.state"), "FROZEN");
    std::fs::write(nested.join("freezer.state"), "THAWED").unwrap();
    cgroup.freeze(LONG).unwrap();
}

#[test]
fn one_that_is_below_a_frozen_one_cannot_be_resumed() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let cgroup = place.locate("/web").create(&Resources::default()).unwrap();
    let _sleeper = Sleeper::inside(&cgroup);
    let path = cgroup.location().unified.clone().unwrap();
    cgroup.freeze(LONG).unwrap();
    std::fs::write(path.parent().unwrap().join("cgroup.freeze"), "1").unwrap();
    assert_eq!(cgroup.resume(Duration::from_millis(50)), Err(Error::Frozen { path: path.clone() }));
    std::fs::write(path.parent().unwrap().join("cgroup.freeze"), "0").unwrap();
    cgroup.resume(LONG).unwrap();
}

#[test]
fn a_cgroup_that_v1_has_frozen_is_frozen() {
    let place = Place::new();
    if !root() || !unified(&place) || !v1_has(&place, "freezer") {
        return;
    }
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    let sleeper = Sleeper::inside(&cgroup);
    let freezer = v1_directory(cgroup.location(), "freezer");
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    assert!(cgroup.is_frozen().unwrap());
    until(|| value(&freezer, "freezer.state") == "FROZEN");
    // By which an error tells those that did not freeze.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleeper.pid())).unwrap();
    assert!(stat.contains(") D "), "{stat}");
    cgroup.resume(LONG).unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    assert_eq!(value(&freezer, "freezer.state"), "THAWED");
}

#[test]
fn nobody_freezes_himself() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    // Whoever goes into a cgroup takes all its threads along, and their children would be born there.
    let mut command = Command::new(std::env::current_exe().unwrap());
    passes(command.args(["--ignored", "--exact", "inside_of_what_it_freezes"]), 1);
}

#[test]
#[ignore = "run by nobody_freezes_himself in a process of its own"]
fn inside_of_what_it_freezes() {
    let place = Place::new();
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    let path = cgroup.location().unified.clone().unwrap();
    let before = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let before = before.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let own = Path::new(&place.host.unified).join(before.trim_start_matches('/'));
    std::fs::write(path.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let answer = cgroup.freeze(LONG);
    std::fs::write(own.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    assert_eq!(answer, Err(Error::Inside { path }));
}

#[test]
fn a_cgroup_in_use_is_refused_and_not_touched() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let location = place.locate("");
    let unified = location.unified.clone().unwrap();
    std::fs::create_dir_all(unified.join("below")).unwrap();
    let stranger = Sleeper::new();
    stranger.move_to(&unified.join("below"));
    let location = place.locate("");
    assert_eq!(location.adopted, std::slice::from_ref(&unified));
    let error = location.create(&limits()).unwrap_err();
    assert_eq!(error, Error::Populated { path: unified.clone(), pid: stranger.pid() });
    assert_eq!(procs(&unified.join("below")), [stranger.pid()]);
    assert_eq!(place.leftovers(), [unified], "only what was there before");
}

#[test]
fn a_v1_cgroup_in_use_is_refused_too() {
    let place = Place::new();
    if !root() || !v1(&place) {
        return;
    }
    let location = place.locate("");
    let pids = v1_directory(&location, "pids");
    std::fs::create_dir(&pids).unwrap();
    let stranger = Sleeper::new();
    stranger.move_to(&pids);
    let error = location.create(&Resources::default()).unwrap_err();
    assert_eq!(error, Error::Populated { path: pids.clone(), pid: stranger.pid() });
    assert_eq!(place.leftovers(), [pids]);
}

#[test]
fn a_frozen_cgroup_is_refused() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let unified = place.locate("").unified.unwrap();
    std::fs::create_dir(&unified).unwrap();
    std::fs::write(unified.join("cgroup.freeze"), "1").unwrap();
    let error = place.locate("").create(&Resources::default()).unwrap_err();
    assert_eq!(error, Error::Frozen { path: unified });
}

#[test]
fn an_empty_cgroup_is_adopted_and_stays() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let unified = place.locate("").unified.unwrap();
    std::fs::create_dir(&unified).unwrap();
    let inode = unified.metadata().unwrap().ino();
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    assert!(!cgroup.created());
    assert_eq!(cgroup.location().adopted, std::slice::from_ref(&unified));
    std::fs::create_dir(unified.join("made-by-the-container")).unwrap();
    cgroup.location().open().remove(LONG).unwrap();
    assert_eq!(place.leftovers(), std::slice::from_ref(&unified));
    assert_eq!(unified.metadata().unwrap().ino(), inode);
    assert!(sub_cgroups(&unified).is_empty());
}

#[test]
fn parents_are_removed_only_when_made_and_empty() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let first = place.locate("/p/q/one").create(&Resources::default()).unwrap();
    let second = place.locate("/p/q/two").create(&Resources::default()).unwrap();
    let mount = PathBuf::from(&place.host.unified);
    let parents: Vec<PathBuf> =
        ["", "/p", "/p/q"].iter().map(|tail| mount.join(format!("{}{tail}", place.name))).collect();
    let made = |cgroup: &Cgroup| -> Vec<PathBuf> {
        cgroup.location().made_parents.iter().filter(|path| path.starts_with(&mount)).cloned().collect()
    };
    assert_eq!(made(&first), parents);
    assert_eq!(made(&second), [] as [PathBuf; 0]);
    first.remove(LONG).unwrap();
    assert!(second.directories().iter().all(|one| one.path.is_dir()));
    second.remove(LONG).unwrap();
    assert!(parents[2].is_dir(), "not made by the second one");
    // The first one's record still owns them.
    first.location().open().remove(LONG).unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn what_locate_foresees_is_what_create_makes() {
    let place = Place::new();
    if !root() {
        return;
    }
    let location = place.locate("/p/one");
    let cgroup = location.create(&Resources::default()).unwrap();
    assert_eq!(cgroup.location(), &location);
    // A crash before the first effect, or in the middle of it, leaves this much to do: nothing, and no error.
    cgroup.remove(LONG).unwrap();
    location.open().remove(LONG).unwrap();
}

#[test]
fn a_missing_cgroup_is_no_error() {
    let place = Place::new();
    let cgroup = place.locate("/never/made").open();
    assert!(cgroup.clone_fd().is_none());
    assert_eq!(cgroup.pids().unwrap(), Vec::<i32>::new());
    assert!(!cgroup.populated().unwrap());
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.kill().unwrap();
    cgroup.thaw().unwrap();
    cgroup.wait_empty(Duration::ZERO).unwrap();
    cgroup.remove(Duration::ZERO).unwrap();
    assert!(!cgroup.oom_killed());
    assert_eq!(cgroup.hint(), None);
}

#[test]
fn a_handle_outlives_its_cgroup() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    let cgroup = place.locate("").create(&Resources::default()).unwrap();
    assert!(cgroup.clone_fd().unwrap().as_raw_fd() > 2);
    // Another command removes it by the record, while this handle still holds descriptors of what is gone.
    let other = cgroup.location().clone().open();
    other.remove(LONG).unwrap();
    assert!(cgroup.location().clone().open().clone_fd().is_none());
    assert_eq!(cgroup.pids().unwrap(), Vec::<i32>::new());
    assert!(!cgroup.populated().unwrap());
    cgroup.kill().unwrap();
    cgroup.thaw().unwrap();
    cgroup.wait_empty(Duration::ZERO).unwrap();
    cgroup.remove(Duration::ZERO).unwrap();
}

#[test]
fn a_link_or_another_file_system_in_the_place_of_a_mount_is_refused() {
    let place = Place::new();
    if !unified(&place) {
        return;
    }
    let mut location = place.locate("");
    let scratch = std::env::temp_dir();
    location.unified_mount = Some(scratch.clone());
    location.unified = Some(scratch.join("web"));
    let error = location.create(&Resources::default()).unwrap_err();
    assert!(error.to_string().starts_with("not a cgroup mount:"), "{error}");
    let mut location = place.locate("");
    location.unified = Some(PathBuf::from("/elsewhere/web"));
    let error = location.open().remove(Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::Path { .. }), "{error}");
    let dots = locate(
        &place.host,
        &CgroupPlace::Directory(CgroupPath::Absolute("/../../etc".to_string())),
        "id",
        "",
    )
    .unwrap_err();
    assert!(matches!(dots, Error::Path { .. }), "{dots}");
}

#[test]
fn a_host_without_cgroups_gives_no_limits_and_needs_none() {
    let host = CgroupHost {
        mode: CgroupMode::None,
        unified: String::new(),
        unified_controllers: Vec::new(),
        v1: Vec::new(),
        closed: Vec::new(),
        below_own: Vec::new(),
    };
    let location =
        locate(&host, &CgroupPlace::Directory(CgroupPath::Absolute("/web".to_string())), "id", "").unwrap();
    assert_eq!(location, Location::default());
    let cgroup = location.create(&Resources::default()).unwrap();
    assert!(cgroup.clone_fd().is_none());
    cgroup.enter().unwrap().leave(Some(1)).unwrap();
    cgroup.remove(Duration::ZERO).unwrap();
    let error = location.create(&limits()).unwrap_err();
    assert!(matches!(&error, Error::Controller { controller, .. } if controller == "memory"), "{error}");
}

#[test]
fn relative_is_beside_the_caller() {
    let place = Place::new();
    let location =
        locate(&place.host, &CgroupPlace::Directory(CgroupPath::Relative(place.name.clone())), "id", "")
            .unwrap();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    for directory in location.directories() {
        let line = own
            .lines()
            .find(|line| line.split(':').nth(1) == Some(directory.controllers.join(",").as_str()))
            .unwrap();
        let path = line.splitn(3, ':').nth(2).unwrap();
        let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
        let expected = directory.mount_point.join(parent.strip_prefix("/").unwrap()).join(&place.name);
        assert_eq!(directory.path, expected);
    }
}

#[test]
fn pids_limit_gives_a_hint() {
    let place = Place::new();
    if !root() {
        return;
    }
    let one = Resources { pids_limit: Some(1), ..Resources::default() };
    let cgroup = place.locate("").create(&one).unwrap();
    assert_eq!(cgroup.hint(), None);
    // The shell waits until it has been moved, then forks in vain.
    let mut shell = Command::new("sh")
        .args(["-c", "read line; (exec true) & wait"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if let Some(unified) = &cgroup.location().unified {
        std::fs::write(unified.join("cgroup.procs"), shell.id().to_string()).unwrap();
    }
    cgroup.attach(shell.id() as i32).unwrap();
    drop(shell.stdin.take());
    shell.wait().unwrap();
    assert_eq!(cgroup.hint().as_deref(), Some("the pids limit of 1 was hit"));
    assert!(!cgroup.oom_killed());
    cgroup.remove(LONG).unwrap();
}

#[test]
fn memory_limit_gives_a_hint() {
    let place = Place::new();
    if !root() {
        return;
    }
    let small = Resources { memory_limit: Some(8 << 20), memory_swap: Some(8 << 20), ..Resources::default() };
    let cgroup = place.locate("").create(&small).unwrap();
    let mut shell = Command::new("sh")
        .args(["-c", "read line; exec head -c 100m /dev/zero | tail"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if let Some(unified) = &cgroup.location().unified {
        std::fs::write(unified.join("cgroup.procs"), shell.id().to_string()).unwrap();
    }
    cgroup.attach(shell.id() as i32).unwrap();
    drop(shell.stdin.take());
    shell.wait().unwrap();
    assert!(cgroup.oom_killed());
    assert_eq!(cgroup.hint().as_deref(), Some("the memory limit of 8388608 bytes was hit"));
    cgroup.remove(LONG).unwrap();
}

#[test]
fn v1_alone_kills_by_signal_and_waits() {
    let place = Place::new();
    if !root() || !v1_has(&place, "memory") {
        return;
    }
    // The same host without its cgroup2 mount.
    let mut location = place.locate("/v1");
    location.unified = None;
    location.unified_mount = None;
    let cgroup = location.create(&limits()).unwrap();
    assert!(cgroup.clone_fd().is_none());
    let mut sleeper = Sleeper::inside(&cgroup);
    assert_eq!(cgroup.pids().unwrap(), [sleeper.pid()]);
    assert!(!cgroup.is_frozen().unwrap());
    assert!(matches!(cgroup.wait_empty(Duration::ZERO), Err(Error::Busy { .. })));
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| cgroup.kill());
        assert_eq!(sleeper.killed_by(), Some(9));
        killing.join().unwrap()
    })
    .unwrap();
    cgroup.wait_empty(LONG).unwrap();
    cgroup.remove(LONG).unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn v2_limits_are_written_and_kept() {
    let place = Place::new();
    if !root() || !v2(&place) {
        return;
    }
    let location = place.locate("/deep/web");
    let cgroup = location.create(&limits()).unwrap();
    let unified = location.unified.clone().unwrap();
    assert_eq!(value(&unified, "memory.max"), (64 << 20).to_string());
    assert_eq!(value(&unified, "memory.swap.max"), ((32 << 20) - 4096).to_string());
    assert_eq!(value(&unified, "memory.low"), (32 << 20).to_string());
    assert_eq!(value(&unified, "cpu.weight"), "59");
    assert_eq!(value(&unified, "cpu.max"), "20000 50000");
    assert_eq!(value(&unified, "pids.max"), "77");
    cgroup.remove(LONG).unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn v2_with_processes_above_says_why_controllers_cannot_be_enabled() {
    let place = Place::new();
    if !root() || !v2(&place) {
        return;
    }
    let above = place.locate("").unified.unwrap();
    std::fs::create_dir(&above).unwrap();
    let inhabitant = Sleeper::new();
    inhabitant.move_to(&above);
    let error = place.locate("/web").create(&limits()).unwrap_err();
    assert!(error.to_string().contains("where processes are in the cgroup itself"), "{error}");
    assert!(!above.join("web").exists());
}

/// Runs the tests whose names begin with `view_` on a view of this host with cgroup2 alone.
#[test]
fn v2_alone() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    // cgroup2 upon itself would be refused, and is not needed.
    let script = match place.host.mode {
        CgroupMode::V2 => "exec \"$0\" --ignored --test-threads=1 view_",
        _ => {
            "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && \
              exec \"$0\" --ignored --test-threads=1 view_"
        }
    };
    let mut command = Command::new("unshare");
    passes(command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe().unwrap()), 2);
}

#[test]
#[ignore = "run by v2_alone in a mount namespace of its own"]
fn view_of_a_controller_that_is_not_there() {
    let place = Place::new();
    assert_eq!(place.host.mode, CgroupMode::V2);
    assert_eq!(place.host.unified, "/sys/fs/cgroup");
    if place.host.unified_controllers.iter().any(|name| name == "memory") {
        eprintln!("skip: this host's cgroup2 has the memory controller");
        return;
    }
    let limit = Resources { memory_limit: Some(1 << 26), pids_limit: Some(5), ..Resources::default() };
    let error = place.locate("/a/b").create(&limit).unwrap_err();
    assert_eq!(
        error,
        Error::Controller {
            controller: "memory".to_string(),
            limit: "memory limit".to_string(),
            directory: PathBuf::from("/sys/fs/cgroup"),
        }
    );
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
    // "No limit" is what is there without the controller.
    let none = Resources { memory_limit: Some(-1), pids_limit: Some(-1), ..Resources::default() };
    place.locate("/a/b").create(&none).unwrap().remove(LONG).unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
#[ignore = "run by v2_alone in a mount namespace of its own"]
fn view_of_a_life() {
    let place = Place::new();
    assert_eq!(place.host.mode, CgroupMode::V2);
    let cgroup = place.locate("/web").create(&Resources::default()).unwrap();
    let mut sleeper = Sleeper::inside(&cgroup);
    assert_eq!(cgroup.directories().len(), 1);
    assert_eq!(cgroup.pids().unwrap(), [sleeper.pid()]);
    let entered = cgroup.enter().unwrap();
    entered.leave(Some(sleeper.pid())).unwrap();
    cgroup.kill().unwrap();
    assert_eq!(sleeper.killed_by(), Some(9));
    cgroup.remove(LONG).unwrap();
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}
