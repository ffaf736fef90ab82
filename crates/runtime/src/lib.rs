// SPDX-License-Identifier: MIT OR Apache-2.0
//! OCI containers on Linux, without a daemon.
//!
//! [`Runtime`] has the verbs. A container's first process is a small program of its own, embedded here, so a caller
//! may be large and have threads: nothing of it is copied into the container.

mod cgroup;
mod config;
mod connect;
mod create;
mod delete;
mod doctor;
mod error;
mod events;
mod exec;
mod features;
mod follow;
mod foreground;
mod hooks;
mod id;
mod kill;
mod launch;
mod lower;
mod members;
mod messages;
mod namespaces;
mod network;
mod notify;
mod pause;
mod probe;
mod processes;
mod rdt;
mod record;
mod seccomp;
mod signal;
mod start;
mod status;
mod step;
mod sub_ids;
mod template;
mod terminal;
mod time;
mod update;
mod wait;

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use connect::{Connected, Connection, HostEntry, Mac, NetworkChoice, NetworkOptions, Publish};
pub use coracle_cgroup::Inside;
pub use coracle_net::{Network, NewNetwork, Range, Subnet};
pub use coracle_plan::Changes;
pub use create::{CreateOptions, Created, RunOptions, Told};
pub use doctor::{Check, Diagnosis, Finding, doctor};
pub use error::{Code, Error, Result, words};
pub use events::{Meter, NetworkInterface, Statistics};
pub use exec::{ExecOptions, ExecProcess};
pub use features::features;
pub use follow::{Event, Follow, What};
pub use foreground::ExitStatus;
pub use id::Id;
pub use network::{NetworkContainer, NetworkState, Pruned};
pub use notify::NotifySocket;
pub use oci_spec::runtime::{LinuxResources, PosixRlimit};
pub use signal::Signal;
pub use start::StartOptions;
pub use status::{State, Status};
pub use template::spec;
pub use time::rfc3339;
pub use update::{UpdateOptions, parse_resources};

/// Of the runtime specification that configs may use and state documents follow.
pub const OCI_VERSION: &str = "1.3.0";

/// All containers below one directory.
#[derive(Debug)]
pub struct Runtime {
    root: PathBuf,
    interruptible: bool,
}

impl Runtime {
    /// `root` holds one directory for each container, and is made when the first one is. Errors: [`Code::Invalid`]
    /// for a path that cannot serve, such as `/`.
    pub fn open(root: &Path) -> Result<Runtime> {
        let invalid = |why: &str| Error::new(Code::Invalid, format!("root {}: {why}", root.display()));
        if root.as_os_str().is_empty() {
            return Err(invalid("it is empty"));
        }
        let root_path = std::path::absolute(root).map_err(|error| Error::io("root", &error))?;
        if root_path.parent().is_none() {
            return Err(invalid("the host's root directory cannot hold containers"));
        }
        // In a directory that anybody may write to, such as /tmp, others can put a link in its place.
        let euid = nix::unistd::geteuid().as_raw();
        if std::fs::symlink_metadata(&root_path)
            .is_ok_and(|link| link.is_symlink() && ![0, euid].contains(&link.uid()))
        {
            return Err(invalid("it is a symbolic link of another user"));
        }
        match std::fs::metadata(&root_path) {
            Ok(metadata) if !metadata.is_dir() => Err(invalid("it is not a directory")),
            Ok(metadata) if metadata.uid() != euid => Err(invalid("it belongs to another user")),
            Ok(_) => Ok(Runtime { root: root_path, interruptible: false }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Runtime { root: root_path, interruptible: false })
            }
            Err(error) => Err(Error::io(format!("root {}", root.display()), &error)),
        }
    }

    /// From here on SIGTERM, SIGINT, SIGHUP and SIGQUIT end what create, start and exec wait for, by an error of
    /// [`Code::Interrupted`], and what create and exec have made is taken back first. For programs with one thread: all
    /// signals of the calling thread are held back meanwhile. [`Runtime::run`] in the foreground does so anyway.
    pub fn interruptible(self) -> Runtime {
        Runtime { interruptible: true, ..self }
    }

    /// To be called before the clone, so that no signal is lost between.
    fn signals(&self, foreground: bool) -> Result<Option<foreground::Signals>> {
        (self.interruptible || foreground).then(foreground::block_signals).transpose()
    }

    fn make_root(&self) -> Result<()> {
        let failed = |error: std::io::Error| {
            let error = Error::io(format!("create {}", self.root.display()), &error);
            if nix::unistd::geteuid().is_root() { error } else { error.hint("--root names another place") }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root).map_err(failed)?;
        if !nix::unistd::geteuid().is_root() {
            // What cleans up directories for temporary files spares it then (XDG Base Directory Specification).
            let mode = std::fs::metadata(&self.root).map_err(failed)?.permissions().mode();
            if mode & 0o1000 == 0 {
                let sticky = std::fs::Permissions::from_mode(mode & 0o7777 | 0o1000);
                std::fs::set_permissions(&self.root, sticky).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Errors: [`Code::NotFound`].
    pub fn state(&self, id: &Id) -> Result<State> {
        let directory = record::Directory::open(&self.root, id)?;
        status::state(&directory, id.as_str())
    }

    /// Every container, in order of name; one whose record cannot be read has an error in its place.
    pub fn list(&self) -> Result<Vec<(String, Result<State>)>> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(format!("read {}", self.root.display()), &error)),
        };
        let mut containers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io(format!("read {}", self.root.display()), &error))?;
            // What no id can name was not made by us.
            let Some(id) = entry.file_name().to_str().and_then(|name| Id::new(name).ok()) else { continue };
            match self.state(&id) {
                // Removed since, or not a directory of a container.
                Err(error) if error.code == Code::NotFound || !entry.path().is_dir() => {}
                state => containers.push((id.as_str().to_string(), state)),
            }
        }
        containers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(containers)
    }
}

/// Where containers are when nobody says. For root `/run/oar`, unless `/run` is another user's, as it is for root of a user
/// namespace alone. For others `oar` in the first of these directories that exists and is theirs: `$XDG_RUNTIME_DIR`,
/// `/run/user/UID`; else `/tmp/oar-UID`.
pub fn default_root() -> PathBuf {
    let euid = nix::unistd::geteuid();
    let owner = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.uid());
    let uid = if euid.is_root() {
        if owner(Path::new("/run")).is_none_or(|owner| owner == 0) {
            return "/run/oar".into();
        }
        // The user who has made the namespace sees the same containers.
        namespaces::outside_id(std::process::id() as i32, 0).ok().flatten().unwrap_or(0)
    } else {
        euid.as_raw()
    };
    // After su(1) it may still be the one of the user before.
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let theirs = |path: &PathBuf| path.is_dir() && owner(path) == Some(euid.as_raw());
    match named.into_iter().chain([format!("/run/user/{uid}").into()]).find(theirs) {
        Some(path) => path.join("oar"),
        None => format!("/tmp/oar-{uid}").into(),
    }
}

/// Names this boot: a pid means nothing in another one.
fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = coracle_sys::fd::read_file(path).map_err(|error| Error::io(path, &error))?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_string())
}

/// Of this process, by its inode: pids mean nothing in another one.
fn pid_namespace() -> Result<u64> {
    let path = "/proc/self/ns/pid";
    std::fs::metadata(path).map(|metadata| metadata.ino()).map_err(|error| Error::io(path, &error))
}

fn errno(errno: coracle_sys::Errno) -> Errno {
    Errno::from_raw(errno.0)
}
