// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the words of the command line to what they ask for, by the flag table.
//! Opens nothing and reads no environment: a pure function of its arguments.
//! What comes out goes to `main`, with the options typed so far even on failure: an error belongs in their log.

// Go programs parse flags unlike getopt(3), and engines rely on it: one dash or two mean the same (`-no-subreaper`),
// any flag may be `--flag=value`, so may a switch (`--systemd-cgroup=true`), and letters do not combine. That is why
// this walk is by hand: a getopt-style parser takes `-bundle x` for `-b undle` and a bundle called `undle`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::vec::IntoIter;

use coracle_runtime::{Code, Error, Id, Result, Signal};

use crate::flags::{Flag, GLOBAL, HELP, Kind, LATER, Name, Options, Positional, VERBS, Verb};

const MOST_QUOTED: usize = 80;

#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) options: Options,
    pub(crate) understood: Understood,
    pub(crate) action: Result<Action>,
}

/// What goes in front of an error, and after it.
#[derive(Debug, Default)]
pub(crate) struct Understood {
    pub(crate) verb: Option<&'static str>,
    pub(crate) id: Option<String>,
    /// No command at all: the error is followed by the usage.
    pub(crate) nothing: bool,
}

pub(crate) enum Action {
    Help(Option<&'static Verb>),
    /// Of the commands that begin with this word.
    HelpGroup(&'static str),
    Version,
    Generate(String),
    Create(Id),
    Start(Id),
    State(Id),
    Kill(Id, Signal),
    Delete(Id),
    Run(Id),
    List,
    Exec(Id, Vec<String>),
    Ps(Id, Vec<OsString>),
    Pause(Id),
    Resume(Id),
    Update(Id),
    Wait(Id),
    Events(Option<Id>),
    Spec,
    Features,
    Doctor,
    NetworkCreate(String),
    NetworkList,
    NetworkInspect(String),
    NetworkRemove(String),
    NetworkPrune,
}

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Action::Help(None) => f.write_str("help"),
            Action::Help(Some(verb)) => write!(f, "help {}", verb.word),
            Action::HelpGroup(group) => write!(f, "help {group}"),
            Action::Version => f.write_str("version"),
            Action::Generate(page) => write!(f, "generate {page}"),
            Action::Create(id) => write!(f, "create {}", id.as_str()),
            Action::Start(id) => write!(f, "start {}", id.as_str()),
            Action::State(id) => write!(f, "state {}", id.as_str()),
            Action::Kill(id, signal) => write!(f, "kill {} {}", id.as_str(), signal.number()),
            Action::Delete(id) => write!(f, "delete {}", id.as_str()),
            Action::Run(id) => write!(f, "run {}", id.as_str()),
            Action::List => f.write_str("list"),
            Action::Exec(id, words) => write!(f, "exec {} {words:?}", id.as_str()),
            Action::Ps(id, words) => write!(f, "ps {} {words:?}", id.as_str()),
            Action::Pause(id) => write!(f, "pause {}", id.as_str()),
            Action::Resume(id) => write!(f, "resume {}", id.as_str()),
            Action::Update(id) => write!(f, "update {}", id.as_str()),
            Action::Wait(id) => write!(f, "wait {}", id.as_str()),
            Action::Events(None) => f.write_str("events"),
            Action::Events(Some(id)) => write!(f, "events {}", id.as_str()),
            Action::Spec => f.write_str("spec"),
            Action::Features => f.write_str("features"),
            Action::Doctor => f.write_str("doctor"),
            Action::NetworkCreate(name) => write!(f, "network create {name}"),
            Action::NetworkList => f.write_str("network ls"),
            Action::NetworkInspect(name) => write!(f, "network inspect {name}"),
            Action::NetworkRemove(name) => write!(f, "network rm {name}"),
            Action::NetworkPrune => f.write_str("network prune"),
        }
    }
}

/// `arguments` without the program's name.
pub(crate) fn parse(arguments: Vec<OsString>) -> Parsed {
    let (mut options, mut understood) = (Options::default(), Understood::default());
    let action = command(arguments.into_iter(), &mut options, &mut understood);
    Parsed { options, understood, action }
}

fn command(
    mut arguments: IntoIter<OsString>,
    options: &mut Options,
    understood: &mut Understood,
) -> Result<Action> {
    let word = positional(&mut arguments, GLOBAL, options, &mut false)?;
    if options.version {
        return Ok(Action::Version);
    }
    if let Some(page) = options.generate.take() {
        return Ok(Action::Generate(page));
    }
    let Some(word) = word else {
        return match options.help {
            true => Ok(Action::Help(None)),
            false => {
                understood.nothing = true;
                Err(invalid("a command is missing"))
            }
        };
    };
    let verb = match find_group(&word) {
        None => find_verb(&word)?,
        Some(group) => {
            understood.verb = Some(group);
            let second = positional(&mut arguments, GROUP, options, &mut false)?;
            match second {
                _ if options.help => return Ok(Action::HelpGroup(group)),
                None => return Err(invalid("a command is missing").hint(usage_of_group(group))),
                Some(second) => find_in_group(group, &second)?,
            }
        }
    };
    understood.verb = Some(verb.word);
    if options.help {
        return Ok(Action::Help(Some(verb)));
    }

    let mut words = Vec::new();
    let mut ended = false;
    while let Some(word) = positional(&mut arguments, verb.flags, options, &mut ended)? {
        // The first one too many is named, whatever follows it.
        if words.len() == verb.positional.most() && !options.help {
            return Err(invalid(format!("unexpected argument {}", quoted(&word))).hint(usage(verb)));
        }
        words.push(word);
        if matches!(verb.positional, Positional::IdAndWords(_)) {
            words.extend(arguments.by_ref());
        }
    }
    if options.help {
        return Ok(Action::Help(Some(verb)));
    }

    let none_given = words.is_empty();
    let mut words = words.into_iter();
    let mut id = || -> Result<Id> {
        let Some(word) = words.next() else { return Err(invalid("an ID is missing").hint(usage(verb))) };
        let text = word.to_string_lossy().into_owned();
        // Legal to the library; on a command line it is a flag in the wrong place, now or in somebody's script.
        if text.starts_with('-') {
            return Err(
                invalid(format!("an ID must not start with '-' (got {})", quoted(&word))).hint(usage(verb))
            );
        }
        let id = Id::new(&text)?;
        understood.id = Some(text);
        Ok(id)
    };
    Ok(match verb.name {
        Name::Create => Action::Create(id()?),
        Name::Start => Action::Start(id()?),
        Name::State => Action::State(id()?),
        Name::Delete => Action::Delete(id()?),
        Name::Run => Action::Run(id()?),
        Name::Kill => {
            let id = id()?;
            let signal = words.next().unwrap_or_else(|| "TERM".into());
            Action::Kill(id, Signal::parse(&signal.to_string_lossy())?)
        }
        Name::List => Action::List,
        Name::Exec => {
            let id = id()?;
            let text = |word: OsString| {
                word.into_string().map_err(|word| invalid(format!("{} is not valid UTF-8", quoted(&word))))
            };
            Action::Exec(id, words.map(text).collect::<Result<_>>()?)
        }
        Name::Ps => {
            let id = id()?;
            Action::Ps(id, words.collect())
        }
        Name::Pause => Action::Pause(id()?),
        Name::Resume => Action::Resume(id()?),
        Name::Update => Action::Update(id()?),
        Name::Wait => Action::Wait(id()?),
        // Of all containers only what happens to them.
        Name::Events if options.follow && none_given => Action::Events(None),
        Name::Events => Action::Events(Some(id()?)),
        Name::Spec => Action::Spec,
        Name::Features => Action::Features,
        Name::Doctor => Action::Doctor,
        Name::Man => Action::Generate("man".into()),
        Name::Help => match words.next() {
            None => Action::Help(None),
            Some(word) => match (find_group(&word), words.next()) {
                (Some(group), None) => Action::HelpGroup(group),
                (Some(group), Some(second)) => Action::Help(Some(find_in_group(group, &second)?)),
                (None, None) => Action::Help(Some(find_verb(&word)?)),
                (None, Some(second)) => {
                    return Err(invalid(format!("unexpected argument {}", quoted(&second))).hint(usage(verb)));
                }
            },
        },
        Name::NetworkList => Action::NetworkList,
        Name::NetworkCreate => Action::NetworkCreate(network_name(words.next(), verb, understood)?),
        Name::NetworkInspect => Action::NetworkInspect(network_name(words.next(), verb, understood)?),
        Name::NetworkRemove => Action::NetworkRemove(network_name(words.next(), verb, understood)?),
        Name::NetworkPrune => Action::NetworkPrune,
    })
}

/// Whether a network can be called so is the library's to say.
fn network_name(word: Option<OsString>, verb: &Verb, understood: &mut Understood) -> Result<String> {
    let word = word.ok_or_else(|| invalid("a name is missing").hint(usage(verb)))?;
    let name = word.into_string().map_err(|word| invalid(format!("{} is not valid UTF-8", quoted(&word))))?;
    understood.id = Some(name.clone());
    Ok(name)
}

/// One line that shows the shape of a verb.
pub(crate) fn usage(verb: &Verb) -> String {
    let shape = match verb.positional {
        Positional::None => String::new(),
        other => format!(" {}", other.usage()),
    };
    format!("usage: oar [GLOBAL FLAGS] {} [FLAGS]{shape}", verb.word)
}

fn find_verb(word: &OsStr) -> Result<&'static Verb> {
    let text = word.to_string_lossy();
    // `h` is an alias of Go's command line package.
    let wanted = if text == "h" { "help" } else { &*text };
    if let Some(verb) = VERBS.iter().find(|verb| verb.word == wanted && verb.group().is_none()) {
        return Ok(verb);
    }
    if LATER.contains(&wanted) {
        return Err(Error::new(Code::Unsupported, format!("{wanted} is not in this version")));
    }
    let visible = VERBS.iter().filter(|verb| !verb.hidden).map(|verb| verb.group().unwrap_or(verb.word));
    let error = invalid(format!("unknown command {}", quoted(word)));
    Err(match nearest(wanted, visible) {
        Some(verb) => error.hint(format!("did you mean {verb}?")),
        None => error.hint("`oar help` lists the commands"),
    })
}

/// What may stand between a group's word and the next.
const GROUP: &[&[Flag]] = &[HELP];

fn find_group(word: &OsStr) -> Option<&'static str> {
    VERBS.iter().filter_map(Verb::group).find(|group| word == *group)
}

pub(crate) fn members(group: &str) -> impl Iterator<Item = &'static Verb> {
    VERBS.iter().filter(move |verb| verb.group() == Some(group))
}

fn find_in_group(group: &'static str, word: &OsStr) -> Result<&'static Verb> {
    let wanted = format!("{group} {}", word.to_string_lossy());
    if let Some(verb) = members(group).find(|verb| verb.word == wanted) {
        return Ok(verb);
    }
    let error = invalid(format!("unknown command {}", quoted(word)));
    Err(match nearest(&wanted, members(group).map(|verb| verb.word)) {
        Some(verb) => error.hint(format!("did you mean {verb}?")),
        None => error.hint(usage_of_group(group)),
    })
}

pub(crate) fn usage_of_group(group: &str) -> String {
    let words: Vec<&str> =
        members(group).filter_map(|verb| verb.word.split_once(' ')).map(|(_, second)| second).collect();
    format!("usage: oar [GLOBAL FLAGS] {group} {}", words.join("|"))
}

/// The next word that is not a flag; flags before it are applied. `ended` is whether `--` went by.
fn positional(
    arguments: &mut IntoIter<OsString>,
    scope: &'static [&'static [Flag]],
    options: &mut Options,
    ended: &mut bool,
) -> Result<Option<OsString>> {
    while let Some(word) = arguments.next() {
        let bytes = word.as_bytes();
        if *ended || bytes.len() < 2 || bytes[0] != b'-' {
            return Ok(Some(word));
        }
        if bytes == b"--" {
            *ended = true;
            continue;
        }
        let body = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
        let (name, attached) = match body.iter().position(|byte| *byte == b'=') {
            Some(at) => (&body[..at], Some(OsStr::from_bytes(&body[at + 1..]))),
            None => (body, None),
        };
        let shown = OsStr::from_bytes(&bytes[..bytes.len() - body.len() + name.len()]).to_string_lossy();
        let flag = find_flag(name, scope).ok_or_else(|| unknown_flag(&shown, name, scope))?;
        apply(flag, &shown, attached, arguments, options)?;
    }
    Ok(None)
}

fn find_flag(name: &[u8], scope: &'static [&'static [Flag]]) -> Option<&'static Flag> {
    let is_named = |flag: &&Flag| {
        flag.name.as_bytes() == name || flag.short.is_some_and(|letter| name == [letter as u32 as u8])
    };
    scope.iter().copied().flatten().find(is_named)
}

fn unknown_flag(shown: &str, name: &[u8], scope: &'static [&'static [Flag]]) -> Error {
    let error = invalid(format!("flag provided but not defined: {}", short(shown)));
    if find_flag(name, GLOBAL).is_some() {
        return error.hint(format!("{shown} is a global flag: it goes before the command"));
    }
    if name.iter().all(u8::is_ascii_digit) {
        return error.hint("a signal is written without a dash");
    }
    let visible = scope.iter().copied().flatten().filter(|flag| !flag.hidden).map(|flag| flag.name);
    match nearest(&String::from_utf8_lossy(name), visible) {
        Some(flag) => error.hint(format!("did you mean --{flag}?")),
        None => error,
    }
}

fn apply(
    flag: &'static Flag,
    shown: &str,
    attached: Option<&OsStr>,
    arguments: &mut IntoIter<OsString>,
    options: &mut Options,
) -> Result<()> {
    if let Kind::Switch(set) = flag.kind {
        let on = match attached {
            None => true,
            Some(text) => boolean(text).ok_or_else(|| {
                invalid(format!("invalid value {} for {shown}: must be true or false", quoted(text)))
            })?,
        };
        set(options, on);
        return Ok(());
    }
    // The next word is the value, whatever it looks like. Podman reads these words of the error.
    let value = match attached {
        Some(text) => text.to_os_string(),
        None => arguments.next().ok_or_else(|| invalid(format!("flag needs an argument: {shown}")))?,
    };
    let wrong = |rule: String| invalid(format!("invalid value {} for {shown}: {rule}", quoted(&value)));
    match flag.kind {
        Kind::Switch(_) | Kind::Ignored => {}
        Kind::Directory(set) | Kind::File(set) => {
            if value.is_empty() {
                return Err(wrong("the path is empty".into()));
            }
            set(options, PathBuf::from(value));
        }
        Kind::Text(set) => match value.to_str() {
            Some(text) => set(options, text.to_string()),
            None => return Err(wrong("it is not valid UTF-8".into())),
        },
        Kind::Shaped(set) => match value.to_str() {
            Some(text) => set(options, text).map_err(wrong)?,
            None => return Err(wrong("it is not valid UTF-8".into())),
        },
        Kind::Limit => match value.to_str() {
            Some(text) => drop(options.limits.insert(flag.name, text.to_string())), // the last one counts
            None => return Err(wrong("it is not valid UTF-8".into())),
        },
        Kind::Number(set) => match value.to_str().and_then(|text| text.parse().ok()) {
            Some(number) => set(options, number),
            None => return Err(wrong(format!("must be a number from 0 to {}", u32::MAX))),
        },
        Kind::Choice(choices, set) => match choices.iter().find(|choice| value == **choice) {
            Some(choice) => set(options, choice),
            None => return Err(wrong(format!("must be one of {}", choices.join(", ")))),
        },
    }
    Ok(())
}

/// The words of Go's `strconv.ParseBool`.
fn boolean(text: &OsStr) -> Option<bool> {
    match text.to_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The candidate that a slip of the fingers turns into `typed`: at most one edit in three letters.
fn nearest<'a>(typed: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody mistypes a kilobyte; the table below is quadratic.
    if typed.len() > 64 {
        return None;
    }
    candidates
        .map(|candidate| (distance(typed, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.len().div_ceil(3))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: insert, remove, replace, or swap two neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut edits = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                edits = edits.min(rows[i - 2][j - 2] + 1);
            }
            row.push(edits);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// What was typed, for an error: in quotes, bytes that are not text escaped, and no longer than a line.
fn quoted(word: &OsStr) -> String {
    let text = format!("{word:?}");
    match text.char_indices().nth(MOST_QUOTED) {
        None => text,
        Some((at, _)) => format!("{}\"...", &text[..at]),
    }
}

fn short(text: &str) -> String {
    text.chars().take(MOST_QUOTED).collect()
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::Invalid, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn words(line: &[&str]) -> Parsed {
        parse(line.iter().map(OsString::from).collect())
    }

    /// The action of a command line without empty arguments or spaces in them, and its options.
    fn accepted(line: &str) -> (String, Options) {
        let parsed = words(&line.split_whitespace().collect::<Vec<_>>());
        match parsed.action {
            Ok(action) => (format!("{action:?}"), parsed.options),
            Err(error) => panic!("{line}: {error}"),
        }
    }

    /// The message and the hint.
    fn refused(line: &[&str]) -> String {
        match words(line).action {
            Ok(action) => panic!("{line:?} is taken for {action:?}"),
            Err(error) => format!("{error}; {}", error.hint.as_deref().unwrap_or_default()),
        }
    }

    #[test]
    fn the_habits_of_go_programs() {
        let none = Options::default;
        let path = |text: &str| Some(PathBuf::from(text));
        let bundle = |text| Options { bundle: path(text), ..none() };
        let cases: Vec<(&str, &str, Options)> = vec![
            // Each way to give a value.
            ("create --bundle /b c", "create c", bundle("/b")),
            ("create --bundle=/b c", "create c", bundle("/b")),
            ("create -bundle /b c", "create c", bundle("/b")),
            ("create -bundle=/b c", "create c", bundle("/b")),
            ("create -b /b c", "create c", bundle("/b")),
            ("create -b=/b c", "create c", bundle("/b")),
            ("create --b /b c", "create c", bundle("/b")),
            // A value may hold '=', and look like a flag.
            ("create --bundle=a=b c", "create c", bundle("a=b")),
            ("create --bundle --keep c", "create c", bundle("--keep")),
            // The last one counts; conmon-rs gives some twice.
            ("create -b /a --bundle /b c", "create c", bundle("/b")),
            (
                "--root=/r --root /s --systemd-cgroup --systemd-cgroup create c",
                "create c",
                Options { root: path("/s"), systemd_cgroup: true, ..none() },
            ),
            // Switches.
            ("run -no-subreaper c", "run c", Options { no_subreaper: true, ..none() }),
            ("run -d -keep c", "run c", Options { detach: true, keep: true, ..none() }),
            ("run --detach=true --keep=false c", "run c", Options { detach: true, ..none() }),
            ("--systemd-cgroup=true state c", "state c", Options { systemd_cgroup: true, ..none() }),
            ("--systemd-cgroup --systemd-cgroup=F state c", "state c", none()),
            (
                "--systemd-cgroup=1 --debug=t state c",
                "state c",
                Options { systemd_cgroup: true, debug: true, ..none() },
            ),
            // Flags before and after the positional arguments, of which there is a fixed number.
            ("kill --all c 9", "kill c 9", Options { all: true, ..none() }),
            ("kill -a c KILL", "kill c 9", Options { all: true, ..none() }),
            ("kill c --all 9", "kill c 9", Options { all: true, ..none() }),
            ("kill c 9 --all", "kill c 9", Options { all: true, ..none() }),
            ("kill c", "kill c 15", none()),
            ("delete c --force", "delete c", Options { force: true, ..none() }),
            ("delete -f c", "delete c", Options { force: true, ..none() }),
            ("state -- c", "state c", none()),
            ("-- state c", "state c", none()),
            // As containerd, podman and conmon-rs call.
            (
                "--root /run/r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p \
                 --console-socket /s --no-pivot --no-new-keyring --preserve-fds 3 --pidfd-socket /q c",
                "create c",
                Options {
                    root: path("/run/r"),
                    log: path("/l"),
                    json_log: true,
                    systemd_cgroup: true,
                    bundle: path("/b"),
                    pid_file: path("/p"),
                    console_socket: path("/s"),
                    pidfd_socket: path("/q"),
                    no_pivot: true,
                    no_new_keyring: true,
                    preserve_fds: 3,
                    ..none()
                },
            ),
            (
                "create --cgroup-leaf --strict -allow-annotations --keep-groups c",
                "create c",
                Options {
                    cgroup_leaf: true,
                    strict: true,
                    allow_annotations: true,
                    keep_groups: true,
                    ..none()
                },
            ),
            (
                "--allow-annotations --root /r kill --all c",
                "kill c 15",
                Options { allow_annotations: true, root: path("/r"), all: true, ..none() },
            ),
            (
                "run --strict=true --cgroup-leaf=false --allow-annotations=f c",
                "run c",
                Options { strict: true, ..none() },
            ),
            (
                "--log-format=json --log /l start c",
                "start c",
                Options { log: path("/l"), json_log: true, ..none() },
            ),
            ("--rootless=true --rootless auto --criu criu state c", "state c", none()),
            ("list --format=json", "list", Options { json: true, ..none() }),
            ("list -f json -f table -q", "list", Options { quiet: true, ..none() }),
            ("spec --rootless -b /b", "spec", Options { rootless: true, bundle: path("/b"), ..none() }),
            ("create --dry-run c", "create c", Options { dry_run: true, ..none() }),
            ("features", "features", none()),
            ("doctor --json", "doctor", Options { json: true, ..none() }),
            // What follows the ID is the command's, whatever it looks like.
            (
                "exec -t --user 1:2 -e A=b --env C=d -c CAP_A c sh -c --help -- -t",
                "exec c [\"sh\", \"-c\", \"--help\", \"--\", \"-t\"]",
                Options {
                    tty: true,
                    user: Some("1:2".into()),
                    env: vec!["A=b".into(), "C=d".into()],
                    caps: vec!["CAP_A".into()],
                    ..none()
                },
            ),
            ("ps -f json c -ef --forest", "ps c [\"-ef\", \"--forest\"]", Options { json: true, ..none() }),
            (
                "update --memory 64m --memory=128m --cpu-quota -1 c",
                "update c",
                Options { limits: [("memory", "128m".into()), ("cpu-quota", "-1".into())].into(), ..none() },
            ),
            ("events --follow", "events", Options { follow: true, ..none() }),
            ("events --interval 5s c", "events c", Options { interval: Some("5s".into()), ..none() }),
            // Help and version.
            ("--version", "version", Options { version: true, ..none() }),
            ("-v", "version", Options { version: true, ..none() }),
            ("--help", "help", Options { help: true, ..none() }),
            ("-h", "help", Options { help: true, ..none() }),
            ("help", "help", none()),
            ("h", "help", none()),
            ("help kill", "help kill", none()),
            ("kill --help", "help kill", Options { help: true, ..none() }),
            ("kill -h a b c", "help kill", Options { help: true, ..none() }),
            ("--help kill", "help kill", Options { help: true, ..none() }),
            ("--generate man", "generate man", none()),
            ("--generate=complete-zsh", "generate complete-zsh", none()),
            ("man", "generate man", none()),
        ];
        for (line, action, options) in cases {
            assert_eq!(accepted(line), (action.to_string(), options), "{line}");
        }
    }

    /// Each row: the words, and parts of what is answered. B numbers are those of the research on bad inputs.
    #[test]
    fn bad_command_lines_are_refused_with_the_reason() {
        let cases: &[(&[&str], &[&str])] = &[
            // B-112: no command; unknown command; typo.
            (&[], &["a command is missing"]),
            (&["--debug"], &["a command is missing"]),
            (&["frobnicate"], &["unknown command \"frobnicate\"", "oar help"]),
            (&["creat", "c"], &["unknown command \"creat\"", "did you mean create?"]),
            (&["strat", "c"], &["did you mean start?"]),
            (&["", "c"], &["unknown command \"\""]),
            (&["-"], &["unknown command \"-\""]),
            (&["help", "kil"], &["unknown command \"kil\"", "did you mean kill?"]),
            (&["help", "kill", "more"], &["unexpected argument \"more\""]),
            // B-113: unknown flag; flag after --; missing value.
            (&["--bogus", "create", "c"], &["flag provided but not defined: --bogus"]),
            (&["-bogus=1", "create", "c"], &["flag provided but not defined: -bogus;"]),
            (&["create", "--bundel", "x", "c"], &["not defined: --bundel", "did you mean --bundle?"]),
            (&["create", "-bundel", "x", "c"], &["not defined: -bundel", "did you mean --bundle?"]),
            (&["create", "-bx", "c"], &["not defined: -bx"]),
            (&["create", "--=", "c"], &["not defined: --"]),
            (&["create", "-=x", "c"], &["not defined: -"]),
            (&["create", "c", "--root", "/r"], &["--root is a global flag: it goes before the command"]),
            (&["--all", "kill", "c"], &["not defined: --all"]),
            (&["start", "--force", "c"], &["not defined: --force"]),
            // Decided at create, and only there.
            (&["start", "--strict", "c"], &["not defined: --strict"]),
            (&["delete", "--cgroup-leaf", "c"], &["not defined: --cgroup-leaf"]),
            (&["--strict", "create", "c"], &["not defined: --strict"]),
            (&["create", "--strict=2", "c"], &["\"2\" for --strict", "true or false"]),
            (&["kill", "c", "-9"], &["not defined: -9", "without a dash"]),
            (&["create", "--", "--bundle"], &["an ID must not start with '-' (got \"--bundle\")"]),
            (&["create", "c", "--", "--bundle"], &["unexpected argument \"--bundle\""]),
            (&["create", "--bundle"], &["flag needs an argument: --bundle"]),
            (&["create", "-b"], &["flag needs an argument: -b"]),
            (&["--root"], &["flag needs an argument: --root"]),
            (&["--systemd-cgroup=maybe", "state", "c"], &["\"maybe\" for --systemd-cgroup", "true or false"]),
            (&["run", "-d=", "c"], &["invalid value \"\" for -d"]),
            (&["--log-format", "yaml", "state", "c"], &["\"yaml\" for --log-format", "one of text, json"]),
            (&["--rootless", "maybe", "state", "c"], &["\"maybe\" for --rootless"]),
            (&["list", "-f", "xml"], &["\"xml\" for -f", "one of table, json"]),
            (&["--generate", "pdf"], &["\"pdf\" for --generate"]),
            // B-114: missing id; extra arguments.
            (&["create"], &["an ID is missing", "usage: oar [GLOBAL FLAGS] create [FLAGS] ID"]),
            (&["start"], &["an ID is missing"]),
            (&["state"], &["an ID is missing"]),
            (&["kill"], &["an ID is missing", "ID [SIGNAL]"]),
            (&["delete"], &["an ID is missing"]),
            (&["run"], &["an ID is missing"]),
            (&["start", "a", "b"], &["unexpected argument \"b\""]),
            (&["kill", "a", "9", "c"], &["unexpected argument \"c\""]),
            (&["list", "a"], &["unexpected argument \"a\"", "usage: oar [GLOBAL FLAGS] list [FLAGS]"]),
            // B-115: invalid id. The alphabet is the library's business; here, that nothing goes around it.
            (&["state", ""], &[]),
            (&["state", ".."], &[]),
            (&["delete", "a/b"], &[]),
            (&["kill", "a b", "9"], &[]),
            (&["create", "é"], &[]),
            (&["run", "a\n"], &[]),
            (&["start", "--", "-f"], &[]),
            // B-119: signals.
            (&["kill", "c", "SIGFOO"], &[]),
            (&["kill", "c", "0"], &[]),
            (&["kill", "c", "65"], &[]),
            (&["kill", "c", "--", "-1"], &[]),
            (&["kill", "c", "999999999999"], &[]),
            (&["kill", "c", ""], &[]),
            // B-124: --preserve-fds. Whether the descriptors are open is looked up later.
            (&["create", "--preserve-fds", "-1", "c"], &["\"-1\" for --preserve-fds", "a number from 0"]),
            (&["create", "--preserve-fds", "99999999999", "c"], &["\"99999999999\" for --preserve-fds"]),
            (&["create", "--preserve-fds=", "c"], &["\"\" for --preserve-fds"]),
            // B-125: an empty path is a variable that somebody forgot to set.
            (&["create", "--pid-file", "", "c"], &["\"\" for --pid-file: the path is empty"]),
            (&["create", "--bundle=", "c"], &["the path is empty"]),
            (&["--root", "", "state", "c"], &["the path is empty"]),
            // Later versions.
            (&["events", "--stats"], &["an ID is missing"]),
            (&["checkpoint", "--help"], &["checkpoint is not in this version"]),
            (&["help", "restore"], &["restore is not in this version"]),
            // What follows the ID is the command's.
            (&["exec", "-t"], &["an ID is missing", "exec [FLAGS] ID COMMAND [ARGUMENT...]"]),
            (&["exec", "--frob", "c", "sh"], &["not defined: --frob"]),
            (&["network"], &["a command is missing", "network create|ls|inspect|rm|prune"]),
            (&["network", "creat"], &["unknown command \"creat\"", "did you mean network create?"]),
            (&["network", "frobnicate"], &["unknown command \"frobnicate\"", "create|ls|inspect|rm|prune"]),
            (&["network", "--mtu", "5"], &["not defined: --mtu"]),
            (&["network create"], &["unknown command \"network create\""]),
            (&["netwrk"], &["did you mean network?"]),
            (&["network", "rm"], &["a name is missing", "network rm [FLAGS] NAME"]),
            (&["network", "rm", "a", "b"], &["unexpected argument \"b\""]),
            (&["network", "rm", "--mtu", "5", "a"], &["not defined: --mtu"]),
            (&["network", "ls", "a"], &["unexpected argument \"a\""]),
            (&["help", "list", "x"], &["unexpected argument \"x\""]),
            (&["help", "network", "x"], &["unknown command \"x\""]),
            (&["exec", "--user"], &["flag needs an argument: --user"]),
            (&["update", "--memory"], &["flag needs an argument: --memory"]),
            (&["pause", "c", "d"], &["unexpected argument \"d\""]),
        ];
        for (line, parts) in cases {
            let answer = refused(line);
            for part in *parts {
                assert!(answer.contains(part), "{line:?}: {part:?} is not in {answer:?}");
            }
        }
    }

    /// B-133: bytes that are not UTF-8 are legal in paths, and escaped in errors.
    #[test]
    fn arguments_are_bytes() {
        let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let parsed = parse(vec![
            "create".into(),
            raw(b"--bundle=/\xff"),
            "-pid-file".into(),
            raw(b"\xfe\n"),
            "c".into(),
        ]);
        assert!(parsed.action.is_ok());
        assert_eq!(parsed.options.bundle, Some(PathBuf::from(raw(b"/\xff"))));
        assert_eq!(parsed.options.pid_file, Some(PathBuf::from(raw(b"\xfe\n"))));

        for (words, part) in [
            (vec![raw(b"\xff")], "unknown command \"\\xFF\""),
            (vec!["list".into(), raw(b"a\xff\n")], "unexpected argument \"a\\xFF\\n\""),
            (vec![raw(b"--log-format=\xff")], "invalid value \"\\xFF\" for --log-format"),
            (vec!["list".into(), raw(b"--\xff")], "not defined: --\u{fffd}"),
            (vec!["state".into(), raw(b"\xff")], ""),
        ] {
            let error = parse(words).action.unwrap_err();
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    /// An error is logged where the flags before it said, and names what was understood before it.
    #[test]
    fn what_came_before_an_error_is_kept() {
        let parsed = words(&["--log", "/l", "--log-format", "json", "kill", "c", "FOO"]);
        assert!(parsed.action.is_err());
        assert_eq!(parsed.options.log, Some("/l".into()));
        assert!(parsed.options.json_log);
        assert_eq!((parsed.understood.verb, parsed.understood.id.as_deref()), (Some("kill"), Some("c")));
        assert!(!parsed.understood.nothing);
        assert!(words(&["--debug"]).understood.nothing);
        assert!(words(&["--bogus"]).action.is_err() && !words(&["--bogus"]).understood.nothing);
    }

    #[test]
    fn slips_of_the_fingers_are_one_edit_each() {
        for (a, b, edits) in [
            ("", "", 0),
            ("kill", "kill", 0),
            ("kil", "kill", 1),
            ("klil", "kill", 1),
            ("start", "state", 2),
            ("", "run", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), ["run"].into_iter()), None);
    }

    /// Every line of three words of an awkward vocabulary: no panic, and an error says something.
    #[test]
    fn no_combination_of_words_is_too_awkward() {
        let vocabulary: Vec<OsString> = [
            "",
            "-",
            "--",
            "---",
            "=",
            "-=",
            "--=",
            "-b",
            "-b=",
            "--bundle",
            "--bundle=",
            "-9",
            "--root",
            "-h",
            "--generate",
            "run",
            "kill",
            "list",
            "help",
            "exec",
            "c",
            "é",
        ]
        .iter()
        .map(OsString::from)
        .chain([OsString::from_vec(b"-\xff=\xff".to_vec()), OsString::from("é".repeat(5000))])
        .collect();
        let base = vocabulary.len();
        let mut refused = 0;
        for number in 0..base.pow(3) {
            let digits = (0..3).map(|place| number / base.pow(place) % base);
            let line: Vec<OsString> = digits.map(|digit| vocabulary[digit].clone()).collect();
            if let Err(error) = parse(line).action {
                refused += 1;
                assert!(!error.message.is_empty());
            }
        }
        assert!(refused > base.pow(3) / 2);
        assert_eq!(quoted(OsStr::new("a\n")), "\"a\\n\"");
        assert_eq!(quoted(OsStr::new(&"é".repeat(5000))).chars().count(), MOST_QUOTED + 4);
    }
}
