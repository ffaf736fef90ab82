// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths in the hostile tree: reaching them, and making what is missing, one component at a time.
//!
//! A resolution never leaves the root (openat2(2), RESOLVE_IN_ROOT) and what is made is made in a directory that is
//! held open, under a plain name. Symbolic links that lead nowhere are followed by hand, inside the root, because
//! images have them where engines mount files (`/etc/resolv.conf`).

use core::ffi::CStr;

use coracle_program::detail;
use coracle_sys::{Errno, Fd, fd};

use crate::{Done, Failure};

const PATH_MAX: usize = 4096;
pub(crate) const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A path being put together.
pub(crate) struct Buffer {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer { bytes: [0; PATH_MAX], length: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        // One byte stays for the NUL.
        let end = self.length + bytes.len();
        if end >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.get_mut(self.length..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    pub(crate) fn push_number(&mut self, number: i32) -> Result<(), Errno> {
        let mut digits = [0u8; 10];
        self.push(decimal(number as u32, &mut digits))
    }

    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = length.min(self.length);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    pub(crate) fn as_cstr(&mut self) -> Result<&CStr, Errno> {
        if let Some(byte) = self.bytes.get_mut(self.length) {
            *byte = 0;
        }
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::NAMETOOLONG)
    }
}

/// A number in decimal, at the end of the buffer.
pub(crate) fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Directory,
    File,
}

/// Open (O_PATH) a mount point below the root, making what is missing.
pub(crate) fn reach(root: i32, path: &CStr, make: Make) -> Done<Fd> {
    match fd::open_in_root(root, path, libc::O_PATH, 0) {
        Ok(found) => Ok(found),
        Err(Errno::NOENT) => create(root, path.to_bytes(), make)
            .map_err(|errno| Failure::new(errno, detail::MOUNT_POINT, path.to_bytes())),
        Err(errno) => Err(Failure::new(errno, detail::MOUNT_POINT, path.to_bytes())),
    }
}

/// Open (O_PATH) a directory below the root, making what is missing.
pub(crate) fn reach_directory(root: i32, path: &[u8]) -> Result<Fd, Errno> {
    let mut buffer = Buffer::new();
    buffer.push(path)?;
    match fd::open_in_root(root, buffer.as_cstr()?, libc::O_PATH | libc::O_DIRECTORY, 0) {
        Err(Errno::NOENT) => create(root, path, Make::Directory),
        other => other,
    }
}

fn create(root: i32, path: &[u8], make: Make) -> Result<Fd, Errno> {
    // What is still to be walked; links on the way put their target in front.
    let mut todo = Buffer::new();
    todo.push(path)?;
    // What was walked: a prefix that exists, without links that lead nowhere.
    let mut done = Buffer::new();
    let mut links = 0;
    let mut position = 0;
    loop {
        let rest = todo.as_bytes().get(position..).unwrap_or_default();
        let skip = rest.iter().take_while(|byte| **byte == b'/').count();
        let name = rest.get(skip..).unwrap_or_default();
        let name =
            name.get(..name.iter().position(|byte| *byte == b'/').unwrap_or(name.len())).unwrap_or_default();
        if name.is_empty() {
            if done.as_bytes().is_empty() {
                done.push(b"/")?;
            }
            return fd::open_in_root(root, done.as_cstr()?, libc::O_PATH, 0);
        }
        let next = position + skip + name.len();
        let last = todo.as_bytes().get(next..).unwrap_or_default().iter().all(|byte| *byte == b'/');
        let before = done.as_bytes().len();
        done.push(b"/")?;
        done.push(name)?;
        match fd::open_in_root(root, done.as_cstr()?, libc::O_PATH, 0) {
            Ok(_) => {
                position = next;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let mut file_name = Buffer::new();
        file_name.push(name)?;
        let file_name = file_name.as_cstr()?;
        done.truncate(before);
        let parent = if before == 0 {
            fd::open_in_root(root, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?
        } else {
            fd::open_in_root(root, done.as_cstr()?, libc::O_PATH | libc::O_DIRECTORY, 0)?
        };
        // Nothing can be made in procfs, and its links are read here as text that means something else.
        if fd::fstatfs(parent.number())?.0 == PROC_SUPER_MAGIC {
            return Err(Errno::LOOP);
        }
        let made = if last && make == Make::File {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
            fd::openat(parent.number(), file_name, flags, 0o644).map(drop)
        } else {
            fd::mkdirat(parent.number(), file_name, 0o755)
        };
        match made {
            // Made: the next round finds it.
            Ok(()) => {}
            Err(Errno::EXIST) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let mut target = [0u8; PATH_MAX];
                match fd::readlinkat(parent.number(), file_name, &mut target) {
                    Ok(target) => {
                        let mut replaced = Buffer::new();
                        if !target.starts_with(b"/") {
                            replaced.push(done.as_bytes())?;
                            replaced.push(b"/")?;
                        }
                        replaced.push(target)?;
                        replaced.push(todo.as_bytes().get(next..).unwrap_or_default())?;
                        todo = replaced;
                        done.truncate(0);
                        position = 0;
                    }
                    // Somebody made it at the same moment: the next round finds that, or we give up.
                    Err(Errno::INVAL) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// (directory, name) of a path.
pub(crate) fn split(path: &CStr) -> (&[u8], &CStr) {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = match slash {
        Some(at) => bytes.split_at(at + 1),
        None => (b"/".as_slice(), bytes),
    };
    // The NUL is the last byte of the name.
    (directory, CStr::from_bytes_with_nul(name).unwrap_or(c""))
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A root filesystem, and what must stay outside of it.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Tree {
            let path = std::env::temp_dir().join(format!("coracle-init-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("root")).unwrap();
            fs::create_dir_all(path.join("outside")).unwrap();
            Tree(path)
        }
        fn reach(&self, path: &str, make: Make) -> Result<(), i32> {
            let root = fs::File::open(self.0.join("root")).unwrap();
            let path = CString::new(path).unwrap();
            match reach(root.as_raw_fd(), &path, make) {
                Ok(_) => Ok(()),
                Err(Failure(message)) => Err(message.errno),
            }
        }
        fn inside(&self, path: &str) -> PathBuf {
            self.0.join("root").join(path)
        }
        fn nothing_outside(&self) -> bool {
            fs::read_dir(self.0.join("outside")).unwrap().next().is_none()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn missing_components_are_made() {
        let tree = Tree::new("make");
        assert_eq!(tree.reach("/a/b/c", Make::Directory), Ok(()));
        assert!(tree.inside("a/b/c").is_dir());
        assert_eq!(tree.reach("/a/b/f", Make::File), Ok(()));
        assert!(tree.inside("a/b/f").is_file());
        assert_eq!(tree.reach("//x///y/", Make::Directory), Ok(()));
        assert!(tree.inside("x/y").is_dir());
        assert_eq!(tree.reach("/", Make::Directory), Ok(()));
        assert_eq!(tree.reach("/a/b/f/g", Make::File), Err(libc::ENOTDIR));
    }

    #[test]
    fn t27_dots_stay_inside() {
        let tree = Tree::new("dots");
        assert_eq!(tree.reach("/../../outside/x", Make::Directory), Ok(()));
        assert!(tree.inside("outside/x").is_dir());
        assert!(tree.nothing_outside());
    }

    #[test]
    fn t29_links_that_lead_nowhere_are_followed_inside() {
        let tree = Tree::new("dangling");
        fs::create_dir(tree.inside("etc")).unwrap();
        symlink("../run/resolv.conf", tree.inside("etc/resolv.conf")).unwrap();
        assert_eq!(tree.reach("/etc/resolv.conf", Make::File), Ok(()));
        assert!(tree.inside("run/resolv.conf").is_file());

        let outside = tree.0.join("outside/new");
        symlink(&outside, tree.inside("absolute")).unwrap();
        assert_eq!(tree.reach("/absolute", Make::File), Ok(()));
        assert!(tree.nothing_outside());
        assert!(tree.inside(outside.strip_prefix("/").unwrap().to_str().unwrap()).is_file());

        symlink("/nowhere", tree.inside("d")).unwrap();
        assert_eq!(tree.reach("/d/e", Make::Directory), Ok(()));
        assert!(tree.inside("nowhere/e").is_dir());
    }

    #[test]
    fn t28_circles_end() {
        let tree = Tree::new("circles");
        symlink("b", tree.inside("a")).unwrap();
        symlink("a", tree.inside("b")).unwrap();
        assert_eq!(tree.reach("/a/x", Make::Directory), Err(libc::ELOOP));
        symlink("self", tree.inside("self")).unwrap();
        assert_eq!(tree.reach("/self", Make::File), Err(libc::ELOOP));
    }

    #[test]
    fn paths_that_are_too_long() {
        let tree = Tree::new("long");
        assert_eq!(tree.reach(&"/x".repeat(3000), Make::Directory), Err(libc::ENAMETOOLONG));
        assert_eq!(tree.reach(&format!("/{}", "n".repeat(300)), Make::File), Err(libc::ENAMETOOLONG));
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(split(c"/dev/null"), (b"/dev/".as_slice(), c"null"));
        assert_eq!(split(c"null"), (b"/".as_slice(), c"null"));
        assert_eq!(decimal(0, &mut [0; 10]), b"0");
        assert_eq!(decimal(u32::MAX, &mut [0; 10]), b"4294967295");
    }
}
