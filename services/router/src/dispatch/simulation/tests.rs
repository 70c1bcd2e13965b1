use std::time::Duration;

use super::trace::{Dice, Traffic, arrivals};
use super::worker::{Pace, Work};
use super::{Arrival, Fate, Simulation};
use crate::policy::PolicyKind;

const MS: Duration = Duration::from_millis(1);

/// An hour's overload in small: twice what one worker of eight places carries, every request in a hurry.
fn overload() -> Vec<Arrival> {
    let mut dice = Dice(5);
    let mut arrivals = arrivals(&Traffic {
        seed: 11,
        requests: 1500,
        rate: 28.0,
        burst: 4.0,
        answer_tokens: 20.0,
        prompt_tokens: 8.0,
    });
    for arrival in &mut arrivals {
        arrival.patience = Some(Duration::from_secs_f64(0.5 + dice.exponential(4.0)));
    }
    arrivals
}

fn served(arrivals: Vec<Arrival>, refuse_late: bool) -> Simulation {
    let pace = Pace::linear(8, 8 * MS, MS);
    let mut simulation = Simulation::new(vec![pace], arrivals, |setup| setup.queue.refuse_late = refuse_late);
    simulation.run();
    simulation
}

#[test]
fn requests_that_cannot_start_in_time_are_refused_at_once_and_few_others() {
    let patient = served(overload(), false);
    let shedding = served(overload(), true);
    // Who is refused here and would have been sent in time had it waited was refused wrongly. Nobody who expires in a
    // queue costs a worker anything, so both runs are the same but for what is measured.
    let refused = shedding
        .seen
        .iter()
        .zip(&patient.seen)
        .filter(|(seen, _)| seen.fate == Fate::Shed);
    let wrongly = refused.clone().filter(|(_, waited)| waited.sent.is_some()).count();
    let refused = refused.count();
    let in_vain = |run: &Simulation| {
        run.seen
            .iter()
            .filter(|seen| seen.fate == Fate::Late && seen.sent.is_none())
            .count()
    };
    println!(
        "{{\"refused\":{refused},\"wrongly\":{wrongly},\"waited_in_vain\":{},\"without_refusals\":{}}}",
        in_vain(&shedding),
        in_vain(&patient)
    );
    assert!(refused > 300, "{refused} refused");
    assert!(wrongly * 20 <= refused, "{wrongly} of {refused} wrongly");
    assert!(
        in_vain(&shedding) * 3 <= in_vain(&patient),
        "most of those who would wait in vain are told at once"
    );
    assert!(
        shedding.count(Fate::Finished) * 100 >= patient.count(Fate::Finished) * 98,
        "and no less is served"
    );
}

#[test]
fn without_load_nobody_is_refused() {
    let arrivals = (0..200).map(|index| Arrival {
        at: index * 500 * MS,
        patience: Some(1100 * MS),
        ..Arrival::default()
    });
    let run = served(arrivals.collect(), true);
    assert_eq!(run.count(Fate::Finished), 200);
}

fn sent_with_hold(hold: Duration, at: &[u32], places: u32) -> Vec<Duration> {
    let arrivals = at.iter().map(|at| Arrival {
        at: *at * MS,
        ..Arrival::default()
    });
    let pace = Pace::linear(places, 20 * MS, MS);
    let mut simulation = Simulation::new(vec![pace], arrivals.collect(), |setup| setup.hold = hold);
    simulation.run();
    simulation.seen.iter().map(|seen| seen.sent.unwrap()).collect()
}

#[test]
fn nothing_is_held_back_unless_that_is_asked_for() {
    assert_eq!(
        sent_with_hold(Duration::ZERO, &[0, 2, 4], 8),
        [0, 2, 4].map(|at| at * MS)
    );
    assert_eq!(
        sent_with_hold(10 * MS, &[0, 2, 4, 11], 8),
        [10, 10, 10, 21].map(|at| at * MS)
    );
    assert_eq!(
        sent_with_hold(10 * MS, &[0, 2, 4], 3),
        [4, 4, 4].map(|at| at * MS),
        "they fill the worker"
    );
}

#[test]
fn a_worker_that_slows_down_is_given_fewer() {
    let traffic = Traffic {
        seed: 3,
        requests: 1200,
        rate: 200.0,
        burst: 8.0,
        answer_tokens: 20.0,
        prompt_tokens: 8.0,
    };
    // Twelve sequences take as long as one; every further one takes its full time.
    let time = |work: Work| MS * work.sequences.max(12) + MS * work.prefill_tokens / 50;
    let pace = Pace {
        places: 50,
        step_tokens: 512,
        time: Box::new(time),
    };
    let mut simulation = Simulation::new(vec![pace], arrivals(&traffic), |_| {});
    simulation.run();
    assert_eq!(simulation.count(Fate::Finished), 1200);
    let limit = simulation.limits()[0];
    assert!((9..=20).contains(&limit), "{limit}");
}

/// Six requests of each of a hundred families that share a beginning of 512 tokens, on two workers. Returns the tokens found in
/// their caches and the mean time to the first token.
fn families(placement: PolicyKind) -> (u64, Duration) {
    let mut dice = Dice(9);
    let mut at = 0.0;
    let arrivals = (0..600_u32).map(|index| {
        at += dice.exponential(0.1);
        let family = dice.below(100);
        let own = 1_000_000 + index * 64;
        let prompt = (family * 10_000..family * 10_000 + 512).chain(own..own + 40);
        Arrival {
            at: Duration::from_secs_f64(at),
            prompt: prompt.collect(),
            max_tokens: 30,
            answer_tokens: 20,
            ..Arrival::default()
        }
    });
    let paces = (0..2).map(|_| Pace::linear(16, 10 * MS, MS)).collect();
    let mut simulation = Simulation::new(paces, arrivals.collect(), |setup| setup.policy = placement);
    simulation.run();
    assert_eq!(simulation.count(Fate::Finished), 600);
    let waits = simulation.first_token_times();
    (
        simulation.workers.iter().map(|worker| worker.cached_tokens).sum(),
        waits[waits.len() / 2],
    )
}

#[test]
fn affinity_computes_less_and_answers_sooner_than_turns_do() {
    let (hits, first_token) = families(PolicyKind::Affinity);
    let (hits_in_turn, first_token_in_turn) = families(PolicyKind::RoundRobin);
    println!(
        "{{\"cached_tokens\":{{\"affinity\":{hits},\"round_robin\":{hits_in_turn}}},\"first_token_ms\":{{\"affinity\":{},\"round_robin\":{}}}}}",
        first_token.as_millis(),
        first_token_in_turn.as_millis()
    );
    // All but each family's first, and a second first where one yielded.
    assert!(hits >= (600 - 120) * 512, "{hits}");
    assert!(hits * 10 > hits_in_turn * 11);
    assert!(first_token < first_token_in_turn);
}

#[test]
fn thirty_two_identical_requests_cost_about_one() {
    let arrivals = (0..32).map(|index| Arrival {
        at: index * 20 * MS,
        shared: true,
        answer_tokens: 90,
        ..Arrival::default()
    });
    let pace = Pace::linear(32, 10 * MS, MS);
    let mut simulation = Simulation::new(vec![pace], arrivals.collect(), |_| {});
    simulation.run();
    assert_eq!(simulation.count(Fate::Finished), 32);
    assert!(
        simulation.seen.iter().all(|seen| seen.tokens == 90),
        "everybody gets all of it"
    );
    assert_eq!(simulation.workers[0].generated, 90);
}

#[test]
fn a_flood_of_one_tenant_hardly_delays_another() {
    let ask = |tenant, at: u32| Arrival {
        at: at * MS,
        tenant,
        max_tokens: 1000,
        answer_tokens: 20,
        ..Arrival::default()
    };
    let run = |flood: u32| {
        let mut arrivals: Vec<_> = (0..flood).map(|_| ask(0, 0)).collect();
        arrivals.extend((0..40).map(|index| ask(1, 100 + index * 300)));
        let mut simulation = Simulation::new(vec![Pace::linear(8, 10 * MS, MS)], arrivals.clone(), |_| {});
        simulation.run();
        let quiet = simulation
            .seen
            .iter()
            .zip(arrivals)
            .filter(|(_, arrival)| arrival.tenant == 1);
        let mut times: Vec<_> = quiet
            .map(|(seen, arrival)| seen.last_token.unwrap() - arrival.at)
            .collect();
        times.sort_unstable();
        times[times.len() * 95 / 100]
    };
    let (alone, flooded) = (run(0), run(1000));
    println!(
        "{{\"p95_ms\":{{\"alone\":{},\"flooded\":{}}}}}",
        alone.as_millis(),
        flooded.as_millis()
    );
    // An answer in a full batch, and another one's end to wait for; behind the flood it would be over a hundred.
    let answer = 20 * (10 + 8) * MS;
    assert!(flooded <= 2 * answer, "{flooded:?} instead of {alone:?}");
}
