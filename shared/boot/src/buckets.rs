//! Histogram boundaries, by instrument. Where a semantic convention recommends boundaries, these are they.

/// The bucket boundaries of one histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Buckets {
    /// The instrument's OpenTelemetry name, for example `gen_ai.server.request.duration`.
    pub instrument: &'static str,
    /// Upper bounds in the instrument's unit, ascending.
    pub boundaries: &'static [f64],
}

impl Buckets {
    /// Returns `boundaries` for the histogram named `instrument`.
    pub const fn new(instrument: &'static str, boundaries: &'static [f64]) -> Self {
        Self { instrument, boundaries }
    }
}

/// Seconds, whole requests. Source: GenAI conventions, `gen_ai.server.request.duration`.
pub const REQUEST_DURATION: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// Seconds to the first token. Source: GenAI conventions, `gen_ai.server.time_to_first_token`.
pub const TIME_TO_FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Seconds per token after the first. Source: GenAI conventions, `gen_ai.server.time_per_output_token`, with lower
/// buckets in front because small models decode faster than the recommended table can tell apart.
pub const TIME_PER_OUTPUT_TOKEN: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];

/// Tokens per request. Source: GenAI conventions, `gen_ai.client.token.usage`.
pub const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Seconds of one RPC. Source: RPC conventions, `rpc.server.call.duration`.
pub const RPC_DURATION: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Seconds of one engine step.
pub const STEP_DURATION: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Seconds a request waits in a queue: from immediate to a minute.
pub const QUEUE_TIME: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Sequences in one step.
pub const BATCH_SIZE: &[f64] = &[1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_ascend_strictly() {
        for table in [
            REQUEST_DURATION,
            TIME_TO_FIRST_TOKEN,
            TIME_PER_OUTPUT_TOKEN,
            TOKENS,
            RPC_DURATION,
            STEP_DURATION,
            QUEUE_TIME,
            BATCH_SIZE,
        ] {
            assert!(table.windows(2).all(|pair| pair[0] < pair[1]), "{table:?}");
        }
    }
}
