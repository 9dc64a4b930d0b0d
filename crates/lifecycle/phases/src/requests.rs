//! Certificates that an authority signs whose key is on no control plane: requests go out, certificates come back.
//!
//! ```text
//! requests ─► PEM per host and certificate ─► (the authority) ─► check ─► hold on the hosts ─► the plan installs them
//! ```

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use kinit_agent::Signed;
use kinit_manifests::PKI;
use kinit_pki::Authority;
use kinit_planner::{all_observed, external_authorities};
use kinit_resource::{LeafSpec, Observed, Resource};

use crate::operation::Run;

/// Why there is nothing to request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NothingToRequest {
    /// kinit makes the authorities itself, or has their keys.
    #[error(
        "no authority of this cluster is kept elsewhere: kinit issues its certificates itself (`kinit init`, `kinit certs renew`). One that is has its certificate in /etc/kubernetes/pki of a control plane (ca.crt, front-proxy-ca.crt, etcd/ca.crt), and its key nowhere"
    )]
    NotExternal,
    /// Signed certificates that do not fit.
    #[error("nothing was imported:\n{}", .0.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<String>),
}

/// A certificate that an authority elsewhere signs.
#[derive(Debug, Clone)]
pub struct Wanting {
    /// The host.
    pub host: String,
    /// What it is.
    pub leaf: LeafSpec,
    /// What is there now.
    pub state: State,
}

/// What there is of such a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A good one.
    Good,
    /// One that was handed in, and that the next run puts in its place.
    HandedIn,
    /// None, or one that has to be replaced; the words say why.
    Wanted(String),
}

/// A certificate file that came back.
#[derive(Debug, Clone)]
pub struct SignedFile {
    /// The host that it is for.
    pub host: String,
    /// The name of its request, without an ending.
    pub name: String,
    /// Its path on the desk.
    pub path: String,
    /// Its text.
    pub certificate: String,
}

impl Run {
    /// Every certificate that an authority elsewhere signs, host by host.
    ///
    /// # Errors
    ///
    /// [`NothingToRequest::NotExternal`] when no authority is kept elsewhere.
    pub async fn signed_elsewhere(&self) -> Result<Vec<Wanting>> {
        let hosts = self.observe().await?;
        all_observed(&hosts)?;
        let external = external_authorities(self.cluster(), &hosts);
        if external.is_empty() {
            return Err(NothingToRequest::NotExternal.into());
        }
        let mut all = Vec::new();
        // In the file's order.
        for host in &self.cluster().spec.hosts {
            for (_, resource, observed) in hosts.get(&host.name).into_iter().flatten() {
                let Resource::Leaf(leaf) = resource else { continue };
                if external.contains(&leaf.leaf.authority()) {
                    let leaf = LeafSpec::clone(leaf);
                    all.push(Wanting { host: host.name.clone(), leaf, state: state(observed) });
                }
            }
        }
        Ok(all)
    }

    /// Makes a key for it on its host, and returns the request.
    pub async fn request_signature(&self, wanting: &Wanting) -> Result<String> {
        let agent = self.hosts().agent(&wanting.host)?;
        let request = agent.request_signature(&wanting.leaf).await;
        request.with_context(|| format!("request {} on {}", wanting.leaf.path(), wanting.host))
    }

    /// Compares files with what is wanted; hands them to their hosts when all of them fit, unless they are only to be
    /// looked at. Returns what they are.
    ///
    /// # Errors
    ///
    /// [`NothingToRequest::Wrong`] with everything that is wrong with any of them.
    pub async fn import_signed(&self, files: &[SignedFile], look: bool) -> Result<Vec<(String, LeafSpec)>> {
        let wanting = self.signed_elsewhere().await?;
        let authorities = self.authorities_of(&wanting).await?;
        let mut wrong = Vec::new();
        let mut fitting = Vec::new();
        for file in files {
            let Some(one) = wanting.iter().find(|one| one.host == file.host && one.leaf.request_name() == file.name)
            else {
                wrong.push(format!("{}: {}", file.path, self.not_wanted(file, &wanting)));
                continue;
            };
            let of = one.leaf.leaf.authority();
            let authority = authorities.iter().find(|(authority, _)| *authority == of).map(|(_, pem)| pem.clone());
            let signed = Signed {
                leaf: one.leaf.clone(),
                certificate: file.certificate.clone(),
                authority: authority.unwrap_or_default(),
            };
            let found = self.hosts().agent(&file.host)?.check_signed(signed.clone()).await;
            let found = found.with_context(|| format!("check {} on {}", file.path, file.host))?;
            wrong.extend(found.into_iter().map(|what| format!("{}: it {what}", file.path)));
            fitting.push((file.host.clone(), signed));
        }
        if !wrong.is_empty() {
            return Err(NothingToRequest::Wrong(wrong).into());
        }
        let mut done = Vec::new();
        for (host, signed) in fitting {
            let leaf = signed.leaf.clone();
            if !look {
                let held = self.hosts().agent(&host)?.hold_signed(signed).await;
                held.with_context(|| format!("hand {} to {host}", leaf.request_name()))?;
            }
            done.push((host, leaf));
        }
        Ok(done)
    }

    /// Certificates of the authorities that sign these, from a control plane that has them.
    async fn authorities_of(&self, wanting: &[Wanting]) -> Result<Vec<(Authority, String)>> {
        let of: BTreeSet<Authority> = wanting.iter().map(|one| one.leaf.leaf.authority()).collect();
        let mut found = Vec::new();
        for authority in of {
            for host in self.cluster().hosts(kinit_config::Role::ControlPlane) {
                let Ok(agent) = self.hosts().agent(&host.name) else { continue };
                if let Ok(pem) = agent.read_file(&format!("{PKI}/{}.crt", authority.stem())).await {
                    found.push((authority, pem));
                    break;
                }
            }
        }
        Ok(found)
    }

    fn not_wanted(&self, file: &SignedFile, wanting: &[Wanting]) -> String {
        if !self.cluster().spec.hosts.iter().any(|host| host.name == file.host) {
            return format!("the cluster file has no host {:?}", file.host);
        }
        let names: Vec<String> =
            wanting.iter().filter(|one| one.host == file.host).map(|one| one.leaf.request_name()).collect();
        format!("{} needs no certificate {:?} from elsewhere; it needs {}", file.host, file.name, names.join(", "))
    }

    /// Whether these hosts have no cluster yet, so that there is nothing that would read a certificate.
    pub fn is_new(&self) -> bool {
        self.client().is_none() && !self.facts().values().any(|facts| facts.etcd_data)
    }
}

fn state(observed: &Observed) -> State {
    match observed {
        Observed::Signed(_) => State::HandedIn,
        Observed::Missing => State::Wanted("missing".to_owned()),
        Observed::Differs(why) => State::Wanted(why.clone()),
        _ => State::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_or_differs_is_wanted() {
        for (observed, expected) in [
            (Observed::AsWanted, State::Good),
            (Observed::Signed("missing".into()), State::HandedIn),
            (Observed::Missing, State::Wanted("missing".into())),
            (Observed::Differs("expired".into()), State::Wanted("expired".into())),
        ] {
            assert_eq!(state(&observed), expected);
        }
        let error = NothingToRequest::Wrong(vec!["a: x".into(), "b: y".into()]).to_string();
        assert_eq!(error, "nothing was imported:\n  a: x\n  b: y");
    }
}
