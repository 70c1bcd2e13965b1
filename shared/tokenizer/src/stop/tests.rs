use proptest::prelude::*;

use super::*;

fn matcher(stops: &[&str]) -> StopMatcher {
    StopMatcher::new(&stops.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// All text that comes out, and the stop string that ended it.
fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
    let mut matcher = matcher(stops);
    let mut text = String::new();
    for piece in pieces {
        let output = matcher.push(piece);
        text.push_str(&output.text);
        if output.stopped.is_some() {
            return (text, output.stopped);
        }
    }
    text.push_str(&matcher.flush());
    (text, None)
}

#[test]
fn a_stop_string_across_pieces_is_found_and_never_emitted() {
    assert_eq!(run(&["STOP"], &["one S", "T", "OP two"]), ("one ".into(), Some(0)));
    assert_eq!(run(&["\n\n"], &["a\n", "\nb"]), ("a".into(), Some(0)));
}

#[test]
fn only_what_may_become_a_stop_string_is_held_back() {
    let mut matcher = matcher(&["STOP"]);
    assert_eq!(matcher.push("abc").text, "abc");
    assert_eq!(matcher.push("dST").text, "d");
    assert_eq!(matcher.push("ST").text, "ST");
    assert_eq!(matcher.push("x").text, "STx");
    assert_eq!(matcher.flush(), "");
}

#[test]
fn held_text_comes_out_at_the_end() {
    assert_eq!(run(&["STOP"], &["a STO"]), ("a STO".into(), None));
}

#[test]
fn the_stop_string_that_is_complete_first_wins() {
    assert_eq!(run(&["abcd", "bc"], &["xabcd"]), ("xa".into(), Some(1)));
    assert_eq!(run(&["c", "abc"], &["xabc"]), ("x".into(), Some(1)));
    assert_eq!(run(&["late", "early"], &["early late"]), (String::new(), Some(1)));
}

#[test]
fn a_partial_match_falls_back_to_a_shorter_one() {
    assert_eq!(run(&["aab"], &["a", "a", "a", "b", "c"]), ("a".into(), Some(0)));
    assert_eq!(run(&["abab!"], &["ababab!"]), ("ab".into(), Some(0)));
}

#[test]
fn characters_of_several_bytes_stay_whole() {
    assert_eq!(
        run(&["終わり"], &["これで終", "わらない終わり。"]),
        ("これで終わらない".into(), Some(0))
    );
    // Both begin with the same byte.
    assert_eq!(run(&["é"], &["è", "é"]), ("è".into(), Some(0)));
}

#[test]
fn after_a_stop_nothing_more_comes() {
    let mut matcher = matcher(&["x"]);
    assert_eq!(matcher.push("axb").stopped, Some(0));
    assert_eq!(matcher.push("c"), StopOutput::default());
    assert_eq!(matcher.flush(), "");
}

#[test]
fn without_stop_strings_text_passes_through() {
    assert_eq!(run(&[], &["a", "", "b"]), ("ab".into(), None));
}

#[test]
fn an_empty_stop_string_is_refused_by_position() {
    let error = StopMatcher::new(&["a".into(), String::new()]).unwrap_err();
    assert!(matches!(error, Error::EmptyStop { index: 1 }));
}

/// The same by searching the whole text: the smallest end, then the smallest start.
fn naive(stops: &[String], text: &str) -> (String, Option<usize>) {
    let first = |stop: &String| text.find(stop.as_str()).map(|start| (start + stop.len(), start));
    let found = stops
        .iter()
        .enumerate()
        .filter_map(|(index, stop)| first(stop).map(|(end, start)| (end, start, index)));
    match found.min() {
        Some((_, start, index)) => (text[..start].to_owned(), Some(index)),
        None => (text.to_owned(), None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_give_what_a_search_of_the_whole_text_gives(
        stops in proptest::collection::vec("[abé]{1,4}", 0..4),
        pieces in proptest::collection::vec("[abéc]{0,5}", 0..12),
    ) {
        let stops_ref: Vec<_> = stops.iter().map(String::as_str).collect();
        let pieces_ref: Vec<_> = pieces.iter().map(String::as_str).collect();
        prop_assert_eq!(run(&stops_ref, &pieces_ref), naive(&stops, &pieces.concat()));
    }

    #[test]
    fn what_is_held_back_is_the_beginning_of_a_stop_string(
        stops in proptest::collection::vec("[ab]{1,5}", 1..4),
        text in "[abc]{0,20}",
    ) {
        let mut matcher = StopMatcher::new(&stops).unwrap();
        if matcher.push(&text).stopped.is_none() {
            let held = matcher.flush();
            let is_beginning = |stop: &String| stop.len() > held.len() && stop.starts_with(&held);
            prop_assert!(held.is_empty() || stops.iter().any(is_beginning));
        }
    }
}
