use std::num::NonZeroUsize;

use halo_models::{PackageError, Shape, Tokenizer};

/// A text cut into documents: what the model sees as wholes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// The text's name, for reports and errors: a file's, mostly.
    pub name: String,
    /// The documents.
    pub texts: Vec<String>,
}

impl Documents {
    /// Cuts a text into paragraphs, which blank lines separate, leaves out the first `skip` of them, and joins the rest in
    /// runs of `run`, with a blank line in between. The last run may be shorter.
    #[must_use]
    pub fn from_text(name: impl Into<String>, text: &str, skip: usize, run: NonZeroUsize) -> Self {
        let mut paragraphs = Vec::new();
        let mut lines = Vec::new();
        // The blank line at the end closes the last paragraph.
        for line in text.lines().chain([""]) {
            if !line.trim().is_empty() {
                lines.push(line);
            } else if !lines.is_empty() {
                paragraphs.push(lines.join("\n"));
                lines.clear();
            }
        }
        let kept = paragraphs.get(skip..).unwrap_or_default();
        Self {
            name: name.into(),
            texts: kept.chunks(run.get()).map(|run| run.join("\n\n")).collect(),
        }
    }
}

/// A document as the model was trained on it: begin token, text, end token, so far as the model has them.
pub(crate) fn whole(
    shape: &Shape,
    tokenizer: &Tokenizer,
    document: &str,
) -> Result<Vec<u32>, PackageError> {
    let mut tokens: Vec<u32> = shape.bos.into_iter().collect();
    tokens.extend(tokenizer.encode(document)?);
    tokens.extend(shape.eos.first());
    Ok(tokens)
}

/// All of a document as the model meets it when it generates: pieces of at most `window` tokens, each after a begin token of
/// its own if the model has one.
pub(crate) fn windows(
    shape: &Shape,
    tokenizer: &Tokenizer,
    document: &str,
    window: usize,
) -> Result<Vec<Vec<u32>>, PackageError> {
    let text = window.saturating_sub(shape.bos.iter().len()).max(1);
    let tokens = tokenizer.encode(document)?;
    Ok(tokens
        .chunks(text)
        .map(|piece| shape.bos.iter().chain(piece).copied().collect())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, skip: usize, run: usize) -> Vec<String> {
        Documents::from_text("t", text, skip, NonZeroUsize::new(run).unwrap()).texts
    }

    #[test]
    fn paragraphs_are_skipped_and_joined_in_runs() {
        let text = "\n\none\nline two\n\ntwo\n \t\n\nthree\r\n\r\nfour \n";
        assert_eq!(cut(text, 0, 1), ["one\nline two", "two", "three", "four "]);
        assert_eq!(cut(text, 1, 2), ["two\n\nthree", "four "]);
        assert_eq!(cut(text, 3, 9), ["four "]);
        assert!(cut(text, 4, 1).is_empty());
        assert!(cut(text, usize::MAX, 1).is_empty());
        assert!(cut(" \n\n\t\n", 0, 1).is_empty());
        assert!(cut("", 0, 1).is_empty());
    }
}
