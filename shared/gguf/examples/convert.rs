//! Converts a GGUF file: `cargo run -p kr-gguf --example convert -- FILE.gguf DIR float32|quantized`.

use std::path::Path;
use std::process::ExitCode;

use kr_gguf::{ConvertOptions, Progress, Target, convert};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [source, out_dir, target] = arguments.as_slice() else {
        eprintln!("usage: convert FILE.gguf DIR float32|quantized");
        return ExitCode::from(64);
    };
    let target: Target = match target.parse() {
        Ok(target) => target,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(64);
        }
    };
    let options = ConvertOptions {
        target,
        overwrite: true,
        progress: &mut |Progress {
                            stage,
                            done_bytes,
                            total_bytes,
                        }| {
            eprint!("\r{stage:?} {} %   ", done_bytes * 100 / total_bytes.max(1));
        },
    };
    match convert(Path::new(source), Path::new(out_dir), options) {
        Ok(summary) => {
            eprintln!("\n{summary:#?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\n{error}");
            ExitCode::FAILURE
        }
    }
}
