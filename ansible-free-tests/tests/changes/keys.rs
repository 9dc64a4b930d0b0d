//! Who signs: a worker's own timer through the API, an authority elsewhere, and keys on the desk.

use std::path::Path;
use std::process::Command;

use super::{Changing, Ran};

/// In place of what w1 has: the same key and name, an end that is near. The first half on w1, the second where the key
/// of the authority is.
const REQUEST: &str = r#"set -e
sed -n 's/.*client-certificate-data: //p' /etc/kubernetes/kube-proxy.conf | base64 -d > /tmp/c.crt
sed -n 's/.*client-key-data: //p' /etc/kubernetes/kube-proxy.conf | base64 -d > /tmp/c.key
openssl x509 -in /tmp/c.crt -x509toreq -signkey /tmp/c.key -copy_extensions copy
rm -f /tmp/c.crt /tmp/c.key
"#;
const SIGN: &str = "openssl x509 -req -in /tmp/r.csr -CA /etc/kubernetes/pki/ca.crt -CAkey /etc/kubernetes/pki/ca.key -set_serial 9 \
                    -not_before $(date -u -d '-300 days' +%Y%m%d%H%M%SZ) -not_after $(date -u -d '+1 day' +%Y%m%d%H%M%SZ) \
                    -copy_extensions copyall 2>/dev/null | base64 -w0";

/// A worker has no authority's key: it asks the cluster.
pub fn renew_themselves(cluster: &Changing<'_>) {
    let lab = cluster.lab;
    let request = lab.ssh("w1", REQUEST).unwrap();
    let near = lab.ssh("cp1", &format!("cat > /tmp/r.csr <<'E'\n{request}E\n{SIGN}; rm /tmp/r.csr")).unwrap();
    let conf = "/etc/kubernetes/kube-proxy.conf";
    lab.ssh("w1", &format!("sed -i 's#client-certificate-data: .*#client-certificate-data: {near}#' {conf}")).unwrap();
    let ends = || {
        let end = format!(
            "sed -n 's/.*client-certificate-data: //p' {conf} | base64 -d | openssl x509 -noout -checkend 2592000; true"
        );
        lab.ssh("w1", &end).unwrap()
    };
    assert!(ends().contains("will expire"), "{}", ends());
    lab.ssh("w1", "systemctl start kinit-renewal.service").unwrap();
    assert!(ends().contains("will not expire"), "{}", ends());
    let status = cluster.run("status", &[]).ok("kinit status").unwrap();
    assert!(status.contains("last renewal: w1 at ") && status.contains(", 1 renewed"), "{status}");
    assert!(status.contains("next renewal due: "), "{status}");
    cluster.is_as_wanted();
    println!("-- w1 renewed kube-proxy.conf through the API");
}

/// Whoever has the authority's key, which no host has.
struct Elsewhere<'a> {
    cluster: &'a Changing<'a>,
    requests: String,
}

impl Elsewhere<'_> {
    fn path(&self, name: &str) -> String {
        self.cluster.lab.dir.join(name).display().to_string()
    }

    fn certs(&self, verb: &str, arguments: &[&str]) -> Ran {
        self.cluster.lab.kinit(&[&["certs", verb, "-f", &self.cluster.file], arguments].concat()).unwrap()
    }

    /// Signs every request with this authority.
    fn sign(&self, ca: &str, key: &str) -> usize {
        let mut signed = 0;
        let mut folders = vec![Path::new(&self.requests).to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "csr") {
                    openssl(&[
                        &["x509", "-req", "-CA", ca, "-CAkey", key, "-copy_extensions", "copyall", "-days", "90"][..],
                        &["-in", &path.display().to_string(), "-out", &path.with_extension("crt").display().to_string()],
                    ]
                    .concat());
                    signed += 1;
                }
            }
        }
        signed
    }
}

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output().unwrap();
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The key leaves the cluster: everything is requested, signed elsewhere and taken back.
pub fn are_signed_elsewhere(cluster: &Changing<'_>) {
    let lab = cluster.lab;
    let elsewhere = Elsewhere { cluster, requests: lab.dir.join("requests").display().to_string() };
    let requests = elsewhere.requests.clone();
    let not_yet = elsewhere.certs("csr", &["-o", &requests]);
    assert!(not_yet.code == 6 && not_yet.err.contains("kept elsewhere"), "{}{}", not_yet.out, not_yet.err);
    let (ca, key) = (elsewhere.path("elsewhere.crt"), elsewhere.path("elsewhere.key"));
    let secret = lab.ssh("cp1", "cat /etc/kubernetes/pki/ca.key").unwrap();
    std::fs::write(&key, &secret).unwrap();
    std::fs::write(&ca, lab.ssh("cp1", "cat /etc/kubernetes/pki/ca.crt && rm /etc/kubernetes/pki/ca.key").unwrap())
        .unwrap();
    // What it has signed is good; who asked for certificates by himself does so no more.
    cluster.change("apply", &[]);
    let refused = elsewhere.certs("renew", &["--all", "--yes"]);
    let words = ["cp1: /etc/kubernetes/pki/apiserver.crt", "w1: /etc/kubernetes/kube-proxy.conf", "kinit certs csr"];
    assert!(refused.code == 6 && words.iter().all(|word| refused.err.contains(word)), "{}", refused.err);

    elsewhere.certs("csr", &["-o", &requests, "--all"]).ok("certs csr").unwrap();
    let (other, strange) = (elsewhere.path("strange.crt"), elsewhere.path("strange.key"));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=kubernetes",
        "-keyout",
        &strange,
        "-out",
        &other,
    ]);
    let count = elsewhere.sign(&other, &strange);
    assert!(count > 15, "{count} requests");
    let import = || elsewhere.certs("import", &[&requests, "--yes"]);
    let wrong = import();
    assert_eq!(wrong.err.matches("signed by another authority").count(), count, "all at once: {}", wrong.err);
    assert_eq!(wrong.code, 6);
    elsewhere.sign(&ca, &key);
    // One that nobody asked for.
    std::fs::copy(Path::new(&requests).join("cp1/apiserver.crt"), Path::new(&requests).join("w1/apiserver.crt"))
        .unwrap();
    let wrong = import();
    assert!(wrong.code == 6 && wrong.err.contains("w1 needs no certificate \"apiserver\""), "{}", wrong.err);
    std::fs::remove_file(Path::new(&requests).join("w1/apiserver.crt")).unwrap();
    import().ok("certs import").unwrap();
    cluster.is_as_wanted();
    let check = elsewhere.certs("check", &["--output", "jsonl"]).ok("certs check").unwrap();
    let fresh = check.lines().filter(|line| line.contains("\"days\":89") && line.contains("elsewhere")).count();
    assert!(fresh >= count, "{fresh} of {count}:\n{check}");
    // The API server reaches the kubelet by the certificate that was imported.
    let healthz = lab.kubectl(&["get", "--raw", "/api/v1/nodes/w1/proxy/healthz"]).unwrap().ok("healthz").unwrap();
    assert_eq!(healthz, "ok");
    assert_eq!(lab.ssh("cp1", "ls /etc/kubernetes/pki/requests 2>/dev/null; true").unwrap(), "");
    lab.ssh("cp1", &format!("umask 077; cat > /etc/kubernetes/pki/ca.key <<'E'\n{secret}E")).unwrap();
    cluster.change("apply", &[]);
    println!("-- an external CA: {count} certificates requested, signed and imported");
}

/// The keys of the authorities leave the hosts, and come back.
pub fn are_kept_on_the_desk(cluster: &mut Changing<'_>) {
    let lab = cluster.lab;
    let identity = lab.dir.join("keys.identity").display().to_string();
    let recipient = lab.kinit(&["backup", "new-identity", &identity]).unwrap().ok("new-identity").unwrap();
    let opened = ["--yes", "--ca-key-identity", &identity];
    let keys = "cd /etc/kubernetes/pki && ls ca.key front-proxy-ca.key etcd/ca.key 2>/dev/null; true";
    let head = cluster.cluster_file.head.clone();
    let nodes = [("cp1", "control-plane"), ("w1", "worker")];
    let desk = format!("  certificates:\n    caKeys: desk\n    caKeyRecipients: [{}]\n", recipient.trim());
    cluster.cluster_file.head = head.clone() + &desk;
    cluster.write(&nodes);
    cluster.run("apply", &opened).ok("apply").unwrap();
    assert_eq!(lab.ssh("cp1", keys).unwrap(), "");
    cluster.is_as_wanted();
    let certs = |arguments: &[&str]| lab.kinit(&[&["certs"], arguments, &["-f", &cluster.file]].concat()).unwrap();
    let locked = certs(&["renew", "apiserver", "--yes"]);
    assert!(locked.code == 6 && locked.err.contains("--ca-key-identity FILE"), "{}{}", locked.out, locked.err);
    let names = ["renew", "apiserver", "kubelet-client", "kubelet-server", "kube-proxy", "etcd-server"];
    certs(&[&names[..], &opened].concat()).ok("certs renew").unwrap();
    cluster.is_as_wanted();
    let check = certs(&["check"]).ok("certs check").unwrap();
    assert!(check.lines().any(|line| line.contains("kubelet-server") && line.contains("this desk")), "{check}");
    let refused = certs(&["rotate", "ca", "--yes"]);
    assert!(refused.code == 6 && refused.err.contains("kept on the desk"), "{}", refused.err);
    cluster.cluster_file.head = head;
    cluster.write(&nodes);
    cluster.run("apply", &opened).ok("apply").unwrap();
    assert_eq!(lab.ssh("cp1", keys).unwrap().lines().count(), 3);
    cluster.is_as_wanted();
    println!("-- authorities' keys on the desk and back");
}
