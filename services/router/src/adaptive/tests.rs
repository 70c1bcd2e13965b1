//! The controller against workers of every kind, in a queue that is never empty.

use proptest::prelude::*;

use super::*;

/// A worker whose step with this many sequences, as the step of this number, takes so many milliseconds.
struct Bench<F> {
    controller: Controller,
    curve: F,
    /// Standard deviation of a step's time as a part of it.
    noise: f64,
    sequences: u32,
    number: u32,
    seed: u64,
    changes: Vec<Change>,
}

impl<F: Fn(u32, u32) -> f64> Bench<F> {
    fn new(bounds: Bounds, curve: F) -> Self {
        Self {
            controller: Controller::new(bounds),
            curve,
            noise: 0.0,
            sequences: 0,
            number: 0,
            seed: 1,
            changes: Vec::new(),
        }
    }

    /// Uniform in [0, 1).
    fn random(&mut self) -> f64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn step(&mut self) {
        // One in forty ends; the queue fills every place that the limit leaves.
        let ended = (0..self.sequences).filter(|_| self.random() < 0.025).count();
        self.sequences -= u32::try_from(ended).unwrap();
        self.sequences = self.sequences.max(self.controller.limit());
        self.number += 1;
        let spread = self.noise * 12_f64.sqrt() * (self.random() - 0.5);
        let milliseconds = (self.curve)(self.sequences, self.number) * (1.0 + spread);
        let change = self.controller.observe(Step {
            sequences: self.sequences,
            tokens: self.sequences,
            duration: Duration::from_secs_f64(milliseconds / 1000.0),
        });
        self.changes.extend(change);
    }

    /// Returns what was judged best in each of `steps` steps.
    fn run(&mut self, steps: usize) -> Vec<u32> {
        let judged = (0..steps).map(|_| {
            self.step();
            self.controller.judged
        });
        judged.collect()
    }
}

fn flat(_: u32, _: u32) -> f64 {
    20.0
}

fn linear(sequences: u32, _: u32) -> f64 {
    2.0 * f64::from(sequences)
}

fn knee(sequences: u32, _: u32) -> f64 {
    20.0 * (f64::from(sequences) / 16.0).max(1.0)
}

/// Returns the part of `values` within a range.
fn part_within(values: &[u32], range: std::ops::RangeInclusive<u32>) -> f64 {
    values.iter().filter(|value| range.contains(value)).count() as f64 / values.len() as f64
}

#[test]
fn a_worker_whose_steps_take_no_longer_gets_as_many_as_allowed() {
    let mut bench = Bench::new(Bounds::default(), flat);
    let judged = bench.run(5000);
    assert_eq!(part_within(&judged, 50..=50), 1.0);
    let lowered: Vec<_> = bench.changes.iter().filter(|change| change.to < change.from).collect();
    assert!(lowered.len() <= 4, "it costs a few short probes: {lowered:?}");
}

#[test]
fn a_worker_whose_steps_take_as_much_longer_gets_as_few_as_allowed() {
    let mut bench = Bench::new(Bounds::default(), linear);
    let judged = bench.run(1500);
    assert_eq!(part_within(&judged[1000..], 5..=5), 1.0, "{:?}", bench.changes);
}

#[test]
fn a_worker_with_a_knee_is_held_near_it() {
    let mut bench = Bench::new(Bounds::default(), knee);
    let judged = bench.run(6000);
    assert!(part_within(&judged[1500..], 14..=24) > 0.99, "{:?}", bench.changes);
}

#[test]
fn noise_moves_it_little() {
    let decided =
        |bench: &Bench<fn(u32, u32) -> f64>| bench.changes.iter().filter(|change| change.why != Why::Probe).count();
    let mut moderate = Bench::new(Bounds::default(), knee as fn(u32, u32) -> f64);
    moderate.noise = 0.15;
    let judged = moderate.run(20_000);
    assert!(part_within(&judged[5000..], 12..=30) > 0.9, "{:?}", moderate.changes);
    assert!(decided(&moderate) < 200, "{} in 20000 steps", decided(&moderate));
    let mut heavy = Bench::new(Bounds::default(), knee as fn(u32, u32) -> f64);
    heavy.noise = 0.4;
    let judged = heavy.run(20_000);
    assert!(part_within(&judged, 12..=50) > 0.95, "{:?}", heavy.changes);
    assert!(decided(&heavy) < 200, "{} in 20000 steps", decided(&heavy));
}

#[test]
fn noise_costs_little_throughput_where_there_is_no_knee() {
    let mut bench = Bench::new(Bounds::default(), |sequences, _| 8.0 + f64::from(sequences));
    bench.noise = 0.15;
    bench.run(20_000);
    let judged = bench.run(20_000);
    let throughput = |sequences: u32| f64::from(sequences) / (8.0 + f64::from(sequences));
    let mean = judged.iter().map(|judged| throughput(*judged)).sum::<f64>() / judged.len() as f64;
    assert!(
        mean > 0.75 * throughput(50),
        "{mean} of {}: {:?}",
        throughput(50),
        bench.changes
    );
}

#[test]
fn a_change_of_the_worker_is_followed_within_a_few_hundred_steps() {
    let mut bench = Bench::new(Bounds::default(), |sequences, number| match number {
        ..3000 => 20.0,
        3000..6000 => 20.0 * (f64::from(sequences) / 8.0).max(1.0),
        _ => 20.0,
    });
    let judged = bench.run(9000);
    assert_eq!(judged[2999], 50);
    let down = judged[3000..6000].iter().position(|judged| *judged <= 14);
    assert!(
        down.is_some_and(|steps| steps <= 900),
        "down after {down:?}: {:?}",
        bench.changes
    );
    let up = judged[6000..].iter().position(|judged| *judged >= 40);
    assert!(
        up.is_some_and(|steps| steps <= 1200),
        "up after {up:?}: {:?}",
        bench.changes
    );
}

#[test]
fn tokens_come_within_their_time() {
    let bounds = Bounds {
        token_time: Some(Duration::from_millis(25)),
        ..Bounds::default()
    };
    let mut bench = Bench::new(bounds, |sequences, _| 8.0 + f64::from(sequences));
    let judged = bench.run(3000);
    assert!(part_within(&judged[500..], 12..=17) > 0.99, "{:?}", bench.changes);
}

#[test]
fn one_at_a_time_is_allowed() {
    let bounds = Bounds {
        least: 1,
        most: 1,
        token_time: None,
    };
    assert_eq!(part_within(&Bench::new(bounds, flat).run(500), 1..=1), 1.0);
    let bounds = Bounds {
        least: 1,
        most: 50,
        token_time: None,
    };
    let mut bench = Bench::new(bounds, linear);
    let judged = bench.run(3000);
    assert!(part_within(&judged[1500..], 1..=2) == 1.0, "{:?}", bench.changes);
}

proptest! {
    #[test]
    fn whatever_steps_come_the_limit_is_within_its_bounds(
        least in 1..10_u32,
        more in 0..50_u32,
        token_time_ms in proptest::option::of(0..50_u64),
        steps in proptest::collection::vec((0..80_u32, 0..600_u32, 0..100_000_u64), 1..400),
    ) {
        let bounds = Bounds { least, most: least + more, token_time: token_time_ms.map(Duration::from_millis) };
        let mut controller = Controller::new(bounds);
        for (sequences, prompt_tokens, micros) in steps {
            let before = controller.limit();
            let change = controller.observe(Step {
                sequences,
                tokens: sequences + prompt_tokens,
                duration: Duration::from_micros(micros),
            });
            let limit = controller.limit();
            // A probe may look a quarter below.
            prop_assert!(limit >= least * 4 / 5 && limit >= 1 && limit <= bounds.most);
            prop_assert_eq!(change.map_or(before, |change| change.to), limit);
        }
    }
}
