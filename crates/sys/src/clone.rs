// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting init without copying the caller: clone3(2) with the caller's memory shared until execveat(2).
//!
//! The child runs [`child`] on a stack of its own while the calling thread is suspended (CLONE_VFORK). It makes
//! system calls only: nothing of the caller's Rust state, locks or thread-local storage is touched, so the caller
//! may have other threads. When namespaces are joined, a second such process goes between, which enters them and
//! then clones init as a child of the caller (CLONE_PARENT).

use core::arch::global_asm;
use core::ffi::{CStr, c_char, c_void};

use crate::raw::*;
use crate::{Errno, Fd, Result, fd, process};

pub const NEWTIME: u64 = 0x80;
pub const NEWNS: u64 = 0x0002_0000;
pub const NEWCGROUP: u64 = 0x0200_0000;
pub const NEWUTS: u64 = 0x0400_0000;
pub const NEWIPC: u64 = 0x0800_0000;
pub const NEWUSER: u64 = 0x1000_0000;
pub const NEWPID: u64 = 0x2000_0000;
pub const NEWNET: u64 = 0x4000_0000;

const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
// libc has 0 for this one.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// struct clone_args (clone3(2)), as of Linux 5.7.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// How to start init.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Namespaces to make (NEW* flags), CLONE_NEWTIME among them.
    pub namespaces: u64,
    /// (descriptor, NEW* flags) of namespaces to enter first, a user namespace among them last. A pidfd may have
    /// several flags.
    pub join: &'a [(i32, u64)],
    /// Directory of the cgroup2 to be born in.
    pub cgroup: Option<i32>,
    /// What to write to /proc/self/timens_offsets in a new time namespace.
    pub time_offsets: &'a [u8],
    /// The open program (a sealed memfd), and its arguments; the environment is empty.
    pub program: i32,
    pub args: &'a [&'a CStr],
    /// Descriptors that survive the exec, besides 0, 1, 2 and what is not close-on-exec already.
    pub inherit: &'a [i32],
}

/// Init, started.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: Fd,
}

/// Which part of starting init failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Clone,
    /// Entering the n-th of the namespaces to join.
    Join(usize),
    Ambient,
    TimeNamespace,
    Inherit,
    Execute,
}

const STACK: usize = 64 * 1024;
const MAX_ARGS: usize = 4;

/// Shared with the child while the caller is suspended.
struct Shared<'a> {
    spawn: &'a Spawn<'a>,
    args: [*const c_char; MAX_ARGS + 1],
    failure: Option<(Stage, Errno)>,
    pid: i32,
    pidfd: i32,
    stack: usize,
}

// clone_call(args, size, shared, entry): clone3, and in the child call entry(shared) on the new stack; it never
// returns there. In the caller, the result of the system call.
global_asm!(
    ".globl coracle_clone_call",
    "coracle_clone_call:",
    "mov r8, rdx",
    "mov r9, rcx",
    "mov eax, 435",
    "syscall",
    "test rax, rax",
    "jnz 2f",
    "xor ebp, ebp",
    "mov rdi, r8",
    "call r9",
    "ud2",
    "2:",
    "ret",
);

unsafe extern "C" {
    fn coracle_clone_call(
        args: *const CloneArgs,
        size: usize,
        shared: *mut c_void,
        entry: unsafe extern "C" fn(*mut c_void) -> !,
    ) -> isize;
}

/// clone3 with shared memory, running `entry` in the child.
///
/// # Safety
/// `args` must have CLONE_VM and CLONE_VFORK set and a stack that nothing else uses; `entry` must only make system
/// calls and work on `shared`, and must never return or unwind.
unsafe fn clone_call(
    args: &CloneArgs,
    shared: *mut Shared<'_>,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
) -> Result<i32> {
    // SAFETY: the caller's promise; the assembly keeps to the C calling convention.
    let result = unsafe { coracle_clone_call(args, size_of::<CloneArgs>(), shared.cast(), entry) };
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as i32) }
}

impl Spawn<'_> {
    /// Where cgroup2 is mounted with nsdelegate, a process in a cgroup namespace cannot clone into a cgroup that the
    /// namespace does not show (cgroup_procs_write_permission() in the kernel). So this process is then born in the
    /// cgroup before it joins, and counts there until init is made.
    fn joins_cgroup_namespace(&self) -> bool {
        self.join.iter().any(|(_, flags)| flags & NEWCGROUP != 0)
    }

    fn born_in_cgroup(&self, args: &mut CloneArgs) {
        if let Some(cgroup) = self.cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup as u64;
        }
    }

    fn makes_or_joins_user_namespace(&self) -> bool {
        self.namespaces & NEWUSER != 0 || self.join.iter().any(|(_, flags)| flags & NEWUSER != 0)
    }
}

/// Start init. The calling thread is suspended until init runs, or failed to.
pub fn spawn(spawn: &Spawn<'_>) -> core::result::Result<Child, (Stage, Errno)> {
    let mut args = [core::ptr::null(); MAX_ARGS + 1];
    if spawn.args.len() > MAX_ARGS {
        return Err((Stage::Clone, Errno::INVAL));
    }
    for (slot, arg) in args.iter_mut().zip(spawn.args) {
        *slot = arg.as_ptr();
    }
    // Two stacks: the child's, and the one of the process between. Fresh pages, unmapped below.
    // SAFETY: a new anonymous mapping disturbs no other memory.
    let stacks = unsafe {
        syscall6(
            libc::SYS_mmap,
            0,
            2 * STACK,
            (libc::PROT_READ | libc::PROT_WRITE) as usize,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK) as usize,
            usize::MAX,
            0,
        )
    }
    .map_err(|errno| (Stage::Clone, errno))?;
    let mut shared = Shared { spawn, args, failure: None, pid: -1, pidfd: -1, stack: stacks };

    // No signal handler of the caller may run in the child, which shares the caller's memory.
    let mask = process::set_signal_mask(u64::MAX).map_err(|errno| (Stage::Clone, errno))?;
    // In a namespace with others, the child could be looked into while it still is the caller's memory
    // (CVE-2016-9962).
    let hide = !spawn.join.is_empty() && process::is_dumpable().unwrap_or(true);
    // The kernel wakes whoever waits for a vfork before the new process has left the old memory, and closes its
    // close-on-exec descriptors after that (kernel fs/exec.c, begin_new_exec()).
    let mut left = None;
    if hide {
        match fd::pipe() {
            Ok(ends) => left = Some(ends),
            Err(errno) => {
                process::set_signal_mask(mask).ok(); // the set is the kernel's own
                return Err((Stage::Clone, errno));
            }
        }
        process::set_dumpable(false).ok(); // a value that the kernel knows
    }
    let result = if spawn.join.is_empty() {
        // SAFETY: `child` keeps to the rules of clone_call, on the first stack.
        unsafe { clone_init(&raw mut shared, 0) }
    } else {
        spawn_between(&mut shared, stacks)
    };
    if let Some((read, write)) = left {
        drop(write);
        // It takes no time; a thread of the caller that has just forked may hold a copy for a little longer.
        fd::wait_readable(read.number(), Some(1000)).ok(); // see above
        process::set_dumpable(true).ok(); // it was a moment ago
    }
    process::set_signal_mask(mask).ok(); // the set is the kernel's own
    // SAFETY: both processes that used the mapping have ended or left this memory by execve.
    unsafe { syscall2(libc::SYS_munmap, stacks, 2 * STACK) }.ok(); // at worst the pages stay

    let pidfd = (shared.pidfd >= 0).then(|| Fd::own(shared.pidfd));
    let failure = shared.failure.or(result.err().map(|errno| (Stage::Clone, errno)));
    match (failure, pidfd) {
        (None, Some(pidfd)) => Ok(Child { pid: shared.pid, pidfd }),
        (failure, pidfd) => {
            if let Some(pidfd) = pidfd {
                process::pidfd_send_signal(pidfd.number(), libc::SIGKILL).ok(); // it may have ended already
                // It exits by itself after recording the failure; an error of reaping it changes nothing here.
                process::wait(pidfd.number()).ok(); // see above
            }
            Err(failure.unwrap_or((Stage::Clone, Errno::INVAL)))
        }
    }
}

/// The clone of init itself.
///
/// # Safety
/// `shared` must be valid and used by nobody else until this returns, its stack mapping unused in the first half.
unsafe fn clone_init(shared: *mut Shared<'_>, extra: u64) -> Result<()> {
    // SAFETY: valid by the caller's promise.
    let state = unsafe { &mut *shared };
    let mut args = CloneArgs {
        flags: CLONE_VM | CLONE_VFORK | CLONE_PIDFD | extra | (state.spawn.namespaces & !NEWTIME),
        pidfd: &raw mut state.pidfd as u64,
        exit_signal: if extra & CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 },
        stack: state.stack as u64,
        stack_size: STACK as u64,
        ..Default::default()
    };
    // Behind a process that was born there, it is there as well.
    if extra & CLONE_PARENT == 0 || !state.spawn.joins_cgroup_namespace() {
        state.spawn.born_in_cgroup(&mut args);
    }
    // SAFETY: `child` keeps to the rules, the stack is the first half of a mapping made for it.
    let pid = unsafe { clone_call(&args, shared, child) }?;
    // SAFETY: the child has left this memory.
    unsafe { (*shared).pid = pid };
    Ok(())
}

/// Put a process between, which joins the namespaces. It shares the caller's descriptors, so that init's pidfd
/// arrives there.
fn spawn_between(shared: &mut Shared<'_>, stacks: usize) -> Result<()> {
    let mut pidfd = -1i32;
    let mut args = CloneArgs {
        flags: CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: (stacks + STACK) as u64,
        stack_size: STACK as u64,
        ..Default::default()
    };
    if shared.spawn.joins_cgroup_namespace() {
        shared.spawn.born_in_cgroup(&mut args);
    }
    // SAFETY: `between` keeps to the rules, the stack is the second half of a mapping made for it.
    unsafe { clone_call(&args, shared, between) }?;
    let pidfd = Fd::own(pidfd);
    match process::wait(pidfd.number()) {
        // A caller that ignores SIGCHLD has no zombies to wait for: it has ended, which is what matters.
        Err(Errno(libc::ECHILD)) => Ok(()),
        other => other.map(drop),
    }
}

unsafe extern "C" fn between(shared: *mut c_void) -> ! {
    let shared = shared.cast::<Shared<'_>>();
    // SAFETY: the caller of clone_call is suspended, so this process alone uses it.
    let state = unsafe { &mut *shared };
    // A namespace may be owned by the caller's user namespace, or by the one that is joined: try the first while
    // the caller's capabilities are there, what was not permitted again after.
    let mut refused = 0u64;
    let mut failure = None;
    for pass in 0..2 {
        for (index, (namespace, flags)) in state.spawn.join.iter().enumerate() {
            if *flags == NEWTIME || (pass == 1 && refused & flags == 0) {
                continue;
            }
            match process::setns(*namespace, *flags) {
                Ok(()) => {}
                Err(Errno::PERM) if pass == 0 && flags & NEWUSER == 0 => refused |= flags,
                Err(errno) => {
                    failure = failure.or(Some((Stage::Join(index), errno)));
                }
            }
        }
    }
    state.failure = failure;
    if failure.is_none() {
        // SAFETY: this process alone uses `shared`, and runs on the second stack.
        let result = unsafe { clone_init(shared, CLONE_PARENT) };
        if let Err(errno) = result {
            // SAFETY: as above; init was not made.
            unsafe { (*shared).failure = Some((Stage::Clone, errno)) };
        }
    }
    process::exit(0)
}

unsafe extern "C" fn child(shared: *mut c_void) -> ! {
    let shared = shared.cast::<Shared<'_>>();
    // SAFETY: whoever cloned this process is suspended, so this process alone uses it.
    let state = unsafe { &mut *shared };
    let failure = become_init(state.spawn, &state.args);
    state.failure = Some(failure);
    process::exit(127)
}

/// The last of what needs the caller's memory: then execveat(2). Returns what failed.
fn become_init(spawn: &Spawn<'_>, args: &[*const c_char; MAX_ARGS + 1]) -> (Stage, Errno) {
    if spawn.makes_or_joins_user_namespace()
        && let Err(errno) = keep_capabilities_across_exec()
    {
        return (Stage::Ambient, errno);
    }
    if spawn.namespaces & NEWTIME != 0
        && let Err(errno) = enter_time_namespace(spawn.time_offsets)
    {
        return (Stage::TimeNamespace, errno);
    }
    for descriptor in spawn.inherit {
        if let Err(errno) = fd::set_cloexec(*descriptor, false) {
            return (Stage::Inherit, errno);
        }
    }
    let environment: [*const c_char; 1] = [core::ptr::null()];
    // SAFETY: null-terminated arrays of strings that live in the suspended caller.
    let result = unsafe {
        syscall5(
            libc::SYS_execveat,
            spawn.program as usize,
            c"".as_ptr() as usize,
            args.as_ptr() as usize,
            environment.as_ptr() as usize,
            libc::AT_EMPTY_PATH as usize,
        )
    };
    (Stage::Execute, result.err().unwrap_or(Errno::INVAL))
}

/// In a user namespace without maps the process is not root, and execve would take its capabilities: inheritable
/// and ambient ones stay (capabilities(7)).
fn keep_capabilities_across_exec() -> Result<()> {
    let mut sets = process::capget()?;
    sets.inheritable = sets.permitted;
    process::capset(&sets)?;
    for capability in 0..64 {
        match process::raise_ambient(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            // Not permitted here: it was not in the permitted set.
            Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The offsets can be set until a process is in the namespace; this one enters at its execve (Linux 6.1).
fn enter_time_namespace(offsets: &[u8]) -> Result<()> {
    process::unshare(NEWTIME)?;
    if offsets.is_empty() {
        return Ok(());
    }
    let file = fd::openat(libc::AT_FDCWD, c"/proc/self/timens_offsets", libc::O_WRONLY, 0)?;
    fd::write_all(file.number(), offsets)
}

/// A process that only keeps a new user namespace alive, so that its maps can be written and it can be opened. It
/// ends when this is dropped, or with the calling thread.
#[derive(Debug)]
pub struct UserNamespaceHolder {
    child: Child,
    stack: usize,
}

impl UserNamespaceHolder {
    pub fn new() -> Result<UserNamespaceHolder> {
        // SAFETY: a new anonymous mapping disturbs no other memory.
        let stack = unsafe {
            syscall6(
                libc::SYS_mmap,
                0,
                STACK,
                (libc::PROT_READ | libc::PROT_WRITE) as usize,
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK) as usize,
                usize::MAX,
                0,
            )
        }?;
        let mut pidfd = -1i32;
        let args = CloneArgs {
            flags: CLONE_VM | CLONE_PIDFD | NEWUSER,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack as u64,
            stack_size: STACK as u64,
            ..Default::default()
        };
        // All signals stay blocked in the child: no handler of the caller runs there.
        let mask = process::set_signal_mask(u64::MAX)?;
        // SAFETY: `hold` makes system calls only, on a stack of its own that lives as long as it does.
        let pid = unsafe {
            coracle_clone_call(&args, size_of::<CloneArgs>(), process::pid() as usize as *mut c_void, hold)
        };
        process::set_signal_mask(mask).ok(); // the set is the kernel's own
        if pid < 0 {
            // SAFETY: nobody uses the mapping.
            unsafe { syscall2(libc::SYS_munmap, stack, STACK) }.ok(); // at worst the pages stay
            return Err(Errno(-pid as i32));
        }
        Ok(UserNamespaceHolder { child: Child { pid: pid as i32, pidfd: Fd::own(pidfd) }, stack })
    }

    pub fn pid(&self) -> i32 {
        self.child.pid
    }
}

impl Drop for UserNamespaceHolder {
    fn drop(&mut self) {
        process::pidfd_send_signal(self.child.pidfd.number(), libc::SIGKILL).ok(); // ESRCH: it has ended
        match process::wait(self.child.pidfd.number()) {
            // Ended for certain, also where a caller ignores SIGCHLD: the kernel waits for the end either way.
            Ok(_) | Err(Errno(libc::ECHILD)) => {
                // SAFETY: the only process that used the mapping has ended.
                unsafe { syscall2(libc::SYS_munmap, self.stack, STACK) }.ok(); // at worst the pages stay
            }
            // The pages stay with a process that may still use them.
            Err(_) => {}
        }
    }
}

unsafe extern "C" fn hold(parent: *mut c_void) -> ! {
    process::set_parent_death_signal(libc::SIGKILL).ok(); // a valid signal
    // Had it died before that line, somebody else would be the parent now.
    if process::parent() != parent as usize as i32 {
        process::exit(0)
    }
    loop {
        // SAFETY: no pointers.
        unsafe { syscall0(libc::SYS_pause) }.ok(); // nothing but SIGKILL ends it
    }
}

/// Which kind of namespace is this (NS_GET_NSTYPE, ioctl_ns(2))? ENOTTY when it is none.
pub fn namespace_type(namespace: i32) -> Result<u64> {
    const NS_GET_NSTYPE: usize = 0xb703;
    // SAFETY: the request takes no argument.
    unsafe { syscall2(libc::SYS_ioctl, namespace as usize, NS_GET_NSTYPE) }.map(|kind| kind as u64)
}

/// The pid or user namespace above this one (NS_GET_PARENT, ioctl_ns(2)). EPERM when it is not below the caller's own.
pub fn parent_namespace(namespace: i32) -> Result<Fd> {
    const NS_GET_PARENT: usize = 0xb702;
    // SAFETY: the request takes no argument.
    let parent = unsafe { syscall2(libc::SYS_ioctl, namespace as usize, NS_GET_PARENT) }?;
    Ok(Fd::own(parent as i32))
}

/// The user namespace that a namespace of another kind belongs to (NS_GET_USERNS, ioctl_ns(2)). EPERM when that is neither
/// the caller's own nor below it.
pub fn owning_namespace(namespace: i32) -> Result<Fd> {
    const NS_GET_USERNS: usize = 0xb701;
    // SAFETY: the request takes no argument.
    let owner = unsafe { syscall2(libc::SYS_ioctl, namespace as usize, NS_GET_USERNS) }?;
    Ok(Fd::own(owner as i32))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::process::Exit;

    /// The program under test is this test's own: run with arguments that select nothing, it ends with 0.
    fn start(namespaces: u64, join: &[(i32, u64)]) -> core::result::Result<Exit, (Stage, Errno)> {
        let program = File::open("/proc/self/exe").unwrap();
        let spawned = spawn(&Spawn {
            namespaces,
            join,
            cgroup: None,
            time_offsets: if namespaces & NEWTIME != 0 { b"monotonic 1000 0\n" } else { b"" },
            program: program.as_raw_fd(),
            args: &[c"test", c"--exact", c"no such test", c"--quiet"],
            inherit: &[],
        })?;
        assert!(spawned.pid > 1);
        Ok(process::wait(spawned.pidfd.number()).unwrap())
    }

    #[test]
    fn a_child_runs_and_is_reaped() {
        assert_eq!(start(0, &[]), Ok(Exit::Code(0)));
    }

    #[test]
    fn new_namespaces_of_every_kind() {
        let all = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | NEWTIME;
        assert_eq!(start(all, &[]), Ok(Exit::Code(0)));
        assert_eq!(start(NEWUSER | all, &[]), Ok(Exit::Code(0)));
    }

    #[test]
    fn a_process_between_joins_namespaces() {
        let own = File::open("/proc/self/ns/uts").unwrap();
        assert_eq!(start(NEWPID, &[(own.as_raw_fd(), NEWUTS)]), Ok(Exit::Code(0)));
        let wrong = start(0, &[(own.as_raw_fd(), NEWNET)]);
        assert_eq!(wrong, Err((Stage::Join(0), Errno::INVAL)));
    }

    #[test]
    fn user_namespaces_are_held_by_many_threads_at_once() {
        let thread = || {
            std::thread::spawn(|| {
                for _ in 0..200 {
                    drop(UserNamespaceHolder::new().unwrap());
                }
            })
        };
        let threads: Vec<_> = (0..4).map(|_| thread()).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_failure_says_where() {
        let not_a_program = File::open("/proc/self/status").unwrap();
        let spawned = spawn(&Spawn {
            namespaces: 0,
            join: &[],
            cgroup: None,
            time_offsets: b"",
            program: not_a_program.as_raw_fd(),
            args: &[c"x"],
            inherit: &[],
        });
        assert_eq!(spawned.unwrap_err(), (Stage::Execute, Errno::ACCES));
    }

    #[test]
    fn a_namespace_has_an_owner() {
        let mounts = File::open("/proc/self/ns/mnt").unwrap();
        let owner = owning_namespace(mounts.as_raw_fd()).unwrap();
        assert_eq!(namespace_type(owner.number()), Ok(NEWUSER));
    }

    #[test]
    fn a_user_namespace_can_be_held() {
        let holder = UserNamespaceHolder::new().unwrap();
        let path = format!("/proc/{}/ns/user", holder.pid());
        let namespace = File::open(&path).unwrap();
        assert_eq!(namespace_type(namespace.as_raw_fd()), Ok(NEWUSER));
        drop(holder);
        assert!(File::open(&path).is_err());
        assert!(namespace_type(File::open("/proc/self/status").unwrap().as_raw_fd()).is_err());
    }
}
