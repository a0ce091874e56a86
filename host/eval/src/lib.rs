//! Learning about a model by running it.
//!
//! [`perplexity()`] says how well a model predicts a text, [`cloze()`] how often it knows the one word that is right; with a
//! [`Simulated`] cluster, what packet loss changes about that. [`calibrate()`] runs text through a model and learns which
//! feed-forward neuron groups matter: on average, and as a probe on the residual stream that tells it for the token at
//! hand before the groups are computed. [`predictor()`] says what such foreknowledge is worth. [`mod@bench`] says how fast a
//! model runs here and in how much memory.

#![forbid(unsafe_code)]

pub mod bench;
mod calibrate;
mod checkpoint;
mod cloze;
mod clustered;
mod contributions;
mod documents;
mod error;
mod interval;
mod kept;
mod limits;
mod observe;
mod order;
mod perplexity;
mod predictor;
mod probe;
mod progress;
mod ranking;
mod reader;
mod report;
mod sample;
mod selection;
mod simulated;
mod statistics;
pub mod stories;
mod tally;

pub use calibrate::{CalibrateOptions, Calibrated, calibrate};
pub use cloze::{Cloze, Gap, cloze};
pub use clustered::Clustered;
pub use documents::Documents;
pub use error::EvalError;
pub use interval::Interval;
pub use limits::unhurried;
pub use order::{Order, Predict};
pub use perplexity::{Perplexity, Rule, perplexity};
pub use predictor::{Closed, Lost, OrderReport, PredictorReport, PredictorTrial, predictor};
pub use progress::{Progress, Stage};
pub use ranking::ByLayer;
pub use reader::Reader;
pub use report::{CalibrationReport, Candidate, KeptShares};
pub use simulated::{Simulated, SimulatedOptions, Synchronisation};
pub use tally::Tally;
