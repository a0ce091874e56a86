use halo_models::Package;

use crate::documents::windows;
use crate::{CalibrateOptions, Documents, EvalError};

/// One document in so many is held out: it chooses between probes that were fitted to the others.
const HOLD_OUT: usize = 7;

/// The tokens of all documents.
pub(crate) struct Sample {
    /// Those to fit to.
    pub(crate) fitted: Vec<Document>,
    /// Those to choose by.
    pub(crate) held_out: Vec<Document>,
}

pub(crate) struct Document {
    /// Which text it is of.
    pub(crate) text: usize,
    pub(crate) windows: Vec<Vec<u32>>,
}

impl Sample {
    /// Cuts documents into tokens and says which are held out.
    pub(crate) fn read(
        package: &Package,
        texts: &[Documents],
        options: &CalibrateOptions,
    ) -> Result<Self, EvalError> {
        let shape = package.shape();
        let tokenizer = package.tokenizer()?;
        let window = options.window.min(shape.context);
        let budget = options
            .max_tokens
            .map_or(usize::MAX, |most| most / texts.len().max(1));
        let mut sample = Self {
            fitted: Vec::new(),
            held_out: Vec::new(),
        };
        for (text, documents) in texts.iter().enumerate() {
            let mut left = budget;
            let mut read = Vec::new();
            for document in &documents.texts {
                let mut windows = windows(shape, &tokenizer, document, window)?;
                for window in &mut windows {
                    window.truncate(left);
                    left -= window.len();
                }
                windows.retain(|window| !window.is_empty());
                if !windows.is_empty() {
                    read.push(Document { text, windows });
                }
            }
            let count = read.len();
            if count < 2 {
                return Err(EvalError::TooFewDocuments {
                    name: documents.name.clone(),
                    documents: count,
                });
            }
            for (index, document) in read.into_iter().enumerate() {
                if index % HOLD_OUT == HOLD_OUT.min(count) - 1 {
                    sample.held_out.push(document);
                } else {
                    sample.fitted.push(document);
                }
            }
        }
        let rows = tokens(&sample.fitted);
        if rows < shape.width {
            return Err(EvalError::TooFewTokens {
                rows,
                needed: shape.width,
            });
        }
        Ok(sample)
    }

    /// Tokens in all.
    pub(crate) fn tokens(&self) -> usize {
        tokens(&self.fitted) + tokens(&self.held_out)
    }

    /// Tokens of the longest window.
    pub(crate) fn longest(&self) -> usize {
        let documents = self.fitted.iter().chain(&self.held_out);
        let windows = documents.flat_map(|document| &document.windows);
        windows.map(Vec::len).max().unwrap_or(0)
    }
}

fn tokens(documents: &[Document]) -> usize {
    let windows = documents.iter().flat_map(|document| &document.windows);
    windows.map(Vec::len).sum()
}
