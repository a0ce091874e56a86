//! Which release of the GNU C library a program needs.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};

/// A release of the GNU C library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

/// What Debian 12 and Raspberry Pi OS bookworm have.
pub(crate) const DEBIAN_12: Version = Version {
    major: 2,
    minor: 36,
};

impl Version {
    /// Reads the name of a symbol version, such as `GLIBC_2.34` or `GLIBC_2.2.5`; those of other libraries are none.
    fn of(symbol_version: &str) -> Option<Self> {
        let mut numbers = symbol_version.strip_prefix("GLIBC_")?.split('.');
        Some(Self {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The lowest release that has every symbol which the program or library at `path` takes from the C library.
pub(crate) fn needed(path: &Path) -> Result<Version> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    highest(&bytes)
        .with_context(|| format!("{} is no 64-bit ELF file", path.display()))?
        .with_context(|| format!("{} needs no symbol of glibc", path.display()))
}

fn highest(elf: &[u8]) -> object::Result<Option<Version>> {
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, elf)?;
    let mut highest = None;
    for section in sections.iter() {
        let Some((mut libraries, strings)) = section.gnu_verneed(endian, elf)? else {
            continue;
        };
        let strings = sections.strings(endian, elf, strings)?;
        while let Some((_, mut versions)) = libraries.next()? {
            while let Some(version) = versions.next()? {
                let name = version.name(endian, strings)?;
                highest = highest.max(Version::of(&String::from_utf8_lossy(name)));
            }
        }
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let of = |name| Version::of(name).unwrap();
        assert!(of("GLIBC_2.4") < of("GLIBC_2.36"));
        assert_eq!(of("GLIBC_2.2.5"), of("GLIBC_2.2"));
        assert_eq!(of("GLIBC_2.36"), DEBIAN_12);
        assert_eq!(Version::of("GCC_3.0"), None);
        assert_eq!(Version::of("GLIBC_PRIVATE"), None);
    }

    #[test]
    fn a_program_needs_what_it_was_linked_with() {
        let program = std::env::current_exe().unwrap();
        let needed = needed(&program).unwrap();
        // Rust itself needs this much.
        assert!(
            needed
                >= Version {
                    major: 2,
                    minor: 17
                },
            "{needed}"
        );
        assert!(super::needed(Path::new("/dev/null")).is_err());
    }
}
