// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hook inside the container's namespaces: fork, execute, wait with a time-out.

use coracle_program::{List, Op, detail};
use coracle_sys::memory::PointerArray;
use coracle_sys::process::Exit;
use coracle_sys::{Errno, fd, process};

use crate::{Done, Failure, path};

/// Status of a hook that could not be executed, as a shell has it.
const NOT_EXECUTED: i32 = 127;

pub(crate) fn run(op: Op<'static>) -> Done {
    let Op::Hook { path, args, env, timeout, state_head, state_tail, output } = op else {
        return Err(Errno::PROTO.into());
    };
    // A file for stdin: a hook that never reads it cannot hold us up.
    let stdin = fd::memfd(c"state", false)?;
    let mut digits = [0u8; 10];
    let pid = path::decimal(process::pid() as u32, &mut digits);
    for part in [state_head.0, pid, state_tail.0] {
        fd::write_all(stdin.number(), part)?;
    }
    fd::rewind(stdin.number())?;
    let argv = pointers(args)?;
    let envp = pointers(env)?;
    let Some(hook) = process::fork()? else {
        // The hook: a process group of its own, so that a time-out reaches all of it.
        let become_hook = || -> Result<(), Errno> {
            process::set_parent_death_signal(libc::SIGKILL)?;
            process::set_process_group()?;
            process::umask(0o022);
            fd::dup3(stdin.number(), 0, false)?;
            if output >= 0 {
                fd::dup3(output, 1, false)?;
                fd::dup3(output, 2, false)?;
            }
            Ok(())
        };
        if become_hook().is_ok() {
            // The number is lost here, but the status says that there was no such program to run.
            process::execute(path, &argv, &envp);
        }
        process::exit(NOT_EXECUTED)
    };
    let limit = (timeout > 0).then(|| (timeout as i32).saturating_mul(1000));
    if !fd::wait_readable(hook.pidfd.number(), limit)? {
        process::kill_group(hook.pid)?;
        process::wait(hook.pidfd.number())?;
        return Err(Failure::new(Errno::TIMEDOUT, detail::HOOK_TIMEOUT, path.to_bytes()));
    }
    match process::wait(hook.pidfd.number())? {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(Failure::new(Errno(0), detail::HOOK_STATUS, &code.to_ne_bytes())),
        Exit::Signal(signal) => Err(Failure::new(Errno(0), detail::HOOK_SIGNAL, &signal.to_ne_bytes())),
    }
}

pub(crate) fn pointers(list: List<'static>) -> Result<PointerArray, Errno> {
    let mut array = PointerArray::new(list.len())?;
    for string in list.iter() {
        array.push(string)?;
    }
    Ok(array)
}
