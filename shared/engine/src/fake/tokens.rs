//! Which token follows which ids, and how likely known ones were.

use kr_contract::{SamplingParams, TokenId, token_uniform};

use super::FakeModelConfig;
use crate::model::{Logprobs, Sample, TokenHistory};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// What lies at one position: its id and, as real KV depends on everything before it, a hash of all ids up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    id: TokenId,
    word: u64,
}

/// The positions of one sequence. Every cell reaches every later token, so that a wrong one anywhere shows.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    cells: Vec<Cell>,
    digest: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            cells: Vec::new(),
            digest: OFFSET,
        }
    }
}

impl Trace {
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    pub(super) fn contains(&self, id: TokenId) -> bool {
        self.cells.iter().any(|cell| cell.id == id)
    }

    /// Computes the KV of one more id.
    pub(super) fn push(&mut self, id: TokenId) {
        let before = self.cells.last().map_or(OFFSET, |cell| cell.word);
        self.append(Cell {
            id,
            word: mix(before, id),
        });
    }

    /// Takes KV as it was computed elsewhere.
    pub(super) fn append(&mut self, cell: Cell) {
        self.digest = mix_wide(self.digest, cell.word);
        self.cells.push(cell);
    }

    pub(super) fn cells(&self, start: usize, len: usize) -> Option<&[Cell]> {
        self.cells.get(start..start.checked_add(len)?)
    }
}

/// Returns the token after `trace`.
pub(super) fn next(config: &FakeModelConfig, trace: &Trace, sample: &Sample) -> TokenId {
    let choice = Choice {
        params: &sample.params,
        position: sample.position,
        forbidden: &sample.forbidden,
        history: sample.history.as_deref(),
    };
    choice.token(config, trace)
}

/// Returns the tokens that follow `prompt`; see [`FakeModelConfig::expected_tokens`].
pub(super) fn expected(
    config: &FakeModelConfig,
    prompt: &[TokenId],
    params: &SamplingParams,
    n: usize,
) -> Vec<TokenId> {
    let mut trace = Trace::default();
    prompt.iter().for_each(|id| trace.push(*id));
    let mut history = TokenHistory::is_needed(params).then(TokenHistory::default);
    if let Some(history) = &mut history {
        history.add_prompt(prompt);
    }
    let mut ids = Vec::new();
    for position in (0..).take(n) {
        let below_minimum = position < params.min_tokens;
        let choice = Choice {
            params,
            position,
            forbidden: if below_minimum { &[config.end_token] } else { &[] },
            history: history.as_ref(),
        };
        let token = choice.token(config, &trace);
        ids.push(token);
        trace.push(token);
        if let Some(history) = &mut history {
            history.add_generated(token);
        }
        if token == config.end_token && !params.ignore_eos {
            break;
        }
    }
    ids
}

/// Returns how likely `target` was after the id in `cell`: made up from both.
pub(super) fn score(config: &FakeModelConfig, cell: Cell, target: TokenId, top: u32) -> Logprobs {
    let value = |id: TokenId| {
        #[expect(clippy::cast_precision_loss, reason = "below 1000")]
        let hundredths = (low(finish(mix(cell.word, id))) % 1000) as f32;
        -hundredths / 100.0
    };
    let mut likely: Vec<_> = (0..top)
        .map(|rank| target.wrapping_add(rank) % config.vocabulary.max(1))
        .map(|id| (id, value(id)))
        .collect();
    likely.sort_by(|one, other| other.1.total_cmp(&one.1));
    Logprobs {
        chosen: value(target),
        top: likely,
    }
}

/// What the next token depends on, beside the ids before it.
struct Choice<'a> {
    params: &'a SamplingParams,
    position: u32,
    forbidden: &'a [TokenId],
    history: Option<&'a TokenHistory>,
}

impl Choice<'_> {
    fn token(&self, config: &FakeModelConfig, trace: &Trace) -> TokenId {
        let state = self.state(trace);
        if chance(finish(state)) < config.end_probability && !self.forbidden.contains(&config.end_token) {
            return config.end_token;
        }
        let vocabulary = config.vocabulary.max(2);
        let first = low(finish(mix(state, 1))) % vocabulary;
        let allowed = |token: &TokenId| *token != config.end_token && !self.forbidden.contains(token);
        (0..vocabulary)
            .map(|step| (first + step) % vocabulary)
            .find(allowed)
            .unwrap_or(first)
    }

    fn state(&self, trace: &Trace) -> u64 {
        let params = self.params;
        let mut state = mix(trace.digest, self.position);
        if !params.is_greedy() {
            let uniform = token_uniform(params.seed, params.choice_index, self.position);
            state = mix(state, uniform.to_bits());
        }
        if let Some(history) = self.history {
            // A sum, because a history has no order.
            let entries = history.iter().map(|(id, count)| finish(mix(mix(OFFSET, id), count)));
            state = mix_wide(state, entries.fold(0, u64::wrapping_add));
        }
        state
    }
}

fn mix(state: u64, word: u32) -> u64 {
    absorb(state, &word.to_le_bytes())
}

fn mix_wide(state: u64, word: u64) -> u64 {
    absorb(state, &word.to_le_bytes())
}

/// FNV-1a.
fn absorb(state: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// Spreads what FNV leaves in the high bits over all of them.
fn finish(state: u64) -> u64 {
    let state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ (state >> 33)
}

fn low(state: u64) -> u32 {
    u32::try_from(state & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

fn chance(state: u64) -> f64 {
    f64::from(low(state)) / (f64::from(u32::MAX) + 1.0)
}
