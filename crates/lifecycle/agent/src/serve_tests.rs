//! Agents that share a host's lock, and desks that end in different ways.

use tokio::io::{DuplexStream, WriteHalf};

use super::*;
use crate::wire::{HEARTBEAT, await_hello, receive_message, send_heartbeat};

/// Longer than anything here takes when it is well; a hang fails the test.
const LONG: Duration = Duration::from_secs(20);
const SILENT: Duration = Duration::from_millis(600);

/// A desk's end of a conversation with an agent in this process.
struct Conversation {
    to: WriteHalf<DuplexStream>,
    from: tokio::io::ReadHalf<DuplexStream>,
    agent: tokio::task::JoinHandle<Result<()>>,
}

impl Conversation {
    /// Starts an agent; as many bytes as `room` wait in the channel in each direction.
    fn start(lock: &std::path::Path, room: usize) -> Self {
        let (desk, agent) = tokio::io::duplex(room);
        let (from, to) = tokio::io::split(agent);
        let manners = Manners { lock: lock.to_owned(), patience: LONG, silence: SILENT };
        let agent = tokio::spawn(serve_as(manners, from, to));
        let (from, to) = tokio::io::split(desk);
        Self { to, from, agent }
    }

    async fn hear(&mut self) -> Reply {
        tokio::time::timeout(LONG, receive_message(&mut self.from)).await.unwrap().unwrap().unwrap()
    }

    /// The agent's first word after its greeting.
    async fn greeted(&mut self) -> Reply {
        assert!(await_hello(&mut self.from).await.unwrap());
        self.hear().await
    }

    /// Reads the next message while heartbeats go out.
    async fn hear_beating(&mut self) -> Reply {
        let mut ticks = tokio::time::interval(SILENT / 10);
        let beat = async {
            loop {
                ticks.tick().await;
                send_heartbeat(&mut self.to).await.unwrap();
            }
        };
        tokio::select! {
            () = beat => unreachable!(),
            heard = tokio::time::timeout(LONG, receive_message(&mut self.from)) => heard.unwrap().unwrap().unwrap(),
        }
    }

    /// How the agent ended.
    async fn end(agent: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
        tokio::time::timeout(LONG, agent).await.expect("the agent does not end").unwrap()
    }
}

fn lock_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    (dir, path)
}

#[test]
fn a_host_is_free_within_30_seconds() {
    // Three heartbeats may be lost, and what the lock's new holder needs to begin is left.
    assert!(HEARTBEAT * 4 < SILENCE && SILENCE + HEARTBEAT <= Duration::from_secs(30));
}

#[tokio::test]
async fn a_silent_desk_gives_the_lock_to_the_next() {
    let (_dir, lock) = lock_file();
    let mut first = Conversation::start(&lock, 4096);
    assert!(matches!(first.greeted().await, Reply::Ready));
    let mut second = Conversation::start(&lock, 4096);
    assert!(matches!(second.greeted().await, Reply::Waiting));
    // The first desk's streams stay open, as those of a dead connection do.
    let waited = Instant::now();
    assert!(matches!(second.hear_beating().await, Reply::Ready));
    assert!(waited.elapsed() < SILENT * 5, "{:?}", waited.elapsed());
    let Conversation { agent, to: _to, from: _from } = first;
    let why = Conversation::end(agent).await.unwrap_err().to_string();
    assert!(why.contains("the desk was not heard of"), "{why}");
}

#[tokio::test]
async fn a_desk_that_beats_keeps_the_lock() {
    let (_dir, lock) = lock_file();
    let mut first = Conversation::start(&lock, 4096);
    assert!(matches!(first.greeted().await, Reply::Ready));
    let beating = tokio::time::timeout(SILENT * 4, first.hear_beating()).await;
    assert!(beating.is_err(), "the agent ended or spoke unasked");
    send(&mut first.to, &Request::MissingBlobs(vec!["none".into()])).await.unwrap();
    assert!(matches!(first.hear().await, Reply::Names(names) if names == ["none"]));
    drop((first.to, first.from));
    Conversation::end(first.agent).await.unwrap();
}

#[tokio::test]
async fn a_waiter_whose_desk_closes_its_channel_ends_at_once_and_takes_no_lock() {
    let (_dir, lock) = lock_file();
    let holder = Lock::open(&lock).unwrap();
    assert!(holder.try_take().unwrap());
    let mut waiter = Conversation::start(&lock, 4096);
    assert!(matches!(waiter.greeted().await, Reply::Waiting));
    let closed = Instant::now();
    drop((waiter.to, waiter.from));
    assert!(Conversation::end(waiter.agent).await.is_err());
    assert!(closed.elapsed() < SILENT, "{:?}", closed.elapsed());
    drop(holder);
    let mut next = Conversation::start(&lock, 4096);
    let first = next.greeted().await;
    // The waiter's thread may have the lock for a moment, on its way to nobody.
    let ready = if matches!(first, Reply::Waiting) { next.hear_beating().await } else { first };
    assert!(matches!(ready, Reply::Ready));
}

#[tokio::test]
async fn an_answer_that_nobody_reads_does_not_hold_the_lock() {
    let (_dir, lock) = lock_file();
    let mut first = Conversation::start(&lock, 256);
    assert!(matches!(first.greeted().await, Reply::Ready));
    let names = (0..1000).map(|n| format!("no blob {n}")).collect();
    send(&mut first.to, &Request::MissingBlobs(names)).await.unwrap();
    let Conversation { agent, to: _to, from: _from } = first;
    assert!(Conversation::end(agent).await.is_err());
    assert!(Lock::open(&lock).unwrap().try_take().unwrap());
}
