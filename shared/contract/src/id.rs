//! Identifiers that cross process borders.

use std::fmt;
use std::str::FromStr;

/// Index into a model's vocabulary.
pub type TokenId = u32;

/// One sequence on one worker session. The router numbers sequences; a worker never reuses or invents one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One life of one worker process: a restarted worker has another, so a late frame of the old one is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerInstanceId(pub u64);

impl fmt::Display for WorkerInstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A client's request: 128 random bits, so that holding one cannot be guessed. Written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request id is 32 hexadecimal digits")]
pub struct ParseIdError;

impl FromStr for RequestId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseIdError);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| ParseIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_survive_the_way_through_text() {
        let id = RequestId(0x00ab_cdef);
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_text_is_no_request_id() {
        for text in [
            "",
            "12",
            "+0000000000000000000000000000001",
            "zz000000000000000000000000000000",
        ] {
            assert_eq!(text.parse::<RequestId>(), Err(ParseIdError), "{text}");
        }
    }
}
