use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use halo_models::Package;
use ort::memory::Allocator;
use ort::operator::OperatorDomain;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use super::operator::{Attend, HeadNorms, Heads, LayerPass, PartPass};
use crate::error::Context;
use crate::graph::HALO;
use crate::slowdown::Slowdown;
use crate::{Engine, EngineError, KvCache};

/// The graphs of every layer's attention, or of some heads of some layers, and what they are run on.
#[derive(Debug)]
pub(super) struct Layers {
    width: usize,
    /// Nothing of layers without heads here.
    layers: Vec<Option<Layer>>,
    /// Names of the graphs' outputs, each `[1, rows, width]`. Their input is `x`.
    outputs: &'static [&'static str],
    /// How the operator in the middle of every layer's graph comes by the caches.
    pass: Arc<Mutex<LayerPass>>,
    single: Option<Bindings>,
    several: Option<Bindings>,
    slowdown: Slowdown,
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
    outputs: Vec<Tensor<f32>>,
    layers: Vec<Option<IoBinding>>,
}

/// The rows of a pass that belong to one generation: tokens that follow one another.
#[derive(Debug)]
pub struct Part<'a> {
    /// How many there are.
    pub rows: usize,
    /// The position of the first.
    pub start: usize,
    /// The generation's cache.
    pub cache: &'a mut KvCache,
}

impl Layers {
    /// Builds a graph for each layer of which `graph` gives one.
    pub(super) fn load(
        engine: &Engine,
        package: &Package,
        outputs: &'static [&'static str],
        mut graph: impl FnMut(usize, Arc<OperatorDomain>) -> Option<Result<Session, EngineError>>,
    ) -> Result<Self, EngineError> {
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
        let layers = (0..shape.layers).map(|layer| {
            let Some(session) = graph(layer, Arc::clone(&operators)) else {
                return Ok(None);
            };
            let weights = package.attention(layer);
            let norms = weights.query_norm.zip(weights.key_norm);
            Ok(Some(Layer {
                session: session?,
                norms: norms.map(|(query, key)| Arc::new(HeadNorms { query, key })),
            }))
        });
        Ok(Self {
            width: shape.width,
            layers: layers.collect::<Result<_, EngineError>>()?,
            outputs,
            pass,
            single: None,
            several: None,
            slowdown: engine.slowdown(),
        })
    }

    /// Whether there is a graph for a layer.
    pub(super) fn has(&self, layer: usize) -> bool {
        self.layers.get(layer).is_some_and(Option::is_some)
    }

    /// Runs one layer for the rows of `input` (`[rows, width]`), which are those of `parts` one after another, and gives its
    /// outputs, each as large.
    pub(super) fn run(
        &mut self,
        layer: usize,
        parts: &mut [Part<'_>],
        input: &[f32],
    ) -> Result<&[Tensor<f32>], EngineError> {
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let empty = parts.is_empty() || parts.iter().any(|part| part.rows == 0);
        if input.len() != rows * self.width || empty {
            return Err(EngineError::Mismatch {
                what: "values of the attention's rows",
                expected: rows * self.width,
                got: input.len(),
            });
        }
        if !self.has(layer) {
            return Err(EngineError::Mismatch {
                what: "layer with attention heads here",
                expected: self.layers.iter().flatten().count(),
                got: layer,
            });
        }
        for part in &mut *parts {
            part.cache.reserve(part.start.saturating_add(part.rows))?;
        }
        let slot = if rows == 1 {
            &mut self.single
        } else {
            &mut self.several
        };
        let bindings = match slot.take().filter(|bindings| bindings.rows == rows) {
            Some(bindings) => slot.insert(bindings),
            None => {
                let bindings = bind(&self.layers, self.outputs, rows, self.width);
                slot.insert(bindings.context(|| format!("the bindings of {rows} rows"))?)
            }
        };
        bindings.input.extract_tensor_mut().1.copy_from_slice(input);
        if let (Some(Layer { session, norms }), Some(binding)) =
            (&mut self.layers[layer], &bindings.layers[layer])
        {
            lend(&self.pass, layer, norms.clone(), parts);
            let result = self.slowdown.run(|| session.run_binding(binding));
            take_back(&self.pass, layer, parts);
            result.context(|| format!("the attention of layer {layer}"))?;
        }
        Ok(&bindings.outputs)
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
    pass.parts.extend(parts.iter_mut().map(|part| {
        let rotary = part.cache.rotary();
        let cache = &mut part.cache.layers[layer];
        cache.store(part.start..part.start + part.rows);
        PartPass {
            rows: part.rows,
            start: part.start,
            rotary,
            caches: mem::take(&mut cache.heads),
            holes: mem::take(&mut cache.holes),
        }
    }));
}

/// Gives them back, whatever became of the run.
fn take_back(pass: &Mutex<LayerPass>, layer: usize, parts: &mut [Part<'_>]) {
    let mut pass = pass.lock().unwrap_or_else(PoisonError::into_inner);
    for (part, lent) in parts.iter_mut().zip(pass.parts.drain(..)) {
        let cache = &mut part.cache.layers[layer];
        (cache.heads, cache.holes) = (lent.caches, lent.holes);
    }
}

fn bind(
    layers: &[Option<Layer>],
    names: &[&str],
    rows: usize,
    width: usize,
) -> ort::Result<Bindings> {
    let buffer = || Tensor::<f32>::new(&Allocator::default(), [1, rows, width]);
    let input = buffer()?;
    let mut outputs = names
        .iter()
        .map(|_| buffer())
        .collect::<ort::Result<Vec<_>>>()?;
    let mut bind = |layer: &Layer| {
        let mut binding = layer.session.create_binding()?;
        binding.bind_input("x", &input)?;
        for (name, output) in names.iter().zip(&mut outputs) {
            binding.bind_output(*name, output)?;
        }
        Ok(binding)
    };
    let layers = layers
        .iter()
        .map(|layer| layer.as_ref().map(&mut bind).transpose())
        .collect::<ort::Result<_>>()?;
    Ok(Bindings {
        rows,
        input,
        outputs,
        layers,
    })
}
