//! What is known of a call before its message is read: put into the request's extensions by the server's outer layers.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use kr_contract::RequestId;

use crate::clock;
use crate::error::Error;
use crate::sequence::Tenant;

/// One call of one client.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    pub(crate) arrived: Instant,
    /// From `grpc-timeout`.
    pub(crate) deadline: Option<Instant>,
    pub(crate) tenant: Tenant,
    /// The caller's trace context, if it sent a well-formed one.
    pub(crate) traceparent: Option<String>,
}

impl Call {
    /// Reads what `headers` say of a call that arrives now. The tenant is `default` until a key says otherwise.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(crate) fn begin(headers: &HeaderMap) -> Result<Self, Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| Error::internal("request id", error))?;
        let arrived = clock::now();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (timeout, traceparent) = (text("grpc-timeout"), text("traceparent"));
        Ok(Self {
            request_id: RequestId(u128::from_ne_bytes(random)),
            arrived,
            deadline: timeout
                .and_then(grpc_timeout)
                .and_then(|left| arrived.checked_add(left)),
            tenant: Tenant("default".into()),
            traceparent: traceparent.filter(|text| is_traceparent(text)).map(str::to_owned),
        })
    }

    /// Takes the call of a request out of its extensions.
    ///
    /// # Errors
    /// When the layer that puts it there is missing.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Error> {
        let call = request.extensions().get::<Self>().cloned();
        call.ok_or_else(|| Error::internal("server stack", "no call in the request's extensions".to_owned()))
    }

    /// Returns whether the deadline has passed.
    pub(crate) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| clock::now() >= deadline)
    }
}

/// Reads a timeout as gRPC writes it: at most eight digits and a unit. Anything else counts as no timeout.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Returns whether a text has the form of W3C trace context: version, trace id, span id and flags.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else {
        return false;
    };
    let hexadecimal = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let lengths = [(version, 2), (trace, 32), (span, 16), (flags, 2)];
    lengths
        .iter()
        .all(|(part, length)| part.len() == *length && hexadecimal(part))
        && **version != *"ff"
        && [trace, span].iter().all(|id| id.bytes().any(|byte| byte != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        for (text, milliseconds) in [
            ("1H", 3_600_000),
            ("2M", 120_000),
            ("3S", 3000),
            ("40m", 40),
            ("5000u", 5),
        ] {
            assert_eq!(grpc_timeout(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn malformed_timeouts_are_no_timeouts() {
        for text in ["", "S", "5", "123456789S", "-1S", "1.5S", "1s", "5µ"] {
            assert_eq!(grpc_timeout(text), None, "{text}");
        }
    }

    #[test]
    fn malformed_trace_contexts_are_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let of = |text: &str| {
            let name = axum::http::HeaderName::from_static("traceparent");
            let headers = HeaderMap::from_iter([(name, text.parse().unwrap())]);
            Call::begin(&headers).unwrap().traceparent
        };
        assert_eq!(of(good).as_deref(), Some(good));
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good.replace("00-", "ff-"),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_call_has_its_own_id() {
        let headers = HeaderMap::new();
        let (one, other) = (Call::begin(&headers).unwrap(), Call::begin(&headers).unwrap());
        assert_ne!(one.request_id, other.request_id);
        assert_eq!(one.deadline, None);
    }
}
