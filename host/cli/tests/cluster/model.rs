//! The models that the clusters run, and what is right.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use halo_models::{ImportOptions, Package, WeightFormat, import};
use halo_policy::Digest;
use halo_runtime::{Counts, Report};

use crate::process::run;

/// What every generation here continues. Longer than one pass over the prompt has rows for.
pub(crate) const PROMPT: &str = "Once upon a time there was a little llama named Ada, who lived on a green hill with her \
     mother, her father and her two brothers. One morning she saw a big red ball near the old tree.";

/// A model of the same shape, vocabulary and calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// The default model, with 4-bit weights. Its products round activations to 8 bits, so another order of adding the groups
    /// can change a token that is nearly a tie: results are compared with those of the same placement.
    Default,
    /// The same with 32-bit weights, where the order of adding changes next to nothing: whoever computes what, the tokens are
    /// the same.
    Exact,
}

impl Model {
    /// Its package's folder.
    pub(crate) fn folder(self) -> &'static Path {
        static DEFAULT: OnceLock<PathBuf> = OnceLock::new();
        static EXACT: OnceLock<PathBuf> = OnceLock::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        match self {
            Self::Default => DEFAULT.get_or_init(|| root.join("models/tiny")),
            Self::Exact => EXACT.get_or_init(|| exact(&root)),
        }
    }

    pub(crate) fn package(self) -> Package {
        Package::open(self.folder()).expect("a package")
    }
}

/// Makes the exact model's package, with the default model's calibration. Its folder is named after what is in it, so that
/// several runs of these tests can share it.
fn exact(root: &Path) -> PathBuf {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let building = tempfile::tempdir_in(shared).expect("a folder");
    let folder = building.path().join("exact");
    let options = ImportOptions {
        weights: WeightFormat::F32,
        ..ImportOptions::default()
    };
    let source = root.join("models/tests/data/tiny-hf");
    let package = import(&source, &folder, &options, &mut |_| ()).expect("an imported model");
    let calibration = Model::Default.package().calibration();
    let calibration = calibration
        .expect("readable")
        .expect("a calibrated package");
    package
        .with_calibration(&calibration)
        .expect("a calibration");
    let manifest = std::fs::read(folder.join("manifest.json")).expect("a manifest");
    let named = shared.join(format!("exact-{}", Digest::of(&manifest).short()));
    // Where it is there already, this one is not needed.
    if let Err(error) = std::fs::rename(&folder, &named) {
        assert!(named.is_dir(), "{}: {error}", named.display());
    }
    named
}

/// The tokens that one process without a cluster generates with the exact model: what is right.
pub(crate) fn right_tokens(count: usize) -> &'static [u32] {
    /// As many as any test wants.
    const MOST: usize = 384;
    static TOKENS: OnceLock<Vec<u32>> = OnceLock::new();
    let all = TOKENS.get_or_init(|| {
        let model = Model::Exact.folder().to_str().expect("plain characters");
        let most = MOST.to_string();
        let options = ["--json", "--threads", "1", "--ignore-eos"];
        let output = run(["run", "--model", model, "--max-tokens", &most, PROMPT]
            .into_iter()
            .chain(options));
        let text = String::from_utf8(output.stdout).expect("JSON");
        let last = text.lines().last().expect("a report");
        let report: Report = serde_json::from_str(last).expect("a report");
        assert_eq!(report.tokens.len(), MOST);
        assert_eq!(report.counts, Counts::default(), "there is no cluster");
        report.tokens
    });
    &all[..count]
}
