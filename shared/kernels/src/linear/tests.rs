use super::*;
use crate::{Bfloat16, Float16};
use crate::{Instructions, Pool};

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn machine(instructions: Instructions, threads: usize) -> Machine {
    let pool = Pool::new(threads);
    Machine { instructions, pool }
}

fn machines() -> Vec<Machine> {
    let sets = Instructions::available();
    let pairs = sets.into_iter().flat_map(|set| [1, 2, 3].map(|threads| (set, threads)));
    pairs.map(|(set, threads)| machine(set, threads)).collect()
}

fn plain(matrix: &[f32]) -> Weight<'_> {
    let matrix = Matrix::Float32(matrix);
    Weight { matrix, bias: None }
}

fn widened(matrix: Matrix<'_>) -> Vec<f32> {
    let mut values = vec![0.0; matrix.len()];
    matrix.widen(&mut values);
    values
}

fn computed(machine: &Machine, x: Rows<'_>, weight: Weight<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.count() * weight.outputs(x.width)];
    linear(machine, x, &[weight], None, &mut out);
    out
}

/// `x Wᵀ + bias` in float64.
fn exact(x: Rows<'_>, weight: Weight<'_>) -> Vec<Vec<f64>> {
    let product = |row: &[f32], (output, weights): (usize, &[f32])| {
        let pairs = row.iter().zip(weights);
        let sum: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        sum + weight.bias.map_or(0.0, |bias| f64::from(bias[output]))
    };
    let matrix = widened(weight.matrix);
    let outputs = |row| {
        matrix
            .chunks(x.width)
            .enumerate()
            .map(|weights| product(row, weights))
            .collect()
    };
    x.values.chunks(x.width).map(outputs).collect()
}

/// The upper halves of float32, and float16 of some magnitudes.
#[expect(clippy::cast_possible_truncation, reason = "keeps sixteen bits")]
fn halves(count: usize, seed: u32) -> (Vec<Bfloat16>, Vec<Float16>) {
    let values = values(count, seed);
    let bfloat16 = values.iter().map(|value| Bfloat16((value.to_bits() >> 16) as u16));
    let float16 = values.iter().map(|value| {
        let bits = value.to_bits();
        Float16((bits >> 16 & 0x8000 | 0x3000 | bits >> 13 & 0x0fff) as u16)
    });
    (bfloat16.collect(), float16.collect())
}

const SHAPES: [(usize, usize, usize); 7] = [
    (1, 1, 1),
    (1, 64, 40),
    (2, 17, 7),
    (3, 24, 25),
    (4, 8, 3),
    (5, 100, 49),
    (70, 33, 130),
];

#[test]
fn products_stand_side_by_side_with_bias_and_residual() {
    for (rows, inputs, outputs) in SHAPES {
        let (x, first, second) = (
            values(rows * inputs, 1),
            values(outputs * inputs, 2),
            values(5 * inputs, 3),
        );
        let (bias, residual) = (values(outputs, 4), values(rows * (outputs + 5), 5));
        let x = Rows {
            values: &x,
            width: inputs,
        };
        let weights = [
            Weight {
                matrix: Matrix::Float32(&first),
                bias: Some(&bias),
            },
            plain(&second),
        ];
        let expected: Vec<Vec<f64>> = exact(x, weights[0])
            .into_iter()
            .zip(exact(x, weights[1]))
            .map(|(left, right)| [left, right].concat())
            .collect();
        for machine in machines() {
            let mut out = vec![f32::NAN; residual.len()];
            linear(&machine, x, &weights, Some(&residual), &mut out);
            for ((found, expected), residual) in out.iter().zip(expected.iter().flatten()).zip(&residual) {
                let expected = expected + f64::from(*residual);
                assert!(
                    (f64::from(*found) - expected).abs() < 2e-5,
                    "{rows} {inputs} {outputs}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn gates_and_products_meet_column_by_column() {
    for (rows, inputs, outputs) in SHAPES {
        let (x, gate, up) = (
            values(rows * inputs, 1),
            values(outputs * inputs, 2),
            values(outputs * inputs, 3),
        );
        let bias = values(outputs, 4);
        let x = Rows {
            values: &x,
            width: inputs,
        };
        let up = Weight {
            matrix: Matrix::Float32(&up),
            bias: Some(&bias),
        };
        let (gates, ups) = (exact(x, plain(&gate)), exact(x, up));
        for machine in machines() {
            let mut out = vec![f32::NAN; rows * outputs];
            gated(&machine, x, [plain(&gate), up], &mut out);
            for ((found, gate), up) in out.iter().zip(gates.iter().flatten()).zip(ups.iter().flatten()) {
                let expected = gate / (1.0 + (-gate).exp()) * up;
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-4,
                    "{rows} {inputs} {outputs}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_row_is_the_same_alone_and_in_any_batch_on_any_number_of_threads() {
    let (inputs, outputs, most) = (83, 101, 97);
    let (x, weight) = (values(most * inputs, 5), values(outputs * inputs, 6));
    let rows = |from: usize, to: usize| Rows {
        values: &x[from * inputs..to * inputs],
        width: inputs,
    };
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for set in Instructions::available() {
        let single = machine(set, 1);
        let alone: Vec<u32> = (0..most)
            .flat_map(|row| bits(computed(&single, rows(row, row + 1), plain(&weight))))
            .collect();
        for (count, threads) in [(2, 2), (3, 1), (12, 2), (16, 3), (31, 2), (32, 1), (64, 2), (97, 2)] {
            let together = bits(computed(&machine(set, threads), rows(0, count), plain(&weight)));
            assert!(together == alone[..count * outputs], "{count} rows, {threads} threads");
        }
    }
}

#[test]
fn sixteen_bit_weights_give_what_their_widened_values_give() {
    for (rows, inputs, outputs) in SHAPES {
        let x = values(rows * inputs, 1);
        let x = Rows {
            values: &x,
            width: inputs,
        };
        let (bfloat16, float16) = halves(outputs * inputs, 7);
        for matrix in [Matrix::Bfloat16(&bfloat16), Matrix::Float16(&float16)] {
            let wide = widened(matrix);
            let bias = values(outputs, 4);
            let weight = Weight {
                matrix,
                bias: Some(&bias),
            };
            let wide = Weight {
                matrix: Matrix::Float32(&wide),
                ..weight
            };
            for machine in machines() {
                assert_eq!(computed(&machine, x, weight), computed(&machine, x, wide));
                let [mut found, mut expected] = [(); 2].map(|()| vec![f32::NAN; rows * outputs]);
                gated(&machine, x, [weight, wide], &mut found);
                gated(&machine, x, [wide, weight], &mut expected);
                assert_eq!(found, expected);
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_in_its_row() {
    let mut x = values(5 * 16, 1);
    let weight = values(9 * 16, 2);
    x[2 * 16 + 3] = f32::NAN;
    let x = Rows { values: &x, width: 16 };
    let out = computed(&Machine::new(2), x, plain(&weight));
    for (place, value) in out.iter().enumerate() {
        assert_eq!(value.is_nan(), place / 9 == 2);
    }
}
