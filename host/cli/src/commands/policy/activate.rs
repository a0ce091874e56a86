use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_policy::Setting;
use halo_runtime::{Choice, policies, rollout};
use owo_colors::OwoColorize;

use super::{ClusterOptions, file, report, setting};
use crate::options::Global;
use crate::output::Output;

/// Put a policy in force on every node, while tokens flow
///
/// Each node compiles the component and tries it on the rounds it has seen last, beside the one in force. If a node refuses it,
/// it says why, and all stay with what they have. Else it takes over everywhere, between two rounds. Nodes that are away take
/// over what the cluster has when they come.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy activate --cluster home scheduler-halo
  halo policy activate --cluster home ./my-scheduler.wasm --set budget=0.05")]
pub(crate) struct Activate {
    /// A policy's name, the beginning of its digest, or a component's file
    policy: String,

    /// A setting for the policy; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<Setting>,

    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Activate {
    pub(super) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let sandbox = policies::sandbox(&global.config()?.policy)?;
        let given = file(&self.policy)?;
        if let Some((name, component)) = &given {
            // What no node could use is refused before any is asked.
            sandbox.compile(name, component)?;
        }
        let fabric = self.cluster.observe(global).await?;
        let (name, component) = match given {
            Some(given) => given,
            // What the cluster was given counts before what this machine has under that name.
            None => match rollout::find(&fabric, &self.policy).await? {
                Some((policy, component)) => (policy.name, component),
                None => {
                    let stored = policies::store(&global.config()?.policy).get(&self.policy)?;
                    (stored.name, stored.bytes.into_owned())
                }
            },
        };
        let compiled = sandbox.compile(&name, &component)?;
        let choice = Choice {
            kind: compiled.kind(),
            name,
            digest: Some(compiled.digest()),
            settings: self.settings,
        };
        let answers = rollout::activate(&fabric, &choice, &component).await;
        fabric.close().await;
        let done = format!("{} {} in force", choice.kind, choice.name.bold());
        let told = serde_json::json!({ "kind": choice.kind, "active": choice.name });
        report(&answers, &done, &told, output)
    }
}
