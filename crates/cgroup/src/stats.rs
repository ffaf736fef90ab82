// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container uses: one set of numbers for cgroup2, hybrid and v1, under runc's names.
//!
//! Never writes, never waits, never asks the process: every number is the kernel's. Files come from the
//! container's own directories; [`Stats`] goes to library users, and as JSON to `events --stats`.
//!
//! Differences from runc's document, kept on purpose (a Go reader sees no difference in the first two):
//!
//! * A counter of zero is printed. What the host cannot tell is left out: runc prints it as zero.
//! * `percpu_user` and `percpu_kernel`, `user` and `kernel` of v1 are in nanoseconds from the kernel; runc
//!   multiplies clock ticks.
//! * `memory.cache` of v1 is `total_cache`: as the usage beside it, it counts sub-cgroups too.
//! * `memory.usage.failcnt` is filled on cgroup2 also, by `max` of memory.events, which is what it counts.
//! * `memory.events` is new: memory.events of cgroup2; of v1 `oom_kill` alone.
//! * `hugetlb.SIZE.limit` and `rdma` are new.
//! * `cpuset` is left out: it is no statistic, and the container has no v1 cpuset directory of its own.
//! * The blkio lists that only CFQ had are left out: no supported kernel has it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::Serialize;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::tree;

/// One look at all files. Parts whose controller the host does not have are empty. A value without limit is
/// `u64::MAX` where the kernel says `max`; v1, and hugetlb of some kernels, say the largest number of whole pages.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    pub cpu: Cpu,
    pub memory: Memory,
    pub pids: Pids,
    pub blkio: Blkio,
    /// By page size, as in `2MB`.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    #[serde(skip_serializing_if = "Rdma::is_empty")]
    pub rdma: Rdma,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    pub usage: CpuUsage,
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds of CPU time since the cgroup was made. cgroup2 counts in microseconds, and not by CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

/// What the CPU quota did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods with a runnable process.
    pub periods: u64,
    /// Those in which the quota ran out.
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// Bytes, unless `raw` says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Page cache.
    pub cache: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<MemoryEntry>,
    /// Memory and swap together, as v1 counts them; on cgroup2 the sum of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<MemoryEntry>,
    /// v1 only; cgroup2 has `kernel` in `raw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<MemoryEntry>,
    /// v1 only; cgroup2 has `sock` in `raw`.
    #[serde(rename = "kernelTCP", skip_serializing_if = "Option::is_none")]
    pub kernel_tcp: Option<MemoryEntry>,
    /// Every line of memory.stat.
    pub raw: BTreeMap<String, u64>,
    /// How often: `low`, `high`, `max`, `oom`, `oom_kill` and what newer kernels add; of v1 `oom_kill` alone.
    pub events: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    /// The highest usage so far. cgroup2 has it since Linux 5.19, and not for swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// How often the limit was hit.
    pub failcnt: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// Tasks: threads count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// None without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Of block devices, since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `Read`, `Write`, `Discard`; of v1 also `Sync`, `Async` and their `Total`.
    pub op: String,
    pub value: u64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hugetlb {
    pub usage: u64,
    /// The highest usage so far; v1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// How often the limit was hit.
    pub failcnt: u64,
    pub limit: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

/// Objects of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u64,
    pub hca_objects: u64,
}

impl Rdma {
    fn is_empty(&self) -> bool {
        self.current.is_empty() && self.limit.is_empty()
    }
}

/// Pressure stall information: how much time was lost by waiting for the resource. cgroup2 and hybrid.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// At least one task waited.
    pub some: PressureLine,
    /// All tasks waited. Zero for the CPU of kernels before 5.13.
    pub full: PressureLine,
}

/// Averages in percent of the last 10, 60 and 300 seconds; the total in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PressureLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// A cgroup's files, kept open to be read again and again: one pread(2) each.
#[derive(Debug)]
pub struct Poll {
    sources: Vec<Source>,
    /// The directories of the sources.
    groups: Vec<OwnedFd>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Source {
    file: OwnedFd,
    /// For an error.
    path: PathBuf,
    /// Index of its directory.
    group: usize,
    take: Take,
}

/// What becomes of a file's text. Unknown lines and keys are passed over, and a value that is none is no value.
#[derive(Debug, Clone)]
enum Take {
    Into(Part),
    /// One of the four accounts of v1, and what of it.
    Account(Account, Field),
    /// The page size, and what of it.
    Hugetlb(String, PageField),
}

type Part = fn(&mut Stats, &str);
type Account = fn(&mut Memory) -> &mut Option<MemoryEntry>;
type Field = fn(&mut MemoryEntry, u64);
type PageField = fn(&mut Hugetlb, &str);
type Files = &'static [(&'static str, Part)];

/// Controller, its files on cgroup2, its files on v1; read in this order.
const FILES: &[(&str, Files, Files)] = &[
    ("cpuacct", &[], CPUACCT_V1),
    ("cpu", CPU_V2, CPU_V1),
    ("memory", MEMORY_V2, MEMORY_V1),
    ("pids", PIDS, PIDS),
    ("blkio", IO_V2, BLKIO_V1),
    ("rdma", RDMA, RDMA),
];

/// Files that cgroup2 has whatever its controllers are.
const PRESSURE: Files = &[
    ("cpu.pressure", |stats, text| stats.cpu.psi = pressure(text)),
    ("memory.pressure", |stats, text| stats.memory.psi = pressure(text)),
    ("io.pressure", |stats, text| stats.blkio.psi = pressure(text)),
];

const CPU_V2: Files = &[("cpu.stat", |stats, text| {
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    for (key, value) in flat(text) {
        match key {
            "usage_usec" => stats.cpu.usage.total = nanoseconds(value),
            "user_usec" => stats.cpu.usage.user = nanoseconds(value),
            "system_usec" => stats.cpu.usage.kernel = nanoseconds(value),
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_usec" => stats.cpu.throttling.throttled_time = nanoseconds(value),
            _ => {}
        }
    }
})];

const CPU_V1: Files = &[("cpu.stat", |stats, text| {
    for (key, value) in flat(text) {
        match key {
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_time" => stats.cpu.throttling.throttled_time = value,
            _ => {}
        }
    }
})];

const CPUACCT_V1: Files = &[
    ("cpuacct.usage", |stats, text| stats.cpu.usage.total = number(text).unwrap_or_default()),
    ("cpuacct.usage_percpu", |stats, text| {
        stats.cpu.usage.percpu = text.split_whitespace().filter_map(number).collect();
    }),
    // `cpu user system`, then a line for each CPU.
    ("cpuacct.usage_all", |stats, text| {
        let usage = &mut stats.cpu.usage;
        for line in text.lines() {
            let mut numbers = line.split_whitespace().map(number);
            let (Some(Some(_)), Some(Some(user)), Some(Some(kernel))) =
                (numbers.next(), numbers.next(), numbers.next())
            else {
                continue;
            };
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
            usage.user = usage.user.saturating_add(user);
            usage.kernel = usage.kernel.saturating_add(kernel);
        }
    }),
];

/// Swap comes after memory, of which it takes the sum.
const MEMORY_V2: Files = &[
    ("memory.current", |stats, text| {
        set(number(text), &mut stats.memory.usage, |entry, value| entry.usage = value)
    }),
    ("memory.max", |stats, text| {
        set(number(text), &mut stats.memory.usage, |entry, value| entry.limit = value)
    }),
    ("memory.peak", |stats, text| {
        set(number(text), &mut stats.memory.usage, |entry, value| entry.max = Some(value))
    }),
    ("memory.events", |stats, text| {
        stats.memory.events = flat(text).map(|(key, value)| (key.to_string(), value)).collect();
        let hits = stats.memory.events.get("max").copied();
        set(hits, &mut stats.memory.usage, |entry, value| entry.failcnt = value);
    }),
    ("memory.swap.current", |stats, text| {
        let memory = stats.memory.usage.as_ref().map_or(0, |entry| entry.usage);
        let sum = number(text).map(|swap| swap.saturating_add(memory));
        set(sum, &mut stats.memory.swap, |entry, value| entry.usage = value);
    }),
    ("memory.swap.max", |stats, text| {
        // No limit of one is no limit of the sum: the addition stops at the largest number.
        let memory = stats.memory.usage.as_ref().map_or(0, |entry| entry.limit);
        let sum = number(text).map(|swap| swap.saturating_add(memory));
        set(sum, &mut stats.memory.swap, |entry, value| entry.limit = value);
    }),
    ("memory.stat", |stats, text| {
        stats.memory.raw = flat(text).map(|(key, value)| (key.to_string(), value)).collect();
        stats.memory.cache = stats.memory.raw.get("file").copied().unwrap_or_default();
    }),
];

const MEMORY_V1: Files = &[
    ("memory.stat", |stats, text| {
        stats.memory.raw = flat(text).map(|(key, value)| (key.to_string(), value)).collect();
        stats.memory.cache = stats.memory.raw.get("total_cache").copied().unwrap_or_default();
    }),
    ("memory.oom_control", |stats, text| {
        let killed = flat(text).filter(|(key, _)| *key == "oom_kill");
        stats.memory.events = killed.map(|(key, value)| (key.to_string(), value)).collect();
    }),
];

/// Prefix of an account's files on v1, and its place.
const ACCOUNTS_V1: [(&str, Account); 4] = [
    ("memory.", |memory| &mut memory.usage),
    ("memory.memsw.", |memory| &mut memory.swap),
    ("memory.kmem.", |memory| &mut memory.kernel),
    ("memory.kmem.tcp.", |memory| &mut memory.kernel_tcp),
];

const ACCOUNT_V1: [(&str, Field); 4] = [
    ("usage_in_bytes", |entry, value| entry.usage = value),
    ("max_usage_in_bytes", |entry, value| entry.max = Some(value)),
    ("limit_in_bytes", |entry, value| entry.limit = value),
    ("failcnt", |entry, value| entry.failcnt = value),
];

const PIDS: Files = &[
    ("pids.current", |stats, text| stats.pids.current = number(text)),
    ("pids.max", |stats, text| stats.pids.limit = number(text).filter(|limit| *limit != u64::MAX)),
];

const IO_V2: Files = &[("io.stat", |stats, text| {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (key, value) in words.filter_map(pair) {
            let (list, op) = match key {
                "rbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut stats.blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.blkio.io_serviced_recursive, "Write"),
                "dios" => (&mut stats.blkio.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.to_string(), value });
        }
    }
})];

/// The throttle policy sees every device; since Linux 6.10 only those with a limit, hence BFQ's after it.
const BLKIO_V1: Files = &[
    ("blkio.throttle.io_service_bytes_recursive", |stats, text| {
        stats.blkio.io_service_bytes_recursive = operations(text);
    }),
    ("blkio.throttle.io_serviced_recursive", |stats, text| {
        stats.blkio.io_serviced_recursive = operations(text);
    }),
    ("blkio.bfq.io_service_bytes_recursive", |stats, text| {
        if stats.blkio.io_service_bytes_recursive.is_empty() {
            stats.blkio.io_service_bytes_recursive = operations(text);
        }
    }),
    ("blkio.bfq.io_serviced_recursive", |stats, text| {
        if stats.blkio.io_serviced_recursive.is_empty() {
            stats.blkio.io_serviced_recursive = operations(text);
        }
    }),
];

const RDMA: Files = &[
    ("rdma.current", |stats, text| stats.rdma.current = objects(text)),
    ("rdma.max", |stats, text| stats.rdma.limit = objects(text)),
];

/// What follows `hugetlb.SIZE.`.
const HUGETLB_V2: [(&str, PageField); 3] = [
    ("current", |page, text| page.usage = number(text).unwrap_or_default()),
    ("max", |page, text| page.limit = number(text).unwrap_or_default()),
    ("events", |page, text| page.failcnt = tree::keyed(text, "max").unwrap_or_default()),
];

const HUGETLB_V1: [(&str, PageField); 4] = [
    ("usage_in_bytes", |page, text| page.usage = number(text).unwrap_or_default()),
    ("max_usage_in_bytes", |page, text| page.max = number(text)),
    ("limit_in_bytes", |page, text| page.limit = number(text).unwrap_or_default()),
    ("failcnt", |page, text| page.failcnt = number(text).unwrap_or_default()),
];

impl Take {
    fn apply(&self, stats: &mut Stats, text: &str) {
        match self {
            Take::Into(take) => take(stats, text),
            Take::Account(account, take) => set(number(text), account(&mut stats.memory), *take),
            Take::Hugetlb(size, take) => take(stats.hugetlb.entry(size.clone()).or_default(), text),
        }
    }
}

/// Every file that a controller may have, in the order in which they are read.
fn files(controller: &str, unified: bool) -> Vec<(String, Take)> {
    let one = FILES.iter().find(|(name, ..)| *name == controller);
    let list = one.map_or(&[][..], |(_, v2, v1)| if unified { v2 } else { v1 });
    let mut files: Vec<_> = list.iter().map(|(file, take)| (file.to_string(), Take::Into(*take))).collect();
    if controller == "memory" && !unified {
        for (prefix, account) in ACCOUNTS_V1 {
            files.extend(
                ACCOUNT_V1.map(|(name, take)| (format!("{prefix}{name}"), Take::Account(account, take))),
            );
        }
    }
    files
}

/// The same of hugetlb, whose files depend on the machine: `names` are those of the directory.
fn hugetlb_files<'a>(names: impl Iterator<Item = &'a str>, unified: bool) -> Vec<(String, Take)> {
    let wanted: &[(&str, PageField)] = if unified { &HUGETLB_V2 } else { &HUGETLB_V1 };
    let file = |name: &str| {
        // `hugetlb.2MB.rsvd.current` is about something else.
        let (size, what) = name.strip_prefix("hugetlb.")?.split_once('.')?;
        let (_, take) = wanted.iter().find(|(wanted, _)| *wanted == what)?;
        Some((name.to_string(), Take::Hugetlb(size.to_string(), *take)))
    };
    names.filter_map(file).collect()
}

impl Cgroup {
    /// Everything once. See [`Cgroup::poll`] for errors, and for reading more than once.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.poll()?.read()
    }

    /// Opens the files, of each controller in the hierarchy where the container has it. A missing controller
    /// or file is no error; a directory that is missing is one. It takes a descriptor for each file. On cgroup2
    /// these are 14 for cpu, memory, io and pids, 2 for rdma and 3 for each size of huge pages; about 40 on hybrid.
    pub fn poll(&self) -> Result<Poll, Error> {
        let mut poll = Poll { sources: Vec::new(), groups: Vec::new(), buffer: vec![0; 16 * 1024] };
        for tree in &self.trees {
            let group = tree.existing()?;
            let copy = group.try_clone_to_owned().map_err(|error| {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                Error::io("open cgroup", &tree.directory.path, errno)
            })?;
            let group_index = poll.groups.len();
            poll.groups.push(copy);
            let home = |controller: &str| self.home(controller).is_some_and(|home| std::ptr::eq(home, tree));
            let controllers = FILES.iter().map(|(name, ..)| *name).filter(|name| home(name));
            let mut wanted: Vec<_> = controllers.flat_map(|name| files(name, tree.unified())).collect();
            if home("hugetlb") {
                let names =
                    names(group).map_err(|errno| Error::io("list cgroup", &tree.directory.path, errno))?;
                wanted.extend(hugetlb_files(names.iter().map(String::as_str), tree.unified()));
            }
            if tree.unified() {
                wanted.extend(PRESSURE.iter().map(|(file, take)| (file.to_string(), Take::Into(*take))));
            }
            for (name, take) in wanted {
                let path = tree.directory.path.join(&name);
                match tree::open_file(group, &name, OFlag::O_RDONLY) {
                    Ok(file) => poll.sources.push(Source { file, path, group: group_index, take }),
                    // Not on this kernel, or switched off at boot.
                    Err(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => {}
                    Err(errno) => return Err(Error::io("open", path, errno)),
                }
            }
            // A directory that was removed after it was opened has no file at all.
            if !is_there(group) {
                return Err(gone(&tree.directory.path, Errno::ENOENT));
            }
        }
        Ok(poll)
    }
}

impl Poll {
    /// Reads every file again: one system call each. [`Error::Io`] with ENODEV once the cgroup is removed. A
    /// file whose controller was switched off meanwhile is left out from then on.
    pub fn read(&mut self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        let mut index = 0;
        while let Some(source) = self.sources.get(index) {
            match read_whole(source.file.as_fd(), &mut self.buffer) {
                Ok(length) => {
                    let text = self.buffer.get(..length).unwrap_or_default();
                    source.take.apply(&mut stats, &String::from_utf8_lossy(text));
                    index += 1;
                    continue;
                }
                Err(Errno::EOPNOTSUPP) => {}
                Err(Errno::ENODEV)
                    if self.groups.get(source.group).is_some_and(|group| is_there(group.as_fd())) => {}
                Err(Errno::ENODEV) => return Err(gone(&source.path, Errno::ENODEV)),
                Err(errno) => return Err(Error::io("read", &source.path, errno)),
            }
            self.sources.remove(index);
        }
        Ok(stats)
    }
}

fn gone(path: &std::path::Path, errno: Errno) -> Error {
    Error::io("the container's cgroup is gone: read", path, errno)
}

fn is_there(group: BorrowedFd<'_>) -> bool {
    tree::open_file(group, "cgroup.procs", OFlag::O_RDONLY).is_ok()
}

fn names(group: BorrowedFd<'_>) -> nix::Result<Vec<String>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::openat(group, ".", flags, Mode::empty())?.iter() {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The length of what is now in `buffer`. The kernel makes such a file's text at once and gives as much as
/// fits, so a read that leaves room has got everything; otherwise it is read anew into a larger buffer.
fn read_whole(file: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> nix::Result<usize> {
    const LARGEST: usize = 16 << 20;
    loop {
        match nix::sys::uio::pread(file, buffer, 0) {
            Ok(length) if length < buffer.len() => return Ok(length),
            Ok(length) if length >= LARGEST => return Err(Errno::EFBIG),
            Ok(length) => buffer.resize(length.max(64) * 2, 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A number, or `max`.
fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// `KEY NUMBER` lines.
fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, number(value)?))
    })
}

/// `KEY=NUMBER`.
fn pair(word: &str) -> Option<(&str, u64)> {
    let (key, value) = word.split_once('=')?;
    Some((key, number(value)?))
}

/// `MAJOR:MINOR`.
fn device(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `MAJOR:MINOR OP NUMBER` lines of v1; the sum over all devices at the end is no entry.
fn operations(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        Some(BlkioEntry { major, minor, op: words.next()?.to_string(), value: number(words.next()?)? })
    };
    text.lines().filter_map(entry).collect()
}

/// `DEVICE hca_handle=NUMBER hca_object=NUMBER` lines.
fn objects(text: &str) -> Vec<RdmaEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let mut entry = RdmaEntry { device: words.next()?.to_string(), ..RdmaEntry::default() };
        for (key, value) in words.filter_map(pair) {
            match key {
                "hca_handle" => entry.hca_handles = value,
                "hca_object" => entry.hca_objects = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// None for a text that has neither line.
pub(crate) fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut found = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let target = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        found = true;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            // Rust reads "inf" and "NaN" too, which no JSON number can say.
            let average = || value.parse().ok().filter(|number: &f64| number.is_finite()).unwrap_or_default();
            match key {
                "avg10" => target.avg10 = average(),
                "avg60" => target.avg60 = average(),
                "avg300" => target.avg300 = average(),
                "total" => target.total = number(value).unwrap_or_default(),
                _ => {}
            }
        }
    }
    found.then_some(pressure)
}

/// Puts a value that is there into an entry, which is made if it has to be.
fn set(value: Option<u64>, entry: &mut Option<MemoryEntry>, put: Field) {
    if let Some(value) = value {
        put(entry.get_or_insert_default(), value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a directory with these files and no others gives.
    fn read(unified: bool, there: &[(&str, &str)]) -> Stats {
        let mut wanted: Vec<_> = FILES.iter().flat_map(|(name, ..)| files(name, unified)).collect();
        wanted.extend(hugetlb_files(there.iter().map(|(name, _)| *name), unified));
        if unified {
            wanted.extend(PRESSURE.iter().map(|(file, take)| (file.to_string(), Take::Into(*take))));
        }
        let mut stats = Stats::default();
        let mut used = 0;
        for (name, take) in &wanted {
            if let Some((_, text)) = there.iter().find(|(file, _)| file == name) {
                take.apply(&mut stats, text);
                used += 1;
            }
        }
        assert_eq!(used, there.len(), "a file of the fixture is not read");
        stats
    }

    fn json(stats: &Stats) -> String {
        serde_json::to_string(stats).unwrap()
    }

    const V2: &[(&str, &str)] = &[
        (
            "cpu.stat",
            "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnice_usec 0\ncore_sched.force_idle_usec 0\n\
             nr_periods 7\nnr_throttled 3\nthrottled_usec 42\nnr_bursts 0\nburst_usec 0\n",
        ),
        ("memory.current", "1000\n"),
        ("memory.max", "67108864\n"),
        ("memory.peak", "2000\n"),
        ("memory.swap.current", "300\n"),
        ("memory.swap.max", "max\n"),
        ("memory.stat", "anon 700\nfile 200\nkernel 100\nworkingset_refault_anon 1\n"),
        ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 0\nsock_throttled 0\n"),
        ("pids.current", "5\n"),
        ("pids.max", "77\n"),
        (
            "io.stat",
            "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=9\n7:0 \n\
             253:1 rbytes=18446744073709551615 wbytes=0 rios=0 wios=0 dbytes=0 dios=0\n",
        ),
        ("hugetlb.2MB.current", "4194304\n"),
        ("hugetlb.2MB.max", "max\n"),
        ("hugetlb.2MB.events", "max 6\n"),
        ("hugetlb.1GB.current", "0\n"),
        ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=0 hca_object=max\n"),
        ("rdma.max", "mlx4_0 hca_handle=3 hca_object=max\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        ),
        ("io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
    ];

    const V1: &[(&str, &str)] = &[
        ("cpuacct.usage", "7709072\n"),
        ("cpuacct.usage_percpu", "7203726 505346 \n"),
        ("cpuacct.usage_all", "cpu user system\n0 3 4000000\n1 2 5\n"),
        ("cpu.stat", "nr_periods 1\nnr_throttled 2\nthrottled_time 3\nwait_sum 4\n"),
        ("memory.usage_in_bytes", "876544\n"),
        ("memory.max_usage_in_bytes", "2514944\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.failcnt", "1\n"),
        ("memory.memsw.usage_in_bytes", "2\n"),
        ("memory.memsw.limit_in_bytes", "3\n"),
        ("memory.kmem.usage_in_bytes", "4\n"),
        ("memory.kmem.max_usage_in_bytes", "5\n"),
        ("memory.kmem.tcp.limit_in_bytes", "6\n"),
        ("memory.kmem.tcp.failcnt", "7\n"),
        ("memory.stat", "cache 1\nrss 2\ntotal_cache 3\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n"),
        ("pids.current", "1\n"),
        ("pids.max", "max\n"),
        ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 1\n8:0 Total 1\nTotal 1\n"),
        ("blkio.throttle.io_serviced_recursive", "Total 0\n"),
        ("blkio.bfq.io_service_bytes_recursive", "8:0 Read 99\nTotal 99\n"),
        ("blkio.bfq.io_serviced_recursive", "8:16 Write 2\nTotal 2\n"),
        ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
        ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
        ("hugetlb.2MB.limit_in_bytes", "9223372036852678656\n"),
        ("hugetlb.2MB.failcnt", "3\n"),
    ];

    #[test]
    fn the_document_of_cgroup2() {
        let max = u64::MAX;
        let expected = [
            r#"{"cpu":{"usage":{"total":1500000,"kernel":500000,"user":1000000},"#,
            r#""throttling":{"periods":7,"throttledPeriods":3,"throttledTime":42000},"#,
            r#""psi":{"some":{"avg10":1.5,"avg60":0.25,"avg300":0.0,"total":123},"#,
            r#""full":{"avg10":0.0,"avg60":0.0,"avg300":0.0,"total":7}}},"#,
            r#""memory":{"cache":200,"usage":{"limit":67108864,"usage":1000,"max":2000,"failcnt":2},"#,
            &format!(r#""swap":{{"limit":{max},"usage":1300,"failcnt":0}},"#),
            r#""raw":{"anon":700,"file":200,"kernel":100,"workingset_refault_anon":1},"#,
            r#""events":{"high":1,"low":0,"max":2,"oom":3,"oom_group_kill":0,"oom_kill":4,"sock_throttled":0}},"#,
            r#""pids":{"current":5,"limit":77},"blkio":{"ioServiceBytesRecursive":["#,
            r#"{"major":8,"minor":16,"op":"Read","value":1},{"major":8,"minor":16,"op":"Write","value":2},"#,
            r#"{"major":8,"minor":16,"op":"Discard","value":5},"#,
            &format!(r#"{{"major":253,"minor":1,"op":"Read","value":{max}}},"#),
            r#"{"major":253,"minor":1,"op":"Write","value":0},{"major":253,"minor":1,"op":"Discard","value":0}],"#,
            r#""ioServicedRecursive":["#,
            r#"{"major":8,"minor":16,"op":"Read","value":3},{"major":8,"minor":16,"op":"Write","value":4},"#,
            r#"{"major":8,"minor":16,"op":"Discard","value":6},{"major":253,"minor":1,"op":"Read","value":0},"#,
            r#"{"major":253,"minor":1,"op":"Write","value":0},{"major":253,"minor":1,"op":"Discard","value":0}],"#,
            r#""psi":{"some":{"avg10":0.0,"avg60":0.0,"avg300":0.0,"total":1},"#,
            r#""full":{"avg10":0.0,"avg60":0.0,"avg300":0.0,"total":0}}},"#,
            r#""hugetlb":{"1GB":{"usage":0,"failcnt":0,"limit":0},"#,
            &format!(r#""2MB":{{"usage":4194304,"failcnt":6,"limit":{max}}}}},"#),
            r#""rdma":{"current":[{"device":"mlx4_0","hca_handles":2,"hca_objects":2000},"#,
            &format!(r#"{{"device":"ocrdma1","hca_handles":0,"hca_objects":{max}}}],"#),
            &format!(r#""limit":[{{"device":"mlx4_0","hca_handles":3,"hca_objects":{max}}}]}}}}"#),
        ];
        assert_eq!(json(&read(true, V2)), expected.concat());
    }

    #[test]
    fn the_document_of_v1() {
        let expected = [
            r#"{"cpu":{"usage":{"total":7709072,"percpu":[7203726,505346],"percpu_kernel":[4000000,5],"#,
            r#""percpu_user":[3,2],"kernel":4000005,"user":5},"#,
            r#""throttling":{"periods":1,"throttledPeriods":2,"throttledTime":3}},"#,
            r#""memory":{"cache":3,"#,
            r#""usage":{"limit":9223372036854771712,"usage":876544,"max":2514944,"failcnt":1},"#,
            r#""swap":{"limit":3,"usage":2,"failcnt":0},"kernel":{"limit":0,"usage":4,"max":5,"failcnt":0},"#,
            r#""kernelTCP":{"limit":6,"usage":0,"failcnt":7},"#,
            r#""raw":{"cache":1,"rss":2,"total_cache":3},"events":{"oom_kill":2}},"#,
            r#""pids":{"current":1},"#,
            r#""blkio":{"ioServiceBytesRecursive":[{"major":8,"minor":0,"op":"Read","value":1},"#,
            r#"{"major":8,"minor":0,"op":"Total","value":1}],"#,
            r#""ioServicedRecursive":[{"major":8,"minor":16,"op":"Write","value":2}]},"#,
            r#""hugetlb":{"2MB":{"usage":2097152,"max":4194304,"failcnt":3,"limit":9223372036852678656}}}"#,
        ];
        assert_eq!(json(&read(false, V1)), expected.concat());
    }

    #[test]
    fn nothing_there_is_nothing_known() {
        for unified in [true, false] {
            let empty = r#"{"cpu":{"usage":{"total":0,"kernel":0,"user":0},"throttling":{"periods":0,"throttledPeriods":0,"throttledTime":0}},"memory":{"cache":0,"raw":{},"events":{}},"pids":{},"blkio":{},"hugetlb":{}}"#;
            assert_eq!(json(&read(unified, &[])), empty);
        }
    }

    #[test]
    fn limits_of_memory_and_swap_add_up_and_stop_at_none() {
        let swap = |memory, swap| {
            let stats = read(true, &[("memory.max", memory), ("memory.swap.max", swap)]);
            stats.memory.swap.unwrap().limit
        };
        assert_eq!(swap("100\n", "20\n"), 120);
        assert_eq!(swap("max\n", "20\n"), u64::MAX);
        assert_eq!(swap("100\n", "max\n"), u64::MAX);
        // A kernel without swap accounting.
        assert_eq!(read(true, &[("memory.max", "100\n")]).memory.swap, None);
    }

    #[test]
    fn reservations_of_huge_pages_are_another_account() {
        let names =
            ["hugetlb.2MB.rsvd.current", "hugetlb.2MB.numa_stat", "hugetlb.", "hugetlb.2MB", "cpu.stat"];
        assert_eq!(hugetlb_files(names.into_iter(), true).len(), 0);
    }

    #[test]
    fn a_text_that_is_larger_than_the_buffer_is_read_whole() {
        let path = std::env::temp_dir().join(format!("coracle-stats-{}", std::process::id()));
        let text = "x".repeat(1000);
        std::fs::write(&path, &text).unwrap();
        let file = OwnedFd::from(std::fs::File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        for size in [0, 1, 999, 1000, 1001] {
            let mut buffer = vec![0; size];
            let length = read_whole(file.as_fd(), &mut buffer).unwrap();
            assert_eq!(&buffer[..length], text.as_bytes(), "buffer of {size}");
        }
    }

    /// Every file name that either table has.
    fn every_take() -> Vec<(String, Take)> {
        let mut takes = Vec::new();
        for unified in [true, false] {
            takes.extend(FILES.iter().flat_map(|(name, ..)| files(name, unified)));
            let names = [
                "current",
                "max",
                "events",
                "usage_in_bytes",
                "max_usage_in_bytes",
                "limit_in_bytes",
                "failcnt",
            ];
            let names = names.map(|name| format!("hugetlb.2MB.{name}"));
            takes.extend(hugetlb_files(names.iter().map(String::as_str), unified));
        }
        takes.extend(PRESSURE.iter().map(|(file, take)| (file.to_string(), Take::Into(*take))));
        takes
    }

    /// Lines that are nearly those of the kernel.
    fn nearly() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "[a-z_]{0,8}",
            "[0-9]{1,25}",
            "[0-9]{1,3}:[0-9]{1,3}",
            "(some|full|max|Total|Read|rbytes=|avg10=|total=|hca_handle=|inf|NaN|-1|1e999)",
            "avg10=(inf|NaN|-?[0-9.]{0,6}(e[0-9]{1,4})?)",
            "(rbytes|total|hca_object)=[0-9]{0,25}",
        ];
        let line = prop::collection::vec(word, 0..6).prop_map(|words| words.join(" "));
        prop::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in prop_oneof![any::<String>(), nearly()]) {
            let mut stats = Stats::default();
            for (_, take) in every_take() {
                // Twice: nothing may depend on a file being the first of its part.
                take.apply(&mut stats, &text);
                take.apply(&mut stats, &text);
            }
            let text = json(&stats);
            prop_assert!(!text.contains('\n'));
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }

        #[test]
        fn lines_of_newer_kernels_change_nothing(key in "zz[a-z_]{1,12}", value in any::<u64>()) {
            for (unified, fixture) in [(true, V2), (false, V1)] {
                let newer: Vec<_> = fixture
                    .iter()
                    .map(|(name, text)| match *name {
                        // Every key of these two is passed on.
                        "memory.stat" | "memory.events" => (*name, text.to_string()),
                        "cpu.pressure" | "io.pressure" => (*name, format!("{text}{key} total={value}\n")),
                        "io.stat" => (*name, text.replace(" rbytes", &format!(" {key}={value} rbytes"))),
                        _ if text.contains(' ') => (*name, format!("{text}{key} {value}\n")),
                        _ => (*name, text.to_string()),
                    })
                    .filter(|(name, _)| !name.starts_with("rdma") && !name.starts_with("cpuacct"))
                    .collect();
                let plain: Vec<_> = fixture
                    .iter()
                    .filter(|(name, _)| !name.starts_with("rdma") && !name.starts_with("cpuacct"))
                    .copied()
                    .collect();
                let newer: Vec<_> = newer.iter().map(|(name, text)| (*name, text.as_str())).collect();
                prop_assert_eq!(read(unified, &newer), read(unified, &plain));
            }
        }

        #[test]
        fn numbers_arrive_as_they_are(value in any::<u64>()) {
            let text = format!("{value}\n");
            prop_assert_eq!(read(true, &[("memory.current", &text)]).memory.usage.unwrap().usage, value);
            prop_assert_eq!(read(false, &[("memory.failcnt", &text)]).memory.usage.unwrap().failcnt, value);
            prop_assert_eq!(read(true, &[("pids.current", &text)]).pids.current, Some(value));
            let line = format!("8:0 wbytes={value}\n");
            let entry = BlkioEntry { major: 8, minor: 0, op: "Write".into(), value };
            prop_assert_eq!(read(true, &[("io.stat", &line)]).blkio.io_service_bytes_recursive, vec![entry]);
        }
    }
}
