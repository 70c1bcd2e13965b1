//! Bytes that are no GGUF file must give an error that says where, and never a panic.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::file::{F32, File, Meta, Q6_K};
use crate::header::Header;
use crate::{ConvertOptions, Error, Gguf, Target, convert, inspect};

fn fault(bytes: &[u8]) -> String {
    Header::parse(bytes).unwrap_err().to_string()
}

/// Replaces the only occurrence of `old`.
fn patched(mut bytes: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    let found: Vec<_> = (0..=bytes.len() - old.len())
        .filter(|at| bytes[*at..].starts_with(old))
        .collect();
    assert_eq!(found.len(), 1, "the pattern must be unique");
    bytes[found[0]..found[0] + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn the_first_bytes_say_whether_it_is_gguf_at_all() {
    let good = File::tiny_llama().bytes();
    assert!(fault(b"").contains("found the end of the file after 0 bytes"));
    assert!(fault(b"PK\x03\x04").starts_with("the header, byte 0: found"));
    assert!(fault(b"PK\x03\x04").ends_with("expected the letters GGUF"));
    for (version, found) in [
        (1_u32, "version 1"),
        (4, "version 4"),
        (0x0300_0000, "a big-endian file"),
    ] {
        let mut bytes = good.clone();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(
            fault(&bytes).contains(&format!("byte 4: found {found}")),
            "{}",
            fault(&bytes)
        );
    }
}

#[test]
fn counts_and_lengths_are_held_to_the_size_of_the_file() {
    let good = File::tiny_llama().bytes();
    for at in [8, 16] {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        assert!(
            fault(&bytes).contains("all that fits in the file's remaining bytes"),
            "{}",
            fault(&bytes)
        );
    }
    let mut bytes = good;
    bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(fault(&bytes).starts_with("metadata entry 0, byte 24: found a count of 18446744073709551615"));
}

#[test]
fn every_truncation_is_noticed() {
    let good = File::tiny_llama().bytes();
    assert!(Header::parse(&good).is_ok());
    // The last tensor's data ends the file, so any cut hits something.
    for len in 0..good.len() {
        assert!(Header::parse(&good[..len]).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn keys_and_names_must_be_unique() {
    let mut file = File::tiny_llama();
    file.metadata.push(("general.name".into(), Meta::from("again")));
    assert!(fault(&file.bytes()).contains(r#"metadata key "general.name""#));

    let mut file = File::tiny_llama();
    file.add_tensor("output_norm.weight", vec![32], F32);
    assert!(fault(&file.bytes()).contains(r#"tensor "output_norm.weight""#));
}

#[test]
fn text_must_be_utf8() {
    let bytes = patched(File::tiny_llama().bytes(), b"general.name", b"general\xffname");
    assert!(fault(&bytes).contains("found a byte that is not UTF-8"));
}

#[test]
fn a_tensor_must_have_a_known_type_and_a_possible_shape() {
    let with = |change: &dyn Fn(&mut super::file::TensorSource)| {
        let mut file = File::tiny_llama();
        change(file.tensor("blk.0.attn_k.weight"));
        fault(&file.bytes())
    };
    assert!(with(&|tensor| tensor.type_id = 99).contains(r#"tensor "blk.0.attn_k.weight""#));
    assert!(with(&|tensor| tensor.type_id = 99).contains("found tensor type 99"));
    assert!(with(&|tensor| tensor.dimensions = vec![]).contains("found 0 dimensions"));
    assert!(with(&|tensor| tensor.dimensions = vec![1; 5]).contains("found 5 dimensions"));
    assert!(with(&|tensor| tensor.dimensions = vec![32, 0]).contains("no dimension of 0"));
    assert!(with(&|tensor| tensor.dimensions = vec![31, 8]).contains("a multiple of 32, the block of Q4_1"));
    assert!(
        with(&|tensor| tensor.dimensions = vec![1 << 40, 1 << 40]).contains("a size within this machine's addresses")
    );
    assert!(with(&|tensor| tensor.dimensions = vec![32, 8, 1 << 20]).contains("where the file ends"));
    assert!(
        with(&|tensor| tensor.dimensions = vec![32, 10]).contains(r#"data that overlaps tensor "blk.0.attn_k.weight""#)
    );
    assert!(with(&|tensor| tensor.name = "n".repeat(65)).contains("found a string of 65 bytes, expected at most 64"));
}

#[test]
fn data_offsets_must_be_aligned() {
    let file = File::tiny_llama().with("general.alignment", Meta::U32(64));
    assert!(fault(&file.bytes()).contains("a multiple of the alignment, 64"));
    for alignment in [0, 4, 48, 1 << 20] {
        let file = File::tiny_llama().with("general.alignment", Meta::U32(alignment));
        assert!(fault(&file.bytes()).contains("a power of two from 8 to 65536"));
    }
}

#[test]
fn arrays_may_not_nest_without_end() {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.push(b'k');
    bytes.extend(9_u32.to_le_bytes());
    for _ in 0..100_000 {
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
    }
    assert!(
        fault(&bytes).contains("at most 4 levels of arrays"),
        "{}",
        fault(&bytes)
    );
}

#[test]
fn the_error_names_file_place_and_cure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    std::fs::write(&path, &File::tiny_llama().bytes()[..1000]).unwrap();
    let text = Gguf::open(&path).unwrap_err().to_string();
    for part in [
        "cut.gguf: metadata ",
        ", byte ",
        ": found ",
        ", expected ",
        "fetch it again",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let missing = Gguf::open(&dir.path().join("none.gguf")).unwrap_err();
    assert!(matches!(missing, Error::Io { action: "open", .. }));
}

#[test]
fn an_empty_file_and_a_folder_are_no_gguf_files() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    assert!(Gguf::open(&empty).is_err());
    assert!(Gguf::open(dir.path()).is_err());
}

fn convert_bytes(bytes: &[u8]) -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model.gguf");
    std::fs::write(&source, bytes).unwrap();
    let options = ConvertOptions {
        target: Target::Quantized,
        overwrite: false,
        progress: &mut |_| {},
    };
    let inspected = inspect(&source);
    let converted = convert(&source, &dir.path().join("out"), options).map(drop);
    assert!(inspected.is_ok() || converted.is_err());
    converted
}

/// The same cases in every run; `make fuzz` looks for others.
fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(0x6775_6667),
        ..ProptestConfig::with_cases(cases)
    }
}

/// Numbers that counts, lengths and offsets are garbled with.
fn extremes() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 31, 1 << 31, 1 << 32, i64::MAX as u64, u64::MAX - 31, u64::MAX];
    prop_oneof![proptest::sample::select(edges.to_vec()), any::<u64>()]
}

/// A file of each kind that is read differently.
fn sources() -> impl Strategy<Value = Vec<u8>> {
    let files = [
        File::tiny_llama(),
        File::tiny_sentence_piece(),
        File::tiny_of("qwen3", &[("attn_q_norm.weight", 8), ("attn_k_norm.weight", 8)]),
        File::llama_of(Q6_K),
    ];
    proptest::sample::select(files.map(|file| file.bytes()).to_vec())
}

proptest! {
    #![proptest_config(seeded(512))]

    #[test]
    fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tail);
        let _ = Header::parse(&bytes);
    }

    #[test]
    fn garbled_headers_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        (at, number) in (any::<prop::sample::Index>(), extremes()),
    ) {
        let mut bytes = File::tiny_llama().bytes();
        for (at, byte) in changes {
            // Some 8 kB of header lie before the data.
            let at = at.index(8_000);
            bytes[at] = byte;
        }
        let at = at.index(8_000);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let _ = Header::parse(&bytes);
    }
}

proptest! {
    #![proptest_config(seeded(64))]

    #[test]
    fn garbled_files_convert_or_fail_but_never_panic(
        mut bytes in sources(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        for (at, byte) in changes {
            // Half of the changes hit the header.
            let len = if byte % 2 == 0 { bytes.len().min(8_000) } else { bytes.len() };
            let at = at.index(len);
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = convert_bytes(&bytes);
    }
}

#[test]
fn the_files_under_the_property_tests_convert_when_untouched() {
    for file in [File::tiny_llama(), File::tiny_sentence_piece(), File::llama_of(Q6_K)] {
        convert_bytes(&file.bytes()).unwrap();
    }
}
