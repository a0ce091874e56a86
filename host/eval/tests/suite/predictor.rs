use halo_engine::{Backbone, Engine, EngineOptions, FeedForward};
use halo_eval::{
    EvalError, Order, OrderReport, PredictorTrial, Reader, Rule, perplexity, predictor,
};

use crate::texts::{held_out, tiny};

#[test]
fn better_orders_keep_more_and_cost_less() {
    let package = tiny();
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut texts = held_out("stories").texts;
    texts.truncate(4);
    let rule = Rule { tokens: 80 };
    let calibration = package.calibration().unwrap().unwrap();
    let mean = &calibration.arrays["mean"].values;
    let (groups, layers) = (package.groups(), package.shape().layers);
    // A predictor that knows no more than the mean.
    let mut predict = |layer: usize, hidden: &[f32], scores: &mut Vec<f32>| {
        assert_eq!(hidden.len(), package.shape().width);
        scores.extend(&mean[layer * groups..][..groups]);
        Ok::<_, EvalError>(())
    };
    let trial = PredictorTrial {
        texts: &texts,
        rule,
        lost: &[0, groups / 2],
        mean,
    };
    let mut done = Vec::new();
    let found = predictor(&engine, &package, trial, &mut predict, &mut |p| {
        done.push((p.done, p.total));
    })
    .unwrap();
    assert_eq!(done, (1..=36).map(|d| (d, 36)).collect::<Vec<_>>());

    let mut reader = Reader {
        backbone: &mut Backbone::load(&engine, &package).unwrap(),
        feed_forward: &mut FeedForward::load_all(&engine, &package).unwrap(),
        tokenizer: &package.tokenizer().unwrap(),
        rows: usize::MAX,
    };
    let whole = perplexity(&mut reader, &texts, &rule, &mut |_| ());
    assert_eq!(found.whole, whole.unwrap());
    assert!(found.orders.iter().map(|o| o.order).eq(Order::ALL));
    for of in &found.orders {
        assert_eq!(of.lost[0].perplexity, found.whole);
        assert!((of.lost[0].kept.overall - 1.0).abs() < 1e-12);
        assert_eq!(of.lost[1].kept.layers.len(), layers);
        assert_eq!(of.correlation.layers.len(), layers);
    }
    let figures = |of: &OrderReport| {
        let half = &of.lost[1];
        let (kept, correlation) = (half.kept.overall, of.correlation.overall);
        [kept, correlation, -half.perplexity.value]
    };
    let [oracle, predicted, mean, random] =
        found.orders.iter().map(figures).collect::<Vec<_>>()[..]
    else {
        panic!("four orders")
    };
    assert_eq!(predicted, mean);
    for figure in 0..3 {
        assert!(oracle[figure] > mean[figure], "{oracle:?} {mean:?}");
        assert!(mean[figure] > random[figure], "{mean:?} {random:?}");
    }
    assert!(oracle[1] > 1.0 - 1e-12 && random[1].abs() < 0.05);
    let [nothing, half] = found.closed[..] else {
        panic!("two numbers of groups")
    };
    assert_eq!((nothing.groups, nothing.perplexity), (0, None));
    assert_eq!(
        (half.groups, half.kept, half.perplexity),
        (12, Some(0.0), Some(0.0))
    );
}
