use std::collections::BTreeMap;
use std::ops::ControlFlow;

use halo_engine::{Backbone, Engine, KvCache};
use halo_models::{Package, Tokenizer};

use crate::alone::{Alone, AloneOptions};
use crate::error::{GenerationError, NodeError};
use crate::generating::Account;
use crate::generation::{Finish, Report, Request, Source, Token};
use crate::memory;
use crate::prefixes::{Prefixes, common};
use crate::sequence::{self, Sequence};

/// Rows of a pass in a cluster. See [`Source::rows`].
pub(crate) const PREFILL_ROWS: usize = 32;

/// A model that is ready to generate, on this machine alone or at the head of a cluster.
///
/// Several generations share its passes: they [join](Self::join) and end between two [steps](Self::step), and a pass reads the
/// weights once for all of them. What each generates is what it would generate alone, but for rounding: products of several
/// rows may add numbers up in another order. [`generate`](Self::generate) is the case of one.
pub struct Generator {
    backbone: Backbone,
    tokenizer: Tokenizer,
    source: Box<dyn Source + Send>,
    under_way: BTreeMap<GenerationId, Sequence>,
    prefixes: Prefixes,
    next: u64,
    account: Account,
}

/// A generation of a [`Generator`]. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GenerationId(u64);

/// What has become of a generation in a step.
#[derive(Debug)]
pub enum Progress {
    /// It has a token more.
    Token(Token),
    /// It has ended.
    Done(Box<Report>),
    /// It cannot go on. The others can.
    Failed(GenerationError),
}

impl Generator {
    /// Generations that can be under way at once.
    pub const MOST: usize = PREFILL_ROWS;

    /// The whole model on this machine.
    ///
    /// # Errors
    ///
    /// It does not fit the memory, or cannot be loaded.
    pub fn alone(
        engine: &Engine,
        package: &Package,
        options: AloneOptions,
    ) -> Result<Self, NodeError> {
        // Groups that load beside the generation would share the disk with what it needs from the start.
        let backbone = Backbone::load(engine, package)?;
        let source = Box::new(Alone::load(engine, package, options)?);
        Self::with(backbone, source, Account::default())
    }

    pub(crate) fn new(
        engine: &Engine,
        package: &Package,
        source: Box<dyn Source + Send>,
        account: Account,
    ) -> Result<Self, NodeError> {
        Self::with(Backbone::load(engine, package)?, source, account)
    }

    fn with(
        backbone: Backbone,
        source: Box<dyn Source + Send>,
        account: Account,
    ) -> Result<Self, NodeError> {
        Ok(Self {
            tokenizer: backbone.package().tokenizer()?,
            backbone,
            source,
            under_way: BTreeMap::new(),
            prefixes: Prefixes::default(),
            next: 0,
            account,
        })
    }

    /// The model itself, for whoever reads with it instead of generating: what the leader always has, and the feed-forward.
    pub fn parts(&mut self) -> (&mut Backbone, &mut (dyn Source + Send)) {
        (&mut self.backbone, &mut *self.source)
    }

    /// Checks whether a request can be met at all, before anything of it is shown, and counts the tokens of its prompt.
    ///
    /// # Errors
    ///
    /// The prompt is empty or too long, a stop string is empty, or a sampling parameter is out of its range.
    pub fn check(&self, request: &Request) -> Result<usize, GenerationError> {
        let shape = self.backbone.package().shape();
        sequence::encode(shape, &self.tokenizer, request).map(|(tokens, _)| tokens.len())
    }

    /// Generates tokens, telling `each` of every one as it comes. Other generations under way go on meanwhile, and what comes
    /// of them is lost.
    ///
    /// # Errors
    ///
    /// The request cannot be met, or the generation cannot go on.
    pub fn generate(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&Token) -> ControlFlow<()>,
    ) -> Result<Report, GenerationError> {
        let id = self.join(request)?;
        loop {
            let mut stop = false;
            for (_, progress) in self.step()?.into_iter().filter(|(of, _)| *of == id) {
                match progress {
                    Progress::Token(token) => stop = each(&token).is_break(),
                    Progress::Done(report) => return Ok(*report),
                    Progress::Failed(error) => return Err(error),
                }
            }
            if stop && let Some(report) = self.leave(id) {
                return report;
            }
        }
    }

    /// Generations that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Begins a generation, with the next step. What its prompt has in common with an earlier one's text is not computed again.
    ///
    /// # Errors
    ///
    /// The request cannot be met, there is no memory for it, or as many generations as can be are under way.
    pub fn join(&mut self, request: &Request) -> Result<GenerationId, GenerationError> {
        if self.under_way.len() >= Self::MOST {
            return Err(GenerationError::Full { most: Self::MOST });
        }
        let shape = self.backbone.package().shape();
        let (tokens, most) = sequence::encode(shape, &self.tokenizer, request)?;
        let promised = self.under_way.values().map(|s| s.yet_to_take(shape)).sum();
        loop {
            let available = memory::available().unwrap_or(u64::MAX);
            match memory::check_cache(shape, most, promised, available) {
                Err(_) if self.prefixes.forget_oldest() => {}
                fits => break fits?,
            }
        }
        if self.source.shares_attention() {
            self.check_shared_caches(most)?;
        }
        let mut cache = self.source.cache(shape, most);
        let others = self.under_way.values().map(Sequence::computed);
        // What others keep of a text cannot be copied.
        let copied = !self.source.shares_attention();
        let known = self.prefixes.iter().chain(others).filter(|_| copied);
        if let Some((count, longest)) = known
            .map(|(known, cache)| (common(known, &tokens), cache))
            .max_by_key(|(count, _)| *count)
        {
            // The last token is run in any case, for its logits.
            cache.copy_prefix(longest, count.min(tokens.len() - 1))?;
        }
        let id = GenerationId(self.next);
        self.next += 1;
        let before = self.source.counts();
        let sequence = Sequence::new(shape, &self.tokenizer, request, tokens, cache, before);
        self.under_way.insert(id, sequence);
        self.note(0);
        Ok(id)
    }

    /// Checks that nodes that share in the attention have room for one text more. Each has room for as many tokens as the model sees.
    fn check_shared_caches(&self, tokens: usize) -> Result<(), GenerationError> {
        let shape = self.backbone.package().shape();
        let room = |tokens| KvCache::room_for(tokens, shape.context);
        let taken: usize = self.under_way.values().map(|s| room(s.capacity())).sum();
        let left = shape.context.saturating_sub(taken);
        if room(tokens) <= left {
            return Ok(());
        }
        Err(GenerationError::NoMemory {
            tokens,
            needed: KvCache::bytes(shape, room(tokens)),
            available: KvCache::bytes(shape, left),
            fits: left as u64,
        })
    }

    /// Ends a generation. Nothing if it has ended before.
    pub fn leave(&mut self, id: GenerationId) -> Option<Result<Report, GenerationError>> {
        let sequence = self.under_way.remove(&id)?;
        self.note(0);
        Some(self.end(sequence, Finish::Stopped))
    }

    /// One pass through the model, with a row of every generation that has read its prompt, and rows of prompts.
    ///
    /// # Errors
    ///
    /// The pass failed; all generations have ended.
    pub fn step(&mut self) -> Result<Vec<(GenerationId, Progress)>, GenerationError> {
        let mut progress = Vec::new();
        let unasked: Vec<_> = self
            .under_way
            .extract_if(.., |_, sequence| sequence.is_full())
            .collect();
        for (id, sequence) in unasked {
            progress.push((id, self.end(sequence, Finish::MaxTokens).into()));
        }
        // What a pass that failed leaves behind is not worth going on with.
        let mut logits = self.pass().inspect_err(|_| {
            self.under_way.clear();
            self.note(0);
        })?;
        let vocabulary = self.backbone.package().shape().vocabulary;
        let ready: Vec<_> = self
            .under_way
            .extract_if(.., |_, sequence| sequence.pending() == 0)
            .collect();
        for ((id, mut sequence), logits) in ready.into_iter().zip(logits.chunks_mut(vocabulary)) {
            match sequence.accept(logits) {
                Ok((token, finish)) => {
                    progress.extend(token.map(|token| (id, Progress::Token(token))));
                    match finish {
                        Some(finish) => progress.push((id, self.end(sequence, finish).into())),
                        None => drop(self.under_way.insert(id, sequence)),
                    }
                }
                Err(error) => progress.push((id, Progress::Failed(error))),
            }
        }
        let tokens = progress
            .iter()
            .filter(|(_, p)| matches!(p, Progress::Token(_)));
        self.note(tokens.count());
        Ok(progress)
    }

    /// Lets those who watch know that there are so many tokens more.
    fn note(&self, tokens: usize) {
        self.account
            .write(self.under_way.len(), tokens, self.source.counts());
    }

    /// One pass. Gives the logits of those that have nothing to run
    /// any more, one after another.
    fn pass(&mut self) -> Result<Vec<f32>, GenerationError> {
        let mut logits = Vec::new();
        if self.under_way.is_empty() {
            return Ok(logits);
        }
        let (rows, hidden) = loop {
            match self.forward() {
                // Where its keys and values are now, nobody has computed them.
                Err(GenerationError::Moved) => {}
                outcome => break outcome?,
            }
        };
        let concealed = self.source.concealed();
        let width = self.backbone.package().shape().width;
        let (mut ends, mut run) = (Vec::new(), 0);
        for (sequence, rows) in self.under_way.values_mut().zip(rows) {
            run += rows;
            sequence.ran(rows, concealed);
            if sequence.pending() == 0 {
                ends.extend_from_slice(&hidden[(run - 1) * width..run * width]);
            }
        }
        if !ends.is_empty() {
            self.backbone.logits(&ends, &mut logits)?;
        }
        Ok(logits)
    }

    /// Runs a row of every generation, and more of those with more to run. Gives how many rows of each, and the residual stream after
    /// the last layer.
    fn forward(&mut self) -> Result<(Vec<usize>, Vec<f32>), GenerationError> {
        if self.source.has_moved()? {
            let shape = self.backbone.package().shape();
            for sequence in self.under_way.values_mut() {
                sequence.start_over(self.source.cache(shape, sequence.capacity()));
            }
            self.prefixes = Prefixes::default();
        }
        let mut spare = self.source.rows().saturating_sub(self.under_way.len());
        let mut parts = Vec::new();
        for sequence in self.under_way.values_mut() {
            let part = sequence.next(1 + spare);
            spare -= part.tokens.len() - 1;
            parts.push(part);
        }
        let rows = parts.iter().map(|part| part.tokens.len()).collect();
        let hidden = self.backbone.forward_all(&mut parts, &mut *self.source)?;
        Ok((rows, hidden))
    }

    /// The report of a generation that is no longer under way. What it has computed is kept for later ones.
    fn end(&mut self, sequence: Sequence, finish: Finish) -> Result<Report, GenerationError> {
        let (report, computed) = sequence.finish(finish, self.source.counts())?;
        if let Some(computed) = computed.filter(|_| !self.source.shares_attention()) {
            let shape = self.backbone.package().shape();
            self.prefixes
                .keep(computed, shape, memory::for_prefixes(shape));
        }
        Ok(report)
    }
}

impl From<Result<Report, GenerationError>> for Progress {
    fn from(ended: Result<Report, GenerationError>) -> Self {
        match ended {
            Ok(report) => Self::Done(Box::new(report)),
            Err(error) => Self::Failed(error),
        }
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator")
            .field("package", self.backbone.package())
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}
