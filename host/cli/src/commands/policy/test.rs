use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use halo_policy::{
    Case, Component, Kind, Recording, Replayed, Sandbox, Setting, Tensor, conformance, replay,
};
use halo_runtime::policies::{self, described};
use owo_colors::OwoColorize;

use super::{file, setting};
use crate::model_path;
use crate::options::{Global, ModelOption};
use crate::output::{self, Output};

/// Passes of recorded questions, so that the median time of a call means something.
const PASSES: usize = 50;

/// Whether a component does what the contract asks of a policy, and how fast
///
/// Puts to it whatever the contract allows to be asked, within the limits of the configuration, and then the questions of a
/// recorded pass: of the default model on four nodes at 10 % loss, or of a cluster of yours (`halo policy record`). A predictor
/// is told the calibration of the recorded model, which is the package given with --model.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy test my-scheduler.wasm
  halo policy test my-predictor.wasm --recording rounds.json --model llama")]
pub(crate) struct Test {
    /// The component's file
    #[arg(value_name = "FILE")]
    file: String,

    /// A setting for the policy; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<Setting>,

    /// Recorded questions to put to it [default: those that come with the program]
    #[arg(long, value_name = "FILE")]
    recording: Option<PathBuf>,

    #[command(flatten)]
    model: ModelOption,
}

impl Test {
    pub(super) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let Some((name, component)) = file(&self.file)? else {
            bail!("{} is no component: its name must end in .wasm", self.file);
        };
        let sandbox = policies::sandbox(&global.config()?.policy)?;
        let component = sandbox.compile(&name, &component)?;
        let cases = conformance(&sandbox, &component, &self.settings);
        // What does not begin has nothing to answer recorded questions with.
        let replayed = if cases.len() > 1 {
            self.replay(global, &sandbox, &component)?
        } else {
            Vec::new()
        };
        let failed = cases.iter().filter(|case| case.fault.is_some()).count()
            + replayed.iter().filter(|r| !r.faults.is_empty()).count();
        if output.json() {
            output.line(&serde_json::json!({
                "policy": name,
                "kind": component.kind(),
                "digest": component.digest(),
                "cases": cases,
                "replayed": replayed,
                "failed": failed,
            }))?;
        } else {
            print(&component, &cases, &replayed);
        }
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn replay(
        &self,
        global: &Global,
        sandbox: &Sandbox,
        component: &Component,
    ) -> Result<Vec<Replayed>> {
        let recording = match &self.recording {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_str(&text)
                    .with_context(|| format!("{} is no recording", path.display()))?
            }
            None => Recording::sample(),
        };
        let parameters = match component.kind() {
            Kind::Scheduler => Vec::new(),
            Kind::Predictor => self.parameters(global, &recording)?,
        };
        let settings = &self.settings;
        Ok(replay(
            sandbox,
            component,
            settings,
            &recording,
            &parameters,
            PASSES,
        )?)
    }

    /// The calibration of the recorded model.
    fn parameters(&self, global: &Global, recording: &Recording) -> Result<Vec<Tensor>> {
        let package = model_path::open(self.model.model.as_deref(), &global.config()?)?;
        let (model, parameters) = described(&package)?;
        let shape = |m: &halo_policy::Model| (m.layers, m.width, m.groups);
        ensure!(
            shape(&model) == shape(&recording.model),
            "the recording is of a model of {} layers, {} wide, with {} groups, and {} is not; give its package with --model",
            recording.model.layers,
            recording.model.width,
            recording.model.groups,
            package.dir().display()
        );
        Ok(parameters)
    }
}

fn print(component: &Component, cases: &[Case], replayed: &[Replayed]) {
    anstream::println!(
        "{} {}, for halo:policy {}",
        component.kind(),
        component.name().bold(),
        component.version()
    );
    for case in cases {
        match &case.fault {
            None => anstream::println!("{} {}", "✓".green(), case.name),
            Some(fault) => anstream::println!("{} {}: {fault}", "✗".red(), case.name),
        }
    }
    for Replayed {
        operation,
        calls,
        faults,
        median_us,
        longest_us,
    } in replayed
    {
        let mark = if faults.is_empty() {
            "✓".green().to_string()
        } else {
            "✗".red().to_string()
        };
        anstream::println!(
            "{mark} {calls} recorded calls of {operation}: median {}, longest {}",
            output::microseconds(*median_us),
            output::microseconds(*longest_us)
        );
        for fault in faults {
            anstream::println!("  {fault}");
        }
    }
}
