// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happened to a container, as facts on disk; its status is always derived from them.
//!
//! `<root>/<id>/` is claimed by mkdir and locked by flock(2) on the directory itself, which a crash releases and
//! nothing can forget to create. `state.json` is written before the first effect outside of the directory (the
//! intent: the cgroup's place is in it) and again with the process, before init may outlive the runtime. It is
//! replaced by rename, never changed. No fsync: the directory lives on a tmpfs that goes with the kernel's objects.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle_cgroup::Location;
use coracle_plan::{Hooks, IntelRdt};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::connect::Connection;
use crate::error::{Code, Error, Result};
use crate::id::Id;
use crate::rdt::Applied;
use crate::step::Named;

const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";
pub(crate) const START_SOCKET: &str = "start.sock";
/// A record is a few kilobytes; annotations are the only part that grows.
const LARGEST: u64 = 16 << 20;

/// How long a command waits for another one that holds the container's lock.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    /// Of this format.
    pub coracle: u32,
    pub id: String,
    pub bundle: String,
    pub rootfs: String,
    /// RFC 3339.
    pub created: String,
    pub boot_id: String,
    /// Of its creator; the process's number is of that one. A record from before it was kept has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    pub owner: u32,
    pub annotations: BTreeMap<String, String>,
    pub systemd_cgroup: bool,
    pub cgroup: Location,
    pub hooks: Hooks,
    /// What init has left to do when it is started.
    pub late_steps: Vec<Named>,
    pub intel_rdt: Option<Rdt>,
    /// Of networks of ours. A record from before there were any has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Connection>,
    /// Its processes keep their callers' session keyrings.
    pub no_new_keyring: bool,
    /// And their callers' supplementary groups.
    #[serde(default)]
    pub keep_groups: bool,
    /// Absent while the container is being created.
    pub process: Option<Process>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rdt {
    pub resctrl: String,
    pub plan: IntelRdt,
    pub applied: Applied,
}

/// A process of this boot: the number alone may belong to somebody else by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Process {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot.
    pub start_time: u64,
}

impl Record {
    pub(crate) const FORMAT: u32 = 1;
}

/// A container's directory, open.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    id: Id,
    file: File,
}

/// A directory that nobody else changes while this lives.
#[derive(Debug)]
pub(crate) struct Locked {
    directory: Directory,
    lock: Flock<OwnedFd>,
}

/// A directory that nobody removes until this lets go.
#[derive(Debug)]
pub(crate) struct Held {
    directory: Directory,
    lock: Option<Flock<OwnedFd>>,
}

fn not_found(id: &Id) -> Error {
    Error::new(Code::NotFound, format!("container \"{id}\" does not exist"))
}

/// The process with the lock, from proc_locks(5): `4: FLOCK  ADVISORY  WRITE 1234 00:2f:567 0 EOF`. One of another pid
/// namespace is not shown.
fn lock_holder(file: &File) -> Option<i32> {
    let metadata = file.metadata().ok()?;
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let text = coracle_sys::fd::read_file("/proc/locks").ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            // A waiting one has an arrow in place of the kind.
            [_, "FLOCK", _, _, pid, at, ..] if *at == place => pid.parse().ok(),
            _ => None,
        }
    })
}

impl Directory {
    /// Make it: of several callers exactly one succeeds.
    pub(crate) fn claim(root: &Path, id: &Id) -> Result<Locked> {
        let path = root.join(id.as_str());
        let exists = || {
            Error::new(Code::Exists, format!("container \"{id}\" already exists"))
                .hint(format!("`oar state {id}` shows it, `oar delete --force {id}` removes it"))
        };
        loop {
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(exists()),
                Err(error) => return Err(Error::io(format!("create {}", path.display()), &error)),
            }
            match Directory::open(root, id).and_then(Directory::lock) {
                // Until it was locked it was anybody's: a delete may have removed it, another create may have made
                // it again, and then it is theirs.
                Ok(claimed) => match claimed.read()? {
                    Some(_) => return Err(exists()),
                    None => return Ok(claimed),
                },
                Err(error) if error.code == Code::NotFound => {}
                Err(error) => {
                    // Still empty; if it is not, somebody else has it.
                    std::fs::remove_dir(&path).ok(); // see above
                    return Err(error);
                }
            }
        }
    }

    pub(crate) fn open(root: &Path, id: &Id) -> Result<Directory> {
        let path = root.join(id.as_str());
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => Ok(Directory { path, id: id.clone(), file }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found(id)),
            Err(error) => Err(Error::io(format!("open {}", path.display()), &error)),
        }
    }

    /// Wait for other commands, up to [`PATIENCE`]. A directory that went away meanwhile is not found.
    pub(crate) fn lock(self) -> Result<Locked> {
        let lock = self.take(FlockArg::LockExclusiveNonblock)?;
        Ok(Locked { directory: self, lock })
    }

    /// The same, for a moment; with `alone`, not beside others who hold it so.
    pub(crate) fn hold(self, alone: bool) -> Result<Held> {
        let how = if alone { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
        let lock = Some(self.take(how)?);
        Ok(Held { directory: self, lock })
    }

    fn take(&self, how: FlockArg) -> Result<Flock<OwnedFd>> {
        let copy = || self.file.try_clone().map(OwnedFd::from);
        let mut descriptor = copy().map_err(|error| Error::io("copy a descriptor", &error))?;
        let deadline = Instant::now() + PATIENCE;
        let lock = loop {
            match Flock::lock(descriptor, how) {
                Ok(lock) => break lock,
                Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    descriptor = back;
                    // flock(2) has no deadline of its own.
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((_, Errno::EWOULDBLOCK)) => return Err(self.busy()),
                Err((_, errno)) => {
                    return Err(Error::system(format!("lock {}", self.path.display()), errno));
                }
            }
        };
        if self.is_removed()? {
            return Err(not_found(&self.id));
        }
        Ok(lock)
    }

    /// Who holds the lock is not ended for it: it may be an engine with containers of its own.
    fn busy(&self) -> Error {
        let holder = lock_holder(&self.file).map(|pid| {
            let name = coracle_sys::fd::read_file(format!("/proc/{pid}/comm")).unwrap_or_default();
            (pid, String::from_utf8_lossy(name.trim_ascii_end()).escape_debug().to_string())
        });
        let creates = matches!(self.read(), Ok(None | Some(Record { process: None, .. })));
        let does = if creates { "is creating it" } else { "holds its lock" };
        match holder {
            Some((pid, name)) => {
                let text = format!("container \"{}\" is busy: process {pid} ({name}) {does}", self.id);
                let error = Error::new(Code::Busy, text);
                match creates {
                    true => error.hint("once that process has ended, `delete --force` removes what it made"),
                    false => error,
                }
            }
            None => {
                let text = format!("container \"{}\" is busy: another command {does}", self.id);
                Error::new(Code::Busy, text)
            }
        }
    }

    pub(crate) fn is_removed(&self) -> Result<bool> {
        let metadata = self.file.metadata().map_err(|error| Error::io("stat", &error))?;
        Ok(metadata.nlink() == 0)
    }

    /// A path to a member that is short enough for a socket's address, whatever the root is.
    pub(crate) fn member(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.file.as_raw_fd()))
    }

    /// Where all containers are.
    pub(crate) fn root(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    pub(crate) fn id(&self) -> &str {
        self.id.as_str()
    }

    /// What is in it. Through a copy of the descriptor, so that nobody who watches the directory hears it opened and closed.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let failed = |errno| Error::system(format!("read {}", self.path.display()), errno);
        let copy = self.file.try_clone().map_err(|error| Error::io("copy a descriptor", &error))?;
        let mut names = Vec::new();
        for entry in nix::dir::Dir::from_fd(copy.into()).map_err(failed)?.iter() {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Another command is at work on it. To be asked rarely: for a moment, those that want the lock do not get it.
    pub(crate) fn is_locked(&self) -> Result<bool> {
        let copy = self.file.try_clone().map_err(|error| Error::io("copy a descriptor", &error))?;
        match Flock::lock(OwnedFd::from(copy), FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(false),
            Err((_, Errno::EWOULDBLOCK)) => Ok(true),
            Err((_, errno)) => Err(Error::system(format!("lock {}", self.path.display()), errno)),
        }
    }

    pub(crate) fn read_config(&self) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.member(CONFIG)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("read {}", self.path.join(CONFIG).display()), &error)),
        }
    }

    /// Write a member whole. Its name is the caller's alone, or the directory locked.
    pub(crate) fn replace(&self, name: &str, text: &[u8]) -> Result<()> {
        self.draft(name, text)?;
        self.commit(name)
    }

    fn failed(&self, name: &str) -> impl Fn(std::io::Error) -> Error {
        move |error| Error::io(format!("write {}", self.path.join(name).display()), &error)
    }

    fn commit(&self, name: &str) -> Result<()> {
        std::fs::rename(self.member(&format!(".{name}")), self.member(name)).map_err(self.failed(name))
    }

    fn draft(&self, name: &str, text: &[u8]) -> Result<()> {
        let temporary = self.member(&format!(".{name}"));
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text))
            .map_err(self.failed(name))
    }

    /// Keep a fact that its name says all of: whoever watches the directory hears it with the name, even if the file is
    /// gone again by then.
    pub(crate) fn note(&self, name: &str) -> Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let made = options.write(true).create(true).truncate(false).mode(0o600).open(self.member(name));
        made.map(drop).map_err(|error| Error::io(format!("write {}", self.path.join(name).display()), &error))
    }

    /// `None` while nothing is recorded. Errors: [`Code::Invalid`] when it cannot be understood, [`Code::NotFound`]
    /// when the directory was removed meanwhile.
    pub(crate) fn read(&self) -> Result<Option<Record>> {
        let shown = self.path.join(RECORD);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match File::options().read(true).custom_flags(flags).open(self.member(RECORD)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return if self.is_removed()? { Err(not_found(&self.id)) } else { Ok(None) };
            }
            Err(error) => return Err(Error::io(format!("open {}", shown.display()), &error)),
        };
        let mut text = Vec::new();
        file.take(LARGEST)
            .read_to_end(&mut text)
            .map_err(|error| Error::io(format!("read {}", shown.display()), &error))?;
        let unreadable = |why: String| {
            Error::new(Code::Invalid, format!("{} is not a record of this version: {why}", shown.display()))
                .hint(format!("`oar delete --force {}` removes the container's directory", self.id))
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if record.coracle != Record::FORMAT {
            return Err(unreadable(format!("format {}", record.coracle)));
        }
        if record.id != self.id.as_str() {
            return Err(unreadable("it belongs to another container".into()));
        }
        Ok(Some(record))
    }
}

impl std::ops::Deref for Locked {
    type Target = Directory;
    fn deref(&self) -> &Directory {
        &self.directory
    }
}

impl std::ops::Deref for Held {
    type Target = Directory;
    fn deref(&self) -> &Directory {
        &self.directory
    }
}

impl Held {
    pub(crate) fn let_go(&mut self) {
        self.lock = None;
    }
}

impl Locked {
    /// From here on others may hold it for a moment too; nobody may remove it.
    pub(crate) fn admit(&self) -> Result<()> {
        self.lock
            .relock(FlockArg::LockSharedNonblock)
            .map_err(|errno| Error::system(format!("lock {}", self.path.display()), errno))
    }

    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::new(Code::System, format!("encode the record: {error}")))?;
        self.replace(RECORD, &text)
    }

    /// Keep the config that the container was made from: what happens to the bundle later is of no concern.
    pub(crate) fn write_config(&self, document: &[u8]) -> Result<()> {
        self.replace(CONFIG, document)
    }

    /// The first half of [`Locked::write_config`]: nobody reads it yet.
    pub(crate) fn draft_config(&self, document: &[u8]) -> Result<()> {
        self.draft(CONFIG, document)
    }

    /// The second half.
    pub(crate) fn commit_config(&self) -> Result<()> {
        self.commit(CONFIG)
    }

    /// Remove it all, the record last, so that a removal cut short can be repeated.
    pub(crate) fn remove(self) -> Result<()> {
        let path = self.path.clone();
        let failed = |error: std::io::Error| Error::io(format!("remove {}", path.display()), &error);
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == OsStr::new(RECORD) {
                continue;
            }
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            let removed = if is_directory {
                std::fs::remove_dir_all(entry.path())
            } else {
                std::fs::remove_file(entry.path())
            };
            removed.map_err(failed)?;
        }
        match std::fs::remove_file(path.join(RECORD)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        std::fs::remove_dir(&path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            coracle: Record::FORMAT,
            id: id.into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-01-02T03:04:05.000000006Z".into(),
            boot_id: "boot".into(),
            pid_namespace: None,
            owner: 0,
            annotations: BTreeMap::new(),
            systemd_cgroup: false,
            cgroup: Location::default(),
            hooks: Hooks::default(),
            late_steps: Vec::new(),
            intel_rdt: None,
            network: None,
            no_new_keyring: false,
            keep_groups: false,
            process: Some(Process { pid: 7, start_time: 42 }),
        }
    }

    #[test]
    fn f20_a_record_is_whole_or_an_error() {
        let root = tempfile::tempdir().unwrap();
        let id = Id::new("web").unwrap();
        let directory = Directory::claim(root.path(), &id).unwrap();
        assert!(directory.read().unwrap().is_none());
        directory.write(&record("web")).unwrap();
        assert_eq!(directory.read().unwrap().unwrap().process, record("web").process);

        let whole = std::fs::read(root.path().join("web/state.json")).unwrap();
        for end in 0..whole.len() {
            std::fs::write(root.path().join("web/state.json"), &whole[..end]).unwrap();
            assert_eq!(directory.read().unwrap_err().code, Code::Invalid, "cut at {end}");
        }
        directory.write(&record("another")).unwrap();
        assert!(directory.read().unwrap_err().message.contains("another container"));
        directory.write(&Record { coracle: 99, ..record("web") }).unwrap();
        assert!(directory.read().unwrap_err().message.contains("format 99"));

        directory.remove().unwrap();
        assert_eq!(Directory::open(root.path(), &id).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn f43_of_many_claims_one_succeeds() {
        let root = tempfile::tempdir().unwrap();
        let claims: Vec<_> = (0..16)
            .map(|_| {
                let root = root.path().to_path_buf();
                std::thread::spawn(move || Directory::claim(&root, &Id::new("web").unwrap()).is_ok())
            })
            .collect();
        let won = claims.into_iter().map(|claim| claim.join().unwrap()).filter(|won| *won).count();
        assert_eq!(won, 1);
    }

    #[test]
    fn the_holder_of_a_lock_is_known() {
        let root = tempfile::tempdir().unwrap();
        let id = Id::new("web").unwrap();
        let waiting = || Directory::open(root.path(), &id).unwrap();
        let held = Directory::claim(root.path(), &id).unwrap();
        assert_eq!(lock_holder(&waiting().file), Some(std::process::id() as i32));
        assert!(waiting().busy().message.ends_with(") is creating it"));
        held.write(&record("web")).unwrap();
        let text = waiting().busy().message;
        assert!(text.contains(&format!("process {} (", std::process::id())), "{text}");
        assert!(text.ends_with(") holds its lock"), "{text}");
        drop(held);
        assert_eq!(lock_holder(&waiting().file), None);
    }

    #[test]
    fn a_directory_that_was_removed_is_not_found() {
        let root = tempfile::tempdir().unwrap();
        let id = Id::new("web").unwrap();
        let held = Directory::claim(root.path(), &id).unwrap();
        let reader = Directory::open(root.path(), &id).unwrap();
        let waiting = Directory::open(root.path(), &id).unwrap();
        held.remove().unwrap();
        assert_eq!(reader.read().unwrap_err().code, Code::NotFound);
        assert_eq!(waiting.lock().unwrap_err().code, Code::NotFound);
    }
}
