// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel keeps of a value: is it what was written, and what brings an old one back.
//!
//! Never touches a file: text in, answers out. For [`crate::limits`].

use std::path::Path;

use crate::convert::{Kept, Write};
use crate::error::Error;
use crate::tree;

/// An error unless the kernel kept what was written.
pub(crate) fn compare(write: &Write, path: &Path, text: &str) -> Result<(), Error> {
    let same = match write.kept {
        Kept::NotRead => true,
        Kept::Same => text == write.value,
        Kept::Begins => {
            let mut words = text.split_whitespace();
            write.value.split_whitespace().all(|word| words.next() == Some(word))
        }
        Kept::Pages => page_rounded(&write.value, text),
        Kept::List => match (ranges(&write.value), ranges(text)) {
            (Some(wrote), Some(kept)) => wrote == kept,
            // A form of the kernel's own, which it has taken.
            (None, _) => true,
            (Some(_), None) => false,
        },
    };
    if same {
        return Ok(());
    }
    let rule = format!("wrote {} to {}, and the kernel keeps {text}", write.value, path.display());
    Err(Error::Limit { limit: write.limit.to_string(), rule })
}

/// v1 prints its largest number of bytes for "no limit".
pub(crate) fn is_unlimited(bytes: i64) -> bool {
    bytes >= i64::MAX - 65_536
}

/// The kernel counts whole pages and rounds down; the largest page there is has 64 KiB. Beyond its counter's
/// range it keeps "no limit".
fn page_rounded(wrote: &str, kept: &str) -> bool {
    let unlimited = |text: &str| text == "max" || text == "-1";
    match (wrote.parse::<i64>(), kept.parse::<i64>()) {
        (Ok(wrote), Ok(kept)) if wrote >= 0 => kept <= wrote && (wrote - kept < 65_536 || is_unlimited(kept)),
        (_, Ok(kept)) if unlimited(wrote) => is_unlimited(kept),
        (Ok(wrote), Err(_)) => kept == "max" && is_unlimited(wrote),
        _ => unlimited(wrote) && kept == "max",
    }
}

/// `0-3,7` as ascending ranges that neither meet nor touch; None when it is not such a list.
pub(crate) fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let mut ranges = Vec::new();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last {
            return None;
        }
        ranges.push((first, last));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    Some(merged)
}

/// All of `part` is in `whole`; both from [`ranges`].
pub(crate) fn is_within(part: &[(u32, u32)], whole: &[(u32, u32)]) -> bool {
    part.iter().all(|(first, last)| whole.iter().any(|(low, high)| low <= first && last <= high))
}

/// The words after a key that take its entry out again; None for a file without keys.
fn no_entry(file: &str) -> Option<&'static str> {
    match file {
        "io.max" => Some("rbps=max wbps=max riops=max wiops=max"),
        "io.latency" => Some("target=0"),
        "io.weight" | "io.bfq.weight" | "blkio.bfq.weight_device" => Some("default"),
        "rdma.max" => Some("hca_handle=max hca_object=max"),
        "misc.max" => Some("max"),
        "net_prio.ifpriomap" | "blkio.weight_device" | "blkio.leaf_weight_device" => Some("0"),
        _ => file.starts_with("blkio.throttle.").then_some("0"),
    }
}

/// What to write to `file` so that `wrote` is undone, when its text was `old` before. One line for each write.
pub(crate) fn restoring(file: &str, wrote: &str, old: &str) -> Vec<String> {
    if file == "memory.oom_control" {
        let disabled = tree::keyed(old, "oom_kill_disable").unwrap_or(0);
        return vec![disabled.to_string()];
    }
    let Some(no_entry) = no_entry(file) else {
        let lines: Vec<String> = old.lines().map(str::to_string).filter(|line| !line.is_empty()).collect();
        // An empty list (cpuset.cpus of cgroup2) is written as an empty line.
        return if lines.is_empty() { vec!["\n".to_string()] } else { lines };
    };
    // A number alone is the default.
    let key = wrote.split_once(' ').map_or("default", |(key, _)| key);
    let line = old.lines().find(|line| line.split_once(' ').is_some_and(|(name, _)| name == key));
    vec![line.map_or_else(|| format!("{key} {no_entry}"), str::to_string)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_the_kernel_rounds() {
        for (wrote, kept) in [
            ("4096", "4096"),
            ("5000", "4096"),
            ("70000", "65536"),
            ("max", "max"),
            ("-1", "9223372036854771712"),
            ("9223372036854775807", "9223372036854771712"),
            ("9223372036854775807", "max"),
        ] {
            assert!(page_rounded(wrote, kept), "{wrote} {kept}");
        }
        for (wrote, kept) in [
            ("5000", "max"),
            ("5000", "8192"),
            ("1000000", "4096"),
            ("-1", "4096"),
            ("max", "4096"),
            ("5000", ""),
            ("5000", "9223372036854771712"),
        ] {
            assert!(!page_rounded(wrote, kept), "{wrote} {kept}");
        }
    }

    #[test]
    fn lists_are_sets() {
        for (text, wanted) in [
            ("", Some(vec![])),
            ("0", Some(vec![(0, 0)])),
            ("0,1", Some(vec![(0, 1)])),
            ("7, 0-3,2-5\n", Some(vec![(0, 5), (7, 7)])),
            ("4-4294967295,0", Some(vec![(0, 0), (4, 4_294_967_295)])),
            ("3-1", None),
            ("0-31:2/16", None),
            ("x", None),
        ] {
            assert_eq!(ranges(text), wanted, "{text:?}");
        }
        let within = |part: &str, whole: &str| is_within(&ranges(part).unwrap(), &ranges(whole).unwrap());
        assert!(within("1,3", "0-3") && within("", "0") && within("0-3", "0,1-3"));
        assert!(!within("0-4", "0-3") && !within("5", "0-3") && !within("0", ""));
    }

    #[test]
    fn what_was_written_before_an_update_comes_back() {
        for (file, wrote, old, lines) in [
            ("memory.max", "5", "max\n", vec!["max"]),
            ("cpuset.cpus", "0", "\n", vec!["\n"]),
            ("cpu.max", "5000", "max 100000\n", vec!["max 100000"]),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", vec!["0"]),
            (
                "io.max",
                "8:0 rbps=5",
                "8:16 rbps=1 wbps=max riops=max wiops=max\n8:0 rbps=max wbps=7 riops=max wiops=max\n",
                vec!["8:0 rbps=max wbps=7 riops=max wiops=max"],
            ),
            ("io.max", "8:0 rbps=5", "", vec!["8:0 rbps=max wbps=max riops=max wiops=max"]),
            ("io.weight", "default 7", "default 100\n8:0 50\n", vec!["default 100"]),
            ("io.weight", "7", "default 100\n8:0 50\n", vec!["default 100"]),
            ("io.bfq.weight", "8:16 7", "default 100\n8:0 50\n", vec!["8:16 default"]),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:0 99\n", vec!["8:0 99"]),
            ("blkio.throttle.read_bps_device", "8:0 5", "18:0 99\n", vec!["8:0 0"]),
            (
                "rdma.max",
                "a hca_handle=1",
                "a hca_handle=max hca_object=4\n",
                vec!["a hca_handle=max hca_object=4"],
            ),
            ("net_prio.ifpriomap", "lo 5", "lo 0\neth0 2\n", vec!["lo 0"]),
            ("irdma.new", "x", "a 1\nb 2\n", vec!["a 1", "b 2"]),
        ] {
            assert_eq!(restoring(file, wrote, old), lines, "{file} {wrote:?} {old:?}");
        }
    }
}
