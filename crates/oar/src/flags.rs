// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of everything that can be typed: global flags, verbs, their flags and positional arguments.
//! Nothing is parsed or printed here, and no flag is described anywhere else.
//! `parse` walks the table to fill [`Options`]; `help` and `generate` print the same table.

use std::path::PathBuf;

/// What was typed, resolved no further than its type. Defaults are those of an empty command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) root: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) json_log: bool,
    pub(crate) debug: bool,
    pub(crate) systemd_cgroup: bool,
    pub(crate) cgroup_leaf: bool,
    pub(crate) strict: bool,
    pub(crate) allow_annotations: bool,
    pub(crate) help: bool,
    pub(crate) version: bool,
    pub(crate) generate: Option<String>,

    pub(crate) bundle: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) pidfd_socket: Option<PathBuf>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) dry_run: bool,
    pub(crate) detach: bool,
    pub(crate) keep: bool,
    pub(crate) no_subreaper: bool,

    pub(crate) all: bool,
    pub(crate) force: bool,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) rootless: bool,
    pub(crate) stats: bool,
}

#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    /// How the value is called in help; empty for a switch.
    pub(crate) value: &'static str,
    pub(crate) kind: Kind,
    pub(crate) doc: &'static str,
    /// Accepted, but not shown.
    pub(crate) hidden: bool,
}

/// What follows a flag, and where it goes.
#[derive(Debug)]
pub(crate) enum Kind {
    Switch(fn(&mut Options, bool)),
    Directory(fn(&mut Options, PathBuf)),
    File(fn(&mut Options, PathBuf)),
    Number(fn(&mut Options, u32)),
    Choice(&'static [&'static str], fn(&mut Options, &str)),
    /// Any text, of no effect: flags of other runtimes that engines may pass.
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Create,
    Start,
    State,
    Kill,
    Delete,
    Run,
    List,
    Events,
    Spec,
    Features,
    Help,
    Man,
}

#[derive(Debug)]
pub(crate) struct Verb {
    pub(crate) name: Name,
    pub(crate) word: &'static str,
    pub(crate) positional: Positional,
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) doc: &'static str,
    pub(crate) detail: &'static str,
    pub(crate) hidden: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Positional {
    None,
    Id,
    IdAndSignal,
    Command,
}

impl Positional {
    pub(crate) fn usage(self) -> &'static str {
        match self {
            Positional::None => "",
            Positional::Id => "ID",
            Positional::IdAndSignal => "ID [SIGNAL]",
            Positional::Command => "[COMMAND]",
        }
    }

    pub(crate) fn most(self) -> usize {
        match self {
            Positional::None => 0,
            Positional::Id | Positional::Command => 1,
            Positional::IdAndSignal => 2,
        }
    }
}

impl Verb {
    pub(crate) fn every_flag(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().copied().flatten()
    }
}

const fn switch(name: &'static str, set: fn(&mut Options, bool), doc: &'static str) -> Flag {
    Flag { name, short: None, value: "", kind: Kind::Switch(set), doc, hidden: false }
}

const fn value(name: &'static str, value: &'static str, kind: Kind, doc: &'static str) -> Flag {
    Flag { name, short: None, value, kind, doc, hidden: false }
}

const fn short(letter: char, flag: Flag) -> Flag {
    let Flag { name, value, kind, doc, hidden, .. } = flag;
    Flag { name, short: Some(letter), value, kind, doc, hidden }
}

const fn hidden(flag: Flag) -> Flag {
    let Flag { name, short, value, kind, doc, .. } = flag;
    Flag { name, short, value, kind, doc, hidden: true }
}

pub(crate) const PAGES: &[&str] = &["man", "complete-bash", "complete-zsh", "complete-fish"];

pub(crate) static GLOBAL: &[&[Flag]] = &[
    &[
        value(
            "root",
            "DIR",
            Kind::Directory(|o, v| o.root = Some(v)),
            "keep the state of containers here (default: /run/oar, or $XDG_RUNTIME_DIR/oar without root)",
        ),
        value(
            "log",
            "FILE",
            Kind::File(|o, v| o.log = Some(v)),
            "append errors, warnings and debug lines to this file; errors still go to stderr as well",
        ),
        value(
            "log-format",
            "FORMAT",
            Kind::Choice(&["text", "json"], |o, v| o.json_log = v == "json"),
            "how the lines of the log are written: text (default) or json",
        ),
        switch("debug", |o, v| o.debug = v, "log how long each phase took, and what may explain a surprise"),
        switch(
            "systemd-cgroup",
            |o, v| o.systemd_cgroup = v,
            "let systemd make the cgroup; cgroupsPath is then slice:prefix:name",
        ),
        // runc's switch to forgive cgroup errors of ordinary users. What can be done without a cgroup is decided
        // from the config and the host here, so the value is checked and changes nothing.
        value(
            "rootless",
            "WHEN",
            Kind::Choice(&["true", "false", "auto"], |_, _| ()),
            "accepted for compatibility: true, false or auto; always found out",
        ),
        hidden(value("criu", "FILE", Kind::Ignored, "accepted for compatibility")),
        value(
            "generate",
            "PAGE",
            Kind::Choice(PAGES, |o, v| o.generate = Some(v.to_string())),
            "print the manual page or a completion: man, complete-bash, complete-zsh, complete-fish",
        ),
        short('v', switch("version", |o, v| o.version = v, "print the version")),
    ],
    HELP,
];

const HELP: &[Flag] = &[short('h', switch("help", |o, v| o.help = v, "print help"))];

const BUNDLE: &[Flag] = &[short(
    'b',
    value(
        "bundle",
        "DIR",
        Kind::Directory(|o, v| o.bundle = Some(v)),
        "the directory of config.json (default: the current one)",
    ),
)];

const CREATE: &[Flag] = &[
    value(
        "console-socket",
        "SOCKET",
        Kind::File(|o, v| o.console_socket = Some(v)),
        "send the master side of the terminal to this AF_UNIX socket",
    ),
    value(
        "pid-file",
        "FILE",
        Kind::File(|o, v| o.pid_file = Some(v)),
        "write the pid of the container's process here: digits only, all at once",
    ),
    value(
        "pidfd-socket",
        "SOCKET",
        Kind::File(|o, v| o.pidfd_socket = Some(v)),
        "send a pidfd of the container's process to this AF_UNIX socket",
    ),
    switch(
        "no-pivot",
        |o, v| o.no_pivot = v,
        "move the root mount instead of pivot_root(2), as a ramdisk needs",
    ),
    switch("no-new-keyring", |o, v| o.no_new_keyring = v, "keep the caller's session keyring"),
    value(
        "preserve-fds",
        "N",
        Kind::Number(|o, v| o.preserve_fds = v),
        "pass N more descriptors, after 0-2 and those of $LISTEN_FDS (default: 0)",
    ),
    switch(
        "cgroup-leaf",
        |o, v| o.cgroup_leaf = v,
        "put the process into a sub-cgroup, as a systemd or an engine inside needs (cgroup v2)",
    ),
    switch("strict", |o, v| o.strict = v, "fail on what this host cannot do, instead of warning about it"),
    switch(
        "allow-annotations",
        |o, v| o.allow_annotations = v,
        "follow annotations that change what is done, such as org.systemd.property.*",
    ),
    switch("dry-run", |o, v| o.dry_run = v, "print the plan, step by step, and do nothing"),
];

pub(crate) static VERBS: &[Verb] = &[
    Verb {
        name: Name::Create,
        word: "create",
        positional: Positional::Id,
        flags: &[BUNDLE, CREATE, HELP],
        doc: "build a container from a bundle, up to the point before its command runs",
        detail: "The bundle is a directory with a config.json of the OCI runtime specification and, usually, a root \
                 filesystem. The container then waits for `start`.",
        hidden: false,
    },
    Verb {
        name: Name::Start,
        word: "start",
        positional: Positional::Id,
        flags: &[HELP],
        doc: "run the command of a created container",
        detail: "Returns once the kernel has executed the command, or says why it could not.",
        hidden: false,
    },
    Verb {
        name: Name::State,
        word: "state",
        positional: Positional::Id,
        flags: &[HELP],
        doc: "print the state of a container as JSON",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Kill,
        word: "kill",
        positional: Positional::IdAndSignal,
        flags: &[
            &[short(
                'a',
                switch("all", |o, v| o.all = v, "signal every process of the container, not only the first"),
            )],
            HELP,
        ],
        doc: "send a signal to a container",
        detail: "The signal is a name, with or without SIG, or a number; TERM unless given. RTMIN+1 and RTMAX-1 are \
                 names too.",
        hidden: false,
    },
    Verb {
        name: Name::Delete,
        word: "delete",
        positional: Positional::Id,
        flags: &[
            &[short(
                'f',
                switch(
                    "force",
                    |o, v| o.force = v,
                    "kill the container first; a container that does not exist is no error",
                ),
            )],
            HELP,
        ],
        doc: "remove a container that has stopped, or was never started, and all that it held",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Run,
        word: "run",
        positional: Positional::Id,
        flags: &[
            BUNDLE,
            CREATE,
            &[
                short(
                    'd',
                    switch(
                        "detach",
                        |o, v| o.detach = v,
                        "return when the command runs, instead of when it has ended",
                    ),
                ),
                switch("keep", |o, v| o.keep = v, "do not delete the container when its command has ended"),
                switch(
                    "no-subreaper",
                    |o, v| o.no_subreaper = v,
                    "do not become the parent of the container's orphaned processes",
                ),
            ],
            HELP,
        ],
        doc: "create a container, start it, wait for it and delete it",
        detail: "Exits with the status of the command, or 128 and the number of the signal that ended it.",
        hidden: false,
    },
    Verb {
        name: Name::List,
        word: "list",
        positional: Positional::None,
        flags: &[
            &[
                short(
                    'f',
                    value(
                        "format",
                        "FORMAT",
                        Kind::Choice(&["table", "json"], |o, v| o.json = v == "json"),
                        "table (default) or json",
                    ),
                ),
                short('q', switch("quiet", |o, v| o.quiet = v, "print the IDs only")),
            ],
            HELP,
        ],
        doc: "list the containers under the root",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Events,
        word: "events",
        positional: Positional::Id,
        flags: &[
            &[
                switch("stats", |o, v| o.stats = v, "print what the container uses now, and exit"),
                value(
                    "interval",
                    "TIME",
                    Kind::Ignored,
                    "accepted for compatibility: it is of no effect once",
                ),
            ],
            HELP,
        ],
        doc: "print what a container uses of CPU, memory, block devices and networks, as JSON",
        detail: "One line, in runc's format, with pressure (PSI), memory events and network counters. This version \
                 needs --stats: it does not follow a container.",
        hidden: false,
    },
    Verb {
        name: Name::Spec,
        word: "spec",
        positional: Positional::None,
        flags: &[
            BUNDLE,
            &[switch("rootless", |o, v| o.rootless = v, "write a config that an ordinary user can run")],
            HELP,
        ],
        doc: "write a config.json to start from; never over an existing one",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Features,
        word: "features",
        positional: Positional::None,
        flags: &[HELP],
        doc: "print what this runtime can do, as JSON of the specification's features document",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Help,
        word: "help",
        positional: Positional::Command,
        flags: &[HELP],
        doc: "print help, in general or for one command",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Man,
        word: "man",
        positional: Positional::None,
        flags: &[HELP],
        doc: "print the manual page, as roff",
        detail: "",
        hidden: true,
    },
];

/// Verbs of runc that this version does not have. Podman asks whether `checkpoint --help` succeeds and whether
/// `restore` knows `--lsm-mount-context`; until the verbs exist, every way of calling them is answered no.
pub(crate) static LATER: &[&str] =
    &["exec", "ps", "pause", "resume", "update", "checkpoint", "restore", "wait"];

#[cfg(test)]
mod tests {
    use super::*;

    /// Both spellings of a flag, in the global scope and in each verb, name one flag only.
    #[test]
    fn names_are_unique_within_a_scope() {
        let scopes = VERBS.iter().map(|verb| (verb.word, verb.flags)).chain([("oar", GLOBAL)]);
        for (scope, flags) in scopes {
            let mut seen = Vec::new();
            for flag in flags.iter().copied().flatten() {
                for name in [Some(flag.name.to_string()), flag.short.map(String::from)].into_iter().flatten()
                {
                    assert!(!seen.contains(&name), "{scope}: {name} twice");
                    seen.push(name);
                }
            }
        }
    }

    #[test]
    fn each_flag_and_verb_is_described_as_its_kind_needs() {
        for flag in GLOBAL.iter().copied().flatten().chain(VERBS.iter().flat_map(Verb::every_flag)) {
            assert_eq!(matches!(flag.kind, Kind::Switch(_)), flag.value.is_empty(), "--{}", flag.name);
            assert!(!flag.doc.is_empty() && !flag.doc.ends_with('.'), "--{}", flag.name);
        }
        for verb in VERBS {
            assert!(!verb.doc.is_empty() && !verb.doc.ends_with('.'), "{}", verb.word);
            assert!(verb.detail.is_empty() || verb.detail.ends_with('.'), "{}", verb.word);
            assert!(!LATER.contains(&verb.word), "{} is both here and later", verb.word);
        }
    }
}
