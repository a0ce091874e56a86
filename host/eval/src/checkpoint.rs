use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use halo_models::Package;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::EvalError;
use crate::sample::Sample;
use crate::statistics::Statistics;

/// The keys of the file's metadata: whose it is, and how many documents are in it.
const KEY: &str = "calibration";
const DOCUMENTS: &str = "documents";

/// What a calibration has learnt so far, in a file, so that one that is interrupted goes on from there.
///
/// The sums are kept bit by bit, so the calibration comes out as if nothing had happened. The file of another calibration, or
/// one that cannot be read, counts as none.
pub(crate) struct Checkpoint {
    path: PathBuf,
    /// Tells calibrations apart, by the model and the tokens.
    key: String,
    every: Duration,
    saved: Instant,
}

impl Checkpoint {
    pub(crate) fn new(path: &Path, every: Duration, package: &Package, sample: &Sample) -> Self {
        let mut hash = Sha256::new();
        hash.update(package.identity());
        for document in sample.fitted.iter().chain(&sample.held_out) {
            hash.update(document.text.to_le_bytes());
            for window in &document.windows {
                hash.update(window.len().to_le_bytes());
                window.iter().for_each(|t| hash.update(t.to_le_bytes()));
            }
        }
        let digest = hash.finalize();
        Self {
            path: path.to_owned(),
            key: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            every,
            saved: Instant::now(),
        }
    }

    /// Fills in what is there, and says how many documents that is of. Nothing is filled in if it is none.
    pub(crate) fn resume(&self, statistics: &mut Vec<Statistics>) -> usize {
        let mut read = statistics.clone();
        let Some(documents) = self.read(&mut read) else {
            return 0;
        };
        *statistics = read;
        documents
    }

    fn read(&self, statistics: &mut [Statistics]) -> Option<usize> {
        let bytes = fs::read(&self.path).ok()?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        let told = metadata.metadata().as_ref()?;
        if *told.get(KEY)? != self.key {
            return None;
        }
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        for (layer, statistics) in statistics.iter_mut().enumerate() {
            for (name, values) in statistics.sums_mut() {
                let tensor = tensors.tensor(&format!("{layer}.{name}")).ok()?;
                let (read, rest) = tensor.data().as_chunks::<8>();
                if tensor.dtype() != Dtype::F64 || read.len() != values.len() || !rest.is_empty() {
                    return None;
                }
                for (value, read) in values.iter_mut().zip(read) {
                    *value = f64::from_le_bytes(*read);
                }
            }
        }
        told.get(DOCUMENTS)?.parse().ok()
    }

    /// Saves what `documents` have taught, unless that was done lately.
    pub(crate) fn save(
        &mut self,
        statistics: &[Statistics],
        documents: usize,
    ) -> Result<(), EvalError> {
        if self.saved.elapsed() < self.every {
            return Ok(());
        }
        self.write(statistics, documents)
            .map_err(|source| EvalError::Checkpoint {
                path: self.path.clone(),
                source,
            })?;
        self.saved = Instant::now();
        Ok(())
    }

    fn write(&self, statistics: &[Statistics], documents: usize) -> io::Result<()> {
        let mut views = Vec::new();
        for (layer, statistics) in statistics.iter().enumerate() {
            for (name, values) in statistics.sums() {
                let bytes = bytemuck::cast_slice(values);
                let view = TensorView::new(Dtype::F64, vec![values.len()], bytes)
                    .map_err(io::Error::other)?;
                views.push((format!("{layer}.{name}"), view));
            }
        }
        let metadata = HashMap::from([
            (KEY.to_owned(), self.key.clone()),
            (DOCUMENTS.to_owned(), documents.to_string()),
        ]);
        // Renamed into place, so that it is whole or the one before.
        let unfinished = self.path.with_added_extension("new");
        safetensors::serialize_to_file(views, Some(metadata), &unfinished)
            .map_err(io::Error::other)?;
        fs::rename(&unfinished, &self.path)
    }

    /// Removes what is not needed any more.
    pub(crate) fn remove(&self) {
        // One that stays is passed over, or makes the same calibration shorter.
        let _ = fs::remove_file(&self.path);
    }
}
