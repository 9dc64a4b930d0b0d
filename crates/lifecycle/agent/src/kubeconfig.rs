//! Kubeconfigs: written, compared, and followed where a component writes its own.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kinit_resource::Observed;
use serde_json::{Value, json};

use crate::files::{self, read_optional};

/// kubeadm's form: everything embedded, context `USER@CLUSTER`.
pub(crate) fn render(cluster: &str, server: &str, authority: &str, user: &str, certificate: &str, key: &str) -> String {
    let data = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: \"{cluster}\"\n  cluster:\n    certificate-authority-data: {}\n    server: {server}\n\
         contexts:\n- name: {user}@{cluster}\n  context:\n    cluster: \"{cluster}\"\n    user: {user}\ncurrent-context: {user}@{cluster}\n\
         users:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        data(authority),
        data(certificate),
        data(key)
    )
}

/// A kubeconfig, and what its current context leads to.
pub(crate) struct Kubeconfig {
    value: Value,
    cluster: usize,
    user: usize,
}

impl Kubeconfig {
    /// Reads one; it must have a current context with a cluster and a user.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_saphyr::from_str(text).context("parse the kubeconfig")?;
        let named = |list: &str, name: &str| {
            let entries = value.get(list)?.as_array()?;
            entries.iter().position(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
        };
        let current = value.get("current-context").and_then(Value::as_str).unwrap_or_default();
        let context = named("contexts", current).with_context(|| format!("it has no context {current:?}"))?;
        let of_context = |field: &str| {
            value.pointer(&format!("/contexts/{context}/context/{field}")).and_then(Value::as_str).unwrap_or_default()
        };
        let cluster = named("clusters", of_context("cluster"))
            .with_context(|| format!("it has no cluster {:?}", of_context("cluster")))?;
        let user =
            named("users", of_context("user")).with_context(|| format!("it has no user {:?}", of_context("user")))?;
        Ok(Self { value, cluster, user })
    }

    fn of_cluster(&self, field: &str) -> Option<&str> {
        self.value.pointer(&format!("/clusters/{}/cluster/{field}", self.cluster))?.as_str()
    }

    fn embedded(data: Option<&str>) -> Option<String> {
        String::from_utf8(STANDARD.decode(data?.trim()).ok()?).ok()
    }

    /// The embedded credentials of its user, as PEM.
    pub(crate) fn credentials(&self) -> Option<(String, String)> {
        let of_user = |field: &str| {
            let data = self.value.pointer(&format!("/users/{}/user/{field}", self.user));
            Self::embedded(data.and_then(Value::as_str))
        };
        Some((of_user("client-certificate-data")?, of_user("client-key-data")?))
    }

    /// Its user's name in this file.
    pub(crate) fn user(&self) -> &str {
        self.value.pointer(&format!("/users/{}/name", self.user)).and_then(Value::as_str).unwrap_or_default()
    }

    /// How the cluster it leads to differs from the wanted; `authority` is that one's PEM and `file` where it is kept.
    pub(crate) fn cluster_differs(&self, server: &str, authority: &str, file: &str) -> Option<String> {
        if self.of_cluster("server") != Some(server) {
            return Some(format!("its server is not {server}"));
        }
        if let Some(insecure) =
            self.value.pointer(&format!("/clusters/{}/cluster/insecure-skip-tls-verify", self.cluster))
            && insecure != &json!(false)
        {
            return Some("it does not verify the server".to_owned());
        }
        let data = self.of_cluster("certificate-authority-data");
        let trusted = match (data, self.of_cluster("certificate-authority")) {
            (None, Some(named)) => named == file,
            _ => Self::embedded(data).is_some_and(|pem| pem == authority),
        };
        (!trusted).then(|| format!("its certificate-authority-data is not {file}"))
    }

    /// The same kubeconfig, leading to that server with that authority. What it says of the user stays.
    pub(crate) fn with_cluster(mut self, server: &str, authority: &str) -> Result<String> {
        let place = self.value.pointer_mut(&format!("/clusters/{}", self.cluster));
        let entry = place.and_then(Value::as_object_mut).context("its cluster is no mapping")?;
        let cluster = json!({ "server": server, "certificate-authority-data": STANDARD.encode(authority) });
        entry.insert("cluster".to_owned(), cluster);
        serde_saphyr::to_string(&self.value).context("encode the kubeconfig")
    }
}

/// What a kubelet writes after its TLS bootstrap (`pkg/kubelet/certificate/bootstrap`,
/// `writeKubeconfigFromBootstrapping`): the certificate and its key stay in a file of their own.
fn referring(server: &str, file: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": {"server": server}}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}}],
        "current-context": "default-context",
        "users": [{"name": "default-auth", "user": {"client-certificate": file, "client-key": file}}],
    });
    // JSON is YAML.
    config.to_string()
}

/// Compares where a component's own kubeconfig leads with the wanted cluster. Before the component has written it there
/// is nothing to compare.
pub(crate) fn observe_cluster(
    path: &str,
    server: &str,
    authority_file: &str,
    credentials: Option<&str>,
) -> Result<Observed> {
    let Some(text) = read_optional(path)? else {
        return Ok(if credentials.is_some() { Observed::Missing } else { Observed::AsWanted });
    };
    let Some(authority) = read_optional(authority_file)? else {
        return Ok(Observed::Differs(format!("{authority_file} is missing")));
    };
    // One that cannot be read is useless to the component too, and it writes it anew.
    let Ok(read) = Kubeconfig::parse(&text) else { return Ok(Observed::AsWanted) };
    let differs = read.cluster_differs(server, &authority, authority_file);
    Ok(differs.map_or(Observed::AsWanted, Observed::Differs))
}

/// Makes a component's own kubeconfig lead to that cluster. The stamp first: after a crash between the two the
/// kubeconfig still differs, and both are written by the next run.
pub(crate) fn follow_cluster(
    path: &str,
    server: &str,
    authority_file: &str,
    stamp: &str,
    credentials: Option<&str>,
) -> Result<()> {
    let text = match (read_optional(path)?, credentials) {
        (Some(text), _) => text,
        (None, Some(file)) => referring(server, file),
        (None, None) => return Ok(()),
    };
    let authority = std::fs::read_to_string(authority_file).with_context(|| format!("read {authority_file}"))?;
    let read = Kubeconfig::parse(&text).with_context(|| path.to_owned())?;
    let text = read.with_cluster(server, &authority).with_context(|| path.to_owned())?;
    files::write(stamp, format!("{server}\n").as_bytes(), 0o644, "root:root")?;
    files::write_private(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://10.0.0.1:6443";
    const FILE: &str = "/etc/kubernetes/pki/ca.crt";

    #[test]
    fn kubeconfigs_embed_what_they_are_given() {
        let text = render("c", SERVER, "CA", "u", "CERT", "KEY");
        let read = Kubeconfig::parse(&text).unwrap();
        assert_eq!(read.credentials(), Some(("CERT".to_owned(), "KEY".to_owned())));
        assert_eq!((read.user(), read.cluster_differs(SERVER, "CA", FILE)), ("u", None));
        assert!(text.contains("current-context: u@c") && text.contains("    server: https://10.0.0.1:6443\n"));
    }

    #[test]
    fn a_kubeconfig_that_leads_elsewhere_differs() {
        let text = render("c", SERVER, "CA", "u", "CERT", "KEY");
        let differs = |text: &str, server: &str, authority: &str| {
            Kubeconfig::parse(text).unwrap().cluster_differs(server, authority, FILE).unwrap_or_default()
        };
        assert!(differs(&text, "https://10.0.0.2:6443", "CA").contains("its server is not https://10.0.0.2:6443"));
        assert!(differs(&text, SERVER, "CA2").contains("its certificate-authority-data is not"));
        let insecure = text.replace("    server:", "    insecure-skip-tls-verify: true\n    server:");
        assert!(differs(&insecure, SERVER, "CA").contains("does not verify"));
        // Only the current context counts, whatever else is in the file.
        let second = text.replace("clusters:\n", "clusters:\n- name: x\n  cluster: {server: \"https://1.1.1.1\"}\n");
        assert_eq!(differs(&second, SERVER, "CA"), "");
        for bad in ["", "a: [", "current-context: x", &text.replace("current-context: u@c", "current-context: x")] {
            assert!(Kubeconfig::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_components_own_kubeconfig_follows_and_keeps_its_user() {
        let own = "apiVersion: v1\nkind: Config\nclusters:\n- name: default-cluster\n  cluster:\n    server: https://old:6443\n    \
                   certificate-authority: /old.crt\ncontexts:\n- name: d\n  context: {cluster: default-cluster, user: default-auth}\n\
                   current-context: d\nusers:\n- name: default-auth\n  user:\n    client-certificate: /var/lib/kubelet/pki/current.pem\n    \
                   client-key: /var/lib/kubelet/pki/current.pem\n";
        let text = Kubeconfig::parse(own).unwrap().with_cluster(SERVER, "CA").unwrap();
        let read = Kubeconfig::parse(&text).unwrap();
        assert_eq!(read.cluster_differs(SERVER, "CA", FILE), None, "{text}");
        assert!(text.contains("/var/lib/kubelet/pki/current.pem") && !text.contains("old"), "{text}");

        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let (path, authority, stamp) = (file("kubelet.conf"), file("ca.crt"), file("stamp"));
        let observe = || observe_cluster(&path, SERVER, &authority, None).unwrap();
        assert_eq!(observe(), Observed::AsWanted, "before the bootstrap");
        std::fs::write(&path, own).unwrap();
        std::fs::write(&authority, "CA").unwrap();
        assert!(matches!(observe(), Observed::Differs(why) if why.contains("server")));
        follow_cluster(&path, SERVER, &authority, &stamp, None).unwrap();
        assert_eq!(observe(), Observed::AsWanted);
        assert!(std::path::Path::new(&stamp).exists());
        std::fs::write(&authority, "CA and another").unwrap();
        assert!(matches!(observe(), Observed::Differs(why) if why.contains("authority")));
    }
}
