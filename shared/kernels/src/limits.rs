//! What the machine allows: measured with the kernels' own instructions and threads, to compare them with.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls what was compiled for detected instructions")
)]

use std::hint::black_box;
use std::time::Instant;

use crate::Machine;
use crate::instructions::dispatched;
use crate::lanes::Lanes;

/// Bytes read in one piece by one thread.
const PIECE: usize = 1 << 20;

/// Accumulators that hide the latency of a multiply-add.
const CHAINS: usize = 12;

dispatched! { fn sum_of = sum(values: &[f32]) -> f32 }

#[inline(always)]
fn sum<S: Lanes>(values: &[f32]) -> f32 {
    let mut sums = [S::splat(0.0); 4];
    for chunk in values.chunks_exact(4 * S::LANES) {
        for (sum, lanes) in sums.iter_mut().zip(chunk.chunks_exact(S::LANES)) {
            *sum = sum.add(S::from_slice(lanes));
        }
    }
    sums.into_iter().map(S::sum).sum()
}

dispatched! { fn chain_sum = chains(rounds: usize) -> (f32, usize) }

#[inline(always)]
fn chains<S: Lanes>(rounds: usize) -> (f32, usize) {
    let mut sums = [S::splat(1.0); CHAINS];
    let (factor, addend) = (S::splat(black_box(0.999)), S::splat(black_box(0.001)));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.mul_add(factor, addend);
        }
    }
    (sums.into_iter().map(S::sum).sum(), S::LANES)
}

/// Reads `bytes`, which should be many times the caches, on all threads; returns the best of several rounds in bytes per second.
#[must_use]
pub fn read_rate(machine: &Machine, bytes: usize) -> f64 {
    let values = vec![1.0_f32; bytes / size_of::<f32>()];
    let pieces: Vec<_> = values.chunks(PIECE / size_of::<f32>()).collect();
    best(bytes, || {
        machine.pool.run(pieces.len(), &|piece| {
            black_box(sum_of(machine.instructions, pieces[piece]));
        });
    })
}

/// Returns float32 multiply-adds per second on all threads, the best of several rounds.
#[must_use]
pub fn multiply_add_rate(machine: &Machine) -> f64 {
    const ROUNDS: usize = 200_000;
    let threads = machine.pool.threads();
    let (_, lanes) = chain_sum(machine.instructions, 1);
    best(threads * ROUNDS * CHAINS * lanes, || {
        machine.pool.run(threads, &|_| {
            black_box(chain_sum(machine.instructions, ROUNDS));
        });
    })
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn best(amount: usize, work: impl Fn()) -> f64 {
    let rounds = (0..8).map(|_| {
        let started = Instant::now();
        work();
        amount as f64 / started.elapsed().as_secs_f64()
    });
    rounds.fold(0.0, f64::max)
}
