//! The cluster's DNS as a pod of this host sees it: the question is sent from the network namespace of one, so that the
//! pod network, the service proxy and its NetworkPolicies are on the way. Nothing is made for it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

/// Where the CNI plugins' caller keeps the namespaces of pods that have a network of their own.
const NAMESPACES: &str = "/run/netns";
/// What containerd calls them.
const PREFIX: &str = "cni-";
/// A resolver of the C library waits for 5 s, and tries twice.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 3;
/// Pods whose policies let no question out say nothing of others: some are asked.
const PODS: usize = 3;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDnsRequest {
    /// The cluster IP of the DNS Service.
    pub server: Ipv4Addr,
    /// The name, without a dot at its end.
    pub name: String,
}

/// What a pod was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodDns {
    /// No pod on this host has a network of its own.
    NoPod,
    /// The addresses of the name.
    Answered(Vec<Ipv4Addr>),
    /// No pod that was asked with got a useful answer.
    Failed(String),
}

/// Asks from the pods of this host, until one has an answer.
pub(crate) async fn ask(request: PodDnsRequest) -> Result<PodDns> {
    let namespaces = namespaces(Path::new(NAMESPACES))?;
    let mut why = None;
    for namespace in namespaces.into_iter().take(PODS) {
        match inside(namespace, request.clone()).await {
            Ok(addresses) => return Ok(PodDns::Answered(addresses)),
            Err(error) => why = Some(format!("{error:#}")),
        }
    }
    Ok(why.map_or(PodDns::NoPod, PodDns::Failed))
}

fn namespaces(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("list {}", folder.display()))?,
    };
    let is_pods = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_pods).collect();
    found.sort();
    Ok(found)
}

/// On a thread of its own, which ends with its visit: a thread is in one network namespace at a time.
async fn inside(namespace: PathBuf, request: PodDnsRequest) -> Result<Vec<Ipv4Addr>> {
    let (sender, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let visit = || -> Result<Vec<Ipv4Addr>> {
            let file = std::fs::File::open(&namespace).with_context(|| format!("open {}", namespace.display()))?;
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).context("enter a pod's network")?;
            resolve(SocketAddr::from((request.server, 53)), &request.name)
        };
        // Nobody waits any more when the desk is gone.
        sender.send(visit()).unwrap_or_default();
    });
    answer.await.map_err(|_| anyhow!("the question was not asked"))?
}

/// Asks a DNS server for a name's IPv4 addresses (RFC 1035, section 4).
fn resolve(server: SocketAddr, name: &str) -> Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.connect(server).with_context(|| format!("find the way to {server}"))?;
    socket.set_read_timeout(Some(PATIENCE)).context("set up a socket")?;
    let id = socket.local_addr().context("read the socket's address")?.port();
    let question = question(id, name)?;
    let mut buffer = [0; 512];
    let mut failed = None;
    for _ in 0..ATTEMPTS {
        match socket.send(&question).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => return answer(id, buffer.get(..length).unwrap_or_default()),
            Err(error) => failed = Some(error),
        }
    }
    // A time-out has its own word in every kernel.
    let why = failed
        .filter(|error| !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
        .map_or_else(|| format!("no answer within {} s", PATIENCE.as_secs()), |error| error.to_string());
    Err(anyhow!("{server} does not answer the question for {name}: {why}"))
}

fn question(id: u16, name: &str) -> Result<Vec<u8>> {
    let mut message = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        message.push(length.with_context(|| format!("{name:?} is no DNS name"))?);
        message.extend(label.as_bytes());
    }
    // The root; type A, class IN.
    message.extend([0, 0, 1, 0, 1]);
    Ok(message)
}

fn answer(id: u16, message: &[u8]) -> Result<Vec<Ipv4Addr>> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    ensure!(number(0) == Some(id), "the answer is to another question");
    let code = message.get(3).context("the answer is cut off")? & 0x0f;
    ensure!(
        code == 0,
        "the answer is {}",
        ["", "FORMERR", "SERVFAIL", "NXDOMAIN"].get(usize::from(code)).unwrap_or(&"an error")
    );
    let count = number(6).context("the answer is cut off")?;
    let mut at = skip_name(message, 12).context("the answer is cut off")? + 4;
    let mut addresses = Vec::new();
    for _ in 0..count {
        at = skip_name(message, at).context("the answer is cut off")?;
        let (kind, length) = number(at).zip(number(at + 8)).context("the answer is cut off")?;
        if let (1, 4, Some([a, b, c, d])) = (kind, length, message.get(at + 10..at + 14)) {
            addresses.push(Ipv4Addr::new(*a, *b, *c, *d));
        }
        at += 10 + usize::from(length);
    }
    ensure!(!addresses.is_empty(), "the answer has no address");
    Ok(addresses)
}

/// Where a name ends: at the root, or at a pointer to another name.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to a question: its code, and addresses with a pointer to the question's name.
    fn answered(question: &[u8], code: u8, addresses: &[[u8; 4]]) -> Vec<u8> {
        let mut message = question.to_vec();
        (message[2], message[3], message[7]) = (0x81, 0x80 | code, u8::try_from(addresses.len()).unwrap());
        for address in addresses {
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            message.extend(address);
        }
        message
    }

    #[test]
    fn answers_are_read_and_rubbish_is_none() {
        let asked = question(7, "kubernetes.default.svc.cluster.local").unwrap();
        assert_eq!(answer(7, &answered(&asked, 0, &[[10, 96, 0, 1]])).unwrap(), [Ipv4Addr::new(10, 96, 0, 1)]);
        let whole = answered(&asked, 0, &[[10, 96, 0, 1], [10, 96, 0, 2]]);
        assert_eq!(answer(7, &whole).unwrap().len(), 2);
        for (message, words) in [
            (answered(&asked, 3, &[]), "NXDOMAIN"),
            (answered(&asked, 2, &[]), "SERVFAIL"),
            (answered(&asked, 0, &[]), "no address"),
            (asked[..2].to_vec(), "cut off"),
            (Vec::new(), "another question"),
            (whole[..whole.len() - 20].to_vec(), "cut off"),
        ] {
            let error = answer(7, &message).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(answer(8, &whole).is_err());
        for wrong in ["", "a..b", &"x".repeat(64)] {
            assert!(question(7, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_server_is_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&answered(&buffer[..length], 0, &[[10, 96, 0, 1]]), from).unwrap();
        });
        assert_eq!(resolve(address, "a.b").unwrap(), [Ipv4Addr::new(10, 96, 0, 1)]);
        thread.join().unwrap();
    }

    #[test]
    fn only_pods_namespaces_count() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(namespaces(&folder.path().join("none")).unwrap(), Vec::<PathBuf>::new());
        for name in ["cni-1", "other", "cni-0"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(namespaces(folder.path()).unwrap(), [folder.path().join("cni-0"), folder.path().join("cni-1")]);
    }
}
