//! Why a sequence ended.

/// Why a sequence ended; every stream ends with one of these or with a status that is not OK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end token, a stop id or a stop string.
    Stop,
    /// `max_tokens` or the model's context was reached.
    Length,
    /// The client left, or its deadline passed.
    Cancelled,
    /// The model could not go on; the frame's message says why.
    Error,
}

impl FinishReason {
    /// Returns the name used in the API, in metrics and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}
