//! A panic while a request is handled ends that request, not the server (`k8s.io/apiserver/pkg/server/filters.WithPanicRecovery`).

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

/// Runs a future; its panic is the error, as text.
pub async fn guarded<T>(future: impl Future<Output = T>) -> Result<T, String> {
    // What the future shared is behind locks that are released, not poisoned, by unwinding.
    AssertUnwindSafe(future).catch_unwind().await.map_err(|payload| text(payload.as_ref()))
}

fn text(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a text".into(),
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panics_before_and_after_a_wait_are_caught() {
        assert_eq!(guarded(async { 1 }).await, Ok(1));
        assert_eq!(guarded(async { panic!("at once") }).await, Err::<(), _>("at once".to_owned()));
        let late = guarded(async {
            tokio::task::yield_now().await;
            let list: Vec<u8> = Vec::new();
            list[std::hint::black_box(3)]
        });
        assert!(late.await.unwrap_err().starts_with("index out of bounds"));
    }
}
