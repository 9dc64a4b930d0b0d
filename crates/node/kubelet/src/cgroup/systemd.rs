//! cgroups as slices: systemd makes them, so that nothing fights over the tree.

use anyhow::{Context, Result};
use zbus::{Connection, Variant};

use super::fs::{is_v2, weight};
use crate::resources::PodLimits;

type Properties = Vec<(String, Variant<'static>)>;

/// Calls a method of systemd's manager.
async fn call<B>(method: &str, body: &B) -> Result<zbus::Result<zbus::Message>>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    static BUS: tokio::sync::OnceCell<Connection> = tokio::sync::OnceCell::const_new();
    let bus = BUS.get_or_try_init(Connection::system).await.context("connect to the system bus")?;
    let (service, path, interface) =
        ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
    Ok(bus.call_method(Some(service), path, Some(interface), method, body).await)
}

/// The one other unit of a transient start, of which there is none.
type Auxiliary = Vec<(String, Properties)>;

/// Starts a slice with its limits, or sets them on one that is there.
pub async fn create(slice: &str, limits: &PodLimits, pids: Option<i64>) -> Result<()> {
    let mut properties = properties(limits, pids);
    let resources = properties.clone();
    let set = |name: &str, value: Variant<'static>| (name.to_owned(), value);
    properties.push(set("Description", Variant::from(format!("kubelet pod slice {slice}"))));
    properties.push(set("DefaultDependencies", Variant::from(false)));
    for accounting in ["CPUAccounting", "MemoryAccounting", "TasksAccounting", "IOAccounting"] {
        properties.push(set(accounting, Variant::from(true)));
    }
    match call("StartTransientUnit", &(slice, "replace", &properties, Auxiliary::new())).await? {
        Ok(_) => Ok(()),
        Err(zbus::Error::MethodError(name, _, _)) if name.as_str() == "org.freedesktop.systemd1.UnitExists" => {
            call("SetUnitProperties", &(slice, true, &resources))
                .await?
                .map(drop)
                .with_context(|| format!("set properties of {slice}"))
        }
        Err(error) => Err(error).with_context(|| format!("start {slice}")),
    }
}

fn properties(limits: &PodLimits, pids: Option<i64>) -> Properties {
    let unsigned = |v: i64| u64::try_from(v).unwrap_or(u64::MAX);
    let v2 = is_v2();
    let mut out: Properties = Vec::new();
    let mut set = |name: &str, value: u64| out.push((name.to_owned(), Variant::from(value)));
    if v2 {
        set("CPUWeight", weight(limits.shares));
    } else {
        set("CPUShares", unsigned(limits.shares.max(2)));
    }
    // Quota per 100 ms in microseconds becomes microseconds per second; all ones is "none".
    set("CPUQuotaPerSecUSec", limits.quota.map_or(u64::MAX, |q| unsigned(q).saturating_mul(10)));
    set(if v2 { "MemoryMax" } else { "MemoryLimit" }, limits.memory.map_or(u64::MAX, unsigned));
    if let Some(pids) = pids {
        set("TasksMax", unsigned(pids));
    }
    out
}

/// Stops a slice; one that is not there is fine.
pub async fn remove(slice: &str) -> Result<()> {
    match call("StopUnit", &(slice, "replace")).await? {
        Ok(_) => Ok(()),
        Err(zbus::Error::MethodError(name, _, _)) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" => Ok(()),
        Err(error) => Err(error).with_context(|| format!("stop {slice}")),
    }
}
