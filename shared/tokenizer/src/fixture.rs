//! The committed tokenizers, as they are and with files changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;

use crate::{Bundle, Error};

static BYTE_LEVEL: LazyLock<Arc<Bundle>> = LazyLock::new(|| Arc::new(Bundle::load(&dir("byte_level")).unwrap()));
static BYTE_FALLBACK: LazyLock<Arc<Bundle>> = LazyLock::new(|| Arc::new(Bundle::load(&dir("byte_fallback")).unwrap()));

pub(crate) fn byte_level() -> Arc<Bundle> {
    Arc::clone(&BYTE_LEVEL)
}

pub(crate) fn byte_fallback() -> Arc<Bundle> {
    Arc::clone(&BYTE_FALLBACK)
}

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A copy of a fixture that can be changed.
pub(crate) struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    pub(crate) fn of(name: &str) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(dir(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        Self { dir: copy }
    }

    pub(crate) fn write(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.dir.path().join(name), content).unwrap();
        self
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }

    pub(crate) fn remove(self, name: &str) -> Self {
        fs::remove_file(self.dir.path().join(name)).unwrap();
        self
    }

    /// Sets a top-level field of a JSON file.
    pub(crate) fn set(self, file: &str, field: &str, value: Json) -> Self {
        let mut json: Json = serde_json::from_slice(&self.read(file)).unwrap();
        json[field] = value;
        self.write(file, json.to_string())
    }

    pub(crate) fn template(self, source: &str) -> Self {
        self.set("tokenizer_config.json", "chat_template", source.into())
    }

    pub(crate) fn load(&self) -> Result<Bundle, Error> {
        Bundle::load(self.dir.path())
    }
}
