//! What a process that does not start says, and the code it exits with.

use std::error::Error;
use std::process::ExitCode;

use crate::{config, telemetry};

/// Exit code for wrong usage or configuration: nothing was bound, a restart will not help.
pub const CONFIGURATION: u8 = 64;

/// Exit code for everything else.
pub const FAILURE: u8 = 1;

/// Prints why `service` did not start to standard error, one line per problem, and returns its exit code.
pub fn report(service: &str, error: &(dyn Error + 'static)) -> ExitCode {
    for line in lines(service, error) {
        eprintln!("{line}");
    }
    ExitCode::from(code(error))
}

/// Returns [`CONFIGURATION`] if `error` or one of its sources says that the configuration is wrong, else [`FAILURE`].
pub fn code(error: &(dyn Error + 'static)) -> u8 {
    if configuration(error).is_some() {
        CONFIGURATION
    } else {
        FAILURE
    }
}

/// Returns the lines that [`report`] prints.
pub fn lines(service: &str, error: &(dyn Error + 'static)) -> Vec<String> {
    match configuration(error) {
        Some(wrong) => {
            let text = match wrong.source() {
                Some(source) => format!("{wrong} ({source})"),
                None => wrong.to_string(),
            };
            text.lines()
                .map(|line| format!("{service}: configuration: {line}"))
                .collect()
        }
        None => vec![format!("{service}: {}", with_causes(error))],
    }
}

/// Returns `error` and its causes in one line, outermost first. A cause that the text ends with already is not repeated.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    chain(error).skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn configuration<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    chain(error).find(|cause| {
        let telemetry = cause.downcast_ref::<telemetry::Error>();
        cause.is::<config::Error>() || telemetry.is_some_and(telemetry::Error::is_configuration)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, Problem};

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct NotStarted(#[source] Box<dyn Error + Send + Sync>);

    fn wrong_configuration() -> config::Error {
        let problem = |key, cure: &str| Problem {
            origin: Origin::Environment("KR_ROUTER__QUEUE__CAPACITY".to_owned()),
            ..Problem::new(key, "\"x\"", "expected a whole number", cure)
        };
        config::Error::Invalid(vec![
            problem("queue.capacity", "set it to 1"),
            problem("queue.limit", "remove it"),
        ])
    }

    #[test]
    fn every_configuration_problem_has_a_line_with_its_origin_and_cure() {
        let lines = lines("kr-router", &NotStarted(Box::new(wrong_configuration())));
        assert_eq!(
            lines,
            [
                "kr-router: configuration: queue.capacity = \"x\" (from KR_ROUTER__QUEUE__CAPACITY): expected a whole number; set it to 1",
                "kr-router: configuration: queue.limit = \"x\" (from KR_ROUTER__QUEUE__CAPACITY): expected a whole number; remove it",
            ]
        );
    }

    #[test]
    fn only_configuration_errors_exit_with_64() {
        assert_eq!(code(&NotStarted(Box::new(wrong_configuration()))), CONFIGURATION);
        assert_eq!(code(&NotStarted("port taken".into())), FAILURE);
    }

    #[test]
    fn other_errors_are_one_line_with_their_causes() {
        let lines = lines("kr-worker", &NotStarted("port taken".into()));
        assert_eq!(lines, ["kr-worker: cannot start: port taken"]);
    }
}
