//! Learning about a model by running it.
//!
//! [`perplexity()`] says how well a model predicts a text. [`calibrate()`] runs text through a model and learns which
//! feed-forward neuron groups matter: on average, and as a probe on the residual stream that tells it for the token at
//! hand before the groups are computed. [`selections`] says what it costs to leave groups out. [`mod@bench`] says how fast it runs here and in how much memory.

#![forbid(unsafe_code)]

pub mod bench;
mod calibrate;
mod contributions;
mod documents;
mod error;
mod kept;
mod lossy;
mod observe;
mod perplexity;
mod probe;
mod progress;
mod report;
mod sample;
mod selection;
mod statistics;

pub use calibrate::{CalibrateOptions, Calibrated, calibrate};
pub use documents::Documents;
pub use error::EvalError;
pub use lossy::{Lossy, LossyOptions};
pub use perplexity::{Perplexity, Rule, perplexity};
pub use progress::{Progress, Stage};
pub use report::{CalibrationReport, Candidate, KeptShares};
pub use selection::{Order, Predict, Selection, Selections, selections};
