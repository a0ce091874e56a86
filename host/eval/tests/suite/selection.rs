use halo_engine::{Backbone, Engine, EngineOptions, FeedForward};
use halo_eval::{EvalError, Order, Rule, Selection, perplexity, selections};

use crate::texts::{held_out, tiny};

#[test]
fn better_choices_cost_less() {
    let package = tiny();
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut texts = held_out("stories").texts;
    texts.truncate(4);
    let rule = Rule { tokens: 80 };
    let calibration = package.calibration().unwrap().unwrap();
    let mean = &calibration.arrays["mean"].values;
    let groups = package.groups();
    // A predictor that knows no more than the mean.
    let mut predict = |layer: usize, hidden: &[f32], scores: &mut Vec<f32>| {
        assert_eq!(hidden.len(), package.shape().width);
        scores.extend(&mean[layer * groups..][..groups]);
        Ok::<_, EvalError>(())
    };
    let counts = [groups, groups / 2];
    let mut done = Vec::new();
    let found = selections(
        &engine,
        &package,
        &texts,
        &rule,
        &counts,
        mean,
        &mut predict,
        &mut |p| done.push((p.done, p.total)),
    )
    .unwrap();
    assert_eq!(done, (1..=36).map(|d| (d, 36)).collect::<Vec<_>>());

    let whole = perplexity(
        &mut Backbone::load(&engine, &package).unwrap(),
        &mut FeedForward::load_all(&engine, &package).unwrap(),
        &package.tokenizer().unwrap(),
        &texts,
        &rule,
        &mut |_| (),
    );
    assert_eq!(found.whole, whole.unwrap());
    let of = |selection: &Selection| -> Vec<f64> {
        let orders = selection.perplexity.iter().map(|(order, _)| *order);
        assert!(orders.eq(Order::ALL));
        selection.perplexity.iter().map(|(_, p)| p.value).collect()
    };
    assert_eq!(of(&found.selections[0]), [found.whole.value; 4]);
    let [oracle, predicted, mean, random] = of(&found.selections[1])[..] else {
        panic!("four orders")
    };
    assert_eq!(predicted, mean);
    assert!(found.whole.value < oracle && oracle < mean && mean < random);
}
