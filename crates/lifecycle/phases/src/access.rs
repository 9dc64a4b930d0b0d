//! The desk's way into the API: as a user of its own, through any server that answers.
//!
//! The desk keeps no credential. It makes a key in memory and has a control plane sign a certificate of a day for it,
//! whose group is bound to what kinit does ([`kinit_manifests::OPERATORS`]). Before that binding exists the group is
//! `system:masters`. Where no control plane can sign (kubeadm's external CA mode) it uses, in memory, the kubeconfigs
//! that control planes have: `admin.conf`, and `super-admin.conf` where the group would be `system:masters`.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kinit_agent::Agent;
use kinit_config::Cluster;
use kinit_manifests::OPERATORS;
use kinit_pki::{Authority, KeyAlgorithm, Subject, Usage};
use kinit_resource::{Observed, Place, Resource, Shared};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::api;
use crate::hosts::Hosts;

/// A group that may do everything, by the API server's own rule.
const MASTERS: &str = "system:masters";

/// A client for the cluster of these hosts, whose API need not answer yet; `None` while there is no authority.
pub async fn client(hosts: &Hosts, cluster: &Cluster) -> Result<Option<Client>> {
    Ok(reach(hosts, cluster).await?.map(|way| way.client))
}

/// A client of an API that answers now, if there is one.
pub async fn client_if_up(hosts: &Hosts, cluster: &Cluster) -> Result<Option<Client>> {
    let Some(way) = reach(hosts, cluster).await? else { return Ok(None) };
    Ok(way.answers.then_some(way.client))
}

/// A way into the API.
pub struct Way {
    /// Who asks there.
    pub client: Client,
    /// The server's URL.
    pub server: String,
    /// Whether it answered.
    pub answers: bool,
}

/// The first way that answers, the endpoint's before the servers' own; the endpoint's where none does. `None` while
/// there is no authority.
pub async fn reach(hosts: &Hosts, cluster: &Cluster) -> Result<Option<Way>> {
    let Some(credential) = credential(hosts).await? else { return Ok(None) };
    let servers = servers(hosts, cluster);
    for server in &servers {
        let client = credential.client(server, OPERATORS).await?;
        if !api::answers(&client).await {
            continue;
        }
        let client = if may(&client).await? { client } else { credential.client(server, MASTERS).await? };
        return Ok(Some(Way { client, server: server.clone(), answers: true }));
    }
    let server = servers.first().context("a cluster without an endpoint")?.clone();
    let client = credential.client(&server, MASTERS).await?;
    Ok(Some(Way { client, server, answers: false }))
}

/// A client with all rights, for the one who may read and write what others may not, through the first way that
/// answers.
pub async fn masters(hosts: &Hosts, cluster: &Cluster) -> Result<Client> {
    let way = reach(hosts, cluster).await?.context("no control plane has the cluster's authority")?;
    masters_of(hosts, &way.server).await
}

/// The same at one server.
pub async fn masters_of(hosts: &Hosts, server: &str) -> Result<Client> {
    let credential = credential(hosts).await?.context("no control plane has the cluster's authority")?;
    credential.client(server, MASTERS).await
}

/// The endpoint, then the control planes themselves.
fn servers(hosts: &Hosts, cluster: &Cluster) -> Vec<String> {
    let endpoint = format!("https://{}", cluster.spec.control_plane_endpoint);
    let reached = |name: &str| hosts.agent(name).is_ok();
    let own = cluster.hosts(kinit_config::Role::ControlPlane).filter(|host| reached(&host.name));
    std::iter::once(endpoint).chain(own.map(|host| format!("https://{}:6443", host.address))).collect()
}

/// What proves to the API who asks.
enum Credential<'a> {
    /// A host that can sign, and the authority's certificate.
    Signs(&'a Agent, String),
    /// The kubeconfigs of a host that cannot: the administrator's, and that of `system:masters`.
    Has([String; 2]),
}

impl Credential<'_> {
    async fn client(&self, server: &str, group: &str) -> Result<Client> {
        match self {
            Self::Signs(signer, ca) => signed(signer, ca, server, group).await,
            Self::Has([admin, masters]) => {
                with_kubeconfig(if group == MASTERS { masters } else { admin }, server).await
            }
        }
    }
}

async fn credential(hosts: &Hosts) -> Result<Option<Credential<'_>>> {
    let whole = Resource::Shared { shared: Shared::Authority(Authority::Kubernetes), place: Place::Whole };
    let mut found = None;
    for name in hosts.names() {
        let agent = hosts.agent(name)?;
        match agent.observe(vec![whole.clone()]).await?.first() {
            Some(Observed::Fingerprint(_)) => {
                return Ok(Some(Credential::Signs(agent, agent.read_file("/etc/kubernetes/pki/ca.crt").await?)));
            }
            // Before certificates were handed in there are none.
            Some(Observed::Public(_)) if found.is_none() => {
                let read = |name: &'static str| agent.read_file(name);
                let files = [read("/etc/kubernetes/admin.conf").await, read("/etc/kubernetes/super-admin.conf").await];
                if let [Ok(admin), Ok(masters)] = files {
                    found = Some(Credential::Has([admin, masters]));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// A client of this server with the user of a kubeconfig.
async fn with_kubeconfig(text: &str, server: &str) -> Result<Client> {
    let mut kubeconfig = Kubeconfig::from_yaml(text).context("parse the kubeconfig of a control plane")?;
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(server.to_owned());
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    kinit_client::from_config(config.context("use the kubeconfig of a control plane")?)
}

async fn signed(signer: &Agent, ca: &str, server: &str, group: &str) -> Result<Client> {
    let subject = Subject {
        common_name: "kinit".to_owned(),
        organization: Some(group.to_owned()),
        usages: vec![Usage::Client],
        dns: Vec::new(),
        ips: Vec::new(),
        days: 1,
    };
    let key = kinit_pki::new_key(KeyAlgorithm::EcdsaP256).context("make a key for the desk")?;
    let request = kinit_pki::request(&key, &subject).context("request a certificate for the desk")?;
    let certificate =
        signer.sign(Authority::Kubernetes, request, subject).await.context("sign the desk's certificate")?;
    let data = |text: &str| STANDARD.encode(text);
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "kinit",
        "clusters": [{"name": "kinit", "cluster": {"server": server, "certificate-authority-data": data(ca)}}],
        "users": [{"name": "kinit", "user": {"client-certificate-data": data(&certificate), "client-key-data": data(&key)}}],
        "contexts": [{"name": "kinit", "context": {"cluster": "kinit", "user": "kinit"}}],
    });
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).context("make a kubeconfig for the desk")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    kinit_client::from_config(config.context("use the desk's kubeconfig")?)
}

/// Whether the operators' binding is there, so that this client has its rights.
async fn may(client: &Client) -> Result<bool> {
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    match bindings.get(OPERATORS).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status))
            if [StatusCode::FORBIDDEN.as_u16(), StatusCode::NOT_FOUND.as_u16()].contains(&status.code) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).context("ask the API what kinit may do"),
    }
}
