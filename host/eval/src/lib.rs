//! Learning about a model by running it.
//!
//! [`perplexity()`] says how well a model predicts a text. [`calibrate()`] runs text through a model and learns which
//! feed-forward neuron groups matter: on average, and as a probe on the residual stream that tells it for the token at
//! hand before the groups are computed. [`predictor()`] says what such foreknowledge is worth. [`mod@bench`] says how fast a
//! model runs here and in how much memory.

#![forbid(unsafe_code)]

pub mod bench;
mod calibrate;
mod checkpoint;
mod contributions;
mod documents;
mod error;
mod kept;
mod lossy;
mod observe;
mod order;
mod perplexity;
mod predictor;
mod probe;
mod progress;
mod ranking;
mod report;
mod sample;
mod selection;
mod statistics;

pub use calibrate::{CalibrateOptions, Calibrated, calibrate};
pub use documents::Documents;
pub use error::EvalError;
pub use lossy::{Lossy, LossyOptions};
pub use order::{Order, Predict};
pub use perplexity::{Perplexity, Rule, perplexity};
pub use predictor::{Closed, Lost, OrderReport, PredictorReport, PredictorTrial, predictor};
pub use progress::{Progress, Stage};
pub use ranking::ByLayer;
pub use report::{CalibrationReport, Candidate, KeptShares};
