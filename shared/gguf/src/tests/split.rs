//! Models split into several files: read whole from the first, refused by name when something does not fit.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::file::{File, Meta};
use crate::{ConvertOptions, Error, Gguf, Summary, Target, convert};

struct Parts {
    dir: tempfile::TempDir,
}

impl Parts {
    fn written(parts: &[File]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (number, part) in parts.iter().enumerate() {
            let name = format!("tiny-{:05}-of-{:05}.gguf", number + 1, parts.len());
            std::fs::write(dir.path().join(name), part.bytes()).unwrap();
        }
        Self { dir }
    }

    fn part(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Result<Gguf, Error> {
        Gguf::open(&self.part("tiny-00001-of-00002.gguf"))
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let text = self.open().unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
}

fn converted(source: &Path, out: &Path) -> Summary {
    let options = ConvertOptions {
        target: Target::Quantized,
        overwrite: false,
        progress: &mut |_| {},
    };
    convert(source, out, options).unwrap()
}

#[test]
fn a_split_model_becomes_the_same_folder_as_a_whole_one() {
    let whole = File::tiny_llama();
    let parts = Parts::written(&whole.split(4));
    let single = parts.part("whole.gguf");
    std::fs::write(&single, whole.bytes()).unwrap();
    let (one, two) = (parts.part("one"), parts.part("two"));
    converted(&single, &one);
    let summary = converted(&parts.part("tiny-00001-of-00002.gguf"), &two);
    assert_eq!(summary.tensors, 11);
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights(&one), weights(&two));
    assert!(SafeTensors::deserialize(&weights(&two)).is_ok());

    let record = std::fs::read(two.join("import.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let files: Vec<_> = record["source"]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| &part["file"])
        .collect();
    assert_eq!(files, ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"]);
    assert_ne!(
        record["source"]["parts"][0]["sha256"],
        record["source"]["parts"][1]["sha256"]
    );
}

#[test]
fn a_missing_part_is_named() {
    let parts = Parts::written(&File::tiny_llama().split(4));
    std::fs::remove_file(parts.part("tiny-00002-of-00002.gguf")).unwrap();
    parts.refused(&["tiny-00002-of-00002.gguf is missing; put all 2 parts"]);
}

#[test]
fn any_part_but_the_first_points_to_the_first() {
    let parts = Parts::written(&File::tiny_llama().split(4));
    let error = Gguf::open(&parts.part("tiny-00002-of-00002.gguf"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is part 2 of 2; give the first one, whose name ends with -00001-of-00002.gguf"),
        "{error}"
    );
}

#[test]
fn a_name_without_a_number_cannot_lead_to_the_others() {
    let parts = Parts::written(&File::tiny_llama().split(4));
    let renamed = parts.part("renamed.gguf");
    std::fs::rename(parts.part("tiny-00001-of-00002.gguf"), &renamed).unwrap();
    let error = Gguf::open(&renamed).unwrap_err().to_string();
    assert!(
        error.contains("its name does not end with -00001-of-00002.gguf"),
        "{error}"
    );
}

#[test]
fn parts_of_something_else_are_refused() {
    let [first, second] = File::tiny_llama().split(4);
    let other = |change: &dyn Fn(File) -> File| Parts::written(&[first.clone(), change(second.clone())]);
    other(&|part| part.with("split.no", Meta::U32(0))).refused(&["00002-of-00002.gguf says that it is part 1 of 2"]);
    other(&|part| part.with("split.count", Meta::U32(3))).refused(&["part 2 of 3, expected part 2 of 2"]);
    other(&|part| part.without("split.count")).refused(&["does not say that it is part 2 of 2"]);
    other(&|_| first.clone().with("split.no", Meta::U32(1))).refused(&[
        "00002-of-00002.gguf holds tensor \"token_embd.weight\"",
        "which another part holds too",
    ]);
    let mut short = second.clone();
    short.tensors.pop();
    Parts::written(&[first.clone(), short]).refused(&["split.tensors.count", "has 11, expected 10"]);
}

#[test]
fn a_fault_in_a_later_part_names_that_part() {
    let [first, second] = File::tiny_llama().split(4);
    let parts = Parts::written(&[first.clone(), second.clone()]);
    let later = parts.part("tiny-00002-of-00002.gguf");
    std::fs::write(&later, &second.bytes()[..200]).unwrap();
    parts.refused(&["tiny-00002-of-00002.gguf: ", "byte "]);

    let mut broken = second;
    broken.tensor("blk.0.ffn_gate.weight").dimensions = vec![64, 32];
    std::fs::write(&later, broken.bytes()).unwrap();
    let options = ConvertOptions {
        target: Target::Quantized,
        overwrite: false,
        progress: &mut |_| {},
    };
    let error = convert(&parts.part("tiny-00001-of-00002.gguf"), &parts.part("out"), options).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("tiny-00002-of-00002.gguf: tensor \"blk.0.ffn_gate.weight\""),
        "{error}"
    );
}
