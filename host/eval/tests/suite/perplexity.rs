use std::fs;

use halo_engine::{Backbone, Engine, EngineOptions, FeedForward};
use halo_eval::{EvalError, Perplexity, Progress, Reader, Rule, Stage, perplexity};
use halo_models::{ImportOptions, Package, WeightFormat, import};

use crate::texts::{KINDS, data, held_out, tiny};

fn measure(package: &Package, texts: &[String], rule: &Rule) -> Result<Perplexity, EvalError> {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut backbone = Backbone::load(&engine, package).unwrap();
    let mut feed_forward = FeedForward::load_all(&engine, package).unwrap();
    let tokenizer = package.tokenizer().unwrap();
    let mut done = Vec::new();
    let progress = &mut |progress: Progress| {
        assert_eq!(
            (progress.stage, progress.total),
            (Stage::Running, texts.len())
        );
        done.push(progress.done);
    };
    let mut reader = Reader {
        backbone: &mut backbone,
        feed_forward: &mut feed_forward,
        tokenizer: &tokenizer,
        rows: usize::MAX,
    };
    let result = perplexity(&mut reader, texts, rule, progress);
    assert_eq!(done, (1..=texts.len()).collect::<Vec<_>>());
    result
}

#[test]
fn f32_gives_the_golden_values_and_4_bits_cost_less_than_one_per_cent() {
    let folder = tempfile::tempdir().unwrap();
    let options = ImportOptions {
        weights: WeightFormat::F32,
        ..ImportOptions::default()
    };
    let source = data().join("tiny-hf");
    let f32 = import(&source, &folder.path().join("f32"), &options, &mut |_| ()).unwrap();
    let golden: serde_json::Value =
        serde_json::from_slice(&fs::read(data().join("golden.json")).unwrap()).unwrap();
    for (name, _) in KINDS {
        let golden = &golden["perplexity"][name];
        let documents = held_out(name);
        let full = measure(&f32, &documents.texts, &Rule::default()).unwrap();
        let quantised = measure(&tiny(), &documents.texts, &Rule::default()).unwrap();
        let expected = golden["value"].as_f64().unwrap();
        let cost = quantised.value / full.value - 1.0;
        println!(
            "{name}: {} tokens, golden {expected:.5}, f32 {:.5}, 4-bit {:.5} ({:+.2} %)",
            full.tokens,
            full.value,
            quantised.value,
            100.0 * cost
        );
        assert_eq!(golden["tokens"], full.tokens);
        assert_eq!(full.tokens, quantised.tokens);
        assert!(
            (full.value / expected - 1.0).abs() < 1e-3,
            "{full:?} {expected}"
        );
        assert!(cost.abs() < 0.01, "{full:?} {quantised:?}");
        assert_eq!(full.value, (full.nll / full.tokens as f64).exp());
    }
}

#[test]
fn documents_are_cut_and_empty_ones_still_end() {
    let package = tiny();
    let story = held_out("stories").texts.swap_remove(0);
    let long = measure(&package, std::slice::from_ref(&story), &Rule::default()).unwrap();
    let cut = measure(&package, std::slice::from_ref(&story), &Rule { tokens: 21 }).unwrap();
    assert_eq!(cut.tokens, 20);
    assert!(long.tokens > 100 && long.nll > cut.nll);
    // An empty document is a begin token and an end token.
    let with_empty = [story, String::new()];
    let both = measure(&package, &with_empty, &Rule { tokens: 21 }).unwrap();
    assert_eq!(both.tokens, 21);
    assert!(both.nll > cut.nll);
}

#[test]
fn nothing_to_predict_is_an_error() {
    let package = tiny();
    for (texts, rule) in [
        (vec![], Rule::default()),
        (vec!["Once upon a time".to_owned(); 3], Rule { tokens: 1 }),
        (vec!["Once upon a time".to_owned(); 3], Rule { tokens: 0 }),
    ] {
        let error = measure(&package, &texts, &rule).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "there is nothing to predict in {} documents; give text of at least a few words",
                texts.len()
            )
        );
    }
}
