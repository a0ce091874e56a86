use std::time::Instant;

use halo_engine::{Backbone, Continuation, Engine, EngineError, FeedForward, KvCache, Products};
use halo_models::Package;
use halo_runtime::{ALONE_ROWS, Sampler, Sampling, memory::available};

use super::memory::{self, Resident};
use super::policies::Policies;
use super::{PolicyTimings, ProductTimings, Run, Timing};
use crate::EvalError;

/// What to measure. What is longer than the model's context is cut to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Tokens in the KV cache before those that are decoded; each is measured.
    pub contexts: Vec<usize>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens to decode in each measurement.
    pub tokens: usize,
    /// Generations to decode at once; each number is measured.
    pub parallel: Vec<usize>,
    /// How often each measurement is made. They are made in turns.
    pub repeats: usize,
    /// Measure the products alone too. They take the memory of the weights a second time.
    pub products: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            contexts: vec![0, 512, 2048],
            prompt: 512,
            tokens: 32,
            parallel: Vec::new(),
            repeats: 5,
            products: true,
        }
    }
}

/// Measures a package on an engine. `progress` is told how many measurements are done, and of how many.
///
/// # Errors
///
/// The package cannot be run, or there is nothing to measure.
pub fn bench(
    engine: &Engine,
    package: &Package,
    options: &Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Run, EvalError> {
    let room = package.shape().context;
    let (prompt, tokens) = (options.prompt.min(room), options.tokens.min(room));
    let mut contexts: Vec<_> = (options.contexts.iter())
        .map(|&context| context.min(room - tokens))
        .collect();
    contexts.sort_unstable();
    contexts.dedup();
    let Some(&longest) = contexts.last().filter(|_| prompt.min(tokens) > 0) else {
        let problem = "nothing to measure: give a context, a prompt and tokens to decode";
        return Err(EvalError::Option(problem.into()));
    };
    let capacity = prompt.max(longest + tokens);
    let began = Instant::now();
    let mut model = Model::load(engine, package, capacity)?;
    let load_seconds = began.elapsed().as_secs_f64();
    let loaded = Resident::now();
    // Buffers are made when they are first used.
    model.prefill(prompt.min(ALONE_ROWS))?;
    model.decode(longest, tokens)?;
    let memory = memory::since(loaded, KvCache::bytes(package.shape(), capacity));

    // Building a graph takes its weights twice for a moment.
    let fits = available().is_none_or(|bytes| 2 * package.weight_bytes() < bytes);
    let mut products = (options.products && fits)
        .then(|| Products::load(engine, package))
        .transpose()?;
    let mut alone = ProductTimings::default();
    let policies = Policies::start(package)?;
    let mut calls = PolicyTimings::default();
    let mut decode: Vec<_> = (contexts.into_iter())
        .map(|context| (context, Timing::default()))
        .collect();
    let mut parallel: Vec<_> = (options.parallel.iter())
        .map(|&generations| (generations, Timing::default()))
        .collect();
    let most = options.parallel.iter().copied().max().unwrap_or(0);
    let mut caches = (0..most)
        .map(|_| KvCache::new(package.shape(), tokens))
        .collect::<Vec<_>>();
    let mut prefill = Timing::default();
    let steps = decode.len() + parallel.len() + 2 + if products.is_some() { 2 } else { 0 };
    let mut done = 0;
    let mut step = || {
        progress(done, steps * options.repeats);
        done += 1;
    };
    for _ in 0..options.repeats {
        for (context, timing) in &mut decode {
            step();
            timing.measure(tokens, || model.decode(*context, tokens))?;
        }
        for (generations, timing) in &mut parallel {
            step();
            let caches = &mut caches[..*generations];
            timing.measure(tokens * *generations, || model.decode_all(caches, tokens))?;
        }
        if let Some(products) = &mut products {
            step();
            alone.decode.measure(tokens, || {
                (0..tokens).try_for_each(|_| products.run(1, true))
            })?;
            step();
            alone.prefill.measure(prompt, || {
                chunks(prompt).try_for_each(|(rows, last)| products.run(rows, last))
            })?;
        }
        step();
        policies.measure(&mut calls)?;
        step();
        prefill.measure(prompt, || model.prefill(prompt))?;
    }
    Ok(Run {
        threads: engine.threads(),
        onnxruntime: (engine.library().file_name())
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        load_seconds,
        memory,
        decode,
        parallel,
        prefill: (prompt, prefill),
        products: products.map(|_| alone),
        policies: Some(calls),
    })
}

/// The passes in which a prompt is read: rows, and whether it is the last.
fn chunks(prompt: usize) -> impl Iterator<Item = (usize, bool)> {
    (0..prompt).step_by(ALONE_ROWS).map(move |start| {
        let left = prompt - start;
        (left.min(ALONE_ROWS), left <= ALONE_ROWS)
    })
}

/// A generation's forward pass, on this machine alone.
struct Model {
    backbone: Backbone,
    feed_forward: FeedForward,
    cache: KvCache,
    sampler: Sampler,
    logits: Vec<f32>,
    token: u32,
}

impl Model {
    fn load(engine: &Engine, package: &Package, capacity: usize) -> Result<Self, EngineError> {
        let shape = package.shape();
        let mut cache = KvCache::new(shape, capacity);
        cache.reserve(capacity)?;
        Ok(Self {
            backbone: Backbone::load(engine, package)?,
            feed_forward: FeedForward::load_all(engine, package)?,
            cache,
            sampler: Sampler::new(Sampling::default(), &[]),
            logits: Vec::new(),
            token: shape.bos.unwrap_or_default(),
        })
    }

    /// Reads a prompt, up to the logits of its last token.
    fn prefill(&mut self, prompt: usize) -> Result<(), EvalError> {
        self.cache.truncate(0);
        for (rows, last) in chunks(prompt) {
            self.pass(&vec![self.token; rows], last)?;
        }
        Ok(())
    }

    /// Decodes tokens after `context` others. What those were does not matter to the time, so they need not be read.
    fn decode(&mut self, context: usize, tokens: usize) -> Result<(), EvalError> {
        self.cache.truncate(0);
        self.cache.advance(context);
        (0..tokens).try_for_each(|_| self.pass(&[self.token], true))
    }

    /// Decodes tokens of several generations at once, from an empty context.
    fn decode_all(&mut self, caches: &mut [KvCache], tokens: usize) -> Result<(), EvalError> {
        caches.iter_mut().for_each(|cache| cache.truncate(0));
        for _ in 0..tokens {
            let mut parts: Vec<_> = caches
                .iter_mut()
                .map(|cache| Continuation {
                    tokens: std::slice::from_ref(&self.token),
                    cache,
                })
                .collect();
            let hidden = self
                .backbone
                .forward_all(&mut parts, &mut self.feed_forward)?;
            self.backbone.logits(&hidden, &mut self.logits)?;
            self.choose(caches.len())?;
        }
        Ok(())
    }

    /// One forward pass. With `sample`, the next token is chosen.
    fn pass(&mut self, tokens: &[u32], sample: bool) -> Result<(), EvalError> {
        let hidden = self
            .backbone
            .forward(tokens, &mut self.cache, &mut self.feed_forward)?;
        if sample {
            let last = hidden.len() - hidden.len() / tokens.len();
            self.backbone.logits(&hidden[last..], &mut self.logits)?;
            self.choose(1)?;
        }
        Ok(())
    }

    /// Chooses the next token from the logits of each of so many rows.
    fn choose(&mut self, rows: usize) -> Result<(), EvalError> {
        let layer = self.backbone.package().shape().layers - 1;
        let vocabulary = self.logits.len() / rows;
        for logits in self.logits.chunks_mut(vocabulary) {
            self.token = self.sampler.next(logits).ok_or_else(|| {
                let what = "no logit after it is a number";
                EvalError::NotFinite { layer, what }
            })?;
        }
        Ok(())
    }
}
