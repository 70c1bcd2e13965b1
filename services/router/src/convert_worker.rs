//! Between the inner wire's messages and the router's own types. Conversions only; nothing is decided here.

use std::time::Duration;

use kr_contract::{
    BlockHash, Exactness, FinishReason, NumericsFingerprint, SamplingParams, SequenceId, WorkerInstanceId,
};
use kr_proto::worker as proto;

use crate::sequence::{CancelReason, Finished, Priority, TokenLogprobs, Tokens};
use crate::workers::{
    Admission, Command, End, Error, Frame, Load, RejectReason, Rejected, Speed, Step, Update, WorkerProfile,
};

/// A message that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker broke the protocol: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Returns the router's hello.
pub(crate) fn hello() -> proto::SessionRequest {
    let (protocol_major, protocol_minor) = kr_proto::WORKER_PROTOCOL;
    request(proto::session_request::Message::Hello(proto::Hello {
        protocol_major,
        protocol_minor,
        features: Vec::new(),
        required_features: Vec::new(),
        worker: None,
    }))
}

/// Returns the message that ends admission.
pub(crate) fn drain(timeout: Duration) -> proto::SessionRequest {
    request(proto::session_request::Message::Drain(proto::Drain {
        timeout: Some(to_wire(timeout)),
    }))
}

/// Returns a command as a message.
pub(crate) fn command(command: Command) -> proto::SessionRequest {
    request(match command {
        Command::Admit(admission) => proto::session_request::Message::Admit(admit(*admission)),
        Command::Cancel(id, reason) => proto::session_request::Message::Cancel(proto::Cancel {
            sequence_id: id.0,
            reason: cancel_reason(reason).into(),
        }),
    })
}

fn request(message: proto::session_request::Message) -> proto::SessionRequest {
    proto::SessionRequest { message: Some(message) }
}

fn admit(admission: Admission) -> proto::Admit {
    let request = admission.request;
    let emitted = u32::try_from(admission.emitted.len()).unwrap_or(u32::MAX);
    // Before the first generated token went out, all of the prompt's had.
    let prompt_logprobs = request.prompt_logprobs.filter(|_| emitted == 0);
    let required_features = required_features(&request.params, prompt_logprobs);
    proto::Admit {
        sequence_id: admission.id.0,
        attempt: admission.attempt,
        prompt_ids: request.prompt.to_vec(),
        emitted_ids: admission.emitted,
        sampling: Some(sampling(&request.params)),
        end_token_ids: request.end_tokens.to_vec(),
        stop_token_ids: request.stop_tokens.clone(),
        max_tokens: request.max_tokens.saturating_sub(emitted),
        time_left: admission.time_left.map(to_wire),
        priority: match request.priority {
            Priority::Low => -1,
            Priority::Normal => 0,
            Priority::High => 1,
        },
        tenant: request.tenant.0.to_string(),
        cache_salt: request.cache_salt.clone(),
        bypass_prefix_cache: request.bypass_prefix_cache,
        logprobs: request.params.logprobs,
        prompt_logprobs,
        constraint: None,
        adapter_id: String::new(),
        traceparent: request.traceparent.clone().unwrap_or_default(),
        required_features,
    }
}

/// Returns what a worker of an earlier release might not know and must not ignore.
#[expect(clippy::float_cmp, reason = "compared with the exact values that mean off")]
fn required_features(params: &SamplingParams, prompt_logprobs: Option<u32>) -> Vec<String> {
    let penalties =
        params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
    let features = [("penalties", penalties), ("prompt_logprobs", prompt_logprobs.is_some())];
    let needed = features.into_iter().filter(|(_, needed)| *needed);
    needed.map(|(feature, _)| feature.to_owned()).collect()
}

fn sampling(params: &SamplingParams) -> proto::Sampling {
    proto::Sampling {
        temperature: params.temperature,
        top_p: params.top_p,
        top_k: params.top_k,
        min_p: params.min_p,
        repetition_penalty: params.repetition_penalty,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        logit_bias: params.logit_bias.iter().copied().collect(),
        seed: params.seed,
        choice_index: params.choice_index,
        min_tokens: params.min_tokens,
        ignore_eos: params.ignore_eos,
    }
}

fn cancel_reason(reason: CancelReason) -> proto::CancelReason {
    match reason {
        CancelReason::ClientGone | CancelReason::SlowConsumer => proto::CancelReason::ClientGone,
        CancelReason::Deadline => proto::CancelReason::Deadline,
        CancelReason::StopText => proto::CancelReason::StopText,
        CancelReason::Shutdown => proto::CancelReason::Router,
    }
}

/// Checks a worker's hello and takes its profile.
///
/// # Errors
/// [`Error::Protocol`], [`Error::Features`] or [`Error::Incomplete`]: no session with this worker is possible.
pub(crate) fn profile(hello: proto::Hello) -> Result<WorkerProfile, Error> {
    if hello.protocol_major != kr_proto::WORKER_PROTOCOL.0 {
        return Err(Error::Protocol {
            theirs_major: hello.protocol_major,
            theirs_minor: hello.protocol_minor,
        });
    }
    if !hello.required_features.is_empty() {
        return Err(Error::Features(hello.required_features.join(", ")));
    }
    let worker = hello.worker.ok_or(Error::Incomplete("the worker's profile"))?;
    let fingerprint = fingerprint(
        worker
            .fingerprint
            .ok_or(Error::Incomplete("the numerics fingerprint"))?,
    )?;
    if worker.max_sequences == 0 {
        return Err(Error::Incomplete("max_sequences"));
    }
    Ok(WorkerProfile {
        instance: WorkerInstanceId(worker.instance_id),
        model_digest: worker.model_digest.into(),
        tokenizer_digest: worker.tokenizer_digest.into(),
        fingerprint_text: fingerprint.to_string().into(),
        fingerprint,
        context_tokens: worker.context_tokens,
        block_tokens: worker.block_tokens,
        hash_scheme: worker.hash_scheme,
        kv_budget_bytes: worker.kv_budget_bytes,
        kv_bytes_per_token: worker.kv_bytes_per_token,
        bucket_tokens: worker.bucket_tokens,
        max_sequences: worker.max_sequences,
        architecture: worker.architecture.into(),
        parameter_count: worker.parameter_count,
        weights: worker.weights.into(),
        vocabulary_size: worker.vocabulary_size,
        mapped_bytes: worker.mapped_bytes,
        copied_bytes: worker.copied_bytes,
        load_time: from_wire(worker.load_time),
        process_id: worker.process_id,
        max_step_tokens: worker.max_step_tokens,
        end_token_ids: worker.end_token_ids,
        speed: worker.warm_up.as_ref().and_then(speed),
    })
}

/// Returns the speed a worker measured; `None` where the figures are none.
fn speed(warm_up: &proto::WarmUp) -> Option<Speed> {
    let rate = warm_up.prefill_tokens_per_second;
    let prefill_token = Duration::try_from_secs_f64(rate.recip()).ok()?;
    Some(Speed {
        prefill_token,
        batch_decode_step: from_wire(warm_up.batch_decode_step),
    })
}

fn fingerprint(fingerprint: proto::NumericsFingerprint) -> Result<NumericsFingerprint, Error> {
    let class = match fingerprint.class() {
        proto::ExactnessClass::Invariant => Exactness::Invariant,
        proto::ExactnessClass::Close => Exactness::Close,
        proto::ExactnessClass::Unspecified => return Err(Error::Incomplete("the exactness class")),
    };
    Ok(NumericsFingerprint {
        backend: fingerprint.backend,
        dtype: fingerprint.dtype,
        kernel_set: fingerprint.kernel_set,
        threads: fingerprint.threads,
        class,
    })
}

/// Takes a step frame.
///
/// # Errors
/// [`Malformed`]: end the session.
pub(crate) fn frame(frame: proto::StepFrame) -> Result<Frame, Malformed> {
    let step = (frame.planned_sequences > 0).then(|| Step {
        sequences: frame.planned_sequences,
        tokens: frame.planned_tokens,
        duration: from_wire(frame.duration),
    });
    Ok(Frame {
        accepted: frame.accepted.into_iter().map(SequenceId).collect(),
        updates: frame.sequences.into_iter().map(update).collect::<Result<_, _>>()?,
        step,
        next_expected: frame.next_expected.map(|expected| from_wire(Some(expected))),
        load: load(frame.load),
        wasted_tokens: frame.wasted_tokens,
        blocks_added: blocks(frame.blocks_added)?,
        blocks_evicted: blocks(frame.blocks_evicted)?,
    })
}

fn blocks(names: Vec<Vec<u8>>) -> Result<Vec<BlockHash>, Malformed> {
    let name = |name: Vec<u8>| name.try_into().map(BlockHash);
    names
        .into_iter()
        .map(|bytes| name(bytes).map_err(|_| Malformed("a block's name is not 16 bytes")))
        .collect()
}

fn update(sequence: proto::SequenceStep) -> Result<Update, Malformed> {
    if !sequence.logprobs.is_empty() && sequence.logprobs.len() != sequence.ids.len() {
        return Err(Malformed("there are not as many logprobs as ids"));
    }
    Ok(Update {
        id: SequenceId(sequence.sequence_id),
        prompt_logprobs: each(sequence.prompt_logprobs)?,
        tokens: Tokens {
            start_index: sequence.start_index,
            ids: sequence.ids,
            logprobs: each(sequence.logprobs)?,
        },
        end: sequence.finish.map(end).transpose()?,
    })
}

fn each(list: Vec<proto::Logprobs>) -> Result<Vec<TokenLogprobs>, Malformed> {
    list.into_iter().map(logprobs).collect()
}

fn logprobs(logprobs: proto::Logprobs) -> Result<TokenLogprobs, Malformed> {
    if logprobs.top_ids.len() != logprobs.top_logprobs.len() {
        return Err(Malformed("there are not as many top_logprobs as top_ids"));
    }
    Ok(TokenLogprobs {
        chosen: logprobs.chosen,
        top: logprobs.top_ids.into_iter().zip(logprobs.top_logprobs).collect(),
    })
}

fn end(finish: proto::SequenceFinish) -> Result<End, Malformed> {
    let reason = match finish.reason() {
        proto::FinishReason::Stop => FinishReason::Stop,
        proto::FinishReason::Length => FinishReason::Length,
        proto::FinishReason::Cancelled => FinishReason::Cancelled,
        proto::FinishReason::Error => FinishReason::Error,
        proto::FinishReason::Unspecified => return Err(Malformed("a finish reason is missing")),
    };
    let message = finish.message;
    let finished = Box::new(Finished {
        reason,
        waiting: from_wire(finish.waiting),
        prefill: from_wire(finish.prefill),
        decode: from_wire(finish.decode),
        mean_batch_size: finish.mean_batch_size,
        max_batch_size: finish.max_batch_size,
        cached_tokens: finish.cached_tokens,
        copied_bytes: finish.copied_bytes,
        copy_time: from_wire(finish.copy_time),
        preemptions: finish.preemptions,
    });
    Ok(match reason {
        FinishReason::Stop | FinishReason::Length => End::Finished(finished),
        FinishReason::Cancelled => End::Cancelled(finished),
        FinishReason::Error => End::Failed { message },
    })
}

fn load(load: Option<proto::Load>) -> Load {
    load.map_or_else(Load::default, |load| Load {
        running: load.running,
        waiting: load.waiting,
        kv_used_bytes: load.kv_used_bytes,
        pending_prefill_tokens: load.pending_prefill_tokens,
        cached_blocks: load.cached_blocks,
    })
}

/// Takes a refusal: of a sequence, or (the message alone) of the session.
pub(crate) fn rejected(rejected: proto::Rejected) -> Result<Rejected, String> {
    let reason = match rejected.reason() {
        proto::RejectReason::Busy => RejectReason::Busy,
        proto::RejectReason::Draining => RejectReason::Draining,
        proto::RejectReason::Unspecified
        | proto::RejectReason::Unsupported
        | proto::RejectReason::TooLarge
        | proto::RejectReason::Invalid => RejectReason::Final,
    };
    match rejected.sequence_id {
        Some(id) => Ok(Rejected {
            id: SequenceId(id),
            reason,
            message: rejected.message,
        }),
        None => Err(rejected.message),
    }
}

fn to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// Unset and negative durations are zero.
fn from_wire(duration: Option<prost_types::Duration>) -> Duration {
    duration
        .and_then(|duration| duration.try_into().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
