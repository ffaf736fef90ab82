// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of nf_tables (linux/netfilter/nfnetlink.h, nf_tables.h): lists, and batches that happen as one or not at all.
//!
//! Owns what these have that other netlink messages have not, and nothing else: what is asked for is in `rules.rs`.

use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::sys::socket::SockProtocol;

use crate::netlink::{DUMPS, Request, Socket, attributes};

/// Of struct nfgenmsg: family, version, resource id.
const NFGENMSG: usize = 4;
const NFNL_BATCH_GENID: u16 = 1;
const NFTA_GEN_ID: u16 = 1;

/// A message about the family `inet`.
pub(super) fn message(kind: c_int, flags: c_int) -> Request {
    message_of(libc::NFPROTO_INET, kind, flags)
}

/// `kind`: NFT_MSG_…; AF_UNSPEC: every family.
pub(super) fn message_of(family: c_int, kind: c_int, flags: c_int) -> Request {
    Request::new((libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16, flags).fixed(&[
        family as u8,
        libc::NFNETLINK_V0 as u8,
        0,
        0,
    ])
}

/// The family and the attributes of a message.
pub(super) fn parts(body: &[u8]) -> Option<(c_int, &[u8])> {
    Some(((*body.first()?).into(), body.get(NFGENMSG..)?))
}

pub(super) fn find(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

pub(super) fn text(value: &[u8]) -> Option<String> {
    String::from_utf8(value.split(|byte| *byte == 0).next()?.to_vec()).ok()
}

impl Request {
    /// Numbers of nf_tables are in network byte order.
    pub(super) fn number(self, kind: u16, value: u32) -> Request {
        self.attribute(kind, &value.to_be_bytes())
    }
}

/// How the kernel counts the changes of the rulesets of a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u32);

/// Messages that the kernel takes all, or none of them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    requests: Vec<Request>,
    /// Of each: words for its object, and the kernel modules without which there is no such thing.
    objects: Vec<(String, String)>,
}

impl Batch {
    pub(super) fn add(&mut self, object: impl Into<String>, modules: impl Into<String>, request: Request) {
        self.requests.push(request);
        self.objects.push((object.into(), modules.into()));
    }

    /// Have it done, if the ruleset is still of this generation; else ERESTART.
    pub(super) fn commit(self, socket: &mut Socket, generation: Option<Generation>) -> Result<(), Refused> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let edge = |kind: c_int, flags| {
            let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
            Request::new(kind as u16, flags).fixed(&[
                libc::AF_UNSPEC as u8,
                libc::NFNETLINK_V0 as u8,
                high,
                low,
            ])
        };
        let begin = edge(libc::NFNL_MSG_BATCH_BEGIN, 0);
        let mut all = vec![match generation {
            Some(Generation(generation)) => begin.number(NFNL_BATCH_GENID, generation),
            None => begin,
        }];
        all.extend(self.requests);
        // Older kernels do not acknowledge the end, but the last message inside, and that after the commit.
        if let Some(last) = all.last_mut() {
            last.acknowledge();
        }
        all.push(edge(libc::NFNL_MSG_BATCH_END, 0));
        // Place 0 is the batch's own.
        socket.batch(all).map_err(|(place, errno)| Refused {
            object: place.checked_sub(1).and_then(|place| self.objects.into_iter().nth(place)),
            errno,
        })
    }
}

/// A batch of which nothing was done.
#[derive(Debug)]
pub(super) struct Refused {
    /// As it was given to `add`. None: not one message, but the batch.
    pub(super) object: Option<(String, String)>,
    pub(super) errno: Errno,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        Refused { object: None, errno }
    }
}

/// A socket in the network namespace of this thread.
pub(super) fn open() -> nix::Result<Socket> {
    Socket::open_for(SockProtocol::NetlinkNetFilter)
}

pub(super) fn generation(socket: &mut Socket) -> nix::Result<Generation> {
    let mut generation = None;
    socket.ask(message_of(libc::AF_UNSPEC, libc::NFT_MSG_GETGEN, 0), |_, body| {
        generation = parts(body).and_then(|(_, body)| number(find(body, NFTA_GEN_ID)?)).map(Generation);
    })?;
    generation.ok_or(Errno::EBADMSG)
}

/// A list: each message without its header, as `parse` makes of it. `request` has NLM_F_DUMP.
pub(super) fn list<T>(
    socket: &mut Socket,
    request: &Request,
    mut parse: impl FnMut(&[u8]) -> Option<T>,
) -> nix::Result<Vec<T>> {
    let mut tries = 0;
    loop {
        let mut all = Vec::new();
        match socket.ask(request.clone(), |_, body| all.extend(parse(body))) {
            Err(Errno::EINTR) if tries < DUMPS => tries += 1,
            other => return other.map(|()| all),
        }
    }
}
