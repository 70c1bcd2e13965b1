//! Random histories: whatever is admitted and cancelled when, under whatever limits and faults, the promises hold. The fake
//! model checks its own contract, the KV budget with the room of moves included, and panics the rig where it is broken.

mod watched;

use proptest::prelude::*;

use super::*;
use crate::model::BucketId;
use watched::Watched;

/// One command of a history.
#[derive(Debug, Clone)]
enum Move {
    Admit(Wish),
    /// Cancels the n-th sequence that was admitted (modulo).
    Cancel(usize),
    Turn,
}

/// What a sequence asks for.
#[derive(Debug, Clone)]
struct Wish {
    prompt: Vec<TokenId>,
    /// Emitted before, as far as the expected answer goes.
    emitted: usize,
    max_tokens: u32,
    priority: i32,
    sampling: SamplingParams,
    cache_salt: Vec<u8>,
    bypass_prefix_cache: bool,
    prompt_logprobs: Option<u32>,
}

#[derive(Debug, Clone)]
struct World {
    scheduler: SchedulerConfig,
    model: FakeModelConfig,
}

/// Prompts that share beginnings: one of three families, of which a part is followed by tokens of its own.
fn prompts() -> impl Strategy<Value = Vec<TokenId>> {
    let own = prop_oneof![Just(Vec::new()), prop::collection::vec(2..1000_u32, 0..12)];
    (0..3_u32, 0..36_u32, own).prop_map(|(family, shared, own)| {
        let start = 100 * (family + 1);
        let mut prompt: Vec<TokenId> = (start..start + shared).chain(own).collect();
        if prompt.is_empty() {
            prompt.push(7);
        }
        prompt
    })
}

fn samplings() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0_f32), Just(0.8)];
    let penalty = prop_oneof![3 => Just(0.0_f32), 1 => Just(0.5)];
    (temperature, any::<u64>(), 0..6_u32, any::<bool>(), penalty).prop_map(
        |(temperature, seed, min_tokens, ignore_eos, presence_penalty)| SamplingParams {
            temperature,
            seed,
            min_tokens,
            ignore_eos,
            presence_penalty,
            ..SamplingParams::default()
        },
    )
}

fn wishes() -> impl Strategy<Value = Wish> {
    let lengths = (prompts(), 0..6_usize, 1..40_u32, 0..3_i32);
    let cache = (
        0..2_u8,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, 0..3_u32),
    );
    (lengths, samplings(), cache).prop_map(
        |((prompt, emitted, max_tokens, priority), sampling, (salt, bypass_prefix_cache, prompt_logprobs))| Wish {
            prompt,
            emitted,
            max_tokens,
            priority,
            sampling,
            cache_salt: vec![salt],
            bypass_prefix_cache,
            prompt_logprobs,
        },
    )
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => wishes().prop_map(Move::Admit),
        1 => any::<usize>().prop_map(Move::Cancel),
        6 => Just(Move::Turn),
    ];
    prop::collection::vec(one, 1..60)
}

fn faults() -> impl Strategy<Value = FakeFaults> {
    let bucket = (0..4_u8).prop_map(|bucket| FakeFaults {
        no_memory_for_bucket: Some(BucketId(bucket)),
        ..FakeFaults::default()
    });
    let sometimes = (2..12_u32).prop_map(|every| FakeFaults {
        no_memory_every: Some(every),
        ..FakeFaults::default()
    });
    prop_oneof![6 => Just(FakeFaults::default()), 1 => bucket, 2 => sometimes]
}

fn limits_of_worlds() -> impl Strategy<Value = ModelLimits> {
    let store = prop_oneof![1 => Just(0), 2 => 1..6_u32, 3 => 6..60_u32];
    (1..7_u32, 0..=1_u32, 1..11_u64, store, 1..9_u32).prop_map(
        |(max_sequences, pipeline_depth, budget, store_blocks, block_tokens)| ModelLimits {
            max_sequences,
            pipeline_depth,
            kv_budget_bytes: budget * 16,
            store_blocks,
            block_tokens,
            ..super::limits()
        },
    )
}

fn worlds() -> impl Strategy<Value = World> {
    let target = prop_oneof![
        Just(None),
        (1..500_u64).prop_map(|millis| Some(Duration::from_millis(millis)))
    ];
    let config = (1..24_u32, 1..8_u32, target, 0..4_u32);
    let end = prop_oneof![Just(0.0), Just(0.1), Just(0.5)];
    (limits_of_worlds(), config, end, faults()).prop_map(
        |(limits, (max_step_tokens, max_sequences, decode_step_target, max_preemptions), end_probability, faults)| {
            World {
                scheduler: SchedulerConfig {
                    max_step_tokens,
                    max_sequences,
                    max_waiting: 8,
                    decode_step_target,
                    max_preemptions,
                },
                model: FakeModelConfig {
                    end_probability,
                    faults,
                    ..fake(limits)
                },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_every_promise(world in worlds(), history in moves()) {
        Watched::new(world).play(history);
    }
}
