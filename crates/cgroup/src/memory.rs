// SPDX-License-Identifier: MIT OR Apache-2.0
//! A smaller `memory.max` for a cgroup2 that is in use, without a kill.
//!
//! Never writes a maximum that is below what is in use: the kernel would reclaim, and then kill (cgroup-v2.rst
//! "memory.max"). So it is asked to reclaim first. v1 needs none of this: its kernel code refuses what it cannot reclaim.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::cgroup::Tree;
use crate::error::Error;
use crate::tree;

/// Requests to reclaim, each of which the kernel takes for done or gives up on its own.
const REQUESTS: u32 = 8;

/// Is this file the one that may kill?
pub(crate) fn is_maximum(tree: &Tree, path: &Path) -> bool {
    tree.unified() && path.file_name().is_some_and(|name| name == "memory.max")
}

/// Writes `value` to the open `memory.max`. The inner error is the kernel's answer to it. A limit that does not fit is
/// [`Error::InUse`], and nothing is changed then.
pub(crate) fn set_maximum(
    tree: &Tree,
    maximum: BorrowedFd<'_>,
    limit: &str,
    value: &str,
) -> Result<nix::Result<()>, Error> {
    let failed = |what: &str, file: &str, errno| Error::io(what, tree.directory.path.join(file), errno);
    let now = tree::read_open(maximum).map_err(|errno| failed("read", "memory.max", errno))?;
    let asked = bytes(value);
    let Some(asked) = asked.filter(|asked| bytes(&now).is_none_or(|now| *asked < now)) else {
        return Ok(tree::write_open(maximum, value));
    };
    let used = match reclaim(tree, asked)? {
        Some(used) => used,
        None => squeeze(tree, asked)?,
    };
    // Who takes more between here and there meets the new limit as after it.
    match used <= asked {
        true => Ok(tree::write_open(maximum, value)),
        false => Err(Error::InUse { limit: limit.to_string(), asked, used }),
    }
}

fn in_use(tree: &Tree) -> Result<i64, Error> {
    let text = tree.read_if_there("memory.current")?.unwrap_or_default();
    Ok(text.trim().parse().unwrap_or(0))
}

/// Bytes in use after the kernel has tried to make it no more than `wanted`; `None` before Linux 5.19.
fn reclaim(tree: &Tree, wanted: i64) -> Result<Option<i64>, Error> {
    let mut now = in_use(tree)?;
    for _ in 0..REQUESTS {
        if now <= wanted {
            break;
        }
        // EAGAIN says that less was found.
        let asked = tree::write(tree.existing()?, "memory.reclaim", &(now - wanted).to_string());
        if asked == Err(Errno::ENOENT) {
            return Ok(None);
        }
        let before = now;
        now = in_use(tree)?;
        if now >= before {
            break;
        }
    }
    Ok(Some(now))
}

/// The same for an older kernel: a smaller `memory.high` has it reclaim. Not undone if the caller is killed meanwhile.
fn squeeze(tree: &Tree, wanted: i64) -> Result<i64, Error> {
    let failed = |what: &str, errno| Error::io(what, tree.directory.path.join("memory.high"), errno);
    let high = tree::open_file(tree.existing()?, "memory.high", OFlag::O_RDWR)
        .map_err(|errno| failed("open", errno))?;
    let before = tree::read_open(high.as_fd()).map_err(|errno| failed("read", errno))?;
    if bytes(&before).is_some_and(|before| before <= wanted) {
        return in_use(tree);
    }
    tree::write_open(high.as_fd(), &wanted.to_string()).map_err(|errno| failed("set", errno))?;
    let used = in_use(tree);
    tree::write_open(high.as_fd(), before.trim()).map_err(|errno| failed("write back", errno))?;
    used
}

/// As the kernel reads it (memparse()); None for `max` and what is no number.
fn bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_the_kernel_reads_them() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("4096\n", Some(4096)),
            ("64K", Some(65_536)),
            ("2m", Some(2 << 20)),
            ("1G", Some(1 << 30)),
            ("1t", Some(1 << 40)),
            ("max", None),
            ("", None),
            ("K", None),
            ("9223372036854775807G", None),
            ("é", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text:?}");
        }
    }
}
