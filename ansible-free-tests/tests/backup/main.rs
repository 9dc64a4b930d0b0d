//! A cluster's data are backed up, all control planes are lost, and the backup brings them back; a survivor brings back
//! a cluster without a quorum.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ansible_free_tests::{Kubectl, Lab, Ran, eventually};
use anyhow::ensure;
use serde_json::Value;

#[test]
fn what_is_lost_comes_back() {
    let lab = Lab::standing().unwrap_or_else(|| Lab::up("backup", 1, 3, 1).unwrap());
    let cluster = Cluster::start(&lab);
    let during = |what: &str, work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        println!("-- {what}: {:.1} s", begun.elapsed().as_secs_f64());
    };
    during("objects", &|| cluster.gets_objects());
    during("a backup, and looking into it", &|| cluster.is_backed_up());
    during("a scheduled backup", &|| cluster.makes_one_by_itself());
    during("bad input", &|| cluster.refuses());
    during("all control planes are lost, and restored", &|| cluster.loses_all_control_planes());
    during("back in time while it runs, killed in the middle", &|| cluster.goes_back());
    during("lost quorum", &|| cluster.loses_its_quorum());
    lab.down().unwrap();
}

/// Where scheduled backups go, on each control plane.
const TARGET: &str = "/var/backups/kinit";

struct Cluster<'a> {
    lab: &'a Lab,
    file: String,
    identity: String,
    folder: PathBuf,
    /// The file's text.
    text: String,
    /// What the cluster is called.
    name: String,
}

impl<'a> Cluster<'a> {
    fn start(lab: &'a Lab) -> Self {
        let identity = lab.dir.join("backup.key").display().to_string();
        let recipient = lab.kinit(&["backup", "new-identity", &identity]).unwrap().ok("new-identity").unwrap();
        let section = format!(
            "  backup:\n    recipients: [{}]\n    schedule: monthly\n    targets: [directory: {TARGET}]\n  hosts:",
            recipient.trim()
        );
        let file = lab.variant("backed-up.yaml", |text| text.replacen("  hosts:", &section, 1)).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let (_, rest) = text.split_once("  name: ").unwrap();
        let name = rest.lines().next().unwrap().to_owned();
        let cluster = Self { lab, file, identity, folder: lab.dir.join("backups"), text, name };
        cluster.run("init", &[]).ok("kinit init").unwrap();
        cluster
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Ran {
        self.lab.kinit(&[&[verb, "-f", &self.file], arguments].concat()).unwrap()
    }

    fn backup(&self, arguments: &[&str]) -> Ran {
        self.lab.kinit(&[&["backup"], arguments].concat()).unwrap()
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.lab.kubectl(arguments).unwrap().ok(&format!("kubectl {arguments:?}")).unwrap()
    }

    /// The only backup there is.
    fn newest(&self) -> String {
        let names = std::fs::read_dir(&self.folder).unwrap().map(|e| e.unwrap().path().display().to_string());
        names.filter(|name| name.ends_with(".kinit-backup")).max().unwrap()
    }

    fn gets_objects(&self) {
        self.kubectl(&["create", "namespace", "prod"]);
        self.kubectl(&["create", "-n", "prod", "configmap", "kept", "--from-literal=a=b"]);
        self.kubectl(&["create", "-n", "prod", "secret", "generic", "kept", "--from-literal=password=correct-horse"]);
        self.kubectl(&["create", "-n", "prod", "serviceaccount", "robot"]);
    }

    fn is_backed_up(&self) {
        let refused = self.lab.on_cluster("backup", &[]).unwrap();
        assert_eq!(refused.code, 2);
        let plain = self.lab.file().display().to_string();
        let refused = self.backup(&["create", "-f", &plain]);
        assert!(refused.code == 2 && refused.err.contains("new-identity"), "{}", refused.err);
        let made = self.backup(&["create", "-f", &self.file, "--output", "jsonl"]).ok("backup create").unwrap();
        let made: Value = serde_json::from_str(made.lines().last().unwrap()).unwrap();
        let proof = &made["card"]["manifest"]["proof"];
        assert!(proof["comparedWithSource"].as_bool().unwrap(), "{made}");
        assert!(proof["secrets"]["encrypted"].as_u64().unwrap() > 0 && proof["etcd"]["keys"].as_u64().unwrap() > 100);
        let bytes = std::fs::read(self.newest()).unwrap();
        assert!(bytes.starts_with(b"age-encryption.org/v1"));
        let left = self.lab.ssh("cp1", "ls /var/lib/kinit/scratch 2>/dev/null; true").unwrap();
        assert_eq!(left, "", "left on cp1");
        let list = self.backup(&["list", &self.folder.display().to_string()]).ok("backup list").unwrap();
        assert!(list.contains(" proven "), "{list}");
        let show = |arguments: &[&str]| {
            let newest = self.newest();
            let all = [&["show", &newest, "-i", &self.identity, "-f", &self.file][..], arguments].concat();
            self.backup(&all)
        };
        let secret = show(&["--resource", "secret/kept", "-n", "prod"]).ok("show").unwrap();
        assert!(secret.contains("Y29ycmVjdC1ob3JzZQ=="), "{secret}");
        assert!(show(&["--resource", "secret/none", "-n", "prod"]).err.contains("has no secret/none"));
        assert!(show(&["--cat", "cluster.yaml"]).ok("show --cat").unwrap().contains("recipients"));
        let verified = self.backup(&["verify", &self.newest(), "-i", &self.identity, "-f", &self.file]);
        let verified = verified.ok("backup verify").unwrap();
        assert!(verified.contains("restored:") && verified.contains("all opened"), "{verified}");
    }

    /// All three timers go off, and one host makes the backup.
    fn makes_one_by_itself(&self) {
        let hosts = ["cp1", "cp2", "cp3"];
        std::thread::scope(|scope| {
            for host in hosts {
                scope.spawn(move || self.lab.ssh(host, "systemctl start kinit-backup.service").unwrap());
            }
        });
        let list = format!("ls {TARGET} 2>/dev/null; true");
        let all: String = hosts.iter().map(|host| self.lab.ssh(host, &list).unwrap()).collect();
        assert_eq!(all.lines().filter(|name| name.ends_with(".kinit-backup")).count(), 1, "{all}");
        for host in hosts {
            let metrics = self.lab.ssh(host, "cat /var/lib/kinit/metrics/backup.prom").unwrap();
            assert!(metrics.contains("kinit_backup_last_attempt_succeeded 1"), "{host}: {metrics}");
            let timer = self.lab.ssh(host, "systemctl is-active kinit-backup.timer").unwrap();
            assert_eq!(timer, "active\n");
        }
        let status = self.run("status", &[]).ok("status").unwrap();
        assert!(status.contains("last proven backup: "), "{status}");
        let history = self.run("history", &[]).ok("history").unwrap();
        assert!(history.contains("systemd@cp"), "{history}");
    }

    fn refuses(&self) {
        let (newest, good) = (self.newest(), std::fs::read(self.newest()).unwrap());
        let spoilt = |name: &str, bytes: &[u8]| {
            let path = self.lab.dir.join(name).display().to_string();
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let other = self.lab.dir.join("other.key").display().to_string();
        self.backup(&["new-identity", &other]).ok("new-identity").unwrap();
        let mut changed = good.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        let truncated = spoilt("truncated", &good[..good.len() / 2]);
        let tampered = spoilt("tampered", &changed);
        let foreign = spoilt("foreign", b"-----BEGIN CERTIFICATE-----");
        let hash = format!("sha256:{}", "0".repeat(64));
        for (arguments, words) in [
            (&[truncated.as_str(), "-i", &self.identity][..], "truncated"),
            (&[&tampered, "-i", &self.identity], "damaged"),
            (&[&foreign, "-i", &self.identity], "this is no backup"),
            (&[&newest, "-i", &other], "none of the identities opens"),
            (&[&newest], "--identity FILE"),
            (&[&newest, "-i", &self.identity, "--ca-cert-hash", &hash], "of another cluster"),
        ] {
            let refused = self.run("restore", &[arguments, &["--yes"]].concat());
            assert!(refused.code == 9 && refused.err.contains(words), "{arguments:?}: {}{}", refused.code, refused.err);
        }
        let refused = self.run("restore", &[&newest, "-i", &self.identity, "--yes"]);
        assert!(refused.code == 1 && refused.err.contains(&format!("--confirm {}", self.name)), "{}", refused.err);
        let refused = self.run("restore", &[&newest, "-i", &self.identity, "--confirm", "other"]);
        assert!(refused.code == 2, "{}", refused.err);
        let file = std::fs::read_to_string(&self.file).unwrap();
        let subnet = spoilt(
            "subnet.yaml",
            file.replacen("  hosts:", "  networking: {podSubnet: 10.9.0.0/16}\n  hosts:", 1).as_bytes(),
        );
        let refused = self.lab.kinit(&["restore", &newest, "-i", &self.identity, "-f", &subnet, "--yes"]).unwrap();
        assert!(refused.code == 6 && refused.err.contains("spec.networking.podSubnet"), "{}", refused.err);
        assert_eq!(self.run("status", &[]).code, 0, "nothing was changed");
    }

    /// What the backup has, and that everything works.
    fn is_whole(&self) {
        assert_eq!(self.kubectl(&["get", "-n", "prod", "cm", "kept", "-o", "jsonpath={.data.a}"]), "b");
        let secret = self.kubectl(&["get", "-n", "prod", "secret", "kept", "-o", "jsonpath={.data.password}"]);
        assert_eq!(secret, "Y29ycmVjdC1ob3JzZQ==");
        eventually(Duration::from_secs(60), || {
            let status = self.run("status", &[]);
            ensure!(status.code == 0, "{}{}", status.out, status.err);
            Ok(())
        })
        .unwrap();
        let plan = self.run("plan", &[]);
        assert_eq!(plan.code, 0, "{}{}", plan.out, plan.err);
    }

    fn members(&self) -> usize {
        let list = self.lab.kinit(&["etcd", "member", "list", "-f", &self.file, "--output", "jsonl"]).unwrap();
        list.ok("member list").unwrap().lines().count()
    }

    fn loses_all_control_planes(&self) {
        let uid = |kind: &str| self.kubectl(&["get", "-n", "prod", kind, "-o", "jsonpath={.metadata.uid}"]);
        let before = [uid("cm/kept"), uid("secret/kept"), uid("sa/robot")];
        let token = self.kubectl(&["create", "-n", "prod", "token", "robot"]);
        let version = self.kubectl(&["get", "-n", "prod", "cm/kept", "-o", "jsonpath={.metadata.resourceVersion}"]);
        for host in ["cp1", "cp2", "cp3"] {
            self.lab.playground("reinstall", &[host]).unwrap().ok("reinstall").unwrap();
        }
        // All that is left: the file and the identity.
        let newest = self.newest();
        let cluster = self.backup(&["show", &newest, "-i", &self.identity, "--cat", "cluster.yaml"]);
        std::fs::write(&self.file, cluster.ok("show --cat").unwrap()).unwrap();
        std::fs::remove_file(self.lab.dir.join("admin.conf")).unwrap();
        let shown = self.run("restore", &[&newest, "-i", &self.identity, "--dry-run"]).ok("restore --dry-run").unwrap();
        assert!(shown.contains("restore ca from the backup") && shown.contains("copy sa from cp1"), "{shown}");
        self.run("restore", &[&newest, "-i", &self.identity, "--yes"]).ok("kinit restore").unwrap();
        self.is_whole();
        assert_eq!(self.members(), 3);
        assert_eq!(before, [uid("cm/kept"), uid("secret/kept"), uid("sa/robot")]);
        let review =
            format!("apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {{token: {}}}\n", token.trim());
        let path = "jsonpath={.status.user.username}";
        let reviewed = self.lab.run_kubectl(Kubectl::Trixie, &["create", "-f", "-", "-o", path], &review).unwrap();
        assert_eq!(reviewed.ok("review a token").unwrap(), "system:serviceaccount:prod:robot");
        self.kubectl(&["create", "-n", "prod", "configmap", "later"]);
        let later = self.kubectl(&["get", "-n", "prod", "cm/later", "-o", "jsonpath={.metadata.resourceVersion}"]);
        let number = |text: &str| text.parse::<u64>().unwrap();
        assert!(number(&later) > number(&version) + 900_000_000, "{version} and {later}");
    }

    fn goes_back(&self) {
        let newest = self.newest();
        let arguments = ["restore", "-f", &self.file, &newest, "-i", &self.identity, "--confirm", &self.name];
        let mut restore = self.lab.kinit_command(&arguments);
        let null = std::process::Stdio::null;
        let mut restore = restore.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
        // Killed when the data are in place: the marker tells.
        eventually(Duration::from_secs(60), || {
            let there = self.lab.ssh("cp1", "ls /var/lib/kinit/restore.json 2>/dev/null; true")?;
            ensure!(!there.is_empty(), "no marker yet");
            Ok(())
        })
        .unwrap();
        restore.kill().unwrap();
        restore.wait().unwrap();
        let again = self.run("restore", &[&newest, "-i", &self.identity, "--yes"]).ok("kinit restore").unwrap();
        assert!(!again.contains("restore /var/lib/etcd"), "the data were put in place again: {again}");
        self.is_whole();
        assert_eq!(self.members(), 3);
        let gone = self.lab.kubectl(&["get", "-n", "prod", "configmap", "later"]).unwrap();
        assert!(gone.code != 0 && gone.err.contains("NotFound"), "{}{}", gone.out, gone.err);
        let kept = self.lab.ssh("cp1", "ls /var/lib/etcd; ls /var/lib/kinit").unwrap();
        assert!(kept.contains("before-restore-") && !kept.contains("restore.json"), "{kept}");
    }

    fn loses_its_quorum(&self) {
        self.kubectl(&["create", "-n", "prod", "configmap", "last"]);
        let recover = |arguments: &[&str]| {
            self.lab.kinit(&[&["etcd", "recover", "-f", &self.file, "--from", "cp1"], arguments].concat()).unwrap()
        };
        let refused = recover(&["--yes"]);
        assert!(refused.code == 1 && refused.err.contains("nothing to recover"), "{}", refused.err);
        for host in ["cp2", "cp3"] {
            self.lab.playground("power-off", &[host]).unwrap().ok("power off").unwrap();
        }
        let refused = recover(&["--yes", "--connect-timeout", "3"]);
        assert!(refused.code == 4 && refused.err.contains("cp2"), "{}{}", refused.code, refused.err);
        let mut parts = self.text.split("  - name: ");
        let head = parts.next().unwrap().to_owned();
        let kept = parts.filter(|host| !host.starts_with("cp2") && !host.starts_with("cp3"));
        let kept: String = kept.map(|host| format!("  - name: {host}")).collect();
        std::fs::write(&self.file, head + &kept).unwrap();
        recover(&["--yes"]).ok("kinit etcd recover").unwrap();
        self.is_whole();
        assert_eq!(self.members(), 1);
        assert!(self.kubectl(&["get", "-n", "prod", "cm"]).contains("last"), "nothing is lost");
    }
}
