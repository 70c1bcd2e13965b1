//! Prompts of an exact number of tokens that read like text and differ from each other.

use kr_contract::philox4x32;
use kr_proto::serve::{TokenizeRequest, tokenize_request::Input};

use super::Args;
use crate::client::Server;
use crate::error::Error;

const WORDS: [&str; 64] = [
    "the", "river", "carries", "small", "boats", "past", "old", "stone", "houses", "where", "people", "sit", "and",
    "talk", "about", "weather", "music", "bread", "trains", "letters", "winter", "a", "teacher", "explains", "how",
    "light", "bends", "through", "water", "while", "children", "draw", "maps", "of", "distant", "islands", "on",
    "paper", "every", "morning", "someone", "opens", "window", "counts", "birds", "writes", "numbers", "in", "blue",
    "book", "because", "memory", "is", "short", "but", "ink", "stays", "for", "many", "years", "under", "dust", "near",
    "lamp",
];

/// Makes one prompt for each request: `shared_prefix_tokens` common ids, then ids that differ.
pub(super) async fn make(server: &Server, args: &Args) -> Result<Vec<Vec<u32>>, Error> {
    let per_prompt = args.prompt_tokens - args.shared_prefix_tokens;
    let shared = ids(server, args, u32::MAX, args.shared_prefix_tokens).await?;
    let mut prompts = Vec::new();
    for request in 0..args.requests {
        let own = ids(server, args, request, per_prompt).await?;
        prompts.push(shared.iter().copied().chain(own).collect());
    }
    Ok(prompts)
}

/// Returns `count` ids of a text that depends on the seed and on `stream` only.
async fn ids(server: &Server, args: &Args, stream: u32, count: u32) -> Result<Vec<u32>, Error> {
    let wanted = count as usize;
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let request = TokenizeRequest {
        model: args.model.clone(),
        input: Some(Input::Text(text(args.seed, stream, wanted + 8))),
        parse_special_tokens: false,
    };
    let mut ids = server.inference().tokenize(request).await?.into_inner().token_ids;
    if ids.len() < wanted {
        return Err(Error::Input(format!(
            "the tokenizer makes only {} tokens of {} words",
            ids.len(),
            wanted + 8
        )));
    }
    ids.truncate(wanted);
    Ok(ids)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a seed are 32 bits each")]
fn text(seed: u64, stream: u32, words: usize) -> String {
    let key = [seed as u32, (seed >> 32) as u32];
    let numbers = (0_u32..).flat_map(|block| philox4x32([block, stream, 0, 1], key));
    let chosen: Vec<_> = numbers
        .take(words)
        .map(|number| WORDS[number as usize % WORDS.len()])
        .collect();
    chosen.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_repeat_for_a_seed_and_differ_between_requests() {
        assert_eq!(text(1, 0, 20), text(1, 0, 20));
        assert_ne!(text(1, 0, 20), text(1, 1, 20));
        assert_ne!(text(1, 0, 20), text(2, 0, 20));
        assert_eq!(text(1, 0, 20).split(' ').count(), 20);
    }
}
