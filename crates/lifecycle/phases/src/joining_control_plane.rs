//! A control plane that joins by itself (`kinit join ENDPOINT --token --control-plane`): the cluster's secrets come
//! from the API, encrypted ([`crate::uploaded`]), and with them the machine signs its own certificates and asks etcd's
//! members to take it in. From there on the plan is that of every other join.
//!
//! Load balancers are not reached from here: they learn of the new control plane with the next `kinit apply`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kinit_agent::{Agent, EtcdRequest};
use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::{Phase, desired, retired};
use kinit_pki::{Authority, Pair};
use kinit_planner::{HostObservation, Operation, Plan, Scope, Situation, all_observed};
use kinit_resource::{EtcdStatus, Facts, Observed, Place, Resource, Shared, sha256};
use kinit_workflow::Listener;
use kube::Client;

use crate::bundle::LocalBundle;
use crate::drain::DrainOptions;
use crate::execute::Steps;
use crate::hosts::Hosts;
use crate::record::Bundles;
use crate::request::Wanted;
use crate::uploaded::{CertificateKey, download_certificates};
use crate::{access, operation};

/// What stands in for the agents of other hosts, which nobody reaches.
pub(crate) struct Elsewhere {
    /// The machine's own name.
    own: String,
    /// The cluster's secrets.
    secrets: BTreeMap<Shared, Pair>,
    /// Client ports of etcd's members.
    endpoints: Vec<String>,
}

impl Elsewhere {
    /// The host whose agent does what others would.
    pub(crate) fn own(&self) -> &str {
        &self.own
    }

    /// A secret, or its public half.
    pub(crate) fn secret(&self, shared: Shared, public_only: bool) -> Result<Pair> {
        let pair = self.secrets.get(&shared).with_context(|| format!("nobody has uploaded {}", shared.name()))?;
        let key = if public_only { String::new() } else { pair.key.clone() };
        Ok(Pair { cert: pair.cert.clone(), key })
    }

    /// A change of etcd's membership, asked of the others.
    pub(crate) fn ask(&self, request: EtcdRequest) -> EtcdRequest {
        EtcdRequest::At { endpoints: self.endpoints.clone(), request: Box::new(request) }
    }
}

/// What a control plane needs besides what a worker does.
pub(crate) struct ControlPlane {
    secrets: BTreeMap<Shared, Pair>,
    endpoints: Vec<String>,
    etcd: EtcdStatus,
}

/// Client ports of the members on the cluster's other control planes.
fn endpoints(cluster: &Cluster, host: &HostSpec) -> Vec<String> {
    let others = cluster.hosts(Role::ControlPlane).filter(|other| other.name != host.name);
    others.map(|other| format!("https://{}:2379", other.address)).collect()
}

/// The fingerprint by which plans know a secret.
fn fingerprint(pair: &Pair) -> String {
    let shown = if pair.cert.is_empty() { &pair.key } else { &pair.cert };
    sha256(shown.as_bytes())
}

impl ControlPlane {
    /// Fetches the secrets and asks etcd who its members are. `authority` is the cluster's, as discovery has found it.
    pub(crate) async fn begin(
        client: &Client,
        key: &CertificateKey,
        authority: &str,
        agent: &Agent,
        cluster: &Cluster,
        host: &HostSpec,
    ) -> Result<Self> {
        let secrets = download_certificates(client, key).await?;
        let whole = |shared: Shared| secrets.get(&shared).with_context(|| format!("no {} was uploaded", shared.name()));
        ensure!(
            kinit_pki::public_key_hash(&whole(Shared::CLUSTER)?.cert) == kinit_pki::public_key_hash(authority),
            "the uploaded authority is not the cluster's: upload again (`kinit certs upload`)"
        );
        let endpoints = endpoints(cluster, host);
        let etcd = agent.etcd_status_at(endpoints.clone(), whole(Shared::Authority(Authority::Etcd))?.clone()).await?;
        Ok(Self { secrets, endpoints, etcd })
    }

    /// What this machine would do, with one of the other control planes as the one that has the secrets.
    pub(crate) async fn plan(
        &self,
        cluster: &Cluster,
        host: &HostSpec,
        facts: &Facts,
        bundle: &LocalBundle,
        agent: &Arc<Agent>,
    ) -> Result<Plan> {
        let of = operation::host_facts(host, facts, false);
        let mut wanted = desired(cluster, host, &of, &bundle.bundle)?;
        wanted.extend(retired(cluster, host, &of, &bundle.bundle)?);
        wanted.retain(|(_, resource)| !operation::changes_versions(resource));
        let seen = agent.observe(wanted.iter().map(|(_, resource)| resource.clone()).collect()).await?;
        let own: HostObservation = wanted.into_iter().zip(seen).map(|((p, r), seen)| (p, r, seen)).collect();
        let source = cluster.hosts(Role::ControlPlane).find(|other| other.name != host.name);
        let source = source.context("the cluster has no other control plane")?.name.clone();
        let mut etcd = BTreeMap::from([(source.clone(), self.etcd.clone())]);
        if let Ok(status) = agent.etcd_status().await {
            etcd.insert(host.name.clone(), status);
        }
        let nodes = match access::client_if_up(&Hosts::alone(agent.clone()), cluster).await {
            Ok(client) => operation::nodes(client.as_ref()).await?,
            // It has no authority yet, and so is no node.
            Err(_) => BTreeMap::new(),
        };
        let hosts = BTreeMap::from([(host.name.clone(), own), (source, self.has_secrets())]);
        all_observed(&hosts)?;
        let seen = Situation {
            hosts,
            with_data: facts.etcd_data.then(|| host.name.clone()).into_iter().collect(),
            etcd,
            nodes,
            scope: Scope::Hosts(BTreeSet::from([host.name.clone()])),
            ..Situation::default()
        };
        Ok(kinit_planner::plan(Operation::Join, cluster, &seen)?)
    }

    fn has_secrets(&self) -> HostObservation {
        let whole = |(shared, pair): (&Shared, &Pair)| {
            let resource = Resource::Shared { shared: *shared, place: Place::Whole };
            (Phase::Certs, resource, Observed::Fingerprint(fingerprint(pair)))
        };
        self.secrets.iter().map(whole).collect()
    }

    /// Carries a plan out.
    pub(crate) async fn execute(
        &self,
        plan: &Plan,
        cluster: &Cluster,
        host: &HostSpec,
        bundle: Arc<LocalBundle>,
        agent: Arc<Agent>,
        listener: &dyn Listener,
    ) -> Result<()> {
        let wanted = Wanted {
            cluster: cluster.clone(),
            record: cluster.clone(),
            keeps_record: false,
            leaving: Vec::new(),
            scope: Scope::Hosts(BTreeSet::from([host.name.clone()])),
            renew: Vec::new(),
            bundles: Bundles::default(),
        };
        let hosts = Arc::new(Hosts::alone(agent));
        let elsewhere =
            Elsewhere { own: host.name.clone(), secrets: self.secrets.clone(), endpoints: self.endpoints.clone() };
        let steps = Steps::new(wanted, hosts, bundle, DrainOptions::default(), None).without_others(elsewhere);
        Ok(kinit_workflow::run(&operation::stages(plan), &steps, listener, 1).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_members_are_asked_and_secrets_are_given_by_halves() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let host = cluster.spec.hosts.iter().find(|host| host.name == "cp2").unwrap();
        let endpoints = endpoints(&cluster, host);
        assert_eq!(endpoints, ["https://192.0.2.11:2379", "https://192.0.2.13:2379"]);
        let pair = Pair { cert: "c".into(), key: "k".into() };
        let elsewhere =
            Elsewhere { own: "cp2".into(), secrets: [(Shared::CLUSTER, pair)].into(), endpoints: endpoints.clone() };
        let public = elsewhere.secret(Shared::CLUSTER, true).unwrap();
        assert_eq!((public.cert.as_str(), public.key.as_str()), ("c", ""));
        assert_eq!(elsewhere.secret(Shared::CLUSTER, false).unwrap().key, "k");
        assert!(elsewhere.secret(Shared::ServiceAccountKey, false).is_err());
        let request = EtcdRequest::AddLearner { peer_url: "https://192.0.2.12:2380".into() };
        let expected = EtcdRequest::At { endpoints, request: Box::new(request.clone()) };
        assert_eq!(elsewhere.ask(request), expected);
    }
}
