//! Compares a model folder's tokenizer with reference ids: `cargo run -p kr-tokenizer --example agreement -- DIR FIXTURE`,
//! with a fixture as `fixtures/make_reference.py` writes it.

use std::path::Path;
use std::process::ExitCode;

use kr_tokenizer::{Bundle, DecodeOptions, EncodeOptions};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    reference: String,
    plain: Vec<Case>,
    control: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [dir, fixture] = arguments.as_slice() else {
        eprintln!("usage: agreement DIR FIXTURE");
        return ExitCode::from(64);
    };
    match disagreements(Path::new(dir), Path::new(fixture)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn disagreements(dir: &Path, fixture: &Path) -> Result<usize, Box<dyn std::error::Error>> {
    let bundle = Bundle::load(dir)?;
    let fixture: Fixture = serde_json::from_slice(&std::fs::read(fixture)?)?;
    let mut wrong = 0;
    let cases = [(fixture.plain, false), (fixture.control, true)];
    let total: usize = cases.iter().map(|(cases, _)| cases.len()).sum();
    for (cases, parse_special_tokens) in cases {
        let options = EncodeOptions {
            add_special_tokens: false,
            parse_special_tokens,
        };
        for case in cases {
            let ids = bundle.encode(&case.text, options)?;
            let text = bundle.decode(
                &case.ids,
                DecodeOptions {
                    keep_special_tokens: true,
                },
            )?;
            if ids != case.ids || text != case.text {
                wrong += 1;
                eprintln!("{:?}: {ids:?}, expected {:?}; decoded {text:?}", case.text, case.ids);
            }
        }
    }
    eprintln!("{} of {total} texts agree with {}", total - wrong, fixture.reference);
    Ok(wrong)
}
