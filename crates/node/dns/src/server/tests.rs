//! The server over real sockets: bad packets, sizes, negative answers, resolvers that fail.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use hickory_proto::op::{self, Message, MessageType};
use hickory_proto::rr::Name;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::forward::Forwarder;
use crate::zone::tests::zone;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(10);

/// A server whose resolver is at `upstream`, or that asks itself.
async fn serving(upstream: Option<u16>) -> (Server<Handler>, SocketAddr) {
    let udp = UdpSocket::bind((HERE, 0)).await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let mut connection = ConnectionConfig::udp();
    connection.port = upstream.unwrap_or(address.port());
    let mut server = NameServerConfig::udp_and_tcp(HERE);
    server.connections = vec![connection];
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let forwarder = Forwarder::new(config, ResolverOpts::default()).unwrap();
    let router = Arc::new(Router::new(forwarder));
    let mut server = Server::new(Handler::new(Arc::new(zone()), router));
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(5), 32);
    (server, address)
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let mut full = Name::from_str(name).unwrap();
    full.set_fqdn(true);
    message.add_query(op::Query::query(full, kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

async fn exchange(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((HERE, 0)).await.unwrap();
    socket.send_to(bytes, to).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

async fn udp(to: SocketAddr, message: &Message) -> (Message, usize) {
    let bytes = exchange(to, &message.to_vec().unwrap()).await;
    (Message::from_vec(&bytes).unwrap(), bytes.len())
}

async fn tcp(to: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// xorshift64*: the same packets every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }
}

fn spoiled(dice: &mut Dice) -> Vec<u8> {
    let names = ["db.default.svc.cluster.local", "_sql._tcp.db.default.svc.cluster.local", "5.1.244.10.in-addr.arpa"];
    let payload = [None, Some(0), Some(4096)][dice.roll(3)];
    let mut bytes = question(names[dice.roll(3)], RecordType::from(dice.roll(300) as u16), payload).to_vec().unwrap();
    // Most keep their flags and id: packets that are no queries are not read far.
    let from = if dice.roll(4) == 0 { 0 } else { 4 };
    for _ in 0..=dice.roll(6) {
        let at = from + dice.roll(bytes.len() - from);
        bytes[at] = [0, 0xff, 0xc0, 0x3f, dice.roll(256) as u8][dice.roll(5)];
    }
    if dice.roll(3) == 0 {
        bytes.truncate(1 + dice.roll(bytes.len()));
    }
    if dice.roll(5) == 0 {
        bytes.extend((0..dice.roll(600)).map(|i| i as u8));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn no_packet_stops_the_server() {
    let sink = UdpSocket::bind((HERE, 0)).await.unwrap();
    let (_server, address) = serving(Some(sink.local_addr().unwrap().port())).await;
    let good = question("kubernetes.default.svc.cluster.local", RecordType::A, None);
    let client = UdpSocket::bind((HERE, 0)).await.unwrap();
    for seed in 1..=40u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for _ in 0..50 {
            client.send_to(&spoiled(&mut dice), address).await.unwrap();
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let bytes = spoiled(&mut dice);
        let _ = stream.write_u16(u16::try_from(dice.roll(700)).unwrap()).await;
        let _ = stream.write_all(&bytes).await;
        let (answer, _) = udp(address, &good).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_so() {
    let (_server, address) = serving(None).await;
    let good = question("db.default.svc.cluster.local", RecordType::A, None).to_vec().unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    for (what, bytes, code) in [
        (
            "no question",
            with(&|b| {
                b[5] = 0;
                b.truncate(12)
            }),
            ResponseCode::FormErr,
        ),
        ("half a question", with(&|b| b.truncate(20)), ResponseCode::FormErr),
        (
            "a name that points at itself",
            with(&|b| {
                b[12] = 0xc0;
                b[13] = 12
            }),
            ResponseCode::FormErr,
        ),
        ("a label of a reserved kind", with(&|b| b[12] = 0x80), ResponseCode::FormErr),
        ("two questions announced", with(&|b| b[5] = 2), ResponseCode::FormErr),
        ("an update", with(&|b| b[2] = 5 << 3), ResponseCode::NotImp),
        (
            "class CHAOS",
            with(&|b| {
                let at = b.len() - 1;
                b[at] = 3
            }),
            ResponseCode::Refused,
        ),
    ] {
        let answer = exchange(address, &bytes).await;
        assert_eq!((&answer[..2], answer[3] & 15), (&bytes[..2], u8::try_from(u16::from(code)).unwrap()), "{what}");
    }
    let mut newer = question("db.default.svc.cluster.local", RecordType::A, Some(1232));
    newer.edns.as_mut().unwrap().set_version(1);
    // BADVERS and BADSIG share a number.
    assert_eq!(u16::from(udp(address, &newer).await.0.metadata.response_code), u16::from(ResponseCode::BADVERS));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_cut_to_what_the_client_takes() {
    let (_server, address) = serving(None).await;
    let ask = |payload| question("many.default.svc.cluster.local", RecordType::A, payload);
    for (payload, most) in [(None, 512), (Some(0), 512), (Some(512), 512), (Some(800), 800), (Some(4096), 1232)] {
        let (answer, length) = udp(address, &ask(payload)).await;
        assert!(answer.metadata.truncation && length <= most && !answer.answers.is_empty(), "{payload:?}: {length}");
        assert_eq!(answer.edns.is_some(), payload.is_some(), "{payload:?}");
    }
    let whole = tcp(address, &ask(None)).await;
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
    let (small, _) = udp(address, &question("db.default.svc.cluster.local", RecordType::A, None)).await;
    assert_eq!((small.answers.len(), small.metadata.truncation), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_answers_carry_the_zone() {
    let (_server, address) = serving(None).await;
    for (name, kind, code) in [
        ("nothing.default.svc.cluster.local", RecordType::A, ResponseCode::NXDomain),
        ("db.nowhere.svc.cluster.local", RecordType::A, ResponseCode::NXDomain),
        ("kubernetes.default.svc.cluster.local", RecordType::AAAA, ResponseCode::NoError),
        ("kubernetes.default.svc.cluster.local", RecordType::MX, ResponseCode::NoError),
        ("kubernetes.default.svc.cluster.local", RecordType::HTTPS, ResponseCode::NoError),
        ("kubernetes.default.svc.cluster.local", RecordType::Unknown(4711), ResponseCode::NoError),
    ] {
        let (answer, _) = udp(address, &question(name, kind, None)).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name} {kind}");
        assert!(answer.metadata.authoritative, "{name} {kind}");
        let zone: Vec<RecordType> = answer.authorities.iter().map(Record::record_type).collect();
        assert_eq!(zone, [RecordType::SOA], "{name} {kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_is_silent_or_is_us_ends_in_servfail() {
    let silent = UdpSocket::bind((HERE, 0)).await.unwrap();
    for upstream in [Some(silent.local_addr().unwrap().port()), None] {
        let (_server, address) = serving(upstream).await;
        let begun = Instant::now();
        let ask = question("www.example.org", RecordType::A, None);
        let answers = futures::future::join_all((0..20).map(|_| udp(address, &ask))).await;
        let codes: Vec<_> = answers.iter().map(|(a, _)| a.metadata.response_code).collect();
        assert!(codes.iter().all(|c| *c == ResponseCode::ServFail), "{upstream:?}: {codes:?}");
        // Clients wait five seconds.
        assert!(begun.elapsed() < Duration::from_secs(5), "{upstream:?}: {:?}", begun.elapsed());
    }
    // Twenty clients, one question: it went out once, and a few times more for packets that may have been lost.
    let mut asked = 0;
    while silent.try_recv(&mut [0; 512]).is_ok() {
        asked += 1;
    }
    assert!((1..=8).contains(&asked), "{asked}");
}
