//! Files mapped into memory: the one place of this crate that needs `unsafe`.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};

/// A file mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapped {
    file: File,
    map: Mmap,
}

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
        Ok(Self { file, map })
    }

    /// Has the system read what is asked for and nothing beside it, as it does by default: next to a group that is wanted lies
    /// one that is not, or not yet.
    pub(crate) fn read_exactly(&self) {
        if let Err(error) = self.map.advise(Advice::Random) {
            tracing::trace!(%error, "the system reads ahead as it likes");
        }
    }

    /// Asks the system to begin reading a range, and returns at once. Only a hint, so failure is of no consequence.
    pub(crate) fn prefetch(&self, range: &Range<usize>) {
        let advised = self
            .map
            .advise_range(Advice::WillNeed, range.start, range.len());
        if let Err(error) = advised {
            tracing::trace!(%error, "prefetch hint refused");
        }
    }

    /// Reads a range into memory, and returns when it is there. What cannot be read is an error here, where touching the
    /// mapping would end the process.
    pub(crate) fn read(&self, range: &Range<usize>) -> io::Result<()> {
        match self
            .map
            .advise_range(Advice::PopulateRead, range.start, range.len())
        {
            // Linux before 5.14 does not know it; the pages then come when they are touched.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    /// Takes a range out of this process's memory. It comes back from the file when it is touched again.
    pub(crate) fn release(&self, range: &Range<usize>) {
        let advice = UncheckedAdvice::DontNeed;
        // SAFETY: what this drops are pages of a file mapped read-only, which are read from the file when they are next
        // touched: no byte that a borrow of the mapping sees changes, but for a file that another program changes,
        // which is no different without this.
        #[allow(unsafe_code, reason = "this advice has no safe form")]
        let released = unsafe {
            self.map
                .unchecked_advise_range(advice, range.start, range.len())
        };
        if let Err(error) = released {
            tracing::trace!(%error, "the system keeps mapped pages");
        }
    }

    /// Takes a range out of the system's page cache too, so that it takes no memory from what is read more often.
    pub(crate) fn evict(&self, range: &Range<usize>) {
        self.release(range);
        let length = NonZero::new(range.len() as u64);
        let advice = rustix::fs::Advice::DontNeed;
        if let Err(error) = rustix::fs::fadvise(&self.file, range.start as u64, length, advice) {
            tracing::trace!(%error, "the system keeps cached pages");
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
