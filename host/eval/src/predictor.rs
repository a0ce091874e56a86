use halo_engine::{Backbone, Engine, FeedForward, FeedForwardSource};
use halo_models::Package;
use serde::Serialize;

use crate::contributions::Contributions;
use crate::observe::{Observation, Observer};
use crate::order::{Order, Predict, Scorer};
use crate::ranking::{ByLayer, Rankings};
use crate::reader::Reader;
use crate::selection::Selected;
use crate::{EvalError, Perplexity, Progress, Rule, Stage, perplexity};

/// How a predictor is measured.
#[derive(Clone, Copy, Debug)]
pub struct PredictorTrial<'a> {
    /// Documents that neither the model nor its calibration has seen.
    pub texts: &'a [String],
    /// How their tokens are counted.
    pub rule: Rule,
    /// How many groups of each layer are left out, each number in its turn.
    pub lost: &'a [usize],
    /// The groups' mean importance, `[layers, groups]`.
    pub mean: &'a [f32],
}

/// What a predictor is worth on a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PredictorReport {
    /// Groups in each layer.
    pub groups: usize,
    /// With all of them.
    pub whole: Perplexity,
    /// By the predictor's scores, and what that is to be compared with.
    pub orders: Vec<OrderReport>,
    /// How near the predictor comes to the oracle, by how many groups are left out.
    pub closed: Vec<Closed>,
}

/// What it is worth to rank groups by this order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OrderReport {
    /// The order.
    pub order: Order,
    /// Spearman's rank correlation of a token's scores and the norms of its groups' contributions, mean over tokens.
    pub correlation: ByLayer,
    /// What is kept without the lowest groups, by how many these are.
    pub lost: Vec<Lost>,
}

/// What is kept without the groups with the lowest scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lost {
    /// How many these are.
    pub groups: usize,
    /// The share of a token's squared contribution that is kept, mean over tokens, when nothing was left out before.
    pub kept: ByLayer,
    /// When they are left out for every token and in every layer.
    pub perplexity: Perplexity,
}

/// How much of the gap between the mean and the oracle a predictor closes: 0 is no better than the mean, 1 as good as the
/// oracle. `None` where there is no gap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Closed {
    /// Groups that are left out.
    pub groups: usize,
    /// Of the shares kept, over all layers.
    pub kept: Option<f64>,
    /// Of the perplexities.
    pub perplexity: Option<f64>,
}

/// Measures what a predictor knows of which groups will matter, beside mean importance, chance, and an oracle that knows it
/// all: by the contributions, and by the perplexity without the groups that are said to matter least.
///
/// # Errors
///
/// The model, the tokenizer or `predict` fails, or there is nothing to predict at all.
pub fn predictor(
    engine: &Engine,
    package: &Package,
    trial: PredictorTrial<'_>,
    predict: &mut Predict<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<PredictorReport, EvalError> {
    let PredictorTrial {
        texts,
        rule,
        lost,
        mean,
    } = trial;
    let (shape, groups) = (package.shape(), package.groups());
    let tokenizer = package.tokenizer()?;
    let mut backbone = Backbone::load(engine, package)?;
    let mut feed_forward = FeedForward::load_all(engine, package)?;
    let contributions = Contributions::new(package);
    let mut scorer = Scorer::new(mean, predict);
    let total = (1 + lost.len() * Order::ALL.len()) * texts.len();
    let mut done = 0;
    let mut measure = |source: &mut dyn FeedForwardSource<Error = EvalError>| {
        let each = &mut |_| {
            done += 1;
            progress(Progress {
                stage: Stage::Running,
                done,
                total,
            });
        };
        let mut reader = Reader {
            backbone: &mut backbone,
            feed_forward: source,
            tokenizer: &tokenizer,
            rows: usize::MAX,
        };
        perplexity(&mut reader, texts, &rule, each)
    };

    let mut rankings = Rankings::new(shape.layers, lost);
    let mut look = |seen: Observation<'_>| rankings.add(seen, groups, &mut scorer);
    let whole = measure(&mut Observer::new(
        &mut feed_forward,
        &contributions,
        &mut look,
    ))?;

    let mut orders = Vec::with_capacity(Order::ALL.len());
    for order in Order::ALL {
        let mut report = OrderReport {
            order,
            correlation: rankings.correlation(order),
            lost: Vec::with_capacity(lost.len()),
        };
        for (index, &lost) in lost.iter().enumerate() {
            let perplexity = measure(&mut Selected::new(
                package,
                &mut feed_forward,
                &contributions,
                &mut scorer,
                order,
                lost,
            ))?;
            report.lost.push(Lost {
                groups: lost,
                kept: rankings.kept(order, index),
                perplexity,
            });
        }
        orders.push(report);
    }
    let closed = closed(&orders, lost);
    Ok(PredictorReport {
        groups,
        whole,
        orders,
        closed,
    })
}

fn closed(orders: &[OrderReport], lost: &[usize]) -> Vec<Closed> {
    let of = |index: usize, figure: &dyn Fn(&Lost) -> f64| {
        let value = |order: Order| figure(&orders[order as usize].lost[index]);
        let gap = value(Order::Oracle) - value(Order::Mean);
        (gap != 0.0).then(|| (value(Order::Predicted) - value(Order::Mean)) / gap)
    };
    let closed = |(index, &groups)| Closed {
        groups,
        kept: of(index, &|lost| lost.kept.overall),
        perplexity: of(index, &|lost| lost.perplexity.value),
    };
    lost.iter().enumerate().map(closed).collect()
}
