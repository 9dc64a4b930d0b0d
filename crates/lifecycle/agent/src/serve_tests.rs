//! Agents that share a host's lock, and desks that end in different ways.

use tokio::io::{DuplexStream, WriteHalf};

use std::time::Instant;

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
        Self::open(lock, room, "alice", LockMode::Take)
    }

    fn open(lock: &std::path::Path, room: usize, by: &str, mode: LockMode) -> Self {
        let (desk, agent) = tokio::io::duplex(room);
        let (from, to) = tokio::io::split(agent);
        let caller = Caller { by: by.to_owned(), pid: 7, operation: "init".to_owned() };
        let journal = Journal::at(lock.with_extension("jsonl"), caller.clone());
        let opening = Opening { caller, lock: mode };
        let manners = Manners { opening, lock: lock.to_owned(), patience: LONG, silence: SILENT };
        let agent = tokio::spawn(serve_as(manners, journal, from, to));
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
                // One that has ended may have said why before.
                if send_heartbeat(&mut self.to).await.is_err() {
                    std::future::pending::<()>().await;
                }
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
    assert!(matches!(second.greeted().await, Reply::Waiting(_)));
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
    assert!(matches!(waiter.greeted().await, Reply::Waiting(_)));
    let closed = Instant::now();
    drop((waiter.to, waiter.from));
    assert!(Conversation::end(waiter.agent).await.is_err());
    assert!(closed.elapsed() < SILENT, "{:?}", closed.elapsed());
    drop(holder);
    let mut next = Conversation::start(&lock, 4096);
    let first = next.greeted().await;
    // The waiter's thread may have the lock for a moment, on its way to nobody.
    let ready = if matches!(first, Reply::Waiting(_)) { next.hear_beating().await } else { first };
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

#[tokio::test]
async fn one_who_waits_hears_who_works_there() {
    let (_dir, lock) = lock_file();
    let mut first = Conversation::open(&lock, 4096, "alice@laptop", LockMode::Take);
    assert!(matches!(first.greeted().await, Reply::Ready));
    let mut second = Conversation::open(&lock, 4096, "bob@desk", LockMode::Take);
    let Reply::Waiting(held) = second.greeted().await else { panic!("it does not wait") };
    assert!(held.to_string().starts_with("`kinit init` of alice@laptop (process 7 there), since 20"), "{held}");
}

/// Beats for a desk until its agent speaks or ends.
async fn breaks(first: &mut Conversation, second: &mut Conversation) -> (Reply, Reply) {
    let (from_first, from_second) = tokio::join!(first.hear_beating(), second.hear_beating());
    (from_first, from_second)
}

#[tokio::test]
async fn a_broken_lock_ends_its_holder_first() {
    let (_dir, lock) = lock_file();
    let mut first = Conversation::open(&lock, 4096, "alice", LockMode::Take);
    assert!(matches!(first.greeted().await, Reply::Ready));
    let mut second = Conversation::open(&lock, 4096, "bob", LockMode::Break);
    assert!(matches!(second.greeted().await, Reply::Waiting(_)));
    let (told, ready) = breaks(&mut first, &mut second).await;
    assert!(matches!(&told, Reply::Failed(why) if why.contains("broken by `kinit init` of bob")));
    assert!(matches!(ready, Reply::Ready));
    Conversation::end(first.agent).await.unwrap_err();
    // The one that has the lock now is not the one that was to end.
    send(&mut second.to, &Request::MissingBlobs(vec!["none".into()])).await.unwrap();
    assert!(matches!(second.hear_beating().await, Reply::Names(_)));
}

/// A batch of steps, one of which takes its time: what comes after it is not begun.
#[tokio::test]
async fn a_broken_lock_stops_a_batch_at_its_next_step() {
    kinit_component_base::runtime::install_tls_provider();
    let (dir, lock) = lock_file();
    let mut first = Conversation::open(&lock, 4096, "alice", LockMode::Take);
    assert!(matches!(first.greeted().await, Reply::Ready));
    let marker = dir.path().join("marker");
    std::fs::write(&marker, "").unwrap();
    let after = kinit_resource::Resource::Absent { path: marker.display().to_string() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let slow = kinit_resource::Resource::Healthy { url, authority_file: None, seconds: 20 };
    let items = [slow, after].map(|resource| crate::wire::ApplyItem { resource, secret: None });
    let serve = tokio::spawn(async move {
        tokio::time::sleep(SILENT * 3).await;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        }
    });
    send(&mut first.to, &Request::Apply(items.into())).await.unwrap();
    let mut second = Conversation::open(&lock, 4096, "bob", LockMode::Break);
    assert!(matches!(second.greeted().await, Reply::Waiting(_)));
    let (told, ready) = breaks(&mut first, &mut second).await;
    assert!(
        matches!(&told, Reply::Progress(one) if one.index == 0 && one.error.is_none()),
        "the slow step is finished"
    );
    assert!(matches!(ready, Reply::Ready));
    assert!(matches!(first.hear().await, Reply::Failed(why) if why.contains("broken by")));
    assert!(marker.exists(), "a step was done without the lock");
    serve.abort();
    let journal = crate::journal::read(&lock.with_extension("jsonl")).unwrap().entries;
    let ends = journal
        .iter()
        .filter(|e| matches!(&e.event, crate::JournalEvent::End { error: Some(why) } if why.contains("broken by")));
    assert_eq!((journal.len(), ends.count()), (3, 1), "{journal:?}");
}

#[tokio::test]
async fn one_that_only_looks_needs_no_lock_and_changes_nothing() {
    let (dir, lock) = lock_file();
    let mut holder = Conversation::open(&lock, 4096, "alice", LockMode::Take);
    assert!(matches!(holder.greeted().await, Reply::Ready));
    let mut looker = Conversation::open(&lock, 4096, "bob", LockMode::Look);
    assert!(matches!(looker.greeted().await, Reply::Ready));
    send(&mut looker.to, &Request::MissingBlobs(vec!["none".into()])).await.unwrap();
    assert!(matches!(looker.hear().await, Reply::Names(_)));
    let marker = dir.path().join("marker");
    std::fs::write(&marker, "").unwrap();
    let resource = kinit_resource::Resource::Absent { path: marker.display().to_string() };
    send(&mut looker.to, &Request::Apply(vec![crate::wire::ApplyItem { resource, secret: None }])).await.unwrap();
    assert!(matches!(looker.hear().await, Reply::Failed(why) if why.contains("only looks")));
    assert!(marker.exists());
}

#[tokio::test]
async fn steps_are_noted_in_the_journal() {
    let (dir, lock) = lock_file();
    let mut desk = Conversation::start(&lock, 4096);
    assert!(matches!(desk.greeted().await, Reply::Ready));
    let resource = kinit_resource::Resource::Absent { path: dir.path().join("none").display().to_string() };
    for request in [
        Request::Begin { plan: "sha256:1".into() },
        Request::Apply(vec![crate::wire::ApplyItem { resource, secret: None }]),
        Request::End { error: None },
    ] {
        send(&mut desk.to, &request).await.unwrap();
        while !matches!(desk.hear().await, Reply::Done) {}
    }
    let events = crate::journal::read(&lock.with_extension("jsonl")).unwrap().entries.into_iter().map(|e| e.event);
    let events: Vec<_> = events.collect();
    assert!(matches!(&events[0], crate::JournalEvent::Begin { plan: Some(plan), .. } if plan == "sha256:1"));
    assert!(matches!(&events[1], crate::JournalEvent::Step { error: None, .. }));
    assert_eq!(events[2..], [crate::JournalEvent::End { error: None }]);
}
