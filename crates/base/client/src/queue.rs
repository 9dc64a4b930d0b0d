//! A level-triggered work queue: what is waiting is a set of keys, never a list of events.
//!
//! ```text
//! add(k) ─▶ dirty ─▶ next() ─▶ active ─▶ done(k)
//!              ▲                  │ added meanwhile: goes round once more
//!              └── retry(k) after 5 ms · 2^n, at most 60 s; forget(k) resets n
//! ```
//!
//! The rules are those of client-go's `util/workqueue`: a key is handed to one worker at a time, and adding a key that
//! waits already is free.

mod metrics;

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kinit_component_base::supervise::guarded;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use metrics::{QueueMetrics, Running};

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The queue; share it as `Arc<Queue<K>>`.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    /// Known once the queue has a name.
    metrics: OnceLock<QueueMetrics>,
}

struct State<K> {
    order: VecDeque<K>,
    /// Due since.
    dirty: HashMap<K, Instant>,
    /// Handed out since.
    active: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    delayed: HashMap<K, Instant>,
}

impl<K: Clone + Eq + Hash + Send + 'static> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            order: VecDeque::new(),
            dirty: HashMap::new(),
            active: HashMap::new(),
            failures: HashMap::new(),
            delayed: HashMap::new(),
        };
        Self { state: Mutex::new(state), wake: Notify::new(), metrics: OnceLock::new() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Queue<K> {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Makes `key` due. Nothing happens when it is due already; a key that is being worked on comes back afterwards.
    pub fn add(&self, key: K) {
        let mut state = self.state.lock();
        if state.dirty.contains_key(&key) {
            return;
        }
        state.dirty.insert(key.clone(), Instant::now());
        if let Some(metrics) = self.metrics.get() {
            metrics.added();
        }
        if state.active.contains_key(&key) {
            return;
        }
        state.order.push_back(key);
        drop(state);
        self.wake.notify_one();
    }

    /// Makes `key` due after `delay`; of several delays the earliest counts.
    pub fn add_after(self: &Arc<Self>, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = Instant::now() + delay;
        {
            let mut state = self.state.lock();
            if state.delayed.get(&key).is_some_and(|earlier| *earlier <= due) {
                return;
            }
            state.delayed.insert(key.clone(), due);
        }
        let queue = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(due).await;
            let Some(queue) = queue.upgrade() else { return };
            {
                let mut state = queue.state.lock();
                // A later call may have set an earlier time, whose task has taken the entry.
                if state.delayed.get(&key) != Some(&due) {
                    return;
                }
                state.delayed.remove(&key);
            }
            queue.add(key);
        });
    }

    /// Makes `key` due after its back-off, which doubles with each call until [`forget`](Self::forget).
    pub fn retry(self: &Arc<Self>, key: K) {
        let failures = {
            let mut state = self.state.lock();
            let count = state.failures.entry(key.clone()).or_insert(0);
            *count += 1;
            *count
        };
        if let Some(metrics) = self.metrics.get() {
            metrics.retried();
        }
        self.add_after(key, back_off(failures));
    }

    /// Ends the back-off of `key`.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.state.lock().order.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for a due key. Every key taken is to be given back with [`done`](Self::done).
    pub async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = self.state.lock();
                if let Some(key) = state.order.pop_front() {
                    let due = state.dirty.remove(&key);
                    if let (Some(metrics), Some(due)) = (self.metrics.get(), due) {
                        metrics.taken(due.elapsed());
                    }
                    state.active.insert(key.clone(), Instant::now());
                    if !state.order.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
            }
            woken.await;
        }
    }

    /// For how long the keys that were handed out have been worked on.
    fn running(&self) -> Running {
        let state = self.state.lock();
        let times = state.active.values().map(Instant::elapsed);
        times.fold(Running::default(), |all, time| Running { sum: all.sum + time, longest: all.longest.max(time) })
    }

    /// Gives a key back; it becomes due again when it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        state.active.remove(key);
        if state.dirty.contains_key(key) {
            state.order.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }
}

impl<K: Clone + Eq + Hash + Display + Send + Sync + 'static> Queue<K> {
    /// Works on due keys with `workers` concurrent calls of `work` until `shutdown`. A key whose work fails, or panics,
    /// is retried after its back-off; `Ok(Some(delay))` makes it due again after `delay`. `name` is the queue's in
    /// metrics.
    pub async fn run<F, Fut>(self: Arc<Self>, name: &'static str, workers: usize, shutdown: CancellationToken, work: F)
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Option<Duration>>> + Send + 'static,
    {
        self.measure(name);
        let work = Arc::new(work);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..workers.max(1) {
            let (queue, work, shutdown) = (self.clone(), work.clone(), shutdown.clone());
            tasks.spawn(async move {
                loop {
                    let key = tokio::select! {
                        () = shutdown.cancelled() => return,
                        key = queue.next() => key,
                    };
                    let started = Instant::now();
                    let result = tokio::select! {
                        () = shutdown.cancelled() => return,
                        result = guarded(name, async { work(key.clone()).await }) => result.unwrap_or_else(|p| Err(p.into())),
                    };
                    if let Some(metrics) = queue.metrics.get() {
                        metrics.worked(started.elapsed());
                    }
                    queue.settle(name, key, result);
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                // Not the work's: the queue itself is broken, and with it the controller.
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    fn measure(self: &Arc<Self>, name: &'static str) {
        {
            let state = self.state.lock();
            let metrics = self.metrics.get_or_init(|| QueueMetrics::of(name));
            // Keys that came before the name did.
            state.dirty.keys().for_each(|_| metrics.added());
        }
        // Not under the queue's lock, which is taken where metrics are rendered.
        let queue = Arc::downgrade(self);
        metrics::follow(name, move || queue.upgrade().map(|queue| queue.running()));
    }

    fn settle(self: &Arc<Self>, name: &'static str, key: K, result: anyhow::Result<Option<Duration>>) {
        match result {
            Ok(again) => {
                self.forget(&key);
                if let Some(delay) = again {
                    self.add_after(key.clone(), delay);
                }
            }
            Err(error) => {
                if is_conflict(&error) {
                    tracing::debug!(controller = name, %key, "lost a race, trying again");
                } else {
                    tracing::warn!(controller = name, %key, error = describe(&error), "trying again");
                }
                self.retry(key.clone());
            }
        }
        self.done(&key);
    }
}

/// Whether somewhere in the chain the API server answered 409: somebody else was faster, which is no news.
fn is_conflict(error: &anyhow::Error) -> bool {
    error.chain().any(
        |cause| matches!(cause.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 409),
    )
}

/// The chain of causes in one line; of an answer of the API server its message alone.
pub fn describe(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
            parts.push(status.message.clone());
            break;
        }
        parts.push(cause.to_string());
    }
    parts.join(": ")
}

fn back_off(failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1).min(20)).unwrap_or(u32::MAX);
    FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        assert_eq!(back_off(1), Duration::from_millis(5));
        assert_eq!(back_off(3), Duration::from_millis(20));
        assert_eq!(back_off(40), LONGEST_DELAY);
    }

    #[tokio::test]
    async fn a_key_waits_once_and_is_worked_on_by_one() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        assert!(queue.is_empty(), "a is active");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        let start = Instant::now();
        queue.add_after("c", Duration::from_secs(600));
        queue.add_after("c", Duration::from_millis(30));
        assert_eq!(queue.next().await, "c");
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert!(queue.state.lock().delayed.is_empty(), "the later delay is void");
    }

    #[tokio::test]
    async fn work_that_goes_on_is_measured() {
        let (queue, shutdown) = (Queue::new(), CancellationToken::new());
        let go = Arc::new(Notify::new());
        queue.add("a");
        queue.add("b");
        let gate = go.clone();
        let work = move |_: &'static str| {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Ok(None)
            }
        };
        let running = tokio::spawn(queue.clone().run("slow", 2, shutdown.clone(), work));
        while queue.state.lock().active.len() < 2 {
            tokio::task::yield_now().await;
        }
        let value = |metric: &str| -> f64 {
            let text = kinit_component_base::metrics::global().render();
            let start = format!("workqueue_{metric}_seconds{{name=\"slow\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned));
            line.unwrap_or_else(|| panic!("{metric} is missing: {text}")).parse().unwrap()
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (longest, sum) = (value("longest_running_processor"), value("unfinished_work"));
        assert!(longest >= 0.02 && sum >= 0.04, "{longest} {sum}");
        go.notify_waiters();
        while !queue.state.lock().active.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!((value("longest_running_processor"), value("unfinished_work")), (0.0, 0.0));
        shutdown.cancel();
        running.await.unwrap();
        drop(queue);
        value("unfinished_work");
        assert!(!metrics::follows("slow"), "a queue that is gone is not asked again");
    }

    #[tokio::test]
    async fn a_key_whose_work_panics_is_tried_again() {
        let (queue, shutdown) = (Queue::new(), CancellationToken::new());
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let tries = Arc::new(Mutex::new(0));
        queue.add("poison");
        let work = move |key: &'static str| {
            let (sender, tries) = (sender.clone(), tries.clone());
            async move {
                let mut tries = tries.lock();
                *tries += 1;
                if key == "poison" && *tries < 3 {
                    panic!("try {tries}");
                }
                sender.send(key)?;
                Ok(None)
            }
        };
        let running = tokio::spawn(queue.clone().run("fragile", 1, shutdown.clone(), work));
        assert_eq!(seen.recv().await, Some("poison"));
        queue.add("other");
        assert_eq!(seen.recv().await, Some("other"), "the only worker lives on");
        queue.add("poison");
        assert_eq!(seen.recv().await, Some("poison"), "its key was given back");
        shutdown.cancel();
        running.await.unwrap();
        let text = kinit_component_base::metrics::global().render();
        for line in [
            "workqueue_adds_total{name=\"fragile\"} 5",
            "workqueue_retries_total{name=\"fragile\"} 2",
            "workqueue_depth{name=\"fragile\"} 0",
            "workqueue_work_duration_seconds_count{name=\"fragile\"} 5",
            "kinit_task_panics_total{task=\"fragile\"} 2",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
