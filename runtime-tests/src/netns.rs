// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns network namespaces of a case: one that plays the host, and one that plays the world outside of it.
//! Never touches the host's own. They end with the last descriptor and thread.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// For what is sure to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// From here on this thread, and what it starts, has a network of its own, with nothing but the loopback.
pub fn leave_hosts_network() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
}

pub fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Names of the links in this thread's network namespace.
pub fn links() -> Vec<String> {
    let text = ip("-o link");
    let name = |line: &str| line.split(": ").nth(1).unwrap().split('@').next().unwrap().to_string();
    text.lines().map(name).collect()
}

pub fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// `work` in another network namespace, by a thread that ends there.
pub fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A namespace outside: 198.51.100.1 (fd98::1), linked to the case's, which is 198.51.100.2 (fd98::2) and its route to everywhere.
pub fn outside() -> File {
    let outside = std::thread::scope(|scope| {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            here()
        };
        scope.spawn(make).join().unwrap()
    });
    // ip takes a path for the name of a namespace.
    let path = format!("/proc/{}/fd/{}", std::process::id(), outside.as_raw_fd());
    ip(&format!("link add up1 type veth peer name up0 netns {path}"));
    within(&outside, || {
        ip("link set up0 up");
        ip("addr add 198.51.100.1/24 dev up0");
        ip("addr add fd98::1/64 nodad dev up0");
    });
    ip("addr add 198.51.100.2/24 dev up1");
    ip("addr add fd98::2/64 nodad dev up1");
    ip("link set up1 up");
    ip("route add default via 198.51.100.1");
    ip("route add default via fd98::1");
    carrier("up1");
    outside
}

/// Both ends are up: from here on no packet is lost. The kernel tells a moment after the second one was raised.
pub fn carrier(link: &str) {
    let deadline = Instant::now() + PATIENCE * crate::patience();
    while !ip(&format!("-o link show dev {link}")).contains("state UP") {
        assert!(Instant::now() < deadline, "{link} has no carrier");
        std::thread::sleep(Duration::from_millis(1));
    }
}
