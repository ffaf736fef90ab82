// SPDX-License-Identifier: MIT OR Apache-2.0
//! The user's command: found and made ready at create, executed at start, and when that fails, why.
//!
//! execve(2) says ENOENT for a missing file, for a missing interpreter of a script and for a missing dynamic loader
//! alike; the file's first bytes tell them apart.

use core::ffi::CStr;

use coracle_program::{Message, MessageKind, Numbered, Op, detail};
use coracle_sys::memory::PointerArray;
use coracle_sys::{Errno, Fd, fd, process, socket};

use crate::path::Buffer;
use crate::seccomp::Outcome;
use crate::{Done, Failure, Init, hook};

/// What execve(2) reads of a file to decide what it is (kernel BINPRM_BUF_SIZE).
const HEAD: usize = 256;
const ST_NOEXEC: i64 = 8;

/// The path that was found.
pub(crate) struct Executable(Buffer);

impl Default for Executable {
    fn default() -> Executable {
        Executable(Buffer::new())
    }
}

/// Open by a path of the container, from inside of it; links into descriptors are refused.
fn open(path: &CStr, flags: i32) -> Result<Fd, Errno> {
    fd::openat2(libc::AT_FDCWD, path, flags, 0, fd::RESOLVE_NO_MAGICLINKS)
}

/// Is there a regular file that the process may execute?
fn check(path: &CStr) -> Result<(), Failure> {
    let file = open(path, libc::O_PATH)?;
    let stat = fd::fstat(file.number())?;
    if stat.is_directory() {
        return Err(Failure::new(Errno::ACCES, detail::DIRECTORY, &[]));
    }
    if !stat.is_regular() {
        return Err(Errno::ACCES.into());
    }
    match fd::may_execute(file.number()) {
        Err(Errno::ACCES) if fd::fstatfs(file.number())?.1 & ST_NOEXEC != 0 => {
            Err(Failure::new(Errno::ACCES, detail::NOEXEC, &[]))
        }
        other => Ok(other?),
    }
}

impl Executable {
    /// A name with a slash is a path; any other is looked for in the directories of PATH, as execvp(3) does.
    pub(crate) fn find(&mut self, name: &CStr, search: impl Iterator<Item = &'static CStr>) -> Done {
        if name.to_bytes().contains(&b'/') {
            self.0.push(name.to_bytes())?;
            return check(self.0.as_cstr()?);
        }
        let mut forbidden = None;
        for directory in search {
            self.0.truncate(0);
            // An empty entry is the working directory.
            let directory = if directory.is_empty() { c"." } else { directory };
            let built = self.0.push(directory.to_bytes()).and_then(|()| self.0.push(b"/"));
            if built.and_then(|()| self.0.push(name.to_bytes())).is_err() {
                continue;
            }
            match check(self.0.as_cstr()?) {
                Ok(()) => return Ok(()),
                Err(failure @ Failure(Message { errno: libc::EACCES, .. })) => {
                    forbidden = forbidden.or(Some(failure));
                }
                // As for execvp(3): it is not there, or the way to it leads nowhere.
                Err(Failure(Message {
                    errno:
                        libc::ENOENT
                        | libc::ENOTDIR
                        | libc::ELOOP
                        | libc::ENAMETOOLONG
                        | libc::ENODEV
                        | libc::ESTALE
                        | libc::ETIMEDOUT,
                    ..
                })) => {}
                // Anything else, a call that is forbidden above all, does not say that it is not there.
                Err(Failure(message)) => return Err(Failure(message.with(detail::BEFORE, &[]))),
            }
        }
        self.0.truncate(0);
        Err(forbidden.unwrap_or_else(|| Failure::new(Errno::NOENT, detail::NOT_IN_PATH, &[])))
    }
}

/// What execve(2) takes, and what the file looked like before a filter could forbid to look at it.
pub(crate) struct Command {
    argv: PointerArray,
    envp: PointerArray,
    seen: Option<Seen>,
    /// LISTEN_PID is wanted: only the process that executes knows its number.
    listen_pid: bool,
}

/// Descriptors of ours that are needed to the end: two sockets, the page, the hooks' output, and namespaces.
const KEPT: usize = 8;

impl Init {
    /// Everything for the command that a filter could forbid, ahead of it, from the ops to come. What fails here is the
    /// step of the command. `listener` is kept: it belongs to the op at hand.
    pub(crate) fn prepare_command(&mut self, listener: i32) -> Done {
        if self.command.is_some() {
            return Ok(());
        }
        let to_come = self.rest.clone().flatten();
        let execute = to_come.filter_map(|numbered| match numbered {
            Numbered { step, op: Op::Execute { args, env, home_uid, listen_pid } } => {
                Some((step, args, env, home_uid, listen_pid))
            }
            _ => None,
        });
        let Some((step, args, env, home_uid, listen_pid)) = execute.last() else {
            return Err(Errno::PROTO.into());
        };
        let here = core::mem::replace(&mut self.step, step as u32);
        let before = |errno: Errno| Failure::new(errno, detail::BEFORE, &[]);
        // Everything that is ours goes before the container's paths are resolved for the last time: close-on-exec
        // would be too late (CVE-2024-21626). What stays is no directory, and closes with the exec.
        self.close_all_but_needed(listener).map_err(before)?;
        let argv = hook::pointers(args).map_err(before)?;
        let mut envp = PointerArray::new(env.len() + 2).map_err(before)?;
        for variable in env.iter() {
            envp.push(variable).map_err(before)?;
        }
        if home_uid != u32::MAX {
            envp.push(home::variable(home_uid).map_err(before)?).map_err(before)?;
        }
        let seen =
            if self.filter.is_some() { look(self.executable.0.as_cstr().map_err(before)?) } else { None };
        self.command = Some(Command { argv, envp, seen, listen_pid: listen_pid != 0 });
        self.step = here;
        Ok(())
    }

    /// Replace the process. Returns why it could not be.
    pub(crate) fn execute(&mut self) -> Failure {
        match self.try_execute() {
            Ok((errno, seen)) => seen.map_or_else(|| errno.into(), |seen| seen.explain(errno)),
            Err(failure) => failure,
        }
    }

    /// The errno of execve(2), and what the file looked like.
    fn try_execute(&mut self) -> Done<(Errno, Option<Seen>)> {
        let Some(Command { argv, mut envp, seen, listen_pid }) = self.command.take() else {
            return Err(Errno::PROTO.into());
        };
        if listen_pid {
            let mut digits = [0u8; 10];
            let number = crate::path::decimal(process::pid() as u32, &mut digits);
            envp.push(coracle_sys::memory::variable(c"LISTEN_PID=", number)?)?;
        }
        let path = self.executable.0.as_cstr()?;
        // It may be another file by now, so this is looked at as late as a filter leaves it.
        let seen = if self.filter.is_some() { look(path) } else { seen };
        let page = self.outcome.as_mut().and_then(Outcome::take_file);
        // A starter that is gone by now has started it all the same.
        match socket::send(
            self.peer,
            &Message::new(MessageKind::Executing).encode(),
            page.as_ref().map(Fd::number),
        ) {
            Err(Errno::PIPE | Errno::CONNRESET) => {}
            other => other.map_err(|errno| Failure::new(errno, detail::BEFORE, &[]))?,
        }
        drop(page);
        self.load_filter()?;
        let path = self.executable.0.as_cstr()?;
        let errno = process::execute(path, &argv, &envp);
        Ok((errno, if self.outcome.is_some() { seen } else { look(path) }))
    }

    /// Of the descriptors that the command does not get, those that no op to come needs.
    fn close_all_but_needed(&self, listener: i32) -> Result<(), Errno> {
        let mut kept = [-1i32; KEPT];
        let page = self.outcome.as_ref().and_then(Outcome::file);
        let ops = self.rest.clone().flatten().filter_map(|numbered| match numbered.op {
            Op::JoinNamespace { fd, .. } => Some(fd),
            Op::Hook { output, .. } => Some(output),
            Op::AwaitStart { listener } => Some(listener),
            Op::Seccomp { page, .. } => Some(page),
            _ => None,
        });
        for fd in ops.chain(page).chain([self.peer, listener]) {
            if !kept.contains(&fd) {
                *kept.iter_mut().find(|slot| **slot < 0).ok_or(Errno::PROTO)? = fd;
            }
        }
        let mut first = self.header.first_private;
        loop {
            let next = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd >= first).min();
            let Some(next) = next else { return fd::close_range(first, u32::MAX) };
            if next > first {
                fd::close_range(first, next - 1)?;
            }
            first = next.saturating_add(1);
        }
    }
}

/// What can be seen of a file that explains why execve(2) of it fails.
struct Seen {
    noexec: bool,
    head: [u8; HEAD],
    /// Of `head`.
    length: usize,
    /// From the ELF header, with its NUL and what comes after it.
    interpreter: [u8; Message::DATA],
}

/// `None` for a file that init may not read.
fn look(path: &CStr) -> Option<Seen> {
    let file = open(path, libc::O_RDONLY | libc::O_NONBLOCK).ok()?;
    let noexec = matches!(fd::fstatfs(file.number()), Ok((_, flags)) if flags & ST_NOEXEC != 0);
    let mut seen = Seen { noexec, head: [0; HEAD], length: 0, interpreter: [0; Message::DATA] };
    seen.length = fd::read_at(file.number(), &mut seen.head, 0).unwrap_or(0);
    elf_interpreter(file.number(), &seen.head, &mut seen.interpreter);
    Some(seen)
}

impl Seen {
    fn explain(&self, errno: Errno) -> Failure {
        if errno == Errno::ACCES && self.noexec {
            return Failure::new(errno, detail::NOEXEC, &[]);
        }
        match self.head.get(..self.length).unwrap_or_default() {
            [b'#', b'!', line @ ..] => {
                let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_start();
                let interpreter = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
                Failure::new(errno, detail::SCRIPT_INTERPRETER, interpreter)
            }
            [0x7f, b'E', b'L', b'F', ..] => match errno {
                Errno::NOEXEC => {
                    Failure::new(errno, detail::MACHINE, &u16_at(&self.head, E_MACHINE).to_ne_bytes())
                }
                Errno::NOENT if self.interpreter[0] != 0 => {
                    let name = self.interpreter.split(|byte| *byte == 0).next().unwrap_or_default();
                    Failure::new(errno, detail::ELF_INTERPRETER, name)
                }
                _ => errno.into(),
            },
            _ if errno == Errno::NOEXEC => Failure::new(errno, detail::NOT_A_PROGRAM, &[]),
            _ => errno.into(),
        }
    }
}

const E_MACHINE: usize = 18;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// Offsets are of the ELF-64 header and program header (elf(5)). Left empty for what is no ELF file of this machine.
fn elf_interpreter(file: i32, head: &[u8], name: &mut [u8]) {
    let u64_at = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    const CLASS_64: u8 = 2;
    const EM_X86_64: u16 = 62;
    const PT_INTERP: u16 = 3;
    if !matches!(head, [0x7f, b'E', b'L', b'F', CLASS_64, ..]) || u16_at(head, E_MACHINE) != EM_X86_64 {
        return;
    }
    let table = u64_at(head, 32);
    let entry_size = u16_at(head, 54) as u64;
    for index in 0..u16_at(head, 56) as u64 {
        let mut entry = [0u8; 56];
        let at = table.wrapping_add(index.wrapping_mul(entry_size));
        if fd::read_at(file, &mut entry, at) != Ok(entry.len()) {
            return;
        }
        // p_type is 32 bits; the types that matter fit in the low half.
        if u16_at(&entry, 0) == PT_INTERP && u16_at(&entry, 2) == 0 {
            let size = (u64_at(&entry, 32) as usize).min(name.len());
            if let Some(name) = name.get_mut(..size) {
                fd::read_at(file, name, u64_at(&entry, 8)).ok(); // as much of it as there is
            }
            return;
        }
    }
}

/// HOME from the container's /etc/passwd, which is as hostile as the rest of the tree: a regular file, read up to a
/// bound, one numeric field compared.
mod home {
    use core::ffi::CStr;

    use coracle_sys::{Errno, fd};

    const LIMIT: usize = 1 << 20;
    /// Directory of a user without an entry.
    const DEFAULT: &CStr = c"HOME=/";

    pub(super) fn variable(uid: u32) -> Result<&'static CStr, Errno> {
        // Looked at before it is opened for reading: a device or a FIFO must not even be opened.
        let Ok(path) = super::open(c"/etc/passwd", libc::O_PATH) else { return Ok(DEFAULT) };
        let stat = fd::fstat(path.number())?;
        if !stat.is_regular() || stat.size == 0 || stat.size as usize > LIMIT {
            return Ok(DEFAULT);
        }
        let Ok(file) = super::open(c"/etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY) else {
            return Ok(DEFAULT);
        };
        if fd::fstat(file.number())?.inode != stat.inode {
            return Ok(DEFAULT);
        }
        // Private memory: the file may change or shrink under us.
        let text = coracle_sys::memory::read_file(file.number(), LIMIT)?;
        let mut digits = [0u8; 10];
        let number = crate::path::decimal(uid, &mut digits);
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b':');
            if fields.nth(2) == Some(number) {
                let home = fields.nth(2).unwrap_or_default();
                if home.starts_with(b"/") && !home.contains(&0) {
                    return coracle_sys::memory::variable(c"HOME=", home).or(Err(Errno::NOMEM));
                }
            }
        }
        Ok(DEFAULT)
    }
}
