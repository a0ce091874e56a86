//! A tokenizer for a model that was never trained.

use std::collections::BTreeMap;

use serde_json::json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::shape::Shape;

/// The content of a `tokenizer.json` in which every byte is a token, so that any text has tokens. The tokens that begin
/// and end a text are where the shape has them, and fillers, which no text becomes, fill the vocabulary.
///
/// # Errors
///
/// In words, when the vocabulary is too small.
pub(super) fn for_shape(shape: &Shape) -> Result<Vec<u8>, String> {
    let mut special = BTreeMap::new();
    if let Some(bos) = shape.bos {
        special.insert(bos, "<s>".to_owned());
    }
    for (index, eos) in shape.eos.iter().enumerate() {
        let name = match index {
            0 => "</s>".to_owned(),
            _ => format!("</s-{index}>"),
        };
        special.entry(*eos).or_insert(name);
    }
    // Byte-level tokenizers write each byte as a character that can be seen.
    let mut bytes = ByteLevel::alphabet().into_iter().collect::<Vec<_>>();
    bytes.sort_unstable();
    let least = bytes.len() + special.len();
    if shape.vocabulary < least {
        return Err(format!(
            "a vocabulary of {} is too small: a token for every byte and {} others make {least}",
            shape.vocabulary,
            special.len()
        ));
    }
    let mut bytes = bytes.into_iter();
    let name = |token: u32| match special.get(&token) {
        Some(name) => name.clone(),
        None => match bytes.next() {
            Some(byte) => byte.to_string(),
            None => format!("<filler-{token}>"),
        },
    };
    // A validated vocabulary fits.
    let tokens = 0..shape.vocabulary as u32;
    let vocabulary = tokens
        .clone()
        .map(name)
        .zip(tokens)
        .collect::<BTreeMap<_, _>>();
    let added = special.iter().map(|(id, content)| {
        json!({
            "id": id,
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        })
    });
    let byte_level = json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": true,
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": [],
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}
