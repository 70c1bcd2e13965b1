//! Several answers to one request, penalties and the prompt's log probabilities, through router and worker.

use kr_integration_tests::{Service, generate, generate_all, greedy, prompt};
use kr_proto::serve::{FinishReason, Parameters};
use tonic_types::StatusExt as _;

fn sampled(n: u32, seed: u64) -> Parameters {
    Parameters {
        temperature: Some(1.0),
        seed: Some(seed),
        n: Some(n),
        ..greedy(12)
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_answers_again_and_each_choice_another() {
    let service = Service::real(1).start().await;
    let ask = || generate_all(&service, prompt("My favourite animal is", sampled(3, 7)));
    let (one, again) = (ask().await.unwrap(), ask().await.unwrap());
    assert_eq!(one.len(), 3);
    let ids = |answers: &[kr_integration_tests::Answer]| -> Vec<Vec<u32>> {
        answers.iter().map(|answer| answer.ids.clone()).collect()
    };
    assert_eq!(ids(&one), ids(&again));
    assert_ne!(one[0].ids, one[1].ids);
    assert_ne!(one[1].ids, one[2].ids);
    let alone = generate(&service, prompt("My favourite animal is", sampled(1, 7)))
        .await
        .unwrap();
    assert_eq!(alone.ids, one[0].ids, "the first choice is what a request for one gets");
    let generated: u32 = one
        .iter()
        .map(|answer| answer.finish.usage.unwrap().completion_tokens)
        .sum();
    let whole: Vec<_> = one.iter().filter_map(|answer| answer.finish.request_usage).collect();
    let [whole] = whole.as_slice() else {
        panic!("{} ends carry the request's usage", whole.len())
    };
    assert_eq!(whole.completion_tokens, generated);
    assert_eq!(whole.prompt_tokens, alone.finish.usage.unwrap().prompt_tokens);
    assert!(
        one.iter()
            .all(|answer| answer.finish.receipt.as_ref().unwrap().seed == 7)
    );
}

#[tokio::test]
async fn more_answers_than_a_worker_runs_at_once_all_come() {
    let service = Service::fake(1, "step_ms=1")
        .arguments(["--max-sequences", "2"])
        .start()
        .await;
    let parameters = Parameters {
        n: Some(5),
        ignore_eos: Some(true),
        ..greedy(20)
    };
    let answers = generate_all(&service, prompt("Hello", parameters)).await.unwrap();
    assert_eq!(answers.len(), 5);
    for answer in answers {
        assert_eq!((answer.ids.len(), answer.finish.reason()), (20, FinishReason::Length));
    }
}

#[tokio::test]
async fn more_answers_than_allowed_are_refused_by_the_field() {
    let service = Service::fake(1, "")
        .configuration("[limits]\nmax_choices = 2")
        .start()
        .await;
    let asking = |n| Parameters {
        n: Some(n),
        ..greedy(1)
    };
    assert_eq!(
        generate_all(&service, prompt("Hello", asking(2))).await.unwrap().len(),
        2
    );
    let status = generate_all(&service, prompt("Hello", asking(3))).await.unwrap_err();
    let field = &status.get_details_bad_request().unwrap().field_violations[0];
    assert_eq!(
        (field.field.as_str(), field.description.as_str()),
        ("parameters.n", "is 3, allowed is 1 to 2")
    );
}

#[tokio::test]
async fn a_penalty_changes_the_answer() {
    let service = Service::real(1).start().await;
    let ask = |parameters| generate(&service, prompt("one two one two one two one two", parameters));
    let plain = ask(greedy(24)).await.unwrap();
    let penalised = ask(Parameters {
        frequency_penalty: Some(2.0),
        presence_penalty: Some(2.0),
        ..greedy(24)
    })
    .await
    .unwrap();
    let most = |ids: &[u32]| {
        ids.iter()
            .map(|id| ids.iter().filter(|other| *other == id).count())
            .max()
    };
    assert!(
        most(&penalised.ids) < most(&plain.ids),
        "{:?} against {:?}",
        penalised.ids,
        plain.ids
    );
}

#[tokio::test]
async fn the_prompts_log_probabilities_name_its_tokens() {
    let service = Service::real(1).start().await;
    let parameters = Parameters {
        prompt_logprobs: Some(2),
        n: Some(2),
        ..greedy(2)
    };
    let text = "The capital of France is Paris.";
    let answers = generate_all(&service, prompt(text, parameters)).await.unwrap();
    let scores = &answers[0].prompt_logprobs;
    let prompt_tokens = answers[0].finish.usage.unwrap().prompt_tokens;
    assert_eq!(scores.len(), prompt_tokens as usize - 1);
    let spelled: String = scores.iter().map(|score| score.text.as_str()).collect();
    assert!(text.ends_with(&spelled), "{spelled:?}");
    for score in scores {
        assert!(score.logprob <= 0.0 && score.top.len() == 2, "{score:?}");
        assert!(score.top[0].logprob >= score.top[1].logprob && score.top[0].logprob >= score.logprob);
    }
    let paris = scores.iter().find(|score| score.text == " Paris").unwrap();
    assert_eq!(paris.top[0].token_id, paris.token_id, "{paris:?}");
    assert!(
        answers[1].prompt_logprobs.is_empty(),
        "they are the same for every choice"
    );
}
