mod graphs;

use halo_models::Package;
use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use crate::error::Context;
use crate::{Engine, EngineError, KvCache};

/// Every layer's attention, with the norms before and after it and its residual.
///
/// ```text
/// hidden ─┬─ norm ─ q, k, v ─ rotary + attention over the KV cache ─ o ─ + ─┬─ hidden (residual stream after attention)
///         └──────────────────────────────────────────────────────────────┘ └─ norm ─ normed (the feed-forward's input)
/// ```
///
/// The products take the rows of all generations of a pass at once, since reading the weights is what they cost; only the
/// attention in the middle is done for each generation by itself, over its own cache.
#[derive(Debug)]
pub struct Attention {
    widths: Widths,
    layers: Vec<Layer>,
    /// It has no weights, so one serves all layers.
    attend: Session,
    single: Option<Pass>,
    several: Option<Pass>,
}

/// Lengths of a row's vectors.
#[derive(Debug, Clone, Copy)]
struct Widths {
    hidden: usize,
    query: usize,
    key: usize,
}

#[derive(Debug)]
struct Layer {
    project: Session,
    output: Session,
}

/// Buffers and bindings of a pass with a given number of rows. Making them once keeps allocation out of decoding.
#[derive(Debug)]
struct Pass {
    rows: usize,
    input: Tensor<f32>,
    query: Tensor<f32>,
    key: Tensor<f32>,
    value: Tensor<f32>,
    attended: Tensor<f32>,
    hidden: Tensor<f32>,
    normed: Tensor<f32>,
    /// Each layer's.
    project: Vec<IoBinding>,
    output: Vec<IoBinding>,
}

/// As [`Pass`], of the rows of one generation and with its cache.
#[derive(Debug)]
pub(crate) struct Attending {
    rows: usize,
    query: Tensor<f32>,
    key: Tensor<f32>,
    value: Tensor<f32>,
    attended: Tensor<f32>,
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
        let layers = (0..shape.layers)
            .map(|layer| {
                let region = package.attention_region(layer);
                region.read()?;
                let graphs = Layer {
                    project: graphs::project(engine, package, layer)?,
                    output: graphs::output(engine, package, layer)?,
                };
                region.release();
                Ok(graphs)
            })
            .collect::<Result<_, EngineError>>()?;
        Ok(Self {
            widths: Widths {
                hidden: shape.width,
                query: shape.heads * shape.head_width,
                key: shape.kv_heads * shape.head_width,
            },
            layers,
            attend: graphs::attend(engine, shape)?,
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
        if hidden.len() != rows * self.widths.hidden || normed.len() != hidden.len() || empty {
            return Err(EngineError::Mismatch {
                what: "values of the attention's rows",
                expected: rows * self.widths.hidden,
                got: normed.len(),
            });
        }
        let what = || format!("the attention of layer {layer}");
        let slot = |attention: &mut Self| match rows {
            1 => attention.single.take(),
            _ => attention.several.take().filter(|pass| pass.rows == rows),
        };
        let mut pass = match slot(self) {
            Some(pass) => pass,
            None => self
                .bind(rows)
                .context(|| format!("the bindings of {rows} rows"))?,
        };
        pass.input.extract_tensor_mut().1.copy_from_slice(hidden);
        let state = &mut self.layers[layer];
        state
            .project
            .run_binding(&pass.project[layer])
            .context(what)?;
        let mut first = 0;
        for part in parts {
            attend(&mut self.attend, self.widths, layer, part, &mut pass, first)?;
            first += part.rows;
        }
        state
            .output
            .run_binding(&pass.output[layer])
            .context(what)?;
        hidden.copy_from_slice(pass.hidden.extract_tensor().1);
        normed.copy_from_slice(pass.normed.extract_tensor().1);
        *(if rows == 1 {
            &mut self.single
        } else {
            &mut self.several
        }) = Some(pass);
        Ok(())
    }

    fn bind(&self, rows: usize) -> ort::Result<Pass> {
        let Widths { hidden, query, key } = self.widths;
        let buffer = |width| Tensor::<f32>::new(&Allocator::default(), [1, rows, width]);
        let mut pass = Pass {
            rows,
            input: buffer(hidden)?,
            query: buffer(query)?,
            key: buffer(key)?,
            value: buffer(key)?,
            attended: buffer(query)?,
            hidden: buffer(hidden)?,
            normed: buffer(hidden)?,
            project: Vec::with_capacity(self.layers.len()),
            output: Vec::with_capacity(self.layers.len()),
        };
        for layer in &self.layers {
            let mut binding = layer.project.create_binding()?;
            binding.bind_input("x", &pass.input)?;
            binding.bind_output("q", &mut pass.query)?;
            binding.bind_output("k", &mut pass.key)?;
            binding.bind_output("v", &mut pass.value)?;
            pass.project.push(binding);
            let mut binding = layer.output.create_binding()?;
            binding.bind_input("x", &pass.input)?;
            binding.bind_input("a", &pass.attended)?;
            binding.bind_output("hidden", &mut pass.hidden)?;
            binding.bind_output("normed", &mut pass.normed)?;
            pass.output.push(binding);
        }
        Ok(pass)
    }
}

/// The attention of one generation's rows, which are those of `pass` from `first` on.
fn attend(
    session: &mut Session,
    widths: Widths,
    layer: usize,
    part: &mut Part<'_>,
    pass: &mut Pass,
    first: usize,
) -> Result<(), EngineError> {
    let (rows, cache) = (part.rows, &mut *part.cache);
    let what = || format!("the attention of layer {layer} over the KV cache");
    let total = cache.length() + rows;
    cache.reserve(total)?;
    cache.last_position.extract_tensor_mut().1[0] = total as i32 - 1;
    cache.total.extract_tensor_mut().1[0] = total as i32;
    let mut attending = match cache.attending(rows).take().filter(|a| a.rows == rows) {
        Some(attending) => attending,
        None => bind_cache(session, widths, cache, rows).context(what)?,
    };
    let Widths { query, key, .. } = widths;
    let of = |width: usize| first * width..(first + rows) * width;
    for (to, from, width) in [
        (&mut attending.query, &pass.query, query),
        (&mut attending.key, &pass.key, key),
        (&mut attending.value, &pass.value, key),
    ] {
        let from = &from.extract_tensor().1[of(width)];
        to.extract_tensor_mut().1.copy_from_slice(from);
    }
    session
        .run_binding(&attending.layers[layer])
        .context(what)?;
    pass.attended.extract_tensor_mut().1[of(query)]
        .copy_from_slice(attending.attended.extract_tensor().1);
    *cache.attending(rows) = Some(attending);
    Ok(())
}

fn bind_cache(
    session: &Session,
    widths: Widths,
    cache: &mut KvCache,
    rows: usize,
) -> ort::Result<Attending> {
    let buffer = |width| Tensor::<f32>::new(&Allocator::default(), [1, rows, width]);
    let mut attending = Attending {
        rows,
        query: buffer(widths.query)?,
        key: buffer(widths.key)?,
        value: buffer(widths.key)?,
        attended: buffer(widths.query)?,
        layers: Vec::with_capacity(cache.layers.len()),
    };
    for layer in &mut cache.layers {
        let mut binding = session.create_binding()?;
        binding.bind_input("q", &attending.query)?;
        binding.bind_input("k", &attending.key)?;
        binding.bind_input("v", &attending.value)?;
        binding.bind_input("past_keys", &layer.keys)?;
        binding.bind_input("past_values", &layer.values)?;
        binding.bind_input("last_position", &cache.last_position)?;
        binding.bind_input("total", &cache.total)?;
        binding.bind_input("cos", &cache.cos)?;
        binding.bind_input("sin", &cache.sin)?;
        binding.bind_output("a", &mut attending.attended)?;
        // Past and present are one buffer: the operator then appends in place instead of copying the whole cache.
        binding.bind_output("keys", &mut layer.keys)?;
        binding.bind_output("values", &mut layer.values)?;
        attending.layers.push(binding);
    }
    Ok(attending)
}
