//! The shapes of published models, by name.

use std::fmt;
use std::str::FromStr;

use crate::rope::RopeScaling;
use crate::shape::Shape;

/// A published model whose shape is known: see [`random`](crate::random()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishedShape {
    /// TinyLlama-1.1B: 22 layers of width 2,048.
    TinyLlama1B,
    /// Llama-3.2-1B: 16 layers of width 2,048, a vocabulary of 128,256.
    Llama32B1,
    /// Llama-3.2-3B: 28 layers of width 3,072.
    Llama32B3,
    /// Llama-2-7B: 32 layers of width 4,096, as many KV heads as heads.
    Llama2B7,
    /// Llama-3-8B: 32 layers of width 4,096.
    Llama3B8,
}

impl PublishedShape {
    /// All of them, from small to large.
    pub const ALL: [Self; 5] = [
        Self::TinyLlama1B,
        Self::Llama32B1,
        Self::Llama32B3,
        Self::Llama2B7,
        Self::Llama3B8,
    ];

    /// The name that [`FromStr`] takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TinyLlama1B => "tinyllama-1.1b",
            Self::Llama32B1 => "llama-3.2-1b",
            Self::Llama32B3 => "llama-3.2-3b",
            Self::Llama2B7 => "llama-2-7b",
            Self::Llama3B8 => "llama-3-8b",
        }
    }

    /// Its dimensions and constants, as its authors' `config.json` has them.
    #[must_use]
    pub fn shape(self) -> Shape {
        let llama2 = Shape {
            layers: 32,
            width: 4096,
            heads: 32,
            kv_heads: 32,
            head_width: 128,
            feed_forward: 11_008,
            vocabulary: 32_000,
            context: 4096,
            rope_theta: 10_000.0,
            rope_scaling: None,
            sliding_window: None,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            norm_epsilon: 1e-5,
            tied_head: false,
            bos: Some(1),
            eos: vec![2],
        };
        let llama3 = Shape {
            kv_heads: 8,
            feed_forward: 14_336,
            vocabulary: 128_256,
            context: 8192,
            rope_theta: 500_000.0,
            bos: Some(128_000),
            eos: vec![128_001],
            ..llama2.clone()
        };
        let llama32 = Shape {
            feed_forward: 8192,
            context: 131_072,
            rope_scaling: Some(RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            }),
            tied_head: true,
            ..llama3.clone()
        };
        match self {
            Self::TinyLlama1B => Shape {
                layers: 22,
                width: 2048,
                kv_heads: 4,
                head_width: 64,
                feed_forward: 5632,
                context: 2048,
                ..llama2
            },
            Self::Llama32B1 => Shape {
                layers: 16,
                width: 2048,
                head_width: 64,
                ..llama32
            },
            Self::Llama32B3 => Shape {
                layers: 28,
                width: 3072,
                heads: 24,
                ..llama32
            },
            Self::Llama2B7 => llama2,
            Self::Llama3B8 => llama3,
        }
    }
}

impl fmt::Display for PublishedShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PublishedShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is not a shape that is known by name; those are {names}")
        })
    }
}
