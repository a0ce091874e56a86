//! Tests of the package format through its public interface, with models made on the spot and the default model.

mod chat;
mod download;
mod gguf;
mod gguf_file;
mod gguf_refusals;
mod import;
mod model;
mod package;
mod random;
mod refusals;
mod tokenizer;
mod vocabulary;
