//! Why a configuration cannot be used.

use std::path::PathBuf;

use super::Problem;

/// A configuration that cannot be used. The process should say so and exit with [`crate::exit::CONFIGURATION`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file is missing or unreadable.
    #[error("cannot read {}; name an existing file or leave the option out", path.display())]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The settings themselves are wrong.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
