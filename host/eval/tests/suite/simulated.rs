use halo_engine::{Backbone, Engine, EngineOptions};
use halo_eval::{
    Cloze, Perplexity, Reader, Rule, Simulated, SimulatedOptions, Synchronisation, Tally, cloze,
    perplexity, stories, unhurried,
};
use halo_fabric::Loss;
use halo_runtime::{Arrangement, Concealment, Policies, config};

use crate::texts::{held_out, tiny};

const WHOLE: SimulatedOptions = SimulatedOptions {
    workers: 0,
    loss: Loss::Random { rate: 0.2 },
    one_bad_node: false,
    arrangement: Arrangement::Scheduled,
    synchronisation: Synchronisation::Relaxed,
    conceal: Concealment::Zero,
    seed: 0,
};

const THREE_WORKERS: SimulatedOptions = SimulatedOptions {
    workers: 3,
    ..WHOLE
};

/// What a few stories are to the default model on such a cluster, and what happened meanwhile.
fn measure(options: &SimulatedOptions) -> (Perplexity, Cloze, Tally) {
    let package = tiny();
    let mut settings = config::Policies::default();
    settings.limits = unhurried(&settings.limits);
    let policies = Policies::new(&settings, &package).unwrap();
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut backbone = Backbone::load(&engine, &package).unwrap();
    let mut simulated = Simulated::load(&engine, &package, &policies, options).unwrap();
    let tokenizer = package.tokenizer().unwrap();
    let mut texts = held_out("stories").texts;
    texts.truncate(4);
    let mut reader = Reader {
        backbone: &mut backbone,
        feed_forward: &mut simulated,
        tokenizer: &tokenizer,
        rows: usize::MAX,
    };
    let perplexity = perplexity(&mut reader, &texts, &Rule::default(), &mut |_| ()).unwrap();
    let cloze = cloze(&mut reader, &stories::gaps(20, 0), &mut |_| ()).unwrap();
    let tally = simulated.tally();
    (perplexity, cloze, tally)
}

#[test]
fn loss_costs_what_synchronisation_and_placement_let_it() {
    let (whole, all, tally) = measure(&WHOLE);
    assert_eq!((tally.rounds, tally.partials), (0, 0));
    assert!(
        all.right >= 18,
        "the default model knows its stories: {all:?}"
    );

    let strict = SimulatedOptions {
        synchronisation: Synchronisation::Strict,
        ..THREE_WORKERS
    };
    let lossless = SimulatedOptions {
        loss: Loss::Random { rate: 0.0 },
        ..THREE_WORKERS
    };
    let (exact, _, tally) = measure(&strict);
    assert_eq!(
        exact,
        measure(&lossless).0,
        "strict is exact, whatever is lost"
    );
    assert!(
        tally.asked_again > 0 && tally.concealed_partials == 0,
        "{tally:?}"
    );
    assert_eq!(tally.partials, 3 * tally.rounds);
    // What travels has 8 bits.
    assert!(
        (exact.value / whole.value - 1.0).abs() < 0.01,
        "{exact:?} {whole:?}"
    );

    let (relaxed, _, tally) = measure(&THREE_WORKERS);
    assert!(
        tally.concealed <= 0.02,
        "within the scheduler's budget: {tally:?}"
    );
    assert!(
        (relaxed.value / whole.value - 1.0).abs() < 0.03,
        "{relaxed:?} {whole:?}"
    );

    let dropping = |arrangement| {
        let options = SimulatedOptions {
            synchronisation: Synchronisation::DropLate,
            arrangement,
            ..THREE_WORKERS
        };
        let (perplexity, _, tally) = measure(&options);
        assert_eq!(tally.asked_again, 0);
        let lost = tally.concealed_partials as f64 / tally.partials as f64;
        assert!((lost - 0.36).abs() < 0.02, "lost there or back: {lost}");
        perplexity.value / whole.value
    };
    let [aware, worst] = [Arrangement::Scheduled, Arrangement::Worst].map(dropping);
    assert!(1.02 < aware && aware < worst, "{aware} {worst}");
}

#[test]
fn one_bad_node_loses_alone_and_a_seed_loses_the_same_again() {
    let options = SimulatedOptions {
        one_bad_node: true,
        synchronisation: Synchronisation::DropLate,
        seed: 5,
        ..THREE_WORKERS
    };
    let (perplexity, cloze, tally) = measure(&options);
    let lost = tally.concealed_partials as f64 / tally.partials as f64;
    assert!(
        (lost - 0.12).abs() < 0.02,
        "a third of the partials, lost there or back: {lost}"
    );
    assert_eq!((perplexity, cloze, tally), measure(&options));
}
