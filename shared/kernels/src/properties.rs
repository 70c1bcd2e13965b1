//! Float kernels on random shapes and values against float64.

use proptest::prelude::*;

use crate::{
    Attention, CacheShape, HeadNorm, Instructions, Machine, Matrix, Pool, Preparation, RotaryTable, Rows, Span,
    TokenPart, Weight, Writing, linear, rms_norm, write_keys, write_values,
};

fn machines() -> impl Iterator<Item = Machine> {
    Instructions::available().into_iter().map(|instructions| Machine {
        instructions,
        pool: Pool::new(2),
    })
}

/// Ordinary values, zeros of both signs, tiny and large ones.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -2.0_f32..2.0,
        1 => Just(0.0_f32),
        1 => Just(-0.0_f32),
        1 => Just(f32::MIN_POSITIVE / 8.0),
        1 => -3e4_f32..3e4,
    ]
}

fn values(count: usize) -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(value(), count)
}

fn product(left: &[f32], right: &[f32]) -> (f64, f64) {
    let terms = left.iter().zip(right).map(|(a, b)| f64::from(*a) * f64::from(*b));
    terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_as_exact_as_their_terms_allow(
        ((inputs, outputs, rows), x, matrix) in (1..70_usize, 1..60_usize, 1..20_usize).prop_flat_map(|shape| {
            (Just(shape), values(shape.2 * shape.0), values(shape.1 * shape.0))
        })
    ) {
        for machine in machines() {
            let mut out = vec![f32::NAN; rows * outputs];
            let weight = Weight { matrix: Matrix::Float32(&matrix), bias: None };
            linear(&machine, Rows { values: &x, width: inputs }, &[weight], None, &mut out);
            for (place, found) in out.iter().enumerate() {
                let row = &x[place / outputs * inputs..][..inputs];
                let (expected, size) = product(row, &matrix[place % outputs * inputs..][..inputs]);
                prop_assert!((f64::from(*found) - expected).abs() <= size * 1e-5 + 1e-30, "{found} {expected}");
            }
        }
    }

    #[test]
    fn norms_have_unit_mean_square(
        (width, x, weight) in (1..90_usize).prop_flat_map(|width| (Just(width), values(3 * width), values(width)))
    ) {
        for machine in machines() {
            let mut out = vec![f32::NAN; x.len()];
            rms_norm(&machine, &x, &weight, 1e-5, &mut out);
            for (row, out) in x.chunks(width).zip(out.chunks(width)) {
                let root = (product(row, row).0 / width as f64 + f64::from(1e-5_f32)).sqrt();
                for ((value, weight), found) in row.iter().zip(&weight).zip(out) {
                    let expected = f64::from(*value) / root * f64::from(*weight);
                    prop_assert!((f64::from(*found) - expected).abs() <= expected.abs() * 1e-5 + 1e-30, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_last_token_attends_as_in_float64(
        case in cases()
    ) {
        let expected = case.reference();
        for machine in machines() {
            let out = case.run(&machine);
            for (found, expected) in out.iter().zip(&expected) {
                prop_assert!((f64::from(*found) - expected).abs() <= 1e-4, "{found} {expected}");
            }
        }
    }
}

/// A sequence on its own, in one row of a cache among others.
#[derive(Debug)]
struct Case {
    group: usize,
    kv_heads: usize,
    head_dim: usize,
    turned: usize,
    length: usize,
    window: Option<usize>,
    /// Elements in each row of `joined` before the queries.
    before: usize,
    /// `[length, before + (group + 2) * kv_heads * head_dim]`.
    joined: Vec<f32>,
    norm: Option<Vec<f32>>,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1..5_usize, 1..4_usize, 1..41_usize, 1..90_usize, 0..9_usize);
    sizes.prop_flat_map(|(group, kv_heads, half, length, before)| {
        let (head_dim, stride) = (2 * half, before + (group + 2) * kv_heads * 2 * half);
        let floats = proptest::collection::vec(-1.0_f32..1.0, length * stride);
        let norm = proptest::option::of(proptest::collection::vec(0.5_f32..1.5, head_dim));
        let window = proptest::option::of(1..length + 2);
        (floats, norm, window, 0..=half).prop_map(move |(joined, norm, window, turned)| Case {
            group,
            kv_heads,
            head_dim,
            turned: 2 * turned,
            length,
            window,
            before,
            joined,
            norm,
        })
    })
}

const EPS: f32 = 1e-4;
const SCALE: f32 = 0.3;

impl Case {
    fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn stride(&self) -> usize {
        self.before + (self.group + 2) * self.width()
    }

    fn periods(&self) -> Vec<f64> {
        (0..self.turned / 2)
            .map(|index| 50_f64.powf(index as f64 / 9.0))
            .collect()
    }

    /// Where a row's queries, keys or values of one head begin.
    fn head(&self, token: usize, part: usize, head: usize) -> &[f32] {
        let first = self.before + [0, self.group, self.group + 1][part] * self.width() + head * self.head_dim;
        &self.joined[token * self.stride() + first..][..self.head_dim]
    }

    fn prepared(&self, position: usize, head: &[f32]) -> Vec<f64> {
        let mut x: Vec<f64> = head.iter().map(|value| f64::from(*value)).collect();
        if let Some(norm) = &self.norm {
            let root = (product(head, head).0 / head.len() as f64 + f64::from(EPS)).sqrt();
            x.iter_mut()
                .zip(norm)
                .for_each(|(value, weight)| *value *= f64::from(*weight) / root);
        }
        let half = self.turned / 2;
        for (index, period) in self.periods().into_iter().enumerate() {
            let (sine, cosine) = (position as f64 / period).sin_cos();
            let (a, b) = (x[index], x[index + half]);
            (x[index], x[index + half]) = (a * cosine - b * sine, b * cosine + a * sine);
        }
        x
    }

    /// Of the last token.
    fn reference(&self) -> Vec<f64> {
        let last = self.length - 1;
        let first = self.length.saturating_sub(self.window.unwrap_or(self.length));
        let mut out = Vec::new();
        for head in 0..self.group * self.kv_heads {
            let q = self.prepared(last, self.head(last, 0, head));
            let weight = |position: usize| {
                let key = self.prepared(position, self.head(position, 1, head / self.group));
                let score: f64 = q.iter().zip(&key).map(|(a, b)| a * b).sum();
                (score * f64::from(SCALE)).exp()
            };
            let weights: Vec<f64> = (first..self.length).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            for element in 0..self.head_dim {
                let value = |position| f64::from(self.head(position, 2, head / self.group)[element]);
                let terms = weights
                    .iter()
                    .enumerate()
                    .map(|(at, weight)| weight / sum * value(first + at));
                out.push(terms.sum());
            }
        }
        out
    }

    /// Of the last token; the prompt in two pieces.
    fn run(&self, machine: &Machine) -> Vec<f32> {
        let cache = CacheShape {
            kv_heads: self.kv_heads,
            capacity: self.length + 3,
            head_dim: self.head_dim,
        };
        let size = 3 * self.width() * cache.capacity;
        let (mut keys, mut values) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        let rotary = RotaryTable::new(&self.periods(), self.length);
        let norm = self.norm.as_ref().map(|weight| HeadNorm { weight, eps: EPS });
        let preparation = Preparation { norm, rotary: &rotary };
        let mut out = vec![0.0; self.length * self.group * self.width()];
        let cut = self.length / 2;
        for (start, end) in [(0, cut), (cut, self.length)] {
            let spans = [Span {
                row: 1,
                start,
                len: end - start,
                offset: start,
            }];
            let part = |part: usize| TokenPart {
                values: &self.joined,
                offset: self.before + [0, self.group, self.group + 1][part] * self.width(),
                stride: self.stride(),
            };
            let writing = |new| Writing {
                cache,
                spans: &spans,
                new,
            };
            write_keys(machine, writing(part(1)), preparation, &mut keys);
            write_values(machine, writing(part(2)), &mut values);
            let attention = Attention {
                heads: self.group * self.kv_heads,
                preparation,
                scale: SCALE,
                window: self.window,
                q: part(0),
                cache,
                keys: &keys,
                values: &values,
            };
            attention.run(machine, &spans, &mut out);
        }
        out.split_off((self.length - 1) * self.group * self.width())
    }
}
