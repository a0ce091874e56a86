//! SentencePiece's BPE: of all neighbours, those are merged whose union has the highest score.

use serde_json::json;

use super::{Bpe, TokenizerJson, Tokens, Vocabulary, VocabularyError, token_type};

/// How SentencePiece writes a space.
const SPACE: &str = "▁";

impl Vocabulary<'_> {
    pub(super) fn sentence_piece<'t>(
        &self,
        tokens: &'t Tokens<'_>,
    ) -> Result<TokenizerJson<'t>, VocabularyError> {
        let merges = self.merges_by_score(tokens)?;
        let unknown = self.unknown.or_else(|| {
            let place = self
                .types
                .iter()
                .position(|kind| *kind == token_type::UNKNOWN)?;
            Some(place as u32)
        });
        let space_first = self.add_space_prefix.unwrap_or(true);
        let replace =
            |from, to| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let mut normalizers = vec![replace(" ", SPACE)];
        let mut decoders = vec![
            replace(SPACE, " "),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if space_first {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Ok(TokenizerJson {
            version: "1.0",
            added_tokens: self.added_tokens(tokens),
            normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
            pre_tokenizer: json!(null),
            post_processor: (),
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
            model: Bpe {
                r#type: "BPE",
                unk_token: unknown.map(|id| tokens.name(id)),
                fuse_unk: true,
                byte_fallback: true,
                ignore_merges: false,
                vocab: tokens,
                merges,
            },
        })
    }

    /// Every way to make a token from two others, in the order in which published conversions have them: by the score
    /// of the whole, the highest first, then by the ids of the parts.
    fn merges_by_score<'t>(
        &self,
        tokens: &'t Tokens<'_>,
    ) -> Result<Vec<(&'t str, &'t str)>, VocabularyError> {
        if self.scores.is_empty() {
            return Err(VocabularyError::Empty { key: "scores" });
        }
        let mut merges = Vec::new();
        for (id, (token, score)) in tokens.names.iter().zip(&self.scores).enumerate() {
            if score.is_nan() {
                return Err(VocabularyError::Score { id });
            }
            if [token_type::BYTE, token_type::UNUSED].contains(&self.kind(id)) {
                continue;
            }
            for (cut, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(cut);
                if let (Some(left), Some(right)) = (tokens.id(left), tokens.id(right)) {
                    merges.push((*score, left, right));
                }
            }
        }
        merges.sort_by(|(a, left_a, right_a), (b, left_b, right_b)| {
            b.total_cmp(a)
                .then((left_a, right_a).cmp(&(left_b, right_b)))
        });
        let names = |(_, left, right)| (tokens.name(left), tokens.name(right));
        Ok(merges.into_iter().map(names).collect())
    }
}
