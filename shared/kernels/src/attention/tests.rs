use super::*;
use crate::{Instructions, Pool};

#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Elements of a head that are rotated.
    turned: usize,
    window: Option<usize>,
    normed: bool,
    scale: f32,
}

const PLAIN: Shape = Shape {
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    turned: 64,
    window: None,
    normed: false,
    scale: 0.125,
};

const SHAPES: [Shape; 6] = [
    PLAIN,
    Shape {
        heads: 6,
        kv_heads: 2,
        head_dim: 12,
        turned: 12,
        ..PLAIN
    },
    Shape {
        heads: 2,
        kv_heads: 2,
        head_dim: 80,
        turned: 80,
        window: Some(5),
        ..PLAIN
    },
    Shape {
        turned: 48,
        window: Some(1),
        ..PLAIN
    },
    Shape {
        normed: true,
        window: Some(17),
        scale: 0.3,
        ..PLAIN
    },
    Shape {
        heads: 4,
        kv_heads: 1,
        head_dim: 20,
        turned: 6,
        normed: true,
        ..PLAIN
    },
];

const CAPACITY: usize = 150;
const ROWS: usize = 4;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|index| (((index * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0) * 2.0)
        .collect()
}

fn rotary(shape: Shape) -> RotaryTable {
    let half = shape.turned / 2;
    let periods: Vec<_> = (0..half)
        .map(|index| 1000_f64.powf(index as f64 / half as f64))
        .collect();
    RotaryTable::new(&periods, CAPACITY)
}

const EPS: f32 = 1e-3;

fn norm_weight(shape: Shape) -> Vec<f32> {
    (0..shape.head_dim)
        .map(|index| 0.5 + (index % 7) as f32 / 5.0)
        .collect()
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
    norm_weight: Vec<f32>,
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
            norm_weight: norm_weight(shape),
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
            window,
            normed,
            scale,
            ..
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
        let preparation = Preparation {
            norm: normed.then_some(HeadNorm {
                weight: &self.norm_weight,
                eps: EPS,
            }),
            rotary: &self.rotary,
        };
        let writing = |new| Writing {
            cache,
            spans: &spans,
            new: part(new, kv_heads * head_dim),
        };
        write_keys(&self.machine, writing(&k), preparation, &mut self.keys);
        write_values(&self.machine, writing(&v), &mut self.values);
        let attention = Attention {
            heads,
            preparation,
            scale,
            window,
            q: part(&q, heads * head_dim),
            cache,
            keys: &self.keys,
            values: &self.values,
        };
        attention.run(&self.machine, &spans, &mut out);
        out.chunks(heads * head_dim).map(<[f32]>::to_vec).collect()
    }
}

fn prepared(shape: Shape, position: usize, x: &[f32]) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
    if shape.normed {
        let mean = x.iter().map(|value| value * value).sum::<f64>() / x.len() as f64;
        let root = (mean + f64::from(EPS)).sqrt();
        for (value, weight) in x.iter_mut().zip(norm_weight(shape)) {
            *value *= f64::from(weight) / root;
        }
    }
    let half = shape.turned / 2;
    for index in 0..half {
        let angle = position as f64 / 1000_f64.powf(index as f64 / half as f64);
        let (a, b) = (x[index], x[index + half]);
        x[index] = a * angle.cos() - b * angle.sin();
        x[index + half] = b * angle.cos() + a * angle.sin();
    }
    x
}

/// One head's output of one token in float64, plainly. `keys` and `values`: `[positions, kv_heads * head_dim]`.
fn attended(shape: Shape, query: (usize, usize), q: &[f32], past: [&[Vec<f32>]; 2]) -> Vec<f64> {
    let Shape {
        heads,
        kv_heads,
        head_dim,
        window,
        ..
    } = shape;
    let (position, head) = query;
    let kv_head = head / (heads / kv_heads);
    let slice = kv_head * head_dim..(kv_head + 1) * head_dim;
    let q = prepared(shape, position, &q[head * head_dim..(head + 1) * head_dim]);
    let first = (position + 1).saturating_sub(window.unwrap_or(usize::MAX));
    let scores: Vec<f64> = (first..=position)
        .map(|other| {
            let k = prepared(shape, other, &past[0][other][slice.clone()]);
            q.iter().zip(&k).map(|(a, b)| a * b).sum::<f64>() * f64::from(shape.scale)
        })
        .collect();
    let max = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; head_dim];
    for (other, weight) in weights.iter().enumerate() {
        for (out, value) in out.iter_mut().zip(&past[1][first + other][slice.clone()]) {
            *out += weight / sum * f64::from(*value);
        }
    }
    out
}

fn reference(shape: Shape, row: usize, length: usize) -> Vec<Vec<f64>> {
    let at = |heads: usize, offset: usize| {
        let tokens = (0..length).map(|position| values(heads * shape.head_dim, row * 1000 + position + offset));
        tokens.collect::<Vec<_>>()
    };
    let (q, k, v) = (at(shape.heads, 0), at(shape.kv_heads, 333), at(shape.kv_heads, 666));
    let token = |position: usize| {
        let heads = 0..shape.heads;
        heads
            .flat_map(|head| attended(shape, (position, head), &q[position], [&k, &v]))
            .collect()
    };
    (0..length).map(token).collect()
}

#[test]
fn tokens_attend_to_their_own_past() {
    for shape in SHAPES {
        let expected = reference(shape, 2, CAPACITY);
        for instructions in Instructions::available() {
            let found = Bench::new(shape, instructions, 2).run(&[(2, 0, CAPACITY)]);
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
        for instructions in Instructions::available() {
            let whole: Vec<_> = (0..ROWS)
                .map(|row| Bench::new(shape, instructions, 1).run(&[(row, 0, CAPACITY)]))
                .collect();
            let mut bench = Bench::new(shape, instructions, 3);
            let steps = [
                vec![(3, 0, 17), (0, 0, 1), (1, 0, 8)],
                vec![(0, 1, 1), (1, 8, 1), (3, 17, 1), (2, 0, 30)],
                vec![(2, 30, 18), (3, 18, 30)],
                vec![(3, 48, 102), (2, 48, 71), (1, 9, 141)],
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
