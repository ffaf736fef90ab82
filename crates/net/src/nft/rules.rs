// SPDX-License-Identifier: MIT OR Apache-2.0
//! What our table consists of, as data, and how nf_tables wants each piece of it.
//!
//! Never depends on which networks there are: those are elements of the sets. `docs/networking.md` has the table as
//! `nft list` prints it. A rule is known by its chain and its comment: **who changes a rule changes its comment**, or a
//! table that an older version made stays as it is.

use std::net::Ipv6Addr;

use nix::libc::{self, c_int};

use super::message::{Batch, find, message, message_of, number, parts, text};
use crate::bridge::GROUP;
use crate::netlink::{Request, attributes};

pub(super) const TABLE: &str = "coracle";

// linux/netfilter/nf_tables.h: attributes.
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
/// Of meta and of ct.
const NFTA_DREG: u16 = 1;
const NFTA_KEY: u16 = 2;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
// And values that libc has not.
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
/// enum ip_conntrack_status (linux/netfilter/nf_conntrack_common.h).
const IPS_DST_NAT: u32 = 1 << 5;
/// NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED.
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
/// A rule's comment in the data that libnftnl keeps with it: type, length, text with NUL.
const UDATA_COMMENT: u8 = 0;

/// What nft(8) keeps with a set of names, or it reads them from the other end: type, length, host's byte order.
const UDATA_KEY_IN_HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// A set, or a map if it has data. Fields are padded to four bytes each.
pub(super) struct Set {
    pub(super) name: &'static str,
    key: &'static [Field],
    data: &'static [Field],
    /// Its keys are ranges.
    ranges: bool,
}

/// (number of the type in nft(8), which needs it for its listing; bytes)
type Field = (u32, u32);

const FAMILY: Field = (2, 1);
const ADDRESS4: Field = (7, 4);
const ADDRESS6: Field = (8, 16);
const PROTOCOL: Field = (12, 1);
const PORT: Field = (13, 2);
const INTERFACE: Field = (41, libc::IFNAMSIZ as u32);

/// Bridges of ours.
pub(super) const BRIDGES: &str = "bridges";
pub(super) const INTERNAL: &str = "internal";
pub(super) const ISOLATED: &str = "isolated";
/// Each bridge twice: what comes from it and goes back to it.
pub(super) const WITHIN: &str = "within";
/// A bridge and the addresses behind it.
pub(super) const BEHIND: [&str; 2] = ["behind4", "behind6"];
/// Ports published on every address of the host.
pub(super) const PORTS: [&str; 2] = ["ports4", "ports6"];
/// Ports published on one of them.
pub(super) const ADDRESSED: [&str; 2] = ["addressed4", "addressed6"];

/// Family and link: one of the host's own, from when it became a router for our sake.
pub(super) const UNROUTED: &str = "unrouted";

pub(super) const SETS: [Set; 11] = [
    Set { name: BRIDGES, key: &[INTERFACE], data: &[], ranges: false },
    Set { name: INTERNAL, key: &[INTERFACE], data: &[], ranges: false },
    Set { name: ISOLATED, key: &[INTERFACE], data: &[], ranges: false },
    Set { name: WITHIN, key: &[INTERFACE, INTERFACE], data: &[], ranges: false },
    Set { name: BEHIND[0], key: &[INTERFACE, ADDRESS4], data: &[], ranges: true },
    Set { name: BEHIND[1], key: &[INTERFACE, ADDRESS6], data: &[], ranges: true },
    Set { name: UNROUTED, key: &[FAMILY, INTERFACE], data: &[], ranges: false },
    Set { name: PORTS[0], key: &[PROTOCOL, PORT], data: &[ADDRESS4, PORT], ranges: false },
    Set { name: PORTS[1], key: &[PROTOCOL, PORT], data: &[ADDRESS6, PORT], ranges: false },
    Set { name: ADDRESSED[0], key: &[ADDRESS4, PROTOCOL, PORT], data: &[ADDRESS4, PORT], ranges: false },
    Set { name: ADDRESSED[1], key: &[ADDRESS6, PROTOCOL, PORT], data: &[ADDRESS6, PORT], ranges: false },
];

struct Chain {
    name: &'static str,
    /// Type, hook, priority. None: only other chains lead here.
    hook: Option<(&'static str, c_int, c_int)>,
}

const CHAINS: [Chain; 6] = [
    Chain { name: "published", hook: None },
    Chain { name: "guard", hook: Some(("filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW)) },
    Chain { name: "prerouting", hook: Some(("nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST)) },
    Chain { name: "output", hook: Some(("nat", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_NAT_DST)) },
    Chain { name: "postrouting", hook: Some(("nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC)) },
    Chain { name: "forward", hook: Some(("filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER)) },
];

struct Rule {
    chain: &'static str,
    comment: &'static str,
    terms: &'static [Term],
}

/// A piece of a rule as nft(8) writes it.
enum Term {
    /// `iifname @…`
    Input(&'static str),
    /// `iifname != @…`
    NotInput(&'static str),
    /// `iifgroup 0x636f7261`: a device that we made.
    InputOurs,
    /// `oifname @…`
    Output(&'static str),
    /// `oifname != @…`
    NotOutput(&'static str),
    /// `iifname . oifname @…`
    InputOutput(&'static str),
    /// `meta nfproto . iifname @…`
    FamilyInput(&'static str),
    /// `meta nfproto . oifname @…`
    FamilyOutput(&'static str),
    /// `oifname . ip saddr @behind4`, or of IPv6.
    BackBehind(Family),
    /// `ip saddr 127.0.0.0/8`
    LoopbackSource,
    /// `ip daddr 127.0.0.0/8`, `ip6 daddr ::1`
    LoopbackDestination(Family),
    /// `ct state established,related`
    Established,
    /// `ct status dnat`
    Translated,
    /// `fib daddr type local`
    Local,
    /// `dnat ip to meta l4proto . th dport map @ports4`, or of IPv6.
    ToContainer(Family),
    /// `dnat ip to ip daddr . meta l4proto . th dport map @addressed4`, or of IPv6.
    ToContainerByAddress(Family),
    Masquerade,
    Accept,
    Drop,
    Return,
    Jump(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4 = 0,
    V6 = 1,
}

use Family::{V4, V6};
use Term::*;

#[rustfmt::skip]
const RULES: [Rule; 25] = [
    // The host's end of a pair whose bridge was removed, or that was taken off it, would be a link of the host with
    // none of the rules for containers. So would the bridge of a network that was flushed and is not admitted yet.
    Rule { chain: "guard", comment: "no container past its bridge", terms: &[InputOurs, NotInput(BRIDGES), Drop] },
    // With route_localnet a packet to 127.0.0.1 that comes from a bridge would be the host's own.
    Rule { chain: "guard", comment: "the host's loopback is not for containers", terms: &[Input(BRIDGES), LoopbackDestination(V4), Drop] },
    Rule { chain: "guard", comment: "nor theirs to send from", terms: &[Input(BRIDGES), LoopbackSource, Drop] },
    // Translation comes before the kernel's look at such addresses: a neighbour on the host's link could reach what is
    // published on 127.0.0.1 only.
    Rule { chain: "prerouting", comment: "loopback addresses do not come from outside", terms: &[LoopbackDestination(V4), Return] },
    Rule { chain: "prerouting", comment: "published ports", terms: &[Local, Jump("published")] },
    // There is no route from ::1 to a bridge: better refused at once than answered never.
    Rule { chain: "output", comment: "::1 has no way out", terms: &[LoopbackDestination(V6), Return] },
    Rule { chain: "output", comment: "published ports", terms: &[Local, Jump("published")] },
    Rule { chain: "published", comment: "on one address", terms: &[ToContainerByAddress(V4)] },
    Rule { chain: "published", comment: "on one IPv6 address", terms: &[ToContainerByAddress(V6)] },
    Rule { chain: "published", comment: "on every address", terms: &[ToContainer(V4)] },
    Rule { chain: "published", comment: "on every IPv6 address", terms: &[ToContainer(V6)] },
    // The answer would go straight to the neighbour, which did not ask the one that answers.
    Rule { chain: "postrouting", comment: "to a neighbour by a published port", terms: &[Translated, BackBehind(V4), Masquerade] },
    Rule { chain: "postrouting", comment: "to a neighbour by a published IPv6 port", terms: &[Translated, BackBehind(V6), Masquerade] },
    Rule { chain: "postrouting", comment: "from the host's loopback", terms: &[Output(BRIDGES), LoopbackSource, Masquerade] },
    Rule { chain: "postrouting", comment: "from a container to elsewhere", terms: &[Input(BRIDGES), NotOutput(BRIDGES), Masquerade] },
    Rule { chain: "forward", comment: "the host is a router for containers only", terms: &[FamilyInput(UNROUTED), FamilyOutput(UNROUTED), Drop] },
    Rule { chain: "forward", comment: "answers", terms: &[Established, Accept] },
    Rule { chain: "forward", comment: "within a network", terms: &[InputOutput(WITHIN), Accept] },
    Rule { chain: "forward", comment: "internal: not out", terms: &[Input(INTERNAL), Drop] },
    Rule { chain: "forward", comment: "internal: not in", terms: &[Output(INTERNAL), Drop] },
    Rule { chain: "forward", comment: "published: for all who reach the host", terms: &[Translated, Accept] },
    Rule { chain: "forward", comment: "isolated: not to other networks", terms: &[Input(ISOLATED), Output(BRIDGES), Drop] },
    Rule { chain: "forward", comment: "isolated: not from other networks", terms: &[Input(BRIDGES), Output(ISOLATED), Drop] },
    Rule { chain: "forward", comment: "between networks, and out", terms: &[Input(BRIDGES), Accept] },
    Rule { chain: "forward", comment: "not published: not in", terms: &[Output(BRIDGES), Drop] },
];

/// The table with all that is the same for every caller. A table of the name must not be there.
pub(super) fn add_table(batch: &mut Batch) {
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.add("create it", "nf_tables", named_table(libc::NFT_MSG_NEWTABLE, create));
    for (id, set) in SETS.iter().enumerate() {
        batch.add(format!("set {}", set.name), "nf_tables", set.request(id as u32 + 1));
    }
    for chain in &CHAINS {
        batch.add(format!("chain {}", chain.name), "nft_chain_nat", chain.request());
    }
    for rule in &RULES {
        let modules: Vec<&str> = rule.terms.iter().filter_map(Term::module).collect();
        let object = format!("rule {:?} of chain {}", rule.comment, rule.chain);
        batch.add(object, modules.join(", "), rule.request());
    }
}

pub(super) fn delete_table(batch: &mut Batch) {
    batch.add("delete it", "", named_table(libc::NFT_MSG_DELTABLE, 0));
}

/// For a list of the tables of the family.
pub(super) fn list_tables() -> Request {
    message(libc::NFT_MSG_GETTABLE, libc::NLM_F_DUMP)
}

/// One message of that list: the table's name.
pub(super) fn parse_table(body: &[u8]) -> Option<String> {
    text(find(parts(body)?.1, NFTA_TABLE_NAME)?)
}

fn named_table(kind: c_int, flags: c_int) -> Request {
    message(kind, flags).text(NFTA_TABLE_NAME, TABLE)
}

impl Set {
    fn request(&self, id: u32) -> Request {
        let mut flags = 0;
        if !self.data.is_empty() {
            flags |= libc::NFT_SET_MAP as u32;
        }
        if self.ranges {
            flags |= libc::NFT_SET_INTERVAL as u32 | NFT_SET_CONCAT;
        }
        let body = message(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE)
            .text(NFTA_SET_TABLE, TABLE)
            .text(NFTA_SET_NAME, self.name)
            .number(NFTA_SET_FLAGS, flags)
            .number(NFTA_SET_KEY_TYPE, type_of(self.key))
            .number(NFTA_SET_KEY_LEN, length_of(self.key))
            .number(NFTA_SET_ID, id);
        let body = match self.data {
            [] => body,
            data => body.number(NFTA_SET_DATA_TYPE, type_of(data)).number(NFTA_SET_DATA_LEN, length_of(data)),
        };
        let body = match self.key {
            [INTERFACE] => body.attribute(NFTA_SET_USERDATA, &UDATA_KEY_IN_HOST_ORDER),
            _ => body,
        };
        if !self.ranges {
            return body;
        }
        body.nested(NFTA_SET_DESC, |body| {
            body.nested(NFTA_SET_DESC_CONCAT, |body| {
                self.key.iter().fold(body, |body, (_, length)| {
                    body.nested(NFTA_LIST_ELEM, |body| body.number(NFTA_SET_FIELD_LEN, *length))
                })
            })
        })
    }
}

/// nft(8) has six bits for each type of a concatenation.
fn type_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |types, (kind, _)| types << 6 | kind)
}

fn length_of(fields: &[Field]) -> u32 {
    fields.iter().map(|(_, length)| length.next_multiple_of(4)).sum()
}

impl Chain {
    fn request(&self) -> Request {
        let body = message(libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE)
            .text(NFTA_CHAIN_TABLE, TABLE)
            .text(NFTA_CHAIN_NAME, self.name);
        let Some((kind, hook, priority)) = self.hook else { return body };
        body.nested(NFTA_CHAIN_HOOK, |body| {
            body.number(NFTA_HOOK_HOOKNUM, hook as u32).number(NFTA_HOOK_PRIORITY, priority as u32)
        })
        .text(NFTA_CHAIN_TYPE, kind)
        .number(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32)
    }
}

impl Rule {
    fn request(&self) -> Request {
        let mut comment = vec![UDATA_COMMENT, self.comment.len() as u8 + 1];
        comment.extend(self.comment.as_bytes());
        comment.push(0);
        message(libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND)
            .text(NFTA_RULE_TABLE, TABLE)
            .text(NFTA_RULE_CHAIN, self.chain)
            .nested(NFTA_RULE_EXPRESSIONS, |body| self.terms.iter().fold(body, |body, term| term.put(body)))
            .attribute(NFTA_RULE_USERDATA, &comment)
    }
}

impl Family {
    fn number(self) -> c_int {
        [libc::NFPROTO_IPV4, libc::NFPROTO_IPV6][self as usize]
    }

    /// Source address in the header: offset, length. The destination follows it.
    fn source(self) -> (u32, u32) {
        [(12, 4), (8, 16)][self as usize]
    }
}

impl Term {
    fn module(&self) -> Option<&'static str> {
        match self {
            Established | Translated => Some("nft_ct"),
            Local => Some("nft_fib_inet"),
            ToContainer(_) | ToContainerByAddress(_) => Some("nft_nat"),
            Masquerade => Some("nft_masq"),
            _ => None,
        }
    }

    fn put(&self, body: Request) -> Request {
        const NETWORK: c_int = libc::NFT_PAYLOAD_NETWORK_HEADER;
        const NFPROTO: c_int = libc::NFT_META_NFPROTO;
        const IIFNAME: c_int = libc::NFT_META_IIFNAME;
        const OIFNAME: c_int = libc::NFT_META_OIFNAME;
        match *self {
            Input(set) => lookup(load("meta", IIFNAME, 0, body), set, None, 0),
            NotInput(set) => lookup(load("meta", IIFNAME, 0, body), set, None, libc::NFT_LOOKUP_F_INV),
            InputOurs => equal(&GROUP.to_ne_bytes(), load("meta", libc::NFT_META_IIFGROUP, 0, body)),
            Output(set) => lookup(load("meta", OIFNAME, 0, body), set, None, 0),
            NotOutput(set) => lookup(load("meta", OIFNAME, 0, body), set, None, libc::NFT_LOOKUP_F_INV),
            InputOutput(set) => {
                lookup(load("meta", OIFNAME, 4, load("meta", IIFNAME, 0, body)), set, None, 0)
            }
            FamilyInput(set) => {
                lookup(load("meta", IIFNAME, 1, load("meta", NFPROTO, 0, body)), set, None, 0)
            }
            FamilyOutput(set) => {
                lookup(load("meta", OIFNAME, 1, load("meta", NFPROTO, 0, body)), set, None, 0)
            }
            BackBehind(family) => {
                let body = load("meta", OIFNAME, 0, only(family, body));
                let (offset, length) = family.source();
                lookup(payload(NETWORK, offset, length, 4, body), BEHIND[family as usize], None, 0)
            }
            LoopbackSource => equal(&[127], payload(NETWORK, V4.source().0, 1, 0, only(V4, body))),
            LoopbackDestination(V4) => equal(&[127], payload(NETWORK, 16, 1, 0, only(V4, body))),
            LoopbackDestination(V6) => {
                equal(&Ipv6Addr::LOCALHOST.octets(), payload(NETWORK, 24, 16, 0, only(V6, body)))
            }
            Established => any_of(ESTABLISHED_OR_RELATED, load("ct", libc::NFT_CT_STATE, 0, body)),
            Translated => any_of(IPS_DST_NAT, load("ct", libc::NFT_CT_STATUS, 0, body)),
            Local => {
                let body = expression("fib", body, |body| {
                    body.number(NFTA_FIB_DREG, register(0))
                        .number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE)
                        .number(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR)
                });
                equal(&u32::from(libc::RTN_LOCAL).to_ne_bytes(), body)
            }
            ToContainer(family) => translate(family, PORTS[family as usize], 0, only(family, body)),
            ToContainerByAddress(family) => {
                let (offset, length) = family.source();
                let body = payload(NETWORK, offset + length, length, 0, only(family, body));
                translate(family, ADDRESSED[family as usize], length / 4, body)
            }
            Masquerade => expression("masq", body, |body| body),
            Accept => verdict(libc::NF_ACCEPT, None, body),
            Drop => verdict(libc::NF_DROP, None, body),
            Return => verdict(libc::NFT_RETURN, None, body),
            Jump(chain) => verdict(libc::NFT_JUMP, Some(chain), body),
        }
    }
}

/// The registers are 16 words; keys and data are put together there.
fn register(word: u32) -> u32 {
    libc::NFT_REG32_00 as u32 + word
}

fn expression(name: &str, body: Request, data: impl FnOnce(Request) -> Request) -> Request {
    body.nested(NFTA_LIST_ELEM, |body| body.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data))
}

fn load(name: &str, key: c_int, word: u32, body: Request) -> Request {
    expression(name, body, |body| body.number(NFTA_DREG, register(word)).number(NFTA_KEY, key as u32))
}

fn payload(base: c_int, offset: u32, length: u32, word: u32, body: Request) -> Request {
    expression("payload", body, |body| {
        body.number(NFTA_PAYLOAD_DREG, register(word))
            .number(NFTA_PAYLOAD_BASE, base as u32)
            .number(NFTA_PAYLOAD_OFFSET, offset)
            .number(NFTA_PAYLOAD_LEN, length)
    })
}

fn value(kind: u16, value: &[u8], body: Request) -> Request {
    body.nested(kind, |body| body.attribute(NFTA_DATA_VALUE, value))
}

fn compare(op: c_int, with: &[u8], body: Request) -> Request {
    expression("cmp", body, |body| {
        value(NFTA_CMP_DATA, with, body.number(NFTA_CMP_SREG, register(0)).number(NFTA_CMP_OP, op as u32))
    })
}

fn equal(with: &[u8], body: Request) -> Request {
    compare(libc::NFT_CMP_EQ, with, body)
}

fn any_of(bits: u32, body: Request) -> Request {
    let body = expression("bitwise", body, |body| {
        let body = body
            .number(NFTA_BITWISE_SREG, register(0))
            .number(NFTA_BITWISE_DREG, register(0))
            .number(NFTA_BITWISE_LEN, 4);
        value(NFTA_BITWISE_XOR, &[0; 4], value(NFTA_BITWISE_MASK, &bits.to_ne_bytes(), body))
    });
    compare(libc::NFT_CMP_NEQ, &[0; 4], body)
}

fn only(family: Family, body: Request) -> Request {
    equal(&[family.number() as u8], load("meta", libc::NFT_META_NFPROTO, 0, body))
}

fn lookup(body: Request, set: &str, data: Option<u32>, flags: c_int) -> Request {
    expression("lookup", body, |body| {
        let body = body.text(NFTA_LOOKUP_SET, set).number(NFTA_LOOKUP_SREG, register(0));
        match data {
            Some(word) => body.number(NFTA_LOOKUP_DREG, register(word)),
            None => body.number(NFTA_LOOKUP_FLAGS, flags as u32),
        }
    })
}

/// The rest of the key from this word on, the map, and where it leads.
fn translate(family: Family, map: &str, word: u32, body: Request) -> Request {
    let body = load("meta", libc::NFT_META_L4PROTO, word, body);
    let body = payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, word + 1, body);
    expression("nat", lookup(body, map, Some(0), 0), |body| {
        body.number(NFTA_NAT_TYPE, libc::NFT_NAT_DNAT as u32)
            .number(NFTA_NAT_FAMILY, family.number() as u32)
            .number(NFTA_NAT_REG_ADDR_MIN, register(0))
            .number(NFTA_NAT_REG_PROTO_MIN, register(family.source().1 / 4))
    })
}

fn verdict(code: c_int, chain: Option<&str>, body: Request) -> Request {
    expression("immediate", body, |body| {
        body.number(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32).nested(NFTA_IMMEDIATE_DATA, |body| {
            body.nested(NFTA_DATA_VERDICT, |body| {
                let body = body.number(NFTA_VERDICT_CODE, code as u32);
                match chain {
                    Some(chain) => body.text(NFTA_VERDICT_CHAIN, chain),
                    None => body,
                }
            })
        })
    })
}

/// An element of a set, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) set: &'static str,
    pub(super) key: Vec<u8>,
    /// The last key of a range.
    pub(super) end: Option<Vec<u8>>,
    /// Of a map.
    pub(super) data: Option<Vec<u8>>,
}

impl Element {
    /// `kind`: NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM.
    pub(super) fn request(&self, kind: c_int, flags: c_int) -> Request {
        named_set(self.set, message(kind, flags)).nested(NFTA_SET_ELEM_LIST_ELEMENTS, |body| {
            body.nested(NFTA_LIST_ELEM, |body| {
                let parts = [
                    (NFTA_SET_ELEM_KEY, Some(&self.key)),
                    (NFTA_SET_ELEM_KEY_END, self.end.as_ref()),
                    (NFTA_SET_ELEM_DATA, self.data.as_ref()),
                ];
                parts.into_iter().fold(body, |body, (kind, part)| match part {
                    Some(bytes) => value(kind, bytes, body),
                    None => body,
                })
            })
        })
    }
}

fn named_set(set: &str, request: Request) -> Request {
    request.text(NFTA_SET_ELEM_LIST_TABLE, TABLE).text(NFTA_SET_ELEM_LIST_SET, set)
}

/// For a list of what is in a set; ENOENT if it is not there.
pub(super) fn list_elements(set: &str) -> Request {
    named_set(set, message(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP))
}

/// One message of that list.
pub(super) fn parse_elements(set: &'static str, body: &[u8]) -> Option<Vec<Element>> {
    let list = find(parts(body)?.1, NFTA_SET_ELEM_LIST_ELEMENTS)?;
    let part = |element, kind| Some(find(find(element, kind)?, NFTA_DATA_VALUE)?.to_vec());
    Some(
        attributes(list)
            .filter_map(|(_, element)| {
                Some(Element {
                    set,
                    key: part(element, NFTA_SET_ELEM_KEY)?,
                    end: part(element, NFTA_SET_ELEM_KEY_END),
                    data: part(element, NFTA_SET_ELEM_DATA),
                })
            })
            .collect(),
    )
}

/// For a list of our rules; it is empty if there is no table.
pub(super) fn list_rules() -> Request {
    message(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP).text(NFTA_RULE_TABLE, TABLE)
}

/// One message of that list: chain and comment. None if there is no comment.
pub(super) fn parse_rule(body: &[u8]) -> Option<(String, String)> {
    let (_, body) = parts(body)?;
    let mut data = find(body, NFTA_RULE_USERDATA)?;
    loop {
        let [kind, length, rest @ ..] = data else { return None };
        let (value, after) = rest.split_at_checked((*length).into())?;
        if *kind == UDATA_COMMENT {
            return Some((text(find(body, NFTA_RULE_CHAIN)?)?, text(value)?));
        }
        data = after;
    }
}

/// Are all rules there, those of a chain in our order? Rules of others may be among them.
pub(super) fn is_complete(found: &[(String, String)]) -> bool {
    CHAINS.iter().all(|chain| {
        let mut there = found.iter().filter(|(name, _)| name == chain.name);
        RULES
            .iter()
            .filter(|rule| rule.chain == chain.name)
            .all(|rule| there.any(|(_, comment)| comment == rule.comment))
    })
}

/// For a list of all chains of all tables.
pub(super) fn list_chains() -> Request {
    message_of(libc::AF_UNSPEC, libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP)
}

/// One message of that list: the chain's name, if it is not ours and drops what is forwarded and nobody has accepted.
pub(super) fn parse_dropping_chain(body: &[u8]) -> Option<String> {
    let (family, body) = parts(body)?;
    let family = match family {
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_INET => "inet",
        _ => return None,
    };
    let hook = number(find(find(body, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM)?)?;
    let policy = number(find(body, NFTA_CHAIN_POLICY)?)?;
    let table = text(find(body, NFTA_CHAIN_TABLE)?)?;
    if hook != libc::NF_INET_FORWARD as u32
        || policy != libc::NF_DROP as u32
        || (family, &*table) == ("inet", TABLE)
    {
        return None;
    }
    Some(format!("{family} {table} {}", text(find(body, NFTA_CHAIN_NAME)?)?))
}
