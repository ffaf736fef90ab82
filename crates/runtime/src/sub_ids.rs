// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ids that an ordinary user has beside their own, and the programs that map them.
//!
//! Decides nothing. Data comes from /etc/passwd, /etc/subuid and /etc/subgid (subuid(5)) alone: of what other sources give
//! (sssd) newuidmap(1) knows, for maps that a config has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_plan::{Hook, IdMap, MapWriter, SubIds};

use crate::error::{Code, Error, Result};
use crate::foreground::Signals;
use crate::hooks;

/// Where distributions put setuid programs, also when PATH has not all of it.
const DIRECTORIES: [&str; 6] =
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin"];

/// How long one may take: it asks the name service.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn of(euid: u32) -> Result<SubIds> {
    let text = |path: &str| match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io(format!("read {path}"), &error)),
    };
    let (uids, gids) = (text("/etc/subuid")?, text("/etc/subgid")?);
    let passwd = if uids.is_empty() && gids.is_empty() { String::new() } else { text("/etc/passwd")? };
    let name = login(&passwd, euid);
    Ok(SubIds {
        uids: ranges(&uids, name, euid),
        gids: ranges(&gids, name, euid),
        newuidmap: program("newuidmap"),
        newgidmap: program("newgidmap"),
    })
}

/// The first account of this id.
fn login(passwd: &str, uid: u32) -> &str {
    let mut accounts = passwd.lines().map(|line| line.split(':'));
    let name = accounts.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    name.unwrap_or_default()
}

/// Both files go by users, named or numbered.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let of_user = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (!user.is_empty() && (user == name || user == number)).then_some(range)
    });
    of_user.filter(|(_, count)| *count > 0).collect()
}

/// Empty when there is none.
fn program(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = DIRECTORIES.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    let mut candidates = directories.filter(|path| path.is_absolute()).map(|path| path.join(name));
    let found = candidates.find(|path| {
        nix::unistd::access(path.as_path(), nix::unistd::AccessFlags::X_OK).is_ok() && Path::is_file(path)
    });
    found.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or_default()
}

/// Have a map of the user namespace of `pid` written by its helper.
pub(crate) fn write(path: &str, pid: i32, map: &[IdMap], signals: Option<&Signals>) -> Result<()> {
    let lines = map.iter().flat_map(|line| [line.container, line.host, line.size]);
    let mut args = vec![path.to_string(), pid.to_string()];
    args.extend(lines.map(|number| number.to_string()));
    let helper = Hook {
        path: path.to_string(),
        args,
        env: Vec::new(),
        timeout: PATIENCE.as_secs() as u32,
        place: String::new(),
    };
    hooks::run_hook(&helper, b"", signals).map_err(|failure| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let (file, option) = match name {
            "newgidmap" => ("/etc/subgid", "--add-subgids"),
            _ => ("/etc/subuid", "--add-subuids"),
        };
        // It begins its own lines with its name.
        let line = failure.line.replacen(&format!("{name}: "), "", 1);
        Error::new(Code::System, format!("{path}: {line}")).hint(format!(
            "ids that a user may map are in {file}: `usermod {option} FIRST-LAST USER` gives more; {path} has to be setuid root"
        ))
    })
}

/// The maps of the new user namespace of `pid`, each by the writer that was planned.
pub(crate) fn write_maps(pid: i32, spawn: &coracle_plan::Spawn, signals: Option<&Signals>) -> Result<()> {
    let deny = spawn.gid_writer == MapWriter::OwnId;
    crate::namespaces::write_maps(
        pid,
        direct(&spawn.uid_map, &spawn.uid_writer),
        direct(&spawn.gid_map, &spawn.gid_writer),
        deny,
    )?;
    for (map, writer) in [(&spawn.uid_map, &spawn.uid_writer), (&spawn.gid_map, &spawn.gid_writer)] {
        if let MapWriter::Helper(path) = writer {
            write(path, pid, map, signals)?;
        }
    }
    Ok(())
}

fn direct<'a>(map: &'a [IdMap], writer: &MapWriter) -> &'a [IdMap] {
    if matches!(writer, MapWriter::Helper(_)) { &[] } else { map }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_by_name_or_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nagain:x:1000:1::/:\nbroken\n";
        assert_eq!(login(passwd, 1000), "ann");
        assert_eq!(login(passwd, 7), "");
        let text = "bob:1:2\nann:100000:65536\n1000:300000:10\nann:x:5\nann:5\nann:9:0\n:1:1\n annie:3:4\n";
        assert_eq!(ranges(text, "ann", 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(text, "", 7), []);
    }
}
