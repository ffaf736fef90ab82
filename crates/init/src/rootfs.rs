// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container's tree: mounts, devices, links, masks, and the change of root.
//!
//! Mounts are made detached and attached to a mount point that is held open; nothing is looked up again after.

use core::ffi::CStr;

use coracle_program::{
    List, MOUNT_COPY_UP, MOUNT_ID_MAP_BELOW, MOUNT_KEEP, MOUNT_MODE_OF_TARGET, Op, detail,
};
use coracle_sys::mount::{self, Setattr};
use coracle_sys::{Errno, Fd, fd};

use crate::path::{self, Buffer, Make, PROC_SUPER_MAGIC};
use crate::{Done, Failure};

const KEPT: usize = 64;

pub(crate) struct Rootfs {
    root: Option<Fd>,
    /// The directory of the last device or link, and its path.
    directory: Option<(&'static [u8], Fd)>,
    /// Mounts that are sealed later.
    kept: [Option<(&'static CStr, Fd)>; KEPT],
    /// /dev/null as a mount, and whether it is attached somewhere: further ones are copies.
    null: Option<(Fd, bool)>,
    /// The empty read-only directory, likewise.
    blank: Option<(Fd, bool)>,
}

impl Default for Rootfs {
    fn default() -> Rootfs {
        Rootfs { root: None, directory: None, kept: [const { None }; KEPT], null: None, blank: None }
    }
}

/// Cut the new mount namespace off from the host's.
pub(crate) fn isolate(propagation: u64) -> Done {
    let root = fd::openat(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    Ok(mount::setattr(root.number(), true, &Setattr { propagation, ..Setattr::default() })?)
}

/// A procfs that nobody else can reach or mount over.
pub(crate) fn private_proc() -> Done<Fd> {
    let context = mount::fsopen(c"proc")?;
    mount::fsconfig_create(context.number())?;
    Ok(mount::fsmount(context.number(), mount::ATTR_NOSUID | mount::ATTR_NODEV | mount::ATTR_NOEXEC)?)
}

/// The filesystem's own words for what it did not like, newest last (fsopen(2)).
fn complaint(context: &Fd, errno: Errno) -> Failure {
    let mut newest = [0u8; 200];
    let mut length = 0;
    let mut line = [0u8; 200];
    while let Ok(read) = fd::read(context.number(), &mut line) {
        if read == 0 {
            break;
        }
        newest = line;
        length = read;
    }
    match newest.get(..length) {
        Some([b'e' | b'w' | b'i', b' ', text @ ..]) => {
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            Failure::new(errno, detail::FILESYSTEM, text)
        }
        _ => errno.into(),
    }
}

fn configure(context: &Fd, options: List<'_>) -> Done {
    let mut words = options.iter();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        let result = if value.is_empty() {
            mount::fsconfig_flag(context.number(), key)
        } else {
            mount::fsconfig_string(context.number(), key, value)
        };
        result.map_err(|errno| complaint(context, errno))?;
    }
    Ok(())
}

fn set_attributes(mount_fd: i32, recursive: bool, set: u64, clear: u64, propagation: u64) -> Done {
    let attributes = Setattr { set, clear, propagation, userns_fd: 0 };
    if !attributes.is_empty() {
        mount::setattr(mount_fd, recursive, &attributes)?;
    }
    Ok(())
}

impl Rootfs {
    pub(crate) fn root(&self) -> i32 {
        self.root.as_ref().map_or(-1, Fd::number)
    }

    pub(crate) fn forget_directory(&mut self) {
        self.directory = None;
    }

    pub(crate) fn attach_root(&mut self, given: i32, path: &'static CStr) -> Done {
        let root = if given >= 0 {
            Fd::own(given)
        } else {
            let clone = mount::clone_tree(libc::AT_FDCWD, path, true)?;
            let slave = Setattr { propagation: mount::MS_SLAVE, ..Setattr::default() };
            mount::setattr(clone.number(), true, &slave)?;
            clone
        };
        // At its own path, where hooks that enter this namespace look for it. A user of the new namespace who may
        // not search a directory on the way attaches it over the host's root.
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let point = match fd::openat(libc::AT_FDCWD, path, flags, 0) {
            Err(Errno::ACCES) => fd::openat(libc::AT_FDCWD, c"/", flags, 0)?,
            other => other?,
        };
        mount::attach(root.number(), point.number())?;
        self.root = Some(root);
        Ok(())
    }

    /// Where a filesystem or a directory goes. procfs and sysfs take no link on the way (CVE-2019-19921).
    fn mount_point(&self, target: &CStr, fstype: &CStr) -> Done<Fd> {
        let found = path::reach(self.root(), target, Make::Directory)?;
        if fstype == c"proc" || fstype == c"sysfs" {
            let resolve = fd::RESOLVE_IN_ROOT | fd::RESOLVE_NO_SYMLINKS;
            let plain = fd::openat2(self.root(), target, libc::O_PATH | libc::O_DIRECTORY, 0, resolve)
                .map_err(|errno| Failure::new(errno, detail::MOUNT_POINT, target.to_bytes()))?;
            return Ok(plain);
        }
        self.refuse_inside_proc(&found, target)?;
        Ok(found)
    }

    /// The planner allows a few files below /proc by name; a name that only leads there is refused here.
    fn refuse_inside_proc(&self, found: &Fd, target: &CStr) -> Done {
        // Nor is the host's own procfs, over the one that is there, anything else than procfs.
        if target == c"/proc"
            || target.to_bytes().starts_with(b"/proc/")
            || fd::fstatfs(found.number())?.0 != PROC_SUPER_MAGIC
        {
            return Ok(());
        }
        Err(Failure::new(Errno::PERM, detail::INSIDE_PROC, target.to_bytes()))
    }

    fn attach_at(&self, mount_fd: &Fd, point: &Fd, target: &CStr) -> Done {
        mount::attach(mount_fd.number(), point.number()).map_err(|errno| match errno {
            Errno::NOTDIR => Failure::new(errno, detail::KIND_MISMATCH, target.to_bytes()),
            errno => errno.into(),
        })
    }

    pub(crate) fn mount(&mut self, op: Op<'static>) -> Done {
        let Op::Mount {
            target,
            fstype,
            source,
            options,
            set,
            set_below,
            clear_below,
            propagation,
            propagation_below,
            id_map,
            flags,
        } = op
        else {
            return Err(Errno::PROTO.into());
        };
        let point = self.mount_point(target, fstype)?;
        let context = mount::fsopen(fstype)?;
        if !source.is_empty() {
            mount::fsconfig_string(context.number(), c"source", source)
                .map_err(|errno| complaint(&context, errno))?;
        }
        configure(&context, options)?;
        if flags & MOUNT_MODE_OF_TARGET != 0 {
            let mode = fd::fstat(point.number())?.mode & 0o7777;
            let mut octal = Buffer::new();
            for shift in [9, 6, 3, 0] {
                octal.push(&[b'0' + (mode >> shift & 7) as u8])?;
            }
            mount::fsconfig_string(context.number(), c"mode", octal.as_cstr()?)
                .map_err(|errno| complaint(&context, errno))?;
        }
        mount::fsconfig_create(context.number()).map_err(|errno| complaint(&context, errno))?;
        // As mount_setattr(2) on a mount without attributes, where "below" is the mount itself too.
        let attributes = set & !clear_below | set_below;
        let made =
            mount::fsmount(context.number(), attributes).map_err(|errno| complaint(&context, errno))?;
        drop(context);
        if id_map >= 0 {
            let namespace = Fd::own(id_map);
            let attributes = Setattr {
                set: mount::ATTR_IDMAP,
                userns_fd: namespace.number() as u64,
                ..Setattr::default()
            };
            mount::setattr(made.number(), flags & MOUNT_ID_MAP_BELOW != 0, &attributes)?;
        }
        if flags & MOUNT_COPY_UP != 0 {
            copy_tree(point.number(), made.number(), 0)?;
        }
        set_attributes(made.number(), true, 0, 0, propagation_below)?;
        set_attributes(made.number(), false, 0, 0, propagation)?;
        self.attach_at(&made, &point, target)?;
        if flags & MOUNT_KEEP != 0 {
            let slot = self.kept.iter_mut().find(|slot| slot.is_none()).ok_or(Errno::NOMEM)?;
            *slot = Some((target, made));
        }
        Ok(())
    }

    pub(crate) fn attach(&mut self, mount_fd: Fd, target: &CStr, directory: bool) -> Done {
        let make = if directory { Make::Directory } else { Make::File };
        let point = path::reach(self.root(), target, make)?;
        self.refuse_inside_proc(&point, target)?;
        self.attach_at(&mount_fd, &point, target)
    }

    pub(crate) fn bind(&mut self, op: Op<'static>) -> Done {
        let Op::Bind {
            source,
            target,
            recursive,
            set,
            clear,
            set_below,
            clear_below,
            propagation,
            propagation_below,
        } = op
        else {
            return Err(Errno::PROTO.into());
        };
        let clone = mount::clone_tree(libc::AT_FDCWD, source, recursive != 0)?;
        set_attributes(clone.number(), true, set_below, clear_below, propagation_below)?;
        set_attributes(clone.number(), false, set, clear, propagation)?;
        let directory = fd::fstat(clone.number())?.is_directory();
        self.attach(clone, target, directory)
    }

    pub(crate) fn remount(&mut self, op: Op<'static>) -> Done {
        let Op::Remount {
            target,
            options,
            reconfigure,
            set,
            clear,
            set_below,
            clear_below,
            propagation,
            propagation_below,
        } = op
        else {
            return Err(Errno::PROTO.into());
        };
        let there = fd::open_in_root(self.root(), target, libc::O_PATH, 0)
            .map_err(|errno| Failure::new(errno, detail::MOUNT_POINT, target.to_bytes()))?;
        if reconfigure != 0 {
            let context = mount::fspick(there.number())?;
            configure(&context, options)?;
            mount::fsconfig_reconfigure(context.number()).map_err(|errno| complaint(&context, errno))?;
        }
        set_attributes(there.number(), true, set_below, clear_below, propagation_below)?;
        set_attributes(there.number(), false, set, clear, propagation)
    }

    /// Open the directory that a device or a link belongs in, or use the one of the op before.
    fn directory_of(&mut self, directory: &'static [u8]) -> Result<i32, Errno> {
        match &self.directory {
            Some((path, fd)) if *path == directory => Ok(fd.number()),
            _ => {
                let fd = path::reach_directory(self.root(), directory)?;
                let number = fd.number();
                self.directory = Some((directory, fd));
                Ok(number)
            }
        }
    }

    pub(crate) fn device(&mut self, path: &'static CStr, mode: u32, number: u64, uid: u32, gid: u32) -> Done {
        let (directory, name) = path::split(path);
        let directory = self.directory_of(directory)?;
        let existed = match fd::mknodat(directory, name, mode, number) {
            Ok(()) => false,
            Err(Errno::EXIST) => true,
            Err(errno) => return Err(errno.into()),
        };
        if !existed && uid == 0 && gid == 0 {
            return Ok(());
        }
        let node = fd::openat(directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        let stat = fd::fstat(node.number())?;
        let is_fifo = mode & libc::S_IFMT == libc::S_IFIFO;
        if stat.kind() != mode & libc::S_IFMT || (!is_fifo && stat.rdev != number) {
            return Err(Failure::new(Errno::EXIST, detail::OTHER_DEVICE, path.to_bytes()));
        }
        if stat.uid != uid || stat.gid != gid {
            fd::chown(node.number(), uid, gid)?;
        }
        Ok(())
    }

    pub(crate) fn symlink(&mut self, target: &CStr, path: &'static CStr, replace: bool) -> Done {
        let (directory, name) = path::split(path);
        let directory = self.directory_of(directory)?;
        match fd::symlinkat(target, directory, name) {
            Err(Errno::EXIST) if replace => {
                fd::unlinkat(directory, name, 0)?;
                Ok(fd::symlinkat(target, directory, name)?)
            }
            // An image may bring its own.
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    pub(crate) fn pivot(&mut self) -> Done {
        mount::fchdir(self.root())?;
        mount::pivot_to_working_directory()?;
        // The old root now lies over the new one. Its mounts are slaves: nothing of this reaches the host.
        mount::unmount(c".", libc::MNT_DETACH)?;
        Ok(mount::chdir(c"/")?)
    }

    /// Without pivot_root the host's mounts stay in the namespace. Whole procfs and sysfs mounts among them would let a
    /// user namespace inside mount fresh ones, without any mask: `visible` are theirs, the last one first. One that is
    /// locked into the namespace is covered.
    pub(crate) fn move_root(&mut self, visible: List<'_>) -> Done {
        for path in visible.iter() {
            match mount::unmount(path, libc::MNT_DETACH) {
                // Under another one that went before.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::INVAL | Errno::PERM) => {
                    let point = fd::openat(libc::AT_FDCWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
                    mount::attach(blank_directory()?.number(), point.number())?;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        let root = fd::openat(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        mount::attach(self.root(), root.number())?;
        mount::fchdir(self.root())?;
        mount::chroot(c".")?;
        Ok(mount::chdir(c"/")?)
    }

    pub(crate) fn change_root(&mut self, directory: i32) -> Done {
        if directory < 0 {
            self.root = Some(fd::openat(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?);
            return Ok(());
        }
        let root = Fd::own(directory);
        mount::fchdir(root.number())?;
        mount::chroot(c".")?;
        mount::chdir(c"/")?;
        self.root = Some(root);
        Ok(())
    }

    pub(crate) fn root_propagation(&mut self, propagation: u64) -> Done {
        set_attributes(self.root(), false, 0, 0, propagation)
    }

    pub(crate) fn readonly_root(&mut self) -> Done {
        set_attributes(self.root(), false, mount::ATTR_RDONLY, 0, 0)
    }

    pub(crate) fn seal_readonly(&mut self, target: &CStr) -> Done {
        let kept = self.kept.iter().flatten().rev().find(|(path, _)| *path == target);
        let (_, mount_fd) = kept.ok_or(Errno::BADF)?;
        set_attributes(mount_fd.number(), false, mount::ATTR_RDONLY, 0, 0)
    }

    /// The masks' /dev/null comes from the host and is the real one: the container's could be anything
    /// (CVE-2025-31133).
    pub(crate) fn take_null(&mut self, given: i32) -> Done {
        let null =
            if given >= 0 { Fd::own(given) } else { mount::clone_tree(libc::AT_FDCWD, c"/dev/null", false)? };
        let stat = fd::fstat(null.number())?;
        if stat.kind() != libc::S_IFCHR || stat.rdev != fd::device_number(1, 3) {
            return Err(Failure::new(Errno::NODEV, detail::OTHER_DEVICE, b"/dev/null"));
        }
        self.null = Some((null, false));
        Ok(())
    }

    pub(crate) fn mask(&mut self, path: &CStr) -> Done {
        let Some(found) = self.present(path)? else { return Ok(()) };
        let source = if fd::fstat(found.number())?.is_directory() {
            match &mut self.blank {
                Some(blank) => blank,
                none => none.insert((blank_directory()?, false)),
            }
        } else {
            self.null.as_mut().ok_or(Errno::BADF)?
        };
        if source.1 {
            // Copies are taken from where the first one is attached.
            let copy = mount::clone_tree(source.0.number(), c"", false)?;
            return Ok(mount::attach(copy.number(), found.number())?);
        }
        mount::attach(source.0.number(), found.number())?;
        source.1 = true;
        Ok(())
    }

    pub(crate) fn readonly(&mut self, path: &CStr) -> Done {
        let Some(found) = self.present(path)? else { return Ok(()) };
        let clone = mount::clone_tree(found.number(), c"", true)?;
        set_attributes(clone.number(), true, mount::ATTR_RDONLY, 0, 0)?;
        Ok(mount::attach(clone.number(), found.number())?)
    }

    /// A path to hide or protect; what is not there needs neither. Any other reason is an error: an unreadable
    /// path must not stay open.
    fn present(&self, path: &CStr) -> Done<Option<Fd>> {
        match fd::open_in_root(self.root(), path, libc::O_PATH, 0) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn blank_directory() -> Done<Fd> {
    let context = mount::fsopen(c"tmpfs")?;
    for (key, value) in [(c"nr_blocks", c"1"), (c"nr_inodes", c"1"), (c"mode", c"755")] {
        mount::fsconfig_string(context.number(), key, value).map_err(|errno| complaint(&context, errno))?;
    }
    mount::fsconfig_create(context.number()).map_err(|errno| complaint(&context, errno))?;
    let attributes = mount::ATTR_RDONLY | mount::ATTR_NOSUID | mount::ATTR_NODEV | mount::ATTR_NOEXEC;
    Ok(mount::fsmount(context.number(), attributes)?)
}

/// How deep tmpcopyup follows directories: each level holds descriptors and stack.
const COPY_DEPTH: u32 = 64;
const COPY_CHUNK: usize = 1 << 20;

/// Copy a directory's content: directories, regular files, links, device nodes and FIFOs as such. Nothing is opened
/// that could block or lead out: each name is looked at first, without following it.
fn copy_tree(from: i32, to: i32, depth: u32) -> Done {
    if depth > COPY_DEPTH {
        return Err(Errno::LOOP.into());
    }
    let listing = fd::openat(from, c".", libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    let mut buffer = [0u8; 4096];
    loop {
        let filled = fd::getdents(listing.number(), &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        let mut entries = buffer.get(..filled).unwrap_or_default();
        // struct linux_dirent64: inode 8, offset 8, record length 2, type 1, name.
        while let Some(length) = entries.get(16..18) {
            let length = u16::from_ne_bytes([length[0], length[1]]) as usize;
            let Some((entry, rest)) = entries.split_at_checked(length) else { break };
            entries = rest;
            let name = CStr::from_bytes_until_nul(entry.get(19..).unwrap_or_default());
            let Ok(name) = name else { break };
            if name != c"." && name != c".." {
                copy_entry(from, to, name, depth)?;
            }
        }
    }
}

fn copy_entry(from: i32, to: i32, name: &CStr, depth: u32) -> Done {
    let source = fd::openat(from, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let stat = fd::fstat(source.number())?;
    let permissions = stat.mode & 0o7777;
    match stat.kind() {
        libc::S_IFDIR => {
            fd::mkdirat(to, name, permissions)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let made = fd::openat(to, name, flags, 0)?;
            copy_tree(source.number(), made.number(), depth + 1)?;
            fd::chown(made.number(), stat.uid, stat.gid)?;
            fd::fchmod(made.number(), permissions)?;
        }
        libc::S_IFREG => {
            let input = fd::openat(from, name, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0)?;
            if fd::fstat(input.number())?.inode != stat.inode {
                return Err(Errno::BUSY.into());
            }
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
            let output = fd::openat(to, name, flags, 0o600)?;
            while fd::sendfile(output.number(), input.number(), COPY_CHUNK)? > 0 {}
            fd::chown(output.number(), stat.uid, stat.gid)?;
            fd::fchmod(output.number(), permissions)?;
        }
        libc::S_IFLNK => {
            let mut target = [0u8; 4096];
            let mut link = Buffer::new();
            link.push(fd::readlinkat(from, name, &mut target)?)?;
            fd::symlinkat(link.as_cstr()?, to, name)?;
        }
        // A socket's file is of no use without its owner.
        libc::S_IFSOCK => {}
        _ => {
            fd::mknodat(to, name, stat.mode, stat.rdev)?;
            let made = fd::openat(to, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
            fd::chown(made.number(), stat.uid, stat.gid)?;
        }
    }
    Ok(())
}
