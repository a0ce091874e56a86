//! Generations that share passes, and caches, are the generations that they would be alone.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use halo_engine::{Engine, EngineOptions};
use halo_models::{ImportOptions, WeightFormat, import};
use halo_runtime::{
    AloneOptions, Batcher, Finish, GenerationError, GenerationId, Generator, Progress, Report,
    Request, Sampling,
};

/// The default model with its weights as they were published: rounding then decides nothing.
fn generator() -> Generator {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tests/data/tiny-hf");
    let folder = tempfile::tempdir().unwrap();
    let options = ImportOptions {
        weights: WeightFormat::F32,
        ..ImportOptions::default()
    };
    let package = import(&data, &folder.path().join("p"), &options, &mut |_| ()).unwrap();
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    Generator::alone(&engine, &package, AloneOptions::default()).unwrap()
}

/// Different prompts, lengths and ways of choosing.
fn requests() -> Vec<Request> {
    let request = |prompt: &str, max_tokens, sampling| Request {
        prompt: prompt.into(),
        max_tokens,
        sampling,
        ignore_eos: true,
        ..Request::default()
    };
    let long = "Once upon a time there was a little fox who lived in the forest. ".repeat(4);
    let warm = |seed| Sampling {
        temperature: 0.8,
        top_p: 0.9,
        seed,
        ..Sampling::default()
    };
    let penalised = Sampling {
        repetition_penalty: 1.3,
        frequency_penalty: 0.2,
        ..warm(3)
    };
    vec![
        request("Once upon a time", 24, Sampling::default()),
        request("The dog", 5, warm(1)),
        request(&long, 17, Sampling::default()),
        request("In the garden there was", 30, warm(2)),
        request("Tom", 0, Sampling::default()),
        request("One day Lily found", 12, penalised),
    ]
}

fn go_on(_: &halo_runtime::Token) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What each is alone, with nothing to reuse.
fn alone(requests: &[Request]) -> Vec<Report> {
    let each = |request| generator().generate(request, go_on).unwrap();
    requests.iter().map(each).collect()
}

/// What does not depend on time or on what else was going on.
fn outcome(report: &Report) -> (&[u32], &str, Finish, usize) {
    let Report {
        tokens,
        text,
        finish,
        prompt_tokens,
        ..
    } = report;
    (tokens, text, *finish, *prompt_tokens)
}

#[test]
fn joining_and_leaving_change_nothing() {
    let requests = requests();
    let alone = alone(&requests);
    let mut generator = generator();
    let mut ids = vec![None; requests.len()];
    let mut texts = vec![String::new(); requests.len()];
    let mut reports: Vec<Option<Report>> = vec![None; requests.len()];
    // A new one every third step: some have ended by then, others are reading their prompts.
    for step in 0.. {
        let next = step / 3;
        if step % 3 == 0 && next < requests.len() {
            ids[next] = Some(generator.join(&requests[next]).unwrap());
        }
        let of = |id: GenerationId| ids.iter().position(|i| *i == Some(id)).unwrap();
        for (id, progress) in generator.step().unwrap() {
            match progress {
                Progress::Token(token) => texts[of(id)].push_str(&token.text),
                Progress::Done(report) => reports[of(id)] = Some(*report),
                Progress::Failed(error) => panic!("{error}"),
            }
        }
        if next >= requests.len() && generator.under_way() == 0 {
            break;
        }
    }
    for ((alone, report), text) in alone.iter().zip(&reports).zip(&texts) {
        let report = report.as_ref().expect("every generation ends");
        assert_eq!(outcome(report), outcome(alone));
        assert!(report.text.starts_with(text));
    }
}

#[test]
fn one_that_leaves_does_not_disturb_the_others() {
    let requests = requests();
    let mut generator = generator();
    let leaving = generator.join(&requests[3]).unwrap();
    let staying = generator.join(&requests[0]).unwrap();
    let mut report = None;
    for step in 0.. {
        if step == 6 {
            let left = generator.leave(leaving).unwrap().unwrap();
            assert_eq!(left.finish, Finish::Stopped);
            assert!((1..=6).contains(&left.tokens.len()));
            assert!(generator.leave(leaving).is_none());
        }
        for (id, progress) in generator.step().unwrap() {
            if let (true, Progress::Done(done)) = (id == staying, progress) {
                report = Some(*done);
            }
        }
        if generator.under_way() == 0 {
            break;
        }
    }
    assert_eq!(
        outcome(&report.unwrap()),
        outcome(&alone(&requests[..1])[0])
    );
}

#[test]
fn a_beginning_in_common_is_computed_once() {
    let mut generator = generator();
    let request = |prompt: &str| Request {
        prompt: prompt.into(),
        max_tokens: 16,
        ignore_eos: true,
        ..Request::default()
    };
    let first = generator
        .generate(&request("Once upon a time"), go_on)
        .unwrap();
    assert_eq!(first.reused_tokens, 0);

    // The same again: all but the last token, which gives the logits.
    let again = generator
        .generate(&request("Once upon a time"), go_on)
        .unwrap();
    assert_eq!(outcome(&again), outcome(&first));
    assert_eq!(again.reused_tokens, again.prompt_tokens - 1);

    // The text so far and more, as a conversation goes on.
    let more = request(&format!("Once upon a time{} And then", first.text));
    let continued = generator.generate(&more, go_on).unwrap();
    assert_eq!(outcome(&continued), outcome(&alone(&[more])[0]));
    assert!(continued.reused_tokens > first.prompt_tokens);

    // Another end, while the one that it shares its beginning with is under way.
    let id = generator
        .join(&request("Once upon a time there was a"))
        .unwrap();
    while generator.step().unwrap().is_empty() {}
    let other = request("Once upon a time there was no");
    let beside = generator.generate(&other, go_on).unwrap();
    assert_eq!(outcome(&beside), outcome(&alone(&[other])[0]));
    assert!(beside.reused_tokens >= 6, "{beside:?}");
    assert!(generator.leave(id).is_none());
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let mut generator = generator();
    let mut request = requests().swap_remove(0);
    let whole = generator.generate(&request, go_on).unwrap();
    // From the middle of a word to the middle of another.
    let middle = whole.text.len() / 2;
    let stop = &whole.text[middle..middle + 7];
    let end = whole.text.find(stop).unwrap();
    request.stop = vec!["not in it".into(), stop.into()];
    let mut shown = String::new();
    let stopped = generator
        .generate(&request, |token| {
            shown.push_str(&token.text);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(stopped.finish, Finish::StopString);
    assert_eq!(stopped.text, whole.text[..end]);
    assert_eq!(shown, stopped.text);
    assert!(whole.tokens.starts_with(&stopped.tokens));
}

#[test]
fn log_probabilities_are_of_the_models_own_distribution() {
    let mut generator = generator();
    let mut request = requests().swap_remove(0);
    let mut greedy = Vec::new();
    request.logprobs = Some(3);
    let mut keep = |request: &Request| {
        let mut all = Vec::new();
        generator
            .generate(request, |token| {
                all.push((token.id, token.logprobs.clone().unwrap()));
                ControlFlow::Continue(())
            })
            .unwrap();
        all
    };
    for (id, logprobs) in keep(&request) {
        assert_eq!(logprobs.top.len(), 3);
        assert!(logprobs.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        assert_eq!(
            (logprobs.top[0].id, logprobs.top[0].logprob),
            (id, logprobs.logprob)
        );
        greedy.push(logprobs);
    }
    // Of every token there is: they add up to one, and sampling changes none of them.
    request.logprobs = Some(usize::MAX);
    request.sampling = Sampling {
        temperature: 2.0,
        top_k: 1,
        ..Sampling::default()
    };
    for ((_, logprobs), greedy) in keep(&request).iter().zip(&greedy) {
        let sum: f64 = logprobs
            .top
            .iter()
            .map(|t| f64::from(t.logprob).exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
        assert!((logprobs.logprob - greedy.logprob).abs() < 1e-4);
        assert_eq!(logprobs.top[0].piece, greedy.top[0].piece);
    }
}

#[test]
fn many_callers_share_a_generator() {
    let requests = requests();
    let alone = alone(&requests);
    let batcher = Batcher::start(generator(), 3).unwrap();
    let reports = Mutex::new(vec![None; requests.len()]);
    std::thread::scope(|scope| {
        for (index, request) in requests.iter().enumerate() {
            let (batcher, reports) = (batcher.clone(), &reports);
            scope.spawn(move || {
                let report = batcher.generate(request, go_on).unwrap();
                reports.lock().unwrap()[index] = Some(report);
            });
        }
    });
    for (alone, report) in alone.iter().zip(reports.into_inner().unwrap()) {
        assert_eq!(outcome(&report.unwrap()), outcome(alone));
    }
    let mut count = 0;
    let stopped = batcher.generate(&requests[3], |_| {
        count += 1;
        if count < 4 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    // The generation may be a few tokens ahead of whoever listens, but what has been heard is enough.
    let stopped = stopped.unwrap();
    assert_eq!(count, 4);
    assert!(alone[3].tokens.starts_with(&stopped.tokens));
    assert!(matches!(
        batcher.generate(&Request::default(), go_on),
        Err(GenerationError::EmptyPrompt)
    ));
}

#[test]
fn a_generation_ends_where_the_context_does() {
    let mut generator = generator();
    let mut request = requests().swap_remove(0);
    let whole = generator.generate(&request, go_on).unwrap();
    assert_eq!(whole.finish, Finish::MaxTokens);
    request.context = Some(whole.prompt_tokens + 9);
    let cut = generator.generate(&request, go_on).unwrap();
    assert_eq!(cut.finish, Finish::Context);
    // The last token need not be read, only written.
    assert_eq!(cut.tokens, whole.tokens[..10]);
    request.context = Some(whole.prompt_tokens);
    assert!(matches!(
        generator.generate(&request, go_on),
        Err(GenerationError::PromptTooLong { .. })
    ));
    request.context = Some(1 << 30);
    assert!(matches!(
        generator.generate(&request, go_on),
        Err(GenerationError::ContextTooLong { wanted, .. }) if wanted == 1 << 30
    ));
}

#[test]
fn there_are_no_more_than_can_be() {
    let mut generator = generator();
    let request = requests().swap_remove(1);
    for _ in 0..Generator::MOST {
        generator.join(&request).unwrap();
    }
    let full = generator.join(&request);
    assert!(matches!(
        full,
        Err(GenerationError::Full {
            most: Generator::MOST
        })
    ));
    let expected = alone(&[request]);
    let mut ended = 0;
    while generator.under_way() > 0 {
        for (_, progress) in generator.step().unwrap() {
            if let Progress::Done(report) = progress {
                assert_eq!(outcome(&report), outcome(&expected[0]));
                ended += 1;
            }
        }
    }
    assert_eq!(ended, Generator::MOST);
}
