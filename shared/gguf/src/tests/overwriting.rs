//! When a folder may be replaced, and what is left after a failure.

use std::fs;
use std::path::{Path, PathBuf};

use super::file::{File, Meta};
use crate::{ConvertOptions, Error, Target, convert};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("models").join("tiny")
    }

    fn convert(&self, file: &File, overwrite: bool) -> Result<(), Error> {
        let source = self.dir.path().join("model.gguf");
        fs::write(&source, file.bytes()).unwrap();
        let options = ConvertOptions {
            target: Target::Float32,
            overwrite,
            progress: &mut |_| {},
        };
        convert(&source, &self.out(), options).map(drop)
    }

    /// Names beside and including the output folder.
    fn siblings(&self) -> Vec<String> {
        names(&self.dir.path().join("models"))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_with_files_is_not_replaced_unasked() {
    let place = Place::new();
    place.convert(&File::tiny_llama(), false).unwrap();
    let error = place.convert(&File::tiny_llama(), false).unwrap_err();
    assert!(
        matches!(&error, Error::OutputExists { dir } if *dir == place.out()),
        "{error}"
    );
    assert_eq!(place.siblings(), ["tiny"]);
}

#[test]
fn an_empty_folder_is_used() {
    let place = Place::new();
    fs::create_dir_all(place.out()).unwrap();
    place.convert(&File::tiny_llama(), false).unwrap();
    assert!(place.out().join("config.json").is_file());
}

#[test]
fn an_import_is_replaced_when_asked() {
    let place = Place::new();
    place.convert(&File::tiny_llama(), false).unwrap();
    place
        .convert(&File::tiny_llama().with("llama.context_length", Meta::U32(77)), true)
        .unwrap();
    assert!(
        fs::read_to_string(place.out().join("config.json"))
            .unwrap()
            .contains("\"max_position_embeddings\": 77")
    );
    assert_eq!(place.siblings(), ["tiny"]);
}

#[test]
fn a_folder_that_no_import_made_is_never_replaced() {
    let place = Place::new();
    fs::create_dir_all(place.out()).unwrap();
    fs::write(place.out().join("thesis.txt"), "years of work").unwrap();
    let error = place.convert(&File::tiny_llama(), true).unwrap_err();
    assert!(matches!(error, Error::NotAnImport { .. }), "{error}");
    assert_eq!(names(&place.out()), ["thesis.txt"]);
}

#[test]
fn a_failed_conversion_leaves_nothing_behind() {
    let place = Place::new();
    let mut file = File::tiny_llama();
    // Scale and minimum of the last row become infinite, which is found while writing.
    let data = &mut file.tensor("blk.0.ffn_down.weight").data;
    let last = data.len() - 20;
    data[last..last + 4].copy_from_slice(&[0x00, 0x7c, 0x00, 0x7c]);
    let error = place.convert(&file, false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(r#"tensor "blk.0.ffn_down.weight" holds a value that is not finite, in row 31, from byte "#),
        "{error}"
    );
    assert_eq!(place.siblings(), Vec::<String>::new());
}

#[test]
fn a_failed_replacement_leaves_the_old_folder() {
    let place = Place::new();
    place.convert(&File::tiny_llama(), false).unwrap();
    let before = fs::read(place.out().join("config.json")).unwrap();
    place
        .convert(&File::tiny_llama().without("output_norm.weight"), true)
        .unwrap_err();
    assert_eq!(fs::read(place.out().join("config.json")).unwrap(), before);
    assert_eq!(place.siblings(), ["tiny"]);
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    let (one, two) = (Place::new(), Place::new());
    one.convert(&File::tiny_llama(), false).unwrap();
    two.convert(&File::tiny_llama(), false).unwrap();
    assert_eq!(names(&one.out()).len(), 6);
    for name in names(&one.out()) {
        assert_eq!(
            fs::read(one.out().join(&name)).unwrap(),
            fs::read(two.out().join(&name)).unwrap(),
            "{name}"
        );
    }
}
