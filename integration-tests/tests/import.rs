//! `kr model import` against MLX's own reader, and against files that are no model.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::path::{Path, PathBuf};

use kr_integration_tests::{Ran, client_script, demo_gguf, program, real_model, run, tool};
use tokio::process::Command;

async fn import(source: &Path, target: &Path) -> Ran {
    let mut command = Command::new(program("kr"));
    run(command.args(["model", "import"]).arg(source).arg(target)).await
}

/// Lets MLX read both and compare them array by array, bit by bit.
async fn compare(folder: &Path) -> String {
    let mut command = Command::new(tool("python"));
    run(command
        .arg(client_script("check_import.py"))
        .arg(demo_gguf())
        .arg(folder))
    .await
    .success()
}

#[tokio::test]
async fn an_imported_model_has_the_arrays_that_mlx_reads_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model");
    let said = import(&demo_gguf(), &target).await.success();
    assert!(said.contains("tensors"), "{said}");
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(target.join(file).exists(), "{file}");
    }
    let compared = compare(&target).await;
    assert!(compared.ends_with("arrays equal\n"), "{compared}");
}

#[tokio::test]
async fn the_float32_model_of_the_cache_has_the_arrays_that_mlx_reads_from_the_file() {
    let compared = compare(&real_model("SmolLM2-135M-Instruct")).await;
    assert!(compared.ends_with("arrays equal\n"), "{compared}");
}

/// Writes the beginning of the demo model's file, changed by `change`.
fn damaged(folder: &Path, name: &str, bytes: usize, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    use std::io::Read;
    let mut beginning = Vec::new();
    let file = std::fs::File::open(demo_gguf()).unwrap();
    file.take(bytes as u64).read_to_end(&mut beginning).unwrap();
    change(&mut beginning);
    let path = folder.join(name);
    std::fs::write(&path, beginning).unwrap();
    path
}

#[tokio::test]
async fn damaged_files_are_refused_with_the_place_and_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = 1 << 20;
    let counts = |bytes: &mut Vec<u8>| bytes[8..24].copy_from_slice(&[0xff; 16]);
    let cases = [
        (damaged(folder, "empty.gguf", 0, |_| ()), "header"),
        (damaged(folder, "short.gguf", 20, |_| ()), "header"),
        (damaged(folder, "cut-in-metadata.gguf", 5000, |_| ()), "metadata"),
        (damaged(folder, "cut-in-weights.gguf", 20 << 20, |_| ()), "tensor"),
        (
            damaged(folder, "other-magic.gguf", whole, |bytes| bytes[0] = b'X'),
            "header",
        ),
        (
            damaged(folder, "other-version.gguf", whole, |bytes| bytes[4] = 99),
            "header",
        ),
        (damaged(folder, "huge-counts.gguf", whole, counts), "header"),
        (
            damaged(folder, "garbled.gguf", whole, |bytes| bytes[24..4000].fill(0xa5)),
            "metadata",
        ),
    ];
    for (file, place) in cases {
        let target = folder.join("out");
        let ran = import(&file, &target).await;
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(ran.status.code(), Some(1), "{name}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{name}: {}", ran.stderr);
        for part in ["kr: ", name, place, "fetch it again"] {
            assert!(ran.stderr.contains(part), "{name}: {part:?} is not in {}", ran.stderr);
        }
        assert!(!target.exists(), "{name} left something behind");
    }
}

#[tokio::test]
async fn what_exists_is_not_overwritten_and_what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("precious"), "mine").unwrap();
    let ran = import(&demo_gguf(), folder.path()).await;
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains("already exists"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(folder.path().join("precious")).unwrap(), "mine");
    let ran = import(&folder.path().join("nothing.gguf"), &folder.path().join("out")).await;
    assert_eq!(ran.status.code(), Some(1));
    assert!(
        ran.stderr.contains("nothing.gguf") && ran.stderr.contains("No such file"),
        "{}",
        ran.stderr
    );
}
