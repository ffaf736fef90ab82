// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which inherited descriptors may reach the container: 0-2, those of $LISTEN_FDS, those of --preserve-fds.
//! Never opens anything before it has looked: a file of ours on a number that the caller named would be passed on.
//! Numbers come from the command line and the environment; the runtime gets how many are really there.

use std::ffi::OsStr;

use coracle_runtime::{Code, Error, Result};
use coracle_sys::{Errno, fd};

use crate::log::Log;

// 0-2 need no work: Rust's own start-up opens /dev/null on each of them that is closed.
const FIRST: u32 = 3;

/// More than this is a mistake, and each one costs a system call.
const MOST: u32 = 65_536;

/// How many descriptors from 3 on are passed: those of $LISTEN_FDS, then those of --preserve-fds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) listen: u32,
    pub(crate) preserve: u32,
}

/// The number in $LISTEN_FDS. $LISTEN_PID is not compared: it names the engine or a monitor between it and us.
pub(crate) fn listen_fds(variable: Option<&OsStr>) -> Result<u32> {
    let text = match variable {
        None => return Ok(0),
        Some(text) if text.is_empty() => return Ok(0),
        Some(text) => text,
    };
    text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::new(Code::Invalid, format!("invalid value {text:?} for $LISTEN_FDS: must be a number"))
    })
}

/// $LISTEN_FDNAMES for as many descriptors as are passed (sd_listen_fds_with_names(3)).
pub(crate) fn names(listen: u32, log: &Log) -> String {
    let Some(value) = std::env::var_os("LISTEN_FDNAMES").filter(|_| listen > 0) else { return String::new() };
    match value.to_str() {
        Some(names) => first_names(names, listen),
        None => {
            log.warning(&format!("LISTEN_FDNAMES {value:?} is not valid UTF-8; left out"));
            String::new()
        }
    }
}

fn first_names(names: &str, count: u32) -> String {
    names.split(':').take(count as usize).collect::<Vec<_>>().join(":")
}

/// Checks that what the caller named is open, and marks everything behind it close-on-exec.
pub(crate) fn claim(listen: u32, preserve: u32) -> Result<Passed> {
    let passed = check(listen, preserve, |number| fd::is_open(number as i32))?;
    for hole in passed.holes {
        plug(hole)?;
    }
    seal(FIRST + passed.passed.listen + passed.passed.preserve)?;
    Ok(passed.passed)
}

/// Nothing but 0-2 is inherited by what this command executes.
pub(crate) fn claim_none() -> Result<()> {
    seal(FIRST)
}

fn seal(first: u32) -> Result<()> {
    fd::cloexec_from(first).map_err(|errno| system("close_range", errno))
}

#[derive(Debug, PartialEq, Eq)]
struct Checked {
    passed: Passed,
    holes: Vec<u32>,
}

/// Every number must be open. Podman counts the same descriptors in $LISTEN_FDS and in --preserve-fds, and may
/// leave holes: with both, or with $LISTEN_FDS alone, what is missing at the end is dropped and holes are plugged.
fn check(listen: u32, preserve: u32, is_open: impl Fn(u32) -> bool) -> Result<Checked> {
    let total = listen.checked_add(preserve).filter(|total| *total <= MOST);
    let lenient = listen > 0;
    let numbers = FIRST..FIRST + total.unwrap_or(MOST);
    if !lenient && let Some(closed) = numbers.clone().find(|number| !is_open(*number)) {
        let message = format!("--preserve-fds {preserve}: descriptor {closed} is not open");
        return Err(Error::new(Code::Invalid, message));
    }
    if total.is_none() {
        let message = format!("$LISTEN_FDS and --preserve-fds: more than {MOST} descriptors");
        return Err(Error::new(Code::Invalid, message));
    }
    let (open, mut holes): (Vec<u32>, Vec<u32>) = numbers.partition(|number| is_open(*number));
    let end = open.last().map_or(FIRST, |last| last + 1);
    holes.retain(|hole| *hole < end);
    let listen = listen.min(end - FIRST);
    Ok(Checked { passed: Passed { listen, preserve: end - FIRST - listen }, holes })
}

/// /dev/null on a number that the caller left out, so that no file of ours can take it.
fn plug(number: u32) -> Result<()> {
    let null = fd::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0);
    // The lowest free number is taken, and holes are plugged in order.
    let taken = null.map_err(|errno| system("open /dev/null", errno))?.release();
    if taken != number as i32 {
        return Err(Error::new(Code::System, format!("descriptor {number} was opened by someone else")));
    }
    fd::set_cloexec(taken, false).map_err(|errno| system("fcntl", errno))
}

fn system(what: &str, errno: Errno) -> Error {
    Error::io(what, &std::io::Error::from_raw_os_error(errno.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_fds_is_a_number_or_nothing() {
        assert_eq!(listen_fds(None).unwrap(), 0);
        assert_eq!(listen_fds(Some(OsStr::new(""))).unwrap(), 0);
        assert_eq!(listen_fds(Some(OsStr::new("2"))).unwrap(), 2);
        for bad in ["abc", "-1", "1 ", "99999999999", "0x2"] {
            let error = listen_fds(Some(OsStr::new(bad))).unwrap_err();
            assert!(error.message.contains(bad) && error.message.contains("LISTEN_FDS"), "{}", error.message);
        }
    }

    #[test]
    fn as_many_names_as_descriptors() {
        assert_eq!(first_names("web:admin", 2), "web:admin");
        assert_eq!(first_names("web:admin:gone", 2), "web:admin");
        assert_eq!(first_names("web", 2), "web");
    }

    /// The descriptors that are open in each case, what is asked for, and what is passed.
    #[test]
    fn what_was_named_must_be_open_unless_listen_fds_counts_it_too() {
        let run = |open: &[u32], listen, preserve| check(listen, preserve, |number| open.contains(&number));
        let pass = |listen, preserve, holes: &[u32]| Checked {
            passed: Passed { listen, preserve },
            holes: holes.to_vec(),
        };
        assert_eq!(run(&[], 0, 0).unwrap(), pass(0, 0, &[]));
        assert_eq!(run(&[3, 9], 0, 0).unwrap(), pass(0, 0, &[]));
        assert_eq!(run(&[3, 4, 9], 0, 2).unwrap(), pass(0, 2, &[]));
        assert_eq!(run(&[3, 4, 5], 2, 1).unwrap(), pass(2, 1, &[]));
        assert_eq!(run(&[3, 4], 2, 2).unwrap(), pass(2, 0, &[]));
        assert_eq!(run(&[3], 2, 2).unwrap(), pass(1, 0, &[]));
        assert_eq!(run(&[], 1, 0).unwrap(), pass(0, 0, &[]));
        assert_eq!(run(&[3, 6], 2, 2).unwrap(), pass(2, 2, &[4, 5]));

        let error = run(&[3, 5], 0, 3).unwrap_err().message;
        assert_eq!(error, "--preserve-fds 3: descriptor 4 is not open");
        assert!(run(&[3, 4], 0, 1_000_000_000).unwrap_err().message.ends_with("descriptor 5 is not open"));
        assert!(run(&[3], u32::MAX, u32::MAX).unwrap_err().message.contains("more than"));
    }
}
