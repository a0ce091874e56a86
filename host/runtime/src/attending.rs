//! The attention heads that a worker computes for a leader, and the KV caches of the leader's texts.

use std::collections::VecDeque;

use halo_engine::{AttentionHeads, Engine, EngineError, KvCache, Part};
use halo_fabric::Place;
use halo_models::{Package, Shape};

use crate::messages::Heads;

/// A leader's heads on this node.
#[derive(Debug)]
pub(crate) struct Attending {
    wish: Heads,
    heads: AttentionHeads,
    shape: Shape,
    /// By text, the one that was added to last at the end. The leader sees to it that those of texts under way fit the context
    /// together; the others are of texts that have ended, and go when there is no room for them.
    caches: VecDeque<(u32, KvCache)>,
}

/// Rows of one text that follow one another.
struct Run {
    text: u32,
    start: usize,
    rows: usize,
    cache: KvCache,
}

impl Attending {
    pub(crate) fn load(
        engine: &Engine,
        package: &Package,
        wish: Heads,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            heads: AttentionHeads::load(engine, package, &wish.heads)?,
            shape: package.shape().clone(),
            caches: VecDeque::new(),
            wish,
        })
    }

    /// Whether this is what a leader wishes, with what its texts have left here.
    pub(crate) fn is(&self, wish: &Heads) -> bool {
        self.wish == *wish
    }

    /// Computes the partial of a layer's heads, `[rows, width]`, of as many rows as there are places.
    pub(crate) fn run(
        &mut self,
        layer: usize,
        places: &[Place],
        normed: &[f32],
        partial: &mut [f32],
    ) -> Result<(), String> {
        let mut runs = self.take_runs(places)?;
        let mut parts: Vec<_> = runs
            .iter_mut()
            .map(|run| Part {
                rows: run.rows,
                start: run.start,
                cache: &mut run.cache,
            })
            .collect();
        let outcome = self.heads.run(layer, &mut parts, normed, partial);
        let lacks = self.wish.whole && runs.iter().any(|run| run.cache.has_holes(layer));
        self.keep(runs);
        outcome.map_err(|e| e.to_string())?;
        if lacks {
            return Err("this node has not had all tokens before these".into());
        }
        Ok(())
    }

    /// Takes the texts' caches out, new ones where there are none.
    fn take_runs(&mut self, places: &[Place]) -> Result<Vec<Run>, String> {
        let follow = |a: &Place, b: &Place| {
            a.text == b.text && a.position.checked_add(1) == Some(b.position)
        };
        let mut runs = Vec::new();
        for places in places.chunk_by(follow) {
            let Place { text, position } = places[0];
            let known = self.caches.iter().position(|(of, _)| *of == text);
            let cache = known.and_then(|index| self.caches.remove(index));
            runs.push(Run {
                text,
                start: position as usize,
                rows: places.len(),
                cache: cache.map_or_else(|| self.new_cache(), |(_, cache)| cache),
            });
        }
        let mut texts: Vec<u32> = runs.iter().map(|run| run.text).collect();
        texts.sort_unstable();
        if texts.windows(2).any(|pair| pair[0] == pair[1]) {
            self.keep(runs);
            return Err("a round has rows of a text that do not follow one another".into());
        }
        Ok(runs)
    }

    fn new_cache(&self) -> KvCache {
        let counts: Vec<usize> = self.wish.heads.iter().map(Vec::len).collect();
        KvCache::of_heads(&self.shape, &counts, self.shape.context)
    }

    /// Puts caches back, and frees those that were not used for longest until all fit.
    fn keep(&mut self, runs: Vec<Run>) {
        self.caches
            .extend(runs.into_iter().map(|run| (run.text, run.cache)));
        let room = |caches: &VecDeque<(u32, KvCache)>| {
            caches.iter().map(|(_, cache)| cache.room()).sum::<usize>()
        };
        while room(&self.caches) > self.shape.context {
            self.caches.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use halo_engine::EngineOptions;

    use super::*;

    fn attending(whole: bool) -> Attending {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");
        let package = Package::open(std::path::Path::new(folder)).unwrap();
        let engine = Engine::start(&EngineOptions::default()).unwrap();
        let wish = Heads {
            since: 1,
            heads: vec![vec![1, 3]; package.shape().layers],
            whole,
        };
        Attending::load(&engine, &package, wish).unwrap()
    }

    /// Runs rows at these places, each the same.
    fn run(attending: &mut Attending, places: &[(u32, u32)]) -> Result<Vec<f32>, String> {
        let place = |&(text, position)| Place { text, position };
        let places: Vec<_> = places.iter().map(place).collect();
        let width = attending.shape.width;
        let row = (0..width).map(|i| (i as f32 * 0.7).sin());
        let normed: Vec<f32> = row.cycle().take(width * places.len()).collect();
        let mut partial = vec![0f32; normed.len()];
        attending.run(0, &places, &normed, &mut partial)?;
        Ok(partial)
    }

    #[test]
    fn each_text_has_its_own_past() {
        let mut attending = attending(true);
        let alone = run(&mut attending, &[(1, 0), (1, 1)]).unwrap();
        let together = run(&mut attending, &[(2, 0), (2, 1), (3, 0)]).unwrap();
        let width = attending.shape.width;
        let expected = alone.iter().chain(&alone[..width]);
        // Products of another number of rows may add up in another order.
        for (got, expected) in together.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-3, "{got} for {expected}");
        }
        // The same row again is the same answer, however often it is asked for.
        let third = run(&mut attending, &[(1, 2)]).unwrap();
        assert_eq!(run(&mut attending, &[(1, 2)]).unwrap(), third);
    }

    #[test]
    fn what_is_missing_is_refused_or_left_out() {
        let mut strict = attending(true);
        run(&mut strict, &[(1, 0)]).unwrap();
        assert!(run(&mut strict, &[(1, 2)]).is_err());
        assert!(
            run(&mut strict, &[(7, 5)]).is_err(),
            "a text of which nothing has come"
        );

        let mut relaxed = attending(false);
        run(&mut relaxed, &[(1, 0)]).unwrap();
        run(&mut relaxed, &[(1, 2)]).unwrap();
        assert!(relaxed.caches[0].1.has_holes(0));
        run(&mut relaxed, &[(1, 1)]).unwrap();
        assert!(!relaxed.caches[0].1.has_holes(0));
    }

    #[test]
    fn rounds_that_cannot_be_are_refused() {
        let mut attending = attending(false);
        assert!(run(&mut attending, &[(1, 0), (2, 0), (1, 1)]).is_err());
        assert!(run(&mut attending, &[(1, 1), (1, 0)]).is_err());
        assert!(run(&mut attending, &[(1, u32::MAX)]).is_err());
        let context = attending.shape.context as u32;
        assert!(run(&mut attending, &[(1, context)]).is_err());
        assert!(run(&mut attending, &[(1, context - 1)]).is_ok());
    }

    #[test]
    fn texts_that_have_ended_make_room() {
        let mut attending = attending(true);
        let context = attending.shape.context;
        for text in 0..40 {
            for position in 0..100 {
                run(&mut attending, &[(text, position)]).unwrap();
            }
            let room: usize = attending.caches.iter().map(|(_, cache)| cache.room()).sum();
            assert!(room <= context, "{room} tokens after {text} texts");
        }
        assert!(
            run(&mut attending, &[(39, 100)]).is_ok(),
            "the last one is kept"
        );
    }
}
