//! A priority level at work: requests take seats and give them back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::allocation::{Bounds, Demand};
use super::config::LevelConfig;
use super::metrics::{Metrics, Of};
use super::queues::{Queues, Refused};

/// A level, and the requests that are in it.
#[derive(Debug)]
pub struct Level {
    /// Its name.
    pub name: String,
    started: Instant,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: LevelConfig,
    bounds: Bounds,
    queues: Queues,
    /// Of the requests that wait.
    wakers: HashMap<u64, oneshot::Sender<()>>,
    next_id: u64,
    demand: Demand,
    window: Window,
}

/// Seats that were wanted since the last look, as a function of time.
#[derive(Debug, Default)]
struct Window {
    since: Duration,
    at: Duration,
    now: f64,
    area: f64,
    squares: f64,
    high: f64,
}

impl Window {
    fn change(&mut self, at: Duration, demand: u32) {
        let passed = at.saturating_sub(self.at).as_secs_f64();
        self.area += self.now * passed;
        self.squares += self.now * self.now * passed;
        self.at = self.at.max(at);
        self.now = f64::from(demand);
        self.high = self.high.max(self.now);
    }

    /// Average, deviation and maximum; begins anew.
    fn end(&mut self, at: Duration) -> (f64, f64, f64) {
        self.change(at, 0);
        let length = at.saturating_sub(self.since).as_secs_f64().max(1e-9);
        let average = self.area / length;
        let deviation = (self.squares / length - average * average).max(0.0).sqrt();
        let out = (average, deviation, self.high);
        *self = Self { since: at, at, ..Self::default() };
        out
    }
}

/// A request's place in a level: it waits or runs until this is dropped.
#[derive(Debug)]
pub struct Ticket {
    level: Arc<Level>,
    id: u64,
    of: Of,
    started: Option<Instant>,
    exempt: bool,
}

/// A level for debugging: waiting and running requests of each queue that has any.
#[derive(Debug)]
pub struct Look {
    /// Name of the level.
    pub name: String,
    /// Its configuration.
    pub config: LevelConfig,
    /// Seats that it may use now.
    pub seats: u32,
    /// Seats that are used.
    pub used: u32,
    /// Requests that wait, and that run.
    pub requests: (usize, usize),
    /// Queue, waiting and running requests of it, virtual time of its next start.
    pub queues: Vec<(usize, usize, usize, f64)>,
}

impl Level {
    /// A level without requests.
    pub fn new(config: LevelConfig, metrics: Metrics) -> Arc<Self> {
        let queues = Queues::new(config.shape, 0);
        let bounds = Bounds { nominal: 0, least: 0, most: 0 };
        let (wakers, window) = (HashMap::new(), Window::default());
        let name = config.name.clone();
        let state = State { config, bounds, queues, wakers, next_id: 0, demand: Demand::default(), window };
        Arc::new(Self { name, started: Instant::now(), metrics, state: Mutex::new(state) })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Another configuration; the seats are what the level is entitled to until the next division.
    pub fn configure(&self, config: LevelConfig, bounds: Bounds) {
        let mut state = self.state.lock();
        state.queues.reshape(self.now(), config.shape, bounds.nominal);
        (state.config, state.bounds) = (config, bounds);
        self.metrics.bounds(&self.name, bounds);
        self.metrics.seats(&self.name, bounds.nominal);
        self.go_on(&mut state);
    }

    /// What it needed since the last look.
    pub fn needed(&self) -> (Bounds, Demand) {
        let now = self.now();
        let mut state = self.state.lock();
        let (average, deviation, high) = state.window.end(now);
        let still = state.queues.demand();
        state.window.change(now, still);
        state.demand = state.demand.after(average, deviation, high);
        (state.bounds, state.demand)
    }

    /// Other seats for the next period.
    pub fn set_seats(&self, seats: u32) {
        let mut state = self.state.lock();
        let shape = state.config.shape;
        state.queues.reshape(self.now(), shape, seats);
        self.metrics.seats(&self.name, seats);
        self.go_on(&mut state);
    }

    /// The most seats one request may take: no request may fill the level (`MaxSeats`).
    pub fn most_seats(&self) -> u32 {
        let nominal = self.state.lock().bounds.nominal;
        (nominal.saturating_mul(15).div_ceil(100)).clamp(1, super::estimate::MOST)
    }

    /// What is going on.
    pub fn look(&self) -> Look {
        let state = self.state.lock();
        Look {
            name: self.name.clone(),
            config: state.config.clone(),
            seats: state.queues.seats(),
            used: state.queues.used(),
            requests: (state.queues.waiting(), state.queues.running()),
            queues: state.queues.busy().collect(),
        }
    }

    /// Takes a request in, and waits for its turn as long as `patience`.
    pub async fn enter(self: &Arc<Self>, of: Of, seats: u32, flow: u64, patience: Duration) -> Result<Ticket, Refused> {
        let came = Instant::now();
        let (mut ticket, turn) = self.arrive(of, seats, flow)?;
        if let Some(turn) = turn {
            self.metrics.waiting(&ticket.of, 1);
            let waited = Waiting { metrics: &self.metrics, of: ticket.of.clone() };
            if tokio::time::timeout(patience, turn).await.is_err() {
                self.metrics.refused(&ticket.of, Refused::TimeOut);
                return Err(Refused::TimeOut);
            }
            drop(waited);
        }
        ticket.started = Some(Instant::now());
        self.metrics.started(&ticket.of, came.elapsed());
        Ok(ticket)
    }

    fn arrive(
        self: &Arc<Self>,
        of: Of,
        seats: u32,
        flow: u64,
    ) -> Result<(Ticket, Option<oneshot::Receiver<()>>), Refused> {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let ticket = |exempt| Ticket { level: self.clone(), id, of: of.clone(), started: None, exempt };
        if state.config.exempt {
            return Ok((ticket(true), None));
        }
        let runs = match state.queues.arrive(self.now(), id, seats, flow) {
            Ok(runs) => runs,
            Err(refused) => {
                self.metrics.refused(&of, refused);
                return Err(refused);
            }
        };
        let (wake, mut turn) = oneshot::channel();
        state.wakers.insert(id, wake);
        if runs {
            state.wakers.remove(&id);
        }
        self.go_on(&mut state);
        let waits = !runs && turn.try_recv().is_err();
        Ok((ticket(false), waits.then_some(turn)))
    }

    /// Starts whoever can start.
    fn go_on(&self, state: &mut State) {
        let now = self.now();
        while let Some(id) = state.queues.start_next(now) {
            // Whoever has gone meanwhile leaves by the ticket.
            if let Some(waker) = state.wakers.remove(&id) {
                waker.send(()).ok();
            }
        }
        let demand = state.queues.demand();
        state.window.change(now, demand);
    }
}

/// Counts a request as waiting.
struct Waiting<'a> {
    metrics: &'a Metrics,
    of: Of,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.waiting(&self.of, -1);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(started) = self.started {
            self.level.metrics.ended(&self.of, started.elapsed());
        }
        if self.exempt {
            return;
        }
        let mut state = self.level.state.lock();
        state.wakers.remove(&self.id);
        state.queues.leave(self.level.now(), self.id);
        self.level.go_on(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::super::queues::Shape;
    use super::*;

    fn level(shape: Shape, seats: u32) -> Arc<Level> {
        let config = LevelConfig {
            name: "l".into(),
            uid: String::new(),
            exempt: false,
            shares: 1,
            lendable: 0,
            borrowing: None,
            shape,
        };
        let level = Level::new(config.clone(), Metrics::default());
        level.configure(config, Bounds { nominal: seats, least: seats, most: seats });
        level
    }

    fn of(schema: &str) -> Of {
        Of { priority_level: "l".into(), flow_schema: schema.into() }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn seats_go_round() {
        let level = level(Shape { queues: 4, hand: 1, longest: 2 }, 1);
        let first = level.enter(of("a"), 1, 1, LONG).await.unwrap();
        let other = level.clone();
        let second = tokio::spawn(async move { other.enter(of("a"), 1, 1, LONG).await.map(drop) });
        tokio::task::yield_now().await;
        assert_eq!(level.look().requests, (1, 1));
        drop(first);
        second.await.unwrap().unwrap();
        assert_eq!(level.look().requests, (0, 0));
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let level = level(Shape { queues: 4, hand: 1, longest: 2 }, 1);
        let first = level.enter(of("a"), 1, 1, LONG).await.unwrap();
        assert_eq!(level.enter(of("a"), 1, 1, Duration::from_millis(20)).await.unwrap_err(), Refused::TimeOut);
        let other = level.clone();
        let gone = tokio::spawn(async move { other.enter(of("a"), 1, 1, LONG).await.map(drop) });
        tokio::task::yield_now().await;
        gone.abort();
        gone.await.unwrap_err();
        assert_eq!(level.look().requests, (0, 1));
        drop(first);
        assert_eq!((level.look().used, level.look().requests), (0, (0, 0)));
        drop(level.enter(of("a"), 1, 1, LONG).await.unwrap());
    }

    #[tokio::test]
    async fn full_queues_refuse_and_more_seats_help() {
        let level = level(Shape { queues: 1, hand: 1, longest: 1 }, 1);
        let _first = level.enter(of("a"), 1, 1, LONG).await.unwrap();
        let other = level.clone();
        let second = tokio::spawn(async move { other.enter(of("a"), 1, 1, LONG).await });
        tokio::task::yield_now().await;
        assert_eq!(level.enter(of("a"), 1, 1, LONG).await.unwrap_err(), Refused::QueueFull);
        level.set_seats(2);
        drop(second.await.unwrap().unwrap());
        let (_, demand) = level.needed();
        assert!(demand.high >= 2.0, "{demand:?}");
    }
}
