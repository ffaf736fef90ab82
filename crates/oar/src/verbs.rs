// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a parsed action to calls of the library, and from its answers to stdout and the exit status.
//! Decides nothing about containers: what a library user would miss belongs to `coracle-runtime`.
//! Actions come from `parse`; errors go back to `main`, which prints them once.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use coracle_runtime::{
    Code, CreateOptions, Error, ExitStatus, NotifySocket, Result, RunOptions, Runtime, StartOptions, Told,
};
use serde_json::Value;

use crate::descriptors::{self, Passed};
use crate::flags::Options;
use crate::log::Log;
use crate::parse::Action;
use crate::{doctor, events, exec, generate, help, list, network, ps, update, wait};

/// The exit status of this process.
pub(crate) fn act(action: Action, options: &Options, passed: Passed, log: &Log) -> Result<u8> {
    let begun = Instant::now();
    let open = || {
        let root = options.root.clone().unwrap_or_else(coracle_runtime::default_root);
        let runtime = Runtime::open(&root);
        log.debug(&format!("open {}: {} us", root.display(), begun.elapsed().as_micros()));
        runtime.map(Runtime::interruptible)
    };
    let status = match action {
        Action::Help(verb) => print(&help::help(verb)),
        Action::HelpGroup(group) => print(&help::of_group(group)),
        Action::Version => {
            let spec = coracle_runtime::features();
            let spec = spec.get("ociVersionMax").and_then(Value::as_str).unwrap_or("unknown");
            print(&help::version(std::env::args_os().next().as_deref(), spec))
        }
        Action::Generate(page) => print(&generate::page(&page)),
        Action::Create(id) if options.dry_run => {
            print_line(&open()?.dry_run(&id, &create_options(options, passed, log))?)
        }
        Action::Run(id) if options.dry_run => {
            print_line(&open()?.dry_run(&id, &create_options(options, passed, log))?)
        }
        Action::Create(id) => {
            let created = open()?.create(&id, &create_options(options, passed, log))?;
            created.notes.iter().for_each(|note| log.debug(note));
            created.warnings.iter().for_each(|warning| log.warning(warning));
            Ok(0)
        }
        Action::Start(id) => {
            let start = StartOptions { notify_socket: notify_socket(log) };
            open()?.start(&id, &start, &mut |told| tell(log, told)).map(|()| 0)
        }
        Action::State(id) => print_json(serde_json::to_string_pretty(&open()?.state(&id)?)),
        Action::Kill(id, signal) => open()?.kill(&id, signal, options.all).map(|()| 0),
        Action::Delete(id) => {
            let warnings = open()?.delete(&id, options.force)?;
            warnings.iter().for_each(|warning| log.warning(warning));
            Ok(0)
        }
        Action::Run(id) => {
            let run =
                RunOptions { detach: options.detach, keep: options.keep, subreaper: !options.no_subreaper };
            let create = create_options(options, passed, log);
            open()?.run(&id, &create, &run, &mut |told| tell(log, told)).map(exit_status)
        }
        Action::List => containers(&open()?, options, log),
        Action::Exec(id, words) => exec::exec(&open()?, &id, words, options, passed, log),
        Action::Ps(id, words) => ps::ps(&open()?, &id, &words, options.json),
        Action::Pause(id) => open()?.pause(&id).map(|()| 0),
        Action::Resume(id) => open()?.resume(&id).map(|()| 0),
        Action::Update(id) => update::update(&open()?, &id, options, log),
        Action::Wait(id) => wait::wait(&open()?, &id, options.json),
        Action::Events(id) => events::events(&open()?, id.as_ref(), options),
        Action::Spec => write_spec(options).map(|()| 0),
        Action::Features => print_json(serde_json::to_string_pretty(&coracle_runtime::features())),
        // Not opened: a root that cannot serve is one of the findings.
        Action::Doctor => doctor::doctor(options),
        Action::NetworkCreate(name) => network::create(&open()?, &name, options),
        Action::NetworkList => network::list(&open()?, options, log),
        Action::NetworkInspect(name) => {
            print_json(serde_json::to_string_pretty(&open()?.inspect_network(&name)?))
        }
        Action::NetworkRemove(name) => open()?.remove_network(&name).map(|()| 0),
        Action::NetworkPrune => network::prune(&open()?, log),
    };
    log.debug(&format!("done: {} us", begun.elapsed().as_micros()));
    status
}

fn tell(log: &Log, told: Told<'_>) {
    match told {
        Told::Warning(warning) => log.warning(warning),
        Told::Note(note) => log.debug(note),
    }
}

/// Of the caller's supervisor (sd_notify(3)). Whoever set it to something else did not set it for us.
fn notify_socket(log: &Log) -> Option<NotifySocket> {
    let value = std::env::var_os("NOTIFY_SOCKET").filter(|value| !value.is_empty())?;
    NotifySocket::new(&value).map_err(|error| log.warning(&error.message)).ok()
}

fn create_options(options: &Options, passed: Passed, log: &Log) -> CreateOptions {
    CreateOptions {
        bundle: bundle(options),
        console_socket: options.console_socket.clone(),
        pid_file: options.pid_file.clone(),
        pidfd_socket: options.pidfd_socket.clone(),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds: passed.listen + passed.preserve,
        listen_fds: passed.listen,
        listen_fd_names: descriptors::names(passed.listen, log),
        notify_socket: notify_socket(log),
        network: options.network.clone(),
        systemd_cgroup: options.systemd_cgroup,
        cgroup_leaf: options.cgroup_leaf,
        strict: options.strict,
        allow_annotations: options.allow_annotations,
        keep_groups: options.keep_groups,
    }
}

fn bundle(options: &Options) -> PathBuf {
    options.bundle.clone().unwrap_or_else(|| PathBuf::from("."))
}

pub(crate) fn exit_status(status: ExitStatus) -> u8 {
    let number = match status {
        ExitStatus::Detached => 0,
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
    };
    // wait(2) reports eight bits, and 128 with the largest signal, 64, is 192.
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn containers(runtime: &Runtime, options: &Options, log: &Log) -> Result<u8> {
    let (mut rows, mut states) = (Vec::new(), Vec::new());
    let mut ids = String::new();
    for (id, state) in runtime.list()? {
        match state {
            Ok(state) => {
                rows.push(list::row(&state));
                states.push(state);
            }
            // Only the table has room to say that something is there.
            Err(error) => {
                log.warning(&format!("list {id}: {error}"));
                rows.push(list::unreadable(&id));
                continue;
            }
        }
        ids.push_str(&id);
        ids.push('\n');
    }
    if options.quiet {
        return print(&ids);
    }
    if options.json {
        // Go writes a slice without elements as null, and its readers accept both.
        return print_json(if states.is_empty() {
            Ok("null".into())
        } else {
            serde_json::to_string(&states)
        });
    }
    print(&list::table(&rows))
}

fn write_spec(options: &Options) -> Result<()> {
    let path = bundle(options).join("config.json");
    let open = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = open.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::new(Code::Exists, format!("{} exists already", path.display()))
            .hint("it is never overwritten: remove it first"),
        _ => Error::io(format_args!("create {}", path.display()), &error),
    })?;
    let text = format!("{}\n", coracle_runtime::spec(options.rootless).trim_end());
    file.write_all(text.as_bytes()).map_err(|error| incomplete(&path, file, error))
}

/// Half a config must not stay behind: the next `spec` would refuse to replace it.
fn incomplete(path: &Path, file: File, error: std::io::Error) -> Error {
    drop(file);
    let error = Error::io(format_args!("write {}", path.display()), &error);
    match std::fs::remove_file(path) {
        Ok(()) => error,
        Err(left) => error.hint(format!("the incomplete file is still there: {left}")),
    }
}

pub(crate) fn print_json(text: serde_json::Result<String>) -> Result<u8> {
    print_line(&text.map_err(unprintable)?)
}

pub(crate) fn unprintable(error: serde_json::Error) -> Error {
    Error::new(Code::System, format!("write JSON: {error}"))
}

pub(crate) fn print_line(text: &str) -> Result<u8> {
    print(&format!("{}\n", text.trim_end_matches('\n')))
}

/// Nobody reads any more.
pub(crate) const GONE: u8 = 128 + libc::SIGPIPE as u8;

/// An answer that did not arrive is a failure. To a reader who has had enough (`oar list | head -1`) nothing more
/// is said; the status is the one that SIGPIPE, which Rust programs ignore, would have given.
pub(crate) fn print(text: &str) -> Result<u8> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(GONE),
        Err(error) => Err(Error::io("write to stdout", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_the_containers() {
        assert_eq!(exit_status(ExitStatus::Detached), 0);
        assert_eq!(exit_status(ExitStatus::Code(0)), 0);
        assert_eq!(exit_status(ExitStatus::Code(255)), 255);
        assert_eq!(exit_status(ExitStatus::Signal(libc::SIGKILL)), 137);
        assert_eq!(exit_status(ExitStatus::Signal(64)), 192);
    }

    #[test]
    fn a_config_is_written_once_and_never_over_another() {
        let directory = std::env::temp_dir().join(format!("oar-spec-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let options = Options { bundle: Some(directory.clone()), ..Options::default() };
        let first = write_spec(&options);
        let path = directory.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let second = write_spec(&options);
        let kept = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let missing = write_spec(&options);

        first.unwrap();
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object());
        assert!(text.ends_with("}\n") && !text.ends_with("\n\n"));
        let second = second.unwrap_err();
        assert!(second.message.contains(&path.display().to_string()), "{second}");
        assert_eq!(second.code, Code::Exists);
        assert_eq!(kept, "mine");
        assert!(missing.unwrap_err().message.ends_with("no such file or directory"));
    }
}
