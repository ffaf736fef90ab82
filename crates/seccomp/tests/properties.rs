// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random profiles: the program does what a direct reading of the profile says, on every architecture.

mod oracle;

use coracle_seccomp::Architecture;
use oracle::{agree, arguments, random};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_the_profile_says(bytes in prop::collection::vec(any::<u8>(), 0..300), seed: u64) {
        let (profile, native) = random::profile(&bytes);
        let samples = arguments(&profile, seed, 24);
        let short = agree(&profile, native, &samples[samples.len().saturating_sub(40)..]);
        prop_assert!(short, "a short profile, a long program");
    }
}

proptest! {
    // Each case is 46 comparisons.
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_the_profile_says_on_each_architecture(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (mut profile, _) = random::profile(&bytes);
        profile.architectures = Architecture::ALL.to_vec();
        let few = arguments(&profile, 1, 4);
        for native in [Architecture::X86_64, Architecture::S390x] {
            agree(&profile, native, &few[few.len().saturating_sub(12)..]);
        }
    }
}
