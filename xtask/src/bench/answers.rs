//! Whether what an engine generated are answers: a broken one is fast too.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::figures::Measurement;
use super::load::{Load, QUESTIONS};

/// Fewest different tokens for each generated one, in half of the answers. A loop of one or two tokens has less; a small model that
/// repeats a sentence, as they do when greedy and not allowed to end, has more.
const LEAST_VARIETY: f64 = 0.1;
/// Fewest first tokens that must be those of our float32 engine. Weights or activations in few bits turn some near ties over.
const LEAST_AGREEMENT: f64 = 0.5;

/// Checks the questions' answers and every answer of a measured run.
///
/// # Errors
/// When an answer is wrong, too short, a loop, or too few agree with the reference.
pub(super) fn check(engine: &str, measurement: &Measurement, load: &Load) -> Result<()> {
    for ((question, word), answer) in QUESTIONS.iter().zip(&measurement.answers) {
        ensure!(
            answer.to_lowercase().contains(&word.to_lowercase()),
            "{engine} continues {question:?} with {answer:?}, which has no {word}: its figures mean nothing"
        );
    }
    let wanted = load.max_tokens as usize;
    let (mut equal, mut compared) = (0_u32, 0_u32);
    for run in &measurement.runs {
        let (answers, concurrency) = (&run.answers, run.concurrency);
        ensure!(
            answers.len() == concurrency as usize && answers.iter().all(|answer| answer.len() == wanted),
            "{engine} at {concurrency}: not every prompt got {wanted} tokens"
        );
        let mut varieties: Vec<f64> = answers.iter().map(|answer| variety(answer)).collect();
        varieties.sort_by(f64::total_cmp);
        let median = varieties[varieties.len() / 2];
        ensure!(
            median >= LEAST_VARIETY,
            "{engine} at {concurrency}: answers are loops, {median:.3} different tokens for each generated one"
        );
        let first = answers.iter().filter_map(|answer| answer.first());
        for (ours, reference) in first.zip(&load.reference) {
            compared += 1;
            equal += u32::from(ours == reference);
        }
    }
    let agreement = f64::from(equal) / f64::from(compared.max(1));
    ensure!(
        agreement >= LEAST_AGREEMENT,
        "{engine}: only {equal} of {compared} answers begin as those of kr-float32"
    );
    eprintln!("bench: {engine} answers the questions; {equal} of {compared} answers begin as those of kr-float32");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "an answer has few tokens")]
fn variety(answer: &[u64]) -> f64 {
    let different: BTreeSet<_> = answer.iter().collect();
    different.len() as f64 / answer.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Run;

    fn load() -> Load {
        Load {
            concurrency: vec![2],
            max_tokens: 20,
            threads: 1,
            file: "load.json".into(),
            reference: vec![1, 1],
        }
    }

    fn measurement(answers: Vec<Vec<u64>>) -> Measurement {
        Measurement {
            runs: vec![Run {
                concurrency: 2,
                tokens_per_s: 1.0,
                answers,
            }],
            short_ms: 1.0,
            long_ms: 1.0,
            peak_rss_mb: 1.0,
            pss_mb: None,
            answers: ["Paris.", " five, six", " Thursday"].map(String::from).to_vec(),
        }
    }

    fn refusal(measurement: &Measurement) -> String {
        check("engine", measurement, &load()).unwrap_err().to_string()
    }

    #[test]
    fn answers_that_vary_and_begin_alike_pass() {
        check(
            "engine",
            &measurement(vec![(1..21).collect(), (5..25).collect()]),
            &load(),
        )
        .unwrap();
    }

    #[test]
    fn loops_strangers_and_short_answers_are_refused() {
        assert!(refusal(&measurement(vec![vec![1; 20], vec![1; 20]])).contains("loops"));
        assert!(refusal(&measurement(vec![(3..23).collect(), (5..25).collect()])).contains("0 of 2"));
        assert!(refusal(&measurement(vec![(1..21).collect(), vec![1, 2]])).contains("20 tokens"));
        assert!(refusal(&measurement(vec![(1..21).collect()])).contains("20 tokens"));
    }

    #[test]
    fn a_wrong_answer_to_a_question_is_shown() {
        let mut wrong = measurement(vec![(1..21).collect(), (1..21).collect()]);
        wrong.answers[0] = "a large city".into();
        assert!(refusal(&wrong).contains("a large city"));
    }
}
