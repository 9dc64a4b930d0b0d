//! Rules about objects that several controllers share.

pub mod owner;
pub mod pod;
pub mod selector;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The present, as the API writes it. Cores take it as an argument.
pub fn now() -> Time {
    Time(jiff::Timestamp::now())
}

/// Whether an API call failed with this HTTP status.
pub fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// `Ok` for a deletion or update of what is gone already.
pub fn ignore_gone<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_status(&error, 404) => Ok(None),
        Err(error) => Err(error),
    }
}
