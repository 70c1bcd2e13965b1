//! What the hub says a revision consists of.

use serde::{Deserialize, Serialize};

use super::repository::is_name;

/// One commit's files.
#[derive(Debug)]
pub(super) struct Listing {
    /// 40 hexadecimal digits.
    pub(super) commit: String,
    /// The files of the top folder.
    pub(super) entries: Vec<Entry>,
}

/// One file as published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) checksum: Checksum,
}

/// What the bytes of a file must give: large files have a SHA-256, the others the id that git gives them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Checksum {
    Sha256(String),
    GitBlob(String),
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "SHA-256 {digest}"),
            Self::GitBlob(digest) => write!(f, "git id {digest}"),
        }
    }
}

/// The hub's JSON, as far as it concerns us.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the hub's JSON. Files in folders, and those without size and checksum, are left out.
    ///
    /// # Errors
    /// It is not JSON, or lacks what every hub sends.
    pub(super) fn parse(json: &str) -> Result<Self, serde_json::Error> {
        let answer: Answer = serde_json::from_str(json)?;
        if !is_digest(&answer.sha, 40) {
            return Err(serde::de::Error::custom("sha is not a commit"));
        }
        Ok(Self {
            commit: answer.sha,
            entries: answer.siblings.into_iter().filter_map(Sibling::entry).collect(),
        })
    }

    /// Returns the file of this name.
    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl Sibling {
    fn entry(self) -> Option<Entry> {
        let (size, checksum) = match self.lfs {
            Some(lfs) => (lfs.size, Checksum::Sha256(lfs.sha256)),
            None => (self.size?, Checksum::GitBlob(self.blob_id?)),
        };
        let sound = match &checksum {
            Checksum::Sha256(digest) => is_digest(digest, 64),
            Checksum::GitBlob(digest) => is_digest(digest, 40),
        };
        (sound && is_name(&self.rfilename)).then_some(Entry {
            name: self.rfilename,
            size,
            checksum,
        })
    }
}

fn is_digest(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_have_a_sha_256_and_others_their_git_id() {
        let (commit, blob, sha256) = ("c".repeat(40), "b".repeat(40), "a".repeat(64));
        let json = serde_json::json!({"sha": commit, "gated": false, "siblings": [
            {"rfilename": "config.json", "size": 7, "blobId": blob},
            {"rfilename": "model.safetensors", "size": 9, "blobId": blob, "lfs": {"sha256": sha256, "size": 9, "pointerSize": 1}},
        ]});
        let listing = Listing::parse(&json.to_string()).unwrap();
        assert_eq!(listing.entry("config.json").unwrap().checksum, Checksum::GitBlob(blob));
        assert_eq!(
            listing.entry("model.safetensors").unwrap().checksum,
            Checksum::Sha256(sha256)
        );
    }

    #[test]
    fn names_that_lead_elsewhere_and_files_without_checksum_are_left_out() {
        let blob = "b".repeat(40);
        let json = serde_json::json!({"sha": "c".repeat(40), "siblings": [
            {"rfilename": "../config.json", "size": 7, "blobId": blob},
            {"rfilename": "/etc/passwd", "size": 7, "blobId": blob},
            {"rfilename": "onnx/model.safetensors", "size": 7, "blobId": blob},
            {"rfilename": "tokenizer.json", "size": 7},
            {"rfilename": "merges.txt", "size": 7, "blobId": "../x"},
        ]});
        assert_eq!(Listing::parse(&json.to_string()).unwrap().entries, []);
        assert!(Listing::parse(r#"{"sha": "../..", "siblings": []}"#).is_err());
    }
}
