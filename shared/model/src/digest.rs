//! Names of models and tokenizers by content, so that router and worker can tell whether they mean the same one.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config;
use crate::error::Result;

const SCHEME: &str = "kr-model-v1";

/// Returns `sha256:` and the hexadecimal SHA-256 of a tokenizer.json's bytes.
#[must_use]
pub fn tokenizer_digest(tokenizer_json: &[u8]) -> String {
    named(Sha256::digest(tokenizer_json).as_slice())
}

/// Bytes of one probe.
const PROBE_BYTES: usize = 64;

/// What a weight file contributes to a model's digest. Three probes stand for the data of each tensor: reading half a gigabyte at
/// every start would cost seconds, and training changes a tensor everywhere.
#[derive(Debug)]
pub(crate) struct WeightFile<'a> {
    pub(crate) name: &'a str,
    pub(crate) bytes: u64,
    pub(crate) header: &'a [u8],
    /// Of all tensors, in the file's order.
    pub(crate) probes: Vec<&'a [u8]>,
}

/// Returns the first, middle and last bytes of a tensor's data.
pub(crate) fn probes(data: &[u8]) -> [&[u8]; 3] {
    let length = data.len().min(PROBE_BYTES);
    let last = data.len() - length;
    [0, last / 2, last].map(|start| &data[start..start + length])
}

/// Returns the model's digest: over config.json's bytes, the tokenizer's digest and every weight file's name, size, header and
/// probes.
pub(crate) fn model_digest(config_json: &[u8], tokenizer: Option<&str>, files: &[WeightFile<'_>]) -> String {
    let mut hasher = Sha256::new();
    let mut line = |text: &str| hasher.update(format!("{text}\n"));
    line(SCHEME);
    line(&named(Sha256::digest(config_json).as_slice()));
    line(tokenizer.unwrap_or("none"));
    for file in files {
        let header = named(Sha256::digest(file.header).as_slice());
        let mut data = Sha256::new();
        file.probes.iter().for_each(|probe| data.update(probe));
        let data = named(data.finalize().as_slice());
        line(&format!("{} {} {header} {data}", file.name, file.bytes));
    }
    named(hasher.finalize().as_slice())
}

/// Returns the digest of `dir`/tokenizer.json, `None` where there is none.
pub(crate) fn tokenizer_digest_of(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(tokenizer_digest(&config::read(&path)?)))
}

fn named(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_is_named_by_the_sha256_of_its_file() {
        assert_eq!(
            tokenizer_digest(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn every_part_changes_a_models_digest() {
        let probed = |name, bytes, header, probe| WeightFile {
            name,
            bytes,
            header,
            probes: vec![probe],
        };
        let file = |name, bytes, header| probed(name, bytes, header, b"p");
        let base = model_digest(b"{}", None, &[file("a", 1, b"h")]);
        assert_ne!(base, model_digest(b"{}", None, &[probed("a", 1, b"h", b"q")]));
        assert_ne!(base, model_digest(b"{ }", None, &[file("a", 1, b"h")]));
        assert_ne!(base, model_digest(b"{}", Some("sha256:00"), &[file("a", 1, b"h")]));
        assert_ne!(base, model_digest(b"{}", None, &[file("b", 1, b"h")]));
        assert_ne!(base, model_digest(b"{}", None, &[file("a", 2, b"h")]));
        assert_ne!(base, model_digest(b"{}", None, &[file("a", 1, b"i")]));
        assert_ne!(base, model_digest(b"{}", None, &[]));
    }

    #[test]
    fn probes_lie_at_both_ends_and_in_the_middle() {
        let data: Vec<u8> = (0..=255).collect();
        assert_eq!(
            probes(&data).map(|probe| (probe[0], probe.len())),
            [(0, 64), (96, 64), (192, 64)]
        );
        assert_eq!(probes(&data[..2]), [[0, 1]; 3]);
        assert_eq!(probes(&[]), [[0_u8; 0]; 3]);
    }
}
