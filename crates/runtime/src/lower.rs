// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plan → Program: strings get their NUL, sources on the host are opened, and what init needs is laid out.
//!
//! The last place that opens anything of the host for the container, and the last that allocates before the clone.
//! A source that cannot be opened is an error of the step that wants it.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use coracle_cgroup::{Cgroup, Location};
use coracle_plan::*;
use coracle_program::{
    Bytes, Header, List, MOUNT_COPY_UP, MOUNT_ID_MAP_BELOW, MOUNT_KEEP, MOUNT_MODE_OF_TARGET, Op, Writer,
};
use coracle_sys::memory::SharedPage;
use coracle_sys::mount::{self, Setattr};
use coracle_sys::{Errno, clone, fd};

use crate::error::{Code, Error, Result};
use crate::{errno, namespaces};

/// A program, and the descriptors that its numbers mean.
#[derive(Debug)]
pub(crate) struct Lowered {
    pub program: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
    /// The page where init leaves its last word, of a program with a filter.
    pub outcome: Option<OwnedFd>,
}

/// What the steps need beside the plan.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub plan: &'a Plan,
    /// Where the container's cgroup is, or will be.
    pub location: &'a Location,
    /// Absent while systemd still has to make it: the process is then moved there before its first step.
    pub cgroup: Option<&'a Cgroup>,
    /// The caller may mount in its own namespace: then sources are opened here, with its rights.
    pub privileged: bool,
    pub control: i32,
    /// The start socket, listening; -1 without one.
    pub listener: i32,
    /// Where hooks inside write; -1 to let them keep init's output.
    pub hook_output: i32,
    /// Open namespaces that the plan joins, in its order.
    pub joined: &'a [OwnedFd],
    /// (namespace, NEW* flag) that init enters itself: a time namespace, which wants a process with memory of its own,
    /// and for exec the pid namespace, into which its copy is born.
    pub late_join: &'a [(i32, u64)],
    /// The procfs that init writes to; -1 for a private one.
    pub procfs: i32,
    /// The runtime sets resource limits from outside, since it may raise them; else init does.
    pub gives_limits: bool,
}

pub(crate) fn lower(context: &Context<'_>) -> Result<Lowered> {
    let plan = context.plan;
    let header = Header { control: context.control, first_private: 3 + plan.preserve_fds };
    let mut lowering = Lowering {
        context,
        writer: Writer::new(header),
        descriptors: Vec::new(),
        storage: Default::default(),
        null_taken: false,
        outcome: None,
    };
    for (fd, flag) in context.late_join.iter().copied() {
        lowering.writer.push(0, Op::JoinNamespace { fd, flag });
    }
    for (index, step) in plan.steps.iter().enumerate() {
        let number = u16::try_from(index + 1)
            .map_err(|_| Error::new(Code::Invalid, "the config needs more than 65535 steps"))?;
        lowering.step(number, &step.action).map_err(|error| match error {
            Trouble::Errno(errno) => crate::step::failed(plan, index + 1, errno),
            Trouble::Words(error) => error.during(crate::step::named(plan, index + 1).name),
        })?;
    }
    let Lowering { writer, descriptors, outcome, .. } = lowering;
    Ok(Lowered { program: writer.finish(), descriptors, outcome })
}

enum Trouble {
    Errno(Errno),
    Words(Error),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::Errno(errno)
    }
}
impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Words(error)
    }
}

struct Lowering<'a> {
    context: &'a Context<'a>,
    writer: Writer,
    descriptors: Vec<OwnedFd>,
    /// Encoded lists, while an op borrows them.
    storage: [Vec<u8>; 2],
    null_taken: bool,
    outcome: Option<OwnedFd>,
}

/// The planner refuses NUL bytes, so this fails only for a plan that it did not make.
fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::new(Code::Invalid, format!("{text:?} has a NUL byte")))
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, Error> {
    texts.iter().map(|text| c_string(text)).collect()
}

fn alternating(options: &[(String, String)]) -> Result<Vec<CString>, Error> {
    options.iter().flat_map(|(key, value)| [c_string(key), c_string(value)]).collect()
}

fn flags(propagation: Propagation) -> u64 {
    match propagation {
        Propagation::Shared => mount::MS_SHARED,
        Propagation::Slave => mount::MS_SLAVE,
        Propagation::Private => mount::MS_PRIVATE,
        Propagation::Unbindable => mount::MS_UNBINDABLE,
    }
}

/// (for the mount alone, for all below it too): the last word of each kind counts.
fn propagations(words: &[(Propagation, bool)]) -> (u64, u64) {
    let last = |recursive: bool| {
        words.iter().rev().find(|(_, r)| *r == recursive).map_or(0, |(propagation, _)| flags(*propagation))
    };
    (last(false), last(true))
}

impl Lowering<'_> {
    fn keep(&mut self, fd: coracle_sys::Fd) -> i32 {
        let fd = OwnedFd::from(fd);
        let number = fd.as_raw_fd();
        self.descriptors.push(fd);
        number
    }

    fn step(&mut self, number: u16, action: &Action) -> Result<(), Trouble> {
        let context = self.context;
        match action {
            Action::JoinSessionKeyring { name } => {
                self.writer.push(number, Op::JoinKeyring { name: &c_string(name)? });
            }
            Action::AwaitRuntime => self.writer.push(number, Op::Await {}),
            Action::BecomeNamespaceRoot => self.writer.push(number, Op::BecomeRoot {}),
            Action::UnshareCgroup => self.writer.push(number, Op::Unshare { flags: clone::NEWCGROUP }),
            Action::SetHostname { name } => self.writer.push(number, Op::Hostname { name: &c_string(name)? }),
            Action::SetDomainname { name } => {
                self.writer.push(number, Op::Domainname { name: &c_string(name)? });
            }
            Action::LoopbackUp => self.writer.push(number, Op::LoopbackUp {}),
            Action::IsolateMounts { propagation } => {
                self.writer.push(number, Op::IsolateMounts { propagation: flags(*propagation) });
            }
            Action::AttachRoot => self.attach_root(number)?,
            Action::Mount(mount) => self.mount(number, mount)?,
            Action::Bind(bind) => self.bind(number, bind)?,
            Action::Remount(remount) => {
                let target = c_string(&remount.target)?;
                let options = alternating(&remount.options)?;
                let (propagation, propagation_below) = propagations(&remount.propagation);
                let Attributes { set, clear, recursive_set, recursive_clear } = remount.attributes;
                let op = Op::Remount {
                    target: &target,
                    options: List::collect(&mut self.storage[0], &options),
                    reconfigure: remount.reconfigure as u32,
                    set,
                    clear,
                    set_below: recursive_set,
                    clear_below: recursive_clear,
                    propagation,
                    propagation_below,
                };
                self.writer.push(number, op);
            }
            Action::Device(device) => self.device(number, device)?,
            Action::Symlink { target, path } => {
                // The one link that must be ours: through it terminals are opened.
                let replace = (path == "/dev/ptmx") as u32;
                let op = Op::Symlink { target: &c_string(target)?, path: &c_string(path)?, replace };
                self.writer.push(number, op);
            }
            Action::RuntimeHooks => self.writer.push(number, Op::RuntimeHooks {}),
            Action::Hook { hook, kind } => self.hook(number, hook, *kind)?,
            Action::Terminal { columns, rows, uid, console } => {
                let (columns, rows) = (*columns as u32, *rows as u32);
                let op = Op::Terminal { columns, rows, uid: *uid, console: *console as u32 };
                self.writer.push(number, op);
            }
            Action::NewSession { terminal } => {
                self.writer.push(number, Op::NewSession { terminal: *terminal as u32 });
            }
            Action::PivotRoot => self.writer.push(number, Op::PivotRoot {}),
            Action::MoveRoot => {
                let visible = whole_mounts(&context.plan.rootfs)?;
                let visible = List::collect(&mut self.storage[0], &visible);
                self.writer.push(number, Op::MoveRoot { visible });
            }
            Action::Chroot => {
                let root = open_root(&context.plan.rootfs)?;
                let number_of_root = root.as_raw_fd();
                self.descriptors.push(root);
                self.writer.push(number, Op::Chroot { fd: number_of_root });
            }
            Action::OpenRoot => self.writer.push(number, Op::Chroot { fd: -1 }),
            Action::RootPropagation { propagation } => {
                self.writer.push(number, Op::RootPropagation { propagation: flags(*propagation) });
            }
            Action::OpenProc => self.writer.push(number, Op::OpenProc { fd: context.procfs }),
            Action::Sysctl { key, value } => {
                let path = c_string(&format!("sys/{key}"))?;
                let op = Op::WriteProc { path: &path, value: Bytes(value.as_bytes()), own: 0 };
                self.writer.push(number, op);
            }
            Action::Mask { path } => self.writer.push(number, Op::Mask { path: &c_string(path)? }),
            Action::Readonly { path } => self.writer.push(number, Op::Readonly { path: &c_string(path)? }),
            Action::SealReadonly { target } => {
                self.writer.push(number, Op::SealReadonly { target: &c_string(target)? });
            }
            Action::ReadonlyRoot => self.writer.push(number, Op::ReadonlyRoot {}),
            Action::AppArmor { profile } => {
                // With the kernel's own directory for it since 5.1; the older file is shared between LSMs.
                let value = format!("exec {profile}");
                let path = c"attr/apparmor/exec";
                self.writer.push(number, Op::WriteProc { path, value: Bytes(value.as_bytes()), own: 1 });
            }
            Action::SelinuxLabel { label } => {
                let path = c"attr/exec";
                self.writer.push(number, Op::WriteProc { path, value: Bytes(label.as_bytes()), own: 1 });
            }
            Action::Scheduler(s) => {
                let op = Op::Scheduler {
                    policy: s.policy,
                    flags: s.flags,
                    nice: s.nice,
                    priority: s.priority,
                    runtime: s.runtime,
                    deadline: s.deadline,
                    period: s.period,
                };
                self.writer.push(number, op);
            }
            Action::IoPriority { value } => {
                self.writer.push(number, Op::IoPriority { value: *value as u32 });
            }
            Action::Personality { domain } => self.writer.push(number, Op::Personality { domain: *domain }),
            Action::MemoryPolicy { mode, nodes } => {
                let nodes: Vec<u8> = nodes.iter().flat_map(|word| word.to_ne_bytes()).collect();
                self.writer.push(number, Op::MemoryPolicy { mode: *mode, nodes: Bytes(&nodes) });
            }
            Action::Umask { mask } => self.writer.push(number, Op::Umask { mask: *mask }),
            Action::NoNewPrivileges => self.writer.push(number, Op::NoNewPrivileges {}),
            Action::WorkingDirectory { path, make } => {
                let op = Op::WorkingDirectory { path: &c_string(path)?, make: *make as u32 };
                self.writer.push(number, op);
            }
            Action::Identity(identity) => {
                let groups: Vec<u8> = identity.groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
                let op = Op::Identity {
                    uid: identity.uid,
                    gid: identity.gid,
                    groups: Bytes(&groups),
                    keep_groups: identity.keep_groups as u32,
                    bounding: identity.bounding,
                    effective: identity.effective,
                };
                self.writer.push(number, op);
            }
            Action::Capabilities(sets) => {
                // Of a process of another user, only who may raise limits can set them from outside (prlimit(2)).
                if !context.gives_limits {
                    for limit in context.plan.outside.rlimits.iter().filter(|limit| !too_low_for_init(limit))
                    {
                        let (resource, soft, hard) = (limit.resource, limit.soft, limit.hard);
                        self.writer.push(number, Op::Rlimit { resource, soft, hard });
                    }
                }
                let Capabilities { effective, permitted, inheritable, ambient } = *sets;
                self.writer.push(number, Op::Capabilities { effective, permitted, inheritable, ambient });
            }
            Action::Fork => self.writer.push(number, Op::Fork {}),
            Action::Seccomp(filter) => {
                let page = fd::memfd(c"oar-outcome", false)?;
                fd::write_all(page.number(), &[0; SharedPage::SIZE])?;
                self.outcome = Some(fd::duplicate(page.number(), 3)?.into());
                let page = self.keep(page);
                let op = Op::Seccomp { flags: filter.flags, program: Bytes(&filter.program), page };
                self.writer.push(number, op);
            }
            Action::FindExecutable { name, search, .. } => {
                let search = c_strings(search)?;
                let search = List::collect(&mut self.storage[0], &search);
                self.writer.push(number, Op::FindExecutable { name: &c_string(name)?, search });
            }
            Action::AwaitStart { parked } => {
                let listener = if *parked { context.listener } else { -1 };
                self.writer.push(number, Op::AwaitStart { listener });
            }
            Action::Execute { args, env, home_of_uid, listen_pid } => {
                // Init itself needs a few descriptors until here.
                for limit in context.plan.outside.rlimits.iter().filter(|limit| too_low_for_init(limit)) {
                    let (resource, soft, hard) = (limit.resource, limit.soft, limit.hard);
                    self.writer.push(number, Op::Rlimit { resource, soft, hard });
                }
                let (args, env) = (c_strings(args)?, c_strings(env)?);
                let [first, second] = &mut self.storage;
                let op = Op::Execute {
                    args: List::collect(first, &args),
                    env: List::collect(second, &env),
                    home_uid: home_of_uid.unwrap_or(u32::MAX),
                    listen_pid: *listen_pid as u32,
                };
                self.writer.push(number, op);
            }
        }
        Ok(())
    }

    /// Cut a detached copy off from the host, as the namespace is.
    fn isolate(&self, tree: i32) -> Result<(), Errno> {
        let steps = &self.context.plan.steps;
        let propagation = steps.iter().find_map(|step| match step.action {
            Action::IsolateMounts { propagation } => Some(flags(propagation)),
            _ => None,
        });
        let propagation = propagation.unwrap_or(mount::MS_SLAVE);
        mount::setattr(tree, true, &Setattr { propagation, ..Setattr::default() })
    }

    fn attach_root(&mut self, number: u16) -> Result<(), Trouble> {
        let path = c_string(&self.context.plan.rootfs)?;
        let root = open_root(&self.context.plan.rootfs)?;
        let fd = if self.context.privileged {
            let tree = mount::clone_tree(root.as_raw_fd(), c"", true)?;
            self.isolate(tree.number())?;
            self.keep(tree)
        } else {
            -1
        };
        self.writer.push(number, Op::AttachRoot { fd, path: &path });
        let steps = &self.context.plan.steps;
        let masks = steps.iter().any(|step| matches!(step.action, Action::Mask { .. }));
        if masks && !self.null_taken {
            self.null_taken = true;
            let fd = if self.context.privileged {
                let null = mount::clone_tree(libc::AT_FDCWD, c"/dev/null", false)?;
                self.keep(null)
            } else {
                -1
            };
            self.writer.push(number, Op::TakeNull { fd });
        }
        Ok(())
    }

    /// The user namespace whose maps a mount takes; -1 for none.
    fn id_map(&mut self, map: &MountIdMap) -> Result<(i32, bool), Trouble> {
        let spawn = &self.context.plan.spawn;
        let (uid_map, gid_map, recursive) = match map {
            MountIdMap::None => return Ok((-1, false)),
            MountIdMap::Given { uid_map, gid_map, recursive } => (uid_map, gid_map, *recursive),
            MountIdMap::Container { recursive } => {
                let position = spawn.join.iter().position(|join| join.namespace == Namespace::User);
                if let Some(joined) = position.and_then(|position| self.context.joined.get(position)) {
                    let copy = fd::duplicate(joined.as_raw_fd(), 3)?;
                    return Ok((self.keep(copy), *recursive));
                }
                (&spawn.uid_map, &spawn.gid_map, *recursive)
            }
        };
        let namespace = namespaces::user_namespace(uid_map, gid_map)?;
        let number = namespace.as_raw_fd();
        self.descriptors.push(namespace);
        Ok((number, recursive))
    }

    fn mount(&mut self, number: u16, mount: &Mount) -> Result<(), Trouble> {
        let (id_map, recursive) = self.id_map(&mount.id_map)?;
        let mut flags = 0;
        for (wanted, flag) in [
            (mount.copy_up, MOUNT_COPY_UP),
            (mount.mode_of_target, MOUNT_MODE_OF_TARGET),
            (recursive, MOUNT_ID_MAP_BELOW),
            (mount.late_readonly, MOUNT_KEEP),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        let mut attributes = mount.attributes;
        if mount.late_readonly {
            attributes.set &= !mount::ATTR_RDONLY;
            attributes.recursive_set &= !mount::ATTR_RDONLY;
        }
        let options = alternating(&mount.options)?;
        let (propagation, propagation_below) = propagations(&mount.propagation);
        let op = Op::Mount {
            target: &c_string(&mount.target)?,
            fstype: &c_string(&mount.fstype)?,
            source: &c_string(&mount.source)?,
            options: List::collect(&mut self.storage[0], &options),
            set: attributes.set,
            set_below: attributes.recursive_set,
            clear_below: attributes.recursive_clear,
            propagation,
            propagation_below,
            id_map,
            flags,
        };
        self.writer.push(number, op);
        Ok(())
    }

    fn bind(&mut self, number: u16, bind: &Bind) -> Result<(), Trouble> {
        let (source, is_there) = match &bind.source {
            BindSource::Path(path) => (path.clone(), true),
            BindSource::OwnCgroup => (self.own_cgroup(None)?, self.context.cgroup.is_some()),
            BindSource::OwnV1Cgroup { mount_point } => {
                (self.own_cgroup(Some(mount_point))?, self.context.cgroup.is_some())
            }
        };
        let target = c_string(&bind.target)?;
        let source = c_string(&source)?;
        let (propagation, propagation_below) = propagations(&bind.propagation);
        let Attributes { set, clear, recursive_set, recursive_clear } = bind.attributes;
        if !self.context.privileged || !is_there {
            let op = Op::Bind {
                source: &source,
                target: &target,
                recursive: bind.recursive as u32,
                set,
                clear,
                set_below: recursive_set,
                clear_below: recursive_clear,
                propagation,
                propagation_below,
            };
            self.writer.push(number, op);
            return Ok(());
        }
        let tree = mount::clone_tree(libc::AT_FDCWD, &source, bind.recursive).map_err(|errno| {
            Trouble::Words(Error::system(
                format!("bind source {}", source.to_string_lossy()),
                self::errno(errno),
            ))
        })?;
        let (id_map, recursive) = self.id_map(&bind.id_map)?;
        if id_map >= 0 {
            let attributes =
                Setattr { set: mount::ATTR_IDMAP, userns_fd: id_map as u64, ..Setattr::default() };
            mount::setattr(tree.number(), recursive, &attributes).map_err(|errno| {
                let error = Error::system("map the ids of the mount", self::errno(errno));
                Trouble::Words(match errno {
                    Errno::INVAL => error.hint("the source's filesystem has no id-mapped mounts"),
                    _ => error,
                })
            })?;
        }
        if propagation == 0 && propagation_below == 0 {
            self.isolate(tree.number())?;
        }
        for (recursive, set, clear, propagation) in
            [(true, recursive_set, recursive_clear, propagation_below), (false, set, clear, propagation)]
        {
            let attributes = Setattr { set, clear, propagation, userns_fd: 0 };
            if !attributes.is_empty() {
                mount::setattr(tree.number(), recursive, &attributes)?;
            }
        }
        let directory = fd::fstat(tree.number())?.is_directory() as u32;
        let fd = self.keep(tree);
        self.writer.push(number, Op::Attach { fd, target: &target, directory });
        Ok(())
    }

    /// The container's own directory in cgroup2, or in the v1 hierarchy that is mounted there.
    fn own_cgroup(&self, v1: Option<&str>) -> Result<String, Error> {
        let directories = self.context.location.directories();
        let wanted = directories.iter().find(|directory| match v1 {
            None => directory.controllers.is_empty(),
            Some(mount_point) => directory.mount_point == Path::new(mount_point),
        });
        // A hierarchy in which the container has no directory of its own shows the caller's, read as it is.
        let path = wanted.map(|directory| directory.path.display().to_string());
        path.or(v1.map(str::to_string))
            .ok_or_else(|| Error::new(Code::Cgroup, "the container has no cgroup2 directory to mount"))
    }

    fn device(&mut self, number: u16, device: &Device) -> Result<(), Trouble> {
        let path = c_string(&device.path)?;
        let kind = match device.kind {
            DeviceKind::Character => libc::S_IFCHR,
            DeviceKind::Block => libc::S_IFBLK,
            DeviceKind::Fifo => libc::S_IFIFO,
        };
        let rdev =
            if device.kind == DeviceKind::Fifo { 0 } else { fd::device_number(device.major, device.minor) };
        if !device.bind {
            let (mode, uid, gid) = (kind | device.mode, device.uid, device.gid);
            self.writer.push(number, Op::Device { path: &path, mode, number: rdev, uid, gid });
            return Ok(());
        }
        if !self.context.privileged {
            let op = Op::Bind {
                source: &path,
                target: &path,
                recursive: 0,
                set: 0,
                clear: 0,
                set_below: 0,
                clear_below: 0,
                propagation: 0,
                propagation_below: 0,
            };
            self.writer.push(number, op);
            return Ok(());
        }
        let node = mount::clone_tree(libc::AT_FDCWD, &path, false)?;
        let stat = fd::fstat(node.number())?;
        if stat.kind() != kind || stat.rdev != rdev {
            let text = format!("the host's {} is another device", device.path);
            return Err(Trouble::Words(Error::new(Code::Invalid, text)));
        }
        self.isolate(node.number())?;
        let fd = self.keep(node);
        self.writer.push(number, Op::Attach { fd, target: &path, directory: 0 });
        Ok(())
    }

    fn hook(&mut self, number: u16, hook: &Hook, kind: InitHook) -> Result<(), Trouble> {
        let plan = self.context.plan;
        let (status, output) = match kind {
            InitHook::CreateContainer => ("creating", self.context.hook_output),
            InitHook::StartContainer => ("created", -1),
        };
        // Init puts its pid, as it is inside, where this number is.
        const HOLE: i32 = i32::MAX;
        let document = crate::hooks::state_document(&plan.id, status, HOLE, &plan.bundle, &plan.annotations);
        let hole = format!("\"pid\":{HOLE}");
        let at = document.windows(hole.len()).position(|window| window == hole.as_bytes());
        let at = at.ok_or_else(|| Error::new(Code::System, "the state document has no pid"))?;
        let (head, tail) = (document.get(..at + "\"pid\":".len()), document.get(at + hole.len()..));
        let (args, env) = (c_strings(&hook.args)?, c_strings(&hook.env)?);
        let [first, second] = &mut self.storage;
        let op = Op::Hook {
            path: &c_string(&hook.path)?,
            args: List::collect(first, &args),
            env: List::collect(second, &env),
            timeout: hook.timeout,
            state_head: Bytes(head.unwrap_or_default()),
            state_tail: Bytes(tail.unwrap_or_default()),
            output,
        };
        self.writer.push(number, op);
        Ok(())
    }
}

/// A limit under which init could not come to its end: it sets it itself, last of all.
pub(crate) fn too_low_for_init(limit: &Rlimit) -> bool {
    const DESCRIPTORS: u64 = 64;
    limit.resource == libc::RLIMIT_NOFILE && limit.soft < DESCRIPTORS
}

/// The root filesystem's directory; the host's own root is refused, under whatever name.
fn open_root(path: &str) -> Result<OwnedFd, Error> {
    let invalid = |text: &str| Error::new(Code::Invalid, format!("root.path {path}: {text}"));
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let open = |path: &CStr| fd::openat(libc::AT_FDCWD, path, flags, 0);
    let root = open(&c_string(path)?)
        .map_err(|errno| Error::system(format!("root.path {path}"), self::errno(errno)))?;
    let identity = |fd: &coracle_sys::Fd| fd::fstat(fd.number()).map(|stat| (stat.device, stat.inode));
    let host = open(c"/").and_then(|host| identity(&host));
    match (identity(&root), host) {
        (Ok(root), Ok(host)) if root == host => Err(invalid("it is the host's root directory")),
        (Ok(_), Ok(_)) => Ok(root.into()),
        (Err(errno), _) | (_, Err(errno)) => Err(Error::system(path, self::errno(errno))),
    }
}

/// The host's procfs and sysfs mounts that are not below `rootfs`, the last one first (proc_pid_mountinfo(5)).
fn whole_mounts(rootfs: &str) -> Result<Vec<CString>, Error> {
    let path = "/proc/self/mountinfo";
    let text = fd::read_file(path).map_err(|error| Error::io(path, &error))?;
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-");
        let fstype = separator.and_then(|at| fields.get(at + 1));
        let (Some(fstype), Some(root), Some(point)) = (fstype, fields.get(3), fields.get(4)) else {
            continue;
        };
        if !matches!(*fstype, b"proc" | b"sysfs") || *root != b"/" {
            continue;
        }
        let point = unescape(point);
        if !Path::new(OsStr::from_bytes(&point)).starts_with(rootfs) {
            found.extend(CString::new(point).ok());
        }
    }
    found.reverse();
    Ok(found)
}

/// `\040` and the like are single bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|octal| std::str::from_utf8(octal).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// An id that no user namespace maps, unless it maps all of them.
const NOBODYS: u32 = u32::MAX - 1;

/// Put bytes into a sealed file of memory.
pub(crate) fn sealed(name: &CStr, bytes: &[u8], executable: bool) -> Result<OwnedFd, Error> {
    let failed = |errno: Errno| {
        let error = Error::system("make init's program", self::errno(errno));
        match errno {
            Errno::ACCES => error.hint("the sysctl vm.memfd_noexec forbids programs in memory"),
            _ => error,
        }
    };
    let file = File::from(OwnedFd::from(fd::memfd(name, executable).map_err(failed)?));
    (&file).write_all(bytes).map_err(|error| Error::io("write init's program", &error))?;
    fd::seal(file.as_raw_fd()).map_err(failed)?;
    Ok(file.into())
}

/// Have execve(2) of the file make the process undumpable from its first instruction on, where the caller is not allowed
/// to look into it: nobody in a joined namespace can (CVE-2016-9962). An undumpable process's files in procfs are root's,
/// so an ordinary user could not write the maps of its new user namespace; in there nobody is yet.
pub(crate) fn hide(program: &OwnedFd) -> Result<(), Error> {
    fd::fchmod(program.as_raw_fd(), 0o111)
        .map_err(|error| Error::system("hide init's program", errno(error)))?;
    // Nor may a namespace that maps the caller's own ids own the file; an ordinary caller cannot give it away.
    fd::chown(program.as_raw_fd(), NOBODYS, NOBODYS).ok(); // see above
    Ok(())
}
