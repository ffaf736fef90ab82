// SPDX-License-Identifier: MIT OR Apache-2.0
//! pause and resume: the freezer of the container's cgroup.

use crate::error::{Code, Error, Result};
use crate::{Id, Runtime};

impl Runtime {
    /// Stop all processes of a container.
    pub fn pause(&self, _id: &Id) -> Result<()> {
        Err(Error::new(Code::Unsupported, "pause is not in this version"))
    }

    /// Let them go on.
    pub fn resume(&self, _id: &Id) -> Result<()> {
        Err(Error::new(Code::Unsupported, "resume is not in this version"))
    }
}
