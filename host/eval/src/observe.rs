use halo_engine::{Backbone, FeedForward, FeedForwardSource, FeedForwardStep, KvCache};

use crate::EvalError;
use crate::contributions::Contributions;

/// What was seen of one layer in one pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation<'a> {
    /// Which layer.
    pub(crate) layer: usize,
    /// The residual stream one round earlier, `[rows, width]`: after the attention of the layer before, or the embeddings.
    pub(crate) earlier: &'a [f32],
    /// Norms of the groups' contributions, `[rows, groups]`.
    pub(crate) norms: &'a [f32],
}

/// A model that can be looked into while it runs.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) backbone: Backbone,
    pub(crate) feed_forward: FeedForward,
    pub(crate) contributions: Contributions,
    pub(crate) cache: KvCache,
}

impl Observed {
    /// Runs tokens from an empty context and shows every layer.
    pub(crate) fn run(
        &mut self,
        tokens: &[u32],
        look: &mut dyn FnMut(Observation<'_>),
    ) -> Result<(), EvalError> {
        let mut look = |seen: Observation<'_>| {
            look(seen);
            Ok(())
        };
        let mut observer = Observer::new(&mut self.feed_forward, &self.contributions, &mut look);
        self.cache.truncate(0);
        self.backbone
            .forward(tokens, &mut self.cache, &mut observer)?;
        Ok(())
    }
}

/// A feed-forward that shows what every layer of it contributes.
pub(crate) struct Observer<'a> {
    feed_forward: &'a mut FeedForward,
    contributions: &'a Contributions,
    earlier: Vec<f32>,
    activations: Vec<f32>,
    norms: Vec<f32>,
    look: &'a mut Look<'a>,
}

/// Looks at what was seen.
pub(crate) type Look<'a> = dyn FnMut(Observation<'_>) -> Result<(), EvalError> + 'a;

impl<'a> Observer<'a> {
    pub(crate) fn new(
        feed_forward: &'a mut FeedForward,
        contributions: &'a Contributions,
        look: &'a mut Look<'a>,
    ) -> Self {
        Self {
            feed_forward,
            contributions,
            earlier: Vec::new(),
            activations: Vec::new(),
            norms: Vec::new(),
            look,
        }
    }
}

impl FeedForwardSource for Observer<'_> {
    type Error = EvalError;

    fn begin(&mut self, embedded: &[f32]) -> Result<(), EvalError> {
        self.earlier = embedded.to_vec();
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EvalError> {
        let FeedForwardStep {
            layer,
            hidden,
            normed,
            sum,
        } = step;
        self.feed_forward
            .run_observed(layer, normed, sum, &mut self.activations)?;
        self.contributions
            .norms(layer, &self.activations, &mut self.norms);
        (self.look)(Observation {
            layer,
            earlier: &self.earlier,
            norms: &self.norms,
        })?;
        self.earlier.copy_from_slice(hidden);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use halo_engine::{Engine, EngineError, EngineOptions};
    use halo_models::{ImportOptions, WeightFormat, import};

    use super::*;

    /// Keeps every layer's input to the feed-forward and the residual stream around it.
    struct Recorder {
        feed_forward: FeedForward,
        /// The embeddings, then the stream after each layer's attention.
        streams: Vec<Vec<f32>>,
        normed: Vec<Vec<f32>>,
    }

    impl FeedForwardSource for Recorder {
        type Error = EngineError;

        fn begin(&mut self, embedded: &[f32]) -> Result<(), EngineError> {
            self.streams.push(embedded.to_vec());
            Ok(())
        }

        fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EngineError> {
            self.streams.push(step.hidden.to_vec());
            self.normed.push(step.normed.to_vec());
            self.feed_forward.step(step)
        }
    }

    #[test]
    fn norms_are_those_of_the_groups_partials() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tests/data/tiny-hf");
        let folder = tempfile::tempdir().unwrap();
        let options = ImportOptions {
            weights: WeightFormat::F32,
            ..ImportOptions::default()
        };
        let package = import(&data, &folder.path().join("p"), &options, &mut |_| ()).unwrap();
        let engine = Engine::start(&EngineOptions::default()).unwrap();
        let shape = package.shape();
        let (layers, width, groups) = (shape.layers, shape.width, package.groups());
        let tokens = [0, 310, 17, 900, 44];

        let mut recorder = Recorder {
            feed_forward: FeedForward::load_all(&engine, &package).unwrap(),
            streams: Vec::new(),
            normed: Vec::new(),
        };
        Backbone::load(&engine, &package)
            .unwrap()
            .forward(&tokens, &mut KvCache::new(shape, 5), &mut recorder)
            .unwrap();

        let mut observed = Observed {
            backbone: Backbone::load(&engine, &package).unwrap(),
            feed_forward: FeedForward::load_all(&engine, &package).unwrap(),
            contributions: Contributions::new(&package),
            cache: KvCache::new(shape, 5),
        };
        let mut seen = Vec::new();
        observed
            .run(&tokens, &mut |o| {
                assert_eq!(o.layer, seen.len());
                assert_eq!(o.earlier, recorder.streams[o.layer]);
                seen.push(o.norms.to_vec());
            })
            .unwrap();
        assert_eq!(seen.len(), layers);
        for group in 0..groups {
            let mut alone =
                FeedForward::load(&engine, &package, &vec![vec![group as u32]; layers]).unwrap();
            for (layer, norms) in seen.iter().enumerate() {
                let mut partial = vec![0f32; tokens.len() * width];
                alone
                    .run(layer, &recorder.normed[layer], &mut partial)
                    .unwrap();
                let largest = norms.iter().fold(0f32, |m, n| m.max(*n));
                for (row, partial) in partial.chunks(width).enumerate() {
                    let expected = partial.iter().map(|v| v * v).sum::<f32>().sqrt();
                    let got = norms[row * groups + group];
                    assert!(
                        (got - expected).abs() <= 1e-4 * largest,
                        "layer {layer} group {group} row {row}: {got} for {expected}"
                    );
                }
            }
        }
    }
}
