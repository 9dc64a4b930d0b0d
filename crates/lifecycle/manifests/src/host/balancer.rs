//! What a host has that balances the API: HAProxy, and keepalived where hosts share an address.

use kinit_config::{Balancing, Role};
use kinit_resource::{Resource, UnitState};
use serde::Serialize;

use super::Desired;
use crate::PKI;
use crate::phase::Phase;
use crate::template::{self, TemplateError};

/// Answers 200 on the host itself while HAProxy works, whatever it knows of API servers.
const HEALTH: &str = "http://127.0.0.1:8404/healthz";
const PROGRAM: &str = "/usr/sbin/haproxy";
const KEEPALIVED: &str = "/usr/sbin/keepalived";
/// VRRP's number of the virtual address, where the file has none (keepalived's own default).
const ROUTER: u8 = 51;

impl Desired<'_> {
    pub(super) fn balancer(&mut self) -> Result<(), TemplateError> {
        self.haproxy()?;
        match self.cluster.virtual_address(self.host) {
            Some(address) => self.keepalived(address.to_owned()),
            None => Ok(()),
        }
    }

    fn haproxy(&mut self) -> Result<(), TemplateError> {
        #[derive(Serialize)]
        struct Server<'a> {
            name: &'a str,
            address: &'a str,
        }
        #[derive(Serialize)]
        struct Values<'a> {
            bind: &'a str,
            port: u16,
            ca_file: String,
            servers: Vec<Server<'a>>,
        }
        let phase = Phase::LoadBalancer;
        let cluster = self.cluster;
        let bind = match cluster.balancing() {
            // The API server has the same port on the host's own address.
            Balancing::ControlPlanes => {
                self.bind_to_absent_addresses();
                cluster.virtual_address(self.host).unwrap_or("*")
            }
            Balancing::NodeLocal => "127.0.0.1",
            _ => "*",
        };
        let servers = cluster.hosts(Role::ControlPlane).map(|h| Server { name: &h.name, address: &h.address });
        let values = Values {
            bind,
            port: cluster.balancer_port(),
            ca_file: format!("{PKI}/ca.crt"),
            servers: servers.collect(),
        };
        self.file(phase, "/etc/haproxy/haproxy.cfg", 0o644, template::render(template::HAPROXY, &values)?);
        self.package_versions(phase, &["haproxy"], PROGRAM);
        // Connections of a changed configuration's predecessor live on, and so do those of another program's: its
        // master process executes itself anew.
        let reads = vec!["/etc/haproxy/haproxy.cfg".to_owned(), format!("{PKI}/ca.crt"), PROGRAM.to_owned()];
        self.reloading(phase, "haproxy", reads);
        self.healthy(phase, HEALTH.to_owned(), false);
        Ok(())
    }

    /// HAProxy listens on the virtual address before the host has it.
    fn bind_to_absent_addresses(&mut self) {
        let (phase, key) = (Phase::LoadBalancer, "net.ipv4.ip_nonlocal_bind");
        self.file(phase, "/etc/sysctl.d/91-kinit-balancer.conf", 0o644, format!("{key} = 1\n"));
        self.add(phase, Resource::Sysctl { key: key.to_owned(), value: "1".to_owned() });
    }

    fn keepalived(&mut self, address: String) -> Result<(), TemplateError> {
        #[derive(Serialize)]
        struct Values<'a> {
            interface: &'a str,
            router: u8,
            priority: usize,
            own: &'a str,
            peers: Vec<&'a str>,
            address: String,
        }
        let phase = Phase::LoadBalancer;
        let cluster = self.cluster;
        let all = || cluster.spec.hosts.iter().filter(|host| cluster.balances(host));
        let place = all().position(|host| host.name == self.host.name).unwrap_or_default();
        let interface = self.facts.interface.clone();
        let values = Values {
            interface: &interface,
            router: cluster.spec.load_balancer.virtual_router_id.unwrap_or(ROUTER),
            // Decides between hosts that start at once; nobody takes the address from one that has it.
            priority: 200usize.saturating_sub(place),
            own: &self.host.address,
            peers: all().map(|host| host.address.as_str()).filter(|peer| *peer != self.host.address).collect(),
            address,
        };
        let config = "/etc/keepalived/keepalived.conf";
        let check = "/etc/keepalived/check-haproxy";
        self.file(phase, check, 0o755, template::CHECK_HAPROXY.1.to_owned());
        self.file(phase, config, 0o644, template::render(template::KEEPALIVED, &values)?);
        self.package_versions(phase, &["keepalived"], KEEPALIVED);
        self.reloading(phase, "keepalived", vec![config.to_owned(), check.to_owned(), KEEPALIVED.to_owned()]);
        Ok(())
    }

    fn reloading(&mut self, phase: Phase, name: &str, reads: Vec<String>) {
        let state = UnitState::Running { reads, reloads: true };
        self.add(phase, Resource::Unit { name: format!("{name}.service"), state });
    }
}

#[cfg(test)]
mod tests {
    use kinit_config::Cluster;
    use kinit_resource::{Content, FileSpec};

    use super::super::{HostFacts, desired};
    use super::*;
    use crate::bundle::Bundle;

    fn cluster(section: &str, without_balancer: bool) -> Cluster {
        let mut text = kinit_config::example().replacen("  hosts:", &format!("  loadBalancer: {section}\n  hosts:"), 1);
        if without_balancer {
            text = text.replace("  - name: lb1\n    address: 192.0.2.10\n    roles: [loadbalancer]\n", "");
        }
        kinit_config::load(&text).unwrap()
    }

    fn files(cluster: &Cluster, host: &str) -> Vec<(String, String)> {
        let bundle = Bundle::sample();
        let host = cluster.spec.hosts.iter().find(|h| h.name == host).unwrap();
        let list = desired(cluster, host, &HostFacts { interface: "eth7".into(), ..HostFacts::default() }, &bundle);
        let text = |resource| match resource {
            Resource::File(FileSpec { path, content: Content::Text(text), .. }) => Some((path, text)),
            _ => None,
        };
        list.unwrap().into_iter().filter_map(|(_, resource)| text(resource)).collect()
    }

    fn file(cluster: &Cluster, host: &str, path: &str) -> Option<String> {
        files(cluster, host).into_iter().find(|(p, _)| p == path).map(|(_, text)| text)
    }

    const HAPROXY: &str = "/etc/haproxy/haproxy.cfg";
    const CONFIG: &str = "/etc/keepalived/keepalived.conf";

    #[test]
    fn the_balancer_checks_every_server_with_the_clusters_authority() {
        let text = file(&kinit_config::load(kinit_config::example()).unwrap(), "lb1", HAPROXY).unwrap();
        assert!(
            text.contains("    server cp3 192.0.2.13:6443 tcp-ut 3s\n") && text.contains("    bind *:6443\n"),
            "{text}"
        );
        assert!(text.contains("ca-file /etc/kubernetes/pki/ca.crt"), "{text}");
    }

    #[test]
    fn control_planes_share_an_address() {
        let cluster = cluster("{type: control-planes, virtualAddress: 192.0.2.100, virtualRouterID: 7}", true);
        assert_eq!(cluster.endpoint(), ("192.0.2.100", 6443));
        assert!(file(&cluster, "cp2", HAPROXY).unwrap().contains("bind 192.0.2.100:6443\n"));
        let text = file(&cluster, "cp2", CONFIG).unwrap();
        for line in [
            "interface eth7",
            "virtual_router_id 7",
            "priority 199",
            "unicast_src_ip 192.0.2.12",
            "        192.0.2.11\n        192.0.2.13\n    }",
            "        192.0.2.100/32 dev eth7",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!(file(&cluster, "w1", HAPROXY), None);
        let names = cluster.tree_names();
        assert!(names.endpoint == "192.0.2.100", "{names:?}");
    }

    #[test]
    fn every_worker_balances_for_itself() {
        let cluster = cluster("{type: node-local}", true);
        assert!(file(&cluster, "w2", HAPROXY).unwrap().contains("bind 127.0.0.1:6443\n"));
        assert_eq!(file(&cluster, "cp1", HAPROXY), None);
        assert_eq!(file(&cluster, "w2", CONFIG), None);
        let host = |name: &str| cluster.spec.hosts.iter().find(|h| h.name == name).unwrap();
        assert_eq!(cluster.api_for(host("w2")), "https://127.0.0.1:6443");
        assert_eq!(cluster.api_for(host("cp2")), "https://192.0.2.12:6443");
        assert!(cluster.tree_names().extra_api_names.contains(&"127.0.0.1".to_owned()));
    }
}
