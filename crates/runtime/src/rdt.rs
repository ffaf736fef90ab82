// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cache and memory bandwidth classes, and monitoring groups, in resctrl (kernel Documentation/filesystems/resctrl.rst).
//!
//! Never changes a group that it did not make, and never reaches one by a path: every directory is held open. What
//! to do comes from the plan; [`Applied`] says what has to be undone, and belongs into the container's record.

use std::ffi::{CStr, CString};

use coracle_plan::IntelRdt;
use coracle_sys::{Fd, fd};
use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result, words};

/// Directories that were made for the container, and are removed with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub group: bool,
    pub monitoring: bool,
}

/// Put the process into its group. `resctrl` is where resctrl is mounted, empty if it is not. A group that is not
/// there is made; one that is there must have been named by the document, with the same schemata as it has. After an
/// error, nothing is left of it.
pub fn apply(rdt: &IntelRdt, resctrl: &str, id: &str, pid: i32) -> Result<Applied> {
    let root = open_root(resctrl)?;
    let mut applied = Applied::default();
    let result = claim(rdt, &root, id, &mut applied).and_then(|claimed| fill(rdt, &root, &claimed, pid));
    match result {
        Ok(()) => Ok(applied),
        Err(error) => Err(match remove_from(&root, rdt, id, applied) {
            Ok(()) => error,
            Err(undo) => error.hint(format!("and what was made could not be removed: {undo}")),
        }),
    }
}

/// Put one more process into the groups of a container to which [`apply`] was done.
pub fn join(rdt: &IntelRdt, resctrl: &str, id: &str, pid: i32) -> Result<()> {
    let root = open_root(resctrl)?;
    let own = if rdt.group.is_empty() { CString::from(c".") } else { name(&rdt.group)? };
    let group =
        open_directory(&root, &own).map_err(|errno| failed(format!("open group {:?}", rdt.group), errno))?;
    let mut directories = vec![group];
    if rdt.monitoring {
        let groups = open_directory(&directories[0], c"mon_groups")
            .and_then(|groups| open_directory(&groups, &name(id).unwrap_or_default()));
        let what = format!("open monitoring group {id:?}");
        directories.push(groups.map_err(|errno| failed(what, errno))?);
    }
    for directory in &directories {
        write(directory, c"tasks", &pid.to_string())
            .map_err(|errno| explained("write tasks", errno, &root))?;
    }
    Ok(())
}

/// Other schemata for a group that [`apply`] made; returns what they were. Groups that were there before are others' too.
pub fn update(rdt: &IntelRdt, resctrl: &str, applied: Applied, lines: &[String]) -> Result<String> {
    if !applied.group {
        let text =
            format!("intel rdt: group {:?} was there before the container, and is not changed", rdt.group);
        return Err(Error::new(Code::Invalid, text));
    }
    let root = open_root(resctrl)?;
    let group = open_directory(&root, &name(&rdt.group)?)
        .map_err(|errno| failed(format!("open group {:?}", rdt.group), errno))?;
    let before = read(&group, c"schemata").map_err(|errno| failed("read schemata", errno))?;
    let mut text = lines.join("\n");
    text.push('\n');
    write(&group, c"schemata", &text).map_err(|errno| explained("write schemata", errno, &root))?;
    Ok(before)
}

/// Remove what [`apply`] made. What is gone already is fine.
pub fn remove(rdt: &IntelRdt, resctrl: &str, id: &str, applied: Applied) -> Result<()> {
    // A resctrl that was unmounted since has forgotten its groups.
    if applied == Applied::default() || resctrl.is_empty() {
        return Ok(());
    }
    remove_from(&open_root(resctrl)?, rdt, id, applied)
}

/// Directories of one container, held open.
#[derive(Debug)]
struct Claimed {
    group: Fd,
    /// It was there before.
    existing: bool,
    monitoring: Option<Fd>,
}

/// Make or find the directories. What was made is in `applied`, also after an error.
fn claim(rdt: &IntelRdt, root: &Fd, id: &str, applied: &mut Applied) -> Result<Claimed> {
    let (group, existing) = if rdt.group.is_empty() {
        (open_directory(root, c".").map_err(|errno| failed("open the root group", errno))?, true)
    } else {
        let name = name(&rdt.group)?;
        // Without schemata there is nothing to make the group from: it has to be there (config-linux.md "IntelRdt").
        let made =
            if rdt.named && rdt.schemata.is_empty() { Ok(false) } else { make(root, &name, rdt.named) };
        let what = format!("group {:?}", rdt.group);
        applied.group = made.map_err(|errno| match errno {
            Errno::ENOSPC => {
                failed(format!("make {what}"), errno).hint("this CPU has no more classes of service")
            }
            errno => failed(format!("make {what}"), errno),
        })?;
        let group = open_directory(root, &name).map_err(|errno| failed(format!("open {what}"), errno))?;
        (group, !applied.group)
    };
    let monitoring = if rdt.monitoring {
        let name = name(id)?;
        let groups =
            open_directory(&group, c"mon_groups").map_err(|errno| failed("open mon_groups", errno))?;
        let what = format!("monitoring group {id:?}");
        applied.monitoring =
            make(&groups, &name, false).map_err(|errno| failed(format!("make {what}"), errno))?;
        Some(open_directory(&groups, &name).map_err(|errno| failed(format!("open {what}"), errno))?)
    } else {
        None
    };
    Ok(Claimed { group, existing, monitoring })
}

/// Set or compare the schemata, and move the process in.
fn fill(rdt: &IntelRdt, root: &Fd, claimed: &Claimed, pid: i32) -> Result<()> {
    if !rdt.schemata.is_empty() {
        if claimed.existing {
            let has = read(&claimed.group, c"schemata").map_err(|errno| failed("read schemata", errno))?;
            if let Some(line) = rdt.schemata.iter().find(|line| !holds(&has, line)) {
                let rule = format!("group {:?} exists with other schemata than {line:?}", rdt.group);
                return Err(Error::new(Code::Invalid, format!("intel rdt: {rule}")));
            }
        } else {
            let mut lines = rdt.schemata.join("\n");
            lines.push('\n');
            write(&claimed.group, c"schemata", &lines)
                .map_err(|errno| explained("write schemata", errno, root))?;
        }
    }
    for directory in [Some(&claimed.group), claimed.monitoring.as_ref()].into_iter().flatten() {
        write(directory, c"tasks", &pid.to_string())
            .map_err(|errno| explained("write tasks", errno, root))?;
    }
    Ok(())
}

fn remove_from(root: &Fd, rdt: &IntelRdt, id: &str, applied: Applied) -> Result<()> {
    let gone = |result: coracle_sys::Result<()>| match result {
        Err(coracle_sys::Errno::NOENT) => Ok(()),
        other => other.map_err(|errno| Errno::from_raw(errno.0)),
    };
    if applied.group {
        // Monitoring groups below go with it (resctrl.rst).
        return gone(fd::unlinkat(root.number(), &name(&rdt.group)?, libc::AT_REMOVEDIR))
            .map_err(|errno| failed(format!("remove group {:?}", rdt.group), errno));
    }
    if applied.monitoring {
        let group = if rdt.group.is_empty() { CString::from(c".") } else { name(&rdt.group)? };
        let groups =
            match open_directory(root, &group).and_then(|group| open_directory(&group, c"mon_groups")) {
                Err(Errno::ENOENT) => return Ok(()),
                other => other.map_err(|errno| failed("open mon_groups", errno))?,
            };
        gone(fd::unlinkat(groups.number(), &name(id)?, libc::AT_REMOVEDIR))
            .map_err(|errno| failed(format!("remove monitoring group {id:?}"), errno))?;
    }
    Ok(())
}

fn failed(what: impl std::fmt::Display, errno: Errno) -> Error {
    Error::system(format!("intel rdt: {what}"), errno)
}

/// With the kernel's own explanation, where it has one (`info/last_cmd_status`).
fn explained(what: &str, errno: Errno, root: &Fd) -> Error {
    let status = read(root, c"info/last_cmd_status").unwrap_or_default();
    match status.trim() {
        "" | "ok" => failed(what, errno),
        status => Error::new(
            Code::System,
            format!("intel rdt: {what}: {}: {}", words(errno), status.replace('\n', " ")),
        ),
    }
}

fn open_root(resctrl: &str) -> Result<Fd> {
    if resctrl.is_empty() {
        return Err(Error::new(Code::Unsupported, "intel rdt: resctrl is not mounted"));
    }
    let path = CString::new(resctrl).map_err(|_| failed("open resctrl", Errno::EINVAL))?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    fd::openat(libc::AT_FDCWD, &path, flags, 0)
        .map_err(|errno| failed(format!("open {resctrl}"), Errno::from_raw(errno.0)))
}

/// A name of one directory. The planner has checked it; a second look costs less than a path out of resctrl.
fn name(text: &str) -> Result<CString> {
    if matches!(text, "" | "." | ".." | "info" | "mon_groups" | "mon_data") || text.contains('/') {
        return Err(Error::new(Code::Invalid, format!("intel rdt: {text:?} cannot be the name of a group")));
    }
    CString::new(text).map_err(|_| Error::new(Code::Invalid, format!("intel rdt: {text:?} holds a NUL byte")))
}

/// True if it was made, false if it was there and may be used.
fn make(directory: &Fd, name: &CStr, may_exist: bool) -> nix::Result<bool> {
    match fd::mkdirat(directory.number(), name, 0o755) {
        Ok(()) => Ok(true),
        Err(coracle_sys::Errno::EXIST) if may_exist => Ok(false),
        Err(errno) => Err(Errno::from_raw(errno.0)),
    }
}

fn open_directory(directory: &Fd, name: &CStr) -> nix::Result<Fd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    fd::openat(directory.number(), name, flags, 0).map_err(|errno| Errno::from_raw(errno.0))
}

fn read(directory: &Fd, name: &CStr) -> nix::Result<String> {
    let text = || {
        let file = fd::openat(directory.number(), name, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match fd::read(file.number(), &mut buffer)? {
                0 => return Ok(text),
                length => text.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            }
        }
    };
    text()
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .map_err(|errno: coracle_sys::Errno| Errno::from_raw(errno.0))
}

/// In one write: the kernel parses what one write brings.
fn write(directory: &Fd, name: &CStr, text: &str) -> nix::Result<()> {
    fd::openat(directory.number(), name, libc::O_WRONLY | libc::O_TRUNC | libc::O_NOFOLLOW, 0)
        .and_then(|file| fd::write_all(file.number(), text.as_bytes()))
        .map_err(|errno| Errno::from_raw(errno.0))
}

/// `L3:0=f;1=ff` → the resource and its (domain, value) pairs, each spelled in one way only.
fn schema(line: &str) -> Option<(&str, Vec<(&str, String)>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let mut pairs = Vec::new();
    for domain in domains.split(';') {
        let (domain, value) = domain.split_once('=')?;
        pairs.push((domain.trim(), value.trim().trim_start_matches('0').to_ascii_lowercase()));
    }
    Some((resource.trim(), pairs))
}

/// Does the kernel's text of a group's schemata hold every domain of this line, with the same value?
fn holds(has: &str, line: &str) -> bool {
    let Some((resource, wanted)) = schema(line) else { return false };
    has.lines()
        .filter_map(schema)
        .find(|(name, _)| *name == resource)
        .is_some_and(|(_, pairs)| wanted.iter().all(|pair| pairs.contains(pair)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A directory with the files of a resctrl group. Unlike resctrl, a new directory in it stays empty, so tests
    /// that make one fill it between [`claim`] and [`fill`].
    fn stand_in(path: &Path, schemata: &str) {
        fs::create_dir_all(path.join("mon_groups")).unwrap();
        fs::write(path.join("schemata"), schemata).unwrap();
        fs::write(path.join("tasks"), "").unwrap();
    }

    fn rdt(group: &str, named: bool, schemata: &[&str], monitoring: bool) -> IntelRdt {
        IntelRdt {
            group: group.to_string(),
            named,
            schemata: schemata.iter().map(|line| line.to_string()).collect(),
            monitoring,
        }
    }

    const HAS: &str = "    MB:0=100;1=100\n    L3:0=0fff;1=fff\n";

    fn root() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        stand_in(directory.path(), HAS);
        let path = directory.path().to_str().unwrap().to_string();
        (directory, path)
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn without_resctrl() {
        let error = apply(&rdt("a", true, &[], false), "", "id", 1).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::Unsupported, "intel rdt: resctrl is not mounted")
        );
        let error = apply(&rdt("a", true, &[], false), "/no/such/place", "id", 1).unwrap_err();
        assert_eq!(error.message, "intel rdt: open /no/such/place: no such file or directory");
        remove(&rdt("a", true, &[], false), "", "id", Applied { group: true, monitoring: true }).unwrap();
    }

    #[test]
    fn a_named_group_is_used_and_compared() {
        let (directory, path) = root();
        let group = directory.path().join("gold");
        stand_in(&group, HAS);
        for schemata in [&[][..], &["L3:0=fff"], &["L3:1=0FFF;0=fff", "MB:0=100"]] {
            let applied = apply(&rdt("gold", true, schemata, false), &path, "id", 42).unwrap();
            assert_eq!(applied, Applied::default());
            assert_eq!(fs::read_to_string(group.join("tasks")).unwrap(), "42");
            assert_eq!(fs::read_to_string(group.join("schemata")).unwrap(), HAS, "never written");
        }
        for other in ["L3:0=ff", "L3:2=fff", "L2:0=fff", "MB:0=10", "nonsense"] {
            let error = apply(&rdt("gold", true, &[other], false), &path, "id", 42).unwrap_err();
            assert_eq!(
                error.message,
                format!("intel rdt: group \"gold\" exists with other schemata than {other:?}")
            );
        }
        remove(&rdt("gold", true, &[], false), &path, "id", Applied::default()).unwrap();
        assert!(group.exists(), "it was there before");
    }

    #[test]
    fn a_named_group_without_schemata_must_be_there() {
        let (directory, path) = root();
        let error = apply(&rdt("gold", true, &[], false), &path, "id", 42).unwrap_err();
        assert_eq!(error.message, "intel rdt: open group \"gold\": no such file or directory");
        assert!(!directory.path().join("gold").exists());
    }

    #[test]
    fn an_unnamed_group_is_new() {
        let (directory, path) = root();
        stand_in(&directory.path().join("id"), HAS);
        let error = apply(&rdt("id", false, &["L3:0=f"], false), &path, "id", 42).unwrap_err();
        assert_eq!(error.message, "intel rdt: make group \"id\": file exists");
        assert!(directory.path().join("id").exists());
    }

    #[test]
    fn a_new_group_gets_its_schemata_and_the_process() {
        let (directory, path) = root();
        let wanted = rdt("id", false, &["L3:0=f;1=f", "MB:0=20"], false);
        let open = open_root(&path).unwrap();
        let mut applied = Applied::default();
        let claimed = claim(&wanted, &open, "id", &mut applied).unwrap();
        assert_eq!(applied, Applied { group: true, monitoring: false });
        let group = directory.path().join("id");
        fs::write(group.join("schemata"), HAS).unwrap();
        fs::write(group.join("tasks"), "").unwrap();
        fill(&wanted, &open, &claimed, 42).unwrap();
        assert_eq!(fs::read_to_string(group.join("schemata")).unwrap(), "L3:0=f;1=f\nMB:0=20\n");
        assert_eq!(fs::read_to_string(group.join("tasks")).unwrap(), "42");

        fs::remove_file(group.join("schemata")).unwrap();
        fs::remove_file(group.join("tasks")).unwrap();
        remove(&wanted, &path, "id", applied).unwrap();
        assert!(!group.exists());
        remove(&wanted, &path, "id", applied).unwrap();
    }

    #[test]
    fn an_update_writes_to_ones_own_group_only() {
        let (directory, path) = root();
        let group = directory.path().join("id");
        stand_in(&group, HAS);
        let wanted = rdt("id", false, &["L3:0=f"], false);
        let made = Applied { group: true, monitoring: false };
        let lines = ["L3:0=3".to_string(), "MB:0=20".to_string()];
        assert_eq!(update(&wanted, &path, made, &lines).unwrap(), HAS);
        assert_eq!(fs::read_to_string(group.join("schemata")).unwrap(), "L3:0=3\nMB:0=20\n");
        let error = update(&wanted, &path, Applied::default(), &lines).unwrap_err();
        let text = "intel rdt: group \"id\" was there before the container, and is not changed";
        assert_eq!(error.message, text);
        assert_eq!(update(&wanted, "", made, &lines).unwrap_err().code, Code::Unsupported);
    }

    #[test]
    fn monitoring_in_the_root_group() {
        let (directory, path) = root();
        let wanted = rdt("", true, &[], true);
        let open = open_root(&path).unwrap();
        let mut applied = Applied::default();
        let claimed = claim(&wanted, &open, "id", &mut applied).unwrap();
        assert_eq!(applied, Applied { group: false, monitoring: true });
        let monitoring = directory.path().join("mon_groups/id");
        fs::write(monitoring.join("tasks"), "").unwrap();
        fill(&wanted, &open, &claimed, 42).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("tasks")).unwrap(), "42");
        assert_eq!(fs::read_to_string(monitoring.join("tasks")).unwrap(), "42");

        fs::remove_file(monitoring.join("tasks")).unwrap();
        remove(&wanted, &path, "id", applied).unwrap();
        assert_eq!(names(&directory.path().join("mon_groups")), Vec::<String>::new());
        assert!(directory.path().join("schemata").exists());
        remove(&wanted, &path, "id", applied).unwrap();
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let (directory, path) = root();
        let before = names(directory.path());
        // The new directory has no schemata file here.
        let error = apply(&rdt("id", false, &["L3:0=f"], false), &path, "id", 42).unwrap_err();
        assert_eq!(error.message, "intel rdt: write schemata: no such file or directory");
        assert_eq!(names(directory.path()), before);

        // Nor the new monitoring group a tasks file.
        let error = apply(&rdt("", true, &[], true), &path, "id", 42).unwrap_err();
        assert_eq!(error.message, "intel rdt: write tasks: no such file or directory");
        assert_eq!(names(&directory.path().join("mon_groups")), Vec::<String>::new());

        // And an id that is taken is left to its owner.
        fs::create_dir(directory.path().join("mon_groups/id")).unwrap();
        let error = apply(&rdt("", true, &[], true), &path, "id", 42).unwrap_err();
        assert_eq!(error.message, "intel rdt: make monitoring group \"id\": file exists");
        assert!(directory.path().join("mon_groups/id").exists());
    }

    #[test]
    fn the_kernels_explanation_is_passed_on() {
        let (directory, path) = root();
        fs::create_dir(directory.path().join("info")).unwrap();
        fs::write(directory.path().join("info/last_cmd_status"), "Mask f is out of range\n").unwrap();
        let error = apply(&rdt("id", false, &["L3:0=f"], false), &path, "id", 42).unwrap_err();
        assert!(error.message.ends_with(": no such file or directory: Mask f is out of range"), "{error}");
    }

    #[test]
    fn names_stay_inside() {
        let (directory, path) = root();
        stand_in(&directory.path().join("real"), HAS);
        std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
        for bad in [".", "..", "a/b", "/etc", "info", "mon_groups", "mon_data", "a\0b", "link"] {
            apply(&rdt(bad, true, &[], false), &path, "id", 42).expect_err(bad);
        }
        assert_eq!(fs::read_to_string(directory.path().join("real/tasks")).unwrap(), "");
    }
}
