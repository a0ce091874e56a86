//! Perplexity, calibration and measuring with the default model and its texts.

mod bench;
mod calibrate;
mod calibrated;
mod perplexity;
mod predictor;
mod simulated;
mod texts;
