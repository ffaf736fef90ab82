// SPDX-License-Identifier: MIT OR Apache-2.0
use proptest::prelude::*;

use super::*;

const HEADER: Header = Header { control: 5, first_private: 3 };

#[cfg(feature = "encode")]
fn example() -> Vec<u8> {
    let mut options = Vec::new();
    let mut writer = Writer::new(HEADER);
    writer.push(1, Op::Hostname { name: c"oar" });
    writer.push(
        2,
        Op::Mount {
            target: c"/proc",
            fstype: c"proc",
            source: c"proc",
            options: List::collect(&mut options, &[c"mode", c"755", c"nosymfollow", c""]),
            set: 14,
            set_below: 0,
            clear_below: 0,
            propagation: 0,
            propagation_below: 0,
            id_map: -1,
            flags: MOUNT_COPY_UP,
        },
    );
    writer.push(3, Op::PivotRoot {});
    writer.push(4, Op::Seccomp { flags: 12, program: Bytes(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]), page: 9 });
    writer.finish()
}

#[cfg(feature = "encode")]
#[test]
fn what_is_written_is_read() {
    let bytes = example();
    let program = Program::new(&bytes).unwrap();
    assert_eq!(program.header, HEADER);
    let ops: Vec<_> = program.map(Result::unwrap).collect();
    assert_eq!(ops.len(), 4);
    assert_eq!(ops[0], Numbered { step: 1, op: Op::Hostname { name: c"oar" } });
    let Op::Mount { options, set, .. } = ops[1].op else { panic!("{:?}", ops[1]) };
    assert_eq!(options.iter().collect::<Vec<_>>(), [c"mode", c"755", c"nosymfollow", c""]);
    assert_eq!(set, 14);
    assert_eq!(ops[2].op, Op::PivotRoot {});
    let program = Bytes(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]);
    assert_eq!(ops[3], Numbered { step: 4, op: Op::Seccomp { flags: 12, program, page: 9 } });
}

#[cfg(feature = "encode")]
#[test]
fn a_program_cut_anywhere_is_malformed_or_shorter() {
    let bytes = example();
    for end in 0..bytes.len() {
        if let Ok(program) = Program::new(&bytes[..end]) {
            assert!(program.filter(Result::is_ok).count() < 4);
        }
    }
}

#[test]
fn messages_survive_the_socket() {
    let message = Message::failed(7, 13).with(detail::ELF_INTERPRETER, b"/lib/ld.so");
    assert_eq!(Message::decode(&message.encode()), Ok(message));
    assert_eq!(message.data(), b"/lib/ld.so");
    assert_eq!(Message::decode(&message.encode()[1..]), Err(Malformed));
    let listener = Message::new(MessageKind::Listener).with(17, &[]);
    assert_eq!(Message::decode(&listener.encode()), Ok(listener));
    // Nor is a page that nobody has written to a message, or a buffer that a filter claims to be filled.
    assert_eq!(Message::decode(&[0; Message::SIZE]), Err(Malformed));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut with_header = Vec::new();
        with_header.extend_from_slice(&MAGIC.to_ne_bytes());
        with_header.extend_from_slice(&VERSION.to_ne_bytes());
        with_header.extend_from_slice(&bytes);
        if let Ok(program) = Program::new(&with_header) {
            prop_assert!(program.count() <= bytes.len());
        }
        prop_assert!(Message::decode(&bytes).is_err() || bytes.len() == Message::SIZE);
    }
}
