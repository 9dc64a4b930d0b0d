//! Tasks whose end must not go unseen.
//!
//! ```text
//! guarded(task, work)            a panic is logged, counted, and becomes an error that the caller treats as any other
//! vital(task, shutdown, work)    the process lives no longer than this task: its panic or early end ends `runtime::run`
//!                                with an error, and the service manager starts the process again
//! ```
//!
//! A task spawned without either leaves the process running on a cache nobody feeds or a key nobody gives back.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;

use futures::FutureExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::metrics;
use crate::runtime::Shutdown;

static FAILURE: LazyLock<watch::Sender<Option<String>>> = LazyLock::new(|| watch::Sender::new(None));

type Panics = Family<[(&'static str, String); 1], Counter>;

static PANICS: LazyLock<Panics> = LazyLock::new(|| {
    let panics = Panics::default();
    metrics::global().register("kinit_task_panics", "Panics in supervised tasks, by task", panics.clone());
    panics
});

/// A supervised task panicked.
#[derive(Debug, thiserror::Error)]
#[error("{task} panicked: {message}")]
pub struct Panicked {
    /// The task's name.
    pub task: String,
    /// What the panic said.
    pub message: String,
}

impl Panicked {
    /// Logs and counts what was caught.
    fn new(task: &str, payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|t| (*t).to_owned());
        let message = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
        tracing::error!(task, message, "a task panicked");
        PANICS.get_or_create(&[("task", task.to_owned())]).inc();
        Self { task: task.to_owned(), message }
    }
}

/// Runs `work`; a panic in it is an error. State that `work` shares with others has to be sound at each of its steps:
/// locks are released by the unwinding and not poisoned.
pub async fn guarded<T>(task: &str, work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|payload| Panicked::new(task, &*payload))
}

/// As [`guarded`], for work that does not wait.
pub fn guarded_sync<T>(task: &str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panicked::new(task, &*payload))
}

/// Spawns a task that has to run until `shutdown`. When it panics, or ends before, the process ends with an error.
pub fn vital<F>(task: impl Into<String>, shutdown: &Shutdown, work: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (task, shutdown) = (task.into(), shutdown.clone());
    tokio::spawn(async move {
        let failure = match guarded(&task, work).await {
            Ok(()) => format!("{task} ended before its time"),
            Err(panicked) => panicked.to_string(),
        };
        if !shutdown.is_cancelled() {
            tracing::error!(task, failure, "the process cannot go on without this task");
            FAILURE.send_replace(Some(failure));
        }
    })
}

/// Waits until a vital task has failed; says what happened.
pub async fn failed() -> String {
    let mut failure = FAILURE.subscribe();
    let seen = failure.wait_for(Option::is_some).await;
    // The sender is never dropped.
    seen.ok().and_then(|seen| seen.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_counted() {
        let result = guarded("sync of x", async { [0][usize::from(!std::hint::black_box(false))] }).await;
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("sync of x panicked: index out of bounds"), "{error}");
        assert_eq!(guarded("sync of x", async { 1 }).await.unwrap(), 1);
        assert_eq!(guarded_sync("y", || 2).unwrap(), 2);
        assert!(metrics::global().render().contains("kinit_task_panics_total{task=\"sync of x\"} 1"));
    }
}
