use super::*;
use crate::{Instructions, Pool};

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn machines() -> Vec<Machine> {
    let sets = [Instructions::detect(), Instructions::portable()];
    let pairs = sets.into_iter().flat_map(|set| [1, 2, 3].map(|threads| (set, threads)));
    pairs
        .map(|(instructions, threads)| Machine {
            instructions,
            pool: Pool::new(threads),
        })
        .collect()
}

fn product<'a>(x: &'a [f32], weight: &'a [f32], inputs: usize) -> Linear<'a> {
    Linear {
        x,
        weight,
        bias: None,
        inputs,
    }
}

fn computed(machine: &Machine, product: Linear<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; product.x.len() / product.inputs * (product.weight.len() / product.inputs)];
    linear(machine, product, &mut out);
    out
}

#[test]
fn products_equal_the_plain_sums() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (1, 64, 40),
        (2, 17, 7),
        (3, 24, 25),
        (4, 8, 3),
        (5, 100, 49),
        (70, 33, 130),
    ] {
        let (x, weight, bias) = (
            values(rows * inputs, 1),
            values(outputs * inputs, 2),
            values(outputs, 3),
        );
        for machine in machines() {
            let with_bias = Linear {
                bias: Some(&bias),
                ..product(&x, &weight, inputs)
            };
            let out = computed(&machine, with_bias);
            for (place, found) in out.iter().enumerate() {
                let (row, output) = (place / outputs, place % outputs);
                let pairs = x[row * inputs..]
                    .iter()
                    .zip(&weight[output * inputs..(output + 1) * inputs]);
                let exact: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let expected = exact + f64::from(bias[output]);
                assert!(
                    (f64::from(*found) - expected).abs() < 2e-5,
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
    for set in [Instructions::detect(), Instructions::portable()] {
        let machine = |threads| Machine {
            instructions: set,
            pool: Pool::new(threads),
        };
        let alone: Vec<f32> = x
            .chunks(inputs)
            .flat_map(|row| computed(&machine(1), product(row, &weight, inputs)))
            .collect();
        for (rows, threads) in [(2, 2), (3, 1), (12, 2), (16, 3), (31, 2), (32, 1), (64, 2), (97, 2)] {
            let together = computed(&machine(threads), product(&x[..rows * inputs], &weight, inputs));
            assert!(
                together
                    .iter()
                    .map(|value| value.to_bits())
                    .eq(alone[..rows * outputs].iter().map(|value| value.to_bits()))
            );
        }
    }
}

#[test]
fn what_is_not_a_number_stays_in_its_row() {
    let mut x = values(5 * 16, 1);
    let weight = values(9 * 16, 2);
    x[2 * 16 + 3] = f32::NAN;
    let out = computed(&Machine::new(2), product(&x, &weight, 16));
    for (place, value) in out.iter().enumerate() {
        assert_eq!(value.is_nan(), place / 9 == 2);
    }
}
