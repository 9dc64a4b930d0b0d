//! An authority, the key of tokens and the key of encryption at rest are replaced while clients work.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Changing, Ran};
use ansible_free_tests::Traffic;

impl Changing<'_> {
    fn rotate(&self, what: &[&str], arguments: &[&str]) -> Ran {
        self.lab.kinit(&[what, &["-f", &self.file, "--yes"], arguments].concat()).unwrap()
    }

    /// SHA-256 of every certificate of the cluster's authority's file on a host.
    fn authorities(&self, host: &str) -> Vec<String> {
        let split = "cd $(mktemp -d) && csplit -sz -f c /etc/kubernetes/pki/ca.crt '/BEGIN/' '{*}' && \
                     for c in c*; do openssl x509 -in $c -noout -fingerprint -sha256; done";
        self.lab.ssh(host, split).unwrap().lines().map(str::to_owned).collect()
    }
}

/// The cluster's own authority: interrupted by kill -9 at a moment that the clock chooses, taken up again, taken back,
/// and carried to its end.
pub fn of_the_authority(cluster: &Changing<'_>, traffic: &Traffic, control_planes: &[&str]) {
    let lab = cluster.lab;
    let ca = ["certs", "rotate", "ca"];
    let begun = Instant::now();
    let (before, _) = traffic.calls(begun);
    let first = cluster.authorities(control_planes[0]);
    assert_eq!(first.len(), 1);
    let nothing = cluster.rotate(&ca, &["--rollback"]);
    assert!(nothing.code == 6 && nothing.err.contains("no rotation of ca is under way"), "{}", nothing.err);

    let millis = u64::from(jiff::Timestamp::now().subsec_millisecond().unsigned_abs());
    let moment = Duration::from_millis(3000 + millis * 20);
    let mut run = lab.kinit_command(&[&ca[..], &["-f", &cluster.file, "--yes"]].concat());
    let mut run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The moment is what is tested: nothing to watch for.
    std::thread::sleep(moment);
    run.kill().unwrap();
    run.wait().unwrap();
    println!("   rotation killed after {moment:.1?}");
    let other = cluster.rotate(&["certs", "rotate", "sa-key"], &[]);
    let ended = cluster.rotate(&ca, &[]).ok("certs rotate ca").unwrap();
    assert!(ended.contains("ca has been replaced"), "{ended}");
    // Unless it was killed before it had begun.
    assert!(other.code == 6 && other.err.contains("a rotation of ca is under way"), "{}{}", other.out, other.err);

    for host in control_planes.iter().chain(&["lb1", "w1"]) {
        let now = cluster.authorities(host);
        assert!(now.len() == 1 && now != first, "{host}: {now:?}");
    }
    let left = lab.ssh(control_planes[0], "ls /etc/kubernetes/pki").unwrap();
    assert!(!left.contains("rotation"), "{left}");
    cluster.is_as_wanted();
    for host in control_planes.iter().chain(&["w1"]) {
        let of = "for c in client server; do openssl verify -CAfile /etc/kubernetes/pki/ca.crt /var/lib/kubelet/pki/kubelet-$c-current.pem; done";
        assert_eq!(lab.ssh(host, of).unwrap().matches(": OK").count(), 2, "{host}");
    }
    let (after, failed) = traffic.calls(begun);
    println!(
        "-- the authority replaced in {:.0} s, with a kill -9 in between: {} of {} calls without retries failed: {failed:?}",
        begun.elapsed().as_secs_f64(),
        failed.len(),
        after - before + failed.len()
    );
}

/// The key of encryption at rest, and the key of tokens to and fro.
pub fn of_keys(cluster: &Changing<'_>, control_planes: &[&str]) {
    let lab = cluster.lab;
    let secret = ["create", "secret", "generic", "kept", "--from-literal=a=b"];
    lab.kubectl(&secret).unwrap().ok("create a Secret").unwrap();
    let host = control_planes[0];
    cluster.rotate(&["secrets", "rotate-key"], &[]).ok("secrets rotate-key").unwrap();
    let names = lab.ssh(host, "grep -o 'name: .*' /etc/kubernetes/pki/encryption.yaml").unwrap();
    assert_eq!(names, "name: key2\n", "the old key is gone");
    // API servers that never knew the old key read it: it was written anew.
    let kept = ["get", "secret", "kept", "-o", "jsonpath={.data.a}"];
    assert_eq!(lab.kubectl(&kept).unwrap().ok("read the Secret").unwrap(), "Yg==");

    let sa = ["certs", "rotate", "sa-key"];
    let sum = || lab.ssh(host, "sha256sum < /etc/kubernetes/pki/sa.pub").unwrap();
    let first = sum();
    cluster.rotate(&sa, &["--stage", "sign"]).ok("rotate sa-key to sign").unwrap();
    // Tokens of a day may be about.
    let early = cluster.rotate(&sa, &["--restart-workloads"]);
    assert!(early.code == 6 && early.err.contains("may be valid until"), "{}{}", early.out, early.err);
    cluster.rotate(&sa, &["--rollback"]).ok("take it back").unwrap();
    assert_eq!(sum(), first);
    cluster.is_as_wanted();
}
