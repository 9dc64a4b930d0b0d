//! Kubeconfigs on the desk: which cluster one knows, and one more cluster in a file that others use too.
//!
//! What is changed is an entry of a name in each of the lists `clusters`, `users` and `contexts`, as `kubectl config`
//! does; everything else in the file stays as it is.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A kubeconfig file as a document.
#[derive(Debug, Clone, PartialEq)]
pub struct KubeconfigFile(Value);

/// The names of a cluster, its user and the context that has both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of the cluster.
    pub cluster: String,
    /// Of the user.
    pub user: String,
    /// Of the context.
    pub context: String,
}

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

impl KubeconfigFile {
    /// Reads one; an empty text is a file without clusters.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = match text.trim().is_empty() {
            true => json!({}),
            false => serde_saphyr::from_str(text).context("parse the kubeconfig")?,
        };
        let mut value = if value.is_null() { json!({}) } else { value };
        let Some(map) = value.as_object_mut() else { bail!("the kubeconfig is no mapping") };
        map.entry("apiVersion").or_insert(json!("v1"));
        map.entry("kind").or_insert(json!("Config"));
        for name in LISTS {
            let list = map.entry(name).or_insert(json!([]));
            // `contexts: null` is how kubeadm and kubectl write an empty one.
            if list.is_null() {
                *list = json!([]);
            }
            if !list.is_array() {
                bail!("{name} of the kubeconfig is no list");
            }
        }
        Ok(Self(value))
    }

    /// The file's text.
    pub fn text(&self) -> Result<String> {
        serde_saphyr::to_string(&self.0).context("write the kubeconfig")
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn list_mut(&mut self, name: &str) -> Option<&mut Vec<Value>> {
        self.0.get_mut(name).and_then(Value::as_array_mut)
    }

    fn find(&self, list: &str, name: &str) -> Option<&Value> {
        self.list(list).iter().find(|entry| text(entry, "/name") == Some(name))
    }

    /// How many clusters it knows.
    pub fn clusters(&self) -> usize {
        self.list("clusters").len()
    }

    /// The names of the current context.
    pub fn current(&self) -> Result<Entry> {
        let context = text(&self.0, "/current-context").unwrap_or_default().to_owned();
        let entry =
            self.find("contexts", &context).with_context(|| format!("the kubeconfig has no context {context:?}"))?;
        let of = |path| text(entry, path).map(str::to_owned);
        let (cluster, user) = (of("/context/cluster"), of("/context/user"));
        let cluster = cluster.with_context(|| format!("context {context:?} of the kubeconfig names no cluster"))?;
        let user = user.with_context(|| format!("context {context:?} of the kubeconfig names no user"))?;
        Ok(Entry { cluster, user, context })
    }

    /// The hash of the public key of the authority that a cluster of this name is trusted by, as kubeadm writes it
    /// (`sha256:HEX`); `None` when there is no such cluster.
    pub fn authority(&self, cluster: &str) -> Result<Option<String>> {
        let Some(entry) = self.find("clusters", cluster) else { return Ok(None) };
        let data = text(entry, "/cluster/certificate-authority-data")
            .with_context(|| format!("cluster {cluster:?} of the kubeconfig has no certificate-authority-data"))?;
        let pem = STANDARD.decode(data).ok().and_then(|pem| String::from_utf8(pem).ok());
        let hash = pem.and_then(|pem| kinit_pki::public_key_hash(&pem));
        hash.map(Some)
            .with_context(|| format!("the authority of cluster {cluster:?} of the kubeconfig is no certificate"))
    }

    /// Several files as one, as kubectl reads the list in `KUBECONFIG`: of entries with one name the first counts, and
    /// so does the first current context.
    pub fn layered(files: impl IntoIterator<Item = Self>) -> Result<Self> {
        let mut all = Self::parse("")?;
        for file in files {
            for name in LISTS {
                for entry in file.list(name) {
                    if text(entry, "/name").is_some_and(|known| all.find(name, known).is_none()) {
                        all.list_mut(name).into_iter().for_each(|list| list.push(entry.clone()));
                    }
                }
            }
            let context = text(&file.0, "/current-context").filter(|context| !context.is_empty());
            if let (None, Some(context)) = (text(&all.0, "/current-context"), context) {
                all.0["current-context"] = json!(context);
            }
        }
        Ok(all)
    }

    /// Files that it names are beside it: their paths become those from anywhere.
    pub fn at(mut self, directory: &Path) -> Self {
        let keys = ["certificate-authority", "client-certificate", "client-key", "tokenFile"];
        for (list, inner) in [("clusters", "cluster"), ("users", "user")] {
            for entry in self.list_mut(list).into_iter().flatten() {
                for key in keys {
                    if let Some(path) = entry.get_mut(inner).and_then(|inner| inner.get_mut(key))
                        && let Some(text) = path.as_str().filter(|text| !text.is_empty())
                    {
                        *path = json!(directory.join(text));
                    }
                }
            }
        }
        self
    }

    /// Takes over the current context of `other`, its cluster and its user, under other names if given, and makes it
    /// the current one. An entry of the same name is replaced; the caller has made sure that it is of the same cluster.
    pub fn merge(&mut self, other: &Self, names: Option<Entry>) -> Result<()> {
        let theirs = other.current()?;
        let names = names.unwrap_or_else(|| theirs.clone());
        let pairs = [("clusters", &theirs.cluster, &names.cluster), ("users", &theirs.user, &names.user)];
        for (list, from, to) in pairs {
            let mut entry =
                other.find(list, from).with_context(|| format!("the kubeconfig has no {from:?} in {list}"))?.clone();
            entry["name"] = json!(to);
            self.put(list, to, entry);
        }
        let context = json!({ "name": names.context, "context": { "cluster": names.cluster, "user": names.user } });
        self.put("contexts", &names.context, context);
        self.0["current-context"] = json!(names.context);
        Ok(())
    }

    fn put(&mut self, list: &str, name: &str, entry: Value) {
        let Some(list) = self.list_mut(list) else { return };
        match list.iter_mut().find(|known| text(known, "/name") == Some(name)) {
            Some(known) => *known = entry,
            None => list.push(entry),
        }
    }

    /// Removes a cluster, its contexts, and the users that no other context has.
    pub fn remove(&mut self, cluster: &str) {
        let is_of = |context: &Value| text(context, "/context/cluster") == Some(cluster);
        let users = |contexts: &[Value], of: bool| -> Vec<String> {
            let own = contexts.iter().filter(|context| is_of(context) == of);
            own.filter_map(|context| text(context, "/context/user").map(str::to_owned)).collect()
        };
        let (gone, kept) = (users(self.list("contexts"), true), users(self.list("contexts"), false));
        let is_gone = |user: &str| gone.iter().any(|g| g == user) && !kept.iter().any(|k| k == user);
        if let Some(list) = self.list_mut("users") {
            list.retain(|user| !text(user, "/name").is_some_and(is_gone));
        }
        if let Some(list) = self.list_mut("contexts") {
            list.retain(|context| !is_of(context));
        }
        if let Some(list) = self.list_mut("clusters") {
            list.retain(|entry| text(entry, "/name") != Some(cluster));
        }
        if self.current().is_err() {
            let first = self.list("contexts").iter().find_map(|context| text(context, "/name")).unwrap_or_default();
            self.0["current-context"] = json!(first);
        }
    }

    /// A file with one cluster and one user.
    pub fn of_user(cluster: &Value, cluster_name: &str, user: &str, certificate: &str, key: &str) -> Self {
        let context = format!("{user}@{cluster_name}");
        Self(json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster_name, "cluster": cluster}],
            "users": [{"name": user, "user": {
                "client-certificate-data": STANDARD.encode(certificate),
                "client-key-data": STANDARD.encode(key),
            }}],
            "contexts": [{"name": context, "context": {"cluster": cluster_name, "user": user}}],
            "current-context": context,
        }))
    }

    /// The embedded client certificate of a user, base64.
    pub fn client_certificate(&self, user: &str) -> Option<&str> {
        text(self.find("users", user)?, "/user/client-certificate-data")
    }

    /// What it says of its cluster, if there is one alone.
    pub fn only_cluster(&self) -> Option<&Value> {
        match self.list("clusters") {
            [one] => one.get("cluster"),
            _ => None,
        }
    }

    /// What it says of the cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&Value> {
        self.find("clusters", name)?.get("cluster")
    }
}

fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> String {
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        kinit_pki::new_authority(name, kinit_pki::KeyAlgorithm::EcdsaP256, 10, now).unwrap().cert
    }

    fn of(cluster: &str, pem: &str) -> KubeconfigFile {
        let cluster_of =
            json!({"server": "https://192.0.2.1:6443", "certificate-authority-data": STANDARD.encode(pem)});
        KubeconfigFile::of_user(&cluster_of, cluster, "kubernetes-admin", "cert", "key")
    }

    #[test]
    fn several_files_are_one() {
        let (a, b) = (made("a"), made("b"));
        let mut second = of("b", &b);
        second.merge(&of("a", &b), None).unwrap();
        let all = KubeconfigFile::layered([KubeconfigFile::parse("").unwrap(), of("a", &a), second]).unwrap();
        assert_eq!(all.current().unwrap().context, "kubernetes-admin@a");
        assert_eq!(all.authority("a").unwrap(), kinit_pki::public_key_hash(&a), "the first file's");
        assert_eq!(all.authority("b").unwrap(), kinit_pki::public_key_hash(&b));
        assert_eq!(all.clusters(), 2);
        assert!(KubeconfigFile::layered([]).unwrap().current().is_err());
        let text = "users: [{name: u, user: {client-key: pki/u.key, client-certificate: /etc/u.crt}}]";
        let file = KubeconfigFile::parse(text).unwrap().at(Path::new("/home/u/.kube"));
        let user = &file.find("users", "u").unwrap()["user"];
        assert_eq!(
            (&user["client-key"], &user["client-certificate"]),
            (&json!("/home/u/.kube/pki/u.key"), &json!("/etc/u.crt"))
        );
    }

    #[test]
    fn a_cluster_is_known_by_its_name() {
        let (a, b) = (made("a"), made("b"));
        let mut file = of("a", &a);
        file.merge(&of("b", &b), None).unwrap();
        assert_eq!(file.authority("a").unwrap(), kinit_pki::public_key_hash(&a));
        assert_eq!(file.authority("b").unwrap(), kinit_pki::public_key_hash(&b));
        assert_eq!((file.authority("c").unwrap(), file.clusters()), (None, 2));
        assert_eq!(file.current().unwrap().context, "kubernetes-admin@b");
        for none in ["", "\n", "apiVersion: v1\nkind: Config\n", "clusters: null\n", "null"] {
            assert_eq!(KubeconfigFile::parse(none).unwrap().authority("a").unwrap(), None, "{none:?}");
        }
        for (bad, words) in [("{", "parse the kubeconfig"), ("[1]", "no mapping"), ("users: 3", "no list")] {
            let error = format!("{:#}", KubeconfigFile::parse(bad).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
        let error = of("a", "rubbish").authority("a").unwrap_err().to_string();
        assert!(error.contains("is no certificate"), "{error}");
    }

    /// What other tools keep in the file survives.
    #[test]
    fn what_is_others_stays() {
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- name: work\n  cluster: {server: https://w, extensions: [{name: x}]}\n\
                    users:\n- name: me\n  user: {exec: {command: aws, args: [a, b]}}\ncontexts:\n- name: work\n  context: {cluster: work, user: me, namespace: n}\npreferences: {colors: true}\n";
        let before = KubeconfigFile::parse(text).unwrap();
        let mut file = before.clone();
        file.merge(&of("kubernetes", &made("k")), None).unwrap();
        let again = KubeconfigFile::parse(&file.text().unwrap()).unwrap();
        assert_eq!(again, file);
        for (list, name) in [("clusters", "work"), ("users", "me"), ("contexts", "work")] {
            assert_eq!(again.find(list, name), before.find(list, name));
        }
        assert_eq!(again.0["preferences"], before.0["preferences"]);
        // The same once more changes nothing; removing it leaves what was there.
        file.merge(&of("kubernetes", &made("k2")), None).unwrap();
        assert_eq!(file.clusters(), 2);
        file.remove("kubernetes");
        assert_eq!(file, before);
    }

    #[test]
    fn names_are_given_on_request_and_shared_users_stay() {
        let mut file = of("kubernetes", &made("a"));
        let names = Entry { cluster: "lab".into(), user: "kubernetes-admin".into(), context: "lab".into() };
        file.merge(&of("kubernetes", &made("b")), Some(names.clone())).unwrap();
        assert_eq!((file.clusters(), file.current().unwrap()), (2, names));
        file.remove("lab");
        assert!(file.find("users", "kubernetes-admin").is_some());
        assert_eq!(file.current().unwrap().cluster, "kubernetes");
    }
}
