// SPDX-License-Identifier: MIT OR Apache-2.0
//! `oar`: OCI containers from the command line, as runc.
//! Nothing here but the order in which a command begins and ends; containers are the business of `coracle-runtime`.
//! Arguments come in; stdout, one line on stderr, the log and an exit status go out.

mod descriptors;
mod doctor;
mod events;
mod exec;
mod flags;
mod generate;
mod help;
mod list;
mod log;
mod network;
mod parse;
mod ps;
mod update;
mod verbs;
mod wait;

use std::ffi::OsString;
use std::panic::PanicHookInfo;
use std::process::{ExitCode, exit};

use coracle_runtime::Result;
use coracle_sys::process;

use descriptors::Passed;
use log::Log;
use parse::{Action, Parsed, parse};

const FAILED: u8 = 1;
/// Of exec, whose own failures are to be told from the command's (runc).
const EXEC_FAILED: u8 = 255;
/// sysexits(3): a mistake of this program.
const INTERNAL: i32 = 70;

// SIGPIPE stays ignored, as Rust's start-up leaves it: a hook that does not read its state, or an engine that went
// away, must be an error of one write and not the end of this process in the middle of its clean-up. What the
// container's process inherits is reset by init, which must do so for any caller.
fn main() -> ExitCode {
    std::panic::set_hook(Box::new(internal_error));
    // A caller that ignores its children's ends would have ours reaped before we know how they ended.
    process::reset_signal(libc::SIGCHLD).ok(); // a valid signal
    let parsed = parse(std::env::args_os().skip(1).collect());

    // Before the first file is opened: it could take a number that the caller means to pass on.
    let passed = claim_descriptors(&parsed);
    let options = &parsed.options;
    let silent = matches!(
        parsed.action,
        Ok(Action::State(_)
            | Action::List
            | Action::NetworkList
            | Action::Ps(..)
            | Action::Events(_)
            | Action::Wait(_)
            | Action::Features
            | Action::Doctor
            | Action::Version)
    );
    let log = match Log::open(options.log.as_deref(), options.json_log, options.debug, silent) {
        Ok(log) => log,
        Err(error) => {
            Log::default().error("", &error);
            return ExitCode::from(FAILED);
        }
    };

    let what = match (parsed.understood.verb, &parsed.understood.id) {
        (Some(verb), Some(id)) => format!("{verb} {id}"),
        (Some(verb), None) => verb.to_string(),
        (None, _) => String::new(),
    };
    let outcome = match (parsed.action, passed) {
        (Ok(action), Ok(passed)) => verbs::act(action, options, passed, &log),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            log.error(&what, &error);
            if parsed.understood.nothing && !options.json_log {
                log::to_stderr(&format!("\n{}", help::help(None)));
            }
            ExitCode::from(if parsed.understood.verb == Some("exec") { EXEC_FAILED } else { FAILED })
        }
    }
}

fn claim_descriptors(parsed: &Parsed) -> Result<Passed> {
    if !matches!(parsed.action, Ok(Action::Create(_) | Action::Run(_) | Action::Exec(..))) {
        descriptors::claim_none()?;
        return Ok(Passed::default());
    }
    let variable: Option<OsString> = std::env::var_os("LISTEN_FDS");
    descriptors::claim(descriptors::listen_fds(variable.as_deref())?, parsed.options.preserve_fds)
}

/// One line, whatever RUST_BACKTRACE says, and a status of its own. Anything left of a container is what a SIGKILL
/// at this point leaves: the library's record has it, and `delete --force` removes it.
fn internal_error(info: &PanicHookInfo) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown");
    let place =
        info.location().map_or(String::new(), |place| format!(" ({}:{})", place.file(), place.line()));
    log::to_stderr(&format!("oar: internal error: {}{place}\n", log::escape(text)));
    exit(INTERNAL);
}
