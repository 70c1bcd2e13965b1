//! What can go wrong between a GGUF file and a model folder. Every text names the file, the place in it, what was
//! found, what was expected and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a GGUF file could not be read or converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused. `action` says what was tried.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The bytes are not a well-formed GGUF file.
    #[error(
        "{path}: {fault}; the file is damaged, incomplete or not a GGUF file: fetch it again and compare its checksum"
    )]
    Malformed {
        /// The GGUF file.
        path: PathBuf,
        /// Where and what.
        fault: Malformed,
    },
    /// The file is well-formed but asks for something that is not implemented.
    #[error(
        "{path}: {subject} has {found}, which is not supported yet; supported: {supported}; choose another export of the model"
    )]
    Unsupported {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor or metadata key.
        subject: Place,
        /// What it has.
        found: String,
        /// What would be accepted.
        supported: String,
    },
    /// Two parts of the file contradict each other, or a value is out of range.
    #[error(
        "{path}: {subject} has {found}, expected {expected}; the file contradicts itself: use another export of the model"
    )]
    Inconsistent {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor or metadata key.
        subject: Place,
        /// What it has.
        found: String,
        /// What the rest of the file asks for.
        expected: String,
    },
    /// A required tensor or metadata key is absent.
    #[error("{path}: {subject} is missing; the file is no complete model: use another export")]
    Missing {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor or metadata key.
        subject: Place,
    },
    /// A weight is infinite or not a number.
    #[error(
        "{path}: {subject} holds a value that is not finite, in row {row}, from byte {offset} on; the file is damaged: fetch it again and compare its checksum"
    )]
    NotFinite {
        /// The GGUF file.
        path: PathBuf,
        /// The tensor.
        subject: Place,
        /// Row in the file's order.
        row: u64,
        /// Where the row begins, in bytes from the start of the file.
        offset: u64,
    },
    /// A model that is split into several files does not fit together.
    #[error("{path} {problem}")]
    Part {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A JSON file of a model folder cannot be read.
    #[error("{path} is no valid JSON; fetch or import the model again")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A folder holds no weights.
    #[error("{dir} holds no .safetensors file, so it is no model folder; name one, or a GGUF file")]
    NotAModel {
        /// The folder.
        dir: PathBuf,
    },
    /// The output folder exists, is not empty, and overwriting was not asked for.
    #[error("{dir} already exists and is not empty; choose another folder or ask for it to be overwritten")]
    OutputExists {
        /// The folder.
        dir: PathBuf,
    },
    /// Overwriting was asked for, but the folder was not made by an import.
    #[error(
        "{dir} holds no import.json, so it was not made by an import and will not be replaced; choose another folder"
    )]
    NotAnImport {
        /// The folder.
        dir: PathBuf,
    },
}

/// A part of a GGUF file, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Magic, version and counts.
    Header,
    /// A metadata entry by its position, while its key is unknown.
    KeyNumber(u64),
    /// A metadata entry.
    Key(String),
    /// A tensor's description by its position, while its name is unknown.
    TensorNumber(u64),
    /// A tensor.
    Tensor(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "the header"),
            Self::KeyNumber(number) => write!(f, "metadata entry {number}"),
            Self::Key(key) => write!(f, "metadata key {key:?}"),
            Self::TensorNumber(number) => write!(f, "tensor description {number}"),
            Self::Tensor(name) => write!(f, "tensor {name:?}"),
        }
    }
}

/// A violation of the file format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}, byte {offset}: found {found}, expected {expected}")]
pub struct Malformed {
    /// The part of the file.
    pub place: Place,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
}
