use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_policy::{Digest, Inspection};
use halo_runtime::{policies, rollout};
use owo_colors::OwoColorize;

use super::{MaybeCluster, file};
use crate::options::Global;
use crate::output::{self, Output};

/// What a policy imports and exports, its size and digest, and what it may use
///
/// Nothing of it is run. With --cluster every node says what it has under that name or digest; of a file, whether it has just
/// that one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy inspect my-scheduler.wasm
  halo policy inspect --cluster home scheduler-halo")]
pub(crate) struct Inspect {
    /// A policy's name, the beginning of its digest, or a component's file
    policy: String,

    #[command(flatten)]
    cluster: MaybeCluster,
}

impl Inspect {
    pub(super) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let given = file(&self.policy)?;
        let Some(fabric) = self.cluster.observe(global).await? else {
            let config = global.config()?.policy;
            let (name, component) = match given {
                Some(given) => given,
                None => {
                    let stored = policies::store(&config).get(&self.policy)?;
                    (stored.name, stored.bytes.into_owned())
                }
            };
            let compiled = policies::sandbox(&config)?.compile(&name, &component)?;
            let inspection = Inspection::new(&compiled, &config.limits);
            if output.json() {
                output.line(&inspection)?;
            } else {
                print(&inspection, "");
            }
            return Ok(ExitCode::SUCCESS);
        };
        let wanted = given.map(|(_, component)| Digest::of(&component).to_string());
        let answers = rollout::inspections(&fabric, &wanted.unwrap_or(self.policy)).await;
        fabric.close().await;
        if output.json() {
            let nodes: Vec<_> = answers
                .iter()
                .map(|(node, answer)| match answer {
                    Ok(inspection) => serde_json::json!({ "node": node, "policy": inspection }),
                    Err(error) => serde_json::json!({ "node": node, "error": error.to_string() }),
                })
                .collect();
            output.line(&nodes)?;
        } else {
            for (node, answer) in &answers {
                anstream::println!("{}", node.bold());
                match answer {
                    Ok(inspection) => print(inspection, "  "),
                    Err(error) => anstream::println!("  {error}"),
                }
            }
        }
        Ok(if answers.values().all(Result::is_ok) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn print(policy: &Inspection, indent: &str) {
    let line = |what: &str, value: String| {
        let what = format!("{what:8}");
        anstream::println!("{indent}{} {value}", what.dimmed());
    };
    let limits = &policy.limits;
    line("name", policy.name.clone());
    line(
        "kind",
        format!("{}, for halo:policy {}", policy.kind, policy.version),
    );
    line("digest", policy.digest.to_string());
    line("size", output::bytes(policy.size as u64));
    line("imports", policy.imports.join(", "));
    line("exports", policy.exports.join(", "));
    line(
        "limits",
        format!(
            "{} of memory; init {} ms, place {} ms, admit {} ms, score {} ms; goes back after {} faults",
            output::bytes(limits.memory as u64),
            limits.init.as_millis(),
            limits.place.as_millis(),
            limits.admit.as_millis(),
            limits.score.as_millis(),
            limits.strikes
        ),
    );
}
