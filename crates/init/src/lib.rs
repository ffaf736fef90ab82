// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a container's first process does between the clone and execve(2).
//!
//! It reads the program that the runtime prepared and walks it: no heap, no C library, no decision that could have
//! been made before. It answers in numbers; the words are the runtime's. Paths of the container are only ever
//! resolved below the descriptor of its root filesystem.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
// There is no heap to box a failure in, and the first one ends the process.
#![allow(clippy::result_large_err)]

mod become_process;
mod execute;
mod hook;
mod path;
mod rootfs;
mod seccomp;
mod terminal;

use core::ffi::CStr;

use coracle_program::{Header, Message, MessageKind, Numbered, Op, Program, detail};
use coracle_sys::process::Capabilities;
use coracle_sys::{Errno, Fd, fd, memory, process, socket, tty};

use crate::execute::{Command, Executable};
use crate::rootfs::Rootfs;
use crate::seccomp::{Filter, Outcome};

/// Exit status when there is nobody to tell the reason to.
const ORPHAN: i32 = 71;

/// Why an op failed: what a [`Message`] of kind Failed says, without the step.
pub(crate) struct Failure(Message);

impl Failure {
    pub(crate) fn new(errno: Errno, detail: u32, data: &[u8]) -> Failure {
        Failure(Message::failed(0, errno.0).with(detail, data))
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::new(errno, detail::NONE, &[])
    }
}

pub(crate) type Done<T = ()> = Result<T, Failure>;

/// Everything that one op leaves for another.
pub(crate) struct Init {
    header: Header,
    /// Where messages go: the runtime, and once started by somebody else, the starter.
    peer: i32,
    rootfs: Rootfs,
    /// A private procfs.
    proc: Option<Fd>,
    /// The working directory, which could not be entered as root (a network filesystem): the user may. With its step.
    late_directory: Option<(u32, &'static CStr)>,
    executable: Executable,
    command: Option<Command>,
    /// The ops that are still to come.
    rest: Program<'static>,
    /// Not loaded yet.
    filter: Option<Filter>,
    /// Where the last word goes too, in case that a filter lets no other out.
    outcome: Option<Outcome>,
    step: u32,
}

/// The program's main function; `argument` is the number of the descriptor that holds the program.
pub fn main(argument: Option<&'static CStr>) -> ! {
    let program = argument.and_then(number).and_then(|fd| {
        let bytes = memory::map_file(fd).ok()?;
        fd::close(fd).ok()?;
        Program::new(bytes).ok()
    });
    match program {
        Some(program) => run(program),
        None => process::exit(ORPHAN),
    }
}

fn number(text: &CStr) -> Option<i32> {
    let mut number = 0i32;
    for byte in text.to_bytes() {
        number = number.checked_mul(10)?.checked_add((*byte as char).to_digit(10)? as i32)?;
    }
    Some(number)
}

fn run(program: Program<'static>) -> ! {
    let header = program.header;
    let mut init = Init {
        header,
        peer: header.control,
        rootfs: Rootfs::default(),
        proc: None,
        late_directory: None,
        executable: Executable::default(),
        command: None,
        rest: program,
        filter: None,
        outcome: None,
        step: 0,
    };
    let failure = init.walk();
    let Failure(mut message) = failure;
    message.step = init.step;
    if let Some(outcome) = &init.outcome {
        outcome.leave(&message);
    }
    // The last word; if nobody listens any more there is nobody to tell.
    socket::send(init.peer, &message.encode(), None).ok(); // see above
    process::exit(1)
}

impl Init {
    /// Returns only with what failed: the last op replaces the process.
    fn walk(&mut self) -> Failure {
        if let Err(failure) = self.prepare() {
            return failure;
        }
        while let Some(numbered) = self.rest.next() {
            let Ok(Numbered { step, op }) = numbered else { return Errno::PROTO.into() };
            self.step = step as u32;
            if let Err(failure) = self.perform(op) {
                return failure;
            }
        }
        Errno::PROTO.into()
    }

    fn prepare(&mut self) -> Done {
        self.die_with_runtime()?;
        process::reset_signals()?;
        // What came across the exec must not go into hooks or the container.
        fd::cloexec_from(self.header.first_private)?;
        process::umask(0);
        process::set_name(c"oar-init")?;
        // Nobody in a namespace that we share may look into this process (CVE-2016-9962). While the id maps are
        // not written, /proc files of an undumpable process would be closed to an unprivileged runtime too.
        let waits_for_maps = self
            .rest
            .clone()
            .take(2)
            .any(|numbered| matches!(numbered, Ok(Numbered { op: Op::Await {}, .. })));
        if !waits_for_maps {
            process::set_dumpable(false)?;
        }
        Ok(())
    }

    /// The runtime may be killed at any time, and what is half made must go with it. The signal cannot tell of a
    /// death before it was asked for, the socket can. A change of ids clears it (prctl(2)), so it is asked for again.
    fn die_with_runtime(&self) -> Done {
        process::set_parent_death_signal(libc::SIGKILL)?;
        if socket::is_hung_up(self.peer) { Err(Errno::PIPE.into()) } else { Ok(()) }
    }

    fn perform(&mut self, op: Op<'static>) -> Done {
        match op {
            Op::Device { .. } | Op::Symlink { .. } => {}
            // Only neighbours share a directory that was resolved once.
            _ => self.rootfs.forget_directory(),
        }
        match op {
            Op::JoinKeyring { name } => match process::join_session_keyring(name) {
                Err(errno @ (Errno::NOSYS | Errno::DQUOT)) => self.warn(errno),
                other => Ok(other?),
            },
            Op::Await {} => {
                self.await_go()?;
                Ok(process::set_dumpable(false)?)
            }
            Op::BecomeRoot {} => {
                process::set_gid(0)?;
                process::set_uid(0)?;
                self.die_with_runtime()
            }
            Op::Unshare { flags } => Ok(process::unshare(flags)?),
            Op::JoinNamespace { fd, flag } => Ok(process::setns(fd, flag)?),
            Op::Hostname { name } => Ok(process::set_hostname(name)?),
            Op::Domainname { name } => Ok(process::set_domainname(name)?),
            Op::LoopbackUp {} => Ok(socket::loopback_up()?),
            Op::IsolateMounts { propagation } => rootfs::isolate(propagation),
            Op::AttachRoot { fd, path } => self.rootfs.attach_root(fd, path),
            Op::Mount { .. } => self.rootfs.mount(op),
            Op::Attach { fd, target, directory } => self.rootfs.attach(Fd::own(fd), target, directory != 0),
            Op::Bind { .. } => self.rootfs.bind(op),
            Op::Remount { .. } => self.rootfs.remount(op),
            Op::Device { path, mode, number, uid, gid } => self.rootfs.device(path, mode, number, uid, gid),
            Op::Symlink { target, path, replace } => self.rootfs.symlink(target, path, replace != 0),
            Op::RuntimeHooks {} => {
                self.say(&Message::new(MessageKind::Mounted), None)?;
                self.await_go()
            }
            Op::Hook { .. } => hook::run(op),
            Op::Terminal { columns, rows, uid, console } => {
                let size = tty::WindowSize { rows: rows as u16, columns: columns as u16 };
                let master = terminal::open(self.rootfs.root(), size, uid, console != 0)?;
                self.say(&Message::new(MessageKind::Console), Some(master.number()))
            }
            Op::NewSession { terminal } => {
                process::setsid()?;
                if terminal != 0 {
                    tty::make_controlling(0)?;
                }
                Ok(())
            }
            Op::PivotRoot {} => self.rootfs.pivot(),
            Op::MoveRoot { visible } => self.rootfs.move_root(visible),
            Op::Chroot { fd } => self.rootfs.change_root(fd),
            Op::RootPropagation { propagation } => self.rootfs.root_propagation(propagation),
            Op::OpenProc { fd } => {
                self.proc = Some(if fd >= 0 { Fd::own(fd) } else { rootfs::private_proc()? });
                Ok(())
            }
            Op::WriteProc { path, value, own } => self.write_proc(path, value.0, own != 0),
            Op::TakeNull { fd } => self.rootfs.take_null(fd),
            Op::Mask { path } => self.rootfs.mask(path),
            Op::Readonly { path } => self.rootfs.readonly(path),
            Op::SealReadonly { target } => self.rootfs.seal_readonly(target),
            Op::ReadonlyRoot {} => self.rootfs.readonly_root(),
            Op::Scheduler { policy, flags, nice, priority, runtime, deadline, period } => {
                let attr =
                    process::SchedAttr { size: 0, policy, flags, nice, priority, runtime, deadline, period };
                Ok(process::sched_setattr(0, attr)?)
            }
            Op::IoPriority { value } => Ok(process::set_io_priority(value)?),
            Op::Personality { domain } => Ok(process::personality(domain)?),
            Op::MemoryPolicy { mode, nodes } => Ok(process::set_memory_policy(mode, nodes.0)?),
            Op::Umask { mask } => {
                process::umask(mask);
                Ok(())
            }
            Op::NoNewPrivileges {} => Ok(process::set_no_new_privileges()?),
            Op::WorkingDirectory { path, make } => self.working_directory(path, make != 0),
            Op::Identity { .. } => self.identity(op),
            Op::Capabilities { effective, permitted, inheritable, ambient } => {
                self.capabilities(&Capabilities { effective, permitted, inheritable }, ambient)
            }
            Op::Fork {} => self.fork(),
            Op::FindExecutable { name, search } => {
                // From here on paths are the container's own, and nothing of ours is needed for them any more.
                self.rootfs = Rootfs::default();
                self.proc = None;
                self.executable.find(name, search.iter())?;
                Ok(())
            }
            Op::Rlimit { resource, soft, hard } => Ok(process::prlimit(0, resource, soft, hard)?),
            Op::Seccomp { flags, program, page } => self.keep_filter(flags, program.0, page),
            Op::AwaitStart { listener } => {
                self.prepare_command(listener)?;
                self.load_filter()?;
                self.await_start(listener)
            }
            Op::Execute { .. } => Err(self.execute()),
        }
    }

    fn say(&self, message: &Message, fd: Option<i32>) -> Done {
        Ok(socket::send(self.peer, &message.encode(), fd)?)
    }

    /// In the copy, whose parent is the runtime as it is ours, everything is as before.
    fn fork(&mut self) -> Done {
        match process::fork_sibling()? {
            Some(copy) => {
                let message = Message::new(MessageKind::Forked).with(copy.pid as u32, &[]);
                self.say(&message, Some(copy.pidfd.number()))?;
                process::exit(0)
            }
            None => {
                // Not inherited.
                self.die_with_runtime()?;
                self.await_go()
            }
        }
    }

    fn warn(&self, errno: Errno) -> Done {
        let mut message = Message::new(MessageKind::Warning);
        message.errno = errno.0;
        message.step = self.step;
        self.say(&message, None)
    }

    /// Wait for the runtime. If it is gone, so is the container; but who reads the page may know better.
    fn await_go(&self) -> Done {
        let mut bytes = [0; Message::SIZE];
        let (length, _) = socket::receive(self.peer, &mut bytes)?;
        match Message::decode(bytes.get(..length).unwrap_or_default()) {
            Ok(Message { kind: MessageKind::Go, .. }) => Ok(()),
            _ if length == 0 => Err(Errno::PIPE.into()),
            _ => Err(Errno::PROTO.into()),
        }
    }

    /// Say Ready, and wait until the runtime has it on record. From Ready on the socket alone decides: a runtime
    /// that dies before it answers closes it, and one that answers may go.
    fn await_start(&mut self, listener: i32) -> Done {
        let filtered = self.outcome.is_some() && self.filter.is_none();
        if filtered && listener >= 0 {
            self.rehearse()?;
        }
        process::set_parent_death_signal(0)?;
        self.say(&Message::new(MessageKind::Ready), None)?;
        self.await_go()?;
        if listener < 0 {
            return Ok(());
        }
        fd::close(self.header.control)?;
        self.peer = await_starter(listener)?.release();
        Ok(fd::close(listener)?)
    }

    /// Nobody hears of what fails once the runtime is gone. So what the filter does to the calls of the wait is found out
    /// before, on descriptors that are none.
    fn rehearse(&self) -> Done {
        const NONE: i32 = -1;
        let mut entries = [tty::Poll::writable(self.peer)];
        tty::poll(&mut entries, None)?;
        let answers = [
            if entries.iter().all(|entry| entry.ready != 0) { Err(Errno::BADF) } else { Ok(()) },
            socket::accept(NONE).map(drop),
            socket::receive(NONE, &mut [0; Message::SIZE]).map(drop),
            fd::close(NONE),
        ];
        for answer in answers {
            match answer {
                Err(Errno::BADF) => {}
                // Not the kernel's word.
                Ok(()) => return Err(Errno::PROTO.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn write_proc(&self, path: &CStr, value: &[u8], own: bool) -> Done {
        let proc = self.proc.as_ref().ok_or(Errno::BADF)?.number();
        let directory = if own {
            let mut buffer = path::Buffer::new();
            buffer.push_number(process::pid())?;
            Some(open_proc(proc, buffer.as_cstr()?, libc::O_PATH | libc::O_DIRECTORY)?)
        } else {
            None
        };
        let directory = directory.as_ref().map_or(proc, Fd::number);
        let file = open_proc(directory, path, libc::O_WRONLY)?;
        // One write: these files take a value whole or not at all.
        match fd::write(file.number(), value)? {
            length if length == value.len() => Ok(()),
            _ => Err(Errno::IO.into()),
        }
    }
}

/// How many may be connected without having said anything.
const SILENT: usize = 8;

/// Wait for somebody who says Start. Whoever only connects wants to know whether somebody waits here, and that was
/// the answer; a starter that stopped or died before its word must not keep others from theirs.
fn await_starter(listener: i32) -> Done<Fd> {
    let mut connected: [Option<Fd>; SILENT] = [const { None }; SILENT];
    loop {
        let mut entries = [tty::Poll::readable(listener); SILENT + 1];
        for (entry, connection) in entries.iter_mut().skip(1).zip(&connected) {
            entry.fd = connection.as_ref().map_or(-1, Fd::number);
        }
        tty::poll(&mut entries, None)?;
        for (entry, slot) in entries.iter().skip(1).zip(&mut connected) {
            if entry.ready == 0 {
                continue;
            }
            // Its word, its end, or nonsense: one look is enough.
            let Some(connection) = slot.take() else { continue };
            let mut bytes = [0; Message::SIZE];
            let Ok((length, _)) = socket::receive(connection.number(), &mut bytes) else { continue };
            let message = Message::decode(bytes.get(..length).unwrap_or_default());
            if matches!(message, Ok(Message { kind: MessageKind::Start, .. })) {
                return Ok(connection);
            }
        }
        if entries.first().is_some_and(|entry| entry.ready != 0) {
            let connection = socket::accept(listener)?;
            // With all places taken, the one that has been silent longest goes.
            if let Some(free) = connected.iter().position(Option::is_none) {
                connected[free] = Some(connection);
            } else {
                connected.rotate_left(1);
                connected[SILENT - 1] = Some(connection);
            }
        }
    }
}

/// Open below the private procfs: no link, no other mount on the way (CVE-2025-52881).
fn open_proc(dir: i32, path: &CStr, flags: i32) -> Done<Fd> {
    let resolve = fd::RESOLVE_BENEATH | fd::RESOLVE_NO_SYMLINKS | fd::RESOLVE_NO_XDEV;
    Ok(fd::openat2(dir, path, flags, 0, resolve)?)
}
