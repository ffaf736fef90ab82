// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bundle's config.json: read once, within bounds, and then only its plan matters.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coracle_plan::{Action, Hooks, IdMap, InitHook, Namespace, Options, Plan, Spawn, TerminalTo, Violation};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::connect::NetworkOptions;
use crate::error::{Code, Error, Result, words};
use crate::{CreateOptions, Id, notify, probe};

/// Bytes. Docker's largest are some tens of kilobytes.
const LARGEST: u64 = 16 << 20;

/// A config, decided.
#[derive(Debug)]
pub(crate) struct Decided {
    pub plan: Plan,
    pub document: Vec<u8>,
    pub host: coracle_plan::Host,
    /// Where resctrl is mounted; empty when the plan does not need it.
    pub resctrl: String,
    /// With those of annotations, if they are followed.
    pub network: NetworkOptions,
    /// What the container calls itself.
    pub hostname: String,
}

/// `directory` is the container's, which need not be there yet; `notify`: it will have a socket for sd_notify(3).
pub(crate) fn decide(
    id: &Id,
    options: &CreateOptions,
    directory: &Path,
    notify: bool,
    foreground: bool,
    run: bool,
) -> Result<Decided> {
    let bundle = absolute(&options.bundle)?;
    let parse = |document: &[u8]| coracle_plan::parse(document).map_err(|violations| refused(&violations));
    let mut document = read(&bundle)?;
    let (mut spec, mut warnings) = parse(&document)?;
    let annotations = spec.annotations().as_ref().filter(|_| options.allow_annotations);
    let network = options.network.with_annotations(annotations)?;
    network.check()?;
    if !network.networks.is_empty() {
        document = network.rewrite(&document, directory)?;
        (spec, warnings) = parse(&document)?;
    }
    let mut host = probe::host(&probe::needs(&spec))?;
    if !options.systemd_cgroup {
        probe::cgroup_rights(&mut host, &coracle_plan::cgroup_path(&spec, id.as_str()), id)?;
    }
    let host = host;
    let bundle = match bundle.to_str() {
        Some(bundle) => bundle.to_string(),
        None => {
            let text =
                format!("bundle {} is not valid UTF-8, which the state document needs", bundle.display());
            return Err(Error::new(Code::Invalid, text));
        }
    };
    let notify = match directory.join(notify::DIRECTORY).to_str() {
        _ if !notify => String::new(),
        Some(path) => path.to_string(),
        None => {
            let path = directory.display();
            let text = format!("{path} is not valid UTF-8, which the mount for sd_notify needs");
            return Err(Error::new(Code::Invalid, text));
        }
    };
    let planned = coracle_plan::plan(
        &spec,
        &host,
        &Options {
            id: id.as_str().into(),
            bundle,
            terminal: match (&options.console_socket, foreground) {
                (Some(_), _) => TerminalTo::ConsoleSocket,
                (None, true) => TerminalTo::Foreground,
                (None, false) => TerminalTo::Nowhere,
            },
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            preserve_fds: options.preserve_fds,
            listen_fds: options.listen_fds,
            listen_fd_names: options.listen_fd_names.clone(),
            notify,
            interfaces: network.interfaces(),
            systemd_cgroup: options.systemd_cgroup,
            cgroup_leaf: options.cgroup_leaf,
            strict: options.strict,
            allow_annotations: options.allow_annotations,
            keep_groups: options.keep_groups,
            run,
        },
    );
    let mut plan = planned.map_err(|violations| refused(&violations))?;
    let violations = check_files(&plan);
    if !violations.is_empty() {
        return Err(refused(&violations));
    }
    warnings.append(&mut plan.warnings);
    plan.warnings = warnings;
    let document = if plan.spawn.user_added.is_empty() {
        document
    } else {
        with_user_namespace(&document, &plan.spawn)?
    };
    let hostname = spec.hostname().clone().filter(|name| !name.is_empty());
    Ok(Decided {
        plan,
        document,
        resctrl: host.resctrl.clone(),
        host,
        network,
        hostname: hostname.unwrap_or_else(|| id.as_str().to_string()),
    })
}

/// With the user namespace that the plan has added: later commands go by this copy, and by the ids that were given then.
fn with_user_namespace(document: &[u8], spawn: &Spawn) -> Result<Vec<u8>> {
    let failed = |error: serde_json::Error| Error::new(Code::System, format!("copy the config: {error}"));
    let mut document: Value = serde_json::from_slice(document).map_err(failed)?;
    let lines = |map: &[IdMap]| {
        let line = |map: &IdMap| json!({"containerID": map.container, "hostID": map.host, "size": map.size});
        Value::from(map.iter().map(line).collect::<Vec<Value>>())
    };
    let linux = &mut document["linux"];
    let mut namespaces = linux["namespaces"].as_array().cloned().unwrap_or_default();
    namespaces.push(json!({"type": "user"}));
    linux["namespaces"] = namespaces.into();
    linux["uidMappings"] = lines(&spawn.uid_map);
    linux["gidMappings"] = lines(&spawn.gid_map);
    serde_json::to_vec(&document).map_err(failed)
}

/// What only a look at the host can tell: are the hooks programs, and is a namespace to join not the host's own?
fn check_files(plan: &Plan) -> Vec<Violation> {
    let mut violations = Vec::new();
    let inside = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Hook { hook, kind: InitHook::CreateContainer } => Some(hook),
        _ => None,
    });
    let Hooks { prestart, create_runtime, poststart, poststop } = &plan.hooks;
    for hook in prestart.iter().chain(create_runtime).chain(inside).chain(poststart).chain(poststop) {
        let why = match std::fs::metadata(&hook.path) {
            Err(error) => words(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
            Ok(metadata) if metadata.is_dir() => "is a directory",
            Ok(metadata) if metadata.mode() & 0o111 == 0 => "permission denied",
            Ok(_) => continue,
        };
        let rule = format!("{}: {why}", hook.path.escape_debug());
        violations.push(Violation { place: format!("{}.path", hook.place), rule });
    }
    // A sysctl of a namespace is then the host's.
    let own = |path: &str| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    for step in &plan.steps {
        let Action::Sysctl { key, .. } = &step.action else { continue };
        let (namespace, name) = match key.split('/').next() {
            Some("net") => (Namespace::Network, "net"),
            Some("user") => (Namespace::User, "user"),
            _ if key == "kernel/domainname" => (Namespace::Uts, "uts"),
            _ => (Namespace::Ipc, "ipc"),
        };
        let joined = plan.spawn.join.iter().find(|join| join.namespace == namespace);
        if joined.is_some_and(|join| own(&join.path) == own(&format!("/proc/self/ns/{name}"))) {
            let rule = format!("the {name} namespace to join is the host's own");
            violations.push(Violation { place: step.place.clone(), rule });
        }
    }
    violations
}

/// All that is wrong, in one line.
pub(crate) fn refused(violations: &[Violation]) -> Error {
    let lines: Vec<String> = violations
        .iter()
        .map(|violation| match violation.place.as_str() {
            "" => violation.rule.clone(),
            place => format!("{place}: {}", violation.rule),
        })
        .collect();
    Error::new(Code::Invalid, format!("config.json: {}", lines.join("; ")))
}

fn absolute(bundle: &Path) -> Result<PathBuf> {
    std::path::absolute(bundle).map_err(|error| Error::io(format!("bundle {}", bundle.display()), &error))
}

fn read(bundle: &Path) -> Result<Vec<u8>> {
    let path = bundle.join("config.json");
    let failed = |error: std::io::Error| Error::io(format!("open {}", path.display()), &error);
    // A FIFO or a device must neither block nor feed us.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::new(Code::Invalid, format!("{} is not a regular file", path.display())));
    }
    if metadata.len() > LARGEST {
        let text = format!("{} is larger than {LARGEST} bytes", path.display());
        return Err(Error::new(Code::Invalid, text));
    }
    let mut document = Vec::with_capacity(metadata.len() as usize + 1);
    file.take(LARGEST)
        .read_to_end(&mut document)
        .map_err(|error| Error::io(format!("read {}", path.display()), &error))?;
    Ok(document)
}
