//! ARP over Ethernet (RFC 826), as far as announcing needs it. No IO.

use std::fmt;
use std::net::Ipv4Addr;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody on the segment.
    pub const ALL: Self = Self([0xff; 6]);
    const NONE: Self = Self([0; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// A question; otherwise an answer.
    pub request: bool,
    /// Who speaks.
    pub sender: (Mac, Ipv4Addr),
    /// Who is asked for, or answered.
    pub target: (Mac, Ipv4Addr),
}

/// Length of an Ethernet frame with an ARP packet, without padding.
pub const FRAME: usize = 42;
const ETHERNET: [u8; 2] = 1u16.to_be_bytes();
const IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
const ARP: [u8; 2] = 0x0806u16.to_be_bytes();

impl Packet {
    /// A question whether anybody has the address, in nobody's name (RFC 5227's ARP Probe).
    pub fn probe(own: Mac, address: Ipv4Addr) -> Self {
        Self { request: true, sender: (own, Ipv4Addr::UNSPECIFIED), target: (Mac::NONE, address) }
    }

    /// A word to all that the address is here, as a question (RFC 5227's ARP Announcement) or as an answer: some
    /// neighbours learn of one form only.
    pub fn announcement(own: Mac, address: Ipv4Addr, request: bool) -> Self {
        let target = if request { Mac::NONE } else { Mac::ALL };
        Self { request, sender: (own, address), target: (target, address) }
    }

    /// The answer to a question.
    pub fn answer(&self, own: Mac) -> Self {
        Self { request: false, sender: (own, self.target.1), target: self.sender }
    }

    /// Whether somebody claims the address by it.
    pub fn claims(&self, address: Ipv4Addr) -> bool {
        self.sender.1 == address
    }

    /// Whether somebody who has no address yet asks for this one.
    pub fn probes(&self, address: Ipv4Addr) -> bool {
        self.request && self.sender.1.is_unspecified() && self.target.1 == address
    }

    /// The frame that carries it.
    pub fn frame(&self, to: Mac) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        let operation = if self.request { 1u16 } else { 2 }.to_be_bytes();
        let parts: [&[u8]; 12] = [
            &to.0,
            &self.sender.0.0,
            &ARP,
            &ETHERNET,
            &IPV4,
            &[6, 4],
            &operation,
            &self.sender.0.0,
            &self.sender.1.octets(),
            &self.target.0.0,
            &self.target.1.octets(),
            &[],
        ];
        let bytes = parts.iter().flat_map(|part| part.iter());
        frame.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        frame
    }

    /// Reads a frame; anything but ARP of IPv4 over Ethernet is nothing. So is what pretends to be sent by a group.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let body = frame.get(12..FRAME)?;
        let header = [&ARP[..], &ETHERNET, &IPV4, &[6, 4]].concat();
        let (head, body) = body.split_at_checked(header.len())?;
        if head != header {
            return None;
        }
        let mac = |at: usize| Some(Mac(body.get(at..at + 6)?.try_into().ok()?));
        let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?));
        let request = match body.get(..2)? {
            [0, 1] => true,
            [0, 2] => false,
            _ => return None,
        };
        let packet = Self { request, sender: (mac(2)?, ip(8)?), target: (mac(12)?, ip(18)?) };
        (packet.sender.0.0[0] & 1 == 0).then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn frames_read_as_written() {
        let address = Ipv4Addr::new(192, 0, 2, 7);
        let question =
            Packet { request: true, sender: (OTHER, Ipv4Addr::new(192, 0, 2, 1)), target: (Mac([0; 6]), address) };
        for packet in [
            question,
            question.answer(OWN),
            Packet::probe(OWN, address),
            Packet::announcement(OWN, address, true),
            Packet::announcement(OWN, address, false),
        ] {
            let mut frame = packet.frame(OTHER).to_vec();
            assert_eq!(frame[..6], OTHER.0);
            assert_eq!(Packet::parse(&frame), Some(packet));
            // Short frames are padded on their way.
            frame.resize(60, 0);
            assert_eq!(Packet::parse(&frame), Some(packet));
        }
        let answer = question.answer(OWN);
        assert_eq!((answer.sender, answer.target, answer.request), ((OWN, address), question.sender, false));
        assert!(Packet::probe(OWN, address).probes(address) && !Packet::probe(OWN, address).claims(address));
        assert!(answer.claims(address) && !question.claims(address) && !question.probes(address));
    }

    #[test]
    fn bad_frames_are_nothing() {
        let good = Packet::probe(OWN, Ipv4Addr::new(192, 0, 2, 7)).frame(Mac::ALL);
        for length in 0..FRAME {
            assert_eq!(Packet::parse(&good[..length]), None, "{length}");
        }
        // Type, hardware, protocol, lengths, operation, a group as the sender.
        for (at, value) in [(12, 9), (15, 6), (16, 9), (18, 8), (19, 16), (21, 3), (20, 1), (22, 0xff)] {
            let mut frame = good;
            frame[at] = value;
            assert_eq!(Packet::parse(&frame), None, "{at}");
        }
    }
}
