#![expect(clippy::cast_possible_truncation, reason = "test data")]

use proptest::prelude::*;

use super::*;
use crate::{Machine, Rows};

/// Quantised weights in MLX's layout, and what they stand for.
#[derive(Debug)]
struct Case {
    shape: [usize; 2],
    group: usize,
    bits: Bits,
    words: Vec<u8>,
    scales: Vec<f32>,
    biases: Vec<f32>,
    scale_type: ScaleType,
}

/// A sequence of numbers that looks random (Steele et al. 2014, SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

impl Case {
    fn new([outputs, inputs]: [usize; 2], group: usize, bits: Bits, scale_type: ScaleType, seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let exact = |value: f32| match scale_type {
            ScaleType::Float32 => value,
            ScaleType::Float16 => pack::of_half((value.abs() * 15360.0) as u16 | u16::from(value < 0.0) << 15),
            ScaleType::Bfloat16 => f32::from_bits(value.to_bits() & 0xffff_0000),
        };
        let groups = outputs * inputs / group;
        let words = (0..outputs * inputs * bits.count() / 8)
            .map(|_| numbers.next() as u8)
            .collect();
        let scales = (0..groups).map(|_| exact(numbers.float() * 0.1)).collect();
        let biases = (0..groups).map(|_| exact(numbers.float())).collect();
        Self {
            shape: [outputs, inputs],
            group,
            bits,
            words,
            scales,
            biases,
            scale_type,
        }
    }

    fn code(&self, output: usize, input: usize) -> u8 {
        let place = output * self.shape[1] + input;
        match self.bits {
            Bits::Eight => self.words[place],
            Bits::Four => self.words[place / 2] >> (4 * (place % 2)) & 15,
        }
    }

    fn weight(&self, output: usize, input: usize) -> f64 {
        let group = (output * self.shape[1] + input) / self.group;
        f64::from(self.scales[group]) * f64::from(self.code(output, input)) + f64::from(self.biases[group])
    }

    /// The layout that is chosen for it, and the panels.
    fn packed(&self) -> (Layout, Vec<u8>) {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (scales, biases) = (bytes(&self.scales), bytes(&self.biases));
        let source = Source {
            words: &self.words,
            scales: &scales,
            biases: &biases,
            scale_type: ScaleType::Float32,
        };
        let scale_type = source.smallest_scale_type();
        let layout = Layout::new(self.shape, self.group, self.bits, scale_type).unwrap();
        let mut panels = vec![1; layout.bytes()];
        let half = layout.panels() / 2;
        let (front, back) = panels.split_at_mut(half * layout.panel_bytes());
        pack_panels(&layout, source, 0..half, front);
        pack_panels(&layout, source, half..layout.panels(), back);
        (layout, panels)
    }
}

fn product(machine: &Machine, method: Method, weights: &[Weight<'_>], x: &[f32]) -> Vec<f32> {
    let width = weights[0].layout.inputs();
    let outputs: usize = weights.iter().map(|weight| weight.layout.outputs()).sum();
    let mut out = vec![f32::NAN; x.len() / width * outputs];
    let x = Rows { values: x, width };
    Products { machine, method, x }.linear(weights, None, &mut out);
    out
}

fn methods(activations: Activations) -> Vec<Method> {
    let sets = ByteInstructions::available().into_iter();
    sets.map(|instructions| Method {
        instructions,
        activations,
    })
    .collect()
}

fn same(left: &[f32], right: &[f32]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .all(|(left, right)| left.to_bits() == right.to_bits())
}

/// What rounding the activations of a run may change in one output, by the bound that the module states.
fn bound(case: &Case, output: usize, x: &[f32]) -> f64 {
    let runs = x.chunks(RUN).enumerate();
    runs.map(|(run, x)| {
        let largest = x
            .iter()
            .fold(0.0_f64, |largest, value| largest.max(f64::from(value.abs())));
        let weights: f64 = (0..RUN).map(|input| case.weight(output, run * RUN + input).abs()).sum();
        largest / 254.0 * weights
    })
    .sum()
}

/// What float32's rounding may change: each run's value is rounded a few times, and so is each partial sum.
fn rounding(case: &Case, output: usize, x: &[f32]) -> f64 {
    let group = |input: usize| (output * case.shape[1] + input) / case.group;
    let terms = x.iter().enumerate().map(|(input, x)| {
        let scaled = f64::from(case.scales[group(input)]) * f64::from(case.code(output, input));
        (scaled.abs() + f64::from(case.biases[group(input)]).abs()) * f64::from(x.abs())
    });
    terms.sum::<f64>() * f64::from(f32::EPSILON) * (x.len() + 8) as f64
}

fn check(case: &Case, rows: usize, seed: u64, activations: Activations) -> Result<(), TestCaseError> {
    let [outputs, inputs] = case.shape;
    let x = Numbers(seed).floats(rows * inputs);
    let (layout, panels) = case.packed();
    prop_assert!(layout.scales() == case.scale_type || case.scale_type == ScaleType::Bfloat16);
    let weight = Weight {
        layout,
        panels: &panels,
        bias: None,
    };
    let machine = Machine::new(2);
    let mut first: Option<Vec<f32>> = None;
    for method in methods(activations) {
        let found = product(&machine, method, &[weight], &x);
        for (row, (x, found)) in x.chunks(inputs).zip(found.chunks(outputs)).enumerate() {
            for (output, found) in found.iter().enumerate() {
                let exact: f64 = (0..inputs)
                    .map(|input| case.weight(output, input) * f64::from(x[input]))
                    .sum();
                let error = (f64::from(*found) - exact).abs();
                let mut allowed = rounding(case, output, x);
                if activations == Activations::Int8 {
                    allowed += bound(case, output, x);
                }
                prop_assert!(
                    error <= allowed,
                    "{method:?}, row {row}, output {output}: {found}, not {exact}"
                );
            }
        }
        let first = first.get_or_insert_with(|| found.clone());
        prop_assert!(same(first, &found), "{method:?} rounds differently");
    }
    Ok(())
}

fn cases() -> impl Strategy<Value = (Case, usize)> {
    let bits = prop_oneof![Just(Bits::Four), Just(Bits::Eight)];
    let scales = prop_oneof![
        Just(ScaleType::Float32),
        Just(ScaleType::Float16),
        Just(ScaleType::Bfloat16)
    ];
    let group = prop_oneof![Just(32_usize), Just(64), Just(128)];
    let shape = (1_usize..70, 1_usize..6, group);
    (shape, bits, scales, any::<u64>(), 1_usize..20).prop_map(|((outputs, groups, group), bits, scales, seed, rows)| {
        (Case::new([outputs, groups * group], group, bits, scales, seed), rows)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_of_rounded_activations_keep_to_the_stated_bound((case, rows) in cases(), seed: u64) {
        check(&case, rows, seed, Activations::Int8)?;
    }

    #[test]
    fn products_of_float32_activations_are_exact_to_rounding((case, rows) in cases(), seed: u64) {
        check(&case, rows, seed, Activations::Float32)?;
    }

    #[test]
    fn rows_are_taken_as_they_were((case, rows) in cases(), seed: u64) {
        let [outputs, inputs] = case.shape;
        let mut numbers = Numbers(seed);
        let ids: Vec<usize> = (0..rows).map(|_| numbers.next() as usize % outputs).collect();
        let (layout, panels) = case.packed();
        let weight = Weight { layout, panels: &panels, bias: None };
        let mut out = vec![0.0; rows * inputs];
        take_rows(weight, ids.iter().copied(), &mut out);
        for (id, out) in ids.iter().zip(out.chunks(inputs)) {
            for (input, value) in out.iter().enumerate() {
                let group = (id * inputs + input) / case.group;
                let expected = case.scales[group] * f32::from(case.code(*id, input)) + case.biases[group];
                prop_assert_eq!(value.to_bits(), expected.to_bits());
            }
        }
    }
}

#[test]
fn a_row_is_the_same_in_every_company_and_on_any_threads() {
    let machines = [Machine::new(1), Machine::new(2)];
    for (bits, activations) in [
        (Bits::Four, Activations::Int8),
        (Bits::Eight, Activations::Int8),
        (Bits::Four, Activations::Float32),
        (Bits::Eight, Activations::Float32),
    ] {
        let case = Case::new([50, 192], 64, bits, ScaleType::Float32, 7);
        let (layout, panels) = case.packed();
        let weight = Weight {
            layout,
            panels: &panels,
            bias: None,
        };
        let x = Numbers(3).floats(32 * 192);
        for method in methods(activations) {
            let alone: Vec<Vec<f32>> = x
                .chunks(192)
                .map(|x| product(&machines[0], method, &[weight], x))
                .collect();
            for (rows, machine) in [1, 12, 16, 31, 32]
                .into_iter()
                .flat_map(|rows| machines.iter().map(move |m| (rows, m)))
            {
                // The last rows first, so that each lies elsewhere than in other batches.
                let order: Vec<usize> = (0..rows).rev().collect();
                let batch: Vec<f32> = order
                    .iter()
                    .flat_map(|row| &x[row * 192..(row + 1) * 192])
                    .copied()
                    .collect();
                let found = product(machine, method, &[weight], &batch);
                for (row, found) in order.iter().zip(found.chunks(50)) {
                    assert!(same(found, &alone[*row]), "{method:?}, row {row} of {rows}");
                }
            }
        }
    }
}

#[test]
fn many_rows_are_prepared_by_several_threads_as_by_one() {
    let case = Case::new([20, 1536], 32, Bits::Four, ScaleType::Float16, 9);
    let (layout, panels) = case.packed();
    let weight = Weight {
        layout,
        panels: &panels,
        bias: None,
    };
    let x = Numbers(4).floats(70 * 1536);
    for method in methods(Activations::Int8) {
        let many = product(&Machine::new(2), method, &[weight], &x);
        for (x, many) in x.chunks(1536).zip(many.chunks(20)) {
            assert!(
                same(&product(&Machine::new(1), method, &[weight], x), many),
                "{method:?}"
            );
        }
    }
}

#[test]
fn layers_lie_side_by_side_with_bias_and_residual() {
    let machine = Machine::new(2);
    let cases = [(33, Bits::Four), (5, Bits::Eight), (16, Bits::Four)]
        .map(|(outputs, bits)| Case::new([outputs, 64], 32, bits, ScaleType::Float16, outputs as u64));
    let packed = cases.each_ref().map(Case::packed);
    let bias = Numbers(5).floats(33);
    let weights: Vec<Weight<'_>> = packed
        .iter()
        .enumerate()
        .map(|(index, (layout, panels))| Weight {
            layout: *layout,
            panels,
            bias: (index == 0).then_some(&bias[..]),
        })
        .collect();
    let (x, residual) = (Numbers(6).floats(3 * 64), Numbers(7).floats(3 * 54));
    for method in methods(Activations::Int8) {
        let products = Products {
            machine: &machine,
            method,
            x: Rows { values: &x, width: 64 },
        };
        let mut together = vec![0.0; 3 * 54];
        products.linear(&weights, Some(&residual), &mut together);
        let apart = weights.iter().map(|weight| product(&machine, method, &[*weight], &x));
        let apart: Vec<_> = apart.zip([33, 5, 16]).collect();
        for row in 0..3 {
            let joined = apart
                .iter()
                .flat_map(|(out, width)| &out[row * width..(row + 1) * width]);
            for (column, value) in joined.enumerate() {
                let place = row * 54 + column;
                let expected = value + residual[place];
                assert_eq!(
                    together[place].to_bits(),
                    expected.to_bits(),
                    "{method:?}, row {row}, column {column}"
                );
            }
        }
    }
}

#[test]
fn gates_are_the_gate_of_both_products() {
    let machine = Machine::new(2);
    let cases = [1, 2].map(|seed| Case::new([40, 128], 32, Bits::Four, ScaleType::Float16, seed));
    let packed = cases.each_ref().map(Case::packed);
    let weights = packed.each_ref().map(|(layout, panels)| Weight {
        layout: *layout,
        panels,
        bias: None,
    });
    let x = Numbers(8).floats(9 * 128);
    for method in methods(Activations::Int8) {
        let mut out = vec![0.0; 9 * 40];
        Products {
            machine: &machine,
            method,
            x: Rows { values: &x, width: 128 },
        }
        .gated(weights, &mut out);
        let [gate, up] = weights.map(|weight| product(&machine, method, &[weight], &x));
        let mut expected = vec![0.0; out.len()];
        crate::activation::gate_elements(machine.instructions, &gate, &up, &mut expected);
        for (found, expected) in out.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs(),
                "{method:?}: {found}, not {expected}"
            );
        }
    }
}

#[test]
fn activations_that_are_not_finite_reach_every_output_of_their_row_and_no_other() {
    let case = Case::new([20, 96], 32, Bits::Eight, ScaleType::Float16, 11);
    let (layout, panels) = case.packed();
    let weight = Weight {
        layout,
        panels: &panels,
        bias: None,
    };
    for (bad, activations) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .flat_map(|bad| [(bad, Activations::Int8), (bad, Activations::Float32)])
    {
        let mut x = Numbers(12).floats(5 * 96);
        x[2 * 96 + 40] = bad;
        for method in methods(activations) {
            let found = product(&Machine::new(1), method, &[weight], &x);
            for (row, found) in found.chunks(20).enumerate() {
                assert!(
                    found.iter().all(|value| value.is_finite() == (row != 2)),
                    "{method:?}, row {row}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn zeros_tiny_and_huge_activations_stay_within_the_bound() {
    let case = Case::new([17, 64], 64, Bits::Four, ScaleType::Float16, 13);
    let (layout, panels) = case.packed();
    let weight = Weight {
        layout,
        panels: &panels,
        bias: None,
    };
    for magnitude in [0.0, f32::MIN_POSITIVE / 8.0, 1e-37, 1e-20, 1e30] {
        let x: Vec<f32> = Numbers(14).floats(64).iter().map(|value| value * magnitude).collect();
        for method in methods(Activations::Int8) {
            let found = product(&Machine::new(1), method, &[weight], &x);
            for (output, found) in found.iter().enumerate() {
                let exact: f64 = (0..64)
                    .map(|input| case.weight(output, input) * f64::from(x[input]))
                    .sum();
                // What is too small to be rounded counts as zero.
                let vanishing = 4e-37 * (0..64).map(|input| case.weight(output, input).abs()).sum::<f64>();
                let allowed = bound(&case, output, &x) + rounding(&case, output, &x) + vanishing;
                assert!(
                    (f64::from(*found) - exact).abs() <= allowed,
                    "{method:?}: {found}, not {exact}"
                );
            }
        }
    }
}
