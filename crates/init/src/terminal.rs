// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container's terminal: a pty of its own devpts, verified by what it is and not by its name.

use coracle_program::detail;
use coracle_sys::{Errno, Fd, fd, mount, tty};

use crate::path::{self, Make};
use crate::{Done, Failure};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// The ptmx node of every devpts instance (kernel fs/devpts/inode.c).
const PTMX_INODE: u64 = 2;

/// Make the pty, put its slave on 0, 1, 2 and with `console` on /dev/console, and return the master.
pub(crate) fn open(root: i32, size: tty::WindowSize, uid: u32, console: bool) -> Done<Fd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = fd::open_in_root(root, c"/dev/pts/ptmx", flags, 0)
        .map_err(|errno| Failure::new(errno, detail::MOUNT_POINT, b"/dev/pts/ptmx"))?;
    let stat = fd::fstat(master.number())?;
    let is_ptmx = fd::fstatfs(master.number())?.0 == DEVPTS_SUPER_MAGIC
        && stat.kind() == libc::S_IFCHR
        && stat.rdev == fd::device_number(5, 2)
        && stat.inode == PTMX_INODE;
    if !is_ptmx {
        return Err(Failure::new(Errno::NODEV, detail::OTHER_DEVICE, b"/dev/pts/ptmx"));
    }
    tty::unlock(master.number())?;
    // The slave by descriptor (TIOCGPTPEER): /dev/pts/N could be anything (CVE-2025-52565).
    let slave = tty::open_slave(master.number())?;
    if size != tty::WindowSize::default() {
        tty::set_window_size(slave.number(), size)?;
    }
    let owner = fd::fstat(slave.number())?;
    if owner.uid != uid {
        fd::chown(slave.number(), uid, owner.gid)?;
    }
    if console {
        let console = path::reach(root, c"/dev/console", Make::File)?;
        let cover = mount::clone_tree(slave.number(), c"", false)?;
        mount::attach(cover.number(), console.number())?;
    }
    for stdio in 0..3 {
        fd::dup3(slave.number(), stdio, false)?;
    }
    Ok(master)
}
