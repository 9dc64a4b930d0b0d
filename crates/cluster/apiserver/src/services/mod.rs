//! Addresses and ports of Services, allocated so that several servers never give one away twice: every allocation is a
//! key in etcd that only one transaction can create.

mod addresses;
mod ports;

use std::sync::Arc;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use crate::registry::Request;
use crate::server::Server;

/// What is claimed for a write; a dry run only looks whether it could be.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    dry_run: bool,
    claims: Vec<Claim>,
}

impl Taking {
    /// Something was claimed (or could have been).
    fn took(&mut self, claim: Claim) {
        self.claims.push(claim);
    }

    /// Whether this write claimed it already.
    fn has(&self, claim: &Claim) -> bool {
        self.claims.contains(claim)
    }
}

/// What to take back when the write does not happen, and what to give up when it does.
#[derive(Debug, Default)]
pub struct Undo {
    taken: Vec<Claim>,
    freed: Vec<Claim>,
}

/// One allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    Address(String),
    Port(i64),
}

impl Undo {
    /// The write failed.
    pub async fn run(self, server: &Server) {
        release_all(server, &self.taken).await;
    }

    /// The write happened.
    pub async fn commit(self, server: &Server) {
        release_all(server, &self.freed).await;
    }
}

async fn release_all(server: &Server, claims: &[Claim]) {
    for claim in claims {
        match claim {
            Claim::Address(address) => addresses::release(server, address).await,
            Claim::Port(port) => ports::release(server, *port).await,
        }
    }
}

fn is_service(request: &Request) -> bool {
    request.desc.group.is_empty() && request.desc.kind == "Service"
}

fn claims_of(service: &Value) -> Vec<Claim> {
    let mut out: Vec<Claim> = kinit_apimachinery::meta::strings(service.at(&["spec", "clusterIPs"]))
        .into_iter()
        .filter(|ip| !ip.is_empty() && ip != "None")
        .map(Claim::Address)
        .collect();
    out.extend(ports::of(service).into_iter().map(Claim::Port));
    out.dedup();
    out
}

/// Gives a Service what it needs before it is written; nothing for other kinds.
pub async fn allocate(request: &Request, service: &mut Value, old: Option<&Value>) -> Result<Undo, ApiError> {
    let (mut undo, mut taking) = (Undo::default(), Taking::default());
    if !needs_claims(request) {
        return Ok(undo);
    }
    let result = take(request, service, old, &mut taking).await;
    undo.taken = taking.claims;
    if let Err(error) = result {
        undo.run(&request.server).await;
        return Err(error);
    }
    if let Some(old) = old {
        let now = claims_of(service);
        undo.freed = claims_of(old).into_iter().filter(|c| !now.contains(c)).collect();
    }
    Ok(undo)
}

/// Gives a Service what it could be given now, and claims nothing: a dry run shows and refuses what the write would.
pub async fn try_allocate(request: &Request, service: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    if !needs_claims(request) {
        return Ok(());
    }
    take(request, service, old, &mut Taking { dry_run: true, ..Taking::default() }).await
}

fn needs_claims(request: &Request) -> bool {
    is_service(request) && request.info.subresource.is_empty()
}

async fn take(
    request: &Request,
    service: &mut Value,
    old: Option<&Value>,
    taking: &mut Taking,
) -> Result<(), ApiError> {
    addresses::allocate(request, service, old, taking).await?;
    ports::allocate(request, service, old, taking).await
}

/// Gives back what a deleted Service held.
pub async fn release(request: &Request, service: &Value) {
    if is_service(request) {
        release_all(&request.server, &claims_of(service)).await;
    }
}

/// Gives up claims whose Service is gone: what a server that died between two writes left behind.
pub async fn sweep(server: &Arc<Server>) {
    addresses::sweep(server).await;
    ports::sweep(server).await;
}

/// The first address of a range: the `kubernetes` Service's.
pub fn first_address(range: ipnet::IpNet) -> std::net::IpAddr {
    addresses::nth(range, 1)
}
