//! stub

/// What the scheduler may put into one step, and how much it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Input tokens of one step, decodes and prefill together.
    pub max_step_tokens: u32,
    /// Sequences that may hold a slot; the model's limit and `max_step_tokens` bound it as well.
    pub max_sequences: u32,
    /// Sequences that may wait for a slot.
    pub max_waiting: u32,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_step_tokens: 512,
            max_sequences: 64,
            max_waiting: 1024,
        }
    }
}
