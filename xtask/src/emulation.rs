//! `cargo xtask test --aarch64`: tests as a Raspberry Pi runs them, on an emulated one, and clusters with such Pis.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, Counts, Program, Workspace};
use crate::cross::Cross;
use crate::qemu;
use crate::setup;
use crate::summary::{Done, Summary};

/// What is emulated, by qemu's names: the processors of a Raspberry Pi 5 and of a Raspberry Pi 4, which has no dot products.
const PROCESSORS: [&str; 2] = ["cortex-a76", "cortex-a72"];

/// Where the cross compiler's C and C++ libraries lie.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// The test programs that are run: their packages' folders, and their names.
const TESTS: [(&str, &str); 13] = [
    ("host/engine", "halo_engine"),
    ("host/engine", "golden"),
    ("host/fabric", "halo_fabric"),
    ("host/fabric", "fuzz"),
    ("host/policy", "halo_policy"),
    ("host/policy", "defaults"),
    ("host/policy", "faults"),
    ("host/policy", "precompiled"),
    ("host/policy", "refused"),
    ("host/policy", "swap"),
    ("host/runtime", "halo_runtime"),
    ("models", "halo_models"),
    ("models", "suite"),
];

/// The tests of clusters that are run with emulated nodes only, and with an emulated worker.
const CLUSTER: &str = "strict::four_processes_that_lose_a_tenth_generate_what_one_does";
const MIXED: &str = "mixed::";

/// Runs the tests as steps of `summary`.
pub(crate) fn steps(summary: &mut Summary) {
    let mut pi = None;
    summary.run("building for ARM", || {
        pi = Some(Emulator::ready()?);
        Ok(Done::Passed)
    });
    let Some(pi) = pi else { return };
    for processor in PROCESSORS {
        summary.run(format!("tests on {processor}"), || pi.tests(processor));
        summary.run(format!("a cluster of {processor}"), || {
            pi.cluster(processor, "HALO_TEST_PROGRAM", CLUSTER)
        });
        summary.run(format!("a cluster with a {processor}"), || {
            pi.cluster(processor, "HALO_TEST_WORKER", MIXED)
        });
    }
}

/// An emulator, and what there is to run on it.
struct Emulator {
    qemu: PathBuf,
    onnxruntime: PathBuf,
    halo: PathBuf,
    tests: Vec<Program>,
}

impl Emulator {
    fn ready() -> Result<Self> {
        let cross = Cross::ready()?;
        ensure!(
            Path::new(LIBRARIES).join("lib/libstdc++.so.6").exists(),
            "ONNX Runtime needs a C++ library for ARM, which is not there; on Debian: sudo apt install libstdc++6-arm64-cross"
        );
        let qemu = qemu::ready()?;
        let onnxruntime = setup::for_architecture("aarch64")?;
        let halo = cross.build("halo")?;
        let mut command = cross.cargo("test")?;
        command.args(["--no-run", "--lib"]);
        for (_, name) in TESTS.iter().filter(|(_, name)| !name.starts_with("halo_")) {
            command.args(["--test", name]);
        }
        let tests = cargo::programs(&mut command)?;
        Ok(Self {
            qemu,
            onnxruntime,
            halo,
            tests,
        })
    }

    /// The emulator's command line for a program, and its environment.
    fn emulate(&self, processor: &str, program: &Path) -> ([PathBuf; 2], [(&str, PathBuf); 3]) {
        (
            [self.qemu.clone(), program.to_owned()],
            [
                ("QEMU_CPU", processor.into()),
                ("QEMU_LD_PREFIX", LIBRARIES.into()),
                ("ORT_DYLIB_PATH", self.onnxruntime.clone()),
            ],
        )
    }

    /// Runs all of [`TESTS`].
    fn tests(&self, processor: &str) -> Result<Done> {
        let mut counts = Counts::default();
        let mut failed = Vec::new();
        for (folder, name) in TESTS {
            let program = self.tests.iter().find(|program| {
                program.test && program.name == name && program.folder.ends_with(folder)
            });
            let program = program.with_context(|| format!("{folder} has no tests {name}"))?;
            let ([qemu, path], environment) = self.emulate(processor, &program.path);
            let mut command = Command::new(qemu);
            command
                .arg(path)
                .current_dir(&program.folder)
                .envs(environment);
            if cargo::run_tests(&mut command, &mut counts).is_err() {
                failed.push(name);
            }
        }
        if !failed.is_empty() {
            bail!(
                "{} passed; failures in {}",
                counts.passed,
                failed.join(", ")
            );
        }
        Ok(Done::Noted(format!("{} passed", counts.passed)))
    }

    /// Runs tests of clusters, which take their nodes' program from `variable`.
    fn cluster(&self, processor: &str, variable: &str, name: &str) -> Result<Done> {
        let folder = tempfile::tempdir()?;
        let halo = folder.path().join("halo");
        let ([qemu, path], environment) = self.emulate(processor, &self.halo);
        let environment = environment.map(|(name, value)| format!("{name}={}\n", quoted(&value)));
        let exports = environment.map(|line| format!("export {line}")).concat();
        let script = format!(
            "#!/bin/sh\n{exports}exec {} {} \"$@\"\n",
            quoted(&qemu),
            quoted(&path)
        );
        fs::write(&halo, script)?;
        fs::set_permissions(&halo, Permissions::from_mode(0o755))?;

        let mut counts = Counts::default();
        let mut command = Workspace::Host.cargo("test");
        command
            .args(["--release", "--locked", "--workspace", "--test", "cluster"])
            .args(["--", "--include-ignored", name])
            .env(variable, &halo);
        cargo::run_tests(&mut command, &mut counts)?;
        ensure!(counts.passed > 0, "no test of clusters is called {name}");
        Ok(Done::Noted(format!("{} passed", counts.passed)))
    }
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
