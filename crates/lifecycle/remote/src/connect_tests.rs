use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{PrivateKey, PublicKey};
use tempfile::TempDir;

use super::*;
use crate::desk::{NoPrompt, Secret};
use crate::hostkey::{HostKeyPolicy, OnUnknown};
use crate::route::Identities;
use crate::test_server::{TestServer, fingerprint, new_key};

const TRIES: usize = 3;

fn save(dir: &TempDir, name: &str, key: &PrivateKey) -> PathBuf {
    let path = dir.path().join(name);
    key.write_openssh_file(&path, LineEnding::LF).unwrap();
    path
}

fn named(files: &[&Path]) -> Identities {
    let files = files.iter().map(|f| (*f).to_owned()).collect();
    Identities { files, named: true, only: true, required: true, agent: None }
}

fn hop(server: &TestServer, identities: Identities) -> Hop {
    let host_key = HostKeyPolicy {
        pinned: Some(server.key.to_openssh().unwrap()),
        known_hosts: Vec::new(),
        alias: None,
        on_unknown: OnUnknown::Refuse,
    };
    Hop { address: "127.0.0.1".into(), port: server.port, user: "root".into(), identities, host_key }
}

fn target(host: Hop) -> Target {
    Target { jumps: Vec::new(), host, proxy_command: None, timeout: Duration::from_secs(20) }
}

async fn refused(desk: &Desk, target: &Target) -> String {
    format!("{:#}", desk.connect(target).await.err().expect("an error"))
}

/// A real ssh-agent that holds these keys.
struct Agent(std::process::Child, PathBuf);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn agent(dir: &TempDir, keys: &[PrivateKey]) -> Agent {
    let socket = dir.path().join("agent");
    let child = std::process::Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
    let agent = Agent(child.expect("ssh-agent, of the Debian package openssh-client"), socket.clone());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut client = loop {
        match russh::keys::agent::client::AgentClient::connect_uds(&socket).await {
            Ok(client) => break client,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    for key in keys {
        client.add_identity(key, &[]).await.unwrap();
    }
    agent
}

#[tokio::test]
async fn the_configured_key_comes_first_and_an_agents_many_keys_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<PrivateKey> = (0..8).map(|_| new_key()).collect();
    let (right, own) = (&keys[7], new_key());
    let agent = agent(&dir, &keys).await;
    let server = TestServer::start(&[right.public_key().clone(), own.public_key().clone()], TRIES, "").await;
    let desk = Desk::new(Arc::new(NoPrompt));
    let with = |files: &[&Path], named, only| Identities {
        files: files.iter().map(|f| (*f).to_owned()).collect(),
        named,
        only,
        required: false,
        agent: Some(agent.1.clone()),
    };
    // A key that only the file has, one that only the agent has (its public half is named), and one that both have.
    let (file, both) = (save(&dir, "own", &own), save(&dir, "both", right));
    let public = dir.path().join("right.pub");
    std::fs::write(&public, right.public_key().to_openssh().unwrap()).unwrap();
    for path in [&file, &public, &both] {
        for (named, only) in [(true, true), (true, false), (false, true)] {
            if path == &public && !named {
                continue;
            }
            server.events.lock().unwrap().clear();
            desk.connect(&target(hop(&server, with(&[path], named, only)))).await.map(drop).unwrap();
            let wanted = fingerprint(if path == &file { own.public_key() } else { right.public_key() });
            let events = server.events.lock().unwrap().clone();
            assert!(
                events.iter().all(|e| !e.starts_with("offered") || *e == format!("offered {wanted}")),
                "{events:?}"
            );
        }
    }
    // Nothing is configured: the host ends the connection, and which keys were tried is told.
    let error = refused(&desk, &target(hop(&server, with(&[], false, false)))).await;
    assert!(error.contains("the host ended the connection after these keys: "), "{error}");
    assert!(error.contains("(agent)") && error.contains("ssh.identityFile"), "{error}");
    // With a named key that the host does not take, the agent's others are not tried.
    let wrong = save(&dir, "wrong", &new_key());
    let error = refused(&desk, &target(hop(&server, with(&[&wrong], true, true)))).await;
    assert!(error.ends_with(&format!("accepts none of these keys: {}", wrong.display())), "{error}");
    let missing = dir.path().join("missing");
    let error = refused(&desk, &target(hop(&server, with(&[&missing], true, true)))).await;
    assert!(error.contains("no key to try") && error.contains("there is no such file"), "{error}");
}

/// Gives a wrong passphrase first.
#[derive(Default)]
struct Typist(AtomicU32);

const PASSPHRASE: &str = "correct horse";

impl Prompt for Typist {
    fn passphrase(&self, key: &Path, wrong: u32) -> Result<Secret> {
        assert!(key.ends_with("locked"));
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Secret::new(if wrong == 0 { "battery".into() } else { PASSPHRASE.into() }))
    }

    fn sudo_password(&self, _: &str) -> Result<Secret> {
        Err(anyhow!("nobody asked"))
    }
}

/// A key with a passphrase, made by OpenSSH itself.
fn locked(dir: &TempDir, format: &[&str]) -> (PathBuf, PublicKey) {
    let path = dir.path().join("locked");
    std::fs::remove_file(&path).ok();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-N", PASSPHRASE, "-f"])
        .arg(&path)
        .args(format)
        .status()
        .unwrap();
    assert!(made.success());
    let public = russh::keys::load_public_key(dir.path().join("locked.pub")).unwrap();
    (path, public)
}

#[tokio::test]
async fn a_passphrase_is_asked_for_once_and_only_where_the_key_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    for format in [&["-t", "ed25519"][..], &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]] {
        let (path, public) = locked(&dir, format);
        let typist = Arc::new(Typist::default());
        let desk = Desk::new(typist.clone());
        let stranger = TestServer::start(&[], TRIES, "").await;
        let error = refused(&desk, &target(hop(&stranger, named(&[&path])))).await;
        assert!(error.contains("accepts none of these keys"), "{error}");
        assert_eq!(typist.0.load(Ordering::Relaxed), 0, "{format:?}");
        let hosts = [
            TestServer::start(std::slice::from_ref(&public), TRIES, "").await,
            TestServer::start(&[public], TRIES, "").await,
        ];
        let targets = hosts.each_ref().map(|server| target(hop(server, named(&[&path]))));
        let (one, two) = tokio::join!(desk.connect(&targets[0]), desk.connect(&targets[1]));
        one.map(drop).unwrap();
        two.map(drop).unwrap();
        assert_eq!(typist.0.load(Ordering::Relaxed), 2, "a wrong one and a right one, for both hosts");
        let error = refused(&Desk::new(Arc::new(NoPrompt)), &targets[0]).await;
        assert!(error.contains("locked") && error.contains("it has a passphrase"), "{error}");
    }
}

#[tokio::test]
async fn a_jump_host_is_checked_and_shared() {
    let dir = tempfile::tempdir().unwrap();
    let key = new_key();
    let (path, public) = (save(&dir, "key", &key), [key.public_key().clone()]);
    let (outer, inner) = (TestServer::start(&public, TRIES, "").await, TestServer::start(&public, TRIES, "").await);
    let hosts = [TestServer::start(&public, TRIES, "").await, TestServer::start(&public, TRIES, "").await];
    let jumps = vec![hop(&outer, named(&[&path])), hop(&inner, named(&[&path]))];
    let targets = hosts.each_ref().map(|h| Target { jumps: jumps.clone(), ..target(hop(h, named(&[&path]))) });
    let desk = Desk::new(Arc::new(NoPrompt));
    let (one, two) = tokio::join!(desk.connect(&targets[0]), desk.connect(&targets[1]));
    let (one, two) = (one.unwrap(), two.unwrap());
    for transport in [one, two] {
        assert_eq!(transport.exec("/bin/false").await.unwrap().ended().await.status, Some(1));
    }
    let seen = |server: &TestServer| (server.count("connected"), server.count("forwarded"));
    assert_eq!((seen(&outer), seen(&inner), seen(&hosts[0])), ((1, 1), (1, 2), (1, 0)));

    // Another key than the jump host's: nothing goes through it.
    let mut spoofed = targets[0].clone();
    spoofed.jumps[1].host_key.pinned = Some(hosts[0].key.to_openssh().unwrap());
    let error = refused(&Desk::new(Arc::new(NoPrompt)), &spoofed).await;
    let place = format!("jump host 127.0.0.1:{}: the host presents key {}", inner.port, fingerprint(&inner.key));
    assert!(error.contains(&place), "{error}");
    assert_eq!(inner.count("forwarded"), 2);
    let mut unreached = targets[0].clone();
    unreached.host.port = 1;
    let error = refused(&desk, &unreached).await;
    assert!(error.contains("connect to 127.0.0.1:1: ask the jump host"), "{error}");
}

#[tokio::test]
async fn a_proxy_command_is_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let key = new_key();
    let path = save(&dir, "key", &key);
    let server = TestServer::start(&[key.public_key().clone()], TRIES, "").await;
    let mut target = target(hop(&server, named(&[&path])));
    target.proxy_command = Some(format!("busybox nc 127.0.0.1 {}", server.port));
    target.host.address = "behind.example".into();
    let transport = Desk::new(Arc::new(NoPrompt)).connect(&target).await.unwrap();
    assert_eq!(transport.exec("/bin/true").await.unwrap().ended().await.status, Some(0));
    target.proxy_command = Some("sh -c 'echo no way >&2; exit 1'".into());
    let error = refused(&Desk::new(Arc::new(NoPrompt)), &target).await;
    assert!(error.contains("behind.example") && error.contains("no way"), "{error}");
}

#[tokio::test]
async fn a_shell_that_talks_and_has_a_umask_of_its_own_does_no_harm() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let key = new_key();
    let path = save(&dir, "key", &key);
    let server =
        TestServer::start(&[key.public_key().clone()], TRIES, "echo Welcome; echo beware >&2; umask 077;").await;
    let transport = Desk::new(Arc::new(NoPrompt)).connect(&target(hop(&server, named(&[&path])))).await.unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let file = dir.path().join("program");
    transport.put(&file.display().to_string(), &bytes, 0o755).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o755);
}
