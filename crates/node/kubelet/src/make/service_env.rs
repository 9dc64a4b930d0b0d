//! Variables that tell containers of Services (`pkg/kubelet/envvars.FromServices`).

use k8s_openapi::api::core::v1::Service;

/// Variables for the pod's namespace; the Service `default/kubernetes` is told to everybody.
pub fn variables<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for service in services {
        let meta = &service.metadata;
        let (name, home) = (meta.name.as_deref().unwrap_or(""), meta.namespace.as_deref().unwrap_or(""));
        let is_api = name == "kubernetes" && home == "default";
        if !is_api && (!links || home != namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let ports = spec.ports.clone().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let prefix = upper(name);
        out.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in &ports {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                out.push((format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string()));
            }
        }
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.push((format!("{prefix}_PORT"), url.clone()));
            }
            let stem = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.push((stem.clone(), url));
            out.push((format!("{stem}_PROTO"), protocol.to_lowercase()));
            out.push((format!("{stem}_PORT"), port.port.to_string()));
            out.push((format!("{stem}_ADDR"), ip.to_owned()));
        }
    }
    out
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
