// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits against the real kernel, as root: written, changed, refused and brought back, in whatever hierarchies this
//! host has.
//!
//! Never touches a cgroup that it did not make. Values are read back with plain file reads. What a host does not have
//! is a skip with its reason.

// A panic is a test's report.
#![allow(clippy::unwrap_used)]

mod place;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coracle_cgroup::{Cgroup, Error};
use coracle_plan::{BlockIo, Resources, Throttle, WeightDevice};

use place::{LONG, Place, Sleeper, root, unified, v1, v1_has, v2, value};

const MIB: i64 = 1 << 20;

/// The directory that has a controller's files: v1's, or cgroup2's.
fn home(cgroup: &Cgroup, controller: &str) -> PathBuf {
    let directories = cgroup.directories();
    let v1 = directories.iter().find(|one| one.controllers.iter().any(|name| name == controller));
    v1.unwrap_or(&directories[0]).path.clone()
}

/// Is this file in the cgroup?
fn has(cgroup: &Cgroup, controller: &str, file: &str) -> bool {
    let there = home(cgroup, controller).join(file).exists();
    if !there {
        eprintln!("skip: this kernel has no {file}");
    }
    there
}

/// A whole disk of this machine, as the kernel numbers it.
fn disk() -> Option<(u32, u32)> {
    let mut names: Vec<_> = std::fs::read_dir("/sys/block").unwrap().map(|one| one.unwrap().path()).collect();
    names.sort();
    let Some(disk) = names.last() else {
        eprintln!("skip: this machine has no disk");
        return None;
    };
    let number = value(disk, "dev");
    let (major, minor) = number.split_once(':').unwrap();
    Some((major.parse().unwrap(), minor.parse().unwrap()))
}

fn throttle(device: (u32, u32), rate: u64) -> Vec<Throttle> {
    vec![Throttle { major: device.0, minor: device.1, rate }]
}

/// Only the files that were there before: another test may enable a controller for all meanwhile.
fn of_then(then: &[(PathBuf, String)], mut now: Vec<(PathBuf, String)>) -> Vec<(PathBuf, String)> {
    now.retain(|(path, _)| then.iter().any(|(other, _)| other == path));
    now
}

/// All limits' files of the container's directories, with what they say.
fn everything(cgroup: &Cgroup) -> Vec<(PathBuf, String)> {
    const COUNTERS: [&str; 13] = [
        "stat",
        "usage",
        "current",
        "pressure",
        "events",
        "peak",
        "effective",
        "failcnt",
        "local",
        "kmem",
        "cgroup.",
        "watermark",
        "io_serv",
    ];
    let mut all = Vec::new();
    for directory in cgroup.directories() {
        for entry in std::fs::read_dir(directory.path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.contains('.') && !COUNTERS.iter().any(|counter| name.contains(counter)) {
                // Not every file can be read.
                let text = std::fs::read_to_string(&path);
                // The largest number and "max" are the same; which is shown depends on what was written.
                all.extend(text.ok().map(|text| (path, text.replace("9223372036854771712", "max"))));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn v1_memory_takes_swappiness_and_the_oom_killer() {
    let place = Place::new();
    if !root() || !v1_has(&place, "memory") {
        return;
    }
    let resources =
        Resources { memory_swappiness: Some(7), disable_oom_killer: Some(true), ..Resources::default() };
    let cgroup = place.locate("/web").create(&resources).unwrap();
    let memory = home(&cgroup, "memory");
    assert_eq!(value(&memory, "memory.swappiness"), "7");
    assert!(value(&memory, "memory.oom_control").starts_with("oom_kill_disable 1\n"));
    cgroup.update(&Resources { disable_oom_killer: Some(false), ..Resources::default() }).unwrap();
    assert!(value(&memory, "memory.oom_control").starts_with("oom_kill_disable 0\n"));
    assert_eq!(value(&memory, "memory.swappiness"), "7");
    cgroup.remove(LONG).unwrap();
}

#[test]
fn v1_realtime_needs_runtime_above() {
    let place = Place::new();
    if !root() || !v1_has(&place, "cpu") {
        return;
    }
    let plain = place.locate("").create(&Resources::default()).unwrap();
    if !has(&plain, "cpu", "cpu.rt_runtime_us") {
        return;
    }
    let realtime = Resources {
        cpu_realtime_runtime: Some(2_000),
        cpu_realtime_period: Some(500_000),
        ..Resources::default()
    };
    let error = place.locate("/web").create(&realtime).unwrap_err().to_string();
    let cpu = home(&plain, "cpu");
    let above =
        format!("each cgroup above needs realtime runtime too, and {}/cpu.rt_runtime_us is 0", cpu.display());
    assert!(
        error.starts_with("cpu realtime runtime: 2000 is refused: ") && error.ends_with(&above),
        "{error}"
    );
    plain.update(&realtime).unwrap();
    assert_eq!(
        (value(&cpu, "cpu.rt_runtime_us"), value(&cpu, "cpu.rt_period_us")),
        ("2000".into(), "500000".into())
    );
    let cgroup = place.locate("/web").create(&realtime).unwrap();
    assert_eq!(value(&home(&cgroup, "cpu"), "cpu.rt_runtime_us"), "2000");
}

#[test]
fn v1_marks_packets() {
    let place = Place::new();
    if !root() || !v1(&place) {
        return;
    }
    let has = |name: &str| place.host.v1.iter().any(|one| one.controllers.iter().any(|known| known == name));
    let marks = Resources {
        network_class_id: Some(0x10_0001),
        network_priorities: vec![("lo".to_string(), 5)],
        ..Resources::default()
    };
    if !has("net_cls") || !has("net_prio") {
        let error = place.locate("/web").create(&marks).unwrap_err().to_string();
        assert!(
            error.starts_with("network ") && error.contains(" of cgroup v1, which is not available"),
            "{error}"
        );
        assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
        eprintln!("skip: this host has no net_cls and net_prio");
        return;
    }
    let cgroup = place.locate("/web").create(&marks).unwrap();
    let (class, priority) = (home(&cgroup, "net_cls"), home(&cgroup, "net_prio"));
    let lo = || {
        value(&priority, "net_prio.ifpriomap")
            .lines()
            .find(|line| line.starts_with("lo "))
            .map(str::to_string)
    };
    assert_eq!(value(&class, "net_cls.classid"), "1048577");
    assert_eq!(lo().as_deref(), Some("lo 5"));
    let broken = Resources {
        network_class_id: Some(7),
        network_priorities: vec![("lo".to_string(), 6), ("none-such".to_string(), 1)],
        ..Resources::default()
    };
    let error = cgroup.update(&broken).unwrap_err().to_string();
    assert!(error.starts_with("set network priority to \"none-such 1\" in "), "{error}");
    assert_eq!(value(&class, "net_cls.classid"), "1048577");
    assert_eq!(lo().as_deref(), Some("lo 5"));
}

#[test]
fn a_new_v1_cpuset_has_what_the_one_above_has() {
    let place = Place::new();
    if !root() || !v1_has(&place, "cpuset") {
        return;
    }
    let cgroup = place.locate("/a/b").create(&Resources::default()).unwrap();
    let cpuset = home(&cgroup, "cpuset");
    let root = Path::new(&cgroup.directories().iter().find(|one| one.path == cpuset).unwrap().mount_point)
        .to_path_buf();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        for level in cpuset.ancestors().take(3) {
            assert_eq!(value(level, file), value(&root, file), "{}", level.display());
        }
    }
    let sleeper = Sleeper::inside(&cgroup);
    assert_eq!(cgroup.pids().unwrap(), [sleeper.pid()]);
    // A level that has been narrowed hands down what it has.
    let one = Resources { cpus: Some("0".to_string()), ..Resources::default() };
    let narrow = place.locate("/narrow").create(&one).unwrap();
    let inner = place.locate("/narrow/c/d").create(&Resources::default()).unwrap();
    assert_eq!(value(&home(&narrow, "cpuset"), "cpuset.cpus"), "0");
    assert_eq!(value(&home(&inner, "cpuset"), "cpuset.cpus"), "0");
}

#[test]
fn cpus_and_nodes_are_sets() {
    let place = Place::new();
    if !root() {
        return;
    }
    let resources =
        Resources { cpus: Some("0,0-0".to_string()), mems: Some("0".to_string()), ..Resources::default() };
    let cgroup = place.locate("/web").create(&resources).unwrap();
    let cpuset = home(&cgroup, "cpuset");
    assert_eq!((value(&cpuset, "cpuset.cpus"), value(&cpuset, "cpuset.mems")), ("0".into(), "0".into()));
    let before = everything(&cgroup);
    for (cpus, mems) in [(Some("0-4000"), None), (None, Some("0,900"))] {
        let text = |list: Option<&str>| list.map(str::to_string);
        let resources = Resources { cpus: text(cpus), mems: text(mems), ..Resources::default() };
        let error = cgroup.update(&resources).unwrap_err().to_string();
        let what = if cpus.is_some() { "cpus: 0-4000 is refused" } else { "memory nodes: 0,900 is refused" };
        assert!(error.starts_with(what), "{error}");
        assert!(error.contains(": /sys/fs/cgroup/") && error.contains(" has 0"), "{error}");
    }
    assert_eq!(everything(&cgroup), before);
}

#[test]
fn v2_cpus_that_the_cgroup_above_lacks_are_refused() {
    let place = Place::new();
    if !root() || !v2(&place) {
        return;
    }
    let list = |list: &str| Resources { cpus: Some(list.to_string()), ..Resources::default() };
    let above = place.locate("").create(&list("0")).unwrap();
    if value(Path::new("/sys/fs/cgroup"), "cpuset.cpus.effective") == "0" {
        eprintln!("skip: this machine has one CPU");
        return;
    }
    let error = place.locate("/web").create(&list("1")).unwrap_err().to_string();
    let file = home(&above, "cpuset").join("cpuset.cpus.effective");
    assert_eq!(error, format!("cpus: 1 cannot be had: {} has 0", file.display()));
    // Part of what is asked for is there: the kernel gives that.
    place.locate("/web").create(&list("0-1")).unwrap();
}

#[test]
fn pids_limit_of_zero_is_one() {
    let place = Place::new();
    if !root() {
        return;
    }
    let cgroup = place.locate("").create(&Resources { pids_limit: Some(0), ..Resources::default() }).unwrap();
    assert_eq!(value(&home(&cgroup, "pids"), "pids.max"), "1");
    cgroup.update(&Resources { pids_limit: Some(-1), ..Resources::default() }).unwrap();
    assert_eq!(value(&home(&cgroup, "pids"), "pids.max"), "max");
}

/// (quota, period, burst) as the kernel says them; quota -1 is no limit.
fn bandwidth(cgroup: &Cgroup) -> (i64, u64, u64) {
    let cpu = home(cgroup, "cpu");
    if cpu.join("cpu.max").exists() {
        let text = value(&cpu, "cpu.max");
        let (quota, period) = text.split_once(' ').unwrap();
        let burst = value(&cpu, "cpu.max.burst").parse().unwrap();
        return (quota.parse().unwrap_or(-1), period.parse().unwrap(), burst);
    }
    let number = |file| value(&cpu, file);
    (
        number("cpu.cfs_quota_us").parse().unwrap(),
        number("cpu.cfs_period_us").parse().unwrap(),
        number("cpu.cfs_burst_us").parse().unwrap(),
    )
}

fn cpu(quota: Option<i64>, period: Option<u64>, burst: Option<u64>) -> Resources {
    Resources { cpu_quota: quota, cpu_period: period, cpu_burst: burst, ..Resources::default() }
}

#[test]
fn cpu_bandwidth_changes_in_any_direction_and_what_is_absent_stays() {
    let place = Place::new();
    if !root() {
        return;
    }
    // A parent with a ratio of its own, which v1 holds against each write.
    place.locate("").create(&cpu(Some(100_000), Some(100_000), None)).unwrap();
    let cgroup = place.locate("/web").create(&cpu(Some(50_000), None, Some(20_000))).unwrap();
    assert_eq!(bandwidth(&cgroup), (50_000, 100_000, 20_000));
    for (change, after) in [
        (cpu(None, Some(80_000), None), (50_000, 80_000, 20_000)),
        (cpu(Some(30_000), None, None), (30_000, 80_000, 20_000)),
        (cpu(None, None, Some(30_000)), (30_000, 80_000, 30_000)),
        // All three smaller, then larger: each order of writing is wrong for one of the two.
        (cpu(Some(1_000), Some(2_000), Some(500)), (1_000, 2_000, 500)),
        (cpu(Some(400_000), Some(1_000_000), Some(400_000)), (400_000, 1_000_000, 400_000)),
        (cpu(Some(5_000), Some(10_000), Some(0)), (5_000, 10_000, 0)),
        (cpu(Some(-1), None, None), (-1, 10_000, 0)),
        (cpu(None, Some(50_000), None), (-1, 50_000, 0)),
        (cpu(Some(0), Some(0), None), (-1, 50_000, 0)),
    ] {
        cgroup.update(&change).unwrap();
        assert_eq!(bandwidth(&cgroup), after, "{change:?}");
    }
    cgroup.update(&cpu(Some(20_000), None, Some(10_000))).unwrap();
    let low = cgroup.update(&cpu(Some(5_000), None, None)).unwrap_err();
    assert_eq!(low.to_string(), "cpu quota: 5000 is below the burst of 10000");
    let high = cgroup.update(&cpu(None, None, Some(30_000))).unwrap_err();
    assert_eq!(
        high.to_string(),
        "cpu burst: 30000 is refused beside the quota of 20000: it must not be above it"
    );
    assert_eq!(bandwidth(&cgroup), (20_000, 50_000, 10_000));
}

#[test]
fn an_idle_cgroup_has_no_weight() {
    let place = Place::new();
    if !root() {
        return;
    }
    let weighted = Resources { cpu_shares: Some(512), ..Resources::default() };
    let cgroup = place.locate("").create(&weighted).unwrap();
    let cpu = home(&cgroup, "cpu");
    if !has(&cgroup, "cpu", "cpu.idle") {
        return;
    }
    let file = if cpu.join("cpu.weight").exists() { "cpu.weight" } else { "cpu.shares" };
    let half = value(&cpu, file);
    assert!(half == "59" || half == "512", "{half}");
    let idle = |idle| Resources { cpu_idle: Some(idle), ..Resources::default() };
    // Undone with the weight, which the kernel forgets meanwhile.
    let refused = Resources { pids_limit: Some(5), cpus: Some("0-4000".to_string()), ..idle(true) };
    cgroup.update(&refused).unwrap_err();
    assert_eq!((value(&cpu, "cpu.idle"), value(&cpu, file)), ("0".into(), half.clone()));

    cgroup.update(&Resources { cpu_shares: Some(2048), ..idle(true) }).unwrap();
    assert_eq!(value(&cpu, "cpu.idle"), "1");
    let error = cgroup.update(&weighted).unwrap_err().to_string();
    assert!(
        error.starts_with("cpu shares: ") && error.contains("the cgroup is idle (cpu.idle is 1)"),
        "{error}"
    );
    let refused = Resources { cpus: Some("0-4000".to_string()), cpu_shares: Some(512), ..idle(false) };
    cgroup.update(&refused).unwrap_err();
    assert_eq!(value(&cpu, "cpu.idle"), "1");
    cgroup.update(&Resources { cpu_shares: Some(512), ..idle(false) }).unwrap();
    assert_eq!((value(&cpu, "cpu.idle"), value(&cpu, file)), ("0".into(), half));
}

/// (limit, swap as the kernel counts it: the sum on v1, swap alone on cgroup2).
fn memory(cgroup: &Cgroup) -> (String, String) {
    let memory = home(cgroup, "memory");
    let files = match memory.join("memory.max").exists() {
        true => ["memory.max", "memory.swap.max"],
        false => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
    };
    let of = |file| match value(&memory, file).as_str() {
        "max" | "9223372036854771712" => "max".to_string(),
        bytes => bytes.parse::<i64>().unwrap().checked_div(MIB).unwrap().to_string(),
    };
    (of(files[0]), of(files[1]))
}

#[test]
fn memory_and_swap_change_in_either_direction() {
    let place = Place::new();
    if !root() {
        return;
    }
    let of = |limit: Option<i64>, swap: Option<i64>| {
        let bytes = |value: i64| if value > 0 { value * MIB } else { value };
        Resources { memory_limit: limit.map(bytes), memory_swap: swap.map(bytes), ..Resources::default() }
    };
    let cgroup = place.locate("/web").create(&of(Some(64), Some(96))).unwrap();
    let sum = !home(&cgroup, "memory").join("memory.max").exists();
    let pair = |limit: &str, v1: &str, v2: &str| (limit.to_string(), if sum { v1 } else { v2 }.to_string());
    assert_eq!(memory(&cgroup), pair("64", "96", "32"));
    for (limit, swap, after) in [
        (Some(16), Some(20), pair("16", "20", "4")),
        (Some(128), Some(256), pair("128", "256", "128")),
        (None, Some(200), pair("128", "200", "72")),
        (Some(100), None, pair("100", "200", "72")),
        (Some(-1), Some(-1), pair("max", "max", "max")),
        (Some(32), Some(-1), pair("32", "max", "max")),
    ] {
        cgroup.update(&of(limit, swap)).unwrap();
        assert_eq!(memory(&cgroup), after, "{limit:?} {swap:?}");
    }
    let small = cgroup.update(&of(None, Some(16))).unwrap_err().to_string();
    assert!(small.contains("is smaller than the memory limit 33554432"), "{small}");
    if sum {
        cgroup.update(&of(Some(16), Some(20))).unwrap();
        let error = cgroup.update(&of(Some(64), None)).unwrap_err().to_string();
        assert_eq!(error, "memory limit: 67108864 is above the memory and swap limit of 20971520");
        assert_eq!(memory(&cgroup), pair("16", "20", ""));
    }
}

#[test]
fn a_limit_below_what_is_used_is_refused_on_request() {
    let place = Place::new();
    if !root() {
        return;
    }
    let cgroup =
        place.locate("").create(&Resources { memory_limit: Some(64 * MIB), ..Resources::default() }).unwrap();
    // Holds 8 MiB in a variable, of memory that it has taken inside.
    let mut shell = Command::new("sh")
        .args(["-c", "read line; x=$(head -c 8388608 /dev/zero | tr '\\0' x); echo ready; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(unified) = &cgroup.location().unified {
        std::fs::write(unified.join("cgroup.procs"), shell.id().to_string()).unwrap();
    }
    cgroup.attach(shell.id() as i32).unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let before = memory(&cgroup);
    let limit =
        |bytes| Resources { memory_limit: Some(bytes), check_before_update: true, ..Resources::default() };
    let error = cgroup.update(&limit(4 * MIB)).unwrap_err();
    assert!(matches!(&error, Error::Limit { limit, .. } if limit == "memory limit"), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("memory limit: 4194304 is below the "), "{text}");
    assert!(text.ends_with(" bytes in use now"), "{text}");
    assert_eq!(memory(&cgroup), before);
    cgroup.update(&limit(48 * MIB)).unwrap();
    cgroup.update(&limit(-1)).unwrap();
    // Without the request too, where the kernel cannot reclaim what is in use; nobody is killed.
    let unlimited = everything(&cgroup);
    let swap = Some(4 * MIB);
    let small = Resources { memory_limit: Some(4 * MIB), memory_swap: swap, ..Resources::default() };
    let error = cgroup.update(&small).unwrap_err();
    let Error::InUse { asked, used, .. } = error else { panic!("{error}") };
    assert!(asked == 4 * MIB && used > 8 * MIB, "{asked} {used}");
    assert_eq!(of_then(&unlimited, everything(&cgroup)), unlimited);
    assert!(shell.try_wait().unwrap().is_none());
    if home(&cgroup, "memory").join("memory.max").exists() {
        // Else it fits, on a machine that has swap.
        let swap = home(&cgroup, "memory").join("memory.swap.max");
        if swap.exists() {
            std::fs::write(&swap, "0").unwrap();
        }
        for (key, value) in [("memory.max", "4M"), ("memory.max", "4194304")] {
            let by_name = Resources { unified: keys(&[(key, value)]), ..Resources::default() };
            let result = cgroup.update(&by_name);
            assert!(matches!(result, Err(Error::InUse { .. })), "{value}: {result:?}");
        }
        if swap.exists() {
            std::fs::write(&swap, "max").unwrap();
        }
        // It is undone as a whole, and memory.high is as it was.
        let first =
            cgroup.update(&Resources { memory_limit: Some(24 * MIB), ..Resources::default() }).unwrap();
        assert_eq!(value(&home(&cgroup, "memory"), "memory.high"), "max");
        assert_eq!(cgroup.undo(first), []);
        assert_eq!(of_then(&unlimited, everything(&cgroup)), unlimited);
    }
    drop(stdin);
    shell.wait().unwrap();
    cgroup.remove(LONG).unwrap();
}

#[test]
fn block_io_is_throttled_for_each_device() {
    let place = Place::new();
    let Some(disk) = disk() else { return };
    if !root() {
        return;
    }
    let of = |read, write| Resources {
        block_io: BlockIo {
            read_bps: throttle(disk, read),
            write_iops: throttle(disk, write),
            ..BlockIo::default()
        },
        ..Resources::default()
    };
    let cgroup = place.locate("/web").create(&of(1_048_576, 77)).unwrap();
    let name = format!("{}:{}", disk.0, disk.1);
    let kept = |read: &str, write: &str| {
        let io = home(&cgroup, "blkio");
        let line = |number: &str| match number {
            "max" => String::new(),
            number => format!("{name} {number}"),
        };
        if io.join("io.max").exists() {
            let all = if (read, write) == ("max", "max") {
                String::new()
            } else {
                format!("{name} rbps={read} wbps=max riops=max wiops={write}")
            };
            assert_eq!(value(&io, "io.max"), all);
        } else {
            assert_eq!(value(&io, "blkio.throttle.read_bps_device"), line(read));
            assert_eq!(value(&io, "blkio.throttle.write_iops_device"), line(write));
        }
    };
    kept("1048576", "77");
    // The second device is not there: the first one's change is taken back.
    let mut broken = of(5_000, 5);
    broken.block_io.write_iops.push(Throttle { major: 4000, minor: 1, rate: 9 });
    let error = cgroup.update(&broken).unwrap_err().to_string();
    assert!(error.starts_with("set block io throttle to \"4000:1 "), "{error}");
    assert!(error.ends_with(": no such device"), "{error}");
    kept("1048576", "77");
    cgroup.update(&of(0, 78)).unwrap();
    kept("max", "78");
    cgroup.update(&of(0, 0)).unwrap();
    kept("max", "max");
    cgroup.update(&broken).unwrap_err();
    kept("max", "max");
}

#[test]
fn block_io_weight_goes_where_the_kernel_has_one() {
    let place = Place::new();
    if !root() {
        return;
    }
    let weight = |weight| Resources {
        block_io: BlockIo { weight: Some(weight), ..BlockIo::default() },
        ..Resources::default()
    };
    let cgroup = match place.locate("/web").create(&weight(500)) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("block io weight needs the cgroup controller "), "{text}");
            assert!(text.contains("bfq.weight (the kernel's module bfq)"), "{text}");
            eprintln!("skip: this kernel has no weights for block io");
            return;
        }
    };
    let io = home(&cgroup, "blkio");
    let expected = [
        ("io.bfq.weight", "default 500", "default 100"),
        ("io.weight", "default 4950", "default 910"),
        ("blkio.bfq.weight", "500", "100"),
        ("blkio.weight", "500", "100"),
    ];
    let (file, first, second) = expected.into_iter().find(|(file, ..)| io.join(file).exists()).unwrap();
    let kept = || value(&io, file).lines().next().unwrap().to_string();
    assert_eq!(kept(), first);
    cgroup.update(&weight(100)).unwrap();
    assert_eq!(kept(), second);
    let mut broken = weight(10);
    broken.block_io.weight_device =
        vec![WeightDevice { major: 4000, minor: 1, weight: Some(10), leaf_weight: None }];
    let error = cgroup.update(&broken).unwrap_err().to_string();
    assert!(error.contains("block io weight of a device"), "{error}");
    assert_eq!(kept(), second);
}

fn huge(size: &str, bytes: u64) -> Resources {
    Resources { hugepage_limits: vec![(size.to_string(), bytes)], ..Resources::default() }
}

#[test]
fn huge_pages_are_limited_by_size() {
    let place = Place::new();
    if !root() {
        return;
    }
    let cgroup = match place.locate("/web").create(&huge("2MB", 4 << 20)) {
        Ok(cgroup) => cgroup,
        Err(error @ Error::Controller { .. }) => {
            eprintln!("skip: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let hugetlb = home(&cgroup, "hugetlb");
    let (file, reserved) = match hugetlb.join("hugetlb.2MB.max").exists() {
        true => ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"),
        false => ("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes"),
    };
    assert_eq!((value(&hugetlb, file), value(&hugetlb, reserved)), ("4194304".into(), "4194304".into()));
    let mut broken = huge("2MB", 0);
    broken.hugepage_limits.push(("3MB".to_string(), 5));
    let error = cgroup.update(&broken).unwrap_err().to_string();
    let begin = "hugepage limit of 3MB: the kernel has no such pages, it has ";
    assert!(error.starts_with(begin) && error.contains("2MB"), "{error}");
    assert_eq!((value(&hugetlb, file), value(&hugetlb, reserved)), ("4194304".into(), "4194304".into()));
    cgroup.update(&huge("2MB", 0)).unwrap();
    assert_eq!((value(&hugetlb, file), value(&hugetlb, reserved)), ("0".into(), "0".into()));
}

fn keys(keys: &[(&str, &str)]) -> Vec<(String, String)> {
    keys.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn unified_comes_last_and_is_named_when_refused() {
    let place = Place::new();
    if !root() || !unified(&place) {
        return;
    }
    if !place.host.unified_controllers.iter().any(|name| name == "hugetlb") {
        eprintln!("skip: this host's cgroup2 has no hugetlb controller");
        return;
    }
    let resources = |unified| Resources { unified, pids_limit: Some(8), ..huge("2MB", 4 << 20) };
    let cgroup = place.locate("/web").create(&resources(keys(&[("hugetlb.2MB.max", "8388608")]))).unwrap();
    let unified = cgroup.location().unified.clone().unwrap();
    assert_eq!(value(&unified, "hugetlb.2MB.max"), "8388608");
    assert_eq!(value(&unified, "hugetlb.2MB.rsvd.max"), "4194304");
    let before = everything(&cgroup);

    let change =
        |unified| cgroup.update(&Resources { pids_limit: Some(9), ..resources(unified) }).unwrap_err();
    let refused = change(keys(&[("hugetlb.1GB.max", "0"), ("hugetlb.2MB.max", "many")]));
    let file = unified.join("hugetlb.2MB.max");
    let expected =
        format!("set unified[hugetlb.2MB.max] to \"many\" in {}: invalid argument", file.display());
    assert_eq!(refused.to_string(), expected);
    assert_eq!(everything(&cgroup), before, "taken back");

    let missing = change(keys(&[("hugetlb.2MB.min", "0")]));
    assert!(matches!(missing, Error::Controller { .. }), "{missing}");
    let begin =
        "unified[hugetlb.2MB.min] needs the cgroup controller hugetlb with the file hugetlb.2MB.min, ";
    assert!(missing.to_string().starts_with(begin), "{missing}");
    let no_controller = change(keys(&[("wishes.max", "1")]));
    let begin = "unified[wishes.max] needs the cgroup controller wishes, which is not available in ";
    assert!(no_controller.to_string().starts_with(begin), "{no_controller}");
    let path = change(keys(&[("../cgroup.procs", "1")]));
    assert!(path.to_string().starts_with("unified[\"../cgroup.procs\"]: "), "{path}");
    assert_eq!(everything(&cgroup), before, "taken back");
}

#[test]
fn unified_of_a_controller_that_v1_has_is_refused() {
    let place = Place::new();
    if !root() || !v1_has(&place, "memory") || !unified(&place) {
        return;
    }
    let resources = Resources { unified: keys(&[("memory.high", "8388608")]), ..Resources::default() };
    let error = place.locate("/web").create(&resources).unwrap_err();
    let begin = "unified[memory.high] needs the cgroup controller memory, which is not available in ";
    assert!(error.to_string().starts_with(begin), "{error}");
    assert_eq!(place.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn v2_takes_every_limit() {
    let place = Place::new();
    if !root() || !v2(&place) {
        return;
    }
    let resources = Resources {
        memory_limit: Some(64 * MIB),
        memory_swap: Some(96 * MIB),
        memory_reservation: Some(-1),
        cpu_shares: Some(2048),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        cpu_burst: Some(10_000),
        cpus: Some("0".to_string()),
        mems: Some("0".to_string()),
        pids_limit: Some(5),
        unified: keys(&[("memory.high", "60000000"), ("memory.oom.group", "1"), ("pids.max", "6")]),
        ..Resources::default()
    };
    let cgroup = place.locate("/deep/web").create(&resources).unwrap();
    let unified = cgroup.location().unified.clone().unwrap();
    for (file, wanted) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "max"),
        ("memory.high", "59998208"),
        ("memory.oom.group", "1"),
        ("cpu.weight", "174"),
        ("cpu.max", "20000 50000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "6"),
    ] {
        assert_eq!(value(&unified, file), wanted, "{file}");
    }
    // Those only which were needed.
    let above = unified.parent().unwrap();
    let mut enabled: Vec<String> =
        value(above, "cgroup.subtree_control").split(' ').map(str::to_string).collect();
    enabled.sort();
    assert_eq!(enabled, ["cpu", "cpuset", "memory", "pids"]);
    // What was not enabled at create is at the update.
    let Some(disk) = disk() else { return };
    let throttled = Resources {
        block_io: BlockIo { write_bps: throttle(disk, 5_000_000), ..BlockIo::default() },
        ..Resources::default()
    };
    cgroup.update(&throttled).unwrap();
    let line = format!("{}:{} rbps=max wbps=5000000 riops=max wiops=max", disk.0, disk.1);
    assert_eq!(value(&unified, "io.max"), line);
    cgroup.remove(LONG).unwrap();
}

#[test]
fn v2_reaches_misc_and_rdma_by_the_document() {
    let place = Place::new();
    if !root() || !v2(&place) {
        return;
    }
    for (key, value) in [("misc.max", "nothing 5"), ("rdma.max", "nothing hca_handle=2")] {
        let controller = key.split('.').next().unwrap();
        if !place.host.unified_controllers.iter().any(|name| name == controller) {
            eprintln!("skip: this kernel has no {controller} controller");
            continue;
        }
        let resources = Resources { unified: keys(&[(key, value)]), ..Resources::default() };
        let error = place.locate("/web").create(&resources).unwrap_err().to_string();
        assert!(error.starts_with(&format!("set unified[{key}] to {value:?} in ")), "{error}");
    }
}

#[test]
fn an_update_is_all_or_nothing() {
    let place = Place::new();
    let Some(disk) = disk() else { return };
    if !root() {
        return;
    }
    let first = Resources {
        memory_limit: Some(64 * MIB),
        memory_swap: Some(96 * MIB),
        memory_reservation: Some(32 * MIB),
        cpu_shares: Some(512),
        cpu_quota: Some(40_000),
        cpu_period: Some(100_000),
        cpu_burst: Some(10_000),
        cpus: Some("0".to_string()),
        pids_limit: Some(50),
        block_io: BlockIo { read_iops: throttle(disk, 100), ..BlockIo::default() },
        ..Resources::default()
    };
    let cgroup = place.locate("/web").create(&first).unwrap();
    let sleeper = Sleeper::inside(&cgroup);
    let before = everything(&cgroup);
    assert!(before.len() > 10, "{before:?}");
    let change = Resources {
        memory_limit: Some(16 * MIB),
        memory_swap: Some(16 * MIB),
        memory_reservation: Some(MIB),
        cpu_shares: Some(1024),
        cpu_quota: Some(2_000),
        cpu_period: Some(4_000),
        cpu_burst: Some(0),
        pids_limit: Some(7),
        block_io: BlockIo {
            read_iops: throttle(disk, 5),
            write_iops: vec![Throttle { major: 4000, minor: 1, rate: 9 }],
            ..BlockIo::default()
        },
        ..Resources::default()
    };
    let error = cgroup.update(&change).unwrap_err().to_string();
    assert!(error.ends_with(": no such device"), "{error}");
    assert_eq!(everything(&cgroup), before);
    let good =
        Resources { block_io: BlockIo { read_iops: throttle(disk, 5), ..BlockIo::default() }, ..change };
    cgroup.update(&good).unwrap();
    assert_ne!(everything(&cgroup), before);
    assert_eq!(value(&home(&cgroup, "pids"), "pids.max"), "7");
    assert_eq!(bandwidth(&cgroup), (2_000, 4_000, 0));
    cgroup.update(&Resources::default()).unwrap();
    assert_eq!(bandwidth(&cgroup), (2_000, 4_000, 0));
    drop(sleeper);
    cgroup.remove(LONG).unwrap();
    let gone = cgroup.location().open().update(&good).unwrap_err().to_string();
    assert!(gone.ends_with(": no such file or directory"), "{gone}");
}
