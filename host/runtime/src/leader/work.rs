use halo_engine::Part;
use halo_fabric::{Block, Place};

/// What a round is about: a part of a layer, and what of it only this node has.
pub(super) enum Task<'a, 'c> {
    FeedForward {
        /// The residual stream, to predict the next layer from.
        hidden: &'a [f32],
    },
    Attention {
        parts: &'a mut [Part<'c>],
        /// Of each row.
        places: Vec<Place>,
    },
}

/// One round's input and result, both `[rows, width]`.
pub(super) struct Work<'a, 'c> {
    pub(super) layer: usize,
    pub(super) task: Task<'a, 'c>,
    pub(super) normed: &'a [f32],
    pub(super) sum: &'a mut [f32],
}

impl Work<'_, '_> {
    pub(super) fn block(&self) -> Block {
        match self.task {
            Task::FeedForward { .. } => Block::FeedForward,
            Task::Attention { .. } => Block::Attention,
        }
    }

    pub(super) fn places(&self) -> &[Place] {
        match &self.task {
            Task::FeedForward { .. } => &[],
            Task::Attention { places, .. } => places,
        }
    }
}

/// Where the rows of a pass belong.
pub(super) fn places(parts: &[Part<'_>]) -> Vec<Place> {
    let rows = parts.iter().flat_map(|part| {
        let positions = part.start..part.start + part.rows;
        positions.map(|position| Place {
            text: part.cache.id(),
            position: position as u32,
        })
    });
    rows.collect()
}
