use std::collections::HashMap;

use super::Sampling;

/// Makes tokens of the penalty window less likely (or more, by a penalty of the other sign).
///
/// With `n` the number of times a token is in the window:
///
/// ```text
/// logit = (logit > 0 ? logit / repetition : logit * repetition) - presence - n * frequency
/// ```
pub(super) fn apply(sampling: &Sampling, tokens: &[u32], logits: &mut [f32]) {
    let (repetition, presence, frequency) = (
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    );
    if repetition == 1.0 && presence == 0.0 && frequency == 0.0 {
        return;
    }
    let window = match sampling.penalty_window {
        0 => tokens,
        window => &tokens[tokens.len().saturating_sub(window)..],
    };
    let mut times = HashMap::<u32, u32>::new();
    for token in window {
        *times.entry(*token).or_default() += 1;
    }
    for (token, times) in times {
        if let Some(logit) = logits.get_mut(token as usize).filter(|l| l.is_finite()) {
            let repeated = if *logit > 0.0 {
                *logit / repetition
            } else {
                *logit * repetition
            };
            let penalised = repeated - presence - times as f32 * frequency;
            // What overflows must become neither infinitely likely nor impossible.
            *logit = penalised.clamp(f32::MIN, f32::MAX);
        }
    }
}
