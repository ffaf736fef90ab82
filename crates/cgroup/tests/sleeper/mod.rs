// SPDX-License-Identifier: MIT OR Apache-2.0
//! A child process for a unit, and the unit's end, for the tests of the systemd driver.
//!
//! Never outlives its test: both end on drop. The child does nothing but open files when it is told to, and
//! takes no SIGTERM.

// Each test crate uses its part of these.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::ops::Deref;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_cgroup::Systemd;
use coracle_plan::SystemdUnit;

pub struct Sleeper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sleeper {
    pub fn new() -> Sleeper {
        // Without a fork: pids.max may be 1.
        let script = r#"trap "" TERM; echo ready; while read -r path; do
            if { true; } <"$path"; then echo yes; else echo no; fi
        done"#;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        // Errors of opening are told by the answer.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut sleeper = Sleeper { child, input, output: BufReader::new(output) };
        assert_eq!(sleeper.answer(), "ready");
        sleeper
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// In the hierarchy where systemd tracks processes.
    pub fn cgroup(&self) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).unwrap();
        text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_string()
    }

    /// `yes`, `no`, or nothing when it has ended.
    pub fn opens(&mut self, path: &str) -> String {
        writeln!(self.input, "{path}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim().to_string()
    }

    /// Waits for an end that something else brings.
    pub fn ended(&mut self) {
        self.child.wait().unwrap();
    }

    pub fn end(&mut self) {
        self.child.kill().ok();
        self.ended();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// Stopped on drop.
pub struct Unit(SystemdUnit);

impl Unit {
    /// Of the system's manager; the name is this test's alone.
    pub fn scope(slice: &str, name: &str) -> Unit {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Unit::named(slice, &format!("coracletest-{name}-{}-{number}.scope", std::process::id()))
    }

    pub fn named(slice: &str, name: &str) -> Unit {
        Unit(SystemdUnit {
            slice: slice.to_string(),
            name: name.to_string(),
            description: "coracle test".to_string(),
            user: false,
            properties: Vec::new(),
        })
    }

    pub fn change(&mut self, change: impl FnOnce(&mut SystemdUnit)) {
        change(&mut self.0);
    }
}

impl Deref for Unit {
    type Target = SystemdUnit;

    fn deref(&self) -> &SystemdUnit {
        &self.0
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Ok(mut systemd) = Systemd::connect(self.0.user) {
            systemd.stop(&self.0.name).ok();
            // systemd leaves slices that it made for a unit.
            if self.0.slice.starts_with("coracletest") {
                let stem = self.0.slice.split(['-', '.']).next().unwrap_or_default();
                systemd.stop(&format!("{stem}.slice")).ok();
            }
        }
    }
}

/// The stem of a slice that is this process's alone, and goes with the unit.
pub fn slice(test: &str) -> String {
    format!("coracletest{test}{}", std::process::id())
}

/// For what has no event: systemd tells a state only when it is asked.
pub fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "waited for a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
}
