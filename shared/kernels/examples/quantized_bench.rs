//! Time of the quantised products of one step, without anything else: `quantized_bench [threads=N] [avx2|portable|…] [float32] [rows …]`
//! prints one line of JSON for each number of rows. The shapes are SmolLM2-135M's: 106 million 4-bit weights in 30 layers, then an
//! 8-bit head of 28 million. The share of streaming bandwidth compares with plain reads of the same bytes by as many threads.

use std::hint::black_box;
use std::time::Instant;

use kr_kernels::quantized::{Activations, Bits, ByteInstructions, Layout, Method, Products, ScaleType, Weight};
use kr_kernels::{Machine, Rows};

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 49_152;
const REPEATS: usize = 15;

/// Panels of weights.
struct Matrix {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Matrix {
    fn new(outputs: usize, inputs: usize, bits: Bits) -> Option<Self> {
        let layout = Layout::new([outputs, inputs], 32, bits, ScaleType::Float16)?;
        // Every pair of bytes below 0x7c00 is a finite half.
        let bytes = (0..48).cycle().take(layout.bytes()).collect();
        Some(Self { layout, bytes })
    }

    fn weight<'a>(&self, bytes: &'a [u8]) -> Weight<'a> {
        Weight {
            layout: self.layout,
            panels: bytes,
            bias: None,
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut threads = std::thread::available_parallelism()?.get();
    let mut method = Method {
        instructions: ByteInstructions::detect(),
        activations: Activations::Int8,
    };
    let mut rows = Vec::new();
    for argument in std::env::args().skip(1) {
        let mut sets = ByteInstructions::available().into_iter();
        if let Some(count) = argument.strip_prefix("threads=") {
            threads = count.parse()?;
        } else if argument == "float32" {
            method.activations = Activations::Float32;
        } else if let Some(instructions) = sets.find(|set| set.name() == argument) {
            method.instructions = instructions;
        } else {
            rows.push(argument.parse()?);
        }
    }
    if rows.is_empty() {
        rows = vec![1, 2, 4, 8, 16, 32, 128];
    }
    let model = Model::new().ok_or("a shape is not supported")?;
    let streaming = model.streaming(threads);
    let machine = Machine::new(threads);
    for rows in rows {
        model.report(&machine, method, rows, streaming);
    }
    Ok(())
}

/// Bytes of every layer's matrices, and of the head.
struct Model {
    shapes: Vec<Matrix>,
    layers: Vec<Vec<Vec<u8>>>,
    head: Matrix,
}

impl Model {
    fn new() -> Option<Self> {
        let kv = HIDDEN / 3;
        let sizes = [
            (HIDDEN, HIDDEN),
            (kv, HIDDEN),
            (kv, HIDDEN),
            (HIDDEN, HIDDEN),
            (INNER, HIDDEN),
            (INNER, HIDDEN),
            (HIDDEN, INNER),
        ];
        let matrix = |(outputs, inputs)| Matrix::new(outputs, inputs, Bits::Four);
        let shapes: Vec<_> = sizes.into_iter().map(matrix).collect::<Option<_>>()?;
        let layers = (0..LAYERS)
            .map(|_| shapes.iter().map(|shape| shape.bytes.clone()).collect())
            .collect();
        let head = Matrix::new(VOCABULARY, HIDDEN, Bits::Eight)?;
        Some(Self { shapes, layers, head })
    }

    fn layer_bytes(&self) -> usize {
        self.layers.iter().flatten().map(Vec::len).sum()
    }

    /// Bytes a second that plain reads of all weights reach, at best.
    fn streaming(&self, threads: usize) -> f64 {
        let parts: Vec<&[u8]> = self
            .layers
            .iter()
            .flatten()
            .map(Vec::as_slice)
            .chain([&self.head.bytes[..]])
            .collect();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let best = best_of(threads, || {
            if threads == 1 {
                parts.iter().for_each(|part| _ = black_box(read(part)));
                return;
            }
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let parts = &parts;
                    scope.spawn(move || {
                        for part in parts {
                            let share = part.len() / threads;
                            black_box(read(&part[thread * share..(thread + 1) * share]));
                        }
                    });
                }
            });
        });
        bytes as f64 / best
    }

    #[expect(clippy::print_stdout, reason = "the result of a command line program")]
    fn report(&self, machine: &Machine, method: Method, rows: usize, streaming: f64) {
        let x: Vec<f32> = (0..rows * INNER).map(|index| (index as f32 * 0.37).sin()).collect();
        let mut out = vec![0.0; rows * VOCABULARY];
        let products = |width: usize| Products {
            machine,
            method,
            x: Rows {
                values: &x[..rows * width],
                width,
            },
        };
        let threads = machine.pool.threads();
        let layers = best_of(threads, || {
            for layer in &self.layers {
                let weights: Vec<_> = self
                    .shapes
                    .iter()
                    .zip(layer)
                    .map(|(shape, bytes)| shape.weight(bytes))
                    .collect();
                products(HIDDEN).linear(&weights[..3], None, &mut out[..rows * (HIDDEN + 2 * HIDDEN / 3)]);
                products(HIDDEN).linear(&weights[3..4], None, &mut out[..rows * HIDDEN]);
                products(HIDDEN).gated([weights[4], weights[5]], &mut out[..rows * INNER]);
                products(INNER).linear(&weights[6..], None, &mut out[..rows * HIDDEN]);
            }
        });
        let head = best_of(threads, || {
            products(HIDDEN).linear(&[self.head.weight(&self.head.bytes)], None, &mut out)
        });
        let share = |bytes: usize, seconds: f64| bytes as f64 / seconds / streaming;
        println!(
            "{{\"rows\":{rows},\"threads\":{},\"instructions\":\"{}\",\"activations\":\"{}\",\"layers_ms\":{:.3},\"layers_ms_per_row\":{:.3},\"head_ms\":{:.3},\"layers_gb_per_s\":{:.1},\"streaming_gb_per_s\":{:.1},\"layers_share\":{:.2},\"head_share\":{:.2}}}",
            threads,
            method.instructions.name(),
            method.activations.name(),
            layers * 1e3,
            layers * 1e3 / rows as f64,
            head * 1e3,
            self.layer_bytes() as f64 / layers / 1e9,
            streaming / 1e9,
            share(self.layer_bytes(), layers),
            share(self.head.bytes.len(), head),
        );
    }
}

/// The shortest time in seconds: what passes, or with one thread what it was running, so that a busy machine still gives a figure.
fn best_of(threads: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let started = (Instant::now(), running());
        work();
        let passed = started.0.elapsed().as_secs_f64();
        let ran = running().zip(started.1).map(|(end, start)| end - start);
        best = best.min(ran.filter(|_| threads == 1).unwrap_or(passed));
    }
    best
}

/// Seconds this thread was running, where the system counts them.
fn running() -> Option<f64> {
    // Brings the account up to date.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanos / 1e9)
}

/// Reads every byte.
fn read(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
