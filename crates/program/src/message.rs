// SPDX-License-Identifier: MIT OR Apache-2.0
//! The messages on the control socket and on the start socket. All have one size.
//!
//! ```text
//! runtime                                  init
//! clone ─────────────────────────────────▶ (dies with the runtime from here on)
//! Go ────────────────────────────────────▶ only if the plan has an Await
//!     ◀─────────────────────────── Mounted only if prestart or createRuntime hooks exist
//! hooks; Go ─────────────────────────────▶
//!     ◀─────────────────────────── Console only with a terminal; carries the master
//!     ◀────────────────────────────── Forked only to enter a pid namespace; it ends, and a copy of it waits
//! Go ────────────────────────────────────▶ goes on as the copy
//!     ◀──────────────────────────── Listener only if a seccomp filter notifies; the runtime takes the descriptor
//! hand it to the agent; Go ──────────────▶ as soon as it is there, and init closes its own
//!     ◀───────────────────────────── Ready from here on it lives by the socket alone
//! record; Go ────────────────────────────▶ parked: waits on the start socket; run: goes on
//!
//! start                                    init, parked
//! connect; Start ────────────────────────▶
//!     ◀───────────────────────── Executing then end of file: execve succeeded. Under a seccomp filter it carries the
//!                                          file of a page; a Failed message in that says otherwise
//!     ◀──────────── Failed{step, errno, …} instead of any of the above
//!     ◀────────────── Warning{step, errno} at any time before Ready
//! ```

use crate::{Field, Malformed, Reader};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    Go,
    Mounted,
    Console,
    Ready,
    Start,
    Executing,
    Failed,
    Warning,
    /// `detail` is the number under which the listener will be open in init, once the filter is loaded.
    Listener,
    /// A copy of init goes on in its place: `detail` is its pid, and its pidfd comes along.
    Forked,
}

/// Zeros are no message: a buffer that a seccomp filter only claims to be filled.
const FIRST_KIND: u32 = 1;

const KINDS: [MessageKind; 10] = [
    MessageKind::Go,
    MessageKind::Mounted,
    MessageKind::Console,
    MessageKind::Ready,
    MessageKind::Start,
    MessageKind::Executing,
    MessageKind::Failed,
    MessageKind::Warning,
    MessageKind::Listener,
    MessageKind::Forked,
];

/// One message. `errno` is 0 where no call failed; `detail` and `data` belong to the kind of op that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub kind: MessageKind,
    pub step: u32,
    pub errno: i32,
    pub detail: u32,
    length: u32,
    data: [u8; Message::DATA],
}

/// `detail` of a failed [`crate::Op::Execute`] or [`crate::Op::FindExecutable`]: what `data` names, or what is wrong.
pub mod detail {
    pub const NONE: u32 = 0;
    /// `data` is the interpreter of the `#!` line, which is missing or may not be executed.
    pub const SCRIPT_INTERPRETER: u32 = 1;
    /// `data` is the interpreter in the ELF header.
    pub const ELF_INTERPRETER: u32 = 2;
    /// `data` is the machine number of the ELF header (u16).
    pub const MACHINE: u32 = 3;
    /// The filesystem is mounted noexec.
    pub const NOEXEC: u32 = 4;
    /// Not in any directory of PATH.
    pub const NOT_IN_PATH: u32 = 5;
    pub const DIRECTORY: u32 = 6;
    /// Neither ELF nor `#!`.
    pub const NOT_A_PROGRAM: u32 = 7;
    /// It did not come to execve(2), or not to a look at the file.
    pub const BEFORE: u32 = 8;
    /// A hook's exit: `data` is its status as i32, or with HOOK_SIGNAL its signal.
    pub const HOOK_STATUS: u32 = 16;
    pub const HOOK_SIGNAL: u32 = 17;
    pub const HOOK_TIMEOUT: u32 = 18;
    /// The filesystem's own complaint, from its context.
    pub const FILESYSTEM: u32 = 32;
    /// A directory was to be mounted on what is not one, or the reverse.
    pub const KIND_MISMATCH: u32 = 33;
    /// What is there is another device.
    pub const OTHER_DEVICE: u32 = 34;
    /// The mount point could not be made or reached.
    pub const MOUNT_POINT: u32 = 35;
    /// The mount point is somewhere in procfs.
    pub const INSIDE_PROC: u32 = 37;
    /// An id or a capability reads back other than it was set.
    pub const READ_BACK: u32 = 36;
}

impl Message {
    pub const DATA: usize = 236;
    pub const SIZE: usize = 20 + Self::DATA;

    pub fn new(kind: MessageKind) -> Message {
        Message { kind, step: 0, errno: 0, detail: detail::NONE, length: 0, data: [0; Self::DATA] }
    }

    pub fn failed(step: u32, errno: i32) -> Message {
        Message { step, errno, ..Message::new(MessageKind::Failed) }
    }

    /// Attach bytes; what does not fit is cut off.
    pub fn with(mut self, detail: u32, data: &[u8]) -> Message {
        let length = data.len().min(Self::DATA);
        for (to, from) in self.data.iter_mut().zip(data) {
            *to = *from;
        }
        self.length = length as u32;
        self.detail = detail;
        self
    }

    pub fn data(&self) -> &[u8] {
        self.data.get(..self.length as usize).unwrap_or_default()
    }

    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let kind = KINDS.iter().position(|kind| *kind == self.kind).map_or(0, |at| at as u32 + FIRST_KIND);
        let head = [kind, self.step, self.errno as u32, self.detail, self.length];
        for (to, from) in bytes.iter_mut().zip(head.iter().flat_map(|n| n.to_ne_bytes()).chain(self.data)) {
            *to = from;
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        if bytes.len() != Self::SIZE {
            return Err(Malformed);
        }
        let mut reader = Reader::new(bytes);
        let at = u32::read(&mut reader)?.checked_sub(FIRST_KIND).ok_or(Malformed)?;
        let kind = *KINDS.get(at as usize).ok_or(Malformed)?;
        let step = u32::read(&mut reader)?;
        let errno = i32::read(&mut reader)?;
        let detail = u32::read(&mut reader)?;
        let length = u32::read(&mut reader)?;
        if length as usize > Self::DATA {
            return Err(Malformed);
        }
        let mut data = [0; Self::DATA];
        for (to, from) in data.iter_mut().zip(bytes.iter().skip(20)) {
            *to = *from;
        }
        Ok(Message { kind, step, errno, detail, length, data })
    }
}
