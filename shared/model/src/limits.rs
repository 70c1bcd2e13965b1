//! What a model can hold, from its shape, its memory and the options it is loaded with.

pub(crate) mod budget;
mod device;
pub(crate) mod machine;
pub(crate) mod workspace;

use kr_engine::model::ModelLimits;

use crate::error::{Error, Result};
use crate::options::LoadOptions;

/// Capacity of the shortest slots.
const FIRST_BUCKET_TOKENS: u32 = 256;
/// Share of the budget that the block store may take by default: one in so many.
const STORE_SHARE: u64 = 4;
const MAX_STORE_BLOCKS: u64 = 1 << 20;

/// What is known of a model's KV.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvNeeds {
    /// The model's own limit.
    pub(crate) context_tokens: u32,
    pub(crate) bytes_per_token: u64,
}

/// `budget`: bytes for slots and block store together.
pub(crate) fn limits(options: &LoadOptions, needs: KvNeeds, budget: u64) -> Result<ModelLimits> {
    let KvNeeds {
        context_tokens,
        bytes_per_token,
    } = needs;
    let wanted = options.max_context_tokens.unwrap_or(context_tokens).min(context_tokens);
    let smallest = FIRST_BUCKET_TOKENS.min(wanted);
    let block_bytes = u64::from(options.block_tokens) * bytes_per_token;
    let store_blocks = options
        .store_blocks
        .unwrap_or_else(|| default_store(budget, block_bytes, u64::from(smallest) * bytes_per_token));
    let store_bytes = u64::from(store_blocks) * block_bytes;
    let slots_bytes = budget.saturating_sub(store_bytes);
    let fitting = slots_bytes / bytes_per_token;
    if fitting < u64::from(smallest) {
        return Err(Error::KvBudget {
            budget,
            tokens: fitting,
            per_token: bytes_per_token,
            needed: store_bytes + u64::from(smallest) * bytes_per_token,
        });
    }
    let context_tokens = u32::try_from(fitting).map_or(wanted, |fitting| wanted.min(fitting));
    Ok(ModelLimits {
        context_tokens,
        max_sequences: options.max_sequences,
        bucket_tokens: buckets(context_tokens),
        kv_bytes_per_token: bytes_per_token,
        kv_budget_bytes: slots_bytes,
        block_tokens: options.block_tokens,
        store_blocks,
        pipeline_depth: options.pipeline_depth.unwrap_or(0),
    })
}

/// As many blocks as a quarter of the budget holds, none where the rest would not hold a slot.
fn default_store(budget: u64, block_bytes: u64, slot_bytes: u64) -> u32 {
    let share = budget / STORE_SHARE;
    if budget - share < slot_bytes {
        return 0;
    }
    u32::try_from((share / block_bytes).min(MAX_STORE_BLOCKS)).unwrap_or(0)
}

/// Doubling capacities, the last one exactly the context.
fn buckets(context_tokens: u32) -> Vec<u32> {
    let doubling = std::iter::successors(Some(FIRST_BUCKET_TOKENS), |tokens| tokens.checked_mul(2));
    let mut buckets: Vec<_> = doubling.take_while(|tokens| *tokens < context_tokens).collect();
    buckets.push(context_tokens);
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits_of(options: &LoadOptions, context_tokens: u32, budget: u64) -> Result<ModelLimits> {
        let needs = KvNeeds {
            context_tokens,
            bytes_per_token: 1024,
        };
        limits(options, needs, budget)
    }

    #[test]
    fn slots_double_up_to_the_context() {
        let limits = limits_of(&LoadOptions::default(), 1000, 2 << 30).unwrap();
        assert_eq!(limits.bucket_tokens, [256, 512, 1000]);
        assert_eq!(limits.context_tokens, 1000);
    }

    #[test]
    fn a_short_context_has_one_bucket() {
        let limits = limits_of(&LoadOptions::default(), 64, 2 << 30).unwrap();
        assert_eq!(limits.bucket_tokens, [64]);
    }

    #[test]
    fn the_context_shrinks_to_what_the_budget_holds() {
        let options = LoadOptions {
            store_blocks: Some(2),
            block_tokens: 50,
            ..LoadOptions::default()
        };
        let limits = limits_of(&options, 8192, 700 * 1024).unwrap();
        assert_eq!(limits.context_tokens, 600);
        assert_eq!(limits.kv_budget_bytes, 600 * 1024);
    }

    #[test]
    fn the_store_takes_a_quarter_of_the_budget_unless_told() {
        let of = |budget, store_blocks| {
            let options = LoadOptions {
                store_blocks,
                ..LoadOptions::default()
            };
            let limits = limits_of(&options, 8192, budget).unwrap();
            (limits.store_blocks, limits.kv_budget_bytes)
        };
        assert_eq!(of(64 << 20, None), (512, 48 << 20));
        assert_eq!(of(64 << 20, Some(0)), (0, 64 << 20));
        assert_eq!(of(300 << 10, None), (0, 300 << 10));
    }

    #[test]
    fn a_budget_below_one_slot_is_refused_with_the_bytes_needed() {
        let error = limits_of(&LoadOptions::default(), 8192, 100 * 1024).unwrap_err();
        assert!(
            error.to_string().ends_with("raise it to at least 262144 bytes"),
            "{error}"
        );
    }
}
