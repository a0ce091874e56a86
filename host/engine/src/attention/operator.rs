use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use halo_models::Shape;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType::Float32;

use super::head_cache::HeadCache;
use super::kernel::{self, Query, Scratch};

/// Multiply-adds below which waking other threads takes longer than it saves.
const WORTH_THREADS: usize = 1 << 19;

/// The operator of HALO's own in the attention's graphs: rotary embedding, and attention over the KV caches, to which it appends.
///
/// From `[1, rows, (heads + 2 kv_heads) * head_width]`, a row's queries, keys and values after one another, to
/// `[1, rows, heads * head_width]`; of as many KV heads as the pass has caches of. ONNX Runtime's `GroupQueryAttention` reads a cache once for every query head, which made
/// decoding half as fast after 2,000 tokens; it wants the three apart and copied for every generation; and it keeps the cache
/// in its own tensors.
pub(super) struct Attend {
    pub(super) heads: Heads,
    pub(super) pass: Arc<Mutex<LayerPass>>,
}

/// What a model's attention heads are like.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    /// Query heads that share a KV head.
    group: usize,
    width: usize,
    window: usize,
    epsilon: f32,
}

/// What [`Attend`] works on besides its input: put there before a layer is run, taken back afterwards.
#[derive(Debug, Default)]
pub(super) struct LayerPass {
    pub(super) parts: Vec<PartPass>,
    pub(super) norms: Option<Arc<HeadNorms>>,
    scratch: Vec<TaskScratch>,
}

/// Gains of the RMS normalisation of every head by itself, for models that have it.
#[derive(Debug)]
pub(super) struct HeadNorms {
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
}

/// One generation's rows.
#[derive(Debug)]
pub(super) struct PartPass {
    pub(super) rows: usize,
    /// Tokens in the cache before them.
    pub(super) start: usize,
    /// Cosine and sine by position, then by pair of elements.
    pub(super) rotary: Arc<Vec<[f32; 2]>>,
    /// This layer's KV heads, with room for the rows.
    pub(super) caches: Vec<HeadCache>,
    /// Positions before the last row's of which nothing is in the caches.
    pub(super) holes: Vec<usize>,
}

#[derive(Debug, Default)]
struct TaskScratch {
    key: Vec<f32>,
    queries: Vec<f32>,
    attention: Scratch,
}

/// One KV head of one generation.
struct Task<'a> {
    head: usize,
    rows: Range<usize>,
    start: usize,
    rotary: &'a [[f32; 2]],
    holes: &'a [usize],
    cache: &'a mut HeadCache,
    scratch: &'a mut TaskScratch,
    /// Of each row, where the results of the query heads go.
    attended: Vec<&'a mut [f32]>,
}

impl Heads {
    pub(super) fn new(shape: &Shape) -> Self {
        Self {
            group: shape.heads / shape.kv_heads,
            width: shape.head_width,
            window: shape.sliding_window.unwrap_or(usize::MAX),
            epsilon: shape.norm_epsilon,
        }
    }

    /// Values of a row's queries, and of its keys or values, of so many KV heads.
    fn widths(&self, kv_heads: usize) -> [usize; 2] {
        let keys = kv_heads * self.width;
        [self.group * keys, keys]
    }

    /// Normalises a head's elements, where the model does that, and turns them to a position.
    fn prepare(&self, head: &mut [f32], gains: Option<&[f32]>, rotary: &[[f32; 2]]) {
        if let Some(gains) = gains {
            let mean = head.iter().map(|x| x * x).sum::<f32>() / head.len() as f32;
            let factor = (mean + self.epsilon).sqrt().recip();
            for (x, gain) in head.iter_mut().zip(gains) {
                *x *= factor * gain;
            }
        }
        let (first, second) = head.split_at_mut(head.len() / 2);
        for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(rotary) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

impl LayerPass {
    /// KV heads of the layer, the same in all parts.
    fn kv_heads(&self) -> usize {
        self.parts.first().map_or(0, |part| part.caches.len())
    }

    /// Attends for all rows. `each` calls a function for every number below the one it is given.
    fn run(
        &mut self,
        heads: &Heads,
        input: &[f32],
        output: &mut [f32],
        each: impl FnOnce(usize, &(dyn Fn(usize) + Send + Sync)) -> ort::Result<()>,
    ) -> ort::Result<()> {
        let kv_heads = self.kv_heads();
        let [queries, _] = heads.widths(kv_heads);
        let norms = self.norms.clone();
        let count = self.parts.len() * kv_heads;
        self.scratch.resize_with(count, TaskScratch::default);
        let mut outputs = output.chunks_exact_mut(queries);
        let mut scratch = self.scratch.iter_mut();
        let mut tasks = Vec::with_capacity(count);
        let (mut row, mut cost) = (0, 0);
        for part in &mut self.parts {
            let rows = row..row + part.rows;
            let first = tasks.len();
            for (head, (cache, scratch)) in part.caches.iter_mut().zip(&mut scratch).enumerate() {
                tasks.push(Mutex::new(Task {
                    head,
                    rows: rows.clone(),
                    start: part.start,
                    rotary: &part.rotary,
                    holes: &part.holes,
                    cache,
                    scratch,
                    attended: Vec::with_capacity(part.rows),
                }));
            }
            for attended in outputs.by_ref().take(part.rows) {
                let heads = attended.chunks_exact_mut(heads.group * heads.width);
                for (task, attended) in tasks[first..].iter_mut().zip(heads) {
                    let task = task.get_mut().unwrap_or_else(PoisonError::into_inner);
                    task.attended.push(attended);
                }
            }
            cost += 2 * queries * part.rows * (part.start + part.rows);
            row = rows.end;
        }
        let run = |index: usize| {
            // Each is locked once: this is how they are shared out.
            let mut task = tasks[index].lock().unwrap_or_else(PoisonError::into_inner);
            task.run(heads, kv_heads, norms.as_deref(), input);
        };
        if cost < WORTH_THREADS {
            (0..tasks.len()).for_each(run);
            return Ok(());
        }
        each(tasks.len(), &run)
    }
}

impl Task<'_> {
    fn run(&mut self, heads: &Heads, kv_heads: usize, norms: Option<&HeadNorms>, input: &[f32]) {
        let [all_queries, all_keys] = heads.widths(kv_heads);
        let width = heads.width;
        let TaskScratch {
            key,
            queries,
            attention,
        } = &mut *self.scratch;
        queries.clear();
        for (row, position) in self.rows.clone().zip(self.start..) {
            let rotary = &self.rotary[position * (width / 2)..];
            let row = &input[row * (all_queries + 2 * all_keys)..];
            let [first, group] = [self.head * width, heads.group * width];
            let own = queries.len();
            queries.extend_from_slice(&row[self.head * group..][..group]);
            for query in queries[own..].chunks_exact_mut(width) {
                heads.prepare(query, norms.map(|n| &n.query[..]), rotary);
                let factor = (width as f32).sqrt().recip();
                query.iter_mut().for_each(|x| *x *= factor);
            }
            key.clear();
            key.extend_from_slice(&row[all_queries + first..][..width]);
            heads.prepare(key, norms.map(|n| &n.key[..]), rotary);
            let value = &row[all_queries + all_keys + first..][..width];
            self.cache.store(position, key, value);
        }
        let attended = self
            .attended
            .iter_mut()
            .flat_map(|r| r.chunks_exact_mut(width));
        let mut queries: Vec<_> = queries
            .chunks_exact(width)
            .zip(attended)
            .enumerate()
            .map(|(index, (query, attended))| {
                let end = self.start + index / heads.group + 1;
                Query {
                    query,
                    sees: end.saturating_sub(heads.window)..end,
                    attended,
                }
            })
            .collect();
        kernel::attend(self.cache, self.holes, &mut queries, attention);
    }
}

impl Operator for Attend {
    type Kernel<'attr> = AttendKernel;

    fn name(&self) -> &str {
        "Attend"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<AttendKernel> {
        Ok(AttendKernel {
            heads: self.heads.clone(),
            pass: Arc::clone(&self.pass),
        })
    }
}

/// [`Attend`] in one layer's graph.
pub(super) struct AttendKernel {
    heads: Heads,
    pass: Arc<Mutex<LayerPass>>,
}

impl Kernel for AttendKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: usize = pass.parts.iter().map(|part| part.rows).sum();
        let [queries, keys] = self.heads.widths(pass.kv_heads());
        let missing = || ort::Error::new("the operator's input or output is missing");
        let input = context.input(0)?.ok_or_else(missing)?;
        let (_, input) = input.try_extract_tensor::<f32>()?;
        let mut output = context.output(0, [1, rows, queries])?.ok_or_else(missing)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        if input.len() != rows * (queries + 2 * keys) || output.len() != rows * queries {
            return Err(ort::Error::new(
                "the operator's input is of other rows than the pass",
            ));
        }
        pass.run(&self.heads, input, output, |count, run| {
            context.par_for(count, count, run)
        })
    }
}
