//! llama.cpp: fetching, building, a model for it, and measuring it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Speed, output};
use crate::onnxruntime::sha256_of;
use crate::{cargo, say};

/// The release of llama-cpp-python on PyPI, whose source has llama.cpp's in it.
const VERSION: &str = "0.3.36";

/// Of that source.
const SHA256: &str = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e";

/// What builds it and makes its model, from PyPI.
const TOOLS: [&str; 4] = [
    "cmake==4.4.4",
    "ninja==1.13.2",
    "scikit-build-core==1.1.2",
    "gguf==0.19.0",
];

/// Writes a model with random weights; see there.
const RANDOM_MODEL: &str = include_str!("random_gguf.py");

/// llama.cpp, built for this machine.
pub(super) struct LlamaCpp {
    python: PathBuf,
    bench: PathBuf,
}

impl LlamaCpp {
    /// Builds it below `folder`, unless it is there.
    pub(super) fn provide(folder: &Path) -> Result<Self> {
        let folder = folder.join(format!("llama-cpp-python-{VERSION}"));
        let found = Self {
            python: folder.join("venv/bin/python"),
            bench: folder.join("build/bin/llama-bench"),
        };
        if !found.bench.is_file() {
            say::step("Building", "llama.cpp, which takes some minutes");
            found.build(&folder)?;
        }
        Ok(found)
    }

    fn build(&self, folder: &Path) -> Result<()> {
        let (venv, source) = (folder.join("venv"), folder.join("source"));
        cargo::run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).context(
            "cannot make a Python environment; on Debian: sudo apt install python3-venv",
        )?;
        let pip = || {
            let mut pip = Command::new(&self.python);
            pip.args(["-m", "pip", "--disable-pip-version-check", "--quiet"]);
            pip
        };
        cargo::run(pip().arg("install").args(TOOLS))?;
        let archive = folder.join(format!("llama_cpp_python-{VERSION}.tar.gz"));
        cargo::run(
            pip()
                .args(["download", "--no-deps", "--no-build-isolation"])
                .args(["--no-binary", "llama-cpp-python", "--dest"])
                .arg(folder)
                .arg(format!("llama-cpp-python=={VERSION}")),
        )?;
        let found = sha256_of(&archive)?;
        ensure!(
            found == SHA256,
            "{} is not the source that the comparison was made with: its SHA-256 is {found} instead of {SHA256}",
            archive.display()
        );
        fs::create_dir_all(&source)?;
        let mut tar = Command::new("tar");
        tar.args(["--strip-components=1", "-xf"]).arg(&archive);
        cargo::run(tar.arg("-C").arg(&source))?;
        let bin = venv.join("bin");
        let build = folder.join("build");
        cargo::run(
            Command::new(bin.join("cmake"))
                .args(["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"])
                // For this very processor, as HALO's kernels choose at run time.
                .args([
                    "-DGGML_NATIVE=ON",
                    "-DLLAMA_CURL=OFF",
                    "-DBUILD_SHARED_LIBS=OFF",
                ])
                .arg(format!(
                    "-DCMAKE_MAKE_PROGRAM={}",
                    bin.join("ninja").display()
                ))
                .arg("-S")
                .arg(source.join("vendor/llama.cpp"))
                .arg("-B")
                .arg(&build),
        )?;
        cargo::run(
            Command::new(bin.join("cmake"))
                .args(["--build"])
                .arg(&build)
                .args(["--target", "llama-bench"]),
        )
    }

    /// What was built, in words.
    pub(super) fn version(&self) -> String {
        format!("llama.cpp of llama-cpp-python {VERSION}")
    }

    /// Writes a model of the shape of HALO's `package`, in Q4_0, unless `gguf` is there.
    pub(super) fn random_model(&self, package: &Path, gguf: &Path) -> Result<PathBuf> {
        if !gguf.is_file() {
            say::step("Making", gguf.display());
            let unfinished = gguf.with_extension("unfinished");
            let mut python = Command::new(&self.python);
            python.args(["-c", RANDOM_MODEL]);
            cargo::run(python.arg(package.join("manifest.json")).arg(&unfinished))?;
            fs::rename(&unfinished, gguf)?;
        }
        Ok(gguf.to_owned())
    }

    pub(super) fn measure(
        &self,
        gguf: &Path,
        threads: usize,
        prompt: usize,
        tokens: usize,
    ) -> Result<Speed> {
        let mut command = Command::new(&self.bench);
        command.args(["--output", "json", "--repetitions", "1", "--model"]);
        command.arg(gguf).args(["--threads", &threads.to_string()]);
        command.args(["--cpu-strict", "1", "--cpu-mask", &mask(threads)]);
        command.args(["--n-prompt", &prompt.to_string()]);
        command.args(["--n-gen", &tokens.to_string()]);
        theirs(&output(&mut command)?)
    }
}

/// The first cores, as `halo bench` takes them.
fn mask(cores: usize) -> String {
    let bits = (0..cores.min(128)).fold(0u128, |bits, core| bits | 1 << core);
    format!("{bits:#x}")
}

/// One measurement of `llama-bench --output json`: of a prompt, or of decoding.
#[derive(Debug, Deserialize)]
struct Measurement {
    n_prompt: usize,
    n_gen: usize,
    avg_ts: f64,
}

fn theirs(json: &[u8]) -> Result<Speed> {
    let measurements: Vec<Measurement> = serde_json::from_slice(json)?;
    let of = |wanted: fn(&Measurement) -> bool| {
        let found = measurements.iter().find(|m| wanted(m));
        found.map(|m| m.avg_ts)
    };
    Ok(Speed {
        decode: of(|m| m.n_gen > 0).context("llama-bench decoded nothing")?,
        prompt: of(|m| m.n_prompt > 0 && m.n_gen == 0).context("llama-bench read no prompt")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_llama_bench_prints_is_read() {
        let json = br#"[{"n_prompt":512,"n_gen":0,"avg_ts":67.5,"samples_ts":[67.5]},{"n_prompt":0,"n_gen":128,"avg_ts":30.5}]"#;
        let expected = Speed {
            decode: 30.5,
            prompt: 67.5,
        };
        assert_eq!(theirs(json).unwrap(), expected);
        assert!(theirs(b"[]").is_err());
    }

    #[test]
    fn cores_are_counted_from_the_first() {
        assert_eq!(mask(1), "0x1");
        assert_eq!(mask(4), "0xf");
    }
}
