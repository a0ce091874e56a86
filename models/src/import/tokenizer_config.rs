//! What a model folder says about special tokens and conversations, beside `config.json` and `tokenizer.json`.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::build::Chat;
use crate::chat::ChatTokens;
use crate::error::ImportError;
use crate::manifest::CHAT_TEMPLATE;
use crate::shape::Shape;
use crate::tokenizer::Tokenizer;

/// The keys of `tokenizer_config.json` that matter here.
#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Template>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    add_bos_token: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Template {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Described { content: String },
}

/// The key of `generation_config.json` that matters here: chat models end a turn with another token than a text.
#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(token) => vec![token],
            Self::Many(tokens) => tokens,
        }
    }
}

/// Reads those files of a model folder that are there, and completes the shape's special tokens.
pub(super) fn read(
    dir: &Path,
    tokenizer: &Tokenizer,
    shape: &mut Shape,
) -> Result<Option<Chat>, ImportError> {
    let config: Option<TokenizerConfig> = read_json(&dir.join("tokenizer_config.json"))?;
    let path = dir.join("generation_config.json");
    let generation: Option<GenerationConfig> = read_json(&path)?;
    let (mut template, mut bos, mut eos) = (None, None, None);
    if let Some(config) = config {
        bos = config.bos_token.map(Token::into_text);
        eos = config.eos_token.map(Token::into_text);
        shape.bos = match config.add_bos_token {
            Some(true) => bos
                .as_deref()
                .and_then(|bos| tokenizer.id(bos))
                .or(shape.bos),
            Some(false) => None,
            None => tokenizer.first_token()?,
        };
        template = config.chat_template.and_then(Template::into_default);
    }
    // First the token that the tokenizer calls the end, which is what a chat template means.
    let first = eos.as_deref().and_then(|eos| tokenizer.id(eos));
    let others = generation.and_then(|generation| generation.eos_token_id);
    let others = others.map(OneOrMany::into_vec).unwrap_or_default();
    for token in (first.into_iter())
        .chain(std::mem::take(&mut shape.eos))
        .chain(others)
    {
        if !shape.eos.contains(&token) {
            shape.eos.push(token);
        }
    }
    shape
        .validate()
        .map_err(|source| ImportError::Shape { path, source })?;
    if let Some(text) = read_text(&dir.join(CHAT_TEMPLATE))? {
        template = Some(text);
    }
    let piece = |token: Option<u32>| token.and_then(|token| tokenizer.piece(token));
    Ok(template.map(|template| Chat {
        template,
        tokens: ChatTokens {
            bos: bos.or_else(|| piece(shape.bos)).unwrap_or_default(),
            eos: eos
                .or_else(|| piece(shape.eos.first().copied()))
                .unwrap_or_default(),
        },
    }))
}

impl Template {
    /// The one for conversations; others are for tools and retrieval.
    fn into_default(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(mut named) => {
                let default = named.iter().position(|named| named.name == "default");
                let chosen = default.or((named.len() == 1).then_some(0))?;
                Some(named.swap_remove(chosen).template)
            }
        }
    }
}

impl Token {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Described { content: text } => text,
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImportError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| ImportError::Config {
            path: path.into(),
            reason: error.to_string(),
        })
}

fn read_text(path: &Path) -> Result<Option<String>, ImportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImportError::io(path)(error)),
    }
}
