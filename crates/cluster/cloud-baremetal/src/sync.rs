//! The controller of Services: what each should have, written to the API (upstream's
//! `cloud-provider/controllers/service`, whose events' reasons these are).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store, key_of, spawn, split_key};
use kinit_client::queue::Queue;
use kinit_component_base::Shutdown;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::allocate::Grant;
use crate::ledger::Ledger;
use crate::metrics;
use crate::pools::Pool;
use crate::request::{FINALIZER, MARK, has_finalizer, held, is_wanted, needs_cleanup, request};

const NAME: &str = "service-controller";

/// Runs the controller until `shutdown`.
pub async fn run(client: Client, pools: Vec<Pool>, workers: usize, shutdown: Shutdown) -> Result<()> {
    let services: Arc<Store<Service>> = spawn(Api::all(client.clone()), watcher::Config::default(), &shutdown);
    let ledger = Arc::new(Ledger::new(services.clone(), pools));
    metrics::follow(Arc::downgrade(&ledger));
    // Until all statuses are known, every address looks free.
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = services.synced() => {}
    }
    let queue = Queue::new();
    let (target, book) = (queue.clone(), Arc::downgrade(&ledger));
    services.on_change(move |change| {
        target.add(key_of(&**change.object()));
        let Some(book) = book.upgrade().filter(|_| frees(change)) else { return };
        book.pending().into_iter().for_each(|key| target.add(key));
    });
    let events = Recorder::new(client.clone(), NAME, "");
    let work = Arc::new(Controller { client, services, ledger, events });
    queue.run("service", workers, shutdown, move |key| work.clone().sync(key)).await;
    Ok(())
}

/// Whether somebody else may now have what this Service had, or asked for.
fn frees(change: &Change<Service>) -> bool {
    let claims = |service: &Service| {
        let asked = Some(service).filter(|s| is_wanted(s)).and_then(|s| request(s).ok()?.address);
        held(service).into_iter().chain(asked).collect::<Vec<_>>()
    };
    match change {
        Change::Added(_) => false,
        Change::Deleted(old) => !claims(old).is_empty(),
        Change::Updated { old, new } => {
            let kept = claims(new);
            claims(old).iter().any(|address| !kept.contains(address))
        }
    }
}

struct Controller {
    client: Client,
    services: Arc<Store<Service>>,
    ledger: Arc<Ledger>,
    events: Recorder,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        self.ledger.settle(&key);
        let Some(service) = self.services.get(&key) else { return Ok(None) };
        let result = if needs_cleanup(&service) {
            self.clean_up(&service).await.context("failed to delete load balancer")
        } else if is_wanted(&service) {
            self.ensure(&key, &service).await.context("failed to ensure load balancer")
        } else {
            return Ok(None);
        };
        match result {
            // The watch brings what it has become, or that it is gone.
            Err(error) if is_status(&error, &[404, 409]) => {
                tracing::debug!(service = key, error = format!("{error:#}"), "the Service changed meanwhile");
                Ok(Some(Duration::from_millis(200)))
            }
            // What was granted stays so: the write may have come through.
            Err(error) => {
                let note = format!("Error syncing load balancer: {error:#}");
                self.events.warning(&*service, "SyncLoadBalancerFailed", note);
                Err(error)
            }
            Ok(()) => Ok(None),
        }
    }

    async fn ensure(&self, key: &str, service: &Service) -> Result<()> {
        let grant = match request(service) {
            Ok(request) => self.ledger.grant(service, &request).map_err(|refusal| refusal.to_string()),
            Err(reason) => Err(reason),
        };
        let grant = match grant {
            Ok(grant) => grant,
            Err(reason) => return self.refuse(key, service, &reason).await,
        };
        let (had, marked) = (held(service), service.annotations().get(MARK) == Some(&grant.pool));
        let shown = had == [grant.address] && mode_is_known(service);
        if shown && marked && has_finalizer(service) {
            self.ledger.settle(key);
            return Ok(());
        }
        if !shown {
            self.events.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer");
        }
        let mut current = service.clone();
        if !marked || !has_finalizer(service) {
            current = self.patch(service, &mark(service, &grant)).await.context("add the finalizer")?;
        }
        if !shown {
            self.status(&current, Some(grant.address)).await?;
            tracing::info!(service = key, address = %grant.address, pool = grant.pool, "address given");
            self.events.normal(
                service,
                "EnsuredLoadBalancer",
                format!("Ensured load balancer: {}", note(&had, &grant)),
            );
        }
        Ok(())
    }

    /// The Service waits; what it had and may not have any more goes.
    async fn refuse(&self, key: &str, service: &Service, reason: &str) -> Result<()> {
        self.ledger.withdraw(key);
        let note = format!("Error syncing load balancer: failed to ensure load balancer: {reason}");
        tracing::info!(service = key, reason, "no address");
        self.events.warning(service, "SyncLoadBalancerFailed", note);
        if !held(service).is_empty() {
            self.status(service, None).await?;
        }
        Ok(())
    }

    async fn clean_up(&self, service: &Service) -> Result<()> {
        self.events.normal(service, "DeletingLoadBalancer", "Deleting load balancer");
        let mut current = service.clone();
        if !held(service).is_empty() {
            current = self.status(service, None).await?;
        }
        self.patch(&current, &unmark(&current)).await.context("remove the finalizer")?;
        self.events.normal(service, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    async fn patch(&self, service: &Service, patch: &Value) -> Result<Service> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace().unwrap_or_default());
        Ok(api.patch(&service.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    async fn status(&self, service: &Service, address: Option<Ipv4Addr>) -> Result<Service> {
        let key = key_of(service);
        let (namespace, name) = split_key(&key);
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let ingress = address.map(|address| json!([{"ip": address.to_string(), "ipMode": "VIP"}]));
        let patch = json!({
            "metadata": {"resourceVersion": service.resource_version()},
            "status": {"loadBalancer": {"ingress": ingress}}
        });
        let done = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        done.with_context(|| format!("write the status of Service {key}"))
    }
}

fn note(had: &[Ipv4Addr], grant: &Grant) -> String {
    let Grant { address, pool } = grant;
    match had {
        [] => format!("{address} of pool {pool}"),
        [old, ..] => format!("{address} of pool {pool}, in the place of {old}"),
    }
}

/// Whether its address is one that proxies may translate (`ipMode`, KEP-1860).
fn mode_is_known(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.into_iter().flat_map(|b| b.ingress.iter().flatten()).all(|i| i.ip_mode.as_deref() == Some("VIP"))
}

/// A merge patch that replaces a list must not undo what others write meanwhile: it is bound to the version.
fn mark(service: &Service, grant: &Grant) -> Value {
    let mut finalizers = service.finalizers().to_vec();
    if !has_finalizer(service) {
        finalizers.push(FINALIZER.to_owned());
    }
    json!({"metadata": {"resourceVersion": service.resource_version(), "finalizers": finalizers,
        "annotations": {MARK: grant.pool}}})
}

fn unmark(service: &Service) -> Value {
    let finalizers: Vec<&String> = service.finalizers().iter().filter(|f| *f != FINALIZER).collect();
    json!({"metadata": {"resourceVersion": service.resource_version(), "finalizers": finalizers,
        "annotations": {MARK: null}}})
}

fn is_status(error: &anyhow::Error, codes: &[u16]) -> bool {
    let api = error.chain().find_map(|cause| cause.downcast_ref::<kube::Error>());
    matches!(api, Some(kube::Error::Api(status)) if codes.contains(&status.code))
}
