// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which cgroup hierarchies this mount namespace shows, and where the caller is in them.
//!
//! Never changes anything and never guesses from paths such as `/sys/fs/cgroup`: facts come from
//! `/proc/self/mountinfo`, `/proc/self/cgroup` and `cgroup.controllers`, and go to the planner and to
//! `locate`.

use std::path::{Path, PathBuf};

use coracle_plan::{CgroupHost, CgroupMode, V1Hierarchy};
use nix::errno::Errno;

use crate::error::Error;

/// Words among a v1 mount's options that are controllers (kernel include/linux/cgroup_subsys.h).
const V1_CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// The cgroup mounts of the calling process: mount points, mode, and the controllers of the cgroup2 root.
/// Fails when `/proc/self/mountinfo` or `cgroup.controllers` cannot be read; no cgroup mount at all is
/// [`CgroupMode::None`], not an error.
pub fn host() -> Result<CgroupHost, Error> {
    let mut host = host_of(&parse_mountinfo(&read("/proc/self/mountinfo")?));
    // The others are none of a container's business: it has no directory of its own there.
    host.v1.retain(|hierarchy| crate::location::is_used(&hierarchy.controllers));
    if !host.unified.is_empty() {
        let controllers = read(&format!("{}/cgroup.controllers", host.unified))?;
        host.unified_controllers = controllers.split_whitespace().map(String::from).collect();
    }
    Ok(host)
}

pub(crate) fn read(path: &str) -> Result<String, Error> {
    let bytes = coracle_sys::fd::read_file(path)
        .map_err(|error| Error::io("read", path, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
    // A mount point that is not UTF-8 cannot be one of ours; the rest of the file still counts.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One visible cgroup mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) point: String,
    /// The directory of the hierarchy that is the mount's root, as the caller's cgroup namespace names it.
    pub(crate) root: String,
    /// None for cgroup2.
    pub(crate) v1: Option<Vec<String>>,
}

struct Line<'a> {
    id: &'a str,
    parent: &'a str,
    root: &'a str,
    point: String,
    fstype: &'a str,
    options: &'a str,
}

/// proc_pid_mountinfo(5). Mounts that another one covers are left out: a path cannot reach them.
pub(crate) fn parse_mountinfo(text: &str) -> Vec<Mounted> {
    let lines: Vec<Line<'_>> = text.lines().filter_map(parse_line).collect();
    lines
        .iter()
        .filter(|line| matches!(line.fstype, "cgroup" | "cgroup2") && visible(line, &lines))
        .map(|line| Mounted {
            point: line.point.clone(),
            root: unescape(line.root),
            v1: (line.fstype == "cgroup").then(|| {
                let words = line.options.split(',');
                words
                    .filter(|word| V1_CONTROLLERS.contains(word) || word.starts_with("name="))
                    .map(String::from)
                    .collect()
            }),
        })
        .collect()
}

fn parse_line(line: &str) -> Option<Line<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let (id, parent, _device) = (before.next()?, before.next()?, before.next()?);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (fstype, _source, options) = (after.next()?, after.next()?, after.next().unwrap_or(""));
    Some(Line { id, parent, root, point: unescape(point), fstype, options })
}

/// Walks to the mount point as the kernel walks a path: from mount to mount, the nearest mount point first.
/// False when that ends on another mount, which then covers this one.
fn visible(mount: &Line<'_>, all: &[Line<'_>]) -> bool {
    let target = Path::new(&mount.point);
    let mut current: Option<&Line<'_>> = None;
    // The kernel's list has no cycle; the bound keeps a forged one from hanging us.
    for _ in 0..=all.len() {
        let next = all
            .iter()
            .filter(|line| match current {
                Some(current) => line.parent == current.id && line.id != current.id,
                // The outermost mounts are those whose parent is not shown.
                None => line.parent == line.id || !all.iter().any(|other| other.id == line.parent),
            })
            .filter(|line| target.starts_with(&line.point))
            .rev()
            .min_by_key(|line| Path::new(&line.point).components().count());
        match next {
            Some(next) => current = Some(next),
            None => break,
        }
    }
    current.is_some_and(|found| found.id == mount.id)
}

/// `\040` and the like, which the kernel writes for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4).and_then(|three| std::str::from_utf8(three).ok());
        match digits.and_then(|three| u8::from_str_radix(three, 8).ok()) {
            Some(value) if byte == b'\\' => {
                out.push(value);
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One mount for each hierarchy: the first that shows the whole of it, else the first.
fn host_of(mounts: &[Mounted]) -> CgroupHost {
    let whole_first = |wanted: &dyn Fn(&&Mounted) -> bool| {
        let all: Vec<&Mounted> = mounts.iter().filter(wanted).collect();
        all.iter().find(|mount| mount.root == "/").or(all.first()).map(|mount| (*mount).clone())
    };
    let unified = whole_first(&|mount| mount.v1.is_none()).map(|mount| mount.point).unwrap_or_default();
    let mut v1: Vec<V1Hierarchy> = Vec::new();
    for mount in mounts {
        let Some(controllers) = &mount.v1 else { continue };
        if controllers.is_empty() || v1.iter().any(|known| &known.controllers == controllers) {
            continue;
        }
        if let Some(best) = whole_first(&|other| other.v1.as_ref() == Some(controllers)) {
            v1.push(V1Hierarchy { mount_point: best.point, controllers: controllers.clone() });
        }
    }
    let controlling = v1.iter().any(|one| one.controllers.iter().any(|name| !name.starts_with("name=")));
    let mode = match (unified.is_empty(), controlling) {
        (false, false) => CgroupMode::V2,
        (false, true) => CgroupMode::Hybrid,
        (true, _) if !v1.is_empty() => CgroupMode::V1,
        (true, _) => CgroupMode::None,
    };
    CgroupHost {
        mode,
        unified,
        unified_controllers: Vec::new(),
        v1,
        closed: Vec::new(),
        below_own: Vec::new(),
    }
}

/// A line of `/proc/PID/cgroup` (cgroups(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Empty for cgroup2.
    pub(crate) controllers: Vec<String>,
    pub(crate) path: String,
}

/// The path may hold colons (containerd's names do), so only the first two separate.
pub(crate) fn parse_memberships(text: &str) -> Vec<Membership> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let controllers: Vec<String> =
                controllers.split(',').filter(|name| !name.is_empty()).map(String::from).collect();
            // Hierarchy 0 is cgroup2; a v1 hierarchy has at least one controller or a name.
            (controllers.is_empty() == (number == "0"))
                .then(|| Membership { controllers, path: path.to_string() })
        })
        .collect()
}

/// Where `own` (as `/proc/self/cgroup` writes it) lies below a mount whose root is `root`; None when the
/// mount does not show it.
pub(crate) fn below_mount(own: &str, root: &str) -> Option<PathBuf> {
    let has_dots =
        |path: &str| Path::new(path).components().any(|part| part == std::path::Component::ParentDir);
    if has_dots(own) || has_dots(root) {
        return None;
    }
    Path::new(own).strip_prefix(root).ok().map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 master:3 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd,release_agent=/x
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_hybrid_host() {
        let host = host_of(&parse_mountinfo(HYBRID));
        assert_eq!(host.mode, CgroupMode::Hybrid);
        assert_eq!(host.unified, "/sys/fs/cgroup/unified");
        let v1: Vec<(&str, Vec<String>)> =
            host.v1.iter().map(|one| (one.mount_point.as_str(), one.controllers.clone())).collect();
        assert_eq!(
            v1,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", names(&["cpu", "cpuacct"])),
                ("/sys/fs/cgroup/memory", names(&["memory"])),
                ("/sys/fs/cgroup/systemd", names(&["name=systemd"])),
            ]
        );
    }

    #[test]
    fn pure_v2_pure_v1_and_none() {
        let v2 = "23 27 0:22 / /sys rw - sysfs sysfs rw\n\
                  30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let host = host_of(&parse_mountinfo(v2));
        assert_eq!((host.mode, host.unified.as_str()), (CgroupMode::V2, "/sys/fs/cgroup"));
        let v1 = HYBRID.lines().filter(|line| !line.contains("cgroup2")).collect::<Vec<_>>().join("\n");
        assert_eq!(host_of(&parse_mountinfo(&v1)).mode, CgroupMode::V1);
        assert_eq!(
            host_of(&parse_mountinfo("27 1 254:0 / / rw - ext4 /dev/vda rw\n")).mode,
            CgroupMode::None
        );
        // The named hierarchy of an older systemd has no controller: all of them are in cgroup2.
        let named = HYBRID.lines().filter(|line| !line.contains(",cpu") && !line.contains(",memory"));
        assert_eq!(host_of(&parse_mountinfo(&named.collect::<Vec<_>>().join("\n"))).mode, CgroupMode::V2);
    }

    #[test]
    fn mounts_that_are_covered_do_not_count() {
        let covered = format!("{HYBRID}50 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 none rw\n");
        let mounts = parse_mountinfo(&covered);
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        assert_eq!(mounts[0].point, "/sys/fs/cgroup");
        let covered_above = format!("{HYBRID}50 23 0:40 / /sys rw - tmpfs none rw\n");
        assert_eq!(parse_mountinfo(&covered_above), Vec::new());
        let stacked = format!("{HYBRID}50 41 0:40 / /sys/fs/cgroup/unified rw - tmpfs none rw\n");
        assert!(parse_mountinfo(&stacked).iter().all(|mount| mount.v1.is_some()));
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part_of_it() {
        let text = "\
30 27 0:27 /docker/a /a rw - cgroup2 cgroup2 rw
31 27 0:27 / /b rw - cgroup2 cgroup2 rw
";
        assert_eq!(host_of(&parse_mountinfo(text)).unified, "/b");
        assert_eq!(host_of(&parse_mountinfo(text.lines().next().unwrap())).unified, "/a");
    }

    #[test]
    fn escapes_and_broken_lines() {
        assert_eq!(unescape(r"/a\040b\134\011"), "/a b\\\t");
        assert_eq!(unescape(r"/a\04"), r"/a\04");
        assert_eq!(unescape(r"/\xyz"), r"/\xyz");
        for broken in ["", "1", "1 2 3 / / rw", "1 2 3 / - cgroup2", " - ", "a - b - c"] {
            assert_eq!(parse_mountinfo(broken), Vec::new(), "{broken:?}");
        }
        // A mount that is its own parent, and two that are each other's.
        assert_eq!(parse_mountinfo("1 1 0:1 / /c rw - cgroup2 x rw").len(), 1);
        assert!(parse_mountinfo("1 2 0:1 / /c rw - cgroup2 x rw\n2 1 0:1 / /c rw - cgroup2 x rw").is_empty());
    }

    #[test]
    fn memberships_keep_colons_in_paths() {
        let text = "9:name=systemd:/x\n2:cpu,cpuacct:/system.slice:docker:abc\n0::/a:b\nbroken\n7\n5::/no\n";
        let one = |controllers: &[&str], path: &str| Membership {
            controllers: names(controllers),
            path: path.to_string(),
        };
        assert_eq!(
            parse_memberships(text),
            [
                one(&["name=systemd"], "/x"),
                one(&["cpu", "cpuacct"], "/system.slice:docker:abc"),
                one(&[], "/a:b")
            ]
        );
    }

    #[test]
    fn own_path_below_a_mount() {
        let below = |own, root| below_mount(own, root).map(|path| path.display().to_string());
        assert_eq!(below("/", "/").as_deref(), Some(""));
        assert_eq!(below("/a/b", "/").as_deref(), Some("a/b"));
        assert_eq!(below("/a/b", "/a").as_deref(), Some("b"));
        assert_eq!(below("/ab", "/a"), None, "components, not letters");
        assert_eq!(below("/../b", "/"), None);
        assert_eq!(below("/b", "/.."), None);
    }
}
