//! Fair queueing of one priority level, without a clock of its own: requests of one flow share a few queues, and the
//! queues share the level's seats (`k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing`).
//!
//! ```text
//! flow ── hash ──▶ a hand of queues ──▶ the least loaded ──▶ seats, by virtual finish time
//! ```
//!
//! Virtual time passes at the rate at which a queue that always has something to do gets seats. A queue's requests
//! start when those of the others that asked for as much would have started, so that a flow which sends a lot waits
//! behind itself.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How long a request is taken to run until it has ended; then the true time is charged.
const ESTIMATE: f64 = 0.003;

/// How a level's queues look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of queues; none means that nobody waits.
    pub queues: usize,
    /// How many of them a flow may use.
    pub hand: usize,
    /// How many requests may wait in one.
    pub longest: usize,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The flow's queues are full.
    QueueFull,
    /// All seats are taken, and nobody waits at this level.
    NoSeat,
    /// It has waited as long as it may.
    TimeOut,
}

impl Refused {
    /// The label of metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::NoSeat => "concurrency-limit",
            Self::TimeOut => "time-out",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    id: u64,
    seats: u32,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    queue: Option<usize>,
    seats: u32,
    since: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Requests of it that run.
    running: usize,
    /// Virtual time at which its next request starts.
    next: f64,
}

impl Queue {
    fn is_active(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }
}

/// The requests of one level.
#[derive(Debug)]
pub struct Queues {
    shape: Shape,
    seats: u32,
    used: u32,
    waiting_seats: u32,
    queues: Vec<Queue>,
    running: HashMap<u64, Running>,
    virtual_time: f64,
    at: Duration,
    /// Where the search for the next queue begins, so that equals take turns.
    turn: usize,
}

impl Queues {
    /// Nobody is there yet.
    pub fn new(shape: Shape, seats: u32) -> Self {
        let queues = std::iter::repeat_with(Queue::default).take(shape.queues).collect();
        Self {
            shape,
            seats,
            used: 0,
            waiting_seats: 0,
            queues,
            running: HashMap::new(),
            virtual_time: 0.0,
            at: Duration::ZERO,
            turn: 0,
        }
    }

    /// Seats that there are.
    pub fn seats(&self) -> u32 {
        self.seats
    }

    /// Seats that are taken.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queues.iter().map(|q| q.waiting.len()).sum()
    }

    /// Seats that are taken or waited for.
    pub fn demand(&self) -> u32 {
        self.used.saturating_add(self.waiting_seats)
    }

    /// Requests that wait and seats that are taken, queue by queue, for those that have any.
    pub fn busy(&self) -> impl Iterator<Item = (usize, usize, usize, f64)> + '_ {
        let busy = self.queues.iter().enumerate().filter(|(_, q)| q.is_active());
        busy.map(|(i, q)| (i, q.waiting.len(), q.running, q.next))
    }

    /// Gives it other limits; requests that wait stay where they are.
    pub fn reshape(&mut self, now: Duration, shape: Shape, seats: u32) {
        self.pass(now);
        self.shape = shape;
        self.seats = seats;
        // A queue too many is dealt to nobody any more, and is left when the last one is empty.
        while self.queues.len() > shape.queues && self.queues.last().is_some_and(|q| !q.is_active()) {
            self.queues.pop();
        }
        while self.queues.len() < shape.queues {
            self.queues.push(Queue::default());
        }
    }

    /// Takes a request in: it runs (`true`), or waits until [`Self::start_next`] names it, which may be at once.
    pub fn arrive(&mut self, now: Duration, id: u64, seats: u32, flow: u64) -> Result<bool, Refused> {
        self.pass(now);
        if self.shape.queues == 0 {
            if !self.fits(seats) {
                return Err(Refused::NoSeat);
            }
            self.run(now, id, seats, None);
            return Ok(true);
        }
        let at = self.least_loaded(flow);
        let queue = &mut self.queues[at];
        if queue.waiting.len() >= self.shape.longest {
            return Err(Refused::QueueFull);
        }
        if !queue.is_active() {
            queue.next = self.virtual_time;
        }
        queue.waiting.push_back(Waiting { id, seats });
        self.waiting_seats += seats;
        Ok(false)
    }

    /// Starts the request whose turn it is, if there is a seat.
    pub fn start_next(&mut self, now: Duration) -> Option<u64> {
        self.pass(now);
        let count = self.queues.len();
        let finish = |q: &Queue| q.waiting.front().map(|w| q.next + f64::from(w.seats) * ESTIMATE);
        let mut best: Option<(usize, f64)> = None;
        for i in (0..count).map(|step| (self.turn + step) % count) {
            if let Some(at) = finish(&self.queues[i])
                && best.is_none_or(|(_, soonest)| at < soonest)
            {
                best = Some((i, at));
            }
        }
        let (at, _) = best?;
        let head = *self.queues[at].waiting.front()?;
        // The one whose turn it is keeps it, however many seats it needs.
        if !self.fits(head.seats) {
            return None;
        }
        self.queues[at].waiting.pop_front();
        self.queues[at].next += f64::from(head.seats) * ESTIMATE;
        self.waiting_seats -= head.seats;
        self.turn = at + 1;
        self.run(now, head.id, head.seats, Some(at));
        Some(head.id)
    }

    /// A request has ended, or nobody waits for it any more.
    pub fn leave(&mut self, now: Duration, id: u64) {
        self.pass(now);
        if let Some(running) = self.running.remove(&id) {
            self.used -= running.seats;
            if let Some(queue) = running.queue.and_then(|at| self.queues.get_mut(at)) {
                queue.running -= 1;
                let took = now.saturating_sub(running.since).as_secs_f64();
                queue.next += f64::from(running.seats) * (took - ESTIMATE);
            }
            return;
        }
        for queue in &mut self.queues {
            if let Some(at) = queue.waiting.iter().position(|w| w.id == id)
                && let Some(gone) = queue.waiting.remove(at)
            {
                self.waiting_seats -= gone.seats;
                return;
            }
        }
    }

    /// A request that needs more seats than there are runs alone.
    fn fits(&self, seats: u32) -> bool {
        self.used == 0 && self.seats > 0 || self.used.saturating_add(seats) <= self.seats
    }

    fn run(&mut self, now: Duration, id: u64, seats: u32, queue: Option<usize>) {
        self.used += seats;
        if let Some(queue) = queue.and_then(|at| self.queues.get_mut(at)) {
            queue.running += 1;
        }
        self.running.insert(id, Running { queue, seats, since: now });
    }

    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let active = self.queues.iter().filter(|q| q.is_active()).count();
        if active > 0 && passed > 0.0 {
            let served = f64::from(self.demand().min(self.seats.max(1)));
            self.virtual_time += passed * served / active as f64;
        }
    }

    /// Of the flow's queues the one with the least to do; the hand is dealt without repetition
    /// (`shufflesharding.Dealer`).
    fn least_loaded(&self, flow: u64) -> usize {
        let (mut best, mut least) = (0, usize::MAX);
        for queue in deal(flow, self.shape.queues, self.shape.hand) {
            let load = self.queues[queue].waiting.len() + self.queues[queue].running;
            if load < least {
                (best, least) = (queue, load);
            }
        }
        best
    }
}

/// `hand` different numbers below `deck`, drawn by the hash.
fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for drawn in 0..hand.min(deck) {
        let left = (deck - drawn) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card's place among those that are still in the deck.
        let mut below = dealt.clone();
        below.sort_unstable();
        for earlier in below {
            if earlier <= card {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { queues: 8, hand: 2, longest: 4 };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_hand_has_different_queues() {
        for hash in [0, 1, 77, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut hand = deal(hash, 8, 4);
            assert!(hand.iter().all(|q| *q < 8), "{hand:?}");
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 4, "{hash}");
        }
        assert_eq!(deal(5, 2, 6).len(), 2, "no more than there are");
    }

    /// Whether a request runs at once.
    fn enter(queues: &mut Queues, now: Duration, id: u64, seats: u32, flow: u64) -> Result<bool, Refused> {
        Ok(queues.arrive(now, id, seats, flow)? || queues.start_next(now) == Some(id))
    }

    #[test]
    fn who_has_no_seat_waits_or_is_refused() {
        let mut queues = Queues::new(SHAPE, 2);
        assert_eq!(enter(&mut queues, at(0), 1, 1, 7), Ok(true));
        assert_eq!(enter(&mut queues, at(0), 2, 1, 7), Ok(true));
        for id in 3..11 {
            assert_eq!(enter(&mut queues, at(1), id, 1, 7), Ok(false));
        }
        assert_eq!(enter(&mut queues, at(1), 11, 1, 7), Err(Refused::QueueFull), "two queues of four");
        queues.leave(at(2), 1);
        assert_eq!(queues.start_next(at(2)), Some(3));
        assert_eq!(queues.start_next(at(2)), None);
        queues.leave(at(3), 4);
        assert_eq!((queues.waiting(), queues.running(), queues.demand()), (6, 2, 8), "a request that gave up");

        let mut rejecting = Queues::new(Shape { queues: 0, hand: 0, longest: 0 }, 1);
        assert_eq!(enter(&mut rejecting, at(0), 1, 1, 7), Ok(true));
        assert_eq!(enter(&mut rejecting, at(0), 2, 1, 7), Err(Refused::NoSeat));
    }

    #[test]
    fn a_flood_waits_behind_itself() {
        let shape = Shape { queues: 64, hand: 1, longest: 100 };
        let mut queues = Queues::new(shape, 1);
        assert_eq!(enter(&mut queues, at(0), 0, 1, 1), Ok(true));
        for id in 1..=50 {
            assert_eq!(enter(&mut queues, at(0), id, 1, 1), Ok(false));
        }
        assert_eq!(enter(&mut queues, at(1), 100, 1, 2), Ok(false));
        queues.leave(at(10), 0);
        assert_eq!(queues.start_next(at(10)), Some(100), "the quiet flow comes first");
    }

    #[test]
    fn flows_that_always_wait_get_the_same() {
        let mut queues = Queues::new(Shape { queues: 64, hand: 1, longest: 100 }, 1);
        let mut started = [0, 0];
        for id in 0..40 {
            let flow = id % 2;
            assert_eq!(enter(&mut queues, at(0), id, 1, flow + 1), Ok(id == 0));
        }
        let (mut current, mut now) = (0, 0);
        // Requests of flow 0 take three times as long.
        while now < 400 {
            now += if current % 2 == 0 { 30 } else { 10 };
            queues.leave(at(now), current);
            let Some(next) = queues.start_next(at(now)) else { break };
            started[(next % 2) as usize] += if next % 2 == 0 { 30 } else { 10 };
            current = next;
        }
        let [slow, quick] = started;
        assert!(quick >= 150 && slow >= 150, "time for each: {started:?}");
    }

    #[test]
    fn one_that_needs_more_than_there_is_runs_alone() {
        let mut queues = Queues::new(SHAPE, 3);
        assert_eq!(enter(&mut queues, at(0), 1, 1, 1), Ok(true));
        assert_eq!(enter(&mut queues, at(0), 2, 10, 2), Ok(false));
        assert_eq!(queues.start_next(at(0)), None);
        queues.leave(at(1), 1);
        assert_eq!(queues.start_next(at(1)), Some(2));
        assert_eq!(queues.used(), 10);
        queues.leave(at(2), 2);
        assert_eq!(queues.used(), 0);
    }

    #[test]
    fn limits_change_while_requests_wait() {
        let mut queues = Queues::new(SHAPE, 1);
        assert_eq!(enter(&mut queues, at(0), 1, 1, 6), Ok(true));
        assert_eq!(enter(&mut queues, at(0), 2, 1, 6), Ok(false));
        queues.reshape(at(1), Shape { queues: 1, hand: 1, longest: 1 }, 2);
        assert_eq!(queues.start_next(at(1)), Some(2), "one more seat");
        queues.leave(at(2), 1);
        queues.leave(at(2), 2);
        assert_eq!((queues.used(), queues.waiting()), (0, 0));
    }
}
