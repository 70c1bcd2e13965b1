//! Which requests may share one sequence: those that must get the same answer. Pure.
//!
//! A request may share where its answer depends on nothing but itself: it is greedy, or its client chose the seed. Identical
//! means the same prompt, parameters and cache salt, and the same tenant, unless sharing between tenants is configured:
//! how soon an answer comes would tell one tenant what another asks.

use sha2::{Digest as _, Sha256};

use crate::sequence::SequenceRequest;

mod readers;

pub(crate) use readers::{Joined, Reader, Readers};

/// Whether requests share, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coalescing {
    pub(crate) enabled: bool,
    pub(crate) across_tenants: bool,
}

impl Default for Coalescing {
    fn default() -> Self {
        Self {
            enabled: true,
            across_tenants: false,
        }
    }
}

/// What two requests have in common that may share a sequence. A SHA-256, since a made collision would show one client
/// another's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity([u8; 32]);

impl Coalescing {
    /// Returns what a request must have in common with another to share its sequence; `None` where it runs alone. Hashes the
    /// whole prompt: not for the scheduling loop.
    pub(crate) fn identity(self, request: &SequenceRequest) -> Option<Identity> {
        // Whoever joins late would have missed the prompt's scores.
        let may = self.enabled && request.prompt_logprobs.is_none();
        let salt = request.shared_under.as_ref().filter(|_| may)?;
        let tenant = if self.across_tenants { "" } else { &*request.tenant.0 };
        let params = &request.params;
        let mut hash = Fields(Sha256::new());
        hash.bytes(tenant.as_bytes());
        hash.bytes(salt.as_bytes());
        hash.numbers(&request.prompt);
        hash.numbers(&request.end_tokens);
        hash.numbers(&request.stop_tokens);
        hash.numbers(&[request.max_tokens, request.bypass_prefix_cache.into()]);
        let floats = [
            params.temperature,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        ];
        hash.numbers(&floats.map(f32::to_bits));
        hash.numbers(&[
            params.top_k,
            params.choice_index,
            params.min_tokens,
            params.ignore_eos.into(),
        ]);
        hash.numbers(&[params.logprobs.is_some().into(), params.logprobs.unwrap_or(0)]);
        let mut bias: Vec<_> = params
            .logit_bias
            .iter()
            .map(|(id, bias)| [*id, bias.to_bits()])
            .collect();
        bias.sort_unstable();
        hash.numbers(bias.as_flattened());
        // A greedy answer needs no random numbers.
        let seed = if params.is_greedy() { 0 } else { params.seed };
        hash.bytes(&seed.to_le_bytes());
        Some(Identity(hash.0.finalize().into()))
    }
}

/// Hashes fields with their lengths, so that no two lists of fields read the same.
struct Fields(Sha256);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn numbers(&mut self, numbers: &[u32]) {
        self.0.update((numbers.len() as u64).to_le_bytes());
        for number in numbers {
            self.0.update(number.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kr_contract::RequestId;

    use super::*;
    use crate::dispatch::testing::request;
    use crate::sequence::{Priority, Tenant};

    fn shared() -> SequenceRequest {
        let mut request = request(8);
        request.params.temperature = 0.0;
        request.shared_under = Some("".into());
        request
    }

    fn with(change: impl FnOnce(&mut SequenceRequest)) -> SequenceRequest {
        let mut request = shared();
        change(&mut request);
        request
    }

    #[test]
    fn what_cannot_change_the_answer_does_not_keep_requests_apart() {
        let identity = Coalescing::default().identity(&shared());
        assert!(identity.is_some());
        for other in [
            with(|request| request.request_id = RequestId(77)),
            with(|request| request.priority = Priority::High),
            with(|request| request.deadline = Some(request.arrived)),
            with(|request| request.traceparent = Some("trace".into())),
            with(|request| request.params.seed = 99),
        ] {
            assert_eq!(Coalescing::default().identity(&other), identity, "{other:?}");
        }
    }

    #[test]
    fn what_can_change_it_or_must_not_be_shared_does() {
        let identity = Coalescing::default().identity(&shared());
        for other in [
            with(|request| request.prompt = Arc::from([1, 2])),
            with(|request| request.tenant = Tenant("other".into())),
            with(|request| request.shared_under = Some("salt".into())),
            with(|request| request.max_tokens = 9),
            with(|request| request.stop_tokens = vec![5]),
            with(|request| request.end_tokens = Arc::from([])),
            with(|request| request.bypass_prefix_cache = true),
            with(|request| request.params.choice_index = 1),
            with(|request| request.params.min_tokens = 1),
            with(|request| request.params.ignore_eos = true),
            with(|request| request.params.logprobs = Some(0)),
            with(|request| request.params.logit_bias = vec![(1, 0.5)]),
            with(|request| request.params.repetition_penalty = 1.5),
            with(|request| request.params.presence_penalty = 1.5),
            with(|request| request.params.frequency_penalty = 1.5),
            with(|request| request.params.temperature = 0.5),
            with(|request| request.params.top_p = 0.5),
            with(|request| request.params.min_p = 0.5),
            with(|request| request.params.top_k = 5),
        ] {
            let other_identity = Coalescing::default().identity(&other);
            assert!(other_identity.is_some() && other_identity != identity, "{other:?}");
        }
    }

    #[test]
    fn sampled_answers_are_shared_under_the_same_seed_only() {
        let sampled = |seed| {
            with(|request| {
                request.params.temperature = 1.0;
                request.params.seed = seed;
            })
        };
        let identity = |request| Coalescing::default().identity(&request);
        assert_eq!(identity(sampled(1)), identity(sampled(1)));
        assert_ne!(identity(sampled(1)), identity(sampled(2)));
    }

    #[test]
    fn tenants_share_only_where_that_is_configured() {
        let across = Coalescing {
            across_tenants: true,
            ..Coalescing::default()
        };
        let other = with(|request| request.tenant = Tenant("other".into()));
        assert_eq!(across.identity(&shared()), across.identity(&other));
        let off = Coalescing {
            enabled: false,
            ..Coalescing::default()
        };
        assert_eq!(off.identity(&shared()), None);
        assert_eq!(across.identity(&with(|request| request.shared_under = None)), None);
        assert_eq!(
            across.identity(&with(|request| request.prompt_logprobs = Some(0))),
            None
        );
    }
}
