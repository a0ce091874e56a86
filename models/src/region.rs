//! Parts of a package that are read and let go of together.

use std::ops::Range;

use crate::error::PackageError;
use crate::tensors::TensorFile;

/// Where some of a package's weights lie in their file: the unit of reading from the disk.
///
/// Weights are mapped: touching them reads them. A region says when, so that reading goes on beside computing and what has
/// been read does not stay in memory longer than it is wanted.
#[derive(Clone, Debug)]
pub struct Region<'a> {
    pub(crate) file: &'a TensorFile,
    pub(crate) ranges: Vec<Range<usize>>,
}

impl Region<'_> {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.len() as u64).sum()
    }

    /// Asks the system to begin reading, and returns at once.
    pub fn prefetch(&self) {
        for range in &self.ranges {
            self.file.map().prefetch(range);
        }
    }

    /// Reads it into memory, and returns when it is there.
    ///
    /// # Errors
    ///
    /// The disk does not give it.
    pub fn read(&self) -> Result<(), PackageError> {
        self.prefetch();
        self.ranges
            .iter()
            .try_for_each(|range| self.file.map().read(range))
            .map_err(PackageError::io(self.file.path()))
    }

    /// Takes it out of this process's memory, when what was wanted of it has been copied. The system may keep it cached.
    pub fn release(&self) {
        for range in &self.ranges {
            self.file.map().release(range);
        }
    }

    /// Takes it out of the system's cache too, since it would push out what is read more often.
    pub fn evict(&self) {
        for range in &self.ranges {
            self.file.map().evict(range);
        }
    }
}
