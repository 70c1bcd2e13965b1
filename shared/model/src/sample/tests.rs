mod reference;

use std::sync::Arc;

use kr_contract::{SamplingParams, TokenId};
use kr_engine::model::{Sample, SampleError};
use mlx_rs::Array;

use super::adjust::adjust;
use super::logprobs::logprobs;
use super::rows::Rows;
use super::{device, host};
use crate::testing::{greedy, one_at_a_time, with_params};

/// Logits of six tokens; the second and third are equal.
const LOGITS: [f32; 6] = [1.0, 2.5, 2.5, -1.0, 0.3, 3.0];

fn random(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams {
        seed: 11,
        ..SamplingParams::default()
    };
    change(&mut params);
    params
}

/// What the documentation of the module says, computed plainly in float64.
fn distribution(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let scaled: Vec<f64> = logits
        .iter()
        .map(|logit| f64::from(*logit) / f64::from(params.temperature))
        .collect();
    let mut weights: Vec<f64> = scaled.iter().map(|logit| logit.exp()).collect();
    let keep = |weights: &mut Vec<f64>, least: f64| {
        for weight in weights.iter_mut().filter(|weight| **weight < least) {
            *weight = 0.0;
        }
    };
    let descending = |weights: &[f64]| {
        let mut sorted = weights.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted
    };
    if params.top_k > 0 {
        let kth = descending(&weights)[(params.top_k as usize).min(weights.len()) - 1];
        keep(&mut weights, kth);
    }
    if params.top_p < 1.0 {
        let wanted = f64::from(params.top_p) * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let last = descending(&weights).into_iter().find(|weight| {
            sum += weight;
            sum >= wanted
        });
        keep(&mut weights, last.unwrap());
    }
    let most = descending(&weights)[0];
    keep(&mut weights, most * f64::from(params.min_p));
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn on_host(logits: &[f32], params: &SamplingParams, positions: u32) -> Vec<TokenId> {
    host_tokens(logits, &with_params(params.clone()), positions)
}

fn host_tokens(logits: &[f32], base: &Sample, positions: u32) -> Vec<TokenId> {
    let mut scratch = host::Scratch::default();
    at_positions(base, positions)
        .iter()
        .map(|sample| host::choose(logits, sample, &mut scratch).unwrap())
        .collect()
}

fn at_positions(base: &Sample, positions: u32) -> Vec<Sample> {
    let at = |position| Sample {
        position,
        ..base.clone()
    };
    (0..positions).map(at).collect()
}

fn on_device(logits: &[f32], params: &SamplingParams, positions: u32) -> Vec<TokenId> {
    device_tokens(logits, &with_params(params.clone()), positions)
}

fn device_tokens(logits: &[f32], base: &Sample, positions: u32) -> Vec<TokenId> {
    let _alone = one_at_a_time();
    let samples = at_positions(base, positions);
    let rows = logits.repeat(samples.len());
    let shape = [
        i32::try_from(samples.len()).unwrap(),
        i32::try_from(logits.len()).unwrap(),
    ];
    let chosen = device::choose(&Array::from_slice(&rows, &shape), &samples).unwrap();
    chosen
        .tokens
        .as_slice::<i32>()
        .iter()
        .map(|token| token.unsigned_abs())
        .collect()
}

/// Fails where `chosen` do not follow `distribution`: Pearson's statistic against its 99.99 % quantile, tokens expected fewer than
/// five times counted as one. Tokens of probability zero must not occur at all.
fn assert_follows(chosen: &[TokenId], distribution: &[f64], what: &dyn std::fmt::Debug) {
    let mut counts = vec![0.0; distribution.len()];
    for token in chosen {
        counts[*token as usize] += 1.0;
    }
    let mut cells = Vec::new();
    let mut rare = (0.0, 0.0);
    for (count, probability) in counts.into_iter().zip(distribution) {
        let expected = probability * chosen.len() as f64;
        match expected {
            0.0 => assert!(count == 0.0, "{what:?}: a token that was filtered out was chosen"),
            5.0.. => cells.push((count, expected)),
            _ => rare = (rare.0 + count, rare.1 + expected),
        }
    }
    if rare.1 > 0.0 {
        cells.push(rare);
    }
    let statistic: f64 = cells
        .iter()
        .map(|(count, expected)| (count - expected).powi(2) / expected)
        .sum();
    let bound = chi_square_quantile(cells.len() - 1);
    assert!(
        statistic <= bound,
        "{what:?}: {statistic} is more than {bound} for {} cells",
        cells.len()
    );
}

/// The 99.99 % quantile, by Wilson and Hilferty 1931, "The Distribution of Chi-Square".
fn chi_square_quantile(freedom: usize) -> f64 {
    if freedom == 0 {
        return 0.0;
    }
    let (freedom, z) = (freedom as f64, 3.719);
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + z * spread.sqrt()).powi(3)
}

fn settings() -> Vec<SamplingParams> {
    vec![
        random(|_| {}),
        random(|params| params.temperature = 0.7),
        random(|params| params.temperature = 3.0),
        random(|params| params.top_k = 1),
        random(|params| params.top_k = 2),
        random(|params| params.top_k = 4),
        random(|params| params.top_k = 600),
        random(|params| params.top_p = 0.5),
        random(|params| params.top_p = 0.95),
        random(|params| params.min_p = 0.3),
        random(|params| {
            params.temperature = 2.0;
            params.top_k = 5;
            params.top_p = 0.9;
            params.min_p = 0.1;
        }),
    ]
}

#[test]
fn tokens_follow_the_exact_distribution() {
    for params in settings() {
        let distribution = distribution(&LOGITS, &params);
        for chosen in [on_host(&LOGITS, &params, 20_000), on_device(&LOGITS, &params, 20_000)] {
            assert_follows(&chosen, &distribution, &params);
        }
    }
}

#[test]
fn the_quantiles_are_little_more_than_those_of_the_tables() {
    for (freedom, exact) in [(1, 15.14), (2, 18.42), (5, 25.74), (40, 82.06)] {
        let found = chi_square_quantile(freedom);
        assert!((exact * 0.995..exact * 1.08).contains(&found), "{freedom}: {found}");
    }
}

#[test]
fn host_and_device_choose_the_same_tokens() {
    let logits: Vec<f32> = (0..1000).map(|id| ((id * 7919 % 1000) as f32) / 150.0).collect();
    for params in settings() {
        let (host, device) = (on_host(&logits, &params, 400), on_device(&logits, &params, 400));
        let different = host.iter().zip(&device).filter(|(host, device)| host != device).count();
        // A float32 sum may fall on the other side of a boundary once in a while.
        assert!(different <= 2, "{params:?}: {different} of 400 differ");
    }
}

#[test]
fn a_nucleus_wider_than_the_first_sorted_part_is_found() {
    let logits: Vec<f32> = (0..5000).map(|id| ((id * 7919 % 5000) as f32) / 5000.0).collect();
    let params = random(|params| params.top_p = 0.8);
    let distribution = distribution(&logits, &params);
    let kept = distribution.iter().filter(|probability| **probability > 0.0).count();
    assert!((3000..4500).contains(&kept), "{kept}");
    for token in on_host(&logits, &params, 2000) {
        assert!(distribution[token as usize] > 0.0);
    }
}

#[test]
fn filters_of_wide_rows_keep_what_a_full_sort_would() {
    let flat: Vec<f32> = (0..3000).map(|id| ((id * 7919 % 3000) as f32) / 700.0).collect();
    let peaked: Vec<f32> = flat.iter().map(|logit| logit * 9.0).collect();
    let equal = vec![1.5; 3000];
    let filters = [
        (1, 1.0, 0.0),
        (40, 1.0, 0.0),
        (2000, 0.7, 0.0),
        (0, 0.3, 0.0),
        (0, 0.999, 0.0),
        (0, 0.9, 0.2),
        (7, 0.5, 0.4),
    ];
    for logits in [flat, peaked, equal] {
        for (top_k, top_p, min_p) in filters {
            let params = random(|params| (params.top_k, params.top_p, params.min_p) = (top_k, top_p, min_p));
            let expected = distribution(&logits, &params);
            let found = kept(&logits, &with_params(params.clone()));
            let different = expected
                .iter()
                .zip(&found)
                .filter(|(a, b)| (**a > 0.0) != (**b > 0.0))
                .count();
            // Sums in float32 weights may cross the nucleus one token earlier or later.
            assert!(different <= 1, "{params:?}: {different} tokens");
        }
    }
}

/// The host's distribution after all filters.
fn kept(logits: &[f32], sample: &Sample) -> Vec<f64> {
    let mut logits = logits.to_vec();
    adjust(&mut logits, sample);
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut scratch = host::Scratch::default();
    let (weights, least) = host::distribution(&logits, most, sample, &mut scratch);
    let weights: Vec<f64> = weights
        .iter()
        .map(|weight| if *weight >= least { f64::from(*weight) } else { 0.0 })
        .collect();
    let whole: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / whole).collect()
}

#[test]
fn greedy_takes_the_first_of_equals() {
    let mut scratch = host::Scratch::default();
    assert_eq!(host::choose(&[0.0, 2.0, 2.0], &greedy(), &mut scratch), Ok(1));
    let params = random(|params| params.temperature = 0.0);
    assert_eq!(on_device(&[0.0, 2.0, 2.0], &params, 1), [1]);
}

#[test]
fn extreme_temperatures_stay_defined() {
    for temperature in [f32::MIN_POSITIVE, 1e-6] {
        let params = random(|params| params.temperature = temperature);
        assert_eq!(on_host(&LOGITS, &params, 50), [5; 50]);
        assert_eq!(on_device(&LOGITS, &params, 50), [5; 50]);
    }
    let params = random(|params| params.temperature = 100.0);
    let tokens = on_host(&LOGITS, &params, 500);
    assert!((0..6).all(|token| tokens.contains(&token)));
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    let mut scratch = host::Scratch::default();
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 9] {
            let mut logits = [0.5; 12];
            logits[place] = broken;
            let chosen = host::choose(&logits, &greedy(), &mut scratch);
            assert_eq!(chosen, Err(SampleError::NotFinite), "{broken} at {place}");
        }
    }
}

#[test]
fn forbidden_tokens_are_never_chosen() {
    let sample = Sample {
        forbidden: Arc::from([5, 1]),
        ..with_params(random(|_| {}))
    };
    let mut scratch = host::Scratch::default();
    for position in 0..500 {
        let sample = Sample {
            position,
            ..sample.clone()
        };
        let token = host::choose(&LOGITS, &sample, &mut scratch).unwrap();
        assert!(token != 5 && token != 1);
    }
    let nothing_left = Sample {
        forbidden: (0..6).collect(),
        ..greedy()
    };
    assert_eq!(
        host::choose(&LOGITS, &nothing_left, &mut scratch),
        Err(SampleError::NotFinite)
    );
}

#[test]
fn a_token_depends_on_its_own_row_only() {
    let _alone = one_at_a_time();
    let samples = [
        with_params(random(|params| params.top_p = 0.9)),
        greedy(),
        with_params(random(|params| params.seed = 3)),
        with_params(random(|params| params.choice_index = 1)),
    ];
    let rows: Vec<f32> = (0..4)
        .flat_map(|row| LOGITS.map(|logit| logit * (row + 1) as f32 / 3.0))
        .collect();
    let choose = |rows: &[f32], samples: &[Sample]| {
        let shape = [i32::try_from(samples.len()).unwrap(), 6];
        device::choose(&Array::from_slice(rows, &shape), samples)
            .unwrap()
            .tokens
            .as_slice::<i32>()
            .to_vec()
    };
    for position in 0..50 {
        let samples = samples.clone().map(|sample| Sample { position, ..sample });
        let together = choose(&rows, &samples);
        let alone: Vec<_> = (0..4)
            .flat_map(|row| choose(&rows[row * 6..row * 6 + 6], &samples[row..=row]))
            .collect();
        assert_eq!(together, alone);
    }
}

#[test]
fn log_probabilities_are_those_of_the_unfiltered_distribution() {
    let mut scratch = host::Scratch::default();
    let mut logprobs = |top, chosen| logprobs(&LOGITS, top, chosen, &mut scratch);
    let found = logprobs(3, 4);
    let exact = distribution(&LOGITS, &SamplingParams::default());
    assert!((f64::from(found.chosen) - exact[4].ln()).abs() < 1e-6);
    let ids: Vec<_> = found.top.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [5, 1, 2]);
    for (id, logprob) in found.top {
        assert!((f64::from(logprob) - exact[id as usize].ln()).abs() < 1e-6);
    }
    assert_eq!(logprobs(100, 0).top.len(), 6);
    assert_eq!(logprobs(0, 0).top, []);
}

#[test]
fn the_most_likely_tokens_of_a_wide_row_are_found() {
    let logits: Vec<f32> = (0..5000).map(|id| ((id * 7919 % 5000) / 2) as f32 / 300.0).collect();
    let mut sorted: Vec<TokenId> = (0..5000).collect();
    sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    let mut scratch = host::Scratch::default();
    for count in [1, 5, 20, 79, 80, 4999, 5000] {
        let found = logprobs(&logits, count, 0, &mut scratch).top;
        let ids: Vec<_> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, sorted[..count as usize]);
    }
}

#[test]
fn rows_on_threads_come_back_in_order() {
    for threads in [1, 3] {
        let rows = Rows::new(Some(Arc::new(kr_kernels::Machine::new(threads))));
        assert_eq!(
            rows.each(100, |row, _| row * 2),
            (0..200).step_by(2).collect::<Vec<_>>()
        );
    }
}
