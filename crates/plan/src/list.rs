// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's list format for CPUs and NUMA nodes: `0-3,7` (Documentation/admin-guide/cgroup-v2.rst, cpuset).
//!
//! Never expands a range before it is known to be small. Used by the fields that hold such lists and for the host
//! facts that bound them.

/// No kernel is built for more CPUs than this (CONFIG_NR_CPUS), and nodes are fewer.
pub(crate) const MAX: u32 = 8191;

/// The ranges of a list, both ends included; `Err` says what is wrong.
pub(crate) fn ranges(list: &str) -> Result<Vec<(u32, u32)>, String> {
    list.split(',')
        .map(|part| {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("the range {first}-{last} runs backwards"));
            }
            if last > MAX {
                return Err(format!("{last} is more than any kernel has"));
            }
            Ok((first, last))
        })
        .collect()
}

/// The list again, without the white space that [`ranges`] lets through.
pub(crate) fn text(ranges: &[(u32, u32)]) -> String {
    let range = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

fn number(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Too many digits for u32 are more than MAX as well.
    if digits {
        Ok(text.parse().unwrap_or(u32::MAX))
    } else {
        Err("must be a list such as 0-3,7".to_string())
    }
}

/// The first member of `list` that `host` has not; none when the host's list is empty or not readable.
pub(crate) fn first_missing(list: &[(u32, u32)], host: &str) -> Option<u32> {
    let host = ranges(host.trim()).ok()?;
    list.iter()
        .flat_map(|&(first, last)| first..=last)
        .find(|n| !host.iter().any(|&(first, last)| (first..=last).contains(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(ranges("0-3,7"), Ok(vec![(0, 3), (7, 7)]));
        for bad in ["", "a", "3-1", "1-", "-1", "0-999999", "1,,2", "0-99999999999999999999"] {
            assert!(ranges(bad).is_err(), "{bad}");
        }
        assert_eq!(text(&[(0, 3), (7, 7)]), "0-3,7");
        assert_eq!(first_missing(&[(0, 2)], "0-1\n"), Some(2));
        assert_eq!(first_missing(&[(0, 2)], "0-7"), None);
        assert_eq!(first_missing(&[(0, 2)], ""), None);
    }
}
