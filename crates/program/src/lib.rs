// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program: what init does, one op after the other; and the messages between init and the runtime.
//!
//! One definition ([`ops!`] below) yields the type, the encoder and the decoder, so that they cannot disagree. The
//! runtime encodes from its plan and knows the words; init decodes in place, without a heap, and answers in numbers.
//!
//! Format, native endian: a header ([`Header`]), then for each op `kind: u16, step: u16, length: u32` and `length`
//! bytes of fields in the order of the definition. Strings carry a length and a NUL. Runtime and init are always of
//! one build (init is embedded in the runtime), so there is no other compatibility than [`VERSION`].
#![cfg_attr(not(any(test, feature = "encode")), no_std)]

mod field;
mod message;

pub use field::{Bytes, Field, List, Reader};
pub use message::{Message, MessageKind, detail};

/// Changes with every change of the format.
pub const VERSION: u32 = 3;
const MAGIC: u32 = u32::from_ne_bytes(*b"crcl");

/// What is wrong with a program. Init cannot do better than stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Facts that init needs before and beside the ops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The socket to the runtime.
    pub control: i32,
    /// First descriptor that the container's process does not get: 3 + those preserved.
    pub first_private: u32,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $kind:literal $name:ident { $($field:ident: $type:ty),* })*) => {
        /// One op. Descriptors are numbers in init's table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Op<'a> {
            $($(#[$doc])* $name { $($field: $type),* },)*
        }

        impl<'a> Op<'a> {
            fn decode(kind: u16, reader: &mut Reader<'a>) -> Result<Op<'a>, Malformed> {
                match kind {
                    $($kind => Ok(Op::$name { $($field: Field::read(reader)?),* }),)*
                    _ => Err(Malformed),
                }
            }

            #[cfg(feature = "encode")]
            fn encode(&self, out: &mut Vec<u8>) -> u16 {
                match self {
                    $(Op::$name { $($field),* } => { $($field.write(out);)* $kind })*
                }
            }
        }
    };
}

ops! {
    /// keyctl(2) JOIN_SESSION_KEYRING; no keyrings, or no quota, is a warning.
    1 JoinKeyring { name: &'a core::ffi::CStr }
    /// Wait for the runtime's Go.
    2 Await { }
    /// uid 0, gid 0 of the user namespace.
    3 BecomeRoot { }
    4 Unshare { flags: u64 }
    5 JoinNamespace { fd: i32, flag: u64 }
    6 Hostname { name: &'a core::ffi::CStr }
    7 Domainname { name: &'a core::ffi::CStr }
    8 LoopbackUp { }
    /// Propagation of everything below `/`.
    9 IsolateMounts { propagation: u64 }
    /// Attach the root filesystem at `path`; `fd` is a detached mount and stays open as the root of all paths. With
    /// an `fd` of -1 the tree is cloned here, from the same path.
    10 AttachRoot { fd: i32, path: &'a core::ffi::CStr }
    /// A new filesystem. `options` alternates keys and values; an empty value is a flag. `propagation` and
    /// `propagation_below` are MS_* or 0, for the mount and for everything below it too. `flags` are MOUNT_*.
    11 Mount { target: &'a core::ffi::CStr, fstype: &'a core::ffi::CStr, source: &'a core::ffi::CStr,
        options: List<'a>, set: u64, set_below: u64, clear_below: u64, propagation: u64, propagation_below: u64,
        id_map: i32, flags: u32 }
    /// A detached mount that the runtime made, complete with its attributes.
    12 Attach { fd: i32, target: &'a core::ffi::CStr, directory: u32 }
    /// The same, made here, for a runtime that may not mount in its own namespace. The last four are as in Mount.
    13 Bind { source: &'a core::ffi::CStr, target: &'a core::ffi::CStr, recursive: u32, set: u64, clear: u64,
        set_below: u64, clear_below: u64, propagation: u64, propagation_below: u64 }
    /// Change a mount; with `reconfigure`, its filesystem too.
    14 Remount { target: &'a core::ffi::CStr, options: List<'a>, reconfigure: u32, set: u64, clear: u64,
        set_below: u64, clear_below: u64, propagation: u64, propagation_below: u64 }
    15 Device { path: &'a core::ffi::CStr, mode: u32, number: u64, uid: u32, gid: u32 }
    /// `replace` removes what is there.
    16 Symlink { target: &'a core::ffi::CStr, path: &'a core::ffi::CStr, replace: u32 }
    /// Say Mounted, wait for Go.
    17 RuntimeHooks { }
    /// Run a program and wait. `state` is the document for its stdin, cut where init's pid belongs. `timeout` in
    /// seconds, 0 for none. Its output goes to `output`, or to init's own with -1.
    18 Hook { path: &'a core::ffi::CStr, args: List<'a>, env: List<'a>, timeout: u32, state_head: Bytes<'a>,
        state_tail: Bytes<'a>, output: i32 }
    /// A pty of the root filesystem's devpts: its slave on 0, 1, 2, and with `console` on /dev/console too.
    19 Terminal { columns: u32, rows: u32, uid: u32, console: u32 }
    /// With `terminal`, what is open on 0 is the controlling terminal of the session.
    20 NewSession { terminal: u32 }
    21 PivotRoot { }
    /// `visible` are the host's whole procfs and sysfs mounts, the last one first.
    22 MoveRoot { visible: List<'a> }
    /// No mount namespace: only the root directory changes. `fd` is the root filesystem's directory; with -1 the root
    /// stays what it is, and is opened.
    23 Chroot { fd: i32 }
    24 RootPropagation { propagation: u64 }
    /// The procfs that is written to: `fd`, or with -1 a private one.
    25 OpenProc { fd: i32 }
    /// Write to a file of procfs: `path` below its root, or with `own` below this process's directory.
    26 WriteProc { path: &'a core::ffi::CStr, value: Bytes<'a>, own: u32 }
    27 Mask { path: &'a core::ffi::CStr }
    28 Readonly { path: &'a core::ffi::CStr }
    29 SealReadonly { target: &'a core::ffi::CStr }
    30 ReadonlyRoot { }
    31 Scheduler { policy: u32, flags: u64, nice: i32, priority: u32, runtime: u64, deadline: u64, period: u64 }
    32 IoPriority { value: u32 }
    33 Personality { domain: u32 }
    34 MemoryPolicy { mode: u32, nodes: Bytes<'a> }
    35 Umask { mask: u32 }
    36 NoNewPrivileges { }
    /// With `make` it is made when it is missing.
    37 WorkingDirectory { path: &'a core::ffi::CStr, make: u32 }
    /// `groups` is native-endian u32 numbers; with `keep_groups` they are not touched. The permitted capabilities stay
    /// until Capabilities, those of `effective` are so from here on.
    38 Identity { uid: u32, gid: u32, groups: Bytes<'a>, keep_groups: u32, bounding: u64, effective: u64 }
    45 Capabilities { effective: u64, permitted: u64, inheritable: u64, ambient: u64 }
    /// Go on as a copy of this process, a child of the same parent, in the pid namespace that was joined. Says Forked
    /// with the copy's pid and pidfd, and ends; the copy waits for Go.
    46 Fork { }
    39 FindExecutable { name: &'a core::ffi::CStr, search: List<'a> }
    /// Say Ready and wait: for Go on the control socket, or with a `listener` for a caller that says Start there.
    40 AwaitStart { listener: i32 }
    /// The host's /dev/null as a detached mount, for the masks; taken from the host's tree with an `fd` of -1.
    42 TakeNull { fd: i32 }
    43 Rlimit { resource: u32, soft: u64, hard: u64 }
    /// A seccomp filter: `program` is an array of struct sock_filter. The op that follows loads it at its own last
    /// moment: Capabilities before it gives them up, AwaitStart before it waits, Execute before execve(2). `page`
    /// is a file of one page, where init leaves why it failed without a system call that the filter could forbid.
    44 Seccomp { flags: u32, program: Bytes<'a>, page: i32 }
    /// execve(2). `home_uid` is the user whose home directory becomes HOME, u32::MAX for none. With `listen_pid`
    /// the process's own id, in its own pid namespace, becomes LISTEN_PID.
    41 Execute { args: List<'a>, env: List<'a>, home_uid: u32, listen_pid: u32 }
}

/// Copy the target directory into the new filesystem.
pub const MOUNT_COPY_UP: u32 = 1;
/// Without a `mode` option: take the mode of the directory that is covered.
pub const MOUNT_MODE_OF_TARGET: u32 = 2;
/// The id map covers the mounts below too.
pub const MOUNT_ID_MAP_BELOW: u32 = 4;
/// Keep the mount at hand: it is sealed read-only later.
pub const MOUNT_KEEP: u32 = 8;

/// An op and the number of the plan's step that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered<'a> {
    pub step: u16,
    pub op: Op<'a>,
}

/// Walks a program.
#[derive(Debug, Clone)]
pub struct Program<'a> {
    pub header: Header,
    rest: Reader<'a>,
}

impl<'a> Program<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Program<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        if u32::read(&mut reader)? != MAGIC || u32::read(&mut reader)? != VERSION {
            return Err(Malformed);
        }
        let header = Header { control: Field::read(&mut reader)?, first_private: Field::read(&mut reader)? };
        Ok(Program { header, rest: reader })
    }
}

impl<'a> Iterator for Program<'a> {
    type Item = Result<Numbered<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let next = (|| {
            let kind = u16::read(&mut self.rest)?;
            let step = u16::read(&mut self.rest)?;
            let mut fields = Reader::new(Bytes::read(&mut self.rest)?.0);
            let op = Op::decode(kind, &mut fields)?;
            if fields.is_empty() { Ok(Numbered { step, op }) } else { Err(Malformed) }
        })();
        if next.is_err() {
            self.rest = Reader::new(&[]);
        }
        Some(next)
    }
}

/// Writes a program.
#[cfg(feature = "encode")]
#[derive(Debug)]
pub struct Writer(Vec<u8>);

#[cfg(feature = "encode")]
impl Writer {
    pub fn new(header: Header) -> Writer {
        let mut out = Vec::with_capacity(8192);
        MAGIC.write(&mut out);
        VERSION.write(&mut out);
        header.control.write(&mut out);
        header.first_private.write(&mut out);
        Writer(out)
    }

    pub fn push(&mut self, step: u16, op: Op<'_>) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 8]);
        let kind = op.encode(&mut self.0);
        let length = (self.0.len() - start - 8) as u32;
        if let Some(head) = self.0.get_mut(start..start + 8) {
            head[..2].copy_from_slice(&kind.to_ne_bytes());
            head[2..4].copy_from_slice(&step.to_ne_bytes());
            head[4..].copy_from_slice(&length.to_ne_bytes());
        }
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests;
