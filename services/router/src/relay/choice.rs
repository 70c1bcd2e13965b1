//! The choices of one request on their way: whose turn it is, and what each says next.

use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;

use super::AnswerText;
use crate::sequence::stream::SequenceStream;
use crate::sequence::{Finished, SequenceEvent};

/// How long the end of an answer waits for the worker's figures after a stop text.
const LAST_FIGURES: Duration = Duration::from_millis(250);

/// One running choice. Dropping it cancels its sequence.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) sequence: SequenceStream,
    pub(crate) text: AnswerText,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// A stop text was found and sent; the worker's figures are awaited until then.
    Stopping(Instant),
    Ended,
}

/// What a choice says.
#[derive(Debug)]
pub(super) enum News {
    /// `None`: its sequence broke off.
    Event(Option<SequenceEvent>),
    /// It had stopped at a stop text, and this is what the worker says of it, if it said something in time.
    Stopped(Option<Finished>),
}

impl Choice {
    pub(crate) fn new(sequence: SequenceStream, text: AnswerText) -> Self {
        Self {
            sequence,
            text,
            phase: Phase::Running,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    pub(super) fn end(&mut self) {
        self.phase = Phase::Ended;
    }

    /// A stop text was found: nothing but the worker's figures is of interest now.
    pub(super) fn stop(&mut self) {
        self.sequence.stop_text_found();
        self.phase = Phase::Stopping(Instant::now() + LAST_FIGURES);
    }

    /// Waits for news. Never ready once it has ended.
    ///
    /// # Cancellation
    /// Loses nothing that matters.
    async fn news(&mut self) -> News {
        match self.phase {
            Phase::Running => News::Event(self.sequence.recv().await),
            Phase::Stopping(until) => {
                let figures = tokio::time::timeout_at(until, figures(&mut self.sequence)).await;
                News::Stopped(figures.ok().flatten())
            }
            Phase::Ended => std::future::pending().await,
        }
    }
}

async fn figures(sequence: &mut SequenceStream) -> Option<Finished> {
    loop {
        match sequence.recv().await? {
            SequenceEvent::Finished(finished) => return Some(finished),
            SequenceEvent::Failed(_) => return None,
            SequenceEvent::Accepted(_) | SequenceEvent::PromptLogprobs(_) | SequenceEvent::Tokens(_) => {}
        }
    }
}

/// The choices of one request, by their index.
#[derive(Debug)]
pub(crate) struct Choices {
    list: Vec<Choice>,
    /// Who is asked first: the one after the last that spoke, so that none waits behind another forever.
    first: usize,
}

impl Choices {
    pub(crate) fn new(list: Vec<Choice>) -> Self {
        Self { list, first: 0 }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Choice> {
        self.list.get_mut(index)
    }

    /// Returns the indices of those that have not ended.
    pub(super) fn running(&self) -> Vec<usize> {
        let choices = self.list.iter().enumerate();
        let running = choices.filter(|(_, choice)| !choice.has_ended());
        running.map(|(index, _)| index).collect()
    }

    /// Waits until a choice says something; `None` once all have ended.
    ///
    /// # Cancellation
    /// Loses nothing that matters.
    pub(super) async fn news(&mut self) -> Option<(usize, News)> {
        let first = self.first.min(self.list.len());
        let (earlier, later) = self.list.split_at_mut(first);
        let in_turn = (first..).zip(later).chain((0..).zip(earlier));
        let running = in_turn.filter(|(_, choice)| !choice.has_ended());
        let waits: Vec<_> = running
            .map(|(index, choice)| Box::pin(choice.news().map(move |news| (index, news))))
            .collect();
        if waits.is_empty() {
            return None;
        }
        let ((index, news), ..) = futures::future::select_all(waits).await;
        self.first = index + 1;
        Some((index, news))
    }

    /// Waits until a worker has accepted one of the choices, or something else has happened to one.
    pub(crate) async fn first_event(&mut self) -> (usize, Option<SequenceEvent>) {
        match self.news().await {
            Some((index, News::Event(event))) => (index, event),
            Some((index, News::Stopped(_))) => (index, None),
            None => (0, None),
        }
    }

    /// Returns what a choice has to say without waiting.
    pub(super) fn at_once(&mut self, index: usize) -> Option<News> {
        self.list.get_mut(index)?.news().now_or_never()
    }
}
