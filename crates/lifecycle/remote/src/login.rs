//! Logging in with a key.
//!
//! sshd ends a connection after a few keys that it does not know (`MaxAuthTries`, 6), so the order counts: the
//! configured keys first, from the SSH agent where it has them; then, unless one is named in the cluster file or
//! `IdentitiesOnly` says no, the agent's other keys. Where no key is configured the agent's come first and then
//! OpenSSH's default files, as with ssh(1).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, Signer};
use tokio::net::UnixStream;

use crate::keyring::{KeyFile, Keyring, look};
use crate::route::{Hop, Identities};
use crate::ssh::Check;

/// A key to try.
enum Candidate {
    Agent(AgentIdentity),
    File(PathBuf, KeyFile),
}

/// The SSH agent, connected.
type Agent = AgentClient<UnixStream>;

fn data(identity: &AgentIdentity) -> &KeyData {
    match identity {
        AgentIdentity::PublicKey { key, .. } => key.key_data(),
        AgentIdentity::Certificate { certificate, .. } => certificate.public_key(),
    }
}

/// The keys to try in their order, and notes on those that cannot be.
fn candidates(identities: &Identities, mut held: Vec<AgentIdentity>) -> Result<(Vec<Candidate>, Vec<String>)> {
    let (mut first, mut files, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for path in &identities.files {
        if !identities.required && !path.exists() {
            if identities.named {
                notes.push(format!("{} (there is no such file)", path.display()));
            }
            continue;
        }
        let file = match look(path) {
            Ok(file) => file,
            Err(error) if identities.required => return Err(error),
            Err(error) => {
                notes.push(format!("{} ({error:#})", path.display()));
                continue;
            }
        };
        let is_it = |held: &AgentIdentity| file.public().is_some_and(|public| data(held) == public.key_data());
        let (same, others): (Vec<_>, Vec<_>) = held.into_iter().partition(is_it);
        held = others;
        match (same.is_empty(), &file) {
            (false, _) => first.extend(same.into_iter().map(Candidate::Agent)),
            (true, KeyFile::Public(_)) => notes.push(format!("{} (not in the SSH agent)", path.display())),
            // Configured keys keep their order; default files come after the agent's keys.
            (true, _) if identities.named => first.push(Candidate::File(path.clone(), file)),
            (true, _) => files.push(Candidate::File(path.clone(), file)),
        }
    }
    if !identities.only {
        first.extend(held.into_iter().map(Candidate::Agent));
    }
    first.append(&mut files);
    Ok((first, notes))
}

/// Logs in with the first key that the host accepts. `farewell` is what the host says when it ends the connection.
pub(crate) async fn log_in(
    handle: &mut Handle<Check>,
    hop: &Hop,
    keyring: &Keyring,
    farewell: &Mutex<String>,
) -> Result<()> {
    let (mut agent, held) = ask_agent(hop.identities.agent.as_deref()).await;
    let (candidates, mut notes) = candidates(&hop.identities, held)?;
    let user = &hop.user;
    let hash = handle.best_supported_rsa_hash().await.ok().flatten().flatten();
    let mut tried = Vec::new();
    for candidate in candidates {
        let (name, answer) = match candidate {
            Candidate::Agent(identity) => {
                let Some(agent) = agent.as_mut() else { continue };
                (agent_name(&identity), by_agent(handle, user, identity, hash, agent).await)
            }
            Candidate::File(path, file) => {
                (path.display().to_string(), by_file(handle, user, &path, file, hash, keyring).await)
            }
        };
        match answer {
            Ok(AuthResult::Success) => return Ok(()),
            Ok(AuthResult::Failure { partial_success: true, remaining_methods }) => {
                let methods: Vec<&str> = remaining_methods.iter().map(Into::into).collect();
                bail!("log in as {user}: the host takes the key {name} and wants {} besides", methods.join(" or "));
            }
            Ok(AuthResult::Failure { remaining_methods, .. }) => {
                tried.push(name);
                if !handle.is_closed() && !remaining_methods.contains(&MethodKind::PublicKey) {
                    let methods: Vec<&str> = remaining_methods.iter().map(Into::into).collect();
                    bail!(
                        "log in as {user}: the host takes no keys (PubkeyAuthentication), only {}",
                        methods.join(", ")
                    );
                }
            }
            Err(_) if handle.is_closed() => tried.push(name),
            Err(error) => notes.push(format!("{name} ({error:#})")),
        }
        if handle.is_closed() {
            let said = farewell.lock().map(|said| said.clone()).unwrap_or_default();
            bail!(
                "log in as {user}: the host ended the connection after these keys: {} ({said}); name the right one in ssh.identityFile, or set IdentitiesOnly in ~/.ssh/config",
                tried.join(", ")
            );
        }
    }
    let notes = if notes.is_empty() { String::new() } else { format!("; not tried: {}", notes.join(", ")) };
    if tried.is_empty() {
        bail!("log in as {user}: no key to try; set ssh.identityFile, or start an SSH agent{notes}");
    }
    bail!("log in as {user}: the host accepts none of these keys: {}{notes}", tried.join(", "))
}

/// The agent and its keys; none, when there is no agent or it does not answer.
async fn ask_agent(socket: Option<&Path>) -> (Option<Agent>, Vec<AgentIdentity>) {
    let Some(socket) = socket else { return (None, Vec::new()) };
    let Ok(mut agent) = AgentClient::connect_uds(socket).await else { return (None, Vec::new()) };
    match agent.request_identities().await {
        Ok(held) => (Some(agent), held),
        Err(_) => (None, Vec::new()),
    }
}

fn agent_name(identity: &AgentIdentity) -> String {
    match identity {
        AgentIdentity::PublicKey { comment, .. } => format!("{comment} (agent)"),
        AgentIdentity::Certificate { comment, .. } => format!("{comment} (agent, certificate)"),
    }
}

async fn by_agent(
    handle: &mut Handle<Check>,
    user: &str,
    identity: AgentIdentity,
    hash: Option<HashAlg>,
    agent: &mut Agent,
) -> Result<AuthResult> {
    Ok(match identity {
        AgentIdentity::PublicKey { key, .. } => handle.authenticate_publickey_with(user, key, hash, agent).await?,
        AgentIdentity::Certificate { certificate, .. } => {
            handle.authenticate_certificate_with(user, certificate, hash, agent).await?
        }
    })
}

/// A passphrase is asked for when the host would take the key, not before.
async fn by_file(
    handle: &mut Handle<Check>,
    user: &str,
    path: &Path,
    file: KeyFile,
    hash: Option<HashAlg>,
    keyring: &Keyring,
) -> Result<AuthResult> {
    let key = match file {
        KeyFile::Open(key) => key,
        KeyFile::Public(_) => bail!("not in the SSH agent"),
        KeyFile::Locked(public) => {
            if let Some(public) = public
                && let Ok(refused) = would_take(handle, user, public, hash).await
            {
                return Ok(refused);
            }
            keyring.unlock(path).await?
        }
    };
    Ok(handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, hash)).await?)
}

/// Offers a public key and signs nothing. An error means that the host asked for the signature: it would take the key.
async fn would_take(
    handle: &mut Handle<Check>,
    user: &str,
    public: PublicKey,
    hash: Option<HashAlg>,
) -> Result<AuthResult, Taken> {
    handle.authenticate_publickey_with(user, public, hash, &mut OnlyAsk).await
}

struct OnlyAsk;

#[derive(Debug)]
struct Taken;

impl From<russh::SendError> for Taken {
    fn from(_: russh::SendError) -> Self {
        Self
    }
}

impl Signer for OnlyAsk {
    type Error = Taken;

    async fn auth_sign(&mut self, _: &AgentIdentity, _: Option<HashAlg>, _: Vec<u8>) -> Result<Vec<u8>, Taken> {
        Err(Taken)
    }
}

/// What the host said when it ended the connection.
pub(crate) type Farewell = Arc<Mutex<String>>;
