// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls that one container's cgroup costs: run it under strace, as root, and count between the marks.
//!
//! Never leaves its cgroup behind: it makes one of its own name, with six limits, and removes it by the
//! record as `delete` does. The marks are lines on stdout.

use std::time::Duration;

use coracle_cgroup::{Error, host, locate};
use coracle_plan::{CgroupPath, CgroupPlace, Resources};

fn main() -> Result<(), Error> {
    let limits = Resources {
        memory_limit: Some(64 << 20),
        memory_reservation: Some(32 << 20),
        memory_swap: Some(96 << 20),
        cpu_shares: Some(512),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        pids_limit: Some(77),
        ..Resources::default()
    };
    let place =
        CgroupPlace::Directory(CgroupPath::Absolute(format!("/coracle-syscalls-{}", std::process::id())));
    println!("host");
    let host = host()?;
    println!("locate");
    let location = locate(&host, &place, "id", "")?;
    println!("create");
    let cgroup = location.create(&limits)?;
    println!("enter");
    cgroup.enter()?.leave(None)?;
    let record = cgroup.location().clone();
    drop(cgroup);
    println!("open, remove");
    record.open().remove(Duration::from_secs(5))?;
    println!("end");
    Ok(())
}
