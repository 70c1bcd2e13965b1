//! Models split into several files, `NAME-00001-of-00003.gguf` and so on. The first has the metadata; each has tensors
//! of its own and says which part of how many it is.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Place};
use crate::gguf::Gguf;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// Which part of how many a file says it is; parts count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    number: u32,
    count: u32,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "part {} of {}", u64::from(self.number) + 1, self.count)
    }
}

/// Adds the other parts, if the file is the first of several.
///
/// # Errors
/// [`Error::Part`] naming the file that is missing or does not belong, and whatever opening a part gives.
pub(crate) fn join(mut first: Gguf) -> Result<Gguf, Error> {
    let Some(position) = position(&first)? else {
        return Ok(first);
    };
    let stem = stem(first.path(), position)?;
    for number in 1..position.count {
        let expected = Position { number, ..position };
        let part = open(&sibling(first.path(), &stem, expected), expected)?;
        first.append(part);
    }
    refuse_repeated_tensors(&first)?;
    match first.size(TENSORS)? {
        Some(count) if count as usize != first.tensors().len() => Err(first.inconsistent(
            Place::Key(TENSORS.into()),
            count.to_string(),
            format!("{}, the tensors of all parts", first.tensors().len()),
        )),
        _ => Ok(first),
    }
}

/// `None` for a file that is a whole model.
fn position(gguf: &Gguf) -> Result<Option<Position>, Error> {
    match gguf.size(COUNT)? {
        Some(count) if count > 1 => {
            let number = gguf.required_size(NUMBER)?;
            Ok(Some(Position { number, count }))
        }
        _ => Ok(None),
    }
}

/// The first part's name without its number.
fn stem(path: &Path, position: Position) -> Result<String, Error> {
    let fault = |problem: String| Error::Part {
        path: path.to_owned(),
        problem,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let suffix = suffix(Position { number: 0, ..position });
    if position.number != 0 {
        let problem = format!("is {position}; give the first one, whose name ends with {suffix}");
        return Err(fault(problem));
    }
    name.strip_suffix(&suffix).map(str::to_owned).ok_or_else(|| {
        fault(format!(
            "is {position}, but its name does not end with {suffix}, by which the others are found; rename it"
        ))
    })
}

fn suffix(position: Position) -> String {
    format!("-{:05}-of-{:05}.gguf", u64::from(position.number) + 1, position.count)
}

fn sibling(first: &Path, stem: &str, position: Position) -> PathBuf {
    first.with_file_name(format!("{stem}{}", suffix(position)))
}

fn open(path: &Path, expected: Position) -> Result<Gguf, Error> {
    let fault = |problem: String| Error::Part {
        path: path.to_owned(),
        problem,
    };
    if !path.exists() {
        return Err(fault(format!(
            "is missing; put all {} parts of the model into one folder",
            expected.count
        )));
    }
    let part = Gguf::open_one(path)?;
    match position(&part)? {
        Some(found) if found == expected => Ok(part),
        Some(found) => Err(fault(format!(
            "says that it is {found}, expected {expected}; fetch the parts again"
        ))),
        None => Err(fault(format!(
            "does not say that it is {expected}; fetch the parts again"
        ))),
    }
}

fn refuse_repeated_tensors(gguf: &Gguf) -> Result<(), Error> {
    let mut names = HashSet::new();
    match gguf.tensors().iter().find(|tensor| !names.insert(tensor.name())) {
        None => Ok(()),
        Some(tensor) => Err(Error::Part {
            path: gguf.path_of(tensor).to_owned(),
            problem: format!(
                "holds tensor {:?}, described at byte {}, which another part holds too; fetch the parts again",
                tensor.name(),
                tensor.described_at()
            ),
        }),
    }
}
