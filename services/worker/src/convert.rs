//! Between the wire's messages and the types of engine and contract. Translates and nothing else: what may be admitted is
//! decided in `session/admission.rs`.

use std::sync::Arc;
use std::time::Duration;

use kr_contract::{Exactness, FinishReason, HASH_SCHEME, NumericsFingerprint, SamplingParams, SequenceId};
use kr_engine::frame::{Finish, Load, SequenceUpdate, StepFrame};
use kr_engine::model::Logprobs;
use kr_engine::{Reject, SequenceRequest, WarmUp};
use kr_proto::{WORKER_PROTOCOL, worker as proto};

use crate::profile::Profile;
use crate::session::{FEATURES, Rejection};

/// Returns a message for the router.
pub(crate) fn response(message: proto::session_response::Message) -> proto::SessionResponse {
    proto::SessionResponse { message: Some(message) }
}

/// Returns the worker's answer to Hello.
pub(crate) fn hello(profile: &Profile) -> proto::SessionResponse {
    let (protocol_major, protocol_minor) = WORKER_PROTOCOL;
    response(proto::session_response::Message::Hello(proto::Hello {
        protocol_major,
        protocol_minor,
        features: FEATURES.iter().map(ToString::to_string).collect(),
        required_features: Vec::new(),
        worker: Some(worker_profile(profile)),
    }))
}

fn worker_profile(profile: &Profile) -> proto::WorkerProfile {
    let (model, limits) = (&profile.model, &profile.limits);
    proto::WorkerProfile {
        instance_id: profile.instance.0,
        model_digest: model.digest.clone(),
        tokenizer_digest: model.tokenizer_digest.clone(),
        fingerprint: Some(fingerprint(&model.fingerprint)),
        context_tokens: limits.context_tokens,
        block_tokens: limits.block_tokens,
        hash_scheme: HASH_SCHEME.to_owned(),
        kv_budget_bytes: limits.kv_budget_bytes,
        kv_bytes_per_token: limits.kv_bytes_per_token,
        bucket_tokens: limits.bucket_tokens.clone(),
        max_sequences: limits.max_sequences,
        architecture: model.architecture.clone(),
        parameter_count: model.parameter_count,
        weights: model.weights.clone(),
        vocabulary_size: model.vocabulary_size,
        mapped_bytes: model.mapped_bytes,
        copied_bytes: model.copied_bytes,
        load_time: Some(duration(profile.load_time)),
        process_id: std::process::id(),
        max_step_tokens: profile.max_step_tokens,
        end_token_ids: model.end_token_ids.clone(),
        warm_up: profile.warm_up.map(warm_up),
        prefix_cache_blocks: limits.store_blocks,
    }
}

fn warm_up(warm_up: WarmUp) -> proto::WarmUp {
    proto::WarmUp {
        prefill_tokens_per_second: warm_up.prefill_tokens_per_s,
        decode_step: Some(duration(warm_up.decode_step)),
        batch_decode_step: Some(duration(warm_up.batch_decode_step)),
        batch: warm_up.batch,
        elapsed: Some(duration(warm_up.elapsed)),
    }
}

fn fingerprint(fingerprint: &NumericsFingerprint) -> proto::NumericsFingerprint {
    let class = match fingerprint.class {
        Exactness::Invariant => proto::ExactnessClass::Invariant,
        Exactness::Close => proto::ExactnessClass::Close,
    };
    proto::NumericsFingerprint {
        backend: fingerprint.backend.clone(),
        dtype: fingerprint.dtype.clone(),
        kernel_set: fingerprint.kernel_set.clone(),
        threads: fingerprint.threads,
        class: class.into(),
    }
}

/// Returns the engine's request for an Admit whose sampling is `sampling`.
pub(crate) fn sequence_request(admit: proto::Admit, sampling: SamplingParams) -> SequenceRequest {
    SequenceRequest {
        id: SequenceId(admit.sequence_id),
        prompt: admit.prompt_ids,
        emitted: admit.emitted_ids,
        max_tokens: admit.max_tokens,
        end_ids: admit.end_token_ids,
        stop_ids: admit.stop_token_ids,
        sampling: Arc::new(sampling),
        priority: admit.priority,
        time_left: admit.time_left.and_then(|left| Duration::try_from(left).ok()),
        cache_salt: admit.cache_salt,
        bypass_prefix_cache: admit.bypass_prefix_cache,
        prompt_logprobs: admit.prompt_logprobs,
    }
}

/// Returns the sampling settings of an Admit, not yet checked.
pub(crate) fn sampling_params(sampling: &proto::Sampling, logprobs: Option<u32>) -> SamplingParams {
    let mut logit_bias: Vec<_> = sampling.logit_bias.iter().map(|(id, bias)| (*id, *bias)).collect();
    logit_bias.sort_unstable_by_key(|(id, _)| *id);
    SamplingParams {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias,
        seed: sampling.seed,
        choice_index: sampling.choice_index,
        min_tokens: sampling.min_tokens,
        ignore_eos: sampling.ignore_eos,
        logprobs,
    }
}

/// Returns the router's view of one engine step. Rejected sequences are not part of it: each is a message of its own.
pub(crate) fn step_frame(worker_instance_id: u64, frame: StepFrame, load: proto::Load) -> proto::StepFrame {
    let hashes = |blocks: Vec<kr_contract::BlockHash>| blocks.iter().map(|hash| hash.0.to_vec()).collect();
    proto::StepFrame {
        worker_instance_id,
        step: frame.step,
        planned_sequences: frame.planned_sequences,
        planned_tokens: frame.planned_tokens,
        duration: Some(duration(frame.step_duration)),
        next_expected: frame.next_step_expected.map(duration),
        sequences: frame.sequences.into_iter().map(sequence_step).collect(),
        accepted: frame.accepted.into_iter().map(|id| id.0).collect(),
        load: Some(load),
        blocks_added: hashes(frame.blocks_added),
        blocks_evicted: hashes(frame.blocks_evicted),
        wasted_tokens: frame.wasted_tokens,
    }
}

fn sequence_step(update: SequenceUpdate) -> proto::SequenceStep {
    proto::SequenceStep {
        sequence_id: update.id.0,
        start_index: update.start_index,
        ids: update.ids,
        logprobs: update.logprobs.into_iter().map(logprobs).collect(),
        finish: update.finish.map(finish),
        prompt_logprobs: update.prompt_logprobs.into_iter().map(logprobs).collect(),
    }
}

fn logprobs(logprobs: Logprobs) -> proto::Logprobs {
    let (top_ids, top_logprobs) = logprobs.top.into_iter().unzip();
    proto::Logprobs {
        chosen: logprobs.chosen,
        top_ids,
        top_logprobs,
    }
}

fn finish(finish: Finish) -> proto::SequenceFinish {
    let reason = match finish.reason {
        FinishReason::Stop => proto::FinishReason::Stop,
        FinishReason::Length => proto::FinishReason::Length,
        FinishReason::Cancelled => proto::FinishReason::Cancelled,
        FinishReason::Error => proto::FinishReason::Error,
    };
    let timings = finish.timings;
    proto::SequenceFinish {
        reason: reason.into(),
        message: finish.message.unwrap_or_default(),
        waiting: Some(duration(timings.waiting)),
        prefill: Some(duration(timings.prefill)),
        decode: Some(duration(timings.decode)),
        steps: timings.steps,
        mean_batch_size: timings.mean_batch,
        max_batch_size: timings.max_batch,
        cached_tokens: timings.cached_tokens,
        copied_bytes: timings.copied_bytes,
        copy_time: Some(duration(timings.copy_time)),
        preemptions: timings.preemptions,
    }
}

/// Returns the engine's load and what it has not read yet: `unread_tokens` of prompts.
pub(crate) fn load(load: Load, unread_tokens: u64) -> proto::Load {
    proto::Load {
        running: load.running,
        waiting: load.waiting,
        kv_used_bytes: load.kv_used_bytes,
        pending_prefill_tokens: load.pending_prefill_tokens + unread_tokens,
        cached_blocks: load.cached_blocks,
    }
}

/// Returns the engine's refusal in the wire's terms.
pub(crate) fn rejection(id: SequenceId, reject: &Reject) -> Rejection {
    let reason = match reject {
        Reject::EmptyPrompt | Reject::NothingToGenerate | Reject::DuplicateId(_) => proto::RejectReason::Invalid,
        Reject::ContextExceeded { .. } | Reject::KvExceeded { .. } => proto::RejectReason::TooLarge,
        Reject::TooManyWaiting { .. } => proto::RejectReason::Busy,
        Reject::Draining => proto::RejectReason::Draining,
    };
    Rejection {
        sequence: Some(id),
        reason,
        message: reject.to_string(),
    }
}

/// Returns a refusal as a message.
pub(crate) fn rejected(rejection: Rejection) -> proto::SessionResponse {
    response(proto::session_response::Message::Rejected(proto::Rejected {
        sequence_id: rejection.sequence.map(|id| id.0),
        reason: rejection.reason.into(),
        message: rejection.message,
    }))
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}
