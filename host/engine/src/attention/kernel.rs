//! The arithmetic of attention over a KV cache, for some query rows at once, so that keys and values are read once for all of
//! them: the query heads that share a KV head, and the rows of a prompt.
//!
//! Vector instructions are chosen when the program runs. A sum is made in the same order whatever they are, and whatever other
//! rows there are, so that a row's result depends on nothing but itself.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::head_cache::{HeadCache, Lanes, TILE};
use crate::exp::exp;

/// Most query rows that are computed together: what fits the registers of every processor.
const ROWS: usize = 8;

/// A query and where its result goes, both `head_width` long.
pub(super) struct Query<'a> {
    /// Rotated already, and divided by the root of the head's width.
    pub(super) query: &'a [f32],
    /// Positions of the tokens that it sees: at least one.
    pub(super) sees: Range<usize>,
    pub(super) attended: &'a mut [f32],
}

/// Memory for intermediate values, kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// By tile, then by row.
    scores: Vec<Lanes>,
    /// By element of the head, then by row.
    queries: Vec<f32>,
    /// By lane of the head, then by row.
    sums: Vec<Lanes>,
}

/// `attended = softmax(query · keysᵀ) · values`, for every query. None sees the tokens at the positions in `holes`.
pub(super) fn attend(
    cache: &HeadCache,
    holes: &[usize],
    queries: &mut [Query<'_>],
    scratch: &mut Scratch,
) {
    let mut rest = queries;
    while !rest.is_empty() {
        // As few sizes as possible, since each is compiled by itself.
        let size = match rest.len() {
            ROWS.. => ROWS,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let (now, later) = rest.split_at_mut(size);
        match size {
            ROWS => Rows::<ROWS>::attend(cache, holes, now, scratch),
            4 => Rows::<4>::attend(cache, holes, now, scratch),
            2 => Rows::<2>::attend(cache, holes, now, scratch),
            _ => Rows::<1>::attend(cache, holes, now, scratch),
        }
        rest = later;
    }
}

/// `R` queries.
struct Rows<'a, 'q, const R: usize> {
    cache: &'a HeadCache,
    holes: &'a [usize],
    queries: &'a mut [Query<'q>],
    scratch: &'a mut Scratch,
}

impl<'a, 'q, const R: usize> Rows<'a, 'q, R> {
    fn attend(
        cache: &'a HeadCache,
        holes: &'a [usize],
        queries: &'a mut [Query<'q>],
        scratch: &'a mut Scratch,
    ) {
        Arch::new().dispatch(Self {
            cache,
            holes,
            queries,
            scratch,
        });
    }
}

impl<const R: usize> WithSimd for Rows<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            cache,
            holes,
            queries,
            scratch,
        } = self;
        let Some(width) = queries.first().map(|q| q.query.len()) else {
            return;
        };
        let first = queries.iter().map(|q| q.sees.start).min().unwrap_or(0) / TILE;
        let end = queries.iter().map(|q| q.sees.end).max().unwrap_or(0);
        let tiles = first..end.div_ceil(TILE);

        let Scratch {
            scores,
            queries: packed,
            sums,
        } = scratch;
        packed.clear();
        packed.extend((0..width).flat_map(|i| queries.iter().map(move |q| q.query[i])));
        let packed = packed.as_chunks::<R>().0;
        scores.clear();
        for keys in cache.keys(&tiles).chunks_exact(width) {
            scores.extend_from_slice(&products::<S, R>(simd, packed, keys));
        }

        let scores = scores.as_chunks_mut::<R>().0;
        let mut totals = [0f32; R];
        for (row, total) in totals.iter_mut().enumerate() {
            *total = softmax(scores, row, &queries[row].sees, holes, tiles.start * TILE);
        }

        let lanes = cache.lanes();
        sums.clear();
        sums.resize(lanes * R, [0.0; TILE]);
        let values = cache.values(&tiles).chunks_exact(TILE * lanes);
        for (weights, values) in scores.iter().zip(values) {
            let values = values.as_chunks::<TILE>().0;
            for (values, sums) in values.iter().zip(sums.as_chunks_mut::<R>().0) {
                add_weighted(simd, weights, values, sums);
            }
        }
        for (row, query) in queries.iter_mut().enumerate() {
            let sums = sums.iter().skip(row).step_by(R).flatten();
            for (attended, sum) in query.attended.iter_mut().zip(sums) {
                *attended = sum / totals[row];
            }
        }
    }
}

/// The scores of a tile's tokens, row by row: `queries` by element, `keys` by element.
#[inline(always)]
fn products<S: Simd, const R: usize>(simd: S, queries: &[[f32; R]], keys: &[Lanes]) -> [Lanes; R] {
    let mut scores = [[0.0; TILE]; R];
    for vector in 0..TILE / S::F32_LANES {
        let mut sums = [simd.splat_f32s(0.0); R];
        for (query, key) in queries.iter().zip(keys) {
            let key = S::as_simd_f32s(key).0[vector];
            for (sum, query) in sums.iter_mut().zip(query) {
                *sum = simd.mul_add_e_f32s(simd.splat_f32s(*query), key, *sum);
            }
        }
        for (scores, sum) in scores.iter_mut().zip(sums) {
            S::as_mut_simd_f32s(scores).0[vector] = sum;
        }
    }
    scores
}

/// Makes weights of one row's scores, not yet divided by their sum, which is returned. `offset` is the first score's token.
#[inline(always)]
fn softmax<const R: usize>(
    scores: &mut [[Lanes; R]],
    row: usize,
    sees: &Range<usize>,
    holes: &[usize],
    offset: usize,
) -> f32 {
    let tokens = scores.len() * TILE;
    let holes = holes.iter().filter(|hole| sees.contains(hole));
    let beside = (0..sees.start - offset).chain(sees.end - offset..tokens);
    for unseen in beside.chain(holes.map(|hole| hole - offset)) {
        scores[unseen / TILE][row][unseen % TILE] = f32::NEG_INFINITY;
    }
    let mut most = [f32::NEG_INFINITY; TILE];
    for tile in &*scores {
        for (most, score) in most.iter_mut().zip(&tile[row]) {
            *most = if score > most { *score } else { *most };
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; TILE];
    for tile in scores {
        for (sum, score) in sums.iter_mut().zip(&mut tile[row]) {
            *score = exp(*score - most);
            *sum += *score;
        }
    }
    sums.iter().sum()
}

/// Adds one lane of a tile's weighted values to the results: `weights` and `sums` by row, `values` by token.
#[inline(always)]
fn add_weighted<S: Simd, const R: usize>(
    simd: S,
    weights: &[Lanes; R],
    values: &[Lanes; TILE],
    sums: &mut [Lanes; R],
) {
    for vector in 0..TILE / S::F32_LANES {
        let mut totals = [simd.splat_f32s(0.0); R];
        for (total, sums) in totals.iter_mut().zip(&*sums) {
            *total = S::as_simd_f32s(sums).0[vector];
        }
        for (token, value) in values.iter().enumerate() {
            let value = S::as_simd_f32s(value).0[vector];
            for (total, weights) in totals.iter_mut().zip(weights) {
                *total = simd.mul_add_e_f32s(simd.splat_f32s(weights[token]), value, *total);
            }
        }
        for (sums, total) in sums.iter_mut().zip(totals) {
            S::as_mut_simd_f32s(sums).0[vector] = total;
        }
    }
}
