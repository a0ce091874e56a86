//! Whatever is done to the bytes of a model's files, importing them neither panics nor takes memory for what is not
//! there, and says which file is wrong. `PROPTEST_CASES` says how often it is tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use halo_models::{ImportOptions, WeightFormat, import};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes that importing any of these models may take at a time. An unspoilt one takes at most 90 KB; a thousand layers may
/// be asked for, whose tensors are listed by name before any is looked for.
const LIMIT: usize = 4 << 20;

/// What is measured is what the whole process takes, so only one test imports at a time.
static IMPORTING: Mutex<()> = Mutex::new(());

/// The file to spoil, and what is imported: a GGUF file itself, or the folder of the others.
#[derive(Clone, Debug)]
struct Seed {
    spoilt: &'static str,
    imported: &'static str,
}

const SEEDS: [Seed; 4] = [
    Seed {
        spoilt: "small.gguf",
        imported: "small.gguf",
    },
    Seed {
        spoilt: "mixed.gguf",
        imported: "mixed.gguf",
    },
    Seed {
        spoilt: "model.safetensors",
        imported: "",
    },
    Seed {
        spoilt: "config.json",
        imported: "",
    },
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf")
}

impl Seed {
    fn bytes(&self) -> Vec<u8> {
        let dir = match self.spoilt {
            "mixed.gguf" => data(),
            _ => data().join("small"),
        };
        fs::read(dir.join(self.spoilt)).unwrap()
    }

    /// Imports the model with other bytes in place of the file's; gives what is wrong with it, if anything is.
    fn import(&self, bytes: &[u8], weights: WeightFormat) -> Result<(), String> {
        let _importing = IMPORTING.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = TempDir::new().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(data().join("small").join(name), source.join(name)).unwrap();
        }
        fs::write(source.join(self.spoilt), bytes).unwrap();
        // The mixed file has no vocabulary.
        let named = (self.spoilt == "mixed.gguf").then(|| source.join("tokenizer.json"));
        let options = ImportOptions {
            weights,
            tokenizer: named,
            ..ImportOptions::default()
        };
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        let source = source.join(self.imported);
        let result = import(&source, &dir.path().join("package"), &options, &mut |_| ());
        let taken = ALLOCATOR.peak_usage() - before;
        let message = result.map(drop).map_err(|error| error.to_string());
        assert!(taken <= LIMIT, "{taken} bytes taken: {message:?}");
        message
    }
}

/// What importing takes does not grow with the model.
#[test]
fn a_large_model_takes_no_more_memory_than_a_piece_of_it() {
    let _importing = IMPORTING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new().unwrap();
    let tokens = 1 << 17;
    let config = fs::read_to_string(data().join("small/config.json")).unwrap();
    let config = config.replace("\"vocab_size\": 40", &format!("\"vocab_size\": {tokens}"));
    let weights = fs::read(data().join("small/model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let embedding = vec![0; tokens * 32 * 2];
    let larger = weights.iter().map(|(name, tensor)| match name {
        "model.embed_tokens.weight" => {
            let shape = vec![tokens, 32];
            (
                name,
                TensorView::new(Dtype::F16, shape, &embedding).unwrap(),
            )
        }
        _ => (name, tensor),
    });
    let weights = safetensors::serialize(larger, None).unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    drop(embedding);
    let tokenizer = data().join("small/tokenizer.json");
    fs::copy(tokenizer, dir.path().join("tokenizer.json")).unwrap();
    for weights in ["f32", "q8:32"] {
        let weights: WeightFormat = weights.parse().unwrap();
        let options = ImportOptions {
            weights,
            embedding: Some(weights),
            ..ImportOptions::default()
        };
        let package = dir.path().join(weights.to_string().replace(':', "-"));
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        import(dir.path(), &package, &options, &mut |_| ()).unwrap();
        let taken = ALLOCATOR.peak_usage() - before;
        // In f32 the embedding has 16 MiB.
        assert!(taken < 14 << 20, "{weights}: {taken} bytes");
    }
}

/// What is done to a file. Where it is done is a share of its length, or of that of its beginning.
#[derive(Clone, Debug)]
enum Edit {
    Cut(Index),
    Flip(Index, u8),
    Number(Index, u64, usize),
    Text(Index, &'static str),
    Remove(Index, usize),
    Repeat(Index, usize),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, beginning: bool) {
        // Where headers are.
        let length = match beginning {
            true => bytes.len().min(2048),
            false => bytes.len(),
        };
        if length == 0 {
            return;
        }
        let some = |at: usize, count: usize| at..bytes.len().min(at + count);
        match self {
            Self::Cut(at) => bytes.truncate(at.index(length)),
            Self::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Self::Number(at, number, size) => {
                let range = some(at.index(length), *size);
                let number = &number.to_le_bytes()[..range.len()];
                bytes[range].copy_from_slice(number);
            }
            Self::Text(at, text) => {
                let at = at.index(length);
                bytes.splice(some(at, 1), text.bytes());
            }
            Self::Remove(at, count) => {
                bytes.drain(some(at.index(length), *count));
            }
            Self::Repeat(at, count) => {
                let range = some(at.index(length), *count);
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.start..range.start, again);
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let numbers = [0, 1, 9, 255, 1 << 20, 1 << 31, 1 << 32, 1 << 60, 1 << 63];
    let numbers = select(numbers.map(|n: u64| [n, n.wrapping_neg()]).concat());
    let texts = [
        "",
        "0",
        "9",
        "-",
        "1e999",
        "99999999999999",
        "null",
        "[",
        "[[[[",
        "{",
        "\"",
        ",",
        "\\u0000",
    ];
    let at = any::<Index>;
    prop_oneof![
        at().prop_map(Edit::Cut),
        (at(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (at(), numbers, select(vec![2, 4, 8])).prop_map(|(at, n, size)| Edit::Number(at, n, size)),
        (at(), select(texts.to_vec())).prop_map(|(at, text)| Edit::Text(at, text)),
        (at(), 1..64usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        (at(), 1..256usize).prop_map(|(at, count)| Edit::Repeat(at, count)),
    ]
}

proptest! {
    #[test]
    fn spoilt_files_do_no_harm(
        seed in select(SEEDS.to_vec()),
        edits in prop::collection::vec((edit(), prop::bool::weighted(0.8)), 1..5),
        weights in select(vec![WeightFormat::F32, WeightFormat::Q4 { block: 32 }, WeightFormat::Q8 { block: 16 }]),
    ) {
        let mut bytes = seed.bytes();
        for (edit, beginning) in &edits {
            edit.apply(&mut bytes, *beginning);
        }
        if let Err(message) = seed.import(&bytes, weights) {
            // What is wrong may also be another file that the spoilt one no longer fits.
            prop_assert!(message.contains("/source"), "{message}");
        }
    }
}

#[test]
fn unspoilt_files_are_imported() {
    for seed in SEEDS {
        for weights in ["f32", "f16", "q4", "q8:16"] {
            let result = seed.import(&seed.bytes(), weights.parse().unwrap());
            // The numbers of the mixed file are anything, so not all are small enough.
            if let Err(message) = result {
                assert!(message.contains("which f16 cannot represent"), "{message}");
            }
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_by_name() {
    for seed in SEEDS {
        let bytes = seed.bytes();
        // Every place in the header, and some after it.
        let header = 0..bytes.len().min(2048);
        for end in header.chain((2048..bytes.len()).step_by(4999)) {
            let message = seed.import(&bytes[..end], WeightFormat::F32).unwrap_err();
            assert!(message.contains(seed.spoilt), "{end}: {message}");
        }
    }
}
