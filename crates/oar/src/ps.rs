// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ps`: the pids as JSON, or a table by ps(1).
//! Decides nothing about containers, and needs no ps(1) for JSON.
//! Pids come from the library; the text goes to stdout.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

use coracle_runtime::{Code, Error, Id, Result, Runtime};

use crate::verbs::{print, print_line};

pub(crate) fn ps(runtime: &Runtime, id: &Id, words: &[OsString], json: bool) -> Result<u8> {
    let pids = runtime.processes(id)?;
    if json {
        let list: Vec<String> = pids.iter().map(i32::to_string).collect();
        return print_line(&format!("[{}]", list.join(",")));
    }
    let every = [OsString::from("-ef")];
    let options = if words.is_empty() { &every[..] } else { words };
    let failed = |error: std::io::Error| {
        let wrong = Error::io("run ps", &error);
        match error.kind() {
            ErrorKind::NotFound => wrong.hint("`--format json` needs no ps"),
            _ => wrong,
        }
    };
    let output = Command::new("ps")
        .args(options)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        return Err(Error::new(Code::Invalid, format!("ps: {}", output.status)));
    }
    print(&table(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The header, and the rows whose PID is one of these.
fn table(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let Some(column) = header.split_whitespace().position(|word| word == "PID") else {
        let text = "ps prints no column PID with these options";
        return Err(Error::new(Code::Invalid, text).hint("the rows of the container are found by it"));
    };
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let rows = lines.filter(is_ours);
    Ok(std::iter::once(header).chain(rows).flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_container() {
        let text =
            "UID    PID  PPID CMD\nroot     1     0 init\nroot    12     1 sh -c 7\n7        7    12 x\n";
        assert_eq!(table(text, &[7, 99]).unwrap(), "UID    PID  PPID CMD\n7        7    12 x\n");
        assert_eq!(table(text, &[]).unwrap(), "UID    PID  PPID CMD\n");
        assert_eq!(table("PID\n1\n x\n\n", &[1]).unwrap(), "PID\n1\n");
        for other in ["", "CMD\nsh\n", "PPID SPID\n1 1\n"] {
            assert!(table(other, &[1]).unwrap_err().message.contains("no column PID"), "{other:?}");
        }
    }
}
