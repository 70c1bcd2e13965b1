//! Prompts of an exact number of tokens that are English and differ from each other.

use kr_contract::{philox4x32, token_uniform};
use kr_proto::serve::{TokenizeRequest, tokenize_request::Input};

use super::Args;
use crate::client::Server;
use crate::error::Error;

const SENTENCES: [&str; 32] = [
    "The ferry leaves at six in the morning and comes back before the shops close.",
    "My grandmother kept bees behind the house, and every spring she painted the hives blue.",
    "A good map shows what is there; a better one shows how to get home.",
    "The library has two floors, but most people never climb the stairs.",
    "When water freezes it takes more room, which is why pipes burst in winter.",
    "He repaired clocks for forty years and was late for dinner every day.",
    "The teacher asked the class to write down three things they had never seen.",
    "In the old harbour the fishermen sell what the restaurants do not want.",
    "Bread needs flour, water, salt and more patience than anybody expects.",
    "The train was full, so we stood by the window and counted bridges.",
    "A small engine can move a heavy boat if nobody is in a hurry.",
    "She learned to play the violin from a neighbour who could not read music.",
    "The mountain looks close in clear weather, yet the walk takes nine hours.",
    "Light from that star set out before the first cities were built.",
    "They planted apple trees along the road and gave the fruit to travellers.",
    "The first rule of the workshop is to put every tool back in its place.",
    "On Sundays the square belongs to children, pigeons and one tired musician.",
    "The letter was written in green ink and said almost nothing about the war.",
    "Salt keeps food from spoiling, and for centuries it was worth its weight in silver.",
    "Our house stands where the river used to run, so the cellar is never dry.",
    "The doctor explained the picture slowly, as if we had all the time in the world.",
    "An owl turns its head because it cannot turn its eyes.",
    "The town voted for a new bridge and then argued about its colour for years.",
    "If the wind comes from the east, the whole street smells of coffee.",
    "He wrote the number on his hand and washed it off an hour later.",
    "The museum shows a single shoe, found in the ice by two hikers.",
    "Most of the work in a garden is deciding what must not grow.",
    "The radio played the same song twice, and nobody in the kitchen noticed.",
    "A bicycle stays upright because it steers into the direction it falls.",
    "The lighthouse keeper had one book and knew all of it by heart.",
    "Rain fell on the tents all night, but the morning was bright and cold.",
    "The baker's son became an astronomer, since both of them worked at night.",
];

/// What one client sends: a piece of prompt for each of its turns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conversation {
    pub(super) pieces: Vec<Vec<u32>>,
    /// Most tokens of each answer.
    pub(super) max_tokens: u32,
}

/// Makes what each client sends. A first piece begins with `shared_prefix_tokens` common ids; all others differ.
///
/// # Errors
/// The server cannot be asked, or the tokenizer makes fewer tokens than words.
pub(super) async fn make(server: &Server, args: &Args) -> Result<Vec<Conversation>, Error> {
    let shared = ids(server, args, u32::MAX, args.shared_prefix_tokens).await?;
    let mut conversations = Vec::new();
    for request in 0..args.requests {
        let lengths = Lengths::of(args, request);
        let mut pieces = Vec::new();
        for turn in 0..args.turns {
            let stream = request + turn * args.requests;
            let common = if turn == 0 { shared.as_slice() } else { &[] };
            // A prompt is never shorter than what all of them share.
            let own = lengths
                .prompt_tokens
                .saturating_sub(u32::try_from(common.len()).unwrap_or(u32::MAX));
            let own = ids(server, args, stream, own).await?;
            pieces.push(common.iter().copied().chain(own).collect());
        }
        conversations.push(Conversation {
            pieces,
            max_tokens: lengths.max_tokens,
        });
    }
    Ok(conversations)
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Lengths {
    prompt_tokens: u32,
    max_tokens: u32,
}

impl Lengths {
    fn of(args: &Args, request: u32) -> Self {
        let part = |most: u32, position: u32| {
            let eighths = 1.0 + 7.0 * token_uniform(args.seed, request, position);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most `most`")]
            let tokens = (f64::from(most) * f64::from(eighths) / 8.0).ceil() as u32;
            if args.mixed_lengths {
                tokens.clamp(1, most)
            } else {
                most
            }
        };
        Self {
            prompt_tokens: part(args.prompt_tokens, u32::MAX),
            max_tokens: part(args.max_tokens, u32::MAX - 1),
        }
    }
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

/// Returns a text of at least so many words. Its number makes it differ from all others.
#[expect(clippy::cast_possible_truncation, reason = "the halves of a seed are 32 bits each")]
fn text(seed: u64, stream: u32, words: usize) -> String {
    let key = [seed as u32, (seed >> 32) as u32];
    let numbers = (0_u32..).flat_map(|block| philox4x32([block, stream, 0, 1], key));
    let mut text = format!("{stream}.");
    let mut written = 0;
    for number in numbers {
        let sentence = SENTENCES[number as usize % SENTENCES.len()];
        text.push(' ');
        text.push_str(sentence);
        written += sentence.split(' ').count();
        if written >= words {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::parse_from(line.split(' ')).args
    }

    #[test]
    fn texts_repeat_for_a_seed_and_differ_between_requests() {
        assert_eq!(text(1, 0, 20), text(1, 0, 20));
        assert_ne!(text(1, 0, 20), text(1, 1, 20));
        assert_ne!(text(1, 0, 20), text(2, 0, 20));
        assert!(text(1, 0, 20).split(' ').count() > 20);
    }

    #[test]
    fn lengths_are_alike_unless_mixed_ones_are_wanted() {
        let alike = args("bench --prompt-tokens 80 --max-tokens 40");
        let whole = Lengths {
            prompt_tokens: 80,
            max_tokens: 40,
        };
        assert!((0..50).all(|request| Lengths::of(&alike, request) == whole));
        let mixed = args("bench --prompt-tokens 80 --max-tokens 40 --mixed-lengths");
        let lengths: Vec<_> = (0..50).map(|request| Lengths::of(&mixed, request)).collect();
        assert!(lengths.iter().all(|of| (10..=80).contains(&of.prompt_tokens)));
        assert!(lengths.iter().all(|of| (5..=40).contains(&of.max_tokens)));
        assert!(lengths.iter().any(|of| of.prompt_tokens < 30) && lengths.iter().any(|of| of.prompt_tokens > 60));
    }
}
