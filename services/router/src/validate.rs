//! Makes a [`ValidRequest`] out of a client's message, once: every field is checked, the prompt is token ids, the seed is
//! resolved. Nothing later checks again. Must not know queues or workers.

mod long_texts;
mod parameters;
mod prompt;

use std::sync::Arc;

use kr_proto::serve as pb;

use crate::call::Call;
use crate::catalog::ServedModel;
use crate::error::{Error, Violation};
use crate::sequence::SequenceRequest;
use long_texts::LongTexts;
pub(crate) use parameters::Checked;
pub(crate) use prompt::Prompt;

/// Bounds that the operator sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most tokens of a prompt, below the model's context. 0: only the context counts.
    pub(crate) max_prompt_tokens: u32,
    /// `max_tokens` where a request has none.
    pub(crate) default_max_tokens: u32,
    /// Most answers to one request.
    pub(crate) max_choices: u32,
}

/// A request that needs no further check.
#[derive(Debug)]
pub(crate) struct ValidRequest {
    pub(crate) model: Arc<ServedModel>,
    /// The first choice's; see [`Self::sequence_of`].
    pub(crate) sequence: SequenceRequest,
    /// How many answers are wanted; at least 1.
    pub(crate) choices: u32,
    /// Stop texts; they stay at the edge.
    pub(crate) stops: Vec<String>,
}

impl ValidRequest {
    /// Returns the sequence of one choice: the same prompt and seed, other random numbers. The prompt's log probabilities are
    /// the same for all, so the first computes them.
    pub(crate) fn sequence_of(&self, choice: u32) -> SequenceRequest {
        let mut sequence = self.sequence.clone();
        sequence.params.choice_index = choice;
        if choice > 0 {
            sequence.prompt_logprobs = None;
        }
        sequence
    }
}

/// What a client asked, in the form Generate and Chat share.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) prompt: Prompt,
    pub(crate) parameters: pb::Parameters,
    pub(crate) idempotency_key: String,
}

/// Where a request stands when it is checked.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) call: &'a Call,
    pub(crate) model: &'a Arc<ServedModel>,
    /// Longest sequence that the model's workers can run, where that is known.
    pub(crate) longest_sequence: Option<u32>,
}

/// Checks requests.
#[derive(Debug)]
pub(crate) struct Validator {
    limits: Limits,
    long_texts: LongTexts,
}

impl Validator {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            long_texts: LongTexts::new(),
        }
    }

    /// Returns how many answers a request gets if it is valid.
    pub(crate) fn allowed_choices(&self, parameters: &pb::Parameters) -> u32 {
        parameters.n.unwrap_or(1).clamp(1, self.limits.max_choices.max(1))
    }

    /// Checks a request against its model.
    ///
    /// # Errors
    /// All violations together; else the fields that are not implemented; else what the prompt's tokens show.
    pub(crate) async fn validate(&self, asked: Asked, place: Place<'_>) -> Result<ValidRequest, Error> {
        let Place {
            call,
            model,
            longest_sequence,
        } = place;
        let mut violations = asked.prompt.violations(&model.bundle);
        if asked.idempotency_key.len() > 128 {
            violations.push(Violation::new("idempotency_key", "is over 128 bytes"));
        }
        let missing = parameters::not_implemented(&asked);
        let choices = self.allowed_choices(&asked.parameters);
        let most = parameters::Most {
            vocabulary: model.bundle.vocab_size(),
            choices: self.limits.max_choices,
        };
        let checked = parameters::check(asked.parameters, most, &mut violations)?;
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        if !missing.is_empty() {
            return Err(Error::NotImplemented { fields: missing });
        }
        let field = asked.prompt.field();
        let prompt = self.tokenize(asked.prompt, model).await?;
        if prompt.is_empty() {
            return Err(Error::field(field, "has no tokens"));
        }
        let max_tokens = self.room(&checked, &prompt, (field, longest_sequence))?;
        if checked.params.min_tokens > max_tokens {
            let description = format!("is {}, over max_tokens {max_tokens}", checked.params.min_tokens);
            return Err(Error::field("parameters.min_tokens", description));
        }
        let sequence = SequenceRequest {
            request_id: call.request_id,
            model: model.index,
            priority: checked.priority,
            prompt,
            params: checked.params,
            end_tokens: model.bundle.end_ids().into(),
            stop_tokens: checked.stop_tokens,
            max_tokens,
            cache_salt: kr_contract::block_salt(&call.tenant.0, &checked.cache_salt),
            bypass_prefix_cache: checked.bypass_prefix_cache,
            shared_under: checked.may_share.then(|| checked.cache_salt.as_str().into()),
            prompt_logprobs: checked.prompt_logprobs,
            arrived: call.arrived,
            deadline: call.deadline,
            traceparent: None,
            tenant: call.tenant.clone(),
        };
        Ok(ValidRequest {
            model: model.clone(),
            sequence,
            choices,
            stops: checked.stops,
        })
    }

    /// Returns how many tokens may be generated.
    fn room(&self, checked: &Checked, prompt: &[u32], room: (&'static str, Option<u32>)) -> Result<u32, Error> {
        let (field, longest_sequence) = room;
        let exceeded = |field, max_tokens, limit| Error::ContextLength {
            field,
            prompt_tokens: prompt.len(),
            max_tokens,
            limit,
        };
        let allowed = self.limits.max_prompt_tokens;
        if allowed > 0 && prompt.len() > allowed as usize {
            return Err(exceeded(field, 0, allowed));
        }
        let Some(limit) = longest_sequence else {
            return Ok(checked.max_tokens.unwrap_or(self.limits.default_max_tokens));
        };
        let left = (limit as usize).saturating_sub(prompt.len());
        match checked.max_tokens {
            _ if left == 0 => Err(exceeded(field, checked.max_tokens.unwrap_or(1), limit)),
            Some(wanted) if wanted as usize > left => Err(exceeded("parameters.max_tokens", wanted, limit)),
            Some(wanted) => Ok(wanted),
            None => Ok(u32::try_from(left)
                .unwrap_or(u32::MAX)
                .min(self.limits.default_max_tokens)),
        }
    }
}

#[cfg(test)]
mod tests;
