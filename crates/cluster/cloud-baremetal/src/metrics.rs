//! How full the pools are, beside the work queue's own metrics. Names as MetalLB's allocator has them, with our prefix.

use std::sync::Weak;

use kinit_component_base::metrics::global;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::ledger::Ledger;

type PerPool = Family<[(&'static str, String); 1], Gauge>;

/// Shows the ledger's pools for as long as it is there.
pub fn follow(ledger: Weak<Ledger>) {
    let registry = global();
    let (total, used, pending) = (PerPool::default(), PerPool::default(), Gauge::<i64>::default());
    registry.register("cloud_baremetal_addresses", "Addresses of a pool", total.clone());
    registry.register("cloud_baremetal_addresses_in_use", "Addresses of a pool that Services have", used.clone());
    registry.register("cloud_baremetal_services_pending", "Services that wait for an address", pending.clone());
    registry.before_render(move || {
        let Some(ledger) = ledger.upgrade() else { return };
        for pool in ledger.pools() {
            let label = [("pool", pool.name.clone())];
            total.get_or_create(&label).set(i64::try_from(pool.size()).unwrap_or(i64::MAX));
            used.get_or_create(&label).set(i64::try_from(ledger.used(pool)).unwrap_or(i64::MAX));
        }
        pending.set(i64::try_from(ledger.pending().len()).unwrap_or(i64::MAX));
    });
}
