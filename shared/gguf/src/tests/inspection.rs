//! What inspection says of files and folders, sound and broken.

use std::path::Path;

use serde_json::json;

use super::conversion::{Converted, converted};
use super::file::{BF16, File, Q4_K, Q5_K, Q6_K};
use crate::{Inspection, Target, TensorSummary, inspect};

fn written(bytes: &[u8], name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn of_file(file: &File) -> Inspection {
    let (_dir, path) = written(&file.bytes(), "model.gguf");
    inspect(&path).unwrap()
}

fn of_folder(file: &File, target: Target) -> (Converted, Inspection) {
    let converted = converted(file, target);
    let inspection = inspect(&converted.dir()).unwrap();
    (converted, inspection)
}

fn tensor<'a>(inspection: &'a Inspection, name: &str) -> &'a TensorSummary {
    inspection.tensors.iter().find(|tensor| tensor.name == name).unwrap()
}

#[test]
fn a_gguf_file_says_what_an_import_would_make_of_it() {
    let inspection = of_file(&File::llama_of(Q5_K));
    assert_eq!((inspection.format, inspection.problem.as_deref()), ("GGUF", None));
    assert_eq!(inspection.architecture.as_deref(), Some("llama"));
    assert_eq!(inspection.context_tokens, Some(128));
    assert_eq!(inspection.provenance["name"], "tiny");
    let tokenizer = inspection.tokenizer.as_ref().unwrap();
    assert_eq!(tokenizer.kind, r#"byte-level BPE, split as "smollm""#);
    assert_eq!((tokenizer.tokens, tokenizer.chat_template), (262, true));
    let embedding = tensor(&inspection, "token_embd.weight");
    assert_eq!(
        (embedding.type_name.as_str(), embedding.shape.as_slice()),
        ("Q5_K", [262, 256].as_slice())
    );
    assert_eq!(embedding.bytes, 262 * 176);
    let counterpart = embedding.counterpart.as_ref().unwrap();
    assert_eq!(counterpart.name, "model.embed_tokens.weight");
    assert_eq!(
        (counterpart.type_name.as_str(), counterpart.error),
        ("affine, 5 bits, groups of 32", None)
    );
}

#[test]
fn a_folder_says_what_it_was_made_from() {
    let (converted, inspection) = of_folder(&File::llama_of(Q5_K), Target::Quantized);
    assert_eq!((inspection.format, inspection.tensors.len()), ("safetensors", 11));
    assert_eq!(inspection.architecture.as_deref(), Some("LlamaForCausalLM"));
    assert_eq!(inspection.quantization, Some(json!({"group_size": 32, "bits": 5})));
    assert_eq!(inspection.provenance["source.sha256"], converted.summary.source_sha256);
    assert_eq!(inspection.tokenizer.as_ref().unwrap().kind, "byte-level BPE");
    let embedding = tensor(&inspection, "model.embed_tokens.weight");
    assert_eq!(embedding.type_name, "affine, 5 bits, groups of 32");
    assert_eq!(embedding.shape, [262, 256], "of the values, not of the words");
    assert_eq!(embedding.bytes, 262 * (256 * 5 / 8 + 2 * 8 * 4));
    let counterpart = embedding.counterpart.as_ref().unwrap();
    assert_eq!(
        (counterpart.name.as_str(), counterpart.type_name.as_str()),
        ("token_embd.weight", "Q5_K")
    );
}

#[test]
fn file_and_folder_agree_on_how_far_off_values_are() {
    let file = File::llama_of(Q6_K);
    let (_converted, folder) = of_folder(&file, Target::Quantized);
    let before = of_file(&file);
    let errors = |inspection: &Inspection| {
        let counterparts = inspection
            .tensors
            .iter()
            .filter_map(|tensor| tensor.counterpart.as_ref());
        let errors: Vec<_> = counterparts
            .filter_map(|counterpart| counterpart.error)
            .map(|error| error.max_error)
            .collect();
        errors
    };
    assert_eq!(errors(&folder), errors(&before));
    assert_eq!(errors(&folder).len(), 8);
    let (_converted, floats) = of_folder(&file, Target::Float32);
    assert_eq!(errors(&floats), Vec::<f64>::new());
}

#[test]
fn a_file_that_cannot_be_imported_is_shown_all_the_same() {
    let mut file = File::llama_of(Q4_K);
    let gate = file.tensor("blk.0.ffn_gate.weight");
    (gate.type_id, gate.data) = (10, vec![0; 256 * 84]);
    let inspection = of_file(&file);
    assert!(inspection.problem.as_ref().unwrap().contains("has type Q2_K"));
    assert_eq!(tensor(&inspection, "blk.0.ffn_gate.weight").type_name, "Q2_K");
    assert_eq!(tensor(&inspection, "blk.0.ffn_up.weight").counterpart, None);
    let inspection = of_file(&File::tiny_of("mamba", &[]));
    assert!(inspection.problem.unwrap().contains("\"mamba\""));
}

#[test]
fn a_published_folder_has_no_counterparts() {
    let (converted, _) = of_folder(&File::llama_of(BF16), Target::Quantized);
    std::fs::remove_file(converted.dir().join("import.json")).unwrap();
    let inspection = inspect(&converted.dir()).unwrap();
    assert_eq!(tensor(&inspection, "model.embed_tokens.weight").type_name, "BF16");
    assert!(inspection.tensors.iter().all(|tensor| tensor.counterpart.is_none()));
    assert!(inspection.provenance.is_empty());
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn broken_folders_are_refused_by_name() {
    let failed = |bytes: &[u8]| {
        let (dir, _path) = written(bytes, "model.safetensors");
        inspect(dir.path()).unwrap_err().to_string()
    };
    assert!(failed(b"").contains("model.safetensors: the header, byte 0: found a file of 0 bytes"));
    assert!(failed(&(1_u64 << 63).to_le_bytes()).contains("found a header of 9223372036854775808 bytes"));
    assert!(failed(&safetensors("{", 0)).contains("a JSON object of tensors"));
    assert!(failed(&safetensors(&format!(r#"{{"w": {}"#, "[".repeat(100_000)), 0)).contains("recursion limit"));
    let entry = |offsets: &str| format!(r#"{{"w": {{"dtype": "F32", "shape": [1], "data_offsets": {offsets}}}}}"#);
    assert!(inspect(written(&safetensors(&entry("[0, 4]"), 4), "model.safetensors").0.path()).is_ok());
    for offsets in [
        "[0, 8]",
        "[4, 0]",
        "[-1, 4]",
        "[0]",
        "null",
        "[0, 18446744073709551615]",
    ] {
        let error = failed(&safetensors(&entry(offsets), 4));
        assert!(
            error.contains(r#"tensor "w""#) && error.contains("within the 4 bytes of data"),
            "{offsets}: {error}"
        );
    }
    let (dir, _path) = written(b"", "readme.txt");
    assert!(
        inspect(dir.path())
            .unwrap_err()
            .to_string()
            .contains("holds no .safetensors file")
    );
    let (dir, _path) = written(b"{", "config.json");
    assert!(
        inspect(dir.path())
            .unwrap_err()
            .to_string()
            .contains("config.json is no valid JSON")
    );
    assert!(
        inspect(Path::new("nothing.gguf"))
            .unwrap_err()
            .to_string()
            .contains("nothing.gguf")
    );
}
