// SPDX-License-Identifier: MIT OR Apache-2.0
//! Becoming the container's process: where it works, who it is, and what it may do.

use core::ffi::CStr;

use coracle_program::{Op, detail};
use coracle_sys::process::Capabilities;
use coracle_sys::{Errno, fd, mount, process};

use crate::{Done, Failure, Init, path};

/// One past the highest capability number that sets of 64 bits can name.
const CAPABILITIES: u32 = 64;

impl Init {
    /// Magic links are refused on the way, so that no descriptor of ours can become the working directory
    /// (CVE-2024-21626).
    pub(crate) fn working_directory(&mut self, path: &'static CStr, make: bool) -> Done {
        let directory = if make {
            path::reach_directory(self.rootfs.root(), path.to_bytes())?
        } else {
            fd::open_in_root(self.rootfs.root(), path, libc::O_PATH | libc::O_DIRECTORY, 0)?
        };
        match mount::fchdir(directory.number()) {
            Err(Errno::ACCES) => {
                self.late_directory = Some((self.step, path));
                Ok(())
            }
            other => Ok(other?),
        }
    }

    pub(crate) fn identity(&mut self, op: Op<'static>) -> Done {
        let Op::Identity { uid, gid, groups, keep_groups, bounding, effective } = op else {
            return Err(Errno::PROTO.into());
        };
        // Dropping from the bounding set needs CAP_SETPCAP, so it comes before the ids and the other sets.
        for capability in 0..CAPABILITIES {
            if bounding >> capability & 1 == 1 {
                continue;
            }
            match process::drop_bounding(capability) {
                Ok(()) => {}
                // The kernel knows no more.
                Err(Errno::INVAL) => break,
                Err(Errno::PERM) if !process::in_bounding(capability)? => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        process::set_keep_capabilities(true)?;
        if keep_groups == 0 {
            match process::set_groups(groups.0) {
                // In a user namespace that is joined it may be denied to all: no harm where there are none anyway.
                Err(Errno::PERM) if groups.0.is_empty() && process::group_count()? == 0 => {}
                result => result?,
            }
        }
        process::set_gid(gid)?;
        process::set_uid(uid)?;
        process::set_keep_capabilities(false)?;
        process::clear_ambient()?;
        self.die_with_runtime()?;

        // Not a word of it is taken on trust.
        let same = process::uids()? == [uid; 3]
            && process::gids()? == [gid; 3]
            && (keep_groups != 0 || process::group_count()? == groups.0.len() / 4);
        if !same {
            return Err(differs());
        }
        // The change of ids has left them permitted only. What is looked up from here on is what the user may see.
        let kept = process::capget()?;
        process::capset(&Capabilities { effective: effective & kept.permitted, ..kept })?;

        if let Some((step, path)) = self.late_directory.take() {
            // What fails now is that step.
            self.step = step;
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let directory = fd::open_in_root(self.rootfs.root(), path, flags, 0)?;
            mount::fchdir(directory.number())?;
        }
        Ok(())
    }

    pub(crate) fn capabilities(&mut self, sets: &Capabilities, ambient: u64) -> Done {
        if self.filter.is_some() {
            // AwaitStart, which needs the listener, is still to come.
            self.prepare_command(-1)?;
            // It takes CAP_SYS_ADMIN. From here on every call of init is the filter's to judge.
            let kept = process::capget()?;
            process::capset(&Capabilities { effective: kept.permitted, ..kept })?;
            self.load_filter()?;
        }
        process::capset(sets)?;
        for capability in (0..CAPABILITIES).filter(|capability| ambient >> capability & 1 == 1) {
            process::raise_ambient(capability)?;
        }
        if process::capget()? == *sets { Ok(()) } else { Err(differs()) }
    }
}

fn differs() -> Failure {
    Failure::new(Errno::PERM, detail::READ_BACK, &[])
}
