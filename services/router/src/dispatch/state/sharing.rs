//! Readers of one sequence: how they come, and how each goes without the others.

use std::time::Instant;

use super::{CancelReason, Departure, Failed, Identity, Place, Reader, SequenceKey, State};

impl State {
    /// Lets a reader join a sequence that waits or runs.
    pub(super) fn join(&mut self, key: SequenceKey, reader: Reader, now: Instant) {
        let Some(sequence) = self.sequences.get_mut(&key) else {
            return;
        };
        self.next_key += 1;
        self.joined.insert(reader.key, key);
        self.deadlines
            .extend(reader.deadline.map(|deadline| (deadline, reader.key)));
        self.metrics.joined(sequence.request.prompt.len());
        self.metrics.saved_tokens(sequence.emitted.len());
        sequence.readers.join(reader, &sequence.emitted, now);
        self.revise(key);
    }

    /// Ends what a reader wanted of its sequence, because of that reader: the others go on, and the last one's end is the
    /// sequence's. Unknown readers have ended.
    pub(in super::super) fn cancel(&mut self, reader: SequenceKey, reason: CancelReason) {
        self.end_reader(reader, reason, None);
    }

    /// The same; `failed` is what the reader is told, where it is there to be told.
    pub(super) fn end_reader(&mut self, reader: SequenceKey, reason: CancelReason, failed: Option<Failed>) {
        let key = self.joined.get(&reader).copied().unwrap_or(reader);
        let Some(sequence) = self
            .sequences
            .get_mut(&key)
            .filter(|sequence| sequence.readers.contains(reader))
        else {
            return;
        };
        if sequence.readers.count() > 1 {
            let left = sequence.readers.leave(reader);
            self.joined.remove(&reader);
            if let Some(left) = left {
                if let Some(deadline) = left.deadline {
                    self.deadlines.remove(&(deadline, left.key));
                }
                match failed {
                    Some(failed) => left.sender.fail(failed),
                    None => left.sender.close(),
                }
            }
            return self.revise(key);
        }
        match &mut sequence.place {
            Place::Running(run) if reason == CancelReason::StopText => {
                run.stopping = true;
                let (deadline, identity) = (sequence.readers.deadline(), sequence.identity);
                if let Some(deadline) = deadline {
                    self.deadlines.remove(&(deadline, reader));
                }
                self.close_to_others(key, identity);
                self.tell_cancel(key, reason);
            }
            Place::Waiting | Place::Running(_) => {
                if self.queue.remove(key).is_some() {
                    self.metrics.departed(Departure::Abandoned);
                }
                let ended = self.end_early(key, reason);
                if let Some((sequence, failed)) = ended.zip(failed) {
                    sequence.readers.fail(&failed);
                }
            }
        }
    }

    /// Nobody joins a sequence any more.
    pub(super) fn close_to_others(&mut self, key: SequenceKey, identity: Option<Identity>) {
        if let Some(identity) = identity.filter(|identity| self.shared.get(identity) == Some(&key)) {
            self.shared.remove(&identity);
        }
    }

    /// Gives a waiting sequence the most generous priority and deadline of its readers.
    fn revise(&mut self, key: SequenceKey) {
        if let Some(readers) = self.sequences.get(&key).map(|sequence| &sequence.readers) {
            self.queue.revise(key, readers.priority(), readers.deadline());
        }
    }
}
