mod memory;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use halo_models::{ImportOptions, Package, WeightFormat, import};
use owo_colors::OwoColorize;

use crate::commands::{calibrate, push, random};
use crate::model_path;
use crate::options::Global;
use crate::output::{self, Output};
use crate::progress;

/// Import, inspect, calibrate and pass on models
///
/// A model is a package: a folder with a manifest, the tokenizer, and the weights by neuron group.
#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Make a package from a Hugging Face folder or a GGUF file
    ///
    /// A Hugging Face folder has config.json, safetensors and tokenizer.json. Of a GGUF file, blocks that are quantised as
    /// they will be stored are kept as they are: those of Q4_0 with `--weights q4:32`, those of Q8_0 with `--weights q8:32`.
    /// Others are quantised anew.
    ///
    /// The model must be of the LLaMA family. Of a package in ~/.local/share/halo/models the name is enough elsewhere:
    /// `--model tinyllama`.
    #[command(after_help = "Examples:
  halo model import ~/TinyLlama-1.1B-Chat-v1.0 ~/.local/share/halo/models/tinyllama
  halo model import --weights q8:32 ~/TinyLlama-1.1B-Chat-v1.0 tinyllama-q8
  halo model import --weights q4:32 tinyllama-1.1b.Q4_0.gguf tinyllama-q4")]
    Import {
        /// The Hugging Face folder, or the GGUF file
        source: PathBuf,

        /// The package to make
        destination: PathBuf,

        /// How weights are stored: f32, f16, q4, q8, or with a block size, such as q4:64
        #[arg(long, value_name = "FORMAT", default_value = "q4")]
        weights: WeightFormat,

        /// How the embedding is stored [default: as the weights, but q8 with q4]
        #[arg(long, value_name = "FORMAT")]
        embedding: Option<WeightFormat>,

        /// How an output head that is not the embedding is stored [default: as the embedding]
        #[arg(long, value_name = "FORMAT")]
        head: Option<WeightFormat>,

        /// Feed-forward neurons in a group [default: 32 in small models, 256 in others]
        #[arg(long, value_name = "N")]
        group_size: Option<usize>,

        /// The tokenizer.json to use [default: the folder's, or one made from the file's vocabulary]
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,

        /// Replace a package that is there already
        #[arg(long)]
        overwrite: bool,
    },
    /// What a package holds, and what it needs
    #[command(after_help = "Examples:
  halo model inspect tinyllama
  halo model inspect --memory tinyllama
  halo model inspect --verify models/tiny")]
    Inspect {
        /// Model package: a folder, or the name of one in ~/.local/share/halo/models [default: tiny]
        model: Option<PathBuf>,

        /// Check it first, as `halo model verify` does
        #[arg(long)]
        verify: bool,

        /// Tell instead how much memory each machine needs, if 1 to 8 share its neuron groups evenly
        #[arg(long)]
        memory: bool,
    },
    /// Read all of a package and check it: hashes, weights, tokenizer, calibration
    ///
    /// Every file must be as its hash says, every weight and scale a finite number. Takes as long as reading the package once.
    #[command(after_help = "Examples:
  halo model verify tinyllama
  halo model verify models/tiny --json")]
    Verify {
        /// Model package: a folder, or the name of one in ~/.local/share/halo/models [default: tiny]
        model: Option<PathBuf>,
    },
    Push(push::Push),
    Calibrate(calibrate::Calibrate),
    Random(random::Random),
}

impl Model {
    pub(crate) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        match self {
            Self::Import {
                source,
                destination,
                weights,
                embedding,
                head,
                group_size,
                tokenizer,
                overwrite,
            } => {
                let options = ImportOptions {
                    weights,
                    embedding,
                    head,
                    group_size,
                    tokenizer,
                    overwrite,
                    ..ImportOptions::default()
                };
                let bar = progress::bar(output, &format!("importing {}", source.display()), 0);
                let package = import(&source, &destination, &options, &mut |p| {
                    bar.set_length(p.total as u64);
                    bar.set_position(p.done as u64);
                })?;
                bar.finish_and_clear();
                describe(&package, output)
            }
            Self::Inspect {
                model,
                verify,
                memory,
            } => {
                let package = model_path::open(model.as_deref(), &global.config()?)?;
                if verify {
                    check(&package, output)?;
                    output.note(format!("{} {SOUND}", "✓".green()));
                }
                if !memory {
                    return describe(&package, output);
                }
                if output.json() {
                    output.line(&memory::needs(&package))?;
                } else {
                    anstream::print!("{}", memory::table(&package));
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::Verify { model } => {
                let package = model_path::open(model.as_deref(), &global.config()?)?;
                check(&package, output)?;
                let files = &package.manifest().files;
                let bytes: u64 = files.values().map(|file| file.bytes).sum();
                if output.json() {
                    output.line(&serde_json::json!({
                        "name": package.name(),
                        "folder": package.dir(),
                        "identity": package.identity(),
                        "sound": true,
                        "files": files.len(),
                        "bytes": bytes,
                    }))?;
                } else {
                    let bytes = output::bytes(bytes);
                    anstream::println!(
                        "{} {}: {SOUND} ({} files, {bytes})",
                        "✓".green(),
                        package.name().bold(),
                        files.len()
                    );
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::Push(push) => crate::on_runtime(push.execute(global, output)),
            Self::Calibrate(calibrate) => calibrate.execute(global, output),
            Self::Random(random) => random.execute(output),
        }
    }
}

/// What is known of a package that was checked.
const SOUND: &str = "every file is as its hash says, every weight is a finite number";

fn check(package: &Package, output: &Output) -> Result<()> {
    let bar = progress::bar(output, "checking", 0);
    package.verify(|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(())
}

pub(super) fn describe(package: &Package, output: &Output) -> Result<ExitCode> {
    let (shape, manifest) = (package.shape(), package.manifest());
    let files: u64 = manifest.files.values().map(|f| f.bytes).sum();
    let groups = package.all_groups_bytes();
    let cache = halo_engine::KvCache::bytes(shape, shape.context);
    if output.json() {
        output.line(&serde_json::json!({
            "name": package.name(),
            "folder": package.dir(),
            "identity": package.identity(),
            "architecture": manifest.architecture,
            "shape": shape,
            "group_size": package.group_size(),
            "groups": package.groups(),
            "group_bytes": package.group_bytes(),
            "quantisation": manifest.quantisation,
            "bytes": files,
            "kv_cache_bytes": cache,
            "calibrated": package.calibration()?.is_some(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let quantisation = &manifest.quantisation;
    let rows = [
        ("folder", package.dir().display().to_string()),
        ("identity", package.identity().chars().take(16).collect()),
        (
            "layers",
            format!("{} of width {}", shape.layers, shape.width),
        ),
        (
            "attention",
            format!(
                "{} heads over {} KV heads of width {}",
                shape.heads, shape.kv_heads, shape.head_width
            ),
        ),
        (
            "feed-forward",
            format!(
                "{} neurons a layer in {} groups of {}",
                shape.feed_forward,
                package.groups(),
                package.group_size()
            ),
        ),
        (
            "vocabulary",
            format!(
                "{} tokens{}",
                shape.vocabulary,
                if shape.tied_head {
                    ", head tied to the embedding"
                } else {
                    ""
                }
            ),
        ),
        ("context", format!("{} tokens", shape.context)),
        (
            "weights",
            match quantisation.head {
                None => format!(
                    "{}, embedding and head {}",
                    quantisation.weights, quantisation.embedding
                ),
                Some(head) => format!(
                    "{}, embedding {}, head {head}",
                    quantisation.weights, quantisation.embedding
                ),
            },
        ),
        (
            "size",
            format!(
                "{} on disk, {} of it in neuron groups of {}",
                output::bytes(files),
                output::bytes(groups),
                output::bytes(package.group_bytes())
            ),
        ),
        (
            "KV cache",
            format!("{} for a full context", output::bytes(cache)),
        ),
        (
            "calibrated",
            (if package.calibration()?.is_some() {
                "yes"
            } else {
                "no; `halo model calibrate` does it"
            })
            .into(),
        ),
    ];
    anstream::println!("{}", package.name().bold());
    for (what, value) in rows {
        anstream::println!("  {:<13} {value}", what.dimmed());
    }
    Ok(ExitCode::SUCCESS)
}
