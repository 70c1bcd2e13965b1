//! Where kr keeps what is made once and used by every process of a user.

use std::path::{Path, PathBuf};

use crate::config::Environment;

/// Returns the cache folder: `$XDG_CACHE_HOME/kr-serve-mlx`, by default `~/.cache/kr-serve-mlx`. It may not exist yet.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let environment = Environment::of_process();
    let absolute = |name: &str| {
        environment
            .get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("kr-serve-mlx")
}

/// Returns the folder of imported models, one folder each, named as a model is asked for.
#[must_use]
pub fn models_folder() -> PathBuf {
    cache_folder().join("models")
}

/// Returns the folder that `path` means: `path` itself, or, where that is a bare name and no folder here has it, the folder of
/// that name in the model cache.
#[must_use]
pub fn model_folder(path: &Path) -> PathBuf {
    let is_name = path.components().count() == 1 && !path.starts_with(".") && !path.starts_with("..");
    if is_name && !path.exists() {
        models_folder().join(path)
    } else {
        path.to_path_buf()
    }
}

/// Returns whether the user asked for no colours (<https://no-color.org>).
#[must_use]
pub fn no_color() -> bool {
    Environment::of_process().get("NO_COLOR").is_some()
}
