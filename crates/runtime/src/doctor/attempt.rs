// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container is made of, tried in processes of our own that end with everything they have made.
//!
//! Judges nothing. Mounts are only made in a mount namespace that is new and private; nothing is written but the maps
//! of a new user namespace. The outcome of each step goes to [`super`].

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use coracle_sys::clone::{self, Spawn, Stage, UserNamespaceHolder};
use coracle_sys::{Errno, fd, mount, process};

use crate::{launch, lower};

/// Uid and gid of nobody, whom an ordinary user is tried as when root asks.
pub(crate) const NOBODY: u32 = 65534;

/// Ten times what it takes on a slow machine, in milliseconds.
const PATIENCE: i32 = 10_000;

const NAMESPACES: [(Step, u64); 6] = [
    (Step::Mount, clone::NEWNS),
    (Step::Pid, clone::NEWPID),
    (Step::Network, clone::NEWNET),
    (Step::Ipc, clone::NEWIPC),
    (Step::Uts, clone::NEWUTS),
    (Step::Cgroup, clone::NEWCGROUP),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Identity,
    User,
    Maps,
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    Private,
    Tmpfs,
    Overlay,
    Process,
    Proc,
}

const STEPS: [Step; 14] = [
    Step::Identity,
    Step::User,
    Step::Maps,
    Step::Mount,
    Step::Pid,
    Step::Network,
    Step::Ipc,
    Step::Uts,
    Step::Cgroup,
    Step::Private,
    Step::Tmpfs,
    Step::Overlay,
    Step::Process,
    Step::Proc,
];

impl Step {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::Identity => "become an ordinary user",
            Step::User => "make a user namespace",
            Step::Maps => "map an id into it",
            Step::Mount => "make a mount namespace",
            Step::Pid => "make a pid namespace",
            Step::Network => "make a network namespace",
            Step::Ipc => "make an ipc namespace",
            Step::Uts => "make a uts namespace",
            Step::Cgroup => "make a cgroup namespace",
            Step::Private => "make its mounts private",
            Step::Tmpfs => "mount a tmpfs",
            Step::Overlay => "mount an overlay",
            Step::Proc => "mount proc",
            Step::Process => "start a process in it",
        }
    }
}

/// What did not work, and why the rest is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub failures: Vec<(Step, Errno)>,
    pub unfinished: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// As nobody, instead of as the caller.
    pub nobody: bool,
    pub user_namespace: bool,
    /// Not where the kernel would have to load a module for it: that would change the host.
    pub overlay: bool,
    pub euid: u32,
    pub egid: u32,
}

pub(crate) fn namespaces(wanted: &Wanted) -> Attempt {
    let unfinished = |what: &str, errno: Errno| Attempt {
        unfinished: Some(format!("{what}: {}", errno.words())),
        ..Attempt::default()
    };
    let (uid, gid) = if wanted.nobody { (NOBODY, NOBODY) } else { (wanted.euid, wanted.egid) };
    // The child takes no memory: another thread of the caller may hold the allocator's lock.
    let (uid_map, gid_map) = (format!("0 {uid} 1\n"), format!("0 {gid} 1\n"));
    let (reader, writer) = match fd::pipe() {
        Ok((reader, writer)) => (File::from(OwnedFd::from(reader)), writer),
        Err(errno) => return unfinished("make a pipe", errno),
    };
    // No handler of the caller's runs in the child.
    let mask = match process::set_signal_mask(u64::MAX) {
        Ok(mask) => mask,
        Err(errno) => return unfinished("hold signals back", errno),
    };
    let forked = process::fork();
    if let Ok(None) = forked {
        Child { wanted, out: writer.number() }.work(uid_map.as_bytes(), gid_map.as_bytes());
        process::exit(0)
    }
    process::set_signal_mask(mask).ok(); // the set is the kernel's own
    drop(writer);
    let child = match forked {
        Ok(Some(child)) => child,
        Ok(None) => process::exit(0), // it has ended above
        Err(errno) => return unfinished("make a process", errno),
    };
    let ended = fd::wait_readable(child.pidfd.number(), Some(PATIENCE)).is_ok_and(|ended| ended);
    if let Err(error) = launch::end(&child) {
        return Attempt { unfinished: Some(error.message), ..Attempt::default() };
    }
    let mut bytes = Vec::new();
    let read = { &reader }.read_to_end(&mut bytes);
    let mut attempt = parse(&bytes);
    if let Err(error) = read {
        attempt.unfinished = Some(format!("read what it said: {error}"));
    } else if !ended {
        attempt.unfinished = Some("it did not end within ten seconds".into());
    }
    attempt
}

/// Records of five bytes: a step and its errno; the last one is [`DONE`].
fn parse(bytes: &[u8]) -> Attempt {
    let mut attempt = Attempt { unfinished: Some("its process was killed".into()), ..Attempt::default() };
    for record in bytes.chunks(RECORD) {
        let &[step, a, b, c, d] = record else { break };
        if step == DONE {
            attempt.unfinished = None;
        } else if let Some(step) = STEPS.get(usize::from(step)) {
            attempt.failures.push((*step, Errno(i32::from_le_bytes([a, b, c, d]))));
        }
    }
    attempt
}

const RECORD: usize = 5;
const DONE: u8 = u8::MAX;

/// In the forked process: system calls and nothing else.
struct Child<'a> {
    wanted: &'a Wanted,
    out: i32,
}

impl Child<'_> {
    fn say(&self, step: u8, errno: i32) {
        let [a, b, c, d] = errno.to_le_bytes();
        fd::write_all(self.out, &[step, a, b, c, d]).ok(); // then the parent misses it, and says so
    }

    fn worked(&self, step: Step, result: Result<(), Errno>) -> bool {
        if let Err(errno) = result {
            self.say(step as u8, errno.0);
        }
        result.is_ok()
    }

    fn work(&self, uid_map: &[u8], gid_map: &[u8]) {
        process::set_parent_death_signal(libc::SIGKILL).ok(); // a valid signal
        self.steps(uid_map, gid_map);
        self.say(DONE, 0);
    }

    fn steps(&self, uid_map: &[u8], gid_map: &[u8]) {
        if self.wanted.nobody && !self.worked(Step::Identity, become_nobody()) {
            return;
        }
        if self.wanted.user_namespace
            && !(self.worked(Step::User, process::unshare(clone::NEWUSER))
                && self.worked(Step::Maps, write_maps(uid_map, gid_map)))
        {
            return;
        }
        let mut made = 0;
        for (step, flag) in NAMESPACES {
            if self.worked(step, process::unshare(flag)) {
                made |= flag;
            }
        }
        // From here on it would be the caller's mounts.
        if made & clone::NEWNS == 0 || !self.worked(Step::Private, make_private()) {
            return;
        }
        if self.worked(Step::Tmpfs, mount_tmpfs()) && self.wanted.overlay {
            self.worked(Step::Overlay, mount_overlay());
        }
        if made & clone::NEWPID != 0 {
            self.worked(Step::Process, self.process_in_pid_namespace());
        }
    }

    /// The mount is made by the process: a procfs is of the pid namespace that its maker is in.
    fn process_in_pid_namespace(&self) -> Result<(), Errno> {
        match process::fork()? {
            Some(child) => process::wait(child.pidfd.number()).map(drop),
            None => {
                process::set_parent_death_signal(libc::SIGKILL).ok(); // a valid signal
                self.worked(Step::Proc, make_filesystem(c"proc", &[]).map(drop));
                process::exit(0)
            }
        }
    }
}

fn become_nobody() -> Result<(), Errno> {
    process::set_groups(&[])?;
    process::set_gid(NOBODY)?;
    process::set_uid(NOBODY)?;
    // Both are lost with the old identity. Undumpable, its files in procfs would be root's.
    process::set_dumpable(true)?;
    process::set_parent_death_signal(libc::SIGKILL)
}

fn write_maps(uid_map: &[u8], gid_map: &[u8]) -> Result<(), Errno> {
    let write = |path: &CStr, bytes: &[u8]| {
        let file = fd::openat(libc::AT_FDCWD, path, libc::O_WRONLY, 0)?;
        fd::write_all(file.number(), bytes)
    };
    write(c"/proc/self/setgroups", b"deny")?;
    write(c"/proc/self/uid_map", uid_map)?;
    write(c"/proc/self/gid_map", gid_map)
}

fn make_private() -> Result<(), Errno> {
    let root = fd::openat(libc::AT_FDCWD, c"/", libc::O_PATH, 0)?;
    let private = mount::Setattr { propagation: mount::MS_PRIVATE, ..Default::default() };
    mount::setattr(root.number(), true, &private)
}

fn make_filesystem(fstype: &CStr, options: &[(&CStr, &CStr)]) -> Result<fd::Fd, Errno> {
    let context = mount::fsopen(fstype)?;
    for (key, value) in options {
        match value.is_empty() {
            true => mount::fsconfig_flag(context.number(), key)?,
            false => mount::fsconfig_string(context.number(), key, value)?,
        }
    }
    mount::fsconfig_create(context.number())?;
    mount::fsmount(context.number(), mount::ATTR_NOSUID | mount::ATTR_NODEV)
}

/// Attached over the root of the private namespace, which needs no directory of the host; the working directory is in it.
fn mount_tmpfs() -> Result<(), Errno> {
    let root = fd::openat(libc::AT_FDCWD, c"/", libc::O_PATH, 0)?;
    let tmpfs = make_filesystem(c"tmpfs", &[])?;
    mount::attach(tmpfs.number(), root.number())?;
    mount::fchdir(tmpfs.number())
}

fn mount_overlay() -> Result<(), Errno> {
    for name in [c"lower", c"upper", c"work"] {
        fd::mkdirat(libc::AT_FDCWD, name, 0o700)?;
    }
    let directories: [(&CStr, &CStr); 4] =
        [(c"lowerdir", c"lower"), (c"upperdir", c"upper"), (c"workdir", c"work"), (c"userxattr", c"")];
    make_filesystem(c"overlay", &directories).map(drop)
}

/// Init, started as every container's is, with nothing to do.
pub(crate) fn init(namespaces: u64) -> Result<(), String> {
    let program = lower::sealed(c"oar-doctor", launch::INIT, true).map_err(|error| error.message)?;
    let spawned = clone::spawn(&Spawn {
        namespaces,
        join: &[],
        cgroup: None,
        time_offsets: b"",
        program: program.as_raw_fd(),
        // No number of a descriptor: it ends at once.
        args: &[c"oar-init", c"none"],
        inherit: &[],
    });
    let child = spawned.map_err(|(stage, errno)| {
        let what = match stage {
            Stage::Clone => "make its process and namespaces",
            Stage::Ambient => "keep capabilities in the new user namespace",
            Stage::Execute => "execute init",
            Stage::Join(_) | Stage::TimeNamespace | Stage::Inherit => "prepare init",
        };
        format!("{what}: {}", errno.words())
    })?;
    match process::wait(child.pidfd.number()) {
        Ok(process::Exit::Signal(signal)) => Err(format!("init was killed by signal {signal}")),
        // Nobody is there to be waited for where the caller ignores SIGCHLD.
        Ok(process::Exit::Code(_)) | Err(Errno(libc::ECHILD)) => Ok(()),
        Err(errno) => Err(format!("wait for init: {}", errno.words())),
    }
}

/// The namespaces that every container has, for [`init`].
pub(crate) fn every_namespace(user_namespace: bool) -> u64 {
    let every = NAMESPACES.iter().fold(0, |flags, (_, flag)| flags | flag);
    every | if user_namespace { clone::NEWUSER } else { 0 }
}

/// One of newuidmap(1) and newgidmap(1), with a user namespace that ends afterwards: the own id as 0, the range from 1 on.
pub(crate) fn map(tool: &str, own: u32, (start, count): (u32, u32)) -> Result<(), String> {
    let holder =
        UserNamespaceHolder::new().map_err(|errno| format!("make a user namespace: {}", errno.words()))?;
    let numbers = [holder.pid() as u32, 0, own, 1, 1, start, count].map(|number| number.to_string());
    let output = Command::new(tool).args(numbers).output().map_err(|error| format!("run {tool}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default().trim();
    Err(if said.is_empty() { format!("{tool}: {}", output.status) } else { said.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_says_is_read() {
        assert_eq!(parse(&[DONE, 0, 0, 0, 0]), Attempt::default());
        let killed = Some("its process was killed".to_string());
        assert_eq!(parse(&[]).unfinished, killed);
        let one = parse(&[Step::Overlay as u8, 1, 0, 0, 0, DONE, 0, 0, 0, 0]);
        assert_eq!(one, Attempt { failures: vec![(Step::Overlay, Errno::PERM)], unfinished: None });
        let cut = parse(&[Step::User as u8, 28, 0, 0, 0, DONE, 0]);
        assert_eq!(cut, Attempt { failures: vec![(Step::User, Errno(28))], unfinished: killed });
        assert_eq!(parse(&[77, 1, 0, 0, 0, DONE, 0, 0, 0, 0]), Attempt::default(), "no such step");
    }

    #[test]
    fn steps_are_found_by_their_number() {
        for (at, step) in STEPS.iter().enumerate() {
            assert_eq!(*step as usize, at, "{step:?}");
        }
    }

    #[test]
    fn an_attempt_leaves_the_caller_where_it_was() {
        let look = || {
            let link = |name: &str| std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap();
            let names = ["mnt", "pid_for_children", "net", "ipc", "uts", "cgroup", "user"];
            (names.map(link), std::fs::read_to_string("/proc/self/mountinfo").unwrap())
        };
        let before = look();
        let (euid, egid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let wanted = Wanted { nobody: false, user_namespace: true, overlay: false, euid, egid };
        let attempt = namespaces(&wanted);
        assert_eq!(attempt.unfinished, None);
        assert_eq!(look(), before);
    }
}
