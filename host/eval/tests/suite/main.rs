//! Perplexity and calibration with the default model and its texts.

mod calibrate;
mod calibrated;
mod perplexity;
mod texts;
