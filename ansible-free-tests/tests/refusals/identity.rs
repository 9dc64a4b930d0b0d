//! Two clusters on two hosts, as far as their certificates: a cluster is known by its authority, and what it has lost
//! is not made anew.

use ansible_free_tests::{Lab, Ran};

use crate::untouched;

/// Everything but `certs` and `kubeconfig`: enough for a host to belong to a cluster, and no more.
const REST: &str = "--skip-phases=preflight,prepare-hosts,binaries,etcd,load-balancer,control-plane,wait-control-plane,\
                    upload-config,bootstrap-token,kubelet-start,network,mark-control-plane,addon,verify";

/// A file of a cluster of one control plane.
fn file_of(lab: &Lab, host: &str) -> String {
    let address = lab.ssh(host, "hostname -I").unwrap();
    let address = address.split_whitespace().next().unwrap().to_owned();
    lab.variant(&format!("only-{host}.yaml"), |text| {
        let header = text.split_inclusive('\n').take_while(|line| line.trim() != "hosts:").collect::<String>();
        let endpoint = |line: &&str| !line.contains("controlPlaneEndpoint");
        let header: String = header.split_inclusive('\n').filter(endpoint).collect();
        format!("{header}  hosts:\n  - name: {host}\n    address: {address}\n    roles: [control-plane]\n")
    })
    .unwrap()
}

/// Every file of kinit's on a host, with the hash of its content.
fn files(lab: &Lab, host: &str) -> String {
    lab.ssh(host, "find /etc/kubernetes /var/lib/kinit /var/lib/etcd -type f -exec sha256sum {} + | sort").unwrap()
}

fn authority(lab: &Lab, host: &str) -> String {
    lab.ssh(host, "sha256sum < /etc/kubernetes/pki/ca.crt").unwrap()
}

/// A refusal with this code and these words, that leaves both hosts as they are.
fn refused(lab: &Lab, arguments: &[&str], code: i32, words: &[&str]) -> Ran {
    let before = [files(lab, "cp1"), files(lab, "w1")];
    let ran = lab.kinit(arguments).unwrap();
    assert_eq!(ran.code, code, "{arguments:?}\n{}{}", ran.out, ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word} is missing in: {}", ran.err);
    }
    assert_eq!([files(lab, "cp1"), files(lab, "w1")], before, "{arguments:?} changed something");
    ran
}

#[test]
fn a_cluster_is_known_by_its_authority() {
    // Hosts of its own, because it changes them; they go with this process.
    let lab = &Lab::up("whose", 0, 1, 1).unwrap();
    for host in ["cp1", "w1"] {
        // Comes with etcd's package, which nothing here needs.
        lab.ssh(host, "useradd --system --user-group etcd").unwrap();
    }
    let path = |name: &str| lab.dir.join(name).display().to_string();
    let both = lab.file().display().to_string();
    let (a, b) = (file_of(lab, "cp1"), file_of(lab, "w1"));
    let (conf_a, conf_b) = (path("a.conf"), path("b.conf"));
    for (file, conf) in [(&a, &conf_a), (&b, &conf_b)] {
        lab.kinit(&["init", "-f", file, "--kubeconfig", conf, REST]).unwrap().ok("kinit init").unwrap();
    }
    assert_ne!(authority(lab, "cp1"), authority(lab, "w1"));

    let reset = ["reset", "--force", "-f", &both];
    // One address of the file is another cluster's. The clusters have the same name.
    let words = ["w1 belongs to another cluster: its authority is sha256:", "(by cp1)", "nothing was changed"];
    let ran = refused(lab, &reset, 6, &words);
    let hash = ran.err.split("this cluster's is ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    refused(lab, &[&reset[..], &["--ca-cert-hash", &hash]].concat(), 6, &words[..1]);
    // The desk knows best: by it, it is the first control plane that is the stranger.
    refused(lab, &[&reset[..], &["--kubeconfig", &conf_b]].concat(), 6, &["cp1 belongs to another cluster"]);
    // All addresses are another cluster's.
    refused(lab, &["reset", "--force", "-f", &b, "--kubeconfig", &conf_a], 6, &["w1 belongs to another cluster"]);
    // Nobody but the hosts themselves says which cluster it is: an address may be wrong.
    let unnamed = ["no", "admin.conf", "authority is sha256:", "--ca-cert-hash", "nothing was changed"];
    refused(lab, &["reset", "--force", "-f", &b], 6, &unnamed);
    refused(lab, &["reset", "--force", "-f", &a, "--ca-cert-hash", "sha256:12"], 2, &["64 hexadecimal digits"]);
    refused(lab, &["init", "-f", &both], 5, &["failed: w1: OtherCluster: w1 belongs to another cluster"]);

    lost_secrets_are_not_made_anew(lab, &a, &conf_a);

    let done = lab.kinit(&["reset", "--force", "-f", &b, "--kubeconfig", &conf_b]).unwrap();
    assert!(done.err.contains("b.conf: its cluster is gone"), "{}", done.err);
    assert!(done.ok("kinit reset").unwrap().contains("no residue"));
    lab.kinit(&["reset", "--force", "-f", &a, "--ca-cert-hash", &hash]).unwrap().ok("kinit reset").unwrap();
    assert!(!std::path::Path::new(&conf_b).exists() && std::path::Path::new(&conf_a).exists());
    std::fs::remove_file(&conf_a).unwrap();
    untouched(lab);
}

fn lost_secrets_are_not_made_anew(lab: &Lab, file: &str, kubeconfig: &str) {
    let init = ["init", "-f", file, "--kubeconfig", kubeconfig, REST];
    let on = |command: &str| drop(lab.ssh("cp1", command).unwrap());
    on("mv /etc/kubernetes/pki/ca.key /var/tmp/");
    refused(
        lab,
        &init,
        6,
        &["ca.key is on no control plane (cp1 has its certificate: an external authority)", "or put ca.key into"],
    );
    on("mv /var/tmp/ca.key /etc/kubernetes/pki/");
    on(
        "mv /etc/kubernetes/pki/encryption.yaml /var/tmp/ && mkdir -p /var/lib/etcd/member && touch /var/lib/etcd/member/snap",
    );
    refused(lab, &init, 6, &["encryption-config is lost: cp1 has the cluster's data"]);
    on("mv /var/tmp/encryption.yaml /etc/kubernetes/pki/ && rm -r /var/lib/etcd/member");
    let again = lab.kinit(&init).unwrap().ok("kinit init").unwrap();
    assert!(again.contains("0 changes"), "{again}");
}
