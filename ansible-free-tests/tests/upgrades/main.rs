//! A cluster that goes to other versions, and back, while clients work through the load balancer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bundles;

use std::process::Stdio;
use std::time::Duration;

use ansible_free_tests::{Kubectl, Lab, Ran, Traffic, eventually};

use bundles::Bundles;

/// Without retries a call may meet a server that stops; a call after it finds another.
const SILENCE: Duration = Duration::from_secs(5);
/// A Deployment of one pod, and a budget that never allows its eviction.
const GUARDED: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "guarded"}, "spec": {"replicas": 1,
    "selector": {"matchLabels": {"app": "guarded"}}, "template": {"metadata": {"labels": {"app": "guarded"}},
      "spec": {"containers": [{"name": "c", "image": "kinit.dev/demo:0.1.0"}]}}}},
  {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guarded"},
    "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}}]}"#;

struct Upgrading<'a> {
    lab: &'a Lab,
    bundles: Bundles,
}

#[test]
fn a_cluster_goes_to_other_versions_and_back() {
    let standing = Lab::standing();
    let lab = standing.unwrap_or_else(|| Lab::up("upgrade", 1, 3, 1).unwrap());
    let cluster = Upgrading { lab: &lab, bundles: Bundles::below(&lab.dir).unwrap() };
    cluster.has_recipient();
    let (emulating, next) =
        (cluster.bundles.emulating("1.35").unwrap(), cluster.bundles.of_version("v1.36.1").unwrap());
    cluster.run("init", &["--bundle", &emulating]).ok("kinit init").unwrap();
    assert_eq!(cluster.serves(), ("35".to_owned(), false), "the minor version and mutating admission policies");
    let traffic = Traffic::start(&lab.dir.join("admin.conf")).unwrap();
    let during = |what: &str, change: &dyn Fn()| traffic.during(what, SILENCE, change);
    let own = cluster.bundles.own();
    during("from an emulated minor version to the next", &|| cluster.goes_to_the_next_minor(&own));
    cluster.refuses(&own, &next);
    during("to the next patch version, killed in the middle", &|| cluster.is_upgraded(&next));
    during("a component that does not start", &|| cluster.puts_back());
    during("back to the version before", &|| cluster.rolls_back(&own));
    cluster.is_diagnosed(&own);
    let kept = eventually(Duration::from_secs(60), || traffic.nothing_is_lost()).unwrap();
    println!("   {kept} writes acknowledged, none lost");
    drop(traffic);
    let reset = cluster.run("reset", &["--force"]).ok("kinit reset").unwrap();
    assert!(reset.contains("no residue"), "{reset}");
    lab.down().unwrap();
}

impl Upgrading<'_> {
    fn run(&self, verb: &str, arguments: &[&str]) -> Ran {
        self.lab.on_cluster(verb, arguments).unwrap()
    }

    fn upgrade(&self, verb: &str, arguments: &[&str]) -> Ran {
        let file = self.lab.file().display().to_string();
        self.lab.kinit(&[&["upgrade", verb, "-f", &file, "--yes"], arguments].concat()).unwrap()
    }

    /// Backups need somebody who can open them.
    fn has_recipient(&self) {
        let identity = self.lab.dir.join("identity.txt").display().to_string();
        let recipient = self.lab.kinit(&["backup", "new-identity", &identity]).unwrap().ok("new-identity").unwrap();
        let recipient = recipient.lines().find(|line| line.starts_with("age1")).unwrap().to_owned();
        let text = std::fs::read_to_string(self.lab.file()).unwrap();
        if !text.contains("recipients") {
            let backup = format!("spec:\n  backup:\n    recipients: [{recipient}]\n");
            std::fs::write(self.lab.file(), text.replacen("spec:\n", &backup, 1)).unwrap();
        }
    }

    /// The minor version that the API says, and whether it serves what is new in 1.36.
    fn serves(&self) -> (String, bool) {
        let version = self.lab.kubectl(&["get", "--raw", "/version"]).unwrap().ok("/version").unwrap();
        let version: serde_json::Value = serde_json::from_str(&version).unwrap();
        let kinds = self.lab.kubectl(&["get", "--raw", "/apis/admissionregistration.k8s.io/v1"]).unwrap();
        let kinds = kinds.ok("discovery").unwrap();
        (version["emulationMinor"].as_str().unwrap().to_owned(), kinds.contains("mutatingadmissionpolicies"))
    }

    /// Versions of the kubelets, as the API has them.
    fn kubelets(&self) -> Vec<String> {
        let path = "jsonpath={range .items[*]}{.status.nodeInfo.kubeletVersion} {end}";
        let text = self.lab.kubectl(&["get", "nodes", "-o", path]).unwrap().ok("kubectl get nodes").unwrap();
        text.split_whitespace().map(|version| version.split('+').next().unwrap().to_owned()).collect()
    }

    /// Nothing is left to do with that bundle, and everything is well.
    fn is_of(&self, bundle: &str, version: &str) {
        assert_eq!(self.kubelets(), [version; 4]);
        let plan = self.run("plan", &["--bundle", bundle]);
        assert_eq!(plan.code, 0, "{}{}", plan.out, plan.err);
        eventually(Duration::from_secs(60), || {
            let status = self.run("status", &[]);
            anyhow::ensure!(status.code == 0, "{}{}", status.out, status.err);
            Ok(())
        })
        .unwrap();
    }

    fn goes_to_the_next_minor(&self, own: &str) {
        let plan = self.upgrade("plan", &["--bundle", own]).ok("upgrade plan").unwrap();
        assert!(plan.contains("v1.36.0+kinit.0.1.0 (emulating 1.35)"), "{plan}");
        assert_eq!(self.serves().0, "35", "a plan changes nothing");
        self.upgrade("apply", &["--bundle", own]).ok("upgrade apply").unwrap();
        assert_eq!(self.serves(), ("36".to_owned(), true));
        self.is_of(own, "v1.36.0");
        let backups = self.lab.dir.join("backups");
        let made = std::fs::read_dir(backups).unwrap().filter_map(Result::ok).map(|e| e.file_name());
        assert_eq!(made.filter(|name| name.to_string_lossy().ends_with(".kinit-backup")).count(), 1);
    }

    /// What must not be changes nothing.
    fn refuses(&self, own: &str, next: &str) {
        let apply = self.run("apply", &["--bundle", next, "--yes"]);
        assert!(apply.code == 6 && apply.err.contains("kinit upgrade plan"), "{}", apply.err);
        let down = self.bundles.emulating("1.34").unwrap();
        let down = self.upgrade("apply", &["--bundle", &down]);
        assert!(down.code == 5 && down.err.contains("VersionSkew") && down.err.contains("rollback"), "{}", down.err);
        let nowhere = self.upgrade("apply", &["v1.99.0"]);
        assert!(nowhere.code == 10 && nowhere.err.contains("v1.99.0 is not on this desk"), "{}", nowhere.err);
        let ahead = self.upgrade("apply", &["--bundle", next, "--hosts", "nobody"]);
        assert!(ahead.code == 6 && ahead.err.contains("no host \"nobody\""), "{}", ahead.err);
        // A bundle that somebody has changed, and one that nobody has signed.
        let manifest = std::path::Path::new(next).join("bundle.yaml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(&manifest, text.replacen("sha256: ", "sha256: 00", 1)).unwrap();
        assert_eq!(self.upgrade("apply", &["--bundle", next]).code, 10);
        let image = std::path::Path::new(next).join("images/pause.tar");
        std::fs::write(&manifest, &text).unwrap();
        let bytes = std::fs::read(&image).unwrap();
        std::fs::write(&image, [&bytes[..], b"x"].concat()).unwrap();
        let changed = self.upgrade("apply", &["--bundle", next]);
        assert!(changed.code == 10 && changed.err.contains("images/pause.tar"), "{}", changed.err);
        std::fs::write(&image, bytes).unwrap();
        let key = self.lab.dir.join("key.pem").display().to_string();
        let public = self.lab.kinit(&["bundle", "new-key", &key]).unwrap().ok("new-key").unwrap();
        let file = std::fs::read_to_string(self.lab.file()).unwrap();
        let trusting = format!("spec:\n  bundles:\n    trustedKeys:\n    - key: {}\n", public.trim());
        std::fs::write(self.lab.file(), file.replacen("spec:\n", &trusting, 1)).unwrap();
        let unsigned = self.upgrade("apply", &["--bundle", next]);
        assert!(unsigned.code == 10 && unsigned.err.contains("not signed"), "{}", unsigned.err);
        self.lab.kinit(&["bundle", "sign", next, "--key", &key]).unwrap().ok("bundle sign").unwrap();
        self.upgrade("plan", &["--bundle", next]).ok("a signed bundle").unwrap();
        std::fs::write(self.lab.file(), file).unwrap();
        self.is_of(own, "v1.36.0");
    }

    /// Killed at a moment that the clock chooses; the same command finishes it, nodes drained.
    fn is_upgraded(&self, next: &str) {
        self.lab
            .run_kubectl(Kubectl::Trixie, &["create", "-f", "-"], GUARDED)
            .unwrap()
            .ok("create a guarded pod")
            .unwrap();
        let ready = ["rollout", "status", "deployment/guarded", "--timeout=60s"];
        self.lab.kubectl(&ready).unwrap().ok("a guarded pod").unwrap();
        let blocked = self.upgrade("apply", &["--bundle", next, "--drain", "always"]);
        let names =
            blocked.err.contains("PodDisruptionBudget default/guarded") && blocked.err.contains("default/guarded-");
        assert!(blocked.code == 5 && names, "{}{}", blocked.out, blocked.err);
        self.lab.kubectl(&["delete", "deployment,pdb", "guarded"]).unwrap().ok("delete the guarded pod").unwrap();
        let file = self.lab.file().display().to_string();
        let arguments =
            ["upgrade", "apply", "-f", &file, "--bundle", next, "--yes", "--no-backup", "--drain", "always"];
        let moment = Duration::from_millis(2000 + u64::from(std::process::id() % 97) * 60);
        let mut first = self.lab.kinit_command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment);
        first.kill().unwrap();
        first.wait().unwrap();
        println!("   upgrade killed after {moment:.1?}");
        self.lab.kinit(&arguments).unwrap().ok("upgrade apply").unwrap();
        self.is_of(next, "v1.36.1");
        let cordoned = ["get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}"];
        assert_eq!(self.lab.kubectl(&cordoned).unwrap().ok("kubectl get nodes").unwrap(), "");
    }

    /// The host at work gets its previous version back by itself, and the others are not touched.
    fn puts_back(&self) {
        let broken = self.bundles.broken().unwrap();
        let failed = self.upgrade("apply", &["--bundle", &broken, "--no-backup"]);
        assert_eq!(failed.code, 7, "{}{}", failed.out, failed.err);
        for words in
            ["kube-controller-manager.service", "this program is broken on purpose", "is back at its previous version"]
        {
            assert!(failed.err.contains(words), "{words}: {}", failed.err);
        }
        let next = self.lab.dir.join("bundle-v1.36.1").display().to_string();
        self.is_of(&next, "v1.36.1");
    }

    /// Without a bundle: the hosts have the programs still.
    fn rolls_back(&self, own: &str) {
        self.upgrade("rollback", &["--no-backup"]).ok("upgrade rollback").unwrap();
        self.is_of(own, "v1.36.0");
    }

    /// What is well, and what is not, is told with what to do about it.
    fn is_diagnosed(&self, own: &str) {
        let well = self.run("doctor", &["--bundle", own]);
        assert_eq!(well.code, 0, "{}{}", well.out, well.err);
        assert!(well.out.contains("0 errors"), "{}", well.out);
        let secure = self.run("doctor", &["--cis"]);
        assert!(secure.code == 0 && secure.out.contains(" pass, 0 fail, "), "{}{}", secure.out, secure.err);
        self.lab.ssh("w1", "chmod 644 /var/lib/kubelet/config.yaml").unwrap();
        let open = self.run("doctor", &["--cis"]);
        self.lab.ssh("w1", "chmod 600 /var/lib/kubelet/config.yaml").unwrap();
        assert!(open.code == 8 && open.out.contains("/var/lib/kubelet/config.yaml 644 root:root"), "{}", open.out);
        self.lab.ssh("cp2", "systemctl stop kube-scheduler").unwrap();
        let ill = self.run("doctor", &["--bundle", own]);
        self.lab.ssh("cp2", "systemctl start kube-scheduler").unwrap();
        assert_eq!(ill.code, 8, "{}{}", ill.out, ill.err);
        assert!(ill.out.contains("kube-scheduler") && ill.out.contains("Drift"), "{}", ill.out);
    }
}
