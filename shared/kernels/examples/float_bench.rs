//! Rates of the float kernels on one thread, without anything else: `float_bench [avx2|portable|…]` prints one line of JSON for each
//! product and attention, of SmolLM2-135M's shapes. Times are those the thread was running, the best of several rounds, so that a busy
//! machine still gives a figure.

use std::hint::black_box;

use kr_kernels::{
    Attention, Bfloat16, CacheShape, Instructions, Machine, Matrix, Pool, Preparation, RotaryTable, Rows, Span,
    TokenPart, Weight, Writing, linear, write_keys, write_values,
};

const HIDDEN: usize = 576;
const OUTPUTS: usize = 49_152;
const HEADS: usize = 9;
const CACHE: CacheShape = CacheShape {
    kv_heads: 3,
    capacity: 2048,
    head_dim: 64,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted = std::env::args().nth(1);
    for instructions in Instructions::available() {
        if wanted.as_ref().is_some_and(|wanted| wanted != instructions.name()) {
            continue;
        }
        let machine = Machine {
            instructions,
            pool: Pool::new(1),
        };
        let matrix: Vec<f32> = (0..OUTPUTS * HIDDEN).map(value).collect();
        let halves: Vec<Bfloat16> = matrix
            .iter()
            .map(|value| Bfloat16((value.to_bits() >> 16) as u16))
            .collect();
        for rows in [1, 2, 4, 8, 32, 128] {
            products(&machine, "linear float32", Matrix::Float32(&matrix), rows)?;
            products(&machine, "linear bfloat16", Matrix::Bfloat16(&halves), rows)?;
        }
        for (start, len) in [(127, 1), (1023, 1), (0, 128), (0, 512), (0, 2048)] {
            attention(&machine, start, len)?;
        }
    }
    Ok(())
}

fn value(index: usize) -> f32 {
    ((index * 7919) % 2003) as f32 / 1001.5 - 1.0
}

fn products(machine: &Machine, name: &str, matrix: Matrix<'_>, rows: usize) -> Result<(), std::io::Error> {
    let x: Vec<f32> = (0..rows * HIDDEN).map(value).collect();
    let mut out = vec![0.0; rows * OUTPUTS];
    let weight = Weight { matrix, bias: None };
    let seconds = best(|| {
        let x = Rows {
            values: &x,
            width: HIDDEN,
        };
        linear(machine, x, &[weight], None, black_box(&mut out));
    })?;
    let bytes = match matrix {
        Matrix::Float32(values) => size_of_val(values),
        Matrix::Bfloat16(values) => size_of_val(values),
        Matrix::Float16(values) => size_of_val(values),
    };
    let operations = 2 * rows * OUTPUTS * HIDDEN;
    report(machine, &format!("{name}, {rows} rows"), seconds, operations, bytes);
    Ok(())
}

fn attention(machine: &Machine, start: usize, len: usize) -> Result<(), std::io::Error> {
    let width = CACHE.kv_heads * CACHE.head_dim;
    let mut keys: Vec<f32> = (0..CACHE.capacity * width).map(value).collect();
    let mut values = keys.clone();
    let q: Vec<f32> = (0..len * HEADS * CACHE.head_dim).map(value).collect();
    let kv: Vec<f32> = (0..len * width).map(value).collect();
    let periods: Vec<f64> = (0..CACHE.head_dim / 2)
        .map(|index| 1e5_f64.powf(index as f64 / 32.0))
        .collect();
    let rotary = RotaryTable::new(&periods, CACHE.capacity);
    let preparation = Preparation {
        norm: None,
        rotary: &rotary,
    };
    let spans = [Span {
        row: 0,
        start,
        len,
        offset: 0,
    }];
    let part = |values, stride| TokenPart {
        values,
        offset: 0,
        stride,
    };
    let writing = Writing {
        cache: CACHE,
        spans: &spans,
        new: part(&kv, width),
    };
    let mut out = vec![0.0; q.len()];
    let seconds = best(|| {
        write_keys(machine, writing, preparation, &mut keys);
        write_values(machine, writing, &mut values);
        let attention = Attention {
            heads: HEADS,
            preparation,
            scale: 0.125,
            window: None,
            q: part(&q, HEADS * CACHE.head_dim),
            cache: CACHE,
            keys: &keys,
            values: &values,
        };
        attention.run(machine, &spans, black_box(&mut out));
    })?;
    let seen: usize = (start..start + len).map(|position| position + 1).sum();
    let name = format!("attention, {len} tokens at {start}");
    report(machine, &name, seconds, 4 * seen * HEADS * CACHE.head_dim, 0);
    Ok(())
}

/// The shortest time that this thread ran for `work`, in seconds.
fn best(mut work: impl FnMut()) -> Result<f64, std::io::Error> {
    let mut shortest = f64::INFINITY;
    for _ in 0..7 {
        let before = running()?;
        work();
        shortest = shortest.min(running()? - before);
    }
    Ok(shortest)
}

fn running() -> Result<f64, std::io::Error> {
    // Brings the account up to date.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    Ok(nanos.unwrap_or(f64::NAN) / 1e9)
}

#[expect(clippy::print_stdout, reason = "the result of a command line program")]
fn report(machine: &Machine, name: &str, seconds: f64, operations: usize, bytes: usize) {
    println!(
        "{{\"instructions\":\"{}\",\"kernel\":\"{name}\",\"ms\":{:.3},\"gflop_per_s\":{:.1},\"gb_per_s\":{:.1}}}",
        machine.instructions.name(),
        seconds * 1e3,
        operations as f64 / seconds / 1e9,
        bytes as f64 / seconds / 1e9,
    );
}
