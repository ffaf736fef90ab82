// SPDX-License-Identifier: MIT OR Apache-2.0
//! `exec`: from the flags to the process that they describe.
//! Decides nothing about containers.
//! Options come from the command line; an exit status goes back.

use coracle_runtime::{Code, Error, Id, Result, Runtime};

use crate::descriptors::Passed;
use crate::flags::Options;
use crate::log::Log;

pub(crate) fn exec(
    _runtime: &Runtime,
    _id: &Id,
    _words: Vec<String>,
    _options: &Options,
    _passed: Passed,
    _log: &Log,
) -> Result<u8> {
    Err(Error::new(Code::Unsupported, "exec is not in this version"))
}
