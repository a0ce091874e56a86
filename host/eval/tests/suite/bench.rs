use halo_engine::{Engine, EngineOptions, KvCache};
use halo_eval::EvalError;
use halo_eval::bench::{Model, Options, Run, bench};

use crate::texts::tiny;

fn measure(options: &Options) -> Result<(Run, Vec<(usize, usize)>), EvalError> {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut told = Vec::new();
    let run = bench(&engine, &tiny(), options, &mut |done, total| {
        told.push((done, total));
    })?;
    Ok((run, told))
}

/// Quick, and with a last chunk of the prompt that is not full.
fn options() -> Options {
    Options {
        contexts: vec![10_000, 0, 0],
        prompt: 40,
        tokens: 3,
        parallel: vec![1, 3],
        repeats: 2,
        products: true,
    }
}

#[test]
fn everything_is_measured_as_often_as_asked() {
    let package = tiny();
    let longest = package.shape().context - 3;
    let (run, told) = measure(&options()).unwrap();
    let contexts: Vec<_> = run.decode.iter().map(|(context, _)| *context).collect();
    assert_eq!(contexts, [0, longest]);
    assert_eq!(run.prefill.0, 40);
    let products = run.products.as_ref().unwrap();
    let decodes = run.decode.iter().map(|(_, timing)| timing);
    let at_once: Vec<_> = run.parallel.iter().map(|(count, _)| *count).collect();
    assert_eq!(at_once, [1, 3]);
    let parallel = run.parallel.iter().map(|(_, timing)| timing);
    let policies = run.policies.as_ref().unwrap();
    for timing in decodes
        .chain(parallel)
        .chain([&run.prefill.1, &products.decode, &products.prefill])
        .chain([&policies.score, &policies.admit, &policies.place])
    {
        assert_eq!(timing.seconds.len(), 2);
        assert!(timing.seconds.iter().all(|seconds| *seconds > 0.0));
    }
    assert!(run.outside_products().unwrap() < 1.0);
    let expected: Vec<_> = (0..16).map(|done| (done, 16)).collect();
    assert_eq!(told, expected);
    let memory = run.memory.unwrap();
    assert_eq!(
        memory.kv_cache,
        KvCache::bytes(package.shape(), package.shape().context)
    );
    assert!(memory.kv_cache < memory.decoding.total && memory.decoding.total <= memory.peak);
}

#[test]
fn products_may_be_left_out() {
    let without = Options {
        products: false,
        ..options()
    };
    let (run, told) = measure(&without).unwrap();
    assert_eq!(
        (run.products.as_ref(), run.outside_products()),
        (None, None)
    );
    assert_eq!(told.len(), 12);
}

#[test]
fn nothing_to_measure_is_an_error() {
    for nothing in [
        Options {
            contexts: vec![],
            ..options()
        },
        Options {
            tokens: 0,
            ..options()
        },
        Options {
            prompt: 0,
            ..options()
        },
    ] {
        let error = measure(&nothing).unwrap_err();
        assert!(matches!(error, EvalError::Option(_)), "{error}");
    }
}

#[test]
fn a_token_reads_all_weights_but_an_embedding_of_its_own() {
    let model = Model::of(&tiny());
    // The head of this model is its embedding, so only norms and the files' headers are left.
    let left = model.weight_bytes - model.token_bytes;
    assert!(0 < left && left < model.weight_bytes / 20, "{model:?}");
}
