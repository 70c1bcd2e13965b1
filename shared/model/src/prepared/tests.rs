use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::LoadOptions;
use crate::config::ConfigFile;
use crate::layers::tests::{Form, quantised_and_dense, reference_logits};
use crate::testing::{ModelDir, Rig};

fn model() -> ModelDir {
    let form = Form {
        group_size: 32,
        bits: 4,
        embedding_bits: 8,
    };
    quantised_and_dense(form).0
}

/// Logits, and the bytes that are mapped and copied.
fn load(dir: &Path, cache_dir: Option<&Path>) -> (Vec<Vec<f32>>, [u64; 2]) {
    let options = LoadOptions {
        cache_dir: cache_dir.map(Path::to_owned),
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(dir, &options);
    let info = rig.model.info();
    let bytes = [info.mapped_bytes, info.copied_bytes];
    (reference_logits(&mut rig), bytes)
}

/// The one prepared file of a cache folder.
fn prepared_file(cache: &Path) -> PathBuf {
    let paths = fs::read_dir(cache.join("prepared"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "krw"));
    let file = files.next().unwrap();
    assert_eq!(files.next(), None);
    file
}

#[test]
fn a_file_is_made_once_and_used_in_place_of_memory() {
    let (dir, cache) = (model().write(), tempfile::tempdir().unwrap());
    let (expected, in_memory) = load(dir.path(), None);
    assert!(in_memory[1] > 0, "{in_memory:?}");
    let (first, in_file) = load(dir.path(), Some(cache.path()));
    assert_eq!(in_file[0] + in_file[1], in_memory[0] + in_memory[1]);
    assert!(in_file[1] < in_memory[1], "{in_file:?} {in_memory:?}");
    let made = fs::metadata(prepared_file(cache.path())).unwrap();
    let (second, _) = load(dir.path(), Some(cache.path()));
    assert_eq!(fs::metadata(prepared_file(cache.path())).unwrap().ino(), made.ino());
    assert!(first == expected && second == expected);
    let left: Vec<_> = fs::read_dir(cache.path().join("prepared")).unwrap().collect();
    assert_eq!(left.len(), 2, "a file and its lock: {left:?}");
}

#[test]
fn a_damaged_file_is_made_again() {
    let (dir, cache) = (model().write(), tempfile::tempdir().unwrap());
    let (expected, _) = load(dir.path(), Some(cache.path()));
    let path = prepared_file(cache.path());
    let whole = fs::read(&path).unwrap();
    let damage: [fn(&mut Vec<u8>); 6] = [
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes[80] ^= 1,
        |bytes| bytes[0] ^= 1,
        |bytes| bytes[8] ^= 1,
        |bytes| bytes.truncate(100),
        Vec::clear,
    ];
    for damage in damage {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let (found, _) = load(dir.path(), Some(cache.path()));
        assert!(found == expected);
        assert!(fs::read(&path).unwrap() == whole, "the file was not made again");
    }
}

#[test]
fn a_file_of_other_weights_is_not_believed() {
    let (dir, cache) = (model().write(), tempfile::tempdir().unwrap());
    load(dir.path(), Some(cache.path()));
    let path = prepared_file(cache.path());
    let foreign = fs::read(&path).unwrap();
    let mut other = model();
    let scales = other.tensors.get_mut("model.layers.0.mlp.down_proj.scales").unwrap();
    scales.data[3] ^= 0x80;
    let (dir, cache) = (other.write(), tempfile::tempdir().unwrap());
    let (expected, _) = load(dir.path(), Some(cache.path()));
    let path = prepared_file(cache.path());
    let own = fs::read(&path).unwrap();
    assert!(own != foreign);
    fs::remove_file(&path).unwrap();
    fs::write(&path, foreign).unwrap();
    assert!(load(dir.path(), Some(cache.path())).0 == expected);
    assert!(fs::read(&path).unwrap() == own);
}

#[test]
fn a_folder_that_cannot_be_used_costs_memory_only() {
    let (dir, cache) = (model().write(), tempfile::tempdir().unwrap());
    let occupied = cache.path().join("file");
    fs::write(&occupied, "").unwrap();
    assert_eq!(load(dir.path(), Some(&occupied)), load(dir.path(), None));
}

#[test]
fn workers_that_start_at_once_make_one_file() {
    let (dir, cache) = (model().write(), tempfile::tempdir().unwrap());
    let open = || {
        let weights = Weights::open(dir.path(), false).unwrap();
        let quantization = ConfigFile::open(dir.path()).unwrap().quantization().unwrap().unwrap();
        let place = Place {
            cache_folder: Some(cache.path()),
            model_digest: "sha256:12",
        };
        let prepared = PreparedWeights::open(&weights, &quantization, place).unwrap();
        let mut entries: Vec<_> = prepared.entries.into_values().collect();
        entries.sort_by_key(|entry| entry.offset);
        (prepared.file.inode(), entries)
    };
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(opened.iter().all(|found| *found == opened[0]), "{opened:?}");
    assert!(prepared_file(cache.path()).ends_with("12-panel16-v1.krw"));
}
