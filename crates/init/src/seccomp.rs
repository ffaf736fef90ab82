// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seccomp filter: loaded at the last moment that its place in the program leaves.
//!
//! What init does under it is as little as can be, and never relies on one call of it for the truth: the last word is
//! left in a page of memory too. The filter comes from the program; its listener is taken by the runtime.

use coracle_program::{Message, MessageKind};
use coracle_sys::memory::SharedPage;
use coracle_sys::{Errno, Fd, fd, seccomp};

use crate::{Done, Init};

pub(crate) struct Filter {
    step: u32,
    flags: u32,
    program: &'static [u8],
}

/// The page where the last word is left, and its file until that is given away.
pub(crate) struct Outcome {
    page: SharedPage,
    file: Option<Fd>,
}

impl Outcome {
    pub(crate) fn file(&self) -> Option<i32> {
        self.file.as_ref().map(Fd::number)
    }

    pub(crate) fn take_file(&mut self) -> Option<Fd> {
        self.file.take()
    }

    pub(crate) fn leave(&self, message: &Message) {
        self.page.write(&message.encode());
    }
}

impl Init {
    pub(crate) fn keep_filter(&mut self, flags: u32, program: &'static [u8], page: i32) -> Done {
        let file = Fd::own(page);
        self.outcome = Some(Outcome { page: SharedPage::map(file.number())?, file: Some(file) });
        self.filter = Some(Filter { step: self.step, flags, program });
        Ok(())
    }

    /// Load the filter, if there is one that is not loaded yet. What fails here is its own step.
    pub(crate) fn load_filter(&mut self) -> Done {
        let Some(Filter { step, flags, program }) = self.filter.take() else { return Ok(()) };
        let here = core::mem::replace(&mut self.step, step);
        let announced = if flags & seccomp::NEW_LISTENER != 0 {
            // Once it is loaded, the filter may stop any call until an agent answers, who needs the listener first.
            // So the runtime takes it from here by its number: the lowest that is free, as for every new descriptor.
            let number = fd::duplicate(self.peer, 0)?.number();
            self.say(&Message::new(MessageKind::Listener).with(number as u32, &[]), None)?;
            number
        } else {
            -1
        };
        let listener = seccomp::load(flags, program)?;
        if let Some(listener) = listener {
            if listener.number() != announced {
                return Err(Errno::BADF.into());
            }
            // If it stayed open here, calls would wait for ever once the agent is gone.
            self.await_go()?;
            drop(listener);
        }
        self.step = here;
        Ok(())
    }
}
