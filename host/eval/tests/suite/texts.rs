//! Where the model and the texts are, and that no text is used twice.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use halo_eval::{Documents, Rule};
use halo_models::Package;

/// Each kind of text, and how many paragraphs make a document of it.
pub(crate) const KINDS: [(&str, usize); 2] = [("stories", 1), ("books", 12)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn data() -> PathBuf {
    root().join("models/tests/data")
}

/// The committed default package.
pub(crate) fn tiny() -> Package {
    Package::open(&root().join("models/tiny")).unwrap()
}

/// Copies a package's files.
pub(crate) fn copy(package: &Package, to: &Path) -> Package {
    fs::create_dir(to).unwrap();
    let files = package.manifest().files.keys().map(String::as_str);
    for name in files.chain(["manifest.json"]) {
        fs::copy(package.dir().join(name), to.join(name)).unwrap();
    }
    Package::open(to).unwrap()
}

fn read(path: &Path, name: &str, run: usize) -> Documents {
    let text = fs::read_to_string(path).unwrap();
    Documents::from_text(name, &text, 0, NonZeroUsize::new(run).unwrap())
}

/// What perplexity is measured on.
pub(crate) fn held_out(name: &str) -> Documents {
    let (name, run) = KINDS.into_iter().find(|(kind, _)| *kind == name).unwrap();
    let mut documents = read(&data().join(format!("valid-{name}.txt")), name, run);
    documents.texts.truncate(60);
    documents
}

/// What the default model is calibrated on.
pub(crate) fn calibration() -> Vec<Documents> {
    let data = root().join("host/eval/data");
    KINDS
        .map(|(name, run)| read(&data.join(format!("{name}.txt")), name, run))
        .into()
}

#[test]
fn calibration_reads_nothing_that_perplexity_is_measured_on() {
    let tokenizer = tiny().tokenizer().unwrap();
    let mut measured = String::new();
    for (name, _) in KINDS {
        for document in held_out(name).texts {
            let mut tokens = tokenizer.encode(&document).unwrap();
            tokens.truncate(Rule::default().tokens);
            measured += &tokenizer.decode(&tokens).unwrap();
            measured += "\n";
        }
    }
    let mut compared = 0;
    for documents in calibration() {
        for paragraph in documents.texts.iter().flat_map(|text| text.split("\n\n")) {
            // Short lines, such as a scene's heading, may well occur twice.
            if paragraph.len() >= 60 {
                assert!(!measured.contains(paragraph), "{paragraph}");
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "{compared}");
}
