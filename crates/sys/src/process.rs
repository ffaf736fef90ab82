// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process is: ids, capabilities, namespaces, names, scheduling, signals; and how it ends.

use core::ffi::CStr;

use crate::memory::PointerArray;
use crate::raw::*;
use crate::{Errno, Fd, Result};

pub fn pid() -> i32 {
    // SAFETY: no pointers; getpid(2) cannot fail.
    unsafe { syscall0(libc::SYS_getpid) }.unwrap_or(0) as i32
}

pub fn parent() -> i32 {
    // SAFETY: no pointers; getppid(2) cannot fail.
    unsafe { syscall0(libc::SYS_getppid) }.unwrap_or(0) as i32
}

/// exit_group(2). Where a seccomp filter forbids that, exit(2); and where it forbids both, by SIGILL.
pub fn exit(status: i32) -> ! {
    // SAFETY: end the process; no destructor of Rust needs to run in the processes that call this, and they have one
    // thread. Only a filter lets either call return.
    unsafe {
        syscall1(libc::SYS_exit_group, status as usize).ok(); // see above
        syscall1(libc::SYS_exit, status as usize).ok(); // see above
    }
    // SAFETY: an undefined instruction, at which the kernel ends the process; nothing comes after it.
    unsafe { core::arch::asm!("ud2", options(noreturn, nostack)) }
}

fn prctl(option: i32, a: usize, b: usize) -> Result<usize> {
    // SAFETY: only options whose arguments are numbers reach this function, PR_SET_NAME with a valid string, and
    // PR_GET_PDEATHSIG with a number that lives in its caller.
    unsafe { syscall5(libc::SYS_prctl, option as usize, a, b, 0, 0) }
}

/// Have the kernel send this signal when the parent thread ends; 0 clears it. Read back, because a seccomp filter can
/// answer a call with success: EPROTO then.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as usize, 0)?;
    let mut now = -1i32;
    prctl(libc::PR_GET_PDEATHSIG, &raw mut now as usize, 0)?;
    if now == signal { Ok(()) } else { Err(Errno::PROTO) }
}

/// May processes of the same user look into this one (ptrace(2), /proc/PID/mem)?
pub fn is_dumpable() -> Result<bool> {
    prctl(libc::PR_GET_DUMPABLE, 0, 0).map(|dumpable| dumpable == 1)
}

pub fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable as usize, 0).map(drop)
}

pub fn set_name(name: &CStr) -> Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as usize, 0).map(drop)
}

pub fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Keep the permitted capabilities when leaving uid 0 (PR_SET_KEEPCAPS).
pub fn set_keep_capabilities(keep: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep as usize, 0).map(drop)
}

pub fn set_child_subreaper(subreaper: bool) -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, subreaper as usize, 0).map(drop)
}

/// Remove one capability from the bounding set; EINVAL when the kernel does not know it.
pub fn drop_bounding(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability as usize, 0).map(drop)
}

pub fn in_bounding(capability: u32) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, capability as usize, 0).map(|set| set == 1)
}

pub fn raise_ambient(capability: u32) -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, capability as usize).map(drop)
}

pub fn clear_ambient() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0).map(drop)
}

/// The three sets of capset(2), one bit for each capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

pub fn capget() -> Result<Capabilities> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    // No process has every bit in these: they stay where a seccomp filter, not the kernel, has answered.
    let untouched = || CapData { effective: u32::MAX, permitted: 0, inheritable: u32::MAX };
    let mut data = [untouched(), untouched()];
    // SAFETY: version 3 fills two data structs.
    unsafe { syscall2(libc::SYS_capget, &raw const header as usize, data.as_mut_ptr() as usize) }?;
    if data.iter().any(|half| half.effective & !half.permitted != 0) {
        return Err(Errno::PROTO);
    }
    let [low, high] = data;
    let join = |low: u32, high: u32| low as u64 | (high as u64) << 32;
    Ok(Capabilities {
        effective: join(low.effective, high.effective),
        permitted: join(low.permitted, high.permitted),
        inheritable: join(low.inheritable, high.inheritable),
    })
}

pub fn capset(sets: &Capabilities) -> Result<()> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two data structs.
    unsafe { syscall2(libc::SYS_capset, &raw const header as usize, data.as_ptr() as usize) }.map(drop)
}

/// Real, effective and saved user id at once. u32::MAX would mean "leave it": refused.
pub fn set_uid(uid: u32) -> Result<()> {
    if uid == u32::MAX {
        return Err(Errno::INVAL);
    }
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_setresuid, uid as usize, uid as usize, uid as usize) }.map(drop)
}

pub fn set_gid(gid: u32) -> Result<()> {
    if gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_setresgid, gid as usize, gid as usize, gid as usize) }.map(drop)
}

/// (real, effective, saved) user ids.
pub fn uids() -> Result<[u32; 3]> {
    let mut ids = [0u32; 3];
    let [real, effective, saved] = &mut ids;
    // SAFETY: three writable numbers.
    unsafe {
        syscall3(
            libc::SYS_getresuid,
            real as *mut u32 as usize,
            effective as *mut u32 as usize,
            saved as *mut u32 as usize,
        )
    }?;
    Ok(ids)
}

pub fn gids() -> Result<[u32; 3]> {
    let mut ids = [0u32; 3];
    let [real, effective, saved] = &mut ids;
    // SAFETY: three writable numbers.
    unsafe {
        syscall3(
            libc::SYS_getresgid,
            real as *mut u32 as usize,
            effective as *mut u32 as usize,
            saved as *mut u32 as usize,
        )
    }?;
    Ok(ids)
}

/// setgroups(2); `bytes` is the list as native-endian u32 numbers.
pub fn set_groups(bytes: &[u8]) -> Result<()> {
    // The kernel copies from user memory, which has no alignment to keep.
    // SAFETY: readable for count * 4 bytes.
    unsafe { syscall2(libc::SYS_setgroups, bytes.len() / 4, bytes.as_ptr() as usize) }.map(drop)
}

pub fn group_count() -> Result<usize> {
    // SAFETY: with size 0 nothing is written.
    unsafe { syscall2(libc::SYS_getgroups, 0, 0) }
}

pub fn setsid() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall0(libc::SYS_setsid) }.map(drop)
}

pub fn umask(mask: u32) {
    // SAFETY: no pointers; umask(2) always succeeds.
    unsafe { syscall1(libc::SYS_umask, mask as usize) }.ok(); // it always succeeds
}

pub fn personality(domain: u32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall1(libc::SYS_personality, domain as usize) }.map(drop)
}

/// struct sched_attr (sched_setattr(2)), version 0 of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, as the two below.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// Of a process, or with 0 of the calling one.
pub fn sched_setattr(pid: i32, mut attr: SchedAttr) -> Result<()> {
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: the struct lives across the call and says its size.
    unsafe { syscall3(libc::SYS_sched_setattr, pid as usize, &raw const attr as usize, 0) }.map(drop)
}

/// ioprio_set(2) for the calling process.
pub fn set_io_priority(value: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: usize = 1;
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value as usize) }.map(drop)
}

/// set_mempolicy(2); `nodes` is a bit mask, least significant byte first, its length a multiple of 8.
pub fn set_memory_policy(mode: u32, nodes: &[u8]) -> Result<()> {
    let (mask, bits) = if nodes.is_empty() { (0, 0) } else { (nodes.as_ptr() as usize, nodes.len() * 8 + 1) };
    // SAFETY: the mask is readable for `bits - 1` bits; the kernel subtracts one from the count.
    unsafe { syscall3(libc::SYS_set_mempolicy, mode as usize, mask, bits) }.map(drop)
}

pub fn unshare(flags: u64) -> Result<()> {
    // SAFETY: no pointers; descriptors are never unshared while another process relies on this one's.
    unsafe { syscall1(libc::SYS_unshare, flags as usize) }.map(drop)
}

/// setns(2) with a namespace, or a pidfd.
pub fn setns(fd: i32, flags: u64) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall2(libc::SYS_setns, fd as usize, flags as usize) }.map(drop)
}

pub fn set_hostname(name: &CStr) -> Result<()> {
    // SAFETY: readable for the length that is passed.
    unsafe { syscall2(libc::SYS_sethostname, name.as_ptr() as usize, name.count_bytes()) }.map(drop)
}

pub fn set_domainname(name: &CStr) -> Result<()> {
    // SAFETY: readable for the length that is passed.
    unsafe { syscall2(libc::SYS_setdomainname, name.as_ptr() as usize, name.count_bytes()) }.map(drop)
}

/// Join a new session keyring of this name (keyctl(2)); it may be searched and linked by its owner.
pub fn join_session_keyring(name: &CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    const KEYCTL_SETPERM: usize = 5;
    // possessor all, user view, read, search (keyctl_setperm(3)).
    const PERMISSIONS: usize = 0x3f0b_0000;
    // SAFETY: `name` lives across the call.
    unsafe {
        let key = syscall2(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr() as usize)?;
        syscall3(libc::SYS_keyctl, KEYCTL_SETPERM, key, PERMISSIONS).map(drop)
    }
}

/// Set one resource limit of another process (prlimit(2)); u64::MAX is infinity.
pub fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: struct rlimit64 is two u64.
    unsafe { syscall4(libc::SYS_prlimit64, pid as usize, resource as usize, limit.as_ptr() as usize, 0) }
        .map(drop)
}

/// (soft, hard) limit of another process (prlimit(2)); u64::MAX is infinity.
pub fn get_prlimit(pid: i32, resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0_u64; 2];
    // SAFETY: struct rlimit64 is two u64, which the kernel fills.
    unsafe {
        syscall4(libc::SYS_prlimit64, pid as usize, resource as usize, 0, limit.as_mut_ptr() as usize)
    }?;
    Ok((limit[0], limit[1]))
}

/// All signals to their default action, none blocked: what a new program expects.
pub fn reset_signals() -> Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        reset_signal(signal)?;
    }
    set_signal_mask(0).map(drop)
}

/// One signal to its default action: what a caller had ignored is inherited across execve(2).
pub fn reset_signal(signal: i32) -> Result<()> {
    // struct kernel_sigaction: handler, flags, restorer, mask.
    let default = [0usize; 4];
    // SAFETY: the zeroed struct is SIG_DFL.
    unsafe { syscall4(libc::SYS_rt_sigaction, signal as usize, default.as_ptr() as usize, 0, 8) }.map(drop)
}

/// Replace the set of blocked signals; the old one comes back. Bit n - 1 is signal n.
pub fn set_signal_mask(mask: u64) -> Result<u64> {
    let mut old = 0u64;
    // SAFETY: both sets are 8 bytes.
    unsafe {
        syscall4(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK as usize,
            &raw const mask as usize,
            &raw mut old as usize,
            8,
        )
    }?;
    Ok(old)
}

/// execve(2). Returns only when it failed.
pub fn execute(path: &CStr, args: &PointerArray, env: &PointerArray) -> Errno {
    // SAFETY: the arrays are null-terminated arrays of strings that live for ever.
    let result = unsafe {
        syscall3(libc::SYS_execve, path.as_ptr() as usize, args.as_ptr() as usize, env.as_ptr() as usize)
    };
    result.err().unwrap_or(Errno::INVAL)
}

/// A copy of the calling process, without shared memory: in the copy `Ok(None)`. Only for single-threaded programs.
pub fn fork() -> Result<Option<crate::clone::Child>> {
    copy(libc::SIGCHLD)
}

/// The same as a child of the caller's parent (CLONE_PARENT).
pub fn fork_sibling() -> Result<Option<crate::clone::Child>> {
    copy(libc::CLONE_PARENT)
}

/// clone(2), because seccomp filters can look at its flags and often refuse clone3(2). The copy is known by what the
/// kernel writes into its memory, since a filter can answer any call with any number: EPROTO then.
fn copy(flags: i32) -> Result<Option<crate::clone::Child>> {
    let (mut pidfd, mut own) = (-1i32, 0i32);
    let flags = flags | libc::CLONE_PIDFD | libc::CLONE_CHILD_SETTID;
    // SAFETY: without CLONE_VM the copy has its own memory and returns into the same code on its own copy of the
    // stack; the kernel writes one i32 to `pidfd`, and in the copy one to `own`.
    let pid = unsafe {
        let (pidfd, own) = (&raw mut pidfd as usize, &raw mut own as usize);
        syscall5(libc::SYS_clone, flags as usize, 0, pidfd, own, 0)
    }?;
    // SAFETY: it lives here; volatile, since the kernel may have written to it.
    match (pid, unsafe { (&raw const own).read_volatile() }) {
        (0, 0) => Err(Errno::PROTO),
        (0, _) => Ok(None),
        _ if pidfd < 0 => Err(Errno::PROTO),
        _ => Ok(Some(crate::clone::Child { pid: pid as i32, pidfd: Fd::own(pidfd) })),
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// Reap the child that a pidfd is open on (waitid(2), P_PIDFD).
pub fn wait(pidfd: i32) -> Result<Exit> {
    // Without WNOHANG there is always one.
    wait_id(pidfd, 0).map(|exit| exit.unwrap_or(Exit::Code(0)))
}

/// The same if that can be done now; `None` also for one that has ended, and whose tracer does not know yet.
pub fn try_wait(pidfd: i32) -> Result<Option<Exit>> {
    wait_id(pidfd, libc::WNOHANG)
}

fn wait_id(pidfd: i32, options: i32) -> Result<Option<Exit>> {
    const P_PIDFD: usize = 3;
    let mut info = core::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: siginfo_t is writable; a zeroed one is a valid value.
        let result = unsafe {
            syscall5(
                libc::SYS_waitid,
                P_PIDFD,
                pidfd as usize,
                info.as_mut_ptr() as usize,
                (libc::WEXITED | libc::__WALL | options) as usize,
                0,
            )
        };
        match result {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid filled the SIGCHLD members.
    let (pid, code, status) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_code, info.si_status())
    };
    Ok(match code {
        _ if pid == 0 => None,
        libc::CLD_EXITED => Some(Exit::Code(status)),
        _ => Some(Exit::Signal(status)),
    })
}

impl Exit {
    /// From the number that wait(2) fills in, of a process that has ended.
    pub fn from_status(status: i32) -> Exit {
        match status & 0x7f {
            0 => Exit::Code(status >> 8 & 0xff),
            signal => Exit::Signal(signal),
        }
    }
}

/// struct pidfd_info as Linux 6.13 has it (include/uapi/linux/pidfd.h, PIDFD_INFO_SIZE_VER0).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, and the real, effective, saved and filesystem ids.
    ids: [u32; 11],
    exit_code: i32,
}

/// How the process that a pidfd is open on has ended, of anybody's child (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
/// The kernel has it once the process is reaped, for descriptors that were opened before: None until then, and from Linux 6.13
/// and 6.14. Errors: ENOTTY or EINVAL before 6.13; ESRCH when it is reaped and nothing is known.
pub fn pidfd_exit(pidfd: i32) -> Result<Option<Exit>> {
    const PIDFD_GET_INFO: usize = 0xc040_ff0b; // _IOWR(0xff, 11, struct pidfd_info)
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..Default::default() };
    // SAFETY: the number says 64 bytes, which is the size of the struct; the kernel reads and writes no more.
    unsafe { syscall3(libc::SYS_ioctl, pidfd as usize, PIDFD_GET_INFO, &raw mut info as usize) }?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| Exit::from_status(info.exit_code)))
}

pub fn pidfd_open(pid: i32) -> Result<Fd> {
    // SAFETY: no pointers.
    unsafe { syscall2(libc::SYS_pidfd_open, pid as usize, 0) }.map(|fd| Fd::own(fd as i32))
}

/// A copy, close-on-exec, of what is open in another process under this number. Errors: EBADF where nothing is, EPERM
/// without the right to trace the process (ptrace(2), PTRACE_MODE_ATTACH_REALCREDS).
pub fn pidfd_getfd(pidfd: i32, number: i32) -> Result<Fd> {
    // SAFETY: no pointers.
    unsafe { syscall3(libc::SYS_pidfd_getfd, pidfd as usize, number as usize, 0) }
        .map(|fd| Fd::own(fd as i32))
}

pub fn pidfd_send_signal(pidfd: i32, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo is allowed.
    unsafe { syscall4(libc::SYS_pidfd_send_signal, pidfd as usize, signal as usize, 0, 0) }.map(drop)
}

/// Lead a process group of its own.
pub fn set_process_group() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall2(libc::SYS_setpgid, 0, 0) }.map(drop)
}

/// SIGKILL for a process group that is led by a child which is not reaped yet, so that its number is still its own.
pub fn kill_group(leader: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { syscall2(libc::SYS_kill, leader.wrapping_neg() as usize, libc::SIGKILL as usize) }.map(drop)
}
