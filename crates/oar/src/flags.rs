// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of everything that can be typed: global flags, verbs, their flags and positional arguments.
//! Nothing is parsed or printed here, and no flag is described anywhere else.
//! `parse` walks the table to fill [`Options`]; `help` and `generate` print the same table.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coracle_runtime::NetworkOptions;

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
    pub(crate) keep_groups: bool,
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
    /// `create` and `run`: `--network` and its companions.
    pub(crate) network: NetworkOptions,
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
    pub(crate) follow: bool,
    /// Seconds or `5s`, as it was typed.
    pub(crate) interval: Option<String>,

    pub(crate) process: Option<PathBuf>,
    pub(crate) tty: bool,
    pub(crate) cwd: Option<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: Option<String>,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) caps: Vec<String>,
    pub(crate) no_new_privs: bool,
    pub(crate) apparmor: Option<String>,
    pub(crate) process_label: Option<String>,
    pub(crate) ignore_paused: bool,
    pub(crate) cgroup: Vec<String>,
    /// Of the process that waits to be started: made, or started.
    pub(crate) exec_create: Option<String>,
    pub(crate) exec_start: Option<String>,

    /// `update`: a file or `-`, and what its other flags give, by their names, as it was typed.
    pub(crate) resources: Option<PathBuf>,
    pub(crate) limits: BTreeMap<&'static str, String>,
    pub(crate) rlimits: Vec<String>,

    /// `network create`, as it was typed.
    pub(crate) subnets: Vec<String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) ipv6: bool,
    pub(crate) mtu: u32,
    pub(crate) internal: bool,
    pub(crate) isolate: bool,
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
    /// Any text that is valid UTF-8.
    Text(fn(&mut Options, String)),
    /// Text with a shape of its own; the error says which rule it breaks.
    Shaped(fn(&mut Options, &str) -> Result<(), String>),
    /// Kept in [`Options::limits`] under the flag's name.
    Limit,
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
    Exec,
    Ps,
    Pause,
    Resume,
    Update,
    Wait,
    Events,
    Spec,
    Features,
    Doctor,
    NetworkCreate,
    NetworkList,
    NetworkInspect,
    NetworkRemove,
    NetworkPrune,
    Help,
    Man,
}

#[derive(Debug)]
pub(crate) struct Verb {
    pub(crate) name: Name,
    /// One word, or a group's and its own.
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
    /// An ID, and whatever comes after it, flags or not.
    IdAndWords(&'static str),
    OptionalId,
    /// The name of a network.
    Network,
    Command,
}

impl Positional {
    pub(crate) fn usage(self) -> &'static str {
        match self {
            Positional::None => "",
            Positional::Id => "ID",
            Positional::IdAndSignal => "ID [SIGNAL]",
            Positional::IdAndWords(shape) => shape,
            Positional::OptionalId => "[ID]",
            Positional::Network => "NAME",
            Positional::Command => "[COMMAND]",
        }
    }

    pub(crate) fn most(self) -> usize {
        match self {
            Positional::None => 0,
            Positional::Id | Positional::OptionalId | Positional::Network => 1,
            // A command may have two words.
            Positional::IdAndSignal | Positional::Command => 2,
            Positional::IdAndWords(_) => usize::MAX,
        }
    }
}

impl Verb {
    /// `network` of `network create`.
    pub(crate) fn group(&self) -> Option<&'static str> {
        self.word.split_once(' ').map(|(group, _)| group)
    }

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
        hidden(ALLOW_ANNOTATIONS),
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

pub(crate) const HELP: &[Flag] = &[short('h', switch("help", |o, v| o.help = v, "print help"))];

const BUNDLE: &[Flag] = &[short(
    'b',
    value(
        "bundle",
        "DIR",
        Kind::Directory(|o, v| o.bundle = Some(v)),
        "the directory of config.json (default: the current one)",
    ),
)];

/// Of every process that is made: create, run, exec.
const PROCESS: &[Flag] = &[
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
        "write the pid of the process here: digits only, all at once",
    ),
    value(
        "pidfd-socket",
        "SOCKET",
        Kind::File(|o, v| o.pidfd_socket = Some(v)),
        "send a pidfd of the process to this AF_UNIX socket",
    ),
    value(
        "preserve-fds",
        "N",
        Kind::Number(|o, v| o.preserve_fds = v),
        "pass N more descriptors, after 0-2 and those of $LISTEN_FDS (default: 0)",
    ),
];

/// Of create and run. Engines can add flags in front of a verb only (Podman's `--runtime-flag`), so it is taken there too.
const ALLOW_ANNOTATIONS: Flag = switch(
    "allow-annotations",
    |o, v| o.allow_annotations = v,
    "follow annotations that change what is done: org.systemd.property.*, org.coracle.*, \
     run.oci.keep_original_groups",
);

const CREATE: &[Flag] = &[
    switch(
        "no-pivot",
        |o, v| o.no_pivot = v,
        "move the root mount instead of pivot_root(2), as a ramdisk needs",
    ),
    switch("no-new-keyring", |o, v| o.no_new_keyring = v, "keep the caller's session keyring"),
    switch(
        "cgroup-leaf",
        |o, v| o.cgroup_leaf = v,
        "put the process into a sub-cgroup, as a systemd or an engine inside needs (cgroup v2)",
    ),
    switch("strict", |o, v| o.strict = v, "fail on what this host cannot do, instead of warning about it"),
    ALLOW_ANNOTATIONS,
    switch(
        "keep-groups",
        |o, v| o.keep_groups = v,
        "keep the caller's supplementary groups, for files that only they may use",
    ),
    switch("dry-run", |o, v| o.dry_run = v, "print the plan, step by step, and do nothing"),
];

/// Of create and run.
const CONNECT: &[Flag] = &[
    value(
        "network",
        "NETWORK",
        Kind::Shaped(|o, v| v.parse().map(|v| o.network.networks.push(v))),
        "none (a loopback alone), host, ns:PATH, or the name of a network, such as default; repeated, names give eth0, \
         eth1 and so on",
    ),
    short(
        'p',
        value(
            "publish",
            "PORT",
            Kind::Shaped(|o, v| v.parse().map(|v| o.network.publish.push(v))),
            "let a port of the host lead to the container's: [IP:][HOSTPORT:]PORT[/tcp|udp]; without HOSTPORT a free one, \
             which `state` tells; may be repeated",
        ),
    ),
    value(
        "ip",
        "ADDRESS",
        Kind::Shaped(|o, v| {
            let address = v.parse().map_err(|_| "is not an IP address".to_string());
            address.map(|address| o.network.addresses.push(address))
        }),
        "address of the container, in a subnet of one of its networks; may be repeated",
    ),
    value(
        "mac",
        "ADDRESS",
        Kind::Shaped(|o, v| v.parse().map(|v| o.network.mac = Some(v))),
        "MAC address of eth0",
    ),
    value(
        "dns",
        "ADDRESS",
        Kind::Shaped(|o, v| {
            let address = v.parse().map_err(|_| "is not an IP address".to_string());
            address.map(|address| o.network.dns.push(address))
        }),
        "name server of the container, instead of the host's; may be repeated",
    ),
    value(
        "hostname-entry",
        "NAME:ADDRESS",
        Kind::Shaped(|o, v| v.parse().map(|v| o.network.host_entries.push(v))),
        "line of the container's /etc/hosts; may be repeated",
    ),
];

const DETACH: &[Flag] = &[short(
    'd',
    switch("detach", |o, v| o.detach = v, "return when the command runs, instead of when it has ended"),
)];

const EXEC: &[Flag] = &[
    short(
        'p',
        value(
            "process",
            "FILE",
            Kind::File(|o, v| o.process = Some(v)),
            "take the process from this JSON file (a process object of the specification); other flags that \
             describe it, and arguments, are not taken then",
        ),
    ),
    short('t', switch("tty", |o, v| o.tty = v, "give the process a terminal")),
    value("cwd", "DIR", Kind::Text(|o, v| o.cwd = Some(v)), "working directory in the container"),
    short(
        'e',
        value("env", "NAME=VALUE", Kind::Text(|o, v| o.env.push(v)), "set a variable; may be repeated"),
    ),
    short(
        'u',
        value("user", "UID[:GID]", Kind::Text(|o, v| o.user = Some(v)), "numbers of the user and group"),
    ),
    short(
        'g',
        value(
            "additional-gids",
            "GID",
            Kind::Number(|o, v| o.additional_gids.push(v)),
            "number of a further group; may be repeated",
        ),
    ),
    short(
        'c',
        value("cap", "CAPABILITY", Kind::Text(|o, v| o.caps.push(v)), "add a capability; may be repeated"),
    ),
    switch("no-new-privs", |o, v| o.no_new_privs = v, "set no_new_privs"),
    value("apparmor", "PROFILE", Kind::Text(|o, v| o.apparmor = Some(v)), "AppArmor profile of the process"),
    value(
        "process-label",
        "LABEL",
        Kind::Text(|o, v| o.process_label = Some(v)),
        "SELinux label of the process",
    ),
    value(
        "cgroup",
        "PATH",
        Kind::Text(|o, v| o.cgroup.push(v)),
        "put the process into this sub-cgroup of the container's, CONTROLLER[,...]:PATH for one v1 hierarchy; may be \
         repeated",
    ),
    switch(
        "ignore-paused",
        |o, v| o.ignore_paused = v,
        "also in a paused container, where it waits to be resumed",
    ),
    value(
        "create",
        "NAME",
        Kind::Text(|o, v| o.exec_create = Some(v)),
        "make the process, under this name, and leave it before its first instruction until --start NAME",
    ),
    value("start", "NAME", Kind::Text(|o, v| o.exec_start = Some(v)), "run what --create NAME has made"),
];

const UPDATE: &[Flag] = &[
    short(
        'r',
        value(
            "resources",
            "FILE",
            Kind::File(|o, v| o.resources = Some(v)),
            "take the limits from this JSON file, or with - from stdin (linux.resources of the specification); other \
             flags are added to it",
        ),
    ),
    value("blkio-weight", "N", Kind::Limit, "share of block I/O, 10 to 1000"),
    value("cpu-period", "US", Kind::Limit, "length of a period for the CPU quota, microseconds"),
    value("cpu-quota", "US", Kind::Limit, "CPU time in each period, microseconds; -1 for no limit"),
    value("cpu-burst", "US", Kind::Limit, "CPU time that may be saved up, microseconds"),
    value("cpu-share", "N", Kind::Limit, "share of CPU time, relative to others"),
    value("cpu-rt-period", "US", Kind::Limit, "period of the real-time limit, microseconds (cgroup v1)"),
    value("cpu-rt-runtime", "US", Kind::Limit, "real-time CPU time in a period, microseconds (cgroup v1)"),
    value("cpu-idle", "0|1", Kind::Limit, "run only when nobody else wants the CPU"),
    value("cpuset-cpus", "LIST", Kind::Limit, "CPUs to use, as 0-3,7"),
    value("cpuset-mems", "LIST", Kind::Limit, "memory nodes to use"),
    value("memory", "BYTES", Kind::Limit, "memory limit: a number, or 64m, 2g; -1 for no limit"),
    value("memory-reservation", "BYTES", Kind::Limit, "memory that is protected, or -1"),
    value("memory-swap", "BYTES", Kind::Limit, "memory and swap together; -1 for no limit on swap"),
    hidden(value("kernel-memory", "BYTES", Kind::Ignored, "accepted for compatibility")),
    hidden(value("kernel-memory-tcp", "BYTES", Kind::Ignored, "accepted for compatibility")),
    value("pids-limit", "N", Kind::Limit, "processes and threads at once; -1 for no limit"),
    value(
        "rlimit",
        "NAME=SOFT[:HARD]",
        Kind::Text(|o, v| o.rlimits.push(v)),
        "limit of the first process, as nofile=1024:4096; may be repeated",
    ),
    value("oom-score-adj", "N", Kind::Limit, "of the first process, -1000 to 1000"),
    value("l3-cache-schema", "SCHEMA", Kind::Limit, "resctrl: L3 cache"),
    value("mem-bw-schema", "SCHEMA", Kind::Limit, "resctrl: memory bandwidth"),
];

const NETWORK: &[Flag] = &[
    value(
        "subnet",
        "SUBNET",
        Kind::Text(|o, v| o.subnets.push(v)),
        "the network's addresses, as 10.1.2.0/24; twice for one of IPv4 and one of IPv6 (default: an IPv4 one that \
         is free)",
    ),
    value(
        "gateway",
        "ADDRESS",
        Kind::Text(|o, v| o.gateways.push(v)),
        "the host's own address in the subnet (default: the first one); may be repeated",
    ),
    switch("ipv6", |o, v| o.ipv6 = v, "both IPv4 and IPv6: what --subnet does not give is chosen"),
    value("mtu", "BYTES", Kind::Number(|o, v| o.mtu = v), "the largest packet (default: the kernel's)"),
    switch(
        "internal",
        |o, v| o.internal = v,
        "its containers reach each other and the host's address in it, and nothing behind it",
    ),
    switch("isolate", |o, v| o.isolate = v, "it and other networks do not reach each other"),
];

pub(crate) static VERBS: &[Verb] = &[
    Verb {
        name: Name::Create,
        word: "create",
        positional: Positional::Id,
        flags: &[BUNDLE, PROCESS, CREATE, CONNECT, HELP],
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
            PROCESS,
            CREATE,
            CONNECT,
            DETACH,
            &[
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
        name: Name::Exec,
        word: "exec",
        positional: Positional::IdAndWords("ID COMMAND [ARGUMENT...]"),
        flags: &[PROCESS, DETACH, EXEC, HELP],
        doc: "run one more process in a container",
        detail: "What is not given is as for the container's own process. Exits with the status of the command, or 128 \
                 and the number of the signal that ended it; 255 when it could not be run.",
        hidden: false,
    },
    Verb {
        name: Name::Ps,
        word: "ps",
        positional: Positional::IdAndWords("ID [PS OPTION...]"),
        flags: &[
            &[short(
                'f',
                value(
                    "format",
                    "FORMAT",
                    Kind::Choice(&["table", "json"], |o, v| o.json = v == "json"),
                    "table (default), by ps(1), or json: the pids",
                ),
            )],
            HELP,
        ],
        doc: "list the processes of a container",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Pause,
        word: "pause",
        positional: Positional::Id,
        flags: &[HELP],
        doc: "stop all processes of a container where they are",
        detail: "Returns when all of them have stopped.",
        hidden: false,
    },
    Verb {
        name: Name::Resume,
        word: "resume",
        positional: Positional::Id,
        flags: &[HELP],
        doc: "let the processes of a paused container go on",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Update,
        word: "update",
        positional: Positional::Id,
        flags: &[UPDATE, HELP],
        doc: "change the limits of a container",
        detail: "What is not given stays as it is. All of it is done, or nothing.",
        hidden: false,
    },
    Verb {
        name: Name::Wait,
        word: "wait",
        positional: Positional::Id,
        flags: &[&[switch("json", |o, v| o.json = v, "print how it ended as JSON")], HELP],
        doc: "wait for the end of a container, and print its exit status",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::Events,
        word: "events",
        positional: Positional::OptionalId,
        flags: &[
            &[
                switch("stats", |o, v| o.stats = v, "print what the container uses now, and exit"),
                switch(
                    "follow",
                    |o, v| o.follow = v,
                    "print what happens, as it happens, until the container ends; of all containers without an ID",
                ),
                value(
                    "interval",
                    "TIME",
                    Kind::Text(|o, v| o.interval = Some(v)),
                    "print what the container uses every so often: 500ms, 5s (default), 1m",
                ),
            ],
            HELP,
        ],
        doc: "print what a container uses, or what happens to it, as JSON",
        detail: "Statistics are lines in runc's format, with pressure (PSI), memory events and network counters.",
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
        name: Name::Doctor,
        word: "doctor",
        positional: Positional::None,
        flags: &[
            &[switch("json", |o, v| o.json = v, "print an array of objects: name, status, detail, mend")],
            HELP,
        ],
        doc: "check whether this host can run containers, as root and as an ordinary user",
        detail: "Each line is ok, missing or note; below what is missing is what to run or set. Nothing is changed. Exits \
                 with 0 when containers of the caller can run, with 1 otherwise.",
        hidden: false,
    },
    Verb {
        name: Name::NetworkCreate,
        word: "network create",
        positional: Positional::Network,
        flags: &[NETWORK, HELP],
        doc: "define a network for containers",
        detail: "Its bridge is made by the first container that is connected to it. The network `default` need not be \
                 created; it can be, before its first use, to have other addresses.",
        hidden: false,
    },
    Verb {
        name: Name::NetworkList,
        word: "network ls",
        positional: Positional::None,
        flags: &[
            &[
                switch("json", |o, v| o.json = v, "print an array of definitions"),
                short('q', switch("quiet", |o, v| o.quiet = v, "print the names only")),
            ],
            HELP,
        ],
        doc: "list the networks",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::NetworkInspect,
        word: "network inspect",
        positional: Positional::Network,
        flags: &[HELP],
        doc: "print a network and its containers as JSON",
        detail: "Its definition, whether its bridge is up in this network namespace, and who has which address.",
        hidden: false,
    },
    Verb {
        name: Name::NetworkRemove,
        word: "network rm",
        positional: Positional::Network,
        flags: &[HELP],
        doc: "remove a network that no container is connected to, with its bridge and rules",
        detail: "",
        hidden: false,
    },
    Verb {
        name: Name::NetworkPrune,
        word: "network prune",
        positional: Positional::None,
        flags: &[HELP],
        doc: "remove every network without containers but `default`, and print their names",
        detail: "Addresses and ports of containers that ended without being deleted become free.",
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
pub(crate) static LATER: &[&str] = &["checkpoint", "restore"];

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
