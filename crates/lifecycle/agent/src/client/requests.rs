//! What an agent can be asked, a method each.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use kinit_backup::Manifest;
use kinit_pki::{Authority, KeyAlgorithm, Pair, Subject};
use kinit_resource::{EtcdStatus, Evidence, Facts, InstalledPackage, LeafSpec, Observed, Resource, Shared};
use tokio::io::AsyncWrite;

use super::{ANSWER, Agent, Pieces};
use crate::backup::{BackupRequest, Create, LastBackup, Look, Looked, Marker, Restore};
use crate::certificates::HostCertificate;
use crate::etcd::EtcdRequest;
use crate::journal::History;
use crate::logs::LogRequest;
use crate::packages::PackagePlan;
use crate::pod_dns::{PodDns, PodDnsRequest};
use crate::reach::Reached;
use crate::renewal_state::RenewalState;
use crate::rotation::RotationRequest;
use crate::signed::{Signed, SignedRequest};
use crate::wire::{Reply, Request};

impl Agent {
    /// The certificates in these files, as far as they are there.
    pub async fn certificates(&self, paths: Vec<String>) -> Result<Vec<HostCertificate>> {
        match self.ask(&Request::Certificates(paths)).await? {
            Reply::Certificates(found) => Ok(found),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// What apt would take of a bundle's packages by this index: those of `names` that are missing or, with `upgrade`,
    /// that are older. Changes nothing.
    pub async fn package_plan(&self, names: &[String], index: &str, upgrade: bool) -> Result<PackagePlan> {
        let (names, index) = (names.to_vec(), index.to_owned());
        match self.ask(&Request::Packages { names, index, upgrade }).await? {
            Reply::Packages(plan) => Ok(plan),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Which of these packages are installed.
    pub async fn installed_packages(&self, names: &[&str]) -> Result<BTreeMap<String, InstalledPackage>> {
        let names = names.iter().map(ToString::to_string).collect();
        match self.ask(&Request::InstalledPackages(names)).await? {
            Reply::InstalledPackages(found) => Ok(found),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// What the cluster's DNS says to a pod on this host.
    pub async fn pod_dns(&self, request: PodDnsRequest) -> Result<PodDns> {
        match self.ask(&Request::PodDns(request)).await? {
            Reply::PodDns(said) => Ok(said),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// The host's IPv4 addresses, as they are now.
    pub async fn addresses(&self) -> Result<Vec<String>> {
        match self.ask(&Request::Addresses).await? {
            Reply::Names(addresses) => Ok(addresses),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Facts about the host; `etcd_data` is where etcd's data would be.
    pub async fn facts(&self, etcd_data: &str) -> Result<Facts> {
        match self.ask(&Request::Facts { etcd_data: etcd_data.to_owned() }).await? {
            Reply::Facts(facts) => Ok(*facts),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// What is there of these resources, in their order.
    pub async fn observe(&self, resources: Vec<Resource>) -> Result<Vec<Observed>> {
        let wanted = resources.len();
        match self.ask(&Request::Observe(resources)).await? {
            Reply::Observed(observed) if observed.len() == wanted => Ok(observed),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Makes a shared secret on this host.
    pub async fn generate(&self, shared: Shared, algorithm: KeyAlgorithm, days: u32) -> Result<()> {
        self.done(&Request::Generate { shared, algorithm, days }).await
    }

    /// Reads a shared secret into this process's memory.
    pub async fn read_shared(&self, shared: Shared) -> Result<Pair> {
        self.pair(shared, false).await
    }

    /// Reads the public half of a shared secret; the pair's key is empty.
    pub async fn read_public(&self, shared: Shared) -> Result<Pair> {
        self.pair(shared, true).await
    }

    async fn pair(&self, shared: Shared, public_only: bool) -> Result<Pair> {
        match self.ask(&Request::Read { shared, public_only }).await? {
            Reply::Pair(pair) => Ok(pair),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Writes a shared secret, or its public half alone.
    pub async fn write_shared(&self, shared: Shared, pair: Pair, public_only: bool) -> Result<()> {
        self.done(&Request::Write { shared, pair, public_only }).await
    }

    /// Makes a key on this host and returns the request for its certificate.
    pub async fn request_leaf(&self, leaf: &LeafSpec) -> Result<String> {
        self.text(&Request::MakeKey(Box::new(leaf.clone()))).await
    }

    /// Signs a request with this host's authority.
    pub async fn sign(&self, authority: Authority, request: String, subject: Subject) -> Result<String> {
        self.text(&Request::Sign { authority, request, subject }).await
    }

    /// Puts the certificate in place beside the key that was made for it.
    pub async fn install_leaf(&self, leaf: &LeafSpec, certificate: String) -> Result<()> {
        self.done(&Request::Install { leaf: Box::new(leaf.clone()), certificate }).await
    }

    /// Makes a key on this host for a certificate that is signed elsewhere; returns the request, PEM.
    pub async fn request_signature(&self, leaf: &LeafSpec) -> Result<String> {
        let lines = self.signed(SignedRequest::Make(Box::new(leaf.clone()))).await?;
        lines.into_iter().next().context("the agent sent no request")
    }

    /// Everything that is wrong with a certificate that was signed elsewhere.
    pub async fn check_signed(&self, signed: Signed) -> Result<Vec<String>> {
        self.signed(SignedRequest::Check(Box::new(signed))).await
    }

    /// Keeps a certificate that was signed elsewhere on this host, until a plan puts it in its place.
    pub async fn hold_signed(&self, signed: Signed) -> Result<()> {
        self.signed(SignedRequest::Hold(Box::new(signed))).await.map(drop)
    }

    /// Puts a certificate that was handed in, and its key, in their places.
    pub async fn install_signed(&self, leaf: &LeafSpec) -> Result<()> {
        self.signed(SignedRequest::Install(Box::new(leaf.clone()))).await.map(drop)
    }

    async fn signed(&self, request: SignedRequest) -> Result<Vec<String>> {
        match self.ask(&Request::Signed(request)).await? {
            Reply::Names(lines) => Ok(lines),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Reads a file below /etc/kubernetes.
    pub async fn read_file(&self, path: &str) -> Result<String> {
        self.text(&Request::ReadFile { path: path.to_owned() }).await
    }

    /// Whether this host gets through to these addresses (`192.0.2.11:2380`).
    pub async fn reach(&self, addresses: Vec<String>) -> Result<Vec<Reached>> {
        match self.ask(&Request::Reach(addresses)).await? {
            Reply::Reached(reached) => Ok(reached),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Modes and owners of these files and of what is in these folders, and flags of these programs.
    pub async fn evidence(&self, paths: Vec<String>, programs: &[&str]) -> Result<Evidence> {
        let programs = programs.iter().map(ToString::to_string).collect();
        match self.ask(&Request::Evidence { paths, programs }).await? {
            Reply::Evidence(evidence) => Ok(*evidence),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Remembers what is at these paths, for [`Agent::put_back`].
    pub async fn keep(&self, paths: Vec<String>) -> Result<()> {
        self.done(&Request::Keep { paths }).await
    }

    /// Makes the paths what they were, starts these units again, and waits until these checks pass.
    pub async fn put_back(&self, units: Vec<String>, healthy: Vec<Resource>) -> Result<()> {
        self.done(&Request::PutBack { units, healthy }).await
    }

    /// How the renewal of this host's certificates stands; nothing where there is no timer.
    pub async fn renewal(&self) -> Result<Option<RenewalState>> {
        let text = self.text(&Request::Renewal).await?;
        serde_json::from_str(&text).context("decode how the renewal stands")
    }

    /// What this host's etcd says.
    pub async fn etcd_status(&self) -> Result<EtcdStatus> {
        match self.ask(&Request::EtcdStatus).await? {
            Reply::EtcdStatus(status) => Ok(*status),
            _ => bail!("the agent gave an answer to another question"),
        }
    }

    /// What the first of these members says that answers; asked with a credential that the authority signs for it.
    pub async fn etcd_status_at(&self, endpoints: Vec<String>, authority: Pair) -> Result<EtcdStatus> {
        match self.ask(&Request::EtcdStatusAt { endpoints, authority }).await? {
            Reply::EtcdStatus(status) => Ok(*status),
            _ => bail!("the agent gave an answer to another question"),
        }
    }

    /// Changes etcd, through this host's member.
    pub async fn etcd(&self, request: EtcdRequest) -> Result<()> {
        self.done(&Request::Etcd(request)).await
    }

    /// Writes a snapshot of this host's etcd to `to`; returns its length.
    pub async fn etcd_snapshot(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<u64> {
        let (length, reply) = self.stream(&Request::EtcdSnapshot, Some(ANSWER), to).await?;
        match reply {
            Reply::Done => Ok(length),
            _ => bail!("the agent gave an answer to another question"),
        }
    }

    /// Writes a unit's log to `to`, until its end, or for ever when it is followed.
    pub async fn logs(&self, request: LogRequest, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let patience = (!request.follow).then_some(ANSWER);
        match self.stream(&Request::Logs(request), patience, to).await? {
            (_, Reply::Done) => Ok(()),
            _ => bail!("the agent gave an answer to another question"),
        }
    }

    /// Makes a backup on this host and writes it to `to`; returns its length and its manifest.
    pub async fn backup(&self, create: Create, to: &mut (impl AsyncWrite + Unpin)) -> Result<(u64, Manifest)> {
        let (length, reply) = self.stream(&Request::Backup(BackupRequest::Create(create)), Some(ANSWER), to).await?;
        let Reply::Text(text) = reply else { bail!("the agent gave an answer to another question") };
        Ok((length, serde_json::from_str(&text).context("decode the backup's manifest")?))
    }

    /// Looks into a snapshot, which is restored into a scratch etcd on this host.
    pub async fn look_into(&self, look: Look, snapshot: &mut Pieces) -> Result<Looked> {
        match self.pour(&Request::Backup(BackupRequest::Look(look)), snapshot).await? {
            Reply::Text(text) => serde_json::from_str(&text).context("decode what was found"),
            _ => bail!("the agent gave an answer to another question"),
        }
    }

    /// Makes etcd's data folder on this host, from a snapshot where one is given.
    pub async fn restore(&self, restore: Restore, snapshot: Option<&mut Pieces>) -> Result<()> {
        let request = Request::Backup(BackupRequest::Restore(restore));
        let reply = match snapshot {
            Some(pieces) => self.pour(&request, pieces).await?,
            None => self.ask(&request).await?,
        };
        match reply {
            Reply::Done => Ok(()),
            _ => bail!("the agent gave an answer to another question"),
        }
    }

    /// Puts this host's data of etcd aside.
    pub async fn put_data_aside(&self, data_dir: &str) -> Result<()> {
        self.done(&Request::Backup(BackupRequest::PutAside { data_dir: data_dir.to_owned() })).await
    }

    /// The last scheduled backup.
    pub async fn last_backup(&self) -> Result<Option<LastBackup>> {
        let text = self.text(&Request::Backup(BackupRequest::Last)).await?;
        if text.is_empty() { Ok(None) } else { serde_json::from_str(&text).map(Some).context("decode the last backup") }
    }

    /// The restore that is under way on this host.
    pub async fn restore_marker(&self) -> Result<Option<Marker>> {
        let text = self.text(&Request::Backup(BackupRequest::Marker)).await?;
        if text.is_empty() { Ok(None) } else { serde_json::from_str(&text).map(Some).context("decode the marker") }
    }

    /// Says that the restore has been carried out.
    pub async fn finish_restore(&self) -> Result<()> {
        self.done(&Request::Backup(BackupRequest::Finish)).await
    }

    /// Asks for something of a rotation; the answer is JSON.
    pub async fn rotation(&self, request: RotationRequest) -> Result<String> {
        self.text(&Request::Rotation(request)).await
    }

    /// What reset would undo, a line each.
    pub async fn reset_plan(&self) -> Result<Vec<String>> {
        match self.ask(&Request::ResetPlan).await? {
            Reply::Names(lines) => Ok(lines),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Tells which plan the steps that follow belong to; for the journal.
    pub async fn begin(&self, plan: &str) -> Result<()> {
        self.done(&Request::Begin { plan: plan.to_owned() }).await
    }

    /// Tells that the run has ended as a whole, and why it failed if it did; for the journal.
    pub async fn end(&self, error: Option<&str>) -> Result<()> {
        self.done(&Request::End { error: error.map(str::to_owned) }).await
    }

    /// What was done on this host, oldest first.
    pub async fn history(&self) -> Result<History> {
        match self.ask(&Request::History).await? {
            Reply::History(history) => Ok(history),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Gives the host back as it was; returns what is left all the same. A host of a cluster with another authority
    /// than the given one (`sha256:...` of its public key) refuses.
    pub async fn reset(&self, authority: Option<&str>) -> Result<Vec<String>> {
        match self.ask(&Request::Reset { authority: authority.map(str::to_owned) }).await? {
            Reply::Names(residue) => Ok(residue),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }
}
