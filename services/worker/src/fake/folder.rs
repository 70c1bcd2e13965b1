//! What a fake takes from a real model's folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::hexadecimal;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Folder {
    pub(super) vocabulary_size: Option<u32>,
    pub(super) end_token: Option<u32>,
    pub(super) tokenizer_digest: Option<String>,
}

/// Why a fake cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file is missing or unreadable.
    #[error("cannot read {}; name a folder with config.json and tokenizer.json", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The configuration is not JSON.
    #[error("{} is not JSON; import the model again", path.display())]
    NotJson {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The fake was told to fail.
    #[error("the fake model was told not to load")]
    Told,
}

/// Reads config.json and tokenizer.json of `folder`.
///
/// # Errors
/// When one of them cannot be read.
pub(super) fn read(folder: &Path) -> Result<Folder, Error> {
    let path = folder.join("config.json");
    let config: serde_json::Value =
        serde_json::from_slice(&bytes(&path)?).map_err(|source| Error::NotJson { path, source })?;
    let number = |value: &serde_json::Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let end = &config["eos_token_id"];
    Ok(Folder {
        vocabulary_size: number(&config["vocab_size"]).filter(|size| *size >= 2),
        end_token: number(end).or_else(|| number(&end[0])),
        tokenizer_digest: Some(hexadecimal(&kr_model::tokenizer_digest(&bytes(
            &folder.join("tokenizer.json"),
        )?))),
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lends_vocabulary_end_token_and_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("config.json"),
            r#"{"vocab_size": 9, "eos_token_id": [3, 4]}"#,
        )
        .unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        fs::write(folder.path().join("tokenizer.json"), "abc").unwrap();
        let lent = read(folder.path()).unwrap();
        assert_eq!((lent.vocabulary_size, lent.end_token), (Some(9), Some(3)));
        assert_eq!(
            lent.tokenizer_digest.unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
