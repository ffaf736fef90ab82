// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's libseccomp, as another opinion.
//!
//! Owns the conversation with libseccomp.py. Judges nothing. Comes from comparisons and measurements, which include
//! it as a module; goes to a python3 process that they start and wait for.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::disallowed_types, clippy::unwrap_used, reason = "a test's module, which starts a process")]

use std::io::Write;
use std::process::{Command, Stdio};

use coracle_seccomp::{Architecture, Operator, Profile, sock_filter};
use serde_json::{Value, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libseccomp.py");

/// Runs the script; `Err` says why it cannot run here.
fn python(arguments: &[&str], input: String) -> Result<String, String> {
    let mut child = Command::new("python3")
        .arg(SCRIPT)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("python3: {error}"))?;
    let mut stdin = child.stdin.take().unwrap();
    // A thread, because both pipes may fill up. A script that ends early is told by its status.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => {
            Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("python3 failed").into())
        }
    }
}

/// `None` if the library can be used, or the reason why not.
pub fn missing() -> Option<String> {
    python(&[], String::new()).err()
}

/// A profile in the script's form. `optimize` 2 is libseccomp's binary tree.
pub fn request(profile: &Profile, native: Architecture, optimize: u8) -> Value {
    let rules: Vec<Value> = profile
        .rules
        .iter()
        .map(|rule| {
            let arguments: Vec<Value> = rule
                .conditions
                .iter()
                .map(|condition| {
                    json!([
                        condition.index,
                        operator(condition.operator),
                        condition.value,
                        condition.value_two
                    ])
                })
                .collect();
            json!({ "names": rule.names, "action": rule.action.value(), "args": arguments })
        })
        .collect();
    let architectures: Vec<_> =
        profile.architectures.iter().map(|architecture| architecture.name()).collect();
    json!({
        "default": profile.default.value(),
        "native": native.name(),
        "architectures": architectures,
        "rules": rules,
        "optimize": optimize,
    })
}

fn operator(operator: Operator) -> &'static str {
    match operator {
        Operator::NotEqual => "NE",
        Operator::Less => "LT",
        Operator::LessOrEqual => "LE",
        Operator::Equal => "EQ",
        Operator::GreaterOrEqual => "GE",
        Operator::Greater => "GT",
        Operator::MaskedEqual => "MASKED_EQ",
    }
}

/// Microseconds and the program for each request, or libseccomp's error.
pub fn compile(requests: &[Value]) -> Vec<Result<(u64, Vec<sock_filter>), String>> {
    let input: String = requests.iter().map(|request| format!("{request}\n")).collect();
    match python(&[], input) {
        Ok(output) => output.lines().map(answer).collect(),
        Err(error) => vec![Err(error)],
    }
}

fn answer(line: &str) -> Result<(u64, Vec<sock_filter>), String> {
    if let Some(error) = line.strip_prefix("error: ") {
        return Err(error.into());
    }
    let (time, program) = line.split_once(' ').unwrap();
    let bytes: Vec<u8> = program
        .as_bytes()
        .chunks(2)
        .map(|hex| u8::from_str_radix(str::from_utf8(hex).unwrap(), 16).unwrap())
        .collect();
    let instructions = bytes.chunks(8).map(|bytes| sock_filter {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    });
    Ok((time.parse().unwrap(), instructions.collect()))
}

/// libseccomp's numbers of `names` per architecture; negative ones are its own, for calls that do not exist.
pub fn numbers(architectures: &[&str], names: &[&str]) -> Value {
    let output = python(&["--numbers", &architectures.join(",")], names.join("\n")).unwrap();
    serde_json::from_str(&output).unwrap()
}
