use halo_engine::{Backbone, FeedForwardSource, KvCache};
use halo_models::{Shape, Tokenizer};

use crate::EvalError;

/// Logits held at a time: large vocabularies would otherwise take gigabytes.
const LOGITS: usize = 1 << 23;

/// A model that is given text, and is asked at each token what comes next.
#[derive(Debug)]
pub struct Reader<'a, S: ?Sized> {
    /// Embedding, attention and output head.
    pub backbone: &'a mut Backbone,
    /// Whoever computes the feed-forward.
    pub feed_forward: &'a mut S,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Tokens of a pass at most: 1 reads as a generation writes, one round a layer and token.
    pub rows: usize,
}

impl<S> Reader<'_, S>
where
    S: FeedForwardSource + ?Sized,
    EvalError: From<S::Error>,
{
    pub(crate) fn shape(&self) -> Shape {
        self.backbone.package().shape().clone()
    }

    /// Reads tokens from an empty context, and tells `each` of every token from `first` on (which is 1 at least) what the
    /// model's logits for it were.
    pub(crate) fn read(
        &mut self,
        tokens: &[u32],
        first: usize,
        mut each: impl FnMut(&[f32], u32),
    ) -> Result<(), EvalError> {
        let shape = self.shape();
        let mut cache = KvCache::new(&shape, tokens.len());
        let rows = (LOGITS / shape.vocabulary).max(1);
        let mut logits = Vec::new();
        let given = &tokens[..tokens.len().saturating_sub(1)];
        let mut next = 1;
        for pass in given.chunks(self.rows.max(1)) {
            let hidden = self.backbone.forward(pass, &mut cache, self.feed_forward)?;
            let skipped = first.saturating_sub(next).min(pass.len());
            let wanted = &tokens[next + skipped..next + pass.len()];
            let hidden = &hidden[skipped * shape.width..];
            for (hidden, wanted) in hidden.chunks(rows * shape.width).zip(wanted.chunks(rows)) {
                self.backbone.logits(hidden, &mut logits)?;
                for (logits, token) in logits.chunks_exact(shape.vocabulary).zip(wanted) {
                    each(logits, *token);
                }
            }
            next += pass.len();
        }
        Ok(())
    }
}
