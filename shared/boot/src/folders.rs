//! Where kr keeps what is made once and used by every process of a user.

use std::path::PathBuf;

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

/// Returns whether the user asked for no colours (<https://no-color.org>).
#[must_use]
pub fn no_color() -> bool {
    Environment::of_process().get("NO_COLOR").is_some()
}
