//! Tasks that must not end unseen. A panic in a task that was merely spawned leaves its work undone for ever, while the
//! process goes on and its health checks pass.
//!
//! Three ways out: [`spawn`] ends the process with an error, so that its unit starts it again; [`persist`] does the
//! work again; [`outcome`] tells who waits for the task that it has panicked.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What ended the process; the first one counts.
static FAILED: LazyLock<watch::Sender<Option<String>>> = LazyLock::new(|| watch::Sender::new(None));

/// Starts a task without which the process is no good: when it panics, [`crate::run`] returns an error that names it.
/// Returning is allowed: a task that watches for the shutdown does so.
pub fn spawn(name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(panic) = outcome(task).await {
            fail(format!("task {name} panicked: {panic}"));
        }
    })
}

/// Ends the process with an error, for what no single task can repair.
pub fn fail(message: String) {
    tracing::error!(message, "the process ends");
    FAILED.send_if_modified(|failed| {
        let first = failed.is_none();
        failed.get_or_insert(message);
        first
    });
}

/// Waits for the first failure.
pub(crate) async fn failed() -> String {
    let mut failures = FAILED.subscribe();
    match failures.wait_for(Option::is_some).await {
        Ok(failed) => failed.clone().unwrap_or_default(),
        // The sender is never dropped.
        Err(_) => std::future::pending().await,
    }
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

/// Runs a future to its end; an error is the message of its panic.
pub async fn outcome<T>(task: impl Future<Output = T>) -> Result<T, String> {
    let mut task = pin!(task);
    Caught { task: task.as_mut() }.await
}

struct Caught<'a, F> {
    task: Pin<&'a mut F>,
}

impl<F: Future> Future for Caught<'_, F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // What the future shares with others is behind locks that do not poison; the future itself is never polled
        // again.
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.task.as_mut().poll(cx))) {
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => Poll::Ready(Err(message(panic.as_ref()))),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|t| (*t).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told() {
        assert_eq!(outcome(async { 7 }).await, Ok(7));
        let lost: Result<(), String> = outcome(async {
            tokio::task::yield_now().await;
            assert_eq!(1, 2, "gone");
        })
        .await;
        assert!(lost.is_err_and(|m| m.contains("gone")));
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

    #[tokio::test]
    async fn a_task_that_panics_ends_the_process() {
        spawn("quiet", async {}).await.unwrap();
        spawn("bad", async { assert!(std::hint::black_box(false), "no more") }).await.unwrap();
        assert_eq!(failed().await, "task bad panicked: no more");
    }
}
