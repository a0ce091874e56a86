//! What takes the place of what is missing of a partial when a round goes on without it.

use std::collections::HashMap;

use halo_fabric::Assembly;
use serde::{Deserialize, Serialize};

/// Weight of a new row in a running mean, and in what is known of how well a guess fits.
const GAIN: f32 = 0.05;

/// How a missing chunk is concealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concealment {
    /// By nothing.
    #[default]
    Zero,
    /// By the mean of what the worker has sent of this layer, scaled by how well that has fitted so far.
    Mean,
    /// By what the worker sent of this layer last, scaled likewise.
    Last,
}

impl Concealment {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Zero, Self::Mean, Self::Last];
}

/// Conceals, and learns from what comes. It knows no tokens: rows follow one another as they are computed.
#[derive(Debug)]
pub struct Concealer {
    concealment: Concealment,
    /// By device and layer.
    guesses: HashMap<(usize, usize), Guess>,
}

/// What a worker's next row of a layer might be.
#[derive(Debug)]
struct Guess {
    /// The mean row, or the last one.
    values: Vec<f32>,
    /// Of late: its product with the rows that came, and with itself. Their quotient is the scale that would have fitted best.
    product: f32,
    square: f32,
}

impl Concealer {
    /// One that has learnt nothing.
    #[must_use]
    pub fn new(concealment: Concealment) -> Self {
        Self {
            concealment,
            guesses: HashMap::new(),
        }
    }

    /// Forgets everything: devices and their groups are others now.
    pub fn clear(&mut self) {
        self.guesses.clear();
    }

    /// Learns from what has come of a device's partial of a layer, and conceals what has not.
    pub fn conceal(&mut self, device: usize, layer: usize, partial: &mut Assembly) {
        if self.concealment == Concealment::Zero {
            return;
        }
        let shape = *partial.shape();
        let guess = self
            .guesses
            .entry((device, layer))
            .or_insert_with(|| Guess::new(shape.width()));
        for chunk in 0..shape.chunks() {
            let range = shape.range(chunk);
            let row = shape.row(chunk) * shape.width();
            let columns = range.start - row..range.end - row;
            let has = partial.has(chunk);
            let values = &mut partial.values_mut()[range];
            if has {
                guess.learn(self.concealment, columns, values);
            } else {
                guess.fill(columns, values);
            }
        }
    }
}

impl Guess {
    fn new(width: usize) -> Self {
        Self {
            values: vec![0.0; width],
            product: 0.0,
            square: 0.0,
        }
    }

    fn learn(&mut self, concealment: Concealment, columns: std::ops::Range<usize>, values: &[f32]) {
        let guess = &mut self.values[columns];
        let (mut product, mut square) = (0.0, 0.0);
        for (guess, value) in guess.iter_mut().zip(values) {
            product += *guess * value;
            square += *guess * *guess;
            match concealment {
                Concealment::Mean => *guess += GAIN * (value - *guess),
                Concealment::Last | Concealment::Zero => *guess = *value,
            }
        }
        self.product += GAIN * (product - self.product);
        self.square += GAIN * (square - self.square);
    }

    fn fill(&self, columns: std::ops::Range<usize>, values: &mut [f32]) {
        // Less than nothing or more than all of it is noise.
        let scale = (self.product / self.square).clamp(0.0, 1.0);
        if scale.is_finite() {
            for (value, guess) in values.iter_mut().zip(&self.values[columns]) {
                *value = scale * guess;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use halo_fabric::{Encoding, Header, Kind, TensorShape};

    use super::*;

    const WIDTH: usize = 640;

    /// A row of two chunks, of which one may be missing, concealed.
    fn concealed(concealer: &mut Concealer, row: f32, lost: Option<u16>) -> Vec<f32> {
        let shape = TensorShape::new(1, WIDTH, Encoding::F32).unwrap();
        let values: Vec<f32> = (0..WIDTH).map(|i| row * (1.0 + i as f32)).collect();
        let mut partial = Assembly::new(shape);
        for chunk in (0..shape.chunks()).filter(|chunk| Some(*chunk) != lost) {
            let mut body = Vec::new();
            shape.encode_chunk(chunk, &values, &mut body);
            let header = Header::of_tensor(Kind::Partial, &shape);
            partial.accept(&Header { chunk, ..header }, &body);
        }
        concealer.conceal(1, 2, &mut partial);
        partial.into_values()
    }

    #[test]
    fn zero_is_nothing() {
        let mut concealer = Concealer::new(Concealment::Zero);
        concealed(&mut concealer, 1.0, None);
        let values = concealed(&mut concealer, 1.0, Some(1));
        assert!(values[..320].iter().all(|v| *v > 0.0));
        assert!(values[320..].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn what_repeats_itself_is_concealed_by_itself() {
        for concealment in [Concealment::Mean, Concealment::Last] {
            let mut concealer = Concealer::new(concealment);
            let first = concealed(&mut concealer, 1.0, Some(0));
            assert_eq!(first[0], 0.0, "nothing is known yet");
            let whole = concealed(&mut concealer, 1.0, None);
            for _ in 0..400 {
                concealed(&mut concealer, 1.0, None);
            }
            let mended = concealed(&mut concealer, 1.0, Some(1));
            for (mended, whole) in mended.iter().zip(&whole) {
                assert!((mended / whole - 1.0).abs() < 0.01, "{concealment:?}");
            }
            concealer.clear();
            assert_eq!(concealed(&mut concealer, 1.0, Some(1))[320], 0.0);
        }
    }

    #[test]
    fn a_guess_that_never_fits_is_not_used() {
        let mut concealer = Concealer::new(Concealment::Last);
        for step in 0..100 {
            let sign = if step % 2 == 0 { 1.0 } else { -1.0 };
            concealed(&mut concealer, sign, None);
        }
        assert_eq!(concealed(&mut concealer, 1.0, Some(1))[320], 0.0);
    }
}
