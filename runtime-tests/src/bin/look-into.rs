// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the attacker of the regression tests: pid 1 of a container, it looks into every process that comes after it.
//! Never ends by itself, and never writes into what it opened.
//! The next process ids are its input; that it looks, what was refused and what opened goes to stdout, one line each.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

/// Where init is linked to, and Debian's static busybox, which the other containers run.
const INIT: u64 = 0x20_0000;
const BUSYBOX: u64 = 0x40_0000;
/// How far ahead a process id is looked for: some are gone before they have been seen.
const AHEAD: u32 = 6;
/// For a program to be in its memory.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let mut said = BTreeSet::new();
    let mut say = |line: String| {
        if said.insert(line.clone()) {
            println!("{line}");
        }
    };
    let mut next = std::process::id() + 1;
    say("looks".to_owned());
    loop {
        // It may not have run for a while.
        let last = fs::read_to_string("/proc/sys/kernel/ns_last_pid").ok();
        let last = last.and_then(|text| text.trim_end().parse::<u32>().ok()).unwrap_or(0);
        next = next.max((last + 1).saturating_sub(AHEAD));
        let ahead = next..next + AHEAD;
        for pid in ahead {
            match OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(_) => say(format!("refused {pid}")),
                Ok(memory) => say(format!("opened {pid} mem {}", whose(&memory, pid))),
            }
            next = pid;
            for name in ["maps", "environ"] {
                let text = File::open(format!("/proc/{pid}/{name}")).and_then(|mut file| {
                    let mut text = Vec::new();
                    file.read_to_end(&mut text).map(|_| text)
                });
                // Nothing to read is no memory: of a process that has ended.
                if text.is_ok_and(|text| !text.is_empty()) {
                    say(format!("opened {pid} {name}"));
                }
            }
            let links = ["root".to_owned(), "cwd".to_owned(), "exe".to_owned()];
            for name in links.into_iter().chain((0..12).map(|n| format!("fd/{n}"))) {
                if let Ok(target) = fs::read_link(format!("/proc/{pid}/{name}")) {
                    say(format!("opened {pid} {name} {}", target.display()));
                }
            }
        }
    }
}

/// The descriptor keeps to the memory that was opened, whatever the process executes meanwhile.
///
/// The memory of a new program can be opened before the program is in it, but not before the process has the program's name
/// (fs/exec.c: `exec_update_lock`). So what belongs to a process that is called as the runtime is the runtime's; for
/// another one it is waited for, however long the process has no turn.
fn whose(memory: &File, pid: u32) -> &'static str {
    let is_runtime = fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"oar\n");
    let read = |address| memory.read_at(&mut [0; 16], address);
    let look = || match (read(INIT), read(BUSYBOX)) {
        // The end of the file is there when its last process has left it.
        (Ok(0), _) | (_, Ok(0)) => Some("of nobody"),
        (Ok(_), _) => Some("of init"),
        (_, Ok(_)) => Some("of the command"),
        _ => None,
    };
    let begin = Instant::now();
    loop {
        match look() {
            Some(whose) => return whose,
            None if is_runtime || begin.elapsed() > PATIENCE => return "of the runtime",
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}
