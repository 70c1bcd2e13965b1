//! Flags that say how to generate, shared by `generate` and `chat`.

use kr_proto::serve::{Parameters, Priority};

/// How to generate; what is left out is the server's default.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct GenerationArgs {
    /// Model to ask, by name or alias; may be left out where only one is served.
    #[arg(long, default_value = "")]
    pub(crate) model: String,
    /// Most tokens to generate.
    #[arg(long)]
    pub(crate) max_tokens: Option<u32>,
    /// Fewest tokens to generate.
    #[arg(long)]
    pub(crate) min_tokens: Option<u32>,
    /// Randomness; 0 always takes the most likely token.
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Keep the smallest set of most likely tokens with at least this probability.
    #[arg(long)]
    pub(crate) top_p: Option<f32>,
    /// Keep this many most likely tokens.
    #[arg(long)]
    pub(crate) top_k: Option<u32>,
    /// Keep tokens at least this times as likely as the most likely one.
    #[arg(long)]
    pub(crate) min_p: Option<f32>,
    /// Make tokens of prompt and answer less likely: above 1; off at 1.
    #[arg(long)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Make tokens of the answer less likely, -2 to 2; off at 0.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Make tokens of the answer less likely each time they come, -2 to 2; off at 0.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Makes sampling repeatable.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Text that ends the answer; may be given several times.
    #[arg(long)]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's end token.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Report log probabilities: the chosen token's and this many most likely ones'.
    #[arg(long)]
    pub(crate) logprobs: Option<u32>,
    /// Who goes first when the server is busy.
    #[arg(long, value_enum)]
    pub(crate) priority: Option<PriorityArg>,
    /// Keep what is cached of this request apart from requests with another salt.
    #[arg(long)]
    pub(crate) cache_salt: Option<String>,
    /// Neither read nor write the server's cache of prompts.
    #[arg(long)]
    pub(crate) bypass_prefix_cache: bool,
}

/// Who goes first.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum PriorityArg {
    Low,
    Normal,
    High,
}

impl GenerationArgs {
    pub(crate) fn parameters(&self) -> Parameters {
        let priority = match self.priority {
            None => Priority::Unspecified,
            Some(PriorityArg::Low) => Priority::Low,
            Some(PriorityArg::Normal) => Priority::Normal,
            Some(PriorityArg::High) => Priority::High,
        };
        Parameters {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos.then_some(true),
            logprobs: self.logprobs,
            priority: priority.into(),
            cache_salt: self.cache_salt.clone(),
            bypass_prefix_cache: self.bypass_prefix_cache.then_some(true),
            ..Parameters::default()
        }
    }
}
