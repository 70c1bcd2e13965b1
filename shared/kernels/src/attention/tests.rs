use super::*;
use crate::{Instructions, Pool};

#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
    },
    Shape {
        heads: 6,
        kv_heads: 2,
        head_dim: 12,
    },
    Shape {
        heads: 2,
        kv_heads: 2,
        head_dim: 80,
    },
];

const CAPACITY: usize = 48;
const ROWS: usize = 4;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|index| (((index * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0) * 2.0)
        .collect()
}

fn rotary(shape: Shape) -> RotaryTable {
    let half = shape.head_dim / 2;
    let periods: Vec<_> = (0..half)
        .map(|index| 1000_f64.powf(index as f64 / half as f64))
        .collect();
    RotaryTable::new(&periods, CAPACITY)
}

fn part(values: &[f32], stride: usize) -> TokenPart<'_> {
    TokenPart {
        values,
        offset: 0,
        stride,
    }
}

/// A cache full of NaN, and what runs on it.
struct Bench {
    shape: Shape,
    machine: Machine,
    rotary: RotaryTable,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Bench {
    fn new(shape: Shape, instructions: Instructions, threads: usize) -> Self {
        let size = ROWS * shape.kv_heads * CAPACITY * shape.head_dim;
        Self {
            shape,
            machine: Machine {
                instructions,
                pool: Pool::new(threads),
            },
            rotary: rotary(shape),
            keys: vec![f32::NAN; size],
            values: vec![f32::NAN; size],
        }
    }

    /// Runs tokens of sequences, given as (row, first position, length); token contents depend on row and position only.
    fn run(&mut self, parts: &[(usize, usize, usize)]) -> Vec<Vec<f32>> {
        let Shape {
            heads,
            kv_heads,
            head_dim,
        } = self.shape;
        let (mut spans, mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut offset = 0;
        for (row, start, len) in parts.iter().copied() {
            spans.push(Span {
                row,
                start,
                len,
                offset,
            });
            offset += len;
            for position in start..start + len {
                let seed = row * 1000 + position;
                q.extend(values(heads * head_dim, seed));
                k.extend(values(kv_heads * head_dim, seed + 333));
                v.extend(values(kv_heads * head_dim, seed + 666));
            }
        }
        let mut out = vec![f32::NAN; q.len()];
        let cache = CacheShape {
            kv_heads,
            capacity: CAPACITY,
            head_dim,
        };
        write_keys(
            cache,
            &self.rotary,
            &spans,
            part(&k, kv_heads * head_dim),
            &mut self.keys,
        );
        write_values(cache, &spans, part(&v, kv_heads * head_dim), &mut self.values);
        let attention = Attention {
            heads,
            rotary: &self.rotary,
            q: part(&q, heads * head_dim),
            cache,
            keys: &self.keys,
            values: &self.values,
        };
        attention.run(&self.machine, &spans, &mut out);
        out.chunks(heads * head_dim).map(<[f32]>::to_vec).collect()
    }
}

/// The same in float64, plainly, for one sequence.
fn reference(shape: Shape, row: usize, length: usize) -> Vec<Vec<f64>> {
    let Shape {
        heads,
        kv_heads,
        head_dim,
    } = shape;
    let table = rotary(shape);
    let rotated = |position: usize, x: &[f32]| {
        let mut out = vec![0.0; head_dim];
        table.rotate(position, x, &mut out);
        out.into_iter().map(f64::from).collect::<Vec<_>>()
    };
    let at = |position: usize, heads: usize, offset: usize| values(heads * head_dim, row * 1000 + position + offset);
    (0..length)
        .map(|position| {
            (0..heads)
                .flat_map(|head| {
                    let kv_head = head / (heads / kv_heads);
                    let slice = kv_head * head_dim..(kv_head + 1) * head_dim;
                    let q = rotated(
                        position,
                        &at(position, heads, 0)[head * head_dim..(head + 1) * head_dim],
                    );
                    let scores: Vec<f64> = (0..=position)
                        .map(|other| {
                            let k = rotated(other, &at(other, kv_heads, 333)[slice.clone()]);
                            q.iter().zip(&k).map(|(a, b)| a * b).sum::<f64>() / (head_dim as f64).sqrt()
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    let mut out = vec![0.0; head_dim];
                    for (other, weight) in weights.iter().enumerate() {
                        for (out, value) in out.iter_mut().zip(&at(other, kv_heads, 666)[slice.clone()]) {
                            *out += weight / sum * f64::from(*value);
                        }
                    }
                    out
                })
                .collect()
        })
        .collect()
}

#[test]
fn tokens_attend_to_their_own_past() {
    for shape in SHAPES {
        let expected = reference(shape, 2, 19);
        for instructions in [Instructions::detect(), Instructions::portable()] {
            let found = Bench::new(shape, instructions, 2).run(&[(2, 0, 19)]);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!(
                    (f64::from(*found) - expected).abs() < 2e-5,
                    "{shape:?}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn batches_chunks_and_threads_change_no_bit() {
    for shape in SHAPES {
        for instructions in [Instructions::detect(), Instructions::portable()] {
            let whole: Vec<_> = (0..ROWS)
                .map(|row| Bench::new(shape, instructions, 1).run(&[(row, 0, CAPACITY)]))
                .collect();
            let mut bench = Bench::new(shape, instructions, 3);
            let steps = [
                vec![(3, 0, 17), (0, 0, 1), (1, 0, 8)],
                vec![(0, 1, 1), (1, 8, 1), (3, 17, 1), (2, 0, 30)],
                vec![(2, 30, 18), (3, 18, 30)],
            ];
            for parts in steps {
                let found = bench.run(&parts);
                let tokens = parts
                    .iter()
                    .flat_map(|(row, start, len)| (*start..start + len).map(|at| (*row, at)));
                for (found, (row, position)) in found.iter().zip(tokens) {
                    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        bits(found),
                        bits(&whole[row][position]),
                        "{shape:?}, row {row}, position {position}"
                    );
                }
            }
        }
    }
}

#[test]
fn parts_of_joined_rows_are_found() {
    let values: Vec<f32> = (0..12).map(|index| index as f32).collect();
    let part = TokenPart {
        values: &values,
        offset: 2,
        stride: 6,
    };
    assert_eq!((part.tokens(), part.token(1, 3)), (2, &[8.0, 9.0, 10.0][..]));
}
