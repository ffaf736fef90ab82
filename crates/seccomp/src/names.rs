// SPDX-License-Identifier: MIT OR Apache-2.0
//! Syscall name → number.
//!
//! Owns the form in which tables.rs is kept in the binary and the search in it. Decides nothing. Comes from
//! tables.rs, turned at build time into arrays without a pointer, which need no relocation when the program starts.

use crate::architecture::Architecture;
use crate::tables::{NONE, ROWS};

const COUNT: usize = ROWS.len();
const COLUMNS: usize = ROWS[0].1.len();

/// A power of two, four times the names: most searches end at their first slot.
const SLOTS: usize = (COUNT * 4).next_power_of_two();

const TEXT_LENGTH: usize = {
    let (mut total, mut row) = (0, 0);
    while row < COUNT {
        total += ROWS[row].0.len();
        row += 1;
    }
    total
};

/// All names, one after another.
static TEXT: [u8; TEXT_LENGTH] = {
    let (mut text, mut at, mut row) = ([0; TEXT_LENGTH], 0, 0);
    while row < COUNT {
        let name = ROWS[row].0.as_bytes();
        let mut byte = 0;
        while byte < name.len() {
            text[at] = name[byte];
            at += 1;
            byte += 1;
        }
        row += 1;
    }
    text
};

/// Where each name begins in `TEXT`; one more than there are names.
static STARTS: [u16; COUNT + 1] = {
    let (mut starts, mut at, mut row) = ([0; COUNT + 1], 0, 0);
    while row < COUNT {
        at += ROWS[row].0.len();
        row += 1;
        starts[row] = at as u16;
    }
    assert!(at <= u16::MAX as usize);
    starts
};

static NUMBERS: [[u16; COLUMNS]; COUNT] = {
    let (mut numbers, mut row) = ([[0; COLUMNS]; COUNT], 0);
    while row < COUNT {
        numbers[row] = ROWS[row].1;
        row += 1;
    }
    numbers
};

/// An open hash table of rows.
static BY_NAME: [u16; SLOTS] = {
    let (mut slots, mut row) = ([NONE; SLOTS], 0);
    while row < COUNT {
        let mut slot = hash(ROWS[row].0.as_bytes());
        while slots[slot] != NONE {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = row as u16;
        row += 1;
    }
    slots
};

/// FNV-1a, folded to a slot.
const fn hash(name: &[u8]) -> usize {
    let (mut hash, mut at) = (0x811c_9dc5_u32, 0);
    while at < name.len() {
        hash = (hash ^ name[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (hash ^ (hash >> 15)) as usize % SLOTS
}

/// A line of the table: one name on all architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row(u16);

/// How many rows there are.
pub(crate) const ROW_COUNT: usize = COUNT;

impl Row {
    pub(crate) fn find(name: &str) -> Option<Self> {
        let mut slot = hash(name.as_bytes());
        while BY_NAME[slot] != NONE {
            let row = Row(BY_NAME[slot]);
            if row.name() == name.as_bytes() {
                return Some(row);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    fn name(self) -> &'static [u8] {
        &TEXT[usize::from(STARTS[self.index()])..usize::from(STARTS[self.index() + 1])]
    }

    /// The table's number on `architecture`, below [`SLOT_COUNT`].
    pub(crate) fn slot(self, architecture: Architecture) -> Option<usize> {
        let number = NUMBERS[self.index()][architecture.column()];
        (number != NONE).then_some(usize::from(number))
    }
}

/// Numbers of the table are below this one.
pub(crate) const SLOT_COUNT: usize = 1024;

/// The table keeps ARM's private calls, 0xf0001 to 0xf0006, from this number on.
pub(crate) const PRIVATE_SLOT: usize = 1008;

const PRIVATE_BASE: u32 = 0x000f_0000;

const _: () = {
    let mut row = 0;
    while row < COUNT {
        let mut column = 0;
        while column < COLUMNS {
            let number = ROWS[row].1[column];
            assert!(number == NONE || (number as usize) < SLOT_COUNT);
            column += 1;
        }
        row += 1;
    }
};

/// The number that the kernel sees for a number of the table.
pub(crate) fn number_of(architecture: Architecture, slot: usize) -> u32 {
    if slot >= PRIVATE_SLOT {
        PRIVATE_BASE + (slot - PRIVATE_SLOT) as u32
    } else {
        architecture.base() + slot as u32
    }
}

/// The number of a call on an architecture, as the kernel hands it to a filter; `None` if it does not exist there.
pub fn syscall_number(name: &str, architecture: Architecture) -> Option<u32> {
    Some(number_of(architecture, Row::find(name)?.slot(architecture)?))
}

/// Calls that are also reached through another one, on architectures that have it, and its first argument then
/// (linux/net.h, linux/ipc.h).
#[rustfmt::skip]
pub(crate) static MULTIPLEXED: [(Row, Multiplexer, u32); 32] = {
    use Multiplexer::{Ipc, Socketcall};
    [
        (row("socket"), Socketcall, 1), (row("bind"), Socketcall, 2), (row("connect"), Socketcall, 3),
        (row("listen"), Socketcall, 4), (row("accept"), Socketcall, 5), (row("getsockname"), Socketcall, 6),
        (row("getpeername"), Socketcall, 7), (row("socketpair"), Socketcall, 8), (row("send"), Socketcall, 9),
        (row("recv"), Socketcall, 10), (row("sendto"), Socketcall, 11), (row("recvfrom"), Socketcall, 12),
        (row("shutdown"), Socketcall, 13), (row("setsockopt"), Socketcall, 14), (row("getsockopt"), Socketcall, 15),
        (row("sendmsg"), Socketcall, 16), (row("recvmsg"), Socketcall, 17), (row("accept4"), Socketcall, 18),
        (row("recvmmsg"), Socketcall, 19), (row("sendmmsg"), Socketcall, 20),
        (row("semop"), Ipc, 1), (row("semget"), Ipc, 2), (row("semctl"), Ipc, 3), (row("semtimedop"), Ipc, 4),
        (row("msgsnd"), Ipc, 11), (row("msgrcv"), Ipc, 12), (row("msgget"), Ipc, 13), (row("msgctl"), Ipc, 14),
        (row("shmat"), Ipc, 21), (row("shmdt"), Ipc, 22), (row("shmget"), Ipc, 23), (row("shmctl"), Ipc, 24),
    ]
};

static SOCKETCALL: Row = row("socketcall");
static IPC: Row = row("ipc");

/// The row of a name that the table must have: building fails without it.
const fn row(name: &str) -> Row {
    let (wanted, mut row) = (name.as_bytes(), 0);
    while row < COUNT {
        let name = ROWS[row].0.as_bytes();
        let mut same = 0;
        while same < name.len() && same < wanted.len() && name[same] == wanted[same] {
            same += 1;
        }
        if same == name.len() && same == wanted.len() {
            return Row(row as u16);
        }
        row += 1;
    }
    panic!("the table lacks a multiplexed call")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Multiplexer {
    Socketcall,
    Ipc,
}

impl Multiplexer {
    pub(crate) const ALL: [Self; 2] = [Self::Socketcall, Self::Ipc];

    pub(crate) fn row(self) -> Row {
        match self {
            Multiplexer::Socketcall => SOCKETCALL,
            Multiplexer::Ipc => IPC,
        }
    }

    /// The bits of the first argument that name the call. `socketcall` takes an int; `ipc` keeps a version in the
    /// upper half of one, which must not hide the call from a rule.
    pub(crate) fn mask(self) -> u32 {
        match self {
            Multiplexer::Socketcall => u32::MAX,
            Multiplexer::Ipc => 0xffff,
        }
    }
}
