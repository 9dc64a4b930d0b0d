//! Certificates that are renewed in time, and after everything has ended.

use super::Changing;

/// Gives every certificate of a control plane, its kubelet's among them, an end that is past: same keys, same names.
const EXPIRE: &str = r#"set -e
reissue() {
  openssl x509 -in $1.crt -x509toreq -signkey $1.key -copy_extensions copy -out /tmp/r.csr
  openssl x509 -req -in /tmp/r.csr -CA $2.crt -CAkey $2.key -set_serial 7 -not_before 20250101000000Z -not_after 20260101000000Z -copy_extensions copyall -out $1.crt
}
cd /etc/kubernetes/pki
for c in apiserver apiserver-kubelet-client; do reissue $c ca; done
reissue front-proxy-client front-proxy-ca
for c in etcd/server etcd/peer etcd/healthcheck-client apiserver-etcd-client; do reissue $c etcd/ca; done
for c in admin super-admin controller-manager scheduler kube-proxy kube-netd; do
  f=/etc/kubernetes/$c.conf
  sed -n 's/.*client-certificate-data: //p' $f | base64 -d > /tmp/c.crt
  sed -n 's/.*client-key-data: //p' $f | base64 -d > /tmp/c.key
  reissue /tmp/c ca
  sed -i "s#client-certificate-data: .*#client-certificate-data: $(base64 -w0 /tmp/c.crt)#" $f
done
for p in client server; do
  f=$(readlink -f /var/lib/kubelet/pki/kubelet-$p-current.pem)
  openssl x509 -in $f -out /tmp/c.crt; openssl pkey -in $f -out /tmp/c.key
  reissue /tmp/c ca
  cat /tmp/c.crt /tmp/c.key > $f
done
rm -f /tmp/c.crt /tmp/c.key /tmp/r.csr
systemctl restart --no-block etcd kube-apiserver kubelet
"#;

/// One is renewed while it is good; then everything of the control plane ends at once.
pub fn end_and_are_renewed(cluster: &Changing<'_>) {
    let lab = cluster.lab;
    let check = |arguments: &[&str]| {
        lab.kinit(&[&["certs", "check", "-f", &cluster.file, "--output", "jsonl"], arguments].concat()).unwrap()
    };
    let renew = |arguments: &[&str]| {
        lab.kinit(&[&["certs", "renew", "-f", &cluster.file, "--yes"], arguments].concat()).unwrap()
    };
    assert_eq!(check(&[]).code, 0);
    assert_eq!(check(&["--days", "9999"]).code, 8, "the authorities end in ten years");
    let unknown = renew(&["ca"]);
    assert!(unknown.code == 2 && unknown.err.contains("there is no certificate \"ca\""), "{}", unknown.err);
    let one = renew(&["apiserver", "scheduler"]).ok("certs renew").unwrap();
    assert!(one.contains("3 changes"), "two certificates and a restart: {one}");
    cluster.is_as_wanted();
    lab.ssh("cp1", EXPIRE).unwrap();
    let ended = check(&[]);
    let past = ended.out.lines().filter(|line| line.contains("\"days\":-")).count();
    assert!(ended.code == 8 && past == 15, "{past} have ended:\n{}{}", ended.out, ended.err);
    assert_eq!(cluster.run("status", &[]).code, 8);
    renew(&["--all"]).ok("certs renew --all").unwrap();
    assert_eq!(check(&[]).code, 0);
    cluster.is_as_wanted();
    // The desk's own kubeconfig is among what was renewed.
    let nodes = lab.kubectl(&["get", "nodes", "-o", "name"]).unwrap().ok("kubectl get nodes").unwrap();
    assert_eq!(nodes, "node/cp1\nnode/w1\n");
    println!("-- {past} certificates ended, the control plane's all: renewed, and everything runs");
}
