// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns what /proc says of a process that executes a program at this moment.
//! Never takes the middle of an execve(2) for its end, nor waits for one that does not come.
//! The pid comes from the case, the bytes go back to it.

use std::time::{Duration, Instant};
use std::{fs, thread};

/// For what is sure to come; on a machine that is emulated too.
const PATIENCE: Duration = Duration::from_secs(60);

/// `cmdline` or `environ` of a process, once `is` holds of it; whatever it is when that does not come.
///
/// Descriptors are closed, and who waits for a vfork(2) goes on, while the execve(2) has most of its work ahead (fs/exec.c,
/// begin_new_exec): until the new stack is there the file is empty, or that of the program before. Nothing tells of the
/// end.
#[track_caller]
pub fn settled(pid: i64, file: &str, is: impl Fn(&str) -> bool) -> String {
    let path = format!("/proc/{pid}/{file}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if is(&text) || Instant::now() > deadline {
            return text;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the process executes, by its words.
#[track_caller]
pub fn executes(pid: i32, words: &[&str]) {
    let wanted: String = words.iter().map(|word| format!("{word}\0")).collect();
    assert_eq!(settled(pid.into(), "cmdline", |text| text == wanted), wanted);
}
