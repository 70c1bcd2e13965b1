//! Which experts a token goes to, and the sum of what they make of it.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::memory::{read, write};

/// How a router chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Routing {
    /// Experts that each token goes to.
    pub(crate) chosen: usize,
    /// Whether their weights are made to sum to one.
    pub(crate) normalised: bool,
}

/// A token and what an expert's answer counts for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Routed {
    pub(crate) token: usize,
    pub(crate) weight: f32,
}

impl OwnKernels {
    /// `logits`: `[tokens, experts]` → for each expert the tokens that go to it: those of whose softmax it is among the largest.
    pub(crate) fn route(logits: &Array, routing: Routing) -> Result<Vec<Vec<Routed>>> {
        let experts = logits.dim(1).unsigned_abs() as usize;
        let mut routes = vec![Vec::new(); experts];
        for (token, logits) in read::<f32>(logits)?.chunks_exact(experts).enumerate() {
            for (expert, weight) in choose(logits, routing) {
                routes[expert].push(Routed { token, weight });
            }
        }
        Ok(routes)
    }

    /// Adds to the rows of `sum` that `routed` names the rows of `answers`, weighed. `answers`: `[routed, width]`, `sum`:
    /// `[tokens, width]`.
    pub(crate) fn add_weighed(sum: &mut Array, routed: &[Routed], answers: &Array) -> Result<()> {
        let width = sum.dim(1).unsigned_abs() as usize;
        let (answers, sum) = (read::<f32>(answers)?, write::<f32>(sum)?);
        for (routed, answer) in routed.iter().zip(answers.chunks_exact(width)) {
            let row = &mut sum[routed.token * width..][..width];
            for (value, answer) in row.iter_mut().zip(answer) {
                *value += routed.weight * answer;
            }
        }
        Ok(())
    }
}

/// The chosen experts with their weights; of equals the first ones.
fn choose(logits: &[f32], Routing { chosen, normalised }: Routing) -> Vec<(usize, f32)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<_> = logits.iter().map(|logit| (logit - largest).exp()).enumerate().collect();
    let sum: f32 = weights.iter().map(|(_, weight)| weight).sum();
    weights.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    weights.truncate(chosen);
    let sum = match normalised {
        true => weights.iter().map(|(_, weight)| weight).sum(),
        false => sum,
    };
    weights
        .into_iter()
        .map(|(expert, weight)| (expert, weight / sum))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0_f32, 1.0, 2.0];

    #[test]
    fn the_likeliest_experts_are_chosen_and_the_first_of_equals() {
        let routing = Routing {
            chosen: 2,
            normalised: true,
        };
        assert_eq!(choose(&LOGITS, routing), [(1, 0.5), (3, 0.5)]);
        let one = Routing { chosen: 1, ..routing };
        assert_eq!(choose(&LOGITS, one), [(1, 1.0)]);
    }

    #[test]
    fn weights_that_are_not_normalised_are_those_of_the_softmax_over_all() {
        let routing = Routing {
            chosen: 3,
            normalised: false,
        };
        let all: f32 = LOGITS.iter().map(|logit| logit.exp()).sum();
        for (expert, weight) in choose(&LOGITS, routing) {
            assert!((weight - LOGITS[expert].exp() / all).abs() < 1e-6);
        }
    }
}
