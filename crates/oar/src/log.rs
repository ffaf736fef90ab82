// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where errors, warnings and debug lines go: the file of `--log`, and stderr.
//! Never decides what is an error, and never writes to stdout.
//! Lines come from `main` and the verbs; engines read them back from both places.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use coracle_runtime::{Error, Result};
use serde_json::{Map, Value};

#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<File>,
    json: bool,
    debug: bool,
    /// Engines merge stdout and stderr of some verbs and parse the sum: no debug lines on stderr there.
    silent: bool,
}

impl Log {
    /// Opens (append, create) the file at once, so that an unwritable log fails before anything is done.
    pub(crate) fn open(path: Option<&Path>, json: bool, debug: bool, silent: bool) -> Result<Log> {
        let Some(path) = path else { return Ok(Log { file: None, json, debug, silent }) };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            // A fifo that nobody reads is an error here, not a command that hangs.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| Error::io(format_args!("open log file {}", path.display()), &error))?;
        Ok(Log { file: Some(file), json, debug, silent })
    }

    /// The one line of a failed command, on stderr and in the file. `what` is the verb and the container.
    pub(crate) fn error(&self, what: &str, error: &Error) {
        let message = match what {
            "" => escape(&error.message).into_owned(),
            what => escape(&format!("{what}: {}", error.message)).into_owned(),
        };
        let hint = error.hint.as_deref().map(escape);
        if self.file.is_some() {
            self.append("error", &message, Some(error.code.name()), hint.as_deref());
        } else if self.json {
            let line = line(true, now(), "error", &message, Some(error.code.name()), hint.as_deref());
            return to_stderr(&line);
        }
        let mut text = format!("oar: {message}\n");
        if let (Some(hint), false) = (hint, self.json) {
            text.push_str(&format!("hint: {hint}\n"));
        }
        to_stderr(&text);
    }

    /// Something that the caller should know although the command goes on.
    pub(crate) fn warning(&self, message: &str) {
        self.note("warning", message);
    }

    /// One line of `--debug`.
    pub(crate) fn debug(&self, message: &str) {
        if self.debug && (self.file.is_some() || !self.silent) {
            self.note("debug", message);
        }
    }

    fn note(&self, level: &str, message: &str) {
        let message = escape(message);
        match self.file {
            Some(_) => self.append(level, &message, None, None),
            None if self.json => to_stderr(&line(true, now(), level, &message, None, None)),
            None => to_stderr(&format!("oar: {level}: {message}\n")),
        }
    }

    /// One write(2) for each line: commands that run at the same time share the file, and it is opened for append.
    fn append(&self, level: &str, message: &str, code: Option<&str>, hint: Option<&str>) {
        if let Some(mut file) = self.file.as_ref() {
            // A full disk must not turn into another outcome of the command; errors are on stderr too.
            drop(file.write_all(line(self.json, now(), level, message, code, hint).as_bytes()));
        }
    }
}

/// Writes text as it is. Nobody is left to be told when stderr itself is gone.
pub(crate) fn to_stderr(text: &str) {
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// One line of the log: JSON, or key=value as logrus writes it.
fn line(json: bool, time: u64, level: &str, message: &str, code: Option<&str>, hint: Option<&str>) -> String {
    let time = rfc3339(time);
    if json {
        let fields = [
            ("level", Some(level)),
            ("msg", Some(message)),
            ("time", Some(&time)),
            ("code", code),
            ("hint", hint),
        ];
        let fields = fields.into_iter().filter_map(|(key, text)| Some((key.to_string(), Value::from(text?))));
        return format!("{}\n", Value::Object(fields.collect::<Map<String, Value>>()));
    }
    let mut text = format!("time={} level={level} msg={}", quote(&time), quote(message));
    if let Some(code) = code {
        text.push_str(&format!(" code={code}"));
    }
    if let Some(hint) = hint {
        text.push_str(&format!(" hint={}", quote(hint)));
    }
    text.push('\n');
    text
}

/// In double quotes, with those inside and backslashes escaped. Control characters are gone already.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Characters that would move a terminal's cursor, end the line, or reorder it, as Go and Rust write them.
/// File names and a container's own words end up in messages, and a log is read in terminals.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let moves = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(moves) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if moves(c) && (c as u32) < 0x100 => safe.push_str(&format!("\\x{:02x}", c as u32)),
            c if moves(c) => safe.push_str(&format!("\\u{:04x}", c as u32)),
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// A path or an argument for people: bytes that are not UTF-8 become the replacement character.
pub(crate) fn shown(text: &OsStr) -> String {
    escape(&text.to_string_lossy()).into_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Seconds since 1970 as `2026-01-02T03:04:05Z`. containerd drops a log whose time it cannot parse.
fn rfc3339(seconds: u64) -> String {
    let (day, second) = (seconds / 86400, seconds % 86400);
    // Years that begin in March put the leap day last; 400 of them have 146097 days. 719468 days lie between
    // the first of March of year 0 and 1970.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339_in_utc() {
        // By date(1).
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_767_322_845, "2026-01-02T03:00:45Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_json_line_is_one_object_with_the_keys_that_engines_read() {
        let message = escape("create a: \"quoted\\\"\n\u{1b}[31m\u{202e}é\0").into_owned();
        let text = line(true, 0, "error", &message, Some("E_STEP"), Some("try this"));
        assert_eq!(text.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "create a: \"quoted\\\"\\n\\x1b[31m\\u202eé\\x00");
        assert_eq!(value["time"], "1970-01-01T00:00:00Z");
        assert_eq!(value["code"], "E_STEP");
        assert_eq!(value["hint"], "try this");
        assert_eq!(value.as_object().unwrap().len(), 5);

        let text = line(true, 0, "debug", "m", None, None);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_text_line_is_as_logrus_writes_it() {
        assert_eq!(
            line(false, 0, "error", r#"open "a\b""#, Some("E_SYSTEM"), Some("h")),
            "time=\"1970-01-01T00:00:00Z\" level=error msg=\"open \\\"a\\\\b\\\"\" code=E_SYSTEM hint=\"h\"\n"
        );
    }

    #[test]
    fn only_harmful_characters_are_escaped() {
        assert!(matches!(escape("exec: \"foo\": é ✓ \\"), Cow::Borrowed(_)));
        assert_eq!(escape("a\tb\r\u{7f}\u{85}\u{2028}"), "a\\tb\\r\\x7f\\x85\\u2028");
    }

    #[test]
    fn the_log_is_appended_to_and_an_unwritable_one_is_an_error() {
        let directory = std::env::temp_dir().join(format!("oar-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("log");
        std::fs::write(&path, "before\n").unwrap();
        let log = Log::open(Some(&path), true, true, true).unwrap();
        log.warning("one\ntwo");
        log.debug("three");
        Log::open(Some(&path), true, false, true).unwrap().debug("never");
        let written = std::fs::read_to_string(&path).unwrap();
        let error = Log::open(Some(&directory), true, false, false).unwrap_err();
        let missing = Log::open(Some(&directory.join("no/log")), true, false, false).unwrap_err();
        std::fs::remove_dir_all(&directory).unwrap();

        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(lines.len(), 3, "{written}");
        assert_eq!(lines[0], "before");
        assert!(
            lines[1].contains(r#""msg":"one\\ntwo""#) && lines[1].contains(r#""level":"warning""#),
            "{written}"
        );
        assert!(lines[2].contains(r#""level":"debug""#), "{written}");
        assert!(error.message.ends_with(": is a directory"), "{}", error.message);
        assert!(missing.message.ends_with("no/log: no such file or directory"), "{}", missing.message);
    }
}
