//! Quantising.
