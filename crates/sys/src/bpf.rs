// SPDX-License-Identifier: MIT OR Apache-2.0
//! bpf(2) for programs that decide about the device accesses of a cgroup: load, attach, replace, detach, query.
//!
//! Never writes a program: instructions come from the caller, and the kernel's verifier judges them. Programs live
//! as long as their descriptor or an attachment.

use core::ffi::CStr;

use crate::raw::*;
use crate::{Errno, Fd, Result};

/// struct bpf_insn (linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// Destination in the low four bits, source in the high four.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// The most instructions that the kernel takes (BPF_MAXINSNS) from callers that have no CAP_BPF, too.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// The most programs that one cgroup has of one kind (the kernel's BPF_CGROUP_MAX_PROGS).
pub const MAX_PROGRAMS: usize = 64;

const PROG_LOAD: usize = 5;
const PROG_ATTACH: usize = 8;
const PROG_DETACH: usize = 9;
const PROG_GET_FD_BY_ID: usize = 13;
const OBJ_GET_INFO_BY_FD: usize = 15;
const PROG_QUERY: usize = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

/// A signal that arrives while the verifier works ends the load with EAGAIN; so often it is tried again.
const SIGNAL_RETRIES: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// union bpf_attr, whole and zeroed before a command's part is written. The kernel writes results into it without
/// regard to the size it was told: Linux 6.17 puts the 8 bytes of `revision` behind an attribute of 56 bytes. So it
/// is larger than that of any kernel so far (168 bytes in Linux 6.18); the kernel checks that what it does not know
/// is zero.
#[repr(C)]
union Attributes {
    zero: [u64; 32],
    load: Load,
    attach: Attach,
    query: Query,
    id: u32,
    info: Info,
}

const _: () = assert!(size_of::<Attributes>() == 256 && size_of::<Attributes>() >= 168);
const _: () = assert!(size_of::<Instruction>() == 8);
const _: () = assert!(core::mem::offset_of!(Load, prog_name) == 48 && size_of::<Load>() == 64);
const _: () = assert!(core::mem::offset_of!(Attach, replace_bpf_fd) == 16);
const _: () = assert!(core::mem::offset_of!(Query, revision) == 56 && size_of::<Query>() == 64);

impl Attributes {
    fn new() -> Attributes {
        Attributes { zero: [0; 32] }
    }
}

/// # Safety
/// Addresses in the part of `attributes` that `command` reads must be valid for what it does with them.
unsafe fn bpf(command: usize, attributes: &mut Attributes) -> Result<usize> {
    // SAFETY: the union is readable and writable for its size; the caller vouches for the addresses in it.
    unsafe { syscall3(libc::SYS_bpf, command, &raw mut *attributes as usize, size_of::<Attributes>()) }
}

/// A program that is asked whether a process of a cgroup may open or make a device node; 1 permits. At most 15
/// letters, digits, `_` and `.` of `name` are kept by the kernel. The descriptor is close-on-exec.
///
/// EINVAL: the verifier refuses the program, or the kernel has no BPF for cgroups. Since Linux 5.11 programs are
/// charged to the caller's memory cgroup, so RLIMIT_MEMLOCK has nothing to say.
pub fn load_device_program(instructions: &[Instruction], name: &CStr, license: &CStr) -> Result<Fd> {
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().take(15).zip(name.to_bytes()) {
        *to = *from;
    }
    let load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| Errno(libc::E2BIG))?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
    };
    let mut tries = 0;
    loop {
        let mut attributes = Attributes::new();
        attributes.load = load;
        // SAFETY: the instructions and the license live across the call, with the count and the terminator that
        // the kernel reads by; it writes to neither.
        match unsafe { bpf(PROG_LOAD, &mut attributes) } {
            Err(Errno::AGAIN) if tries < SIGNAL_RETRIES => tries += 1,
            other => return other.map(|number| Fd::own(number as i32)),
        }
    }
}

fn attachment(cgroup: i32, program: i32, flags: u32, replaced: u32) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.attach = Attach {
        target_fd: cgroup as u32,
        attach_bpf_fd: program as u32,
        attach_type: CGROUP_DEVICE,
        attach_flags: flags,
        replace_bpf_fd: replaced,
    };
    attributes
}

/// Adds a program beside those that the cgroup has, and those above it: an access needs the consent of all.
/// `cgroup` is open on a directory of cgroup2.
pub fn attach_device_program(cgroup: i32, program: i32) -> Result<()> {
    // SAFETY: no addresses in this part.
    unsafe { bpf(PROG_ATTACH, &mut attachment(cgroup, program, F_ALLOW_MULTI, 0)) }.map(drop)
}

/// Puts a program in the place of an attached one, at once for every access. ENOENT: `old` is not attached.
pub fn replace_device_program(cgroup: i32, program: i32, old: i32) -> Result<()> {
    // SAFETY: no addresses in this part.
    unsafe { bpf(PROG_ATTACH, &mut attachment(cgroup, program, F_ALLOW_MULTI | F_REPLACE, old as u32)) }
        .map(drop)
}

pub fn detach_device_program(cgroup: i32, program: i32) -> Result<()> {
    // SAFETY: no addresses in this part.
    unsafe { bpf(PROG_DETACH, &mut attachment(cgroup, program, 0, 0)) }.map(drop)
}

/// The ids of the device programs attached to this very cgroup, in the order of their attachment.
pub fn device_programs(cgroup: i32, ids: &mut [u32; MAX_PROGRAMS]) -> Result<&[u32]> {
    query(&mut Attributes::new(), cgroup, ids)
}

fn query<'a>(
    attributes: &mut Attributes,
    cgroup: i32,
    ids: &'a mut [u32; MAX_PROGRAMS],
) -> Result<&'a [u32]> {
    attributes.query = Query {
        target_fd: cgroup as u32,
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        padding: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `prog_ids` is writable for `prog_cnt` numbers and lives across the call; the other addresses are null.
    unsafe { bpf(PROG_QUERY, attributes) }?;
    // SAFETY: every bit pattern is a Query, and the whole union is initialised.
    let count = unsafe { attributes.query.prog_cnt };
    Ok(ids.get(..count as usize).unwrap_or_default())
}

/// A descriptor of a loaded program, close-on-exec. ENOENT: there is none of that id any more.
pub fn program_by_id(id: u32) -> Result<Fd> {
    let mut attributes = Attributes::new();
    attributes.id = id;
    // SAFETY: no addresses in this part.
    unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }.map(|number| Fd::own(number as i32))
}

/// What the kernel tells of a program: the start of struct bpf_prog_info.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgramInfo {
    pub prog_type: u32,
    pub id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

const _: () = assert!(core::mem::offset_of!(ProgramInfo, name) == 64 && size_of::<ProgramInfo>() == 80);

impl ProgramInfo {
    /// Without the zeroes behind it.
    pub fn name(&self) -> &[u8] {
        self.name.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

pub fn program_info(program: i32) -> Result<ProgramInfo> {
    let mut info = ProgramInfo::default();
    let mut attributes = Attributes::new();
    attributes.info = Info {
        bpf_fd: program as u32,
        info_len: size_of::<ProgramInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: `info` is writable for `info_len` bytes and lives across the call; the buffers that it could name
    // itself are null.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::*;

    const PERMIT: [Instruction; 2] = [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 1 },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];

    /// A cgroup2 directory of its own, removed on drop.
    struct Group(PathBuf, std::fs::File);

    impl Group {
        fn new(name: &str) -> Option<Group> {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let point = mounts.lines().find_map(|line| {
                let (before, after) = line.split_once(" - ")?;
                after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4)).flatten()
            });
            let owner = std::fs::metadata("/proc/self").unwrap().uid();
            let (Some(point), 0) = (point, owner) else {
                eprintln!("skip: device programs need root and cgroup2");
                return None;
            };
            let path = PathBuf::from(point).join(format!("coracle-bpf-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            let open = std::fs::File::open(&path).unwrap();
            Some(Group(path, open))
        }

        fn fd(&self) -> i32 {
            self.1.as_raw_fd()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            std::fs::remove_dir(&self.0).ok();
        }
    }

    #[test]
    fn programs_are_attached_replaced_and_found_again() {
        let Some(group) = Group::new("life") else { return };
        let mut ids = [0; MAX_PROGRAMS];
        assert_eq!(device_programs(group.fd(), &mut ids), Ok(&[][..]));
        // The honest license: without helpers, the kernel asks for no GPL.
        let load = |name| load_device_program(&PERMIT, name, c"MIT OR Apache-2.0").unwrap();
        let (one, two, three) = (load(c"test_one"), load(c"a_name_that_is_too_long"), load(c"three"));
        let (first, second) = (program_info(one.number()).unwrap(), program_info(two.number()).unwrap());
        assert_eq!((first.name(), first.prog_type), (&b"test_one"[..], PROG_TYPE_CGROUP_DEVICE));
        assert_eq!(second.name(), b"a_name_that_is_");
        assert_ne!(first.id, second.id);

        attach_device_program(group.fd(), one.number()).unwrap();
        assert_eq!(device_programs(group.fd(), &mut ids), Ok(&[first.id][..]));
        assert_eq!(program_info(program_by_id(first.id).unwrap().number()).unwrap().id, first.id);
        replace_device_program(group.fd(), two.number(), one.number()).unwrap();
        assert_eq!(device_programs(group.fd(), &mut ids), Ok(&[second.id][..]));
        let gone = replace_device_program(group.fd(), three.number(), one.number());
        assert_eq!(gone, Err(Errno::NOENT));
        detach_device_program(group.fd(), two.number()).unwrap();
        assert_eq!(device_programs(group.fd(), &mut ids), Ok(&[][..]));
    }

    #[test]
    fn a_program_that_the_verifier_refuses_is_an_error() {
        let Some(_group) = Group::new("refused") else { return };
        let no_exit = load_device_program(&PERMIT[..1], c"x", c"MIT OR Apache-2.0");
        assert_eq!(no_exit.err(), Some(Errno::INVAL));
        let bad_name = load_device_program(&PERMIT, c"a b", c"MIT OR Apache-2.0");
        assert_eq!(bad_name.err(), Some(Errno::INVAL));
        assert_eq!(program_by_id(u32::MAX).err(), Some(Errno::NOENT));
    }

    /// T-76: the kernel's answer stays within the attribute. Behind it lies, in turn, a page that cannot be
    /// touched and a row of canaries.
    #[test]
    fn a_query_writes_within_its_attribute() {
        let Some(group) = Group::new("query") else { return };
        let page = 4096;
        // SAFETY: a new private mapping, chosen by the kernel, disturbs no other memory.
        let base = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            syscall6(libc::SYS_mmap, 0, 2 * page, protection as usize, flags as usize, usize::MAX, 0).unwrap()
        };
        // SAFETY: the second page of the mapping above, to which nothing refers.
        unsafe { syscall3(libc::SYS_mprotect, base + page, page, libc::PROT_NONE as usize).unwrap() };
        for behind in [0, 16] {
            let canaries = (base + page - behind) as *mut u8;
            let attributes = (base + page - behind - size_of::<Attributes>()) as *mut Attributes;
            // SAFETY: both lie within the first page, which is writable, aligned and referred to by nothing else.
            let (attributes, canaries) = unsafe {
                canaries.write_bytes(0xa5, behind);
                attributes.write(Attributes::new());
                (&mut *attributes, core::slice::from_raw_parts(canaries, behind))
            };
            let mut ids = [0; MAX_PROGRAMS];
            assert_eq!(query(attributes, group.fd(), &mut ids), Ok(&[][..]), "{behind} bytes behind");
            assert!(canaries.iter().all(|byte| *byte == 0xa5), "{canaries:x?}");
        }
        // SAFETY: nothing refers to the mapping any more.
        unsafe { syscall2(libc::SYS_munmap, base, 2 * page).unwrap() };
    }
}
