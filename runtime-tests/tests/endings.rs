// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the ends of containers in hard cases: security.md F-44 … F-59, and which verb is legal in which state.
//! Never leaves a process that cannot die behind: what holds one (a FUSE server, a tracer) ends with its case.
//! States are made by the kernel's own means (freezers, ptrace, FUSE, a pid taken twice), beside the runtime.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use runtime_tests::{
    Bundle, Case, Cgroups, Container, Host, Invocation, Out, Running, Test, Value, any, has_controller, json,
    oar_only, patience, run_case, v1, write_program,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What has to be quick is some milliseconds of work: this is for a machine under load.
fn quickly() -> Duration {
    Duration::from_secs(3) * patience()
}

/// What may wait for a process that does not die: ten seconds, and some.
fn bounded() -> Duration {
    Duration::from_secs(10) + Duration::from_secs(4) * patience()
}

const SERVICE: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done";

fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
}

/// Not one on its last way through the kernel either (PF_EXITING): it is in its cgroup no more, and not yet a zombie.
fn lives(pid: i32) -> bool {
    const PF_EXITING: u64 = 0x4;
    let Some(fields) = stat_of(pid) else { return false };
    !fields[0].starts_with(['Z', 'X']) && fields[6].parse::<u64>().unwrap() & PF_EXITING == 0
}

fn state_of(pid: i32) -> Option<char> {
    stat_of(pid)?[0].chars().next()
}

/// /proc/PID/stat from its field 3 on.
fn stat_of(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// A state has no event to wait for.
#[track_caller]
fn until(what: &str, ready: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20) * patience();
    while !ready() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn quick<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    let took = begin.elapsed();
    eprintln!("{what}: {took:?}");
    assert!(took < quickly(), "{what} took {took:?}");
    result
}

/// State, processes and cgroups, before the harness cleans up.
#[track_caller]
fn nothing_left(t: &Test) {
    let left = Host::leftovers(t);
    assert!(left.is_empty(), "{left:#?}");
}

/// A running container whose script has said `up`.
#[track_caller]
fn running<'t>(t: &'t Test, b: &Bundle) -> Container<'t> {
    let c = t.create(b);
    c.start();
    t.wait_for(&t.dir, || c.output().contains("up"));
    c
}

/// The processes in the container's cgroup, its sub-cgroups left out.
fn pids(cgroups: &Cgroups) -> Vec<i32> {
    let text = fs::read_to_string(cgroups.dir("pids").join("cgroup.procs")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Waits for the end of a process, and leaves it unreaped.
#[track_caller]
fn ended(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let limit = Timespec { tv_sec: 20 * i64::from(patience()), tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap(), 1, "{pid:?} lives");
}

/// In front of the runtime: a mount namespace in which this command was run before.
fn with_mounts(run: Invocation, script: &str) -> Invocation {
    run.wrap(&["unshare", "--mount", "sh", "-c", &format!("{script}; exec \"$@\""), "sh"])
}

/// As on a host with v1 alone, where nothing kills a cgroup at once.
fn v1_alone(run: Invocation) -> Invocation {
    with_mounts(run, "umount /sys/fs/cgroup/unified")
}

fn hybrid() -> bool {
    v1("pids") && Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists()
}

/// Its create writes the pid of a hook that comes to no end to `dir`/up.
fn hanging<'b>(b: &'b mut Bundle, dir: &Path) -> &'b Bundle {
    let script = format!("echo $$ > {0}/pid; mv {0}/pid {0}/up; exec sleep 1000", dir.display());
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]});
    b.set("/hooks/createRuntime", json!([hook]))
}

/// A create that hangs in such a hook; both are killed with this.
struct Creator {
    run: Option<Running>,
    up: PathBuf,
}

impl Creator {
    #[track_caller]
    fn new(t: &Test, b: &mut Bundle) -> (String, Self) {
        let dir = t.scratch(&format!("hooks-{}", t.id()));
        let (id, create) = t.creation(hanging(b, &dir), &[]);
        let creator = Creator { run: Some(create.deadline(60).spawn()), up: dir.join("up") };
        t.wait_for(&dir, || creator.up.exists());
        (id, creator)
    }

    fn pid(&self) -> i32 {
        self.run.as_ref().unwrap().pid()
    }
}

impl Drop for Creator {
    fn drop(&mut self) {
        let hook = fs::read_to_string(&self.up).ok().and_then(|text| text.trim().parse().ok());
        let Some(run) = self.run.take() else { return };
        for pid in [Some(run.pid()), hook].into_iter().flatten() {
            nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).ok(); // It may have ended.
        }
        run.wait();
    }
}

/// Success, or one line.
#[track_caller]
fn tolerated(out: &Out, words: &[&str]) {
    if out.code != 0 {
        out.clean_error().says_any(words);
    }
}

// --- races --------------------------------------------------------------------------------------------------

fn locks() -> Case {
    oar_only("one of the two comes first, whatever the moment")
}

/// Two commands, the second one some microseconds later, more in each round.
fn together(round: u32, first: Invocation, second: Invocation) -> (Out, Out) {
    let first = first.spawn();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_micros(400) * round {
        std::hint::spin_loop();
    }
    let second = second.spawn();
    (first.wait(), second.wait())
}

#[test]
fn f44_create_and_delete_at_once() {
    run_case(locks(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let (mut made, mut refused) = (0, 0);
        for round in 0..40 {
            let (id, create) = t.creation(&b, &[]);
            let (created, deleted) = together(round, create, t.rt(&["delete", "--force", &id]));
            deleted.ok();
            tolerated(&created, &["does not exist", "already exists"]);
            let state = t.rt(&["state", &id]).run();
            match (created.code, state.code) {
                // Before it, or between its mkdir and its lock, when it makes the directory once more.
                (0, 0) => made += 1,
                // After it; a create that fails has left nothing.
                (_, _) => {
                    state.failed().says("does not exist");
                    refused += 1;
                }
            }
            t.rt(&["delete", "--force", &id]).run().ok();
        }
        eprintln!("{made} containers were there afterwards, {refused} were not");
        nothing_left(t);
    });
}

#[test]
fn f45_of_two_starts_one_succeeds() {
    run_case(locks(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        for round in 0..10 {
            let c = t.create(&b);
            let start = || t.rt(&["start", &c.id]);
            let (one, other) = together(round % 4, start(), start());
            assert_eq!(u8::from(one.code == 0) + u8::from(other.code == 0), 1, "{one}\n{other}");
            let refused = if one.code == 0 { other } else { one };
            refused.clean_error().says("already running");
            assert_eq!(c.status(), "running");
            c.verb(&["delete", "--force"]).ok();
        }
    });
}

#[test]
fn f45_start_or_kill_while_it_is_deleted() {
    run_case(locks(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        for round in 0..16 {
            let c = t.create(&b);
            let delete = t.rt(&["delete", "--force", &c.id]);
            let (other, deleted) = match round % 2 {
                0 => together(round, t.rt(&["start", &c.id]), delete),
                _ => together(round, t.rt(&["kill", &c.id, "TERM"]), delete),
            };
            deleted.ok();
            let ended =
                ["does not exist", "has stopped", "init ended", "no longer waits", "container not running"];
            tolerated(&other, &ended);
            c.wait();
        }
        nothing_left(t);
    });
}

#[test]
fn f48_delete_storm() {
    run_case(any(), |t| {
        const CONTAINERS: usize = 80;
        const AT_ONCE: usize = 8;
        let mut b = t.bundle();
        b.args(&["/bin/sleep", "1000"]);
        let ids: Vec<String> = (0..CONTAINERS).map(|_| t.id()).collect();
        let in_turn = |commands: Vec<Invocation>| {
            let mut running = std::collections::VecDeque::new();
            for command in commands {
                if running.len() == AT_ONCE {
                    running.pop_front().map(|run: Running| run.wait().ok().len());
                }
                running.push_back(command.spawn());
            }
            for run in running {
                run.wait().ok();
            }
        };
        for id in &ids {
            t.write(&b, id);
            t.rt(&["run", "--detach", "--bundle", b.dir.to_str().unwrap(), id]).run().ok();
        }
        let begin = Instant::now();
        in_turn(ids.iter().map(|id| t.rt(&["delete", "--force", id])).collect());
        let took = begin.elapsed();
        eprintln!("{CONTAINERS} containers deleted, {AT_ONCE} at once, in {took:?}");
        assert!(took < Duration::from_secs(20) * patience(), "{took:?}");
    });
}

// --- many processes -----------------------------------------------------------------------------------------

/// Sleeps, as children of the container's own process, which reaps none of them: it may have the last number of all, and
/// thus be the last to be killed.
fn many(b: &mut Bundle, count: usize) {
    let sleeps = format!("i=0; while [ $i -lt {count} ]; do sleep 1000 & i=$((i+1)); done");
    b.sh(&format!("{sleeps}; echo up; exec tail -f /dev/null"));
}

/// Waits for each of `all`, the container's own first: the others come to the case with its end.
#[track_caller]
fn wait_all(t: &Test, c: &Container<'_>, all: &[i32], code: i32) {
    assert_eq!(c.wait(), code);
    for pid in all.iter().filter(|pid| **pid != c.pid) {
        assert_eq!(t.wait_pid(*pid), code);
    }
}

/// None of the thousands is left out for want of descriptors.
#[test]
fn kill_all_reaches_thousands() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.without_namespace("pid");
        many(&mut b, 2000);
        let c = running(t, &b);
        let all = pids(&c.cgroups());
        assert_eq!(all.len(), 2001);
        // The limit of a login.
        let kill = t.rt(&["kill", "--all", &c.id, "TERM"]).wrap(&["prlimit", "--nofile=256:256"]);
        quick("kill --all of 2000", || kill.run().ok().len());
        wait_all(t, &c, &all, 143);
        assert_eq!(c.status(), "stopped");
        c.verb(&["delete"]).ok();
    });
}

#[test]
fn delete_of_thousands() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        many(&mut b, 2000);
        let c = running(t, &b);
        quick("delete --force of 2000", || c.verb(&["delete", "--force"]).ok().len());
        nothing_left(t);
    });
}

#[test]
fn thousands_without_cgroup_kill() {
    run_case(oar_only("a host with cgroup v1 alone").needs(hybrid(), "a hybrid host"), |t| {
        let mut b = t.bundle();
        b.without_namespace("pid");
        many(&mut b, 2000);
        let (id, create) = t.creation(&b, &[]);
        let c = t.container(id, &b, v1_alone(create).run());
        c.start();
        t.wait_for(&t.dir, || c.output().contains("up"));
        let all = pids(&c.cgroups());
        let delete = v1_alone(t.rt(&["delete", "--force", &c.id])).wrap(&["prlimit", "--nofile=256:256"]);
        quick("delete --force of 2000 by signals", || delete.run().ok().len());
        wait_all(t, &c, &all, 137);
        nothing_left(t);
    });
}

/// Forks for as long as it may, and again when it may not.
fn bomb(b: &mut Bundle) {
    b.set("/linux/resources/pids", json!({"limit": 300}));
    b.sh("f() { while :; do f & done; }; f 2>/dev/null & echo up; exec tail -f /dev/null");
}

#[test]
fn f49_a_fork_bomb() {
    run_case(any().needs(has_controller("pids"), "the pids controller"), |t| {
        for private in [true, false] {
            let mut b = t.bundle();
            bomb(&mut b);
            if !private {
                b.without_namespace("pid");
            }
            let c = t.create(&b);
            let cgroups = c.cgroups();
            c.start();
            until("the limit", || cgroups.count("pids", "pids.events", "max") > 0);
            quick("delete --force of a fork bomb", || c.verb(&["delete", "--force"]).ok().len());
            nothing_left(t);
        }
    });
}

#[test]
fn f49_a_fork_bomb_without_cgroup_kill() {
    run_case(oar_only("a host with cgroup v1 alone").needs(hybrid(), "a hybrid host"), |t| {
        let mut b = t.bundle();
        bomb(&mut b);
        b.without_namespace("pid");
        let (id, create) = t.creation(&b, &[]);
        let c = t.container(id, &b, v1_alone(create).run());
        let cgroups = c.cgroups();
        c.start();
        until("the limit", || cgroups.count("pids", "pids.events", "max") > 0);
        let delete = v1_alone(t.rt(&["delete", "--force", &c.id]));
        quick("delete --force of a fork bomb by signals", || delete.run().ok().len());
        nothing_left(t);
    });
}

// --- processes that do not die ------------------------------------------------------------------------------

/// A FUSE file system whose server never answers a lookup: who asks is in an uninterruptible sleep, until this ends.
struct Unanswered {
    place: PathBuf,
    asked: mpsc::Receiver<()>,
}

impl Unanswered {
    fn mount(t: &Test) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let place = t.scratch("fuse");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("unanswered"), &place, Some("fuse"), flags, Some(data.as_str())).unwrap();
        let (tell, asked) = mpsc::channel();
        thread::spawn(move || serve(device, &tell));
        Unanswered { place, asked }
    }

    #[track_caller]
    fn wait(&self) {
        self.asked.recv_timeout(Duration::from_secs(20) * patience()).expect("a lookup");
    }

    /// The kernel gives up on the server, and whoever waits for it goes on.
    fn end(&self) {
        umount2(&self.place, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        umount2(&self.place, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).ok(); // Ended already.
    }
}

/// linux/fuse.h: the root directory's attributes are all that it tells.
fn serve(mut device: File, asked: &mpsc::Sender<()>) {
    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const GETATTR: u32 = 3;
    const INIT: u32 = 26;
    const INTERRUPT: u32 = 36;
    const BATCH_FORGET: u32 = 42;
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = device.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        assert!(length >= 40);
        let (mut error, mut body) = (0_i32, Vec::new());
        match word(4) {
            LOOKUP => {
                asked.send(()).ok(); // The case has ended otherwise.
                continue;
            }
            FORGET | INTERRUPT | BATCH_FORGET => continue,
            INIT => {
                body.extend([7_u32, 31, 0, 0, 0, 4096, 1].iter().flat_map(|word| word.to_le_bytes()));
                body.resize(64, 0);
            }
            GETATTR => {
                body.resize(16, 0);
                body.extend([1_u64, 0, 0, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
                body.extend([0_u32, 0, 0, 0o40755, 2, 0, 0, 0, 512, 0].iter().flat_map(|w| w.to_le_bytes()));
            }
            _ => error = -(nix::errno::Errno::ENOSYS as i32),
        }
        let mut answer = (16 + body.len() as u32).to_le_bytes().to_vec();
        answer.extend(error.to_le_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body);
        device.write_all(&answer).ok(); // The asker may be gone.
    }
}

/// delete --force of a container with such a process says so in time, and succeeds later.
fn uninterruptible(private: bool) {
    let fuse = Path::new("/dev/fuse").exists();
    let case = any()
        .needs(fuse, "FUSE")
        .differs("runc", "1.1.5 names no process; without a pid namespace it forgets the container")
        .differs("crun", "1.8.1 forgets the container and leaves its cgroups");
    run_case(case, |t| {
        let unanswered = Unanswered::mount(t);
        let mut b = t.bundle();
        b.mount("/fuse", "bind", unanswered.place.to_str().unwrap(), &["bind"]);
        if !private {
            b.without_namespace("pid");
        }
        b.sh("cat /fuse/file & echo up; wait");
        let c = running(t, &b);
        unanswered.wait();
        let cgroups = c.cgroups();
        let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let stuck = pids(&cgroups).into_iter().find(|pid| name(*pid) == "cat\n").unwrap();
        // The signal is sent: that is all that kill does.
        quick("kill", || c.kill("KILL").ok().len());
        let begin = Instant::now();
        let out = c.verb(&["delete", "--force"]);
        assert!(begin.elapsed() < bounded(), "{:?}", begin.elapsed());
        out.clean_error().says(&format!("process {stuck} (cat) does")).says("state D");
        assert!(t.state_root().join(&c.id).exists(), "the record is kept");
        unanswered.end();
        quick("delete --force once it can die", || c.verb(&["delete", "--force"]).ok().len());
        nothing_left(t);
    });
}

#[test]
fn f50_a_process_that_cannot_die() {
    uninterruptible(true);
}

#[test]
fn f50_a_process_that_cannot_die_without_a_pid_namespace() {
    uninterruptible(false);
}

fn write_v1_freezer(cgroups: &Cgroups, state: &str) {
    let file = cgroups.dir("freezer").join("freezer.state");
    fs::write(&file, state).unwrap();
    // v1 has no event: a read makes the kernel look again.
    until(state, || fs::read_to_string(&file).unwrap().trim() == state);
}

fn freeze_v2(t: &Test, cgroups: &Cgroups) {
    let dir = cgroups.unified();
    fs::write(dir.join("cgroup.freeze"), "1").unwrap();
    t.wait_for(dir, || fs::read_to_string(dir.join("cgroup.events")).unwrap().contains("frozen 1"));
}

/// Freezes it with what the host has for it, as `pause` would.
fn freeze(t: &Test, cgroups: &Cgroups) {
    if v1("freezer") { write_v1_freezer(cgroups, "FROZEN") } else { freeze_v2(t, cgroups) }
}

/// Each way to stop a container's first process, and both ways to end it.
#[test]
fn f51_stopped_traced_or_frozen() {
    run_case(oar_only("either freezer of a hybrid host is paused, and SIGKILL thaws"), |t| {
        for how in ["stopped", "traced", "frozen v1", "frozen v2", "frozen below"] {
            if how == "frozen v1" && !v1("freezer") || how == "frozen below" && !v1("freezer") {
                continue;
            }
            for force in [true, false] {
                let mut b = t.bundle();
                b.sh(SERVICE);
                let c = running(t, &b);
                let cgroups = c.cgroups();
                match how {
                    "stopped" => {
                        signal(c.pid, Signal::SIGSTOP);
                        until("stopped", || state_of(c.pid) == Some('T'));
                    }
                    "traced" => {
                        nix::sys::ptrace::attach(Pid::from_raw(c.pid)).unwrap();
                        until("traced", || state_of(c.pid) == Some('t'));
                    }
                    "frozen v1" => write_v1_freezer(&cgroups, "FROZEN"),
                    "frozen v2" => freeze_v2(t, &cgroups),
                    _ => {
                        // What root in the container may do: only its child is frozen, in a cgroup of its own.
                        let below = cgroups.dir("freezer").join("below");
                        fs::create_dir(&below).unwrap();
                        // SERVICE makes it after it has said that it is up.
                        let child = || pids(&cgroups).into_iter().find(|pid| *pid != c.pid);
                        until("a child", || child().is_some());
                        let child = child().unwrap();
                        fs::write(below.join("cgroup.procs"), child.to_string()).unwrap();
                        fs::write(below.join("freezer.state"), "FROZEN").unwrap();
                    }
                }
                if how.starts_with("frozen v") {
                    assert_eq!(c.status(), "paused", "{how}");
                }
                let what = format!("{how}: {}", if force { "delete --force" } else { "kill" });
                quick(&what, || {
                    if force {
                        c.verb(&["delete", "--force"]).ok();
                    } else {
                        c.kill("KILL").ok();
                    }
                    ended(c.pid);
                });
                assert_eq!(c.wait(), 137, "{how}");
                if !force {
                    assert_eq!(c.status(), "stopped", "{how}");
                    c.verb(&["delete"]).ok();
                }
                nothing_left(t);
            }
        }
    });
}

/// A tracer may hold on to the process even after SIGKILL (ptrace(2), PTRACE_O_TRACEEXIT): this thread does.
#[test]
fn f51_held_by_its_tracer() {
    run_case(oar_only("the error names the tracer"), |t| {
        use nix::sys::ptrace::{Options, detach, seize};
        let mut b = t.bundle();
        b.sh(SERVICE);
        let c = running(t, &b);
        let pid = Pid::from_raw(c.pid);
        seize(pid, Options::PTRACE_O_TRACEEXIT).unwrap();
        let begin = Instant::now();
        let out = c.verb(&["delete", "--force"]);
        assert!(begin.elapsed() < bounded(), "{:?}", begin.elapsed());
        out.clean_error().says(&format!("process {pid} (sh)")).says("state t");
        out.says(&format!("process {} traces it", nix::unistd::gettid()));
        detach(pid, None).unwrap();
        quick("delete --force", || c.verb(&["delete", "--force"]).ok().len());
        nothing_left(t);
    });
}

#[test]
fn f52_a_zombie_is_stopped() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh("exit 3");
        let c = t.create(&b);
        c.start();
        ended(c.pid);
        assert_eq!(state_of(c.pid), Some('Z'));
        assert_eq!(c.status(), "stopped");
        c.kill("KILL").failed().says_any(&["container not running", "o such process", "already finished"]);
        c.verb(&["delete"]).ok();
        assert_eq!(state_of(c.pid), Some('Z'), "it is the parent's");
        assert_eq!(c.wait(), 3);
    });
}

/// clone(2) of a thread, the end of the first one, and pause(2) in the second.
const FIRST_THREAD_ENDS: &[u8] = &[
    0xb8, 56, 0, 0, 0, // mov eax, 56
    0xbf, 0x00, 0x0f, 0x01, 0x00, // mov edi, CLONE_VM|FS|FILES|SIGHAND|THREAD
    0x31, 0xf6, 0x31, 0xd2, 0x4d, 0x31, 0xd2, 0x4d, 0x31, 0xc0, // esi, edx, r10, r8 = 0
    0x0f, 0x05, 0x85, 0xc0, 0x74, 0x09, // syscall; test eax, eax; jz +9
    0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, // exit(0), of this thread
    0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7, // pause(), again and again
];

#[test]
fn f52_a_zombie_thread_is_not_the_process() {
    let case = any()
        .needs(cfg!(target_arch = "x86_64"), "x86_64: the program is machine code")
        .differs("runc", "1.1.5 calls it stopped")
        .differs("crun", "1.8.1 calls it stopped");
    run_case(case, |t| {
        let mut b = t.bundle();
        let path = b.rootfs().join("bin/first-thread-ends");
        write_program(&path, &runtime_tests::hand_made_program(62, None, FIRST_THREAD_ENDS));
        b.args(&["/bin/first-thread-ends"]);
        let c = t.create(&b);
        c.start();
        until("a first thread that has ended", || state_of(c.pid) == Some('Z'));
        assert_eq!(c.status(), "running");
        c.verb(&["delete"]).failed();
        c.kill("KILL").ok();
        assert_eq!(c.wait(), 137);
        assert_eq!(c.status(), "stopped");
        c.verb(&["delete"]).ok();
    });
}

// --- a shared pid namespace ---------------------------------------------------------------------------------

/// A container in the pid namespace of another one, or of the host, and a process of it beside its first one.
fn sharing<'t>(t: &'t Test, other: Option<&Container<'_>>, script: &str) -> (Container<'t>, i32) {
    let mut b = t.bundle();
    match other {
        Some(other) => b.namespace("pid", other.proc("ns/pid").to_str().unwrap()),
        None => b.without_namespace("pid"),
    };
    b.sh(script);
    let c = t.create(&b);
    let cgroups = c.cgroups();
    c.start();
    t.wait_for(&t.dir, || c.output().contains("up"));
    let beside = pids(&cgroups).into_iter().find(|pid| *pid != c.pid).expect("a process beside the first");
    (c, beside)
}

/// What an engine that knows nothing of the namespace says to end a container.
#[test]
fn kill_with_sigkill_ends_all_that_share_a_pid_namespace() {
    run_case(any().differs("runc", "1.1.5 wants --all").differs("crun", "1.8.1 wants --all"), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let other = running(t, &b);
        for namespace in [None, Some(&other)] {
            let (c, beside) = sharing(t, namespace, "sleep 1000 & echo up; wait");
            c.kill("KILL").ok();
            assert_eq!(c.wait(), 137);
            until("the other one's end", || matches!(state_of(beside), None | Some('Z' | 'X')));
            assert_eq!(c.status(), "stopped");
            c.verb(&["delete"]).ok();
            assert_eq!(other.status(), "running");
        }
    });
}

/// F-53, F-54: the first process has ended, another one goes on.
#[test]
fn f54_what_is_left_in_a_shared_pid_namespace() {
    run_case(any(), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let other = running(t, &b);
        let words = ["container not running", "o such process", "process already finished"];
        for namespace in [None, Some(&other)] {
            for how in [&["kill", "--all"][..], &["delete"], &["delete", "--force"]] {
                let (c, beside) = sharing(t, namespace, "setsid sleep 1000 & echo up; exit 0");
                c.wait();
                assert_eq!(c.status(), "stopped");
                c.kill("TERM").failed().says_any(&words);
                assert!(lives(beside));
                if how[0] == "kill" {
                    t.rt(&["kill", "--all", &c.id, "KILL"]).run().ok();
                    until("the other one's end", || matches!(state_of(beside), None | Some('Z' | 'X')));
                    t.rt(&["kill", "--all", &c.id, "KILL"]).run().ok();
                    c.verb(&["delete"]).ok();
                } else {
                    c.verb(how).ok();
                }
                assert!(!lives(beside), "{how:?}");
                assert_eq!(other.status(), "running");
            }
        }
    });
}

#[test]
fn f54_kill_of_a_dead_first_process_ends_the_rest_once() {
    run_case(
        oar_only("a success means that something was killed, and the next one says that nothing is left"),
        |t| {
            let (c, beside) = sharing(t, None, "setsid sleep 1000 & echo up; exit 0");
            c.wait();
            c.kill("TERM").clean_error().says("container not running");
            assert!(lives(beside));
            c.kill("KILL").ok();
            until("the other one's end", || matches!(state_of(beside), None | Some('Z' | 'X')));
            c.kill("KILL").clean_error().says("container not running");
            t.rt(&["kill", "--all", &c.id, "TERM"]).run().ok();
            t.rt(&["kill", "--all", &c.id, "KILL"]).run().ok();
            c.verb(&["delete"]).ok();
        },
    );
}

/// A signal that a process may handle reaches each one, whatever the namespace and the first process are.
#[test]
fn kill_all_with_a_signal_that_can_be_handled() {
    run_case(any(), |t| {
        let inner =
            "sh -c \"trap 'echo inner; exit 0' USR1; echo up; while :; do sleep 1000 & wait \\$!; done\"";
        // The first wait ends with the signal, the second one with the inner shell.
        let both = format!("trap 'echo outer' USR1; {inner} & wait $!; wait $!; exit 7");
        for (private, script) in [
            (true, both.clone()),
            (false, both),
            // The first one is gone.
            (false, format!("setsid {inner} & exit 7")),
        ] {
            let mut b = t.bundle();
            if !private {
                b.without_namespace("pid");
            }
            b.sh(&script);
            let c = running(t, &b);
            if !script.contains("outer") {
                c.wait();
            }
            t.rt(&["kill", "--all", &c.id, "USR1"]).run().ok();
            t.wait_for(&t.dir, || c.output().contains("inner"));
            if script.contains("outer") {
                t.wait_for(&t.dir, || c.output().contains("outer"));
                assert_eq!(c.wait(), 7);
            }
            c.verb(&["delete", "--force"]).ok();
        }
    });
}

// --- cgroups ------------------------------------------------------------------------------------------------

#[test]
fn f55_nested_threaded_and_delegated() {
    run_case(any().needs(hybrid(), "a hybrid host").differs("crun", "1.8.1 gets no cgroup2 here"), |t| {
        let mut b = t.bundle();
        b.sh("sleep 1000 & sleep 1000 & sleep 1000 & echo up; wait");
        let c = running(t, &b);
        let (cgroups, all) = (c.cgroups(), pids(&c.cgroups()));
        let inside: Vec<i32> = all.into_iter().filter(|pid| *pid != c.pid).collect();
        let enter = |dir: &Path, file: &str, pid: i32| {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join(file), pid.to_string()).unwrap();
        };
        // cgroup2: deep ones; a threaded one; one of a user, who has enabled a controller for those below.
        let top = cgroups.unified();
        enter(&top.join("deep/deeper/deepest"), "cgroup.procs", inside[0]);
        fs::create_dir_all(top.join("user/below")).unwrap();
        std::os::unix::fs::chown(top.join("user"), Some(1000), Some(1000)).unwrap();
        let available = fs::read_to_string(top.join("user/cgroup.controllers")).unwrap();
        for controller in available.split_whitespace() {
            fs::write(top.join("user/cgroup.subtree_control"), format!("+{controller}")).unwrap();
        }
        enter(&top.join("user/below"), "cgroup.procs", inside[2]);
        fs::create_dir(top.join("domain")).unwrap();
        enter(&top.join("domain"), "cgroup.procs", inside[1]);
        fs::create_dir(top.join("domain/threads")).unwrap();
        fs::write(top.join("domain/threads/cgroup.type"), "threaded").unwrap();
        fs::write(top.join("domain/threads/cgroup.threads"), inside[1].to_string()).unwrap();
        assert_eq!(fs::read_to_string(top.join("domain/cgroup.type")).unwrap().trim(), "domain threaded");
        // v1: one in each hierarchy.
        for controller in ["pids", "memory", "cpu", "freezer", "devices"].into_iter().filter(|name| v1(name))
        {
            enter(&cgroups.dir(controller).join("a/b/c"), "cgroup.procs", inside[0]);
        }
        quick("delete --force", || c.verb(&["delete", "--force"]).ok().len());
        nothing_left(t);
    });
}

/// A process that has gone to another cgroup of one hierarchy, and is in the container's of the others.
#[test]
fn f55_a_stray() {
    run_case(oar_only("not run on the peers").needs(hybrid(), "a hybrid host"), |t| {
        for left in ["unified", "pids"] {
            let (c, beside) = sharing(t, None, "setsid sleep 1000 & echo up; exec sleep 1000");
            fs::write(Path::new("/sys/fs/cgroup").join(left).join("cgroup.procs"), beside.to_string())
                .unwrap();
            quick("delete --force", || c.verb(&["delete", "--force"]).ok().len());
            assert!(!lives(beside), "{left}");
            nothing_left(t);
        }
    });
}

/// In front of the runtime: some of its attempts to remove a cgroup meet one that is in use.
fn busy(run: Invocation, when: &str) -> Invocation {
    run.wrap(&["strace", "-qq", "-o", "/dev/null", "-e", &format!("inject=unlinkat:error=EBUSY:when={when}")])
}

#[test]
fn f56_a_cgroup_that_is_busy() {
    run_case(oar_only("the error, and a record that is kept"), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        for times in [1, 3, 40] {
            let c = running(t, &b);
            let out = quick("some EBUSY", || {
                busy(t.rt(&["delete", "--force", &c.id]), &format!("1..{times}")).run()
            });
            out.ok();
            nothing_left(t);
        }
        let c = running(t, &b);
        let begin = Instant::now();
        let out = busy(t.rt(&["delete", "--force", &c.id]), "1+").run();
        assert!(begin.elapsed() < bounded(), "{:?}", begin.elapsed());
        out.clean_error().says("still in use").says("device or resource busy");
        assert_eq!(c.status(), "stopped", "the record is kept");
        c.verb(&["delete"]).ok();
        nothing_left(t);
    });
}

#[test]
fn f57_cgroups_that_are_gone() {
    run_case(any(), |t| {
        for verb in [&["delete"][..], &["delete", "--force"]] {
            let mut b = t.bundle();
            b.sh(SERVICE);
            let c = running(t, &b);
            let cgroups = c.cgroups();
            let (group, name) = (c.pid, c.id.clone());
            let mounts: Vec<PathBuf> =
                fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path()).collect();
            signal(group, Signal::SIGKILL);
            c.wait();
            let own = cgroups.dir("pids").strip_prefix("/sys/fs/cgroup").unwrap();
            let below = own.strip_prefix("pids").unwrap_or(own);
            assert!(below.ends_with(&name));
            for mount in
                mounts.iter().chain([&PathBuf::from("/sys/fs/cgroup")]).map(|mount| mount.join(below))
            {
                if mount.exists() {
                    until("an empty cgroup", || fs::remove_dir(&mount).is_ok());
                }
            }
            c.verb(verb).ok();
            nothing_left(t);
        }
    });
}

/// As in the mount namespace of an engine that was started otherwise.
#[test]
fn f57_hierarchies_that_are_not_mounted() {
    run_case(oar_only("a warning has the paths").needs(hybrid(), "a hybrid host"), |t| {
        for hierarchy in ["pids", "unified"] {
            let mut b = t.bundle();
            b.sh(SERVICE);
            let c = running(t, &b);
            let left = c.cgroups().dir("pids").to_path_buf();
            let left = Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join(left.strip_prefix("/sys/fs/cgroup/pids").unwrap());
            let unmounted = format!("umount /sys/fs/cgroup/{hierarchy}");
            let state = with_mounts(t.rt(&["state", &c.id]), &unmounted).run();
            assert!(state.ok().contains("running"), "{state}");
            let out = with_mounts(t.rt(&["delete", "--force", &c.id]), &unmounted).run();
            out.ok();
            out.says("not mounted").says(left.to_str().unwrap());
            until("an empty cgroup", || fs::remove_dir(&left).is_ok());
            nothing_left(t);
        }
    });
}

// --- identity -----------------------------------------------------------------------------------------------

/// In a pid namespace of its own, so that a pid can be had twice: `$1` is the runtime, `$2` its root, `$3` the bundle,
/// `$4` the id.
const PID_REUSE: &str = r#"
set -e
oar() { "$RT" --root "$ROOT" "$@"; }
RT=$1 ROOT=$2 ID=$4
oar create --bundle "$3" "$ID"
oar start "$ID"
pid=$(oar state "$ID" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
began() { cut -d ' ' -f 22 "/proc/$1/stat"; }
first=$(began "$pid")
kill -9 "$pid"
while [ -e "/proc/$pid" ]; do wait; done
while :; do
    echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid
    sleep 1000 & innocent=$!
    # The kernel tells of a start in hundredths of a second: not in the same one.
    [ "$innocent" = "$pid" ] && [ "$(began "$innocent")" != "$first" ] && break
    kill "$innocent"; wait "$innocent" || :
done
oar state "$ID" | sed -n 's/.*"status": *"\([a-z]*\)".*/state \1/p'
for verb in "kill $ID KILL" "kill --all $ID KILL" "start $ID" "events --stats $ID" "delete --force $ID"; do
    code=0; oar $verb 2>&1 || code=$?
    echo "$verb: $code" | sed "s/$ID //; s/ $ID//"
    kill -0 "$innocent" && echo "innocent lives"
done
kill "$innocent"
"#;

#[test]
fn f58_a_pid_that_was_had_before() {
    run_case(oar_only("the words, and kill --all of an ended container"), |t| {
        let mut b = t.bundle();
        b.sh(SERVICE);
        let id = t.id();
        t.write(&b, &id);
        let (runtime, root) = (t.runtime.to_str().unwrap(), t.state_root());
        let shell =
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", PID_REUSE, "bash"];
        let arguments = [runtime, root.to_str().unwrap(), b.dir.to_str().unwrap(), &id];
        let out = t.program(shell.iter().chain(&arguments).map(Into::into).collect()).run();
        let text = out.ok();
        for line in ["state stopped", "kill KILL: 1", "kill --all KILL: 0", "start: 1", "events --stats: 1"] {
            assert!(text.lines().any(|l| l == line), "{out}\nexpected: {line}");
        }
        assert!(text.contains("delete --force: 0"), "{out}");
        assert!(text.contains("container not running"), "{out}");
        assert_eq!(text.matches("innocent lives").count(), 5, "{out}");
    });
}

/// After a boot, pids of the record mean other processes; what bears one of them must not be touched.
#[test]
fn f59_another_boot() {
    run_case(oar_only("the boot is part of what a process is"), |t| {
        let mut b = t.bundle();
        b.sh("echo up; exec sleep 1000");
        let c = running(t, &b);
        let other = t.dir.join("boot-id");
        fs::write(&other, "00000000-0000-4000-8000-000000000000\n").unwrap();
        let file = "/proc/sys/kernel/random/boot_id";
        let rebooted = format!("mount --bind {} {file}", other.display());
        // No cgroup outlives a boot.
        let cgroups = c.cgroups();
        for dir in cgroups.all().filter(|dir| dir.ends_with(&c.id)) {
            fs::write(dir.parent().unwrap().join("cgroup.procs"), c.pid.to_string()).unwrap();
            fs::remove_dir(dir).unwrap();
        }
        let later = |verb: &[&str]| with_mounts(t.rt(verb), &rebooted).run();
        assert!(later(&["state", &c.id]).ok().contains("\"stopped\""));
        later(&["kill", &c.id, "KILL"]).clean_error().says("container not running");
        later(&["kill", "--all", &c.id, "KILL"]).ok();
        later(&["start", &c.id]).clean_error().says("stopped");
        later(&["delete", "--force", &c.id]).ok();
        assert!(lives(c.pid), "it is not the container's");
        signal(c.pid, Signal::SIGKILL);
        assert_eq!(c.wait(), 137);
    });
}

// --- a creator that does not come to an end -----------------------------------------------------------------

/// The creator may be an engine that has other containers: it is named, and not killed.
#[test]
fn a_create_that_hangs_is_named() {
    run_case(oar_only("the creator is named, and lives"), |t| {
        let mut b = t.bundle();
        let (id, creator) = Creator::new(t, &mut b);
        let begin = Instant::now();
        let out = t.rt(&["delete", "--force", &id]).run();
        assert!(begin.elapsed() < bounded(), "{:?}", begin.elapsed());
        let named = format!("process {} (oar) is creating it", creator.pid());
        out.clean_error().says("is busy").says(&named);
        drop(creator);
        quick("delete --force", || t.rt(&["delete", "--force", &id]).run().ok().len());
    });
}

// --- which verb in which state ------------------------------------------------------------------------------

const STATES: [&str; 6] = ["creating", "half made", "created", "running", "paused", "stopped"];

/// A verb before its id, words after it, and for each state `ok` or what the error says.
type Row = (&'static [&'static str], &'static [&'static str], [&'static str; 6]);

const BUSY: &str = "is creating it";
const NONE: &str = "container not running";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // verb               after      creating  half made   created  running            paused           stopped
    (&["state"],            &[],       ["ok",    "ok",       "ok",    "ok",              "ok",            "ok"]),
    (&["start"],            &[],       [BUSY,    "creating", "ok",    "already running", "paused",        "has stopped"]),
    (&["kill"],             &["TERM"], [NONE,    NONE,       "ok",    "ok",              "ok",            NONE]),
    (&["kill"],             &["KILL"], [NONE,    NONE,       "ok",    "ok",              "ok",            NONE]),
    (&["kill", "--all"],    &["TERM"], [NONE,    NONE,       "ok",    "ok",              "ok",            "ok"]),
    (&["kill", "--all"],    &["KILL"], [NONE,    NONE,       "ok",    "ok",              "ok",            "ok"]),
    (&["delete"],           &[],       [BUSY,    "ok",       "ok",    "not stopped: running", "not stopped: paused", "ok"]),
    (&["delete", "--force"], &[],      [BUSY,    "ok",       "ok",    "ok",              "ok",            "ok"]),
    (&["events", "--stats"], &[],      [NONE,    NONE,       "ok",    "ok",              "ok",            NONE]),
    (&["pause"],            &[],       [BUSY,    NONE,       "ok",    "ok",              "paused already", NONE]),
    (&["resume"],           &[],       [BUSY,    "not paused", "not paused", "not paused", "ok",           "not paused"]),
    (&["update", "--pids-limit", "50"], &[], [BUSY, NONE,    "ok",    "ok",              "ok",            NONE]),
    (&["ps"],               &[],       [NONE,    NONE,       "ok",    "ok",              "ok",            NONE]),
    (&["exec"],             &["true"], [BUSY,    NONE,       "ok",    "ok",              "paused",        NONE]),
];

/// One verb on a container of its own in that state, and what the table says of it.
struct Cell<'t> {
    id: String,
    expected: &'static str,
    command: Running,
    creator: Option<Creator>,
    container: Option<Container<'t>>,
}

fn cell<'t>(t: &'t Test, state: usize, row: &Row) -> Cell<'t> {
    let (verb, after, expected) = row;
    let mut b = t.bundle();
    b.sh(SERVICE);
    let (mut creator, mut container) = (None, None);
    let id = match STATES[state] {
        name @ ("creating" | "half made") => {
            let (id, hanging) = Creator::new(t, &mut b);
            if name == "creating" {
                creator = Some(hanging);
            }
            id
        }
        "created" => {
            let c = t.create(&b);
            let id = c.id.clone();
            container = Some(c);
            id
        }
        name => {
            let c = running(t, &b);
            match name {
                "paused" => freeze(t, &c.cgroups()),
                "stopped" => {
                    c.kill("KILL").ok();
                    c.wait();
                }
                _ => {}
            }
            let id = c.id.clone();
            container = Some(c);
            id
        }
    };
    let name = if STATES[state] == "half made" { "creating" } else { STATES[state] };
    let shown: Value = serde_json::from_str(t.rt(&["state", &id]).run().ok()).unwrap();
    assert_eq!(shown["status"], name);
    let command = t.rt(&[*verb, &[id.as_str()], after].concat()).spawn();
    Cell { id, expected: expected[state], command, creator, container }
}

/// features.md §1.14. All verbs of a state at once, each on a container of its own.
#[test]
fn every_verb_in_every_state() {
    run_case(oar_only("the words"), |t| {
        let mut wrong = Vec::new();
        for (state, name) in STATES.iter().enumerate() {
            let cells: Vec<_> = TABLE.iter().map(|row| cell(t, state, row)).collect();
            let mut ended = Vec::new();
            for cell in cells {
                let out = cell.command.wait();
                let as_told = match cell.expected {
                    "ok" => out.code == 0,
                    words => matches!(out.code, 1 | 255) && out.is_one_line() && out.stderr.contains(words),
                };
                if !as_told {
                    wrong.push(format!("{name}: {out}expected: {}", cell.expected));
                }
                ended.push((cell.id, cell.creator, cell.container));
            }
            for (id, creator, container) in ended {
                drop(creator);
                t.rt(&["delete", "--force", &id]).run().ok();
                drop(container);
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}
