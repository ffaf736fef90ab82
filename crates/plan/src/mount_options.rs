// SPDX-License-Identifier: MIT OR Apache-2.0
//! The option strings of a mount, as one table, and what a list of them adds up to.
//!
//! Never decides what kind of mount it is for: [`crate::mounts`] does. From `mounts[].options` of the document;
//! names and meanings are the runtime-spec's ("Linux mount options") and mount(8)'s, numbers linux/mount.h's.

use crate::types::{Attributes, Propagation};

pub(crate) const RDONLY: u64 = 0x1;
pub(crate) const NOSUID: u64 = 0x2;
pub(crate) const NODEV: u64 = 0x4;
pub(crate) const NOEXEC: u64 = 0x8;
/// What keeps a mount from being used in some way.
pub(crate) const PROTECTING: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
/// A field of three values, not a set of bits: changing it means clearing the whole field.
pub(crate) const ATIME: u64 = 0x70;
pub(crate) const RELATIME: u64 = 0x0;
pub(crate) const NOATIME: u64 = 0x10;
pub(crate) const STRICTATIME: u64 = 0x20;
pub(crate) const NODIRATIME: u64 = 0x80;
pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;

#[derive(Debug, Clone, Copy)]
enum Meaning {
    Set(u64),
    Clear(u64),
    Atime(u64),
    /// Back to the kernel's default, relatime, if this mode was chosen before.
    NotAtime(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    RecursiveAtime(u64),
    /// A superblock flag of this name, set or taken back.
    Flag(&'static str, bool),
    Nothing,
    Bind {
        recursive: bool,
    },
    Remount,
    Propagate(Propagation, bool),
    IdMap {
        recursive: bool,
    },
    CopyUp,
}

use Meaning::{
    Atime, Bind, Clear, CopyUp, Flag, IdMap, NotAtime, Nothing, Propagate, RecursiveAtime, RecursiveClear,
    RecursiveSet, Remount, Set,
};
use Propagation::{Private, Shared, Slave, Unbindable};

/// Sorted by name.
const TABLE: &[(&str, Meaning)] = &[
    ("async", Flag("sync", false)),
    ("atime", NotAtime(NOATIME)),
    ("bind", Bind { recursive: false }),
    ("defaults", Nothing),
    ("dev", Clear(NODEV)),
    ("diratime", Clear(NODIRATIME)),
    ("dirsync", Flag("dirsync", true)),
    ("exec", Clear(NOEXEC)),
    ("idmap", IdMap { recursive: false }),
    // i_version is the filesystem's own business since Linux 6.x: none changes it on demand.
    ("iversion", Nothing),
    ("lazytime", Flag("lazytime", true)),
    ("loud", Nothing),
    ("mand", Flag("mand", true)),
    ("noatime", Atime(NOATIME)),
    ("nodev", Set(NODEV)),
    ("nodiratime", Set(NODIRATIME)),
    ("noexec", Set(NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Flag("lazytime", false)),
    ("nomand", Flag("mand", false)),
    // relatime is what remains when no mode is asked for, so there is nothing to take back.
    ("norelatime", Nothing),
    ("nostrictatime", NotAtime(STRICTATIME)),
    ("nosuid", Set(NOSUID)),
    ("nosymfollow", Set(NOSYMFOLLOW)),
    ("private", Propagate(Private, false)),
    ("ratime", RecursiveAtime(RELATIME)),
    ("rbind", Bind { recursive: true }),
    ("rdev", RecursiveClear(NODEV)),
    ("rdiratime", RecursiveClear(NODIRATIME)),
    ("relatime", Atime(RELATIME)),
    ("remount", Remount),
    ("rexec", RecursiveClear(NOEXEC)),
    ("ridmap", IdMap { recursive: true }),
    ("rnoatime", RecursiveAtime(NOATIME)),
    ("rnodev", RecursiveSet(NODEV)),
    ("rnodiratime", RecursiveSet(NODIRATIME)),
    ("rnoexec", RecursiveSet(NOEXEC)),
    ("rnorelatime", Nothing),
    ("rnostrictatime", RecursiveAtime(RELATIME)),
    ("rnosuid", RecursiveSet(NOSUID)),
    ("rnosymfollow", RecursiveSet(NOSYMFOLLOW)),
    ("ro", Set(RDONLY)),
    ("rprivate", Propagate(Private, true)),
    ("rrelatime", RecursiveAtime(RELATIME)),
    ("rro", RecursiveSet(RDONLY)),
    ("rrw", RecursiveClear(RDONLY)),
    ("rshared", Propagate(Shared, true)),
    ("rslave", Propagate(Slave, true)),
    ("rstrictatime", RecursiveAtime(STRICTATIME)),
    ("rsuid", RecursiveClear(NOSUID)),
    ("rsymfollow", RecursiveClear(NOSYMFOLLOW)),
    ("runbindable", Propagate(Unbindable, true)),
    ("rw", Clear(RDONLY)),
    ("shared", Propagate(Shared, false)),
    ("silent", Nothing),
    ("slave", Propagate(Slave, false)),
    ("strictatime", Atime(STRICTATIME)),
    ("suid", Clear(NOSUID)),
    ("symfollow", Clear(NOSYMFOLLOW)),
    ("sync", Flag("sync", true)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagate(Unbindable, false)),
];

/// The mount options that mean something here, sorted; all others go to the filesystem. For the features document.
pub fn mount_option_names() -> Vec<&'static str> {
    TABLE.iter().map(|&(name, _)| name).collect()
}

/// What a list of options adds up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) bind: Option<BindKind>,
    pub(crate) remount: bool,
    pub(crate) attributes: Attributes,
    /// `ro` or `rw` was given last.
    pub(crate) readonly: Option<bool>,
    /// Superblock flags in the order in which they were last set.
    pub(crate) flags: Vec<&'static str>,
    pub(crate) propagation: Vec<(Propagation, bool)>,
    pub(crate) id_map: Option<BindKind>,
    pub(crate) copy_up: bool,
    /// For the filesystem: key and value, an empty value for a flag.
    pub(crate) data: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindKind {
    One,
    Recursive,
}

/// Reads options in order: of two that contradict each other the last one wins, as in mount(8).
pub(crate) fn read(options: &[String]) -> MountOptions {
    let mut sum = MountOptions::default();
    for option in options {
        match TABLE.binary_search_by_key(&option.as_str(), |&(name, _)| name) {
            Ok(index) => apply(&mut sum, TABLE[index].1),
            Err(_) => data(&mut sum.data, option),
        }
    }
    sum
}

fn apply(sum: &mut MountOptions, meaning: Meaning) {
    let attributes = &mut sum.attributes;
    match meaning {
        Set(bits) => {
            attributes.set |= bits;
            attributes.clear &= !bits;
            if bits == RDONLY {
                sum.readonly = Some(true);
            }
        }
        Clear(bits) => {
            attributes.set &= !bits;
            attributes.clear |= bits;
            if bits == RDONLY {
                sum.readonly = Some(false);
            }
        }
        Atime(mode) => {
            attributes.set = attributes.set & !ATIME | mode;
            attributes.clear |= ATIME;
        }
        NotAtime(mode) => {
            if attributes.set & ATIME == mode || attributes.clear & ATIME == 0 {
                attributes.set &= !ATIME;
                attributes.clear |= ATIME;
            }
        }
        RecursiveSet(bits) => {
            attributes.recursive_set |= bits;
            attributes.recursive_clear &= !bits;
        }
        RecursiveClear(bits) => {
            attributes.recursive_set &= !bits;
            attributes.recursive_clear |= bits;
        }
        RecursiveAtime(mode) => {
            attributes.recursive_set = attributes.recursive_set & !ATIME | mode;
            attributes.recursive_clear |= ATIME;
        }
        Flag(name, on) => {
            sum.flags.retain(|&flag| flag != name);
            if on {
                sum.flags.push(name);
            }
        }
        Nothing => {}
        // Not contradictory: mount(2) adds MS_REC to MS_BIND, in either order.
        Bind { recursive } => {
            let recursive = recursive || sum.bind == Some(BindKind::Recursive);
            sum.bind = Some(if recursive { BindKind::Recursive } else { BindKind::One });
        }
        Remount => sum.remount = true,
        Propagate(propagation, recursive) => sum.propagation.push((propagation, recursive)),
        IdMap { recursive } => {
            sum.id_map = Some(if recursive { BindKind::Recursive } else { BindKind::One });
        }
        CopyUp => sum.copy_up = true,
    }
}

/// Options for the filesystem. mount(2) took them as one string with commas, so a comma inside of an option still
/// separates; except in SELinux contexts, which have commas in their categories and were quoted for that reason.
fn data(list: &mut Vec<(String, String)>, option: &str) {
    const CONTEXTS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];
    if let Some((key, value)) = option.split_once('=')
        && CONTEXTS.contains(&key)
    {
        list.push((key.to_string(), value.trim_matches('"').to_string()));
        return;
    }
    for part in split_commas(option) {
        let (key, value) = part.split_once('=').unwrap_or((&part, ""));
        if !key.is_empty() {
            list.push((key.to_string(), value.to_string()));
        }
    }
}

/// Splits at commas that no backslash protects (overlayfs escapes those in its paths).
fn split_commas(option: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in option.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

/// The propagation that a word such as `rshared` names.
pub(crate) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    match TABLE.binary_search_by_key(&word, |&(name, _)| name).map(|index| TABLE[index].1) {
        Ok(Propagate(propagation, recursive)) => Some((propagation, recursive)),
        _ => None,
    }
}

/// The attributes for a filesystem that is new: nothing is below it, and nothing is set that could be cleared,
/// except that choosing an access time mode means clearing its field.
pub(crate) fn for_new_filesystem(given: Attributes) -> Attributes {
    let set = given.set & !given.recursive_clear | given.recursive_set;
    let clear = (given.clear | given.recursive_clear) & ATIME;
    Attributes { set, clear, recursive_set: 0, recursive_clear: 0 }
}

/// Names of the bits, for [`crate::explain`].
pub(crate) fn attribute_names(attributes: &Attributes) -> Vec<String> {
    const BITS: [(u64, &str, &str); 6] = [
        (RDONLY, "ro", "rw"),
        (NOSUID, "nosuid", "suid"),
        (NODEV, "nodev", "dev"),
        (NOEXEC, "noexec", "exec"),
        (NODIRATIME, "nodiratime", "diratime"),
        (NOSYMFOLLOW, "nosymfollow", "symfollow"),
    ];
    let mut names = Vec::new();
    for (prefix, set, clear) in
        [("", attributes.set, attributes.clear), ("r", attributes.recursive_set, attributes.recursive_clear)]
    {
        for (bit, on, off) in BITS {
            if set & bit != 0 {
                names.push(format!("{prefix}{on}"));
            } else if clear & bit != 0 {
                names.push(format!("{prefix}{off}"));
            }
        }
        if clear & ATIME != 0 {
            let mode = match set & ATIME {
                NOATIME => "noatime",
                STRICTATIME => "strictatime",
                _ => "relatime",
            };
            names.push(format!("{prefix}{mode}"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(options: &[&str]) -> MountOptions {
        read(&options.iter().map(|o| o.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn every_option_of_the_specification_is_known() {
        let names = mount_option_names();
        for option in "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev \
             nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private \
             ratime rbind rdev rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime \
             rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid \
             rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable \
             idmap ridmap"
            .split_whitespace()
        {
            assert!(names.contains(&option), "{option}");
        }
    }

    #[test]
    fn b27_the_last_of_contradictory_options_wins() {
        for (on, off, bit) in [
            ("ro", "rw", RDONLY),
            ("nosuid", "suid", NOSUID),
            ("nodev", "dev", NODEV),
            ("noexec", "exec", NOEXEC),
            ("nodiratime", "diratime", NODIRATIME),
            ("nosymfollow", "symfollow", NOSYMFOLLOW),
        ] {
            assert_eq!(
                sum(&[off, on]).attributes,
                Attributes { set: bit, ..Default::default() },
                "{off},{on}"
            );
            assert_eq!(
                sum(&[on, off]).attributes,
                Attributes { clear: bit, ..Default::default() },
                "{on},{off}"
            );
            let (on, off) = (format!("r{on}"), format!("r{off}"));
            let set = sum(&[&off, &on]).attributes;
            assert_eq!(set, Attributes { recursive_set: bit, ..Default::default() }, "{off},{on}");
            let clear = sum(&[&on, &off]).attributes;
            assert_eq!(clear, Attributes { recursive_clear: bit, ..Default::default() }, "{on},{off}");
        }
        assert!(sum(&["sync", "async"]).flags.is_empty());
        assert_eq!(sum(&["async", "sync"]).flags, ["sync"]);
        assert!(sum(&["lazytime", "nolazytime"]).flags.is_empty());
    }

    #[test]
    fn access_time_modes_replace_the_whole_field() {
        let atime = |set| Attributes { set, clear: ATIME, ..Default::default() };
        assert_eq!(sum(&["noatime", "strictatime"]).attributes, atime(STRICTATIME));
        assert_eq!(sum(&["strictatime", "relatime"]).attributes, atime(RELATIME));
        assert_eq!(sum(&["noatime", "atime"]).attributes, atime(RELATIME));
        assert_eq!(sum(&["strictatime", "atime"]).attributes, atime(STRICTATIME));
        assert_eq!(sum(&["strictatime", "nostrictatime"]).attributes, atime(RELATIME));
        assert_eq!(sum(&["noatime", "norelatime"]).attributes, atime(NOATIME));
        assert_eq!(
            sum(&["rstrictatime", "rnoatime"]).attributes,
            Attributes { recursive_set: NOATIME, recursive_clear: ATIME, ..Default::default() }
        );
    }

    #[test]
    fn data_is_split_as_the_kernel_split_it() {
        let pairs = |options: &[&str]| sum(options).data;
        let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
        assert_eq!(pairs(&["mode=755", "newinstance"]), [pair("mode", "755"), pair("newinstance", "")]);
        assert_eq!(pairs(&["size=1k,mode=1"]), [pair("size", "1k"), pair("mode", "1")]);
        assert_eq!(pairs(&["lowerdir=/a\\,b:/c"]), [pair("lowerdir", "/a\\,b:/c")]);
        assert_eq!(pairs(&["context=\"u:r:t:s0:c1,c2\""]), [pair("context", "u:r:t:s0:c1,c2")]);
        assert_eq!(pairs(&["", ",", "="]), []);
    }

    #[test]
    fn a_new_filesystem_clears_nothing_but_the_access_time() {
        let folded = for_new_filesystem(sum(&["rw", "nosuid", "rro", "noatime"]).attributes);
        assert_eq!(folded, Attributes { set: RDONLY | NOSUID | NOATIME, clear: ATIME, ..Default::default() });
    }
}
