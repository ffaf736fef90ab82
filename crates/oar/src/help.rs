// SPDX-License-Identifier: MIT OR Apache-2.0
//! Help and version, printed from the flag table.
//! Holds no name of a flag or verb of its own.
//! The text goes to stdout, or to stderr when no command was given.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::flags::{Flag, GLOBAL, VERBS, Verb};
use crate::parse::{members, usage, usage_of_group};

const WIDTH: usize = 100;

pub(crate) fn help(verb: Option<&Verb>) -> String {
    match verb {
        None => overview(),
        Some(verb) => of_verb(verb),
    }
}

fn overview() -> String {
    let mut text = String::from("oar - run OCI containers, without a daemon\n\n");
    text.push_str("usage: oar [GLOBAL FLAGS] COMMAND [FLAGS] [ARGUMENTS]\n\ncommands:\n");
    verbs(&mut text, VERBS.iter());
    text.push_str("\nglobal flags:\n");
    flags(&mut text, GLOBAL.iter().copied().flatten());
    text.push_str("\n`oar help COMMAND` tells more about one command.\n");
    text
}

pub(crate) fn of_group(group: &str) -> String {
    let mut text = format!("{}\n\ncommands:\n", usage_of_group(group));
    verbs(&mut text, members(group));
    text.push_str(&format!("\n`oar help {group} COMMAND` tells more about one of them.\n"));
    text
}

fn verbs(text: &mut String, verbs: impl Iterator<Item = &'static Verb>) {
    let rows = verbs.filter(|verb| !verb.hidden).map(|verb| {
        let shape = verb.positional.usage();
        (format!("{} {shape}", verb.word).trim_end().to_string(), verb.doc)
    });
    two_columns(text, rows.collect());
}

fn of_verb(verb: &Verb) -> String {
    let mut text = format!("oar {} - {}\n\n{}\n", verb.word, verb.doc, usage(verb));
    if !verb.detail.is_empty() {
        text.push('\n');
        for line in wrap(verb.detail, WIDTH) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text.push_str("\nflags:\n");
    flags(&mut text, verb.every_flag());
    text
}

/// `-b, --bundle DIR`
pub(crate) fn spelling(flag: &Flag) -> String {
    let short = match flag.short {
        Some(letter) => format!("-{letter}, "),
        None => "    ".into(),
    };
    let value = if flag.value.is_empty() { String::new() } else { format!(" {}", flag.value) };
    format!("{short}--{}{value}", flag.name)
}

fn flags<'a>(text: &mut String, flags: impl Iterator<Item = &'a Flag>) {
    two_columns(text, flags.filter(|flag| !flag.hidden).map(|flag| (spelling(flag), flag.doc)).collect());
}

fn two_columns(text: &mut String, rows: Vec<(String, &str)>) {
    let left = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    for (name, doc) in rows {
        for (at, line) in wrap(doc, WIDTH - left - 4).iter().enumerate() {
            let name = if at == 0 { &*name } else { "" };
            text.push_str(&format!("  {name:left$}  {line}\n"));
        }
    }
}

/// Lines of at most `width` letters, broken at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// What `--version` prints. Exactly one line holds the word "version", because dockerd takes the last that does.
///
/// go-runc and nerdctl read nothing from it unless the first line is `runc version X`. They call what is installed
/// as `runc`, so that is the name it then goes by; podman and dockerd show the line to people, who should see `oar`.
pub(crate) fn version(program: Option<&OsStr>, spec: &str) -> String {
    let file = program.and_then(|program| Path::new(program).file_name()).map(OsStr::as_bytes);
    let name = match file {
        // Also buildkit-runc and the like.
        Some(file) if file == b"runc" || file.ends_with(b"-runc") => "runc",
        _ => "oar",
    };
    let commit = option_env!("OAR_COMMIT").unwrap_or("unknown");
    format!("{name} version {}\ncommit: {commit}\nspec: {spec}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `OAR_BLESS=1 cargo test -p oar` writes the golden files anew; read the difference before committing it.
    fn golden(name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("OAR_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let expected =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(expected, text, "{name} differs from what the flag table yields");
    }

    #[test]
    fn help_is_as_reviewed() {
        golden("help.txt", &help(None));
        for verb in VERBS.iter().filter(|verb| !verb.hidden) {
            golden(&format!("help-{}.txt", verb.word.replace(' ', "-")), &help(Some(verb)));
        }
        golden("help-network.txt", &of_group("network"));
    }

    #[test]
    fn no_line_of_help_is_too_wide() {
        let texts = VERBS.iter().map(|verb| help(Some(verb))).chain([help(None), of_group("network")]);
        for text in texts {
            for line in text.lines() {
                assert!(line.len() <= WIDTH, "{line}");
                assert_eq!(line.trim_end(), line);
            }
        }
    }

    #[test]
    fn version_has_one_line_with_the_word_and_the_name_it_was_called_by() {
        let first = |program: &str| {
            let text = version(Some(OsStr::new(program)), "1.3.0");
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 3);
            assert!(lines[1].starts_with("commit: ") && lines[2] == "spec: 1.3.0", "{text}");
            assert_eq!(text.matches("version").count(), 1);
            lines[0].to_string()
        };
        let number = env!("CARGO_PKG_VERSION");
        assert_eq!(first("/usr/bin/oar"), format!("oar version {number}"));
        assert_eq!(first("/usr/local/sbin/runc"), format!("runc version {number}"));
        assert_eq!(first("buildkit-runc"), format!("runc version {number}"));
        assert_eq!(first("crunc"), format!("oar version {number}"));
        assert_eq!(first(""), format!("oar version {number}"));
    }
}
