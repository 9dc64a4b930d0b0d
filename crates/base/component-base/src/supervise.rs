//! Tasks whose end must not go unseen.
//!
//! ```text
//! outcome(work)                  a panic becomes an error for who waits
//! guarded(task, work)            the same, logged and counted
//! persist(longest, make)         the work is begun again after a panic, with a growing pause
//! spawn(task, work)              a panic ends `runtime::run` with an error; systemd starts the process again;
//!                                returning is allowed: a task that watches for the shutdown does so
//! vital(task, shutdown, work)    the same, and returning before the shutdown is no better than a panic
//! ```
//!
//! A task spawned without any of these leaves the process running, and healthy by its checks, on a cache nobody feeds
//! or a key nobody gives back.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::time::Duration;

use futures::FutureExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::metrics;
use crate::runtime::Shutdown;

/// What ended the process; the first one counts.
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
    fn new(task: &str, message: String) -> Self {
        tracing::error!(task, message, "a task panicked");
        PANICS.get_or_create(&[("task", task.to_owned())]).inc();
        Self { task: task.to_owned(), message }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|t| (*t).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Runs `work` to its end; an error is the message of its panic. State that `work` shares with others has to be sound
/// at each of its steps: locks are released by the unwinding and not poisoned.
pub async fn outcome<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|payload| message(&*payload))
}

/// As [`outcome`]; the panic is logged and counted.
pub async fn guarded<T>(task: &str, work: impl Future<Output = T>) -> Result<T, Panicked> {
    outcome(work).await.map_err(|message| Panicked::new(task, message))
}

/// As [`guarded`], for work that does not wait.
pub fn guarded_sync<T>(task: &str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panicked::new(task, message(&*payload)))
}

/// Does work that `make` begins, again after each panic, with a pause that doubles from one second up to `longest`. For
/// work on one of many things, whose trouble must not become that of the others.
pub async fn persist<F: Future>(longest: Duration, mut make: impl FnMut() -> F) -> F::Output {
    let mut pause = Duration::from_secs(1);
    loop {
        match outcome(make()).await {
            Ok(output) => return output,
            Err(panic) => tracing::error!(panic, ?pause, "a task panicked and is begun again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Starts a task without which the process is no good: when it panics, [`crate::run`] returns an error that names it.
pub fn spawn(task: impl Into<String>, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let task = task.into();
    tokio::spawn(async move {
        if let Err(panicked) = guarded(&task, work).await {
            fail(panicked.to_string());
        }
    })
}

/// Starts a task that has to run until `shutdown`. When it panics, or ends before, the process ends with an error.
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
            fail(failure);
        }
    })
}

/// Ends the process with an error, for what no single task can repair.
pub fn fail(failure: String) {
    tracing::error!(failure, "the process ends");
    FAILURE.send_if_modified(|failed| {
        let first = failed.is_none();
        failed.get_or_insert(failure);
        first
    });
}

/// What has ended the process, if anything.
pub fn failure() -> Option<String> {
    FAILURE.borrow().clone()
}

/// Waits for the first failure.
pub(crate) async fn failed() -> String {
    let mut failures = FAILURE.subscribe();
    match failures.wait_for(Option::is_some).await {
        Ok(failed) => failed.clone().unwrap_or_default(),
        // The sender is never dropped.
        Err(_) => std::future::pending().await,
    }
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
        let late: Result<(), String> = outcome(async {
            tokio::task::yield_now().await;
            assert_eq!(1, 2, "gone");
        })
        .await;
        assert!(late.is_err_and(|text| text.contains("gone")));
    }

    #[tokio::test]
    async fn work_goes_on_after_a_panic() {
        let (mut attempts, begun) = (0, tokio::time::Instant::now());
        let done = persist(Duration::from_secs(1), || {
            attempts += 1;
            let attempt = attempts;
            async move {
                assert!(attempt > 2, "not yet");
                attempt
            }
        });
        assert_eq!(done.await, 3);
        assert_eq!(begun.elapsed().as_secs(), 1 + 1, "the pause is at most the longest");
    }
}
