//! Network namespaces for tests: the test's thread is the node, every pod and every client has a thread and a
//! namespace, and a routed link to the node.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// The node's address outside.
pub const NODE: &str = "192.168.7.7";

/// A network namespace with a thread in it.
pub struct Net {
    jobs: mpsc::Sender<Job>,
}

pub fn command(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs in a thread of its own, whose namespace dies with it, within a runtime (notices of the kernel need one).
pub fn on_a_node(test: impl FnOnce(&tokio::runtime::Runtime) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        command("ip link set lo up");
        command("sysctl -q -w net.ipv4.ip_forward=1");
        // Somewhere that addresses without a route seem to be.
        for line in [
            "link add void type veth peer name void0",
            "link set void0 up",
            "addr add 203.0.113.7/32 dev void",
            "link set void up",
            "route add default dev void",
        ] {
            command(&format!("ip {line}"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _within = runtime.enter();
        test(&runtime);
    });
    thread.join().unwrap();
}

impl Net {
    /// Linked to the namespace of the calling thread, which is at `gateway` for it. Has these addresses, the first is
    /// what it speaks from.
    pub fn new(link: &str, gateway: &str, addresses: &'static [&'static str]) -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (reported, path) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            reported.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let path = path.recv().unwrap();
        command(&format!("ip link add {link} type veth peer name peer0"));
        command(&format!("ip link set peer0 netns {path}"));
        command(&format!("ip addr add {gateway}/32 dev {link}"));
        command(&format!("ip link set {link} up"));
        let net = Self { jobs };
        let gateway = gateway.to_owned();
        net.within(move || {
            command("ip link set lo up");
            addresses.iter().for_each(|address| drop(command(&format!("ip addr add {address}/32 dev peer0"))));
            command("ip link set peer0 up");
            command(&format!("ip route add {gateway}/32 dev peer0 scope link"));
            command(&format!("ip route add default via {gateway} src {}", addresses[0]));
        });
        for address in addresses {
            command(&format!("ip route add {address}/32 dev {link}"));
        }
        net
    }

    /// Does something there.
    pub fn within<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().unwrap()
    }

    /// A pod that serves on port 8080 of its address, by TCP.
    pub fn pod(link: &str, addresses: &'static [&'static str]) -> Self {
        let net = Self::new(link, "10.244.1.254", addresses);
        net.within(move || serve(&format!("{}:8080", addresses[0])));
        net
    }

    /// What is answered there: who was asked, and who asked in their eyes.
    pub fn ask(&self, to: &str) -> Answer {
        let to = to.to_owned();
        self.within(move || ask(&to))
    }
}

/// Who answered (the last number of their address) and whom they saw, or what became of the connection.
pub type Answer = Result<(u8, String), std::io::ErrorKind>;

fn serve(address: &str) {
    let name = address.split([':', '.']).nth(3).unwrap().to_owned();
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(format!("{name} {peer}").as_bytes());
        }
    });
}

/// From the calling thread's namespace.
pub fn ask(to: &str) -> Answer {
    let wait = Duration::from_millis(700);
    let mut stream = TcpStream::connect_timeout(&to.parse::<SocketAddr>().unwrap(), wait).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(wait)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    let (who, peer) = text.split_once(' ').unwrap();
    Ok((who.parse().unwrap(), peer.to_owned()))
}

/// Asks from one of the addresses that the calling thread's namespace has.
pub fn ask_from(from: &str, to: &str) -> Answer {
    let (family, kind) = (nix::sys::socket::AddressFamily::Inet, nix::sys::socket::SockType::Stream);
    let socket = nix::sys::socket::socket(family, kind, nix::sys::socket::SockFlag::empty(), None).unwrap();
    let at = |address: &str| -> nix::sys::socket::SockaddrIn {
        let std::net::SocketAddr::V4(address) = address.parse::<SocketAddr>().unwrap() else { panic!() };
        address.into()
    };
    use std::os::fd::AsRawFd;
    nix::sys::socket::bind(socket.as_raw_fd(), &at(&format!("{from}:0"))).unwrap();
    let timeout = nix::sys::time::TimeVal::new(0, 700_000);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SendTimeout, &timeout).unwrap();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout).unwrap();
    nix::sys::socket::connect(socket.as_raw_fd(), &at(to)).map_err(|e| std::io::Error::from(e).kind())?;
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text).map_err(|e| e.kind())?;
    let (who, peer) = text.split_once(' ').unwrap();
    Ok((who.parse().unwrap(), peer.to_owned()))
}

/// A socket that hears datagrams.
pub fn listen(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}
