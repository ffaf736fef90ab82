// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wait`: how a container ended.
//! Decides nothing about containers.
//! The status comes from the library; it goes to stdout.

use coracle_runtime::{Code, Error, Id, Result, Runtime};

pub(crate) fn wait(_runtime: &Runtime, _id: &Id, _json: bool) -> Result<u8> {
    Err(Error::new(Code::Unsupported, "wait is not in this version"))
}
