//! Files mapped into memory: the one place of this crate that needs `unsafe`.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};

/// A file mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// Maps a whole file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        // SAFETY: the mapping is private and read-only, and this crate never writes to a file that it has mapped: what
        // replaces one is written beside it and renamed over it, which leaves the mapped file as it was. Bytes are only
        // ever read as plain numbers, for which every bit pattern is valid. Another program that changes the file in
        // place breaks the package in any case; one that shortens it makes reading it fault, as with every mapped file.
        #[allow(unsafe_code, reason = "mapping a file has no safe form")]
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(map))
    }

    /// Asks the system to read a range ahead. Only a hint, so failure is of no consequence.
    pub(crate) fn prefetch(&self, range: Range<usize>) {
        if let Err(error) = self
            .0
            .advise_range(Advice::WillNeed, range.start, range.len())
        {
            tracing::trace!(%error, "prefetch hint refused");
        }
    }

    /// Gives back the memory of a range that will not be read again soon. Only a hint: it can be read as before.
    pub(crate) fn release(&self, range: Range<usize>) {
        let advice = UncheckedAdvice::DontNeed;
        // SAFETY: what this drops are pages of a file mapped read-only, which are read from the file when they are next
        // touched: no byte that a borrow of the mapping sees changes, but for a file that another program changes,
        // which is no different without this.
        #[allow(unsafe_code, reason = "this advice has no safe form")]
        let result = unsafe {
            self.0
                .unchecked_advise_range(advice, range.start, range.len())
        };
        if let Err(error) = result {
            tracing::trace!(%error, "hint to release memory refused");
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
