//! An sshd for tests, in this process: it notes which keys are offered and used, runs programs by a shell, and forwards
//! connections.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, Error};
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// A running server.
pub(crate) struct TestServer {
    pub(crate) port: u16,
    pub(crate) key: PublicKey,
    /// `connected`, `offered FINGERPRINT`, `logged in USER`, `forwarded`.
    pub(crate) events: Arc<Mutex<Vec<String>>>,
}

pub(crate) fn new_key() -> PrivateKey {
    let mut seed = [0u8; 32];
    aws_lc_rs::rand::fill(&mut seed).unwrap();
    let pair = russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&seed);
    PrivateKey::new(pair.into(), "test").unwrap()
}

pub(crate) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

impl TestServer {
    /// Accepts `accepted` alone, and ends a connection after `tries` keys that it does not. `before` is run by the
    /// shell before any program.
    pub(crate) async fn start(accepted: &[PublicKey], tries: usize, before: &'static str) -> Self {
        let key = new_key();
        assert_eq!(key.algorithm(), Algorithm::Ed25519);
        let public = key.public_key().clone();
        let config = Arc::new(Config {
            keys: vec![key],
            auth_rejection_time: Duration::ZERO,
            max_auth_attempts: tries,
            ..Config::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let guest = Guest { accepted: accepted.to_vec(), before, events: events.clone(), channels: HashMap::new() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (config, guest) = (config.clone(), guest.clone_for_one());
                guest.note("connected".into());
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, stream, guest).await {
                        session.await.ok();
                    }
                });
            }
        });
        Self { port, key: public, events }
    }

    /// How many of its events begin so.
    pub(crate) fn count(&self, event: &str) -> usize {
        self.events.lock().unwrap().iter().filter(|e| e.starts_with(event)).count()
    }
}

struct Guest {
    accepted: Vec<PublicKey>,
    before: &'static str,
    events: Arc<Mutex<Vec<String>>>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Guest {
    fn clone_for_one(&self) -> Self {
        let (accepted, events) = (self.accepted.clone(), self.events.clone());
        Self { accepted, before: self.before, events, channels: HashMap::new() }
    }

    fn note(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    fn knows(&self, key: &PublicKey) -> Auth {
        if self.accepted.iter().any(|a| a.key_data() == key.key_data()) { Auth::Accept } else { Auth::reject() }
    }
}

impl Handler for Guest {
    type Error = Error;

    async fn auth_publickey_offered(&mut self, _: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Error> {
        self.note(format!("offered {}", fingerprint(offer.public_key)));
        Ok(self.knows(offer.public_key))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Error> {
        self.note(format!("logged in {user}"));
        Ok(self.knows(key.public_key))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        let Ok(mut to) = TcpStream::connect((host, u16::try_from(port).unwrap())).await else {
            reply.reject(russh::ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        self.note("forwarded".into());
        reply.accept().await;
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut channel.into_stream(), &mut to).await.ok() });
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Error> {
        let command = format!("{} {}", self.before, String::from_utf8_lossy(command));
        session.channel_success(id)?;
        if let Some(channel) = self.channels.remove(&id) {
            tokio::spawn(run(channel, command));
        }
        Ok(())
    }
}

async fn run(channel: Channel<Msg>, command: String) {
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell.args(["-c", &command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut read, write) = channel.split();
    let input = tokio::spawn(async move {
        while let Some(message) = read.wait().await {
            match (message, stdin.as_mut()) {
                (ChannelMsg::Data { data }, Some(to)) => to.write_all(&data).await.unwrap_or_default(),
                (ChannelMsg::Eof, _) => stdin = None,
                _ => {}
            }
        }
    });
    let (mut to, mut to_errors) = (write.make_writer(), write.make_writer_ext(Some(1)));
    let (_, _, status) = tokio::join!(copy(&mut stdout, &mut to), copy(&mut stderr, &mut to_errors), child.wait());
    let status = status.unwrap().code().unwrap_or(255);
    write.exit_status(u32::try_from(status).unwrap()).await.ok();
    write.eof().await.ok();
    write.close().await.ok();
    input.abort();
}
