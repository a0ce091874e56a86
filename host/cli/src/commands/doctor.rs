mod machine;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_engine::{Engine, EngineOptions, library};
use halo_fabric::Fabric;
use halo_policy::Kind;
use halo_runtime::{Config, fabric_config, memory, policies};
use owo_colors::OwoColorize;
use serde::Serialize;

pub(crate) use machine::Machine;

use crate::model_path;
use crate::options::{Global, ModelOption};
use crate::output::{self, Output};

/// Check this machine, and say what to do about what is wrong
///
/// Looks at ONNX Runtime, the model, the policies, the memory and the network, and at what costs speed: the processor's
/// instructions, its governor, heat, receive buffers, and the links. The exit code is 1 if anything is wrong; what is only slow is
/// no reason for it.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    model: ModelOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// It works, but not as well as it could.
    Slow,
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// What to do about it.
    advice: Option<String>,
}

impl Doctor {
    pub(crate) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut findings = Vec::new();
        let config = match global.config() {
            Ok(config) => config,
            Err(error) => {
                findings.push(Finding {
                    what: "configuration",
                    state: State::Bad,
                    found: error.to_string(),
                    advice: None,
                });
                Config::default()
            }
        };
        findings.push(onnxruntime(&config));
        findings.push(model(&config, self.model.model.as_ref()));
        findings.push(components(&config));
        findings.push(available_memory());
        findings.extend(Machine::this().findings());
        findings.push(network(&config));
        let bad = findings.iter().any(|f| f.state == State::Bad);
        if output.json() {
            output.line(&findings)?;
        } else {
            for finding in &findings {
                print(finding);
            }
        }
        Ok(if bad {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn print(finding: &Finding) {
    let mark = match finding.state {
        State::Good => "✓".green().to_string(),
        State::Slow => "!".yellow().to_string(),
        State::Bad => "✗".red().to_string(),
    };
    anstream::println!("{mark} {:<14} {}", finding.what.bold(), finding.found);
    if let Some(advice) = &finding.advice {
        anstream::println!("  {:<14} {advice}", "");
    }
}

fn good(what: &'static str, found: String) -> Finding {
    Finding {
        what,
        state: State::Good,
        found,
        advice: None,
    }
}

fn slow(what: &'static str, found: String, advice: &str) -> Finding {
    Finding {
        what,
        state: State::Slow,
        found,
        advice: Some(advice.into()),
    }
}

fn bad(what: &'static str, error: impl std::fmt::Display) -> Finding {
    Finding {
        what,
        state: State::Bad,
        found: error.to_string(),
        advice: None,
    }
}

fn onnxruntime(config: &Config) -> Finding {
    const WHAT: &str = "ONNX Runtime";
    match Engine::start(&EngineOptions {
        library: config.onnxruntime.clone(),
        threads: config.threads,
        ..EngineOptions::default()
    }) {
        Ok(engine) => {
            let name = engine
                .library()
                .file_name()
                .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            let found = format!(
                "{}, {} threads; {}",
                engine.library().display(),
                engine.threads(),
                engine.build_info()
            );
            // A distribution's file may not have the version in its name; then nothing is known against it.
            if name.ends_with(".so") || name.ends_with(library::VERSION) {
                return good(WHAT, found);
            }
            let advice = format!(
                "HALO is tested with {}; `cargo xtask setup` fetches it",
                library::VERSION
            );
            slow(WHAT, found, &advice)
        }
        Err(error) => bad(WHAT, error),
    }
}

fn model(config: &Config, option: Option<&PathBuf>) -> Finding {
    const WHAT: &str = "model";
    let package = match model_path::open(option.map(PathBuf::as_path), config) {
        Ok(package) => package,
        Err(error) => return bad(WHAT, error),
    };
    match package.verify(|_, _| ()) {
        Ok(()) => good(
            WHAT,
            format!(
                "{} in {}, every file as its hash says",
                package.name(),
                package.dir().display()
            ),
        ),
        Err(error) => bad(WHAT, error),
    }
}

fn components(config: &Config) -> Finding {
    const WHAT: &str = "policies";
    let check = || -> Result<String> {
        let sandbox = policies::sandbox(&config.policy)?;
        let store = policies::store(&config.policy);
        let (mut schedulers, mut predictors) = (0, 0);
        for entry in store.list()? {
            match sandbox
                .compile(&entry.name, &store.get(&entry.name)?.bytes)?
                .kind()
            {
                Kind::Scheduler => schedulers += 1,
                Kind::Predictor => predictors += 1,
            }
        }
        Ok(format!(
            "{schedulers} schedulers and {predictors} predictors compile"
        ))
    };
    check().map_or_else(|error| bad(WHAT, error), |found| good(WHAT, found))
}

fn available_memory() -> Finding {
    const WHAT: &str = "memory";
    match memory::available() {
        Some(bytes) => good(WHAT, format!("{} available", output::bytes(bytes))),
        None => slow(
            WHAT,
            "this machine does not say how much is available".into(),
            "set `memory` in the configuration, or schedulers will take it to be without limit",
        ),
    }
}

fn network(config: &Config) -> Finding {
    const WHAT: &str = "network";
    let open = || -> Result<String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let endpoints = runtime.block_on(async {
            let mut config = config.clone();
            config.name = Some(format!("doctor-{}", std::process::id()));
            let fabric = Fabric::open(fabric_config(&config)?).await?;
            let endpoints = fabric.endpoints();
            fabric.close().await;
            anyhow::Ok(endpoints)
        });
        runtime.shutdown_background();
        Ok(endpoints?.join(", "))
    };
    open().map_or_else(
        |error| bad(WHAT, error),
        |found| good(WHAT, format!("can listen on {found}")),
    )
}
