mod graph;
mod head_cache;
mod kernel;
mod operator;

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use halo_models::Package;
use ort::memory::Allocator;
use ort::operator::OperatorDomain;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use crate::error::Context;
use crate::graph::HALO;
use crate::{Engine, EngineError, KvCache};

pub(crate) use head_cache::HeadCache;
use operator::{Attend, HeadNorms, Heads, LayerPass, PartPass};

/// Every layer's attention, with the norms before and after it and its residual.
///
/// ```text
/// hidden ─┬─ norm ─ q, k, v ─ rotary + attention over the KV cache ─ o ─ + ─┬─ hidden (residual stream after attention)
///         └──────────────────────────────────────────────────────────────┘ └─ norm ─ normed (the feed-forward's input)
/// ```
///
/// The products take the rows of all generations of a pass at once, since reading the weights is what they cost; the attention
/// in the middle is done for each generation by itself, over its own cache.
#[derive(Debug)]
pub struct Attention {
    width: usize,
    layers: Vec<Layer>,
    /// How the operator in the middle of every layer's graph comes by the caches.
    pass: Arc<Mutex<LayerPass>>,
    single: Option<Bindings>,
    several: Option<Bindings>,
}

#[derive(Debug)]
struct Layer {
    session: Session,
    norms: Option<Arc<HeadNorms>>,
}

/// Buffers and bindings of a pass with a given number of rows. Making them once keeps allocation out of decoding.
#[derive(Debug)]
struct Bindings {
    rows: usize,
    input: Tensor<f32>,
    hidden: Tensor<f32>,
    normed: Tensor<f32>,
    layers: Vec<IoBinding>,
}

/// The rows of a pass that belong to one generation: they follow the tokens in its cache.
#[derive(Debug)]
pub struct Part<'a> {
    /// How many there are.
    pub rows: usize,
    /// The generation's cache.
    pub cache: &'a mut KvCache,
}

impl Attention {
    /// Builds all layers' graphs from the package's weights.
    ///
    /// # Errors
    ///
    /// ONNX Runtime refuses a graph.
    pub fn load(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        let shape = package.shape();
        let pass = Arc::new(Mutex::new(LayerPass::default()));
        let attend = Attend {
            heads: Heads::new(shape),
            pass: Arc::clone(&pass),
        };
        let operators: Arc<_> = OperatorDomain::new(HALO)
            .and_then(|domain| domain.add(attend))
            .context(|| "the attention operator".into())?
            .into();
        let layers = (0..shape.layers)
            .map(|layer| {
                let region = package.attention_region(layer);
                region.read()?;
                let weights = package.attention(layer);
                let operators = Arc::clone(&operators);
                let session = graph::build(engine, package, layer, &weights, operators)?;
                let norms = weights.query_norm.zip(weights.key_norm);
                region.release();
                Ok(Layer {
                    session,
                    norms: norms.map(|(query, key)| Arc::new(HeadNorms { query, key })),
                })
            })
            .collect::<Result<_, EngineError>>()?;
        Ok(Self {
            width: shape.width,
            layers,
            pass,
            single: None,
            several: None,
        })
    }

    /// Runs one layer's attention for the rows of `hidden` (`[rows, width]`, the residual stream), which are those of `parts`
    /// one after another. Afterwards `hidden` is the residual stream after attention and `normed` the feed-forward's input.
    /// The caches' lengths do not change: call [`KvCache::advance`] after the last layer.
    ///
    /// # Errors
    ///
    /// A cache is too short, or ONNX Runtime fails.
    pub fn run(
        &mut self,
        layer: usize,
        parts: &mut [Part<'_>],
        hidden: &mut [f32],
        normed: &mut [f32],
    ) -> Result<(), EngineError> {
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let empty = parts.is_empty() || parts.iter().any(|part| part.rows == 0);
        if hidden.len() != rows * self.width || normed.len() != hidden.len() || empty {
            return Err(EngineError::Mismatch {
                what: "values of the attention's rows",
                expected: rows * self.width,
                got: normed.len(),
            });
        }
        for part in &mut *parts {
            part.cache.reserve(part.cache.length() + part.rows)?;
        }
        let slot = if rows == 1 {
            &mut self.single
        } else {
            &mut self.several
        };
        let bindings = match slot.take().filter(|bindings| bindings.rows == rows) {
            Some(bindings) => slot.insert(bindings),
            None => {
                let bindings = bind(&self.layers, rows, self.width);
                slot.insert(bindings.context(|| format!("the bindings of {rows} rows"))?)
            }
        };
        bindings
            .input
            .extract_tensor_mut()
            .1
            .copy_from_slice(hidden);
        let Layer { session, norms } = &mut self.layers[layer];
        lend(&self.pass, layer, norms.clone(), parts);
        let result = session.run_binding(&bindings.layers[layer]);
        take_back(&self.pass, layer, parts);
        result.context(|| format!("the attention of layer {layer}"))?;
        hidden.copy_from_slice(bindings.hidden.extract_tensor().1);
        normed.copy_from_slice(bindings.normed.extract_tensor().1);
        Ok(())
    }
}

/// Puts a layer's caches where the operator finds them.
fn lend(
    pass: &Mutex<LayerPass>,
    layer: usize,
    norms: Option<Arc<HeadNorms>>,
    parts: &mut [Part<'_>],
) {
    let mut pass = pass.lock().unwrap_or_else(PoisonError::into_inner);
    pass.norms = norms;
    pass.parts.extend(parts.iter_mut().map(|part| PartPass {
        rows: part.rows,
        start: part.cache.length(),
        rotary: part.cache.rotary(),
        caches: mem::take(&mut part.cache.layers[layer]),
    }));
}

/// Gives them back, whatever became of the run.
fn take_back(pass: &Mutex<LayerPass>, layer: usize, parts: &mut [Part<'_>]) {
    let mut pass = pass.lock().unwrap_or_else(PoisonError::into_inner);
    for (part, lent) in parts.iter_mut().zip(pass.parts.drain(..)) {
        part.cache.layers[layer] = lent.caches;
    }
}

fn bind(layers: &[Layer], rows: usize, width: usize) -> ort::Result<Bindings> {
    let buffer = || Tensor::<f32>::new(&Allocator::default(), [1, rows, width]);
    let mut bindings = Bindings {
        rows,
        input: buffer()?,
        hidden: buffer()?,
        normed: buffer()?,
        layers: Vec::with_capacity(layers.len()),
    };
    for layer in layers {
        let mut binding = layer.session.create_binding()?;
        binding.bind_input("x", &bindings.input)?;
        binding.bind_output("hidden", &mut bindings.hidden)?;
        binding.bind_output("normed", &mut bindings.normed)?;
        bindings.layers.push(binding);
    }
    Ok(bindings)
}
