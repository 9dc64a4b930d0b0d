//! One bridge a playground, one cable a host.

use std::future::Future;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::topology::{Host, Topology};

/// Runs a netlink conversation on a thread of its own, so that callers may be async or not.
fn netlink<T: Send + 'static, F, Fut>(f: F) -> Result<T>
where
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T>>,
{
    std::thread::spawn(move || netlink_here(f))
        .join()
        .map_err(|_| anyhow::anyhow!("the netlink thread ended unexpectedly"))?
}

/// The same on this thread, for a process that must not have threads.
fn netlink_here<T, F, Fut>(f: F) -> Result<T>
where
    F: FnOnce(Handle) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime for netlink")?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
        tokio::spawn(connection);
        f(handle).await
    })
}

async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|l| l.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look for interface {name}")),
    }
}

/// Makes the bridge with the gateway's address, and the rules for masquerading and partitions. Does nothing when they
/// are there.
pub fn up(topology: &Topology) -> Result<()> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("fs/inotify/max_user_instances", "8192"),
        ("fs/inotify/max_user_watches", "1048576"),
    ] {
        std::fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("set {key}"))?;
    }
    // Frames between hosts are the bridge's affair; the machine's own packet filter must not see them.
    std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").ok();
    let (bridge, gateway) = (topology.bridge(), topology.gateway());
    netlink(move |handle| async move {
        if index_of(&handle, &bridge).await?.is_none() {
            handle
                .link()
                .add(LinkBridge::new(&bridge).up().build())
                .execute()
                .await
                .with_context(|| format!("create bridge {bridge}"))?;
            let index = index_of(&handle, &bridge).await?.with_context(|| format!("bridge {bridge} is gone"))?;
            handle
                .address()
                .add(index, IpAddr::V4(gateway), 24)
                .execute()
                .await
                .with_context(|| format!("give {gateway} to {bridge}"))?;
        }
        Ok(())
    })?;
    let (bridge, subnet) = (topology.bridge(), format!("{gateway}/24"));
    // The machine itself may forward: hosts that are offline get through to each other alone.
    let forward = match topology.offline {
        true => format!(" chain forward {{\n type filter hook forward priority 0;\n ip saddr {subnet} drop\n }}\n"),
        false => String::new(),
    };
    nft(&format!(
        "table ip {bridge}\ndelete table ip {bridge}\n\
         table ip {bridge} {{\n chain post {{\n type nat hook postrouting priority 100;\n\
         ip saddr {subnet} oifname != \"{bridge}\" masquerade\n }}\n{forward}}}\n\
         table bridge {bridge}\ndelete table bridge {bridge}\n\
         table bridge {bridge} {{\n set cut {{\n type ifname . ifname;\n }}\n chain forward {{\n\
         type filter hook forward priority 0;\n iifname . oifname @cut drop\n }}\n}}\n"
    ))
    .context("install the playground's masquerading and partition rules")
}

/// Removes bridge and rules; what is gone already is not missed.
pub fn down(topology: &Topology) -> Result<()> {
    let bridge = topology.bridge();
    nft(&format!("table ip {bridge}\ndelete table ip {bridge}\ntable bridge {bridge}\ndelete table bridge {bridge}\n"))
        .context("remove the playground's rules")?;
    delete_link(bridge)
}

fn delete_link(name: String) -> Result<()> {
    netlink(move |handle| async move {
        if let Some(index) = index_of(&handle, &name).await? {
            handle.link().del(index).execute().await.with_context(|| format!("remove interface {name}"))?;
        }
        Ok(())
    })
}

/// Runs a cable from the bridge into the network namespace of process `pid`, where its end is named eth0.
pub fn attach(topology: &Topology, host: &Host, pid: u32) -> Result<()> {
    let (name, bridge, mac) = (topology.interface(host), topology.bridge(), topology.mac(host));
    detach(topology, host)?;
    netlink(move |handle| async move {
        let bridge_index = index_of(&handle, &bridge).await?.with_context(|| format!("bridge {bridge} is gone"))?;
        // A name of its own until it is inside: the machine has an eth0 too.
        let peer = format!("{name}p");
        handle
            .link()
            .add(LinkVeth::new(&name, &peer).build())
            .execute()
            .await
            .with_context(|| format!("create {name}"))?;
        let inner = index_of(&handle, &peer).await?.with_context(|| format!("{peer} is gone"))?;
        let message = LinkUnspec::new_with_index(inner).address(mac.to_vec()).name("eth0").setns_by_pid(pid).build();
        handle.link().set(message).execute().await.with_context(|| format!("move {peer} into the host"))?;
        let outer = index_of(&handle, &name).await?.with_context(|| format!("{name} is gone"))?;
        handle
            .link()
            .set(LinkUnspec::new_with_index(outer).controller(bridge_index).up().build())
            .execute()
            .await
            .context("plug the cable in")
    })
}

/// Takes the cable away.
pub fn detach(topology: &Topology, host: &Host) -> Result<()> {
    delete_link(topology.interface(host))
}

/// Carrier on or off: the cable is in or out.
pub fn set_plugged(topology: &Topology, host: &Host, plugged: bool) -> Result<()> {
    let name = topology.interface(host);
    netlink(move |handle| async move {
        let Some(index) = index_of(&handle, &name).await? else { return Ok(()) };
        let link = LinkUnspec::new_with_index(index);
        let link = if plugged { link.up() } else { link.down() };
        handle.link().set(link.build()).execute().await.with_context(|| format!("switch {name}"))
    })
}

/// Addresses and routes on the host's side; runs inside its network namespace, in a process without threads.
pub fn configure_inside(topology: &Topology, host: &Host) -> Result<()> {
    let (address, gateway, offline) = (topology.address_of(host), topology.gateway(), topology.offline);
    netlink_here(|handle| async move {
        for name in ["lo", "eth0"] {
            let index = index_of(&handle, name).await?.with_context(|| format!("the host has no {name}"))?;
            if name == "eth0" {
                handle
                    .address()
                    .add(index, IpAddr::V4(address), 24)
                    .execute()
                    .await
                    .context("set the host's address")?;
            }
            handle
                .link()
                .set(LinkUnspec::new_with_index(index).up().build())
                .execute()
                .await
                .with_context(|| format!("bring {name} up"))?;
        }
        if offline {
            return Ok(());
        }
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        handle.route().add(route).execute().await.context("set the host's default route")
    })?;
    // A new namespace inherits the machine's value; a fresh server does not forward.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").context("switch forwarding off")
}

/// Silently drops every frame between two hosts, in both directions.
pub fn partition(topology: &Topology, a: &Host, b: &Host) -> Result<()> {
    let (bridge, a, b) = (topology.bridge(), topology.interface(a), topology.interface(b));
    nft(&format!("add element bridge {bridge} cut {{ \"{a}\" . \"{b}\", \"{b}\" . \"{a}\" }}\n"))
        .context("partition the hosts")
}

/// Ends all partitions.
pub fn heal(topology: &Topology) -> Result<()> {
    nft(&format!("flush set bridge {} cut\n", topology.bridge())).context("end the partitions")
}

fn nft(script: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nft; the Debian package nftables is needed")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).context("write to nft")?;
    }
    let output = child.wait_with_output().context("wait for nft")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
