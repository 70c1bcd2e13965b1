//! The way of one request, from its message to its answer's stream. Read this first.

use kr_proto::serve as pb;
use kr_proto::serve::generate_request::Input;
use tonic::Status;

use crate::admission::Permit;
use crate::call::Call;
use crate::error::Error;
use crate::inference::Inference;
use crate::record::{Operation, Outcome, Record};
use crate::relay::{AnswerText, Choice, Choices, Relay};
use crate::sequence::{Failed, SequenceEvent};
use crate::status;
use crate::validate::{Asked, Place, Prompt, ValidRequest};

/// A request that workers are computing.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) relay: Relay,
    pub(crate) traceparent: Option<String>,
}

impl Inference {
    /// Runs one request until a worker has accepted it. Returning from here sends the response's headers, after which no
    /// client retries by itself; so everything that can be refused is refused before.
    ///
    /// # Cancellation
    /// Dropping this takes the request out of the queue.
    pub(crate) async fn answer(
        &self,
        call: Call,
        operation: Operation,
        asked: (String, Asked),
    ) -> Result<Answer, Status> {
        let admitted = self.admit(&call, asked).await;
        let (mut valid, permits) = admitted.map_err(|error| self.refuse(&call, &error))?;

        let mut record = Record::begin(call, operation, &valid, self.metrics.clone());
        let traceparent = record.traceparent();
        valid.sequence.traceparent.clone_from(&traceparent);

        record.queued();
        let submitted = self.submit(&valid).await;
        let mut choices = submitted.map_err(|error| {
            record.not_queued();
            failed(&mut record, &error)
        })?;
        let accepted = wait_for_worker(&mut choices, &mut record).await;
        accepted.map_err(|error| failed(&mut record, &error.into()))?;

        let relay = Relay::new(&valid, choices, record, permits);
        Ok(Answer { relay, traceparent })
    }

    /// Finds the model, takes the tenant's permits, one for each choice, and checks the request.
    async fn admit(&self, call: &Call, (model, asked): (String, Asked)) -> Result<(ValidRequest, Vec<Permit>), Error> {
        let model = self.catalog.resolve(&model)?;
        let longest_sequence = self.longest_sequence(model);
        let place = Place {
            call,
            model,
            longest_sequence,
        };
        // Before the prompt is tokenized, so that a tenant over its limit costs no work.
        let choices = 0..self.validator.allowed_choices(&asked.parameters);
        let permits = choices
            .map(|_| self.admission.admit(&call.tenant))
            .collect::<Result<_, _>>()?;
        let valid = self.validator.validate(asked, place).await?;
        Ok((valid, permits))
    }

    /// Queues every choice. Where one is refused, those before it leave the queue again.
    async fn submit(&self, valid: &ValidRequest) -> Result<Choices, Error> {
        let mut choices = Vec::new();
        for index in 0..valid.choices {
            let text = AnswerText::new(valid)?;
            let sequence = self.dispatcher.submit(valid.sequence_of(index)).await?;
            choices.push(Choice::new(sequence, text));
        }
        Ok(Choices::new(choices))
    }
}

/// Waits until a worker has accepted one of the choices: others may have to wait until that one has ended. The queue's bounds
/// (the deadline, and the configured patience without a worker) are the dispatcher's.
async fn wait_for_worker(choices: &mut Choices, record: &mut Record) -> Result<(), Failed> {
    match choices.first_event().await {
        (choice, Some(SequenceEvent::Accepted(accepted))) => {
            record.accepted(choice, accepted);
            Ok(())
        }
        (_, Some(SequenceEvent::Failed(failed))) => Err(failed),
        _ => Err(Failed::Draining),
    }
}

fn failed(record: &mut Record, error: &Error) -> Status {
    record.end(&Outcome::Failed(error));
    status::status(error, record.request_id())
}

/// Takes a Generate message apart: the model's name, and what is asked of it.
pub(crate) fn asked(request: pb::GenerateRequest) -> (String, Asked) {
    let prompt = match request.input {
        None => Prompt::Missing,
        Some(Input::Prompt(text)) => Prompt::Text(text),
        Some(Input::PromptIds(tokens)) => Prompt::Ids(tokens.ids),
    };
    let asked = Asked {
        prompt,
        parameters: request.parameters.unwrap_or_default(),
        idempotency_key: request.idempotency_key,
    };
    (request.model, asked)
}

#[cfg(test)]
mod tests;
