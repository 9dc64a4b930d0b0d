//! What the server makes by itself: namespaces, default roles, priority classes, the `kubernetes` Service.
//!
//! Several servers start at once: everything is made if absent, changed by compare-and-swap, and a lost race is no
//! error.

mod endpoints;
mod flow;
mod objects;
mod rbac;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kinit_component_base::supervise;

use crate::server::Server;
use crate::services;

const RETRY: Duration = Duration::from_millis(500);
const SWEEP: Duration = Duration::from_secs(180);

/// Starts the tasks, each with a readiness check of upstream's name.
pub fn start(server: &Arc<Server>) {
    let (roles, classes, namespaces) = (
        flag(server, "poststarthook/rbac/bootstrap-roles"),
        flag(server, "poststarthook/scheduling/bootstrap-system-priority-classes"),
        flag(server, "poststarthook/start-system-namespaces-controller"),
    );
    let server = server.clone();
    let shutdown = server.shutdown.clone();
    supervise::vital("the bootstrap controllers", &shutdown, async move {
        server.store.wait_ready().await;
        tokio::join!(
            until_done(&server, "make the system namespaces", &namespaces, objects::namespaces),
            until_done(&server, "reconcile the default roles", &roles, rbac::reconcile),
            until_done(&server, "make the system priority classes", &classes, objects::priority_classes),
        );
        let done = AtomicBool::new(false);
        until_done(&server, "make the objects of priority and fairness", &done, flow::ensure).await;
        let done = AtomicBool::new(false);
        until_done(&server, "make the default service", &done, objects::default_service).await;
        let done = AtomicBool::new(false);
        until_done(&server, "publish the front proxy's CA", &done, objects::authentication_config).await;
        server.bootstrapped.send_replace(true);
        tracing::info!("bootstrap objects are there");
        tokio::join!(endpoints::run(&server), sweep(&server), rbac::aggregate(&server), flow::follow(&server));
    });
}

fn flag(server: &Server, name: &str) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    server.ready.add(name, move || if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("not finished".into()) });
    flag
}

async fn until_done<'a, F, Fut>(server: &'a Arc<Server>, what: &str, done: &AtomicBool, work: F)
where
    F: Fn(&'a Arc<Server>) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    loop {
        match work(server).await {
            Ok(()) => return done.store(true, Ordering::Relaxed),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "{what}; trying again"),
        }
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn sweep(server: &Arc<Server>) {
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => services::sweep(server).await,
        }
    }
}

/// Takes this server out of the `kubernetes` endpoints.
pub async fn leave(server: &Arc<Server>) {
    endpoints::leave(server).await;
}
