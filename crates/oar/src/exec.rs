// SPDX-License-Identifier: MIT OR Apache-2.0
//! `exec`: from the flags to the process that they describe.
//! Decides nothing about containers.
//! Options come from the command line, a process from a file; an exit status goes back.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use coracle_runtime::{Changes, Code, Error, ExecOptions, ExecProcess, Id, Inside, Result, Runtime, Told};

use crate::descriptors::{self, Passed};
use crate::flags::Options;
use crate::log::Log;
use crate::verbs::exit_status;

/// Bytes. As of a config.
const LARGEST: u64 = 16 << 20;

pub(crate) fn exec(
    runtime: &Runtime,
    id: &Id,
    words: Vec<String>,
    options: &Options,
    passed: Passed,
    log: &Log,
) -> Result<u8> {
    if let Some(name) = &options.exec_start {
        let alone = Options {
            exec_start: options.exec_start.clone(),
            root: options.root.clone(),
            log: options.log.clone(),
            json_log: options.json_log,
            debug: options.debug,
            systemd_cgroup: options.systemd_cgroup,
            ..Options::default()
        };
        if *options != alone || !words.is_empty() {
            return Err(invalid(
                "--start runs a process that is made already: it takes no other flag, and no command",
            ));
        }
        return runtime.exec_start(id, &Id::new(name)?).map(|()| 0);
    }
    let exec = ExecOptions {
        process: process(words, options)?,
        console_socket: options.console_socket.clone(),
        pid_file: options.pid_file.clone(),
        pidfd_socket: options.pidfd_socket.clone(),
        preserve_fds: passed.listen + passed.preserve,
        listen_fds: passed.listen,
        listen_fd_names: descriptors::names(passed.listen, log),
        detach: options.detach,
        ignore_paused: options.ignore_paused,
        cgroup: options.cgroup.iter().map(|text| inside(text)).collect(),
    };
    if let Some(name) = &options.exec_create {
        let created = runtime.exec_create(id, &Id::new(name)?, &exec)?;
        created.notes.iter().for_each(|note| log.debug(note));
        created.warnings.iter().for_each(|warning| log.warning(warning));
        return Ok(0);
    }
    let mut tell = |told: Told<'_>| match told {
        Told::Warning(warning) => log.warning(warning),
        Told::Note(note) => log.debug(note),
    };
    runtime.exec(id, &exec, &mut tell).map(exit_status)
}

fn process(words: Vec<String>, options: &Options) -> Result<ExecProcess> {
    if let Some(path) = &options.process {
        return read(path).map(ExecProcess::Document);
    }
    if words.is_empty() {
        return Err(
            invalid("a command is missing").hint("it comes after the ID; or --process FILE describes it")
        );
    }
    let (uid, gid) = match &options.user {
        None => (None, None),
        Some(text) => user(text)?,
    };
    Ok(ExecProcess::Like(Changes {
        args: words,
        env: options.env.clone(),
        cwd: options.cwd.clone(),
        uid,
        gid,
        additional_gids: options.additional_gids.clone(),
        capabilities: options.caps.clone(),
        no_new_privileges: options.no_new_privs,
        apparmor_profile: options.apparmor.clone(),
        selinux_label: options.process_label.clone(),
        terminal: options.tty,
    }))
}

fn user(text: &str) -> Result<(Option<u32>, Option<u32>)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or_else(|| {
            invalid(format!("invalid value {:?} for --user: must be UID or UID:GID, in numbers", text))
        })
    };
    match text.split_once(':') {
        None => Ok((Some(number(text)?), None)),
        Some((uid, gid)) => Ok((Some(number(uid)?), Some(number(gid)?))),
    }
}

/// `cpu,cpuacct:path`, or `path` for every hierarchy.
fn inside(text: &str) -> Inside {
    match text.split_once(':') {
        Some((controllers, path)) if !controllers.contains('/') => Inside {
            controllers: controllers.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect(),
            path: path.into(),
        },
        _ => Inside { controllers: Vec::new(), path: text.into() },
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::io(format!("--process {}", path.display()), &error);
    let mut document = Vec::new();
    File::open(path).map_err(failed)?.take(LARGEST).read_to_end(&mut document).map_err(failed)?;
    Ok(document)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(user("7").unwrap(), (Some(7), None));
        assert_eq!(user("7:8").unwrap(), (Some(7), Some(8)));
        for bad in ["", ":", "7:", ":8", "root", "7:8:9", "-1", "+1", "4294967296"] {
            assert!(user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_in_one_hierarchy_or_in_all() {
        let of = |controllers: &[&str], path: &str| Inside {
            controllers: controllers.iter().map(|name| name.to_string()).collect(),
            path: path.into(),
        };
        assert_eq!(inside("a/b"), of(&[], "a/b"));
        assert_eq!(inside("memory:a"), of(&["memory"], "a"));
        assert_eq!(inside("cpu,cpuacct:/"), of(&["cpu", "cpuacct"], "/"));
        assert_eq!(inside("a/b:c"), of(&[], "a/b:c"));
    }
}
