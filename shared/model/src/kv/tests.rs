use kr_contract::Exactness;
use kr_engine::model::{BlockId, BucketId, Model, ModelError, SlotId};

use crate::testing::{KERNELS, Rig, Run, assert_close, expected, fixture};
use crate::{Kernels, LoadOptions};

const TOLERANCE: f32 = 2e-4;

/// Room for 1024 tokens of context and `rows` slots of 256 tokens; a token of the tied fixture takes 1024 bytes.
fn options(kernels: Kernels, rows: u64) -> LoadOptions {
    LoadOptions {
        kernels,
        kv_budget_bytes: Some(rows * 256 * 1024),
        store_blocks: Some(0),
        ..LoadOptions::default()
    }
}

fn run(slot: u32, start: usize, ids: &[u32]) -> Run<'_> {
    Run { slot, start, ids }
}

#[test]
fn a_promoted_slot_keeps_what_was_written() {
    for kernels in KERNELS {
        let (ids, logits) = expected("llama-tied");
        let mut rig = Rig::new(&fixture("llama-tied"), &options(kernels, 40));
        rig.acquire(0, 0);
        rig.acquire(1, 0);
        rig.logits(&[run(0, 0, &ids[..20]), run(1, 0, &ids[..7])]);
        let cost = rig.model.promote(SlotId(0), BucketId(1), 20).unwrap();
        assert_eq!(cost.bytes, 20 * 1024);
        let rest = rig.logits(&[run(0, 20, &ids[20..]), run(1, 7, &ids[7..])]);
        assert_close(&rest[0], &logits[20..], TOLERANCE);
        assert_close(&rest[1], &logits[7..], TOLERANCE);
    }
}

#[test]
fn what_a_former_owner_left_reaches_no_sum() {
    for kernels in KERNELS {
        let (ids, logits) = expected("llama-tied");
        let mut rig = Rig::new(&fixture("llama-tied"), &options(kernels, 40));
        for slot in 0..3 {
            rig.acquire(slot, 0);
        }
        rig.model.poison_kv();
        for slot in 0..3 {
            rig.model.release(SlotId(slot));
            rig.acquire(slot, 0);
        }
        let prefill = rig.logits(&[run(0, 0, &ids[..30]), run(1, 0, &ids[..9]), run(2, 0, &ids[..1])]);
        assert_close(&prefill[0], &logits[..30], TOLERANCE);
        let decoded = rig.logits(&[run(0, 30, &ids[30..31]), run(1, 9, &ids[9..10]), run(2, 1, &ids[1..2])]);
        for (decoded, position) in decoded.iter().zip([30, 9, 1]) {
            assert_close(decoded, &logits[position..=position], TOLERANCE);
        }
    }
}

#[test]
fn a_poisoned_neighbour_does_not_spread() {
    for kernels in KERNELS {
        let (ids, logits) = expected("llama-tied");
        let mut rig = Rig::new(&fixture("llama-tied"), &options(kernels, 40));
        for slot in 0..4 {
            rig.acquire(slot, 0);
        }
        rig.model.poison_kv();
        rig.model.release(SlotId(1));
        rig.model.release(SlotId(2));
        rig.acquire(1, 0);
        rig.acquire(2, 0);
        rig.logits(&[run(1, 0, &ids[..5]), run(2, 0, &ids[..6])]);
        let decoded = rig.logits(&[
            run(0, 3, &ids[3..4]),
            run(1, 5, &ids[5..6]),
            run(2, 6, &ids[6..7]),
            run(3, 200, &ids[..1]),
        ]);
        assert!(
            decoded[0][0].iter().all(|logit| logit.is_nan()),
            "the poison is not effective"
        );
        assert_close(&decoded[1], &logits[5..6], TOLERANCE);
        assert_close(&decoded[2], &logits[6..7], TOLERANCE);
    }
}

#[test]
fn kv_is_updated_in_place() {
    for kernels in KERNELS {
        let (ids, _) = expected("llama-tied");
        let mut rig = Rig::new(&fixture("llama-tied"), &options(kernels, 40));
        for slot in 0..4 {
            rig.acquire(slot, 0);
        }
        let runs: Vec<_> = (0..4).map(|slot| run(slot, 0, &ids[..8])).collect();
        rig.sample_greedy(&runs);
        let before = rig.model.kv_addresses();
        for position in 8..12 {
            let mut runs: Vec<_> = (0..3)
                .map(|slot| run(slot, position, &ids[position..=position]))
                .collect();
            let start = 8 + (position - 8) * 4;
            runs.push(run(3, start, &ids[start..start + 4]));
            rig.sample_greedy(&runs);
            assert_eq!(rig.model.kv_addresses(), before, "after position {position}");
        }
    }
}

#[test]
fn the_budget_holds_across_buckets() {
    let mut rig = Rig::new(&fixture("llama-tied"), &options(Kernels::Auto, 4));
    for slot in 0..4 {
        rig.acquire(slot, 0);
    }
    let full = rig.model.acquire(SlotId(4), BucketId(0)).unwrap_err();
    assert!(matches!(full, ModelError::OutOfMemory(_)), "{full}");
    for slot in [0, 2] {
        rig.model.release(SlotId(slot));
    }
    rig.acquire(5, 1);
    assert!(rig.model.kv_bytes() <= 4 * 256 * 1024);
    let full = rig.model.acquire(SlotId(6), BucketId(0)).unwrap_err();
    assert!(matches!(full, ModelError::OutOfMemory(_)), "{full}");
}

#[test]
fn slots_survive_it_when_others_make_room() {
    for kernels in KERNELS {
        let (ids, logits) = expected("llama-tied");
        let mut rig = Rig::new(&fixture("llama-tied"), &options(kernels, 4));
        for slot in 0..4 {
            rig.acquire(slot, 0);
        }
        rig.logits(&[run(3, 0, &ids[..10]), run(1, 0, &ids[..4])]);
        rig.model.release(SlotId(0));
        rig.model.release(SlotId(2));
        rig.acquire(0, 1);
        let rest = rig.logits(&[run(3, 10, &ids[10..]), run(0, 0, &ids), run(1, 4, &ids[4..5])]);
        assert_close(&rest[0], &logits[10..], TOLERANCE);
        assert_close(&rest[1], &logits, TOLERANCE);
        assert_close(&rest[2], &logits[4..5], TOLERANCE);
    }
}

#[test]
fn a_prefix_copied_through_blocks_serves_another_slot() {
    for kernels in KERNELS {
        let (ids, logits) = expected("llama-tied");
        let with_store = LoadOptions {
            store_blocks: Some(5),
            block_tokens: 8,
            ..options(kernels, 8)
        };
        let mut rig = Rig::new(&fixture("llama-tied"), &with_store);
        rig.acquire(0, 0);
        rig.logits(&[run(0, 0, &ids[..20])]);
        rig.model.copy_out(SlotId(0), 0, BlockId(4)).unwrap();
        let cost = rig.model.copy_out(SlotId(0), 8, BlockId(1)).unwrap();
        assert_eq!(cost.bytes, 8 * 1024);
        rig.model.release(SlotId(0));
        rig.acquire(0, 0);
        rig.acquire(1, 1);
        let cost = rig.model.copy_in(SlotId(1), &[BlockId(4), BlockId(1)]).unwrap();
        assert_eq!(cost.bytes, 16 * 1024);
        let rest = rig.logits(&[run(1, 16, &ids[16..])]);
        assert_close(&rest[0], &logits[16..], TOLERANCE);
    }
}

/// Five blocks of eight tokens, three in a segment.
fn with_store(kernels: Kernels) -> LoadOptions {
    LoadOptions {
        store_blocks: Some(5),
        block_tokens: 8,
        ..options(kernels, 8)
    }
}

#[test]
fn blocks_of_several_segments_make_one_prefix() {
    for kernels in KERNELS {
        let (ids, logits) = expected("llama-tied");
        let mut rig = Rig::new(&fixture("llama-tied"), &with_store(kernels));
        rig.acquire(0, 0);
        rig.acquire(1, 0);
        rig.logits(&[run(0, 0, &ids[..39])]);
        let blocks = [4, 0, 3, 2].map(BlockId);
        for (start, block) in (0..).step_by(8).zip(blocks) {
            rig.model.copy_out(SlotId(0), start, block).unwrap();
        }
        rig.model.copy_in(SlotId(1), &blocks).unwrap();
        assert_close(&rig.logits(&[run(1, 32, &ids[32..])])[0], &logits[32..], TOLERANCE);
        // The first slot and the store are as they were.
        assert_close(&rig.logits(&[run(0, 39, &ids[39..])])[0], &logits[39..], TOLERANCE);
    }
}

/// Computed in the same chunks, a hit differs from a miss in the copy alone; where chunks change no bit, in nothing.
#[test]
fn a_prefix_from_the_store_changes_no_bit() {
    for kernels in KERNELS {
        let (ids, _) = expected("llama-untied");
        let mut rig = Rig::new(&fixture("llama-untied"), &with_store(kernels));
        for slot in 0..3 {
            rig.acquire(slot, 0);
        }
        let alone = rig.logits(&[run(0, 0, &ids)]).remove(0);
        rig.logits(&[run(1, 0, &ids[..16])]);
        let blocks = [BlockId(3), BlockId(1)];
        rig.model.copy_out(SlotId(1), 0, blocks[0]).unwrap();
        rig.model.copy_out(SlotId(1), 8, blocks[1]).unwrap();
        rig.model.copy_in(SlotId(2), &blocks).unwrap();
        let missed = rig.logits(&[run(1, 16, &ids[16..])]).remove(0);
        let hit = rig.logits(&[run(2, 16, &ids[16..])]).remove(0);
        assert!(hit == missed, "the copied prefix leads to other logits");
        if rig.model.info().fingerprint.class == Exactness::Invariant {
            assert!(hit == alone[16..], "the chunks lead to other logits");
        }
    }
}

#[test]
fn the_store_takes_memory_as_blocks_are_written() {
    let mut rig = Rig::new(&fixture("llama-tied"), &with_store(Kernels::Auto));
    rig.acquire(0, 0);
    assert_eq!(rig.model.kv.store_bytes(), 0);
    rig.model.copy_out(SlotId(0), 0, BlockId(4)).unwrap();
    assert_eq!(rig.model.kv.store_bytes(), 24 << 10);
    rig.model.copy_out(SlotId(0), 0, BlockId(3)).unwrap();
    assert_eq!(rig.model.kv.store_bytes(), 24 << 10);
    assert!(rig.model.copy_in(SlotId(0), &[BlockId(0)]).is_err(), "never written");
}

#[test]
fn copies_leave_slots_where_they_are() {
    for kernels in KERNELS {
        let mut rig = Rig::new(&fixture("llama-tied"), &with_store(kernels));
        rig.acquire(0, 0);
        rig.acquire(1, 0);
        let (ids, _) = expected("llama-tied");
        rig.sample_greedy(&[run(0, 0, &ids[..9]), run(1, 0, &ids[..9])]);
        rig.model.copy_out(SlotId(0), 0, BlockId(0)).unwrap();
        let before = rig.model.kv_addresses();
        rig.model.copy_out(SlotId(1), 0, BlockId(1)).unwrap();
        rig.model.copy_in(SlotId(1), &[BlockId(0), BlockId(1)]).unwrap();
        assert_eq!(rig.model.kv_addresses(), before, "{kernels:?}");
    }
}

#[test]
fn copies_outside_store_and_slot_are_refused() {
    let with_store = LoadOptions {
        store_blocks: Some(2),
        block_tokens: 8,
        ..options(Kernels::Auto, 8)
    };
    let mut rig = Rig::new(&fixture("llama-tied"), &with_store);
    rig.acquire(0, 0);
    let contract = |result: Result<_, ModelError>| matches!(result, Err(ModelError::Contract(_)));
    assert!(contract(rig.model.copy_in(SlotId(0), &[BlockId(2)])));
    assert!(contract(rig.model.copy_in(SlotId(1), &[BlockId(0)])));
    assert!(contract(rig.model.copy_out(SlotId(0), 4, BlockId(0))));
    assert!(contract(rig.model.copy_out(SlotId(0), 256, BlockId(0))));
}

#[test]
fn without_a_store_there_are_no_copies() {
    let mut rig = Rig::new(&fixture("llama-tied"), &options(Kernels::Auto, 8));
    rig.acquire(0, 0);
    let refused = rig.model.copy_out(SlotId(0), 0, BlockId(0));
    assert!(matches!(refused, Err(ModelError::NoBlockStore)));
}

#[test]
fn slots_are_given_once() {
    let mut rig = Rig::new(&fixture("llama-tied"), &options(Kernels::Auto, 8));
    rig.acquire(0, 0);
    for (slot, bucket) in [(0, 0), (32, 0), (1, 9)] {
        let refused = rig.model.acquire(SlotId(slot), BucketId(bucket));
        assert!(
            matches!(refused, Err(ModelError::Contract(_))),
            "slot {slot}, bucket {bucket}"
        );
    }
    rig.model.release(SlotId(0));
    rig.model.release(SlotId(0));
    rig.acquire(0, 0);
}

#[test]
fn a_broken_backend_does_not_pass_for_want_of_memory() {
    let of = |what: &'static str| super::memory(what.into());
    for what in [
        "[malloc] Unable to allocate 7 bytes.",
        "cudaMallocAsync(&data, size, stream) failed: out of memory",
        "[METAL] Command buffer execution failed: Insufficient Memory",
    ] {
        assert!(matches!(of(what), ModelError::OutOfMemory(_)), "{what}");
    }
    for what in [
        "cudaPeekAtLastError() failed: invalid argument",
        "cudaStreamSynchronize(stream) failed: an illegal memory access was encountered",
    ] {
        assert!(matches!(of(what), ModelError::Backend(_)), "{what}");
    }
}
