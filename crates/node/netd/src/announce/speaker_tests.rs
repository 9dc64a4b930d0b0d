//! Tables of the speaker: what it says when.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::arp::{Mac, Packet};
use super::interfaces::tests::interface;
use super::speaker::{News, ORPHAN_AFTER, Output, Speaker};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// A speaker with a clock of its own.
struct Scene {
    speaker: Speaker,
    begin: Instant,
    now: Instant,
    fresh_until: Instant,
    index: usize,
}

impl Scene {
    fn claimed() -> Self {
        let (begin, interface) = (Instant::now(), interface("eth0", &["192.0.2.5/24"]));
        let mut speaker = Speaker::default();
        let index = interface.index();
        speaker.claim(begin, ADDRESS, interface);
        Self { speaker, begin, now: begin, fresh_until: begin + Duration::from_secs(3600), index }
    }

    /// Lets time pass, tick by tick, as the task does; what was said, with milliseconds since the beginning.
    fn until(&mut self, millis: u64) -> Vec<(u64, Output)> {
        let end = self.begin + Duration::from_millis(millis);
        let mut said = Vec::new();
        loop {
            for output in self.speaker.tick(self.now, self.fresh_until) {
                said.push((u64::try_from((self.now - self.begin).as_millis()).unwrap(), output));
            }
            match self.speaker.next(self.now, self.fresh_until).map(|next| next.max(self.now)) {
                Some(next) if next <= end => self.now = next,
                _ => break,
            }
        }
        self.now = end;
        said
    }

    fn hear(&mut self, packet: Packet) -> Vec<Output> {
        self.speaker.hear(self.now, self.fresh_until, self.index, &packet)
    }

    /// Whether a question is answered.
    fn answers(&mut self) -> bool {
        let said = self.hear(question());
        assert!(said.len() <= 1);
        said.iter().any(|o| matches!(o, Output::Send(_, packet, to) if packet.claims(ADDRESS) && *to == OTHER))
    }
}

fn question() -> Packet {
    Packet { request: true, sender: (OTHER, Ipv4Addr::new(192, 0, 2, 1)), target: (Mac([0; 6]), ADDRESS) }
}

fn claim() -> Packet {
    Packet::announcement(OTHER, ADDRESS, true)
}

fn probes(said: &[(u64, Output)]) -> Vec<u64> {
    said.iter().filter(|(_, o)| matches!(o, Output::Send(_, p, _) if p.probes(ADDRESS))).map(|(at, _)| *at).collect()
}

fn announcements(said: &[(u64, Output)]) -> Vec<u64> {
    let all = said.iter().filter(|(_, o)| matches!(o, Output::Send(_, p, Mac::ALL) if p.claims(ADDRESS)));
    all.map(|(at, _)| *at).collect()
}

#[test]
fn asks_then_tells_then_answers() {
    let mut scene = Scene::claimed();
    let said = scene.until(299);
    assert_eq!((probes(&said), announcements(&said)), (vec![0, 100, 200], vec![]));
    assert!(!scene.answers(), "not before it knows that nobody else does");
    let said = scene.until(10_000);
    assert_eq!(announcements(&said), [300, 300, 800, 800, 1800, 1800, 3800, 3800]);
    assert!(said.iter().any(|(at, o)| *at == 300 && *o == Output::Tell(ADDRESS, News::Speaking)));
    assert!(scene.answers());
    // A probe of somebody who wants the address is answered too: it is taken.
    assert_eq!(scene.hear(Packet::probe(OTHER, ADDRESS)).len(), 1);
    // Another address, another interface, or its own words: nothing.
    let other = Packet { target: (Mac([0; 6]), Ipv4Addr::new(192, 0, 2, 8)), ..question() };
    assert!(scene.hear(other).is_empty());
    assert!(scene.speaker.hear(scene.now, scene.fresh_until, scene.index + 1, &question()).is_empty());
    assert!(scene.hear(Packet::announcement(Mac([2, 0, 0, 0, 0, 1]), ADDRESS, true)).is_empty());
    scene.speaker.drop(ADDRESS);
    assert!(!scene.answers());
}

#[test]
fn an_address_in_use_is_not_taken() {
    for packet in [claim(), question().answer(OTHER), Packet::announcement(OTHER, ADDRESS, false)] {
        let mut scene = Scene::claimed();
        scene.until(150);
        // `question().answer` is an answer in the name of the address.
        assert_eq!(scene.hear(packet), [Output::Tell(ADDRESS, News::Conflict(OTHER))], "{packet:?}");
        let said = scene.until(10_000);
        assert!(said.is_empty() && !scene.answers(), "{said:?}");
        let said = scene.until(20_000);
        assert_eq!(probes(&said)[0], 10_150, "tried again");
        assert!(scene.answers());
    }
}

#[test]
fn it_is_silent_from_the_moment_on_that_it_is_out_of_touch() {
    let mut scene = Scene::claimed();
    scene.until(1000);
    scene.fresh_until = scene.begin + Duration::from_millis(2000);
    scene.until(1999);
    assert!(scene.answers());
    scene.until(2000);
    assert!(!scene.answers());
    assert!(announcements(&scene.until(6000)).is_empty());
    // In touch again, as if nothing had been.
    scene.fresh_until = scene.begin + Duration::from_secs(60);
    assert!(scene.answers());
    // Nor is anything asked or told without touch at the beginning.
    let mut scene = Scene::claimed();
    scene.fresh_until = scene.begin;
    assert!(scene.until(60_000).is_empty());
}

#[test]
fn an_orphan_speaks_until_it_hears_anybody() {
    let lost = 2000;
    let again = lost + u64::try_from(ORPHAN_AFTER.as_millis()).unwrap();
    for heard in [claim(), Packet::probe(OTHER, ADDRESS)] {
        let mut scene = Scene::claimed();
        scene.until(lost);
        scene.fresh_until = scene.now;
        let said = scene.until(again + 299);
        assert_eq!(probes(&said), [again, again + 100, again + 200]);
        assert!(!scene.answers());
        scene.until(again + 1000);
        assert!(scene.answers());
        assert!(scene.hear(heard).is_empty(), "no defence, no answer");
        assert!(!scene.answers());
        assert!(scene.until(again + 600_000).is_empty());
        // In touch again: it asks before it speaks.
        scene.fresh_until = scene.now + Duration::from_secs(600);
        let said = scene.until(again + 601_000);
        assert_eq!((probes(&said).len(), scene.answers()), (3, true));
    }
    // Somebody has taken over: the orphan stays silent.
    let mut scene = Scene::claimed();
    scene.until(lost);
    scene.fresh_until = scene.now;
    scene.until(again + 50);
    assert!(scene.hear(question().answer(OTHER)).is_empty());
    scene.until(again + 60_000);
    assert!(!scene.answers());
}

#[test]
fn an_address_is_defended_now_and_then() {
    let mut scene = Scene::claimed();
    scene.until(5000);
    let said = scene.hear(claim());
    assert!(matches!(said[..], [Output::Send(..), Output::Tell(_, News::Conflict(OTHER))]), "{said:?}");
    assert!(scene.hear(claim()).is_empty(), "not with every word");
    scene.until(15_000);
    assert_eq!(scene.hear(claim()).len(), 2);
    assert!(scene.answers());
}
