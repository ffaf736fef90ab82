// SPDX-License-Identifier: MIT OR Apache-2.0
//! The architectures that a profile may name.
//!
//! Owns their names, audit numbers, number bases and word sizes. Knows no syscall. Comes from the spec's list and
//! the kernel's linux/audit.h and asm/unistd.h; goes to compile.rs and names.rs.

/// One system call interface, as the runtime spec names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Architecture {
    X86,
    X86_64,
    X32,
    Arm,
    Aarch64,
    Mips,
    Mips64,
    Mips64N32,
    Mipsel,
    Mipsel64,
    Mipsel64N32,
    Ppc,
    Ppc64,
    Ppc64le,
    S390,
    S390x,
    Parisc,
    Parisc64,
    Riscv64,
    Loongarch64,
    M68k,
    Sh,
    Sheb,
}

/// The columns of tables.rs, in its order.
#[derive(Clone, Copy)]
enum Column {
    X86_64,
    X86,
    X32,
    Arm,
    Aarch64,
    Mips,
    Mips64,
    Mips64N32,
    Ppc,
    Ppc64,
    S390,
    S390x,
    Parisc,
    Parisc64,
    Riscv64,
    Loongarch64,
    M68k,
    Sh,
}

/// What the kernel says of one architecture.
struct Facts {
    name: &'static str,
    audit: u32,
    column: Column,
    /// Added to a number of the table.
    base: u32,
    /// Arguments are compared by their lower halves.
    narrow: bool,
}

/// Numbers from here on are x32's, under x86_64's audit number (`__X32_SYSCALL_BIT`).
pub(crate) const X32_BASE: u32 = 0x4000_0000;

const LE: u32 = 0x4000_0000;
const WIDE: u32 = 0x8000_0000;
const N32: u32 = 0x2000_0000;

const ALL: [Architecture; 23] = {
    use Architecture::*;
    [
        X86,
        X86_64,
        X32,
        Arm,
        Aarch64,
        Mips,
        Mips64,
        Mips64N32,
        Mipsel,
        Mipsel64,
        Mipsel64N32,
        Ppc,
        Ppc64,
        Ppc64le,
        S390,
        S390x,
        Parisc,
        Parisc64,
        Riscv64,
        Loongarch64,
        M68k,
        Sh,
        Sheb,
    ]
};

/// The names of all architectures that a filter can be compiled for.
pub fn architectures() -> Vec<&'static str> {
    ALL.iter().map(|architecture| architecture.name()).collect()
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 23] = ALL;

    /// From the spec's name, such as `SCMP_ARCH_X86_64`.
    pub fn from_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// The one that this program was built for; `None` for one that the spec does not name.
    pub const fn native() -> Option<Self> {
        let little = cfg!(target_endian = "little");
        let short = cfg!(target_pointer_width = "32");
        if cfg!(target_arch = "x86_64") {
            Some(if short { Self::X32 } else { Self::X86_64 })
        } else if cfg!(target_arch = "aarch64") && little {
            Some(Self::Aarch64)
        } else if cfg!(target_arch = "x86") {
            Some(Self::X86)
        } else if cfg!(target_arch = "arm") && little {
            Some(Self::Arm)
        } else if cfg!(target_arch = "riscv64") {
            Some(Self::Riscv64)
        } else if cfg!(target_arch = "powerpc64") {
            Some(if little { Self::Ppc64le } else { Self::Ppc64 })
        } else if cfg!(target_arch = "powerpc") && !little {
            Some(Self::Ppc)
        } else if cfg!(target_arch = "s390x") {
            Some(Self::S390x)
        } else if cfg!(target_arch = "loongarch64") {
            Some(Self::Loongarch64)
        } else if cfg!(target_arch = "mips64") {
            Some(match (little, short) {
                (true, false) => Self::Mipsel64,
                (true, true) => Self::Mipsel64N32,
                (false, false) => Self::Mips64,
                (false, true) => Self::Mips64N32,
            })
        } else if cfg!(target_arch = "mips") {
            Some(if little { Self::Mipsel } else { Self::Mips })
        } else if cfg!(target_arch = "m68k") {
            Some(Self::M68k)
        } else {
            None
        }
    }

    /// The spec's name.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The number that the kernel puts into `seccomp_data.arch` (`AUDIT_ARCH_…`). x32 has that of x86_64.
    pub fn audit(self) -> u32 {
        self.facts().audit
    }

    pub(crate) fn column(self) -> usize {
        self.facts().column as usize
    }

    pub(crate) fn base(self) -> u32 {
        self.facts().base
    }

    pub(crate) fn narrow(self) -> bool {
        self.facts().narrow
    }

    pub(crate) fn big_endian(self) -> bool {
        self.audit() & LE == 0
    }

    /// The kernel hands numbers that it does not know to a filter as 0, which no call has.
    pub(crate) fn unknown_is_zero(self) -> bool {
        matches!(self, Self::S390 | Self::S390x)
    }

    /// The table of linux/audit.h, linux/elf-em.h and asm/unistd.h.
    #[rustfmt::skip]
    fn facts(self) -> Facts {
        const fn facts(name: &'static str, audit: u32, column: Column, base: u32, narrow: bool) -> Facts {
            Facts { name, audit, column, base, narrow }
        }
        match self {
            Self::X86         => facts("SCMP_ARCH_X86",         3 | LE,              Column::X86,         0,        true),
            Self::X86_64      => facts("SCMP_ARCH_X86_64",      62 | WIDE | LE,      Column::X86_64,      0,        false),
            Self::X32         => facts("SCMP_ARCH_X32",         62 | WIDE | LE,      Column::X32,         X32_BASE, true),
            Self::Arm         => facts("SCMP_ARCH_ARM",         40 | LE,             Column::Arm,         0,        true),
            Self::Aarch64     => facts("SCMP_ARCH_AARCH64",     183 | WIDE | LE,     Column::Aarch64,     0,        false),
            Self::Mips        => facts("SCMP_ARCH_MIPS",        8,                   Column::Mips,        4000,     true),
            Self::Mips64      => facts("SCMP_ARCH_MIPS64",      8 | WIDE,            Column::Mips64,      5000,     false),
            Self::Mips64N32   => facts("SCMP_ARCH_MIPS64N32",   8 | WIDE | N32,      Column::Mips64N32,   6000,     true),
            Self::Mipsel      => facts("SCMP_ARCH_MIPSEL",      8 | LE,              Column::Mips,        4000,     true),
            Self::Mipsel64    => facts("SCMP_ARCH_MIPSEL64",    8 | WIDE | LE,       Column::Mips64,      5000,     false),
            Self::Mipsel64N32 => facts("SCMP_ARCH_MIPSEL64N32", 8 | WIDE | LE | N32, Column::Mips64N32,   6000,     true),
            Self::Ppc         => facts("SCMP_ARCH_PPC",         20,                  Column::Ppc,         0,        true),
            Self::Ppc64       => facts("SCMP_ARCH_PPC64",       21 | WIDE,           Column::Ppc64,       0,        false),
            Self::Ppc64le     => facts("SCMP_ARCH_PPC64LE",     21 | WIDE | LE,      Column::Ppc64,       0,        false),
            Self::S390        => facts("SCMP_ARCH_S390",        22,                  Column::S390,        0,        true),
            Self::S390x       => facts("SCMP_ARCH_S390X",       22 | WIDE,           Column::S390x,       0,        false),
            Self::Parisc      => facts("SCMP_ARCH_PARISC",      15,                  Column::Parisc,      0,        true),
            Self::Parisc64    => facts("SCMP_ARCH_PARISC64",    15 | WIDE,           Column::Parisc64,    0,        false),
            Self::Riscv64     => facts("SCMP_ARCH_RISCV64",     243 | WIDE | LE,     Column::Riscv64,     0,        false),
            Self::Loongarch64 => facts("SCMP_ARCH_LOONGARCH64", 258 | WIDE | LE,     Column::Loongarch64, 0,        false),
            Self::M68k        => facts("SCMP_ARCH_M68K",        4,                   Column::M68k,        0,        true),
            Self::Sh          => facts("SCMP_ARCH_SH",          42 | LE,             Column::Sh,          0,        true),
            Self::Sheb        => facts("SCMP_ARCH_SHEB",        42,                  Column::Sh,          0,        true),
        }
    }
}
