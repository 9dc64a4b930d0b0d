//! Bad input stops a run before anything is changed, and says where, what and what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod identity;
mod packages;
mod ssh;

use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;

use ansible_free_tests::Lab;

static LAB: OnceLock<Lab> = OnceLock::new();

/// Two hosts are enough: everything here fails before they are touched.
fn lab() -> &'static Lab {
    LAB.get_or_init(|| Lab::up("bad", 0, 1, 1).unwrap())
}

/// Nothing of kinit's may be on the host.
fn untouched(lab: &Lab) {
    for host in ["cp1", "w1"] {
        let found =
            lab.ssh(host, "ls -d /etc/kubernetes /var/lib/kinit /usr/local/lib/kinit 2>/dev/null || true").unwrap();
        assert_eq!(found, "", "{host} was changed");
    }
}

fn init(file: &str, more: &[&str]) -> ansible_free_tests::Ran {
    lab().kinit(&[&["init", "-f", file], more].concat()).unwrap()
}

#[test]
fn an_unreachable_host_is_named() {
    let lab = lab();
    let file = lab
        .variant("unreachable.yaml", |text| {
            format!("{text}  - name: w9\n    address: 10.77.251.9\n    roles: [worker]\n")
        })
        .unwrap();
    let ran = init(&file, &["--connect-timeout", "2"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("w9: connect to 10.77.251.9:22"), "{}", ran.err);
    untouched(lab);
}

#[test]
fn an_unknown_host_key_is_refused_without_the_flag_and_remembered_with_it() {
    let lab = lab();
    let known = lab.dir.join("known_here");
    std::fs::remove_file(&known).ok();
    let file = lab.variant("unknown.yaml", |text| text.replace("/known_hosts", "/known_here")).unwrap();
    let ran = init(&file, &["--dry-run"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(
        ran.err.contains("the host is not known; its key is SHA256:") && ran.err.contains("--accept-new-host-keys"),
        "{}",
        ran.err
    );
    let ran = init(&file, &["--dry-run", "--accept-new-host-keys"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(init(&file, &["--dry-run"]).code == 0, "the key was not remembered");
    untouched(lab);
}

#[test]
fn a_changed_host_key_is_refused_even_with_the_flag() {
    let lab = lab();
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    let address = lab.ssh("cp1", "hostname -I").unwrap().trim().to_owned();
    std::fs::write(lab.dir.join("known_wrong"), format!("{address} {other}\n")).unwrap();
    let file = lab.variant("changed.yaml", |text| text.replace("/known_hosts", "/known_wrong")).unwrap();
    let ran = init(&file, &["--accept-new-host-keys"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("line 1 has another"), "{}", ran.err);
    untouched(lab);
}

#[test]
fn a_wrong_ssh_key_says_which_were_tried() {
    let lab = lab();
    let key = lab.dir.join("wrong_key");
    std::fs::remove_file(&key).ok();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(made.success());
    let file = lab.variant("wrong-key.yaml", |text| text.replace("/id_ed25519", "/wrong_key")).unwrap();
    let ran = init(&file, &[]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("accepts none of these keys") && ran.err.contains("wrong_key"), "{}", ran.err);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = init(&file, &[]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("is open to others (mode 0644); `chmod 600 "), "{}", ran.err);
    untouched(lab);
}

#[test]
fn a_host_that_another_kinit_works_on_is_waited_for() {
    let lab = lab();
    lab.ssh("w1", "systemd-run -q --unit=other-kinit --collect flock /run/kinit.lock sleep 3").unwrap();
    let seen = ansible_free_tests::eventually(std::time::Duration::from_secs(2), || {
        // Who only looks does not wait.
        let look = lab.on_cluster("reset", &["--dry-run"])?;
        anyhow::ensure!(look.code == 0 && !look.err.contains("another kinit"), "{} {}", look.code, look.err);
        // There is nothing to reset, but it would be changed.
        let ran = lab.on_cluster("reset", &["--force"])?;
        anyhow::ensure!(ran.code == 0 && ran.err.contains("waiting for it to end"), "{} {}", ran.code, ran.err);
        Ok(ran.err)
    });
    assert!(seen.unwrap().contains("[connect] w1: another kinit works on this host"));
    untouched(lab);
}

#[test]
fn an_occupied_port_is_found_and_can_be_ignored_by_name() {
    let lab = lab();
    lab.ssh("cp1", "systemd-run -q --unit=squatter --collect socat TCP-LISTEN:6443,fork - 2>/dev/null || systemd-run -q --unit=squatter --collect /usr/bin/perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0); setsockopt(S,SOL_SOCKET,SO_REUSEADDR,1); bind(S,sockaddr_in(6443,INADDR_ANY)); listen(S,5); sleep'").unwrap();
    let seen = ansible_free_tests::eventually(std::time::Duration::from_secs(10), || {
        let ran = lab.on_cluster("init", &["--dry-run"])?;
        anyhow::ensure!(ran.code == 5, "{}", ran.err);
        Ok(ran.err)
    });
    let ignored = lab.on_cluster("init", &["--dry-run", "--ignore-preflight-errors=Port-6443,Prot-1"]).unwrap();
    lab.ssh("cp1", "systemctl stop squatter").unwrap();
    let seen = seen.unwrap();
    assert!(seen.contains("failed: cp1: Port-6443: squatter.service listens on port 6443"), "{seen}");
    assert_eq!(ignored.code, 0, "{}", ignored.err);
    assert!(ignored.err.contains("--ignore-preflight-errors=Prot-1: no check of this run failed under that name"));
    untouched(lab);
}

#[test]
fn hosts_that_do_not_reach_each_other_are_told() {
    let lab = lab();
    lab.playground("partition", &["cp1", "w1"]).unwrap().ok("partition").unwrap();
    let ran = lab.on_cluster("init", &["--dry-run"]).unwrap();
    lab.playground("heal", &[]).unwrap().ok("heal").unwrap();
    assert_eq!(ran.code, 5, "{}", ran.err);
    for (from, to, port) in [("cp1", "w1", "10250"), ("w1", "cp1", "6443")] {
        let line = ran.err.lines().find(|line| line.contains(&format!("failed: {from}: HostToHost")));
        let line = line.unwrap_or_else(|| panic!("{from}: {}", ran.err));
        assert!(line.contains(&format!("does not get through to {to}")) && line.contains(port), "{line}");
    }
    untouched(lab);
}

#[test]
fn all_that_is_wrong_with_hosts_is_told_at_once() {
    let lab = lab();
    let lie = |file: &str, text: &str| {
        format!(
            "printf '{text}' > /tmp/lie && chmod 644 /tmp/lie && cp /tmp/lie /tmp/lie-$$ && mount --bind /tmp/lie-$$ $(readlink -f {file})"
        )
    };
    let wrong = [
        ("cp1", lie("/etc/os-release", "ID=fedora\\nPRETTY_NAME=\"Fedora Linux 44\"\\n")),
        ("cp1", "mount -t tmpfs -o size=64m none /var/lib".to_owned()),
        ("w1", lie("/etc/machine-id", &lab.ssh("cp1", "cat /etc/machine-id").unwrap())),
        ("w1", "mkdir /etc/kubernetes && touch /etc/kubernetes/kubelet.conf".to_owned()),
    ];
    for (host, command) in &wrong {
        lab.ssh(host, command).unwrap();
    }
    let ran = lab.on_cluster("init", &[]).unwrap();
    lab.ssh("cp1", "umount /var/lib /usr/lib/os-release").unwrap();
    lab.ssh("w1", "umount /etc/machine-id; rm -r /etc/kubernetes").unwrap();
    assert_eq!(ran.code, 5, "{}", ran.err);
    for line in [
        "failed: cp1: SystemVerification: \"Fedora Linux 44\" is not supported (use Debian or Ubuntu)",
        "failed: cp1: DiskFree: 64 MiB are free on the disk of /var/lib; 2048 are needed (make room)",
        "failed: w1: MachineId: cp1 and w1 have the same machine-id",
        "failed: w1: FileAvailable--etc-kubernetes-kubelet.conf: /etc/kubernetes/kubelet.conf exists",
    ] {
        assert!(ran.err.contains(line), "{line} is missing in: {}", ran.err);
    }
    untouched(lab);
}

#[test]
fn a_reader_that_goes_away_ends_no_run() {
    let lab = lab();
    let mut command = lab.kinit_command(&["init", "--dry-run", "-f", &lab.file().display().to_string()]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn mistakes_in_the_file_are_told_with_their_path() {
    let lab = lab();
    for (from, to, expected) in [
        ("roles: [control-plane]", "role: [control-plane]", "spec.hosts[0].role: unknown field"),
        ("  ssh:", "  ssh:\n    user: o ps", "spec.ssh.user: \"o ps\" is not the name of a user"),
        ("name: cp1", "name: CP_1", "spec.hosts[0].name"),
        ("spec:", "spec:\n  networking: {podSubnet: 10.96.0.0/16}", "overlap"),
        (
            "  hosts:",
            "  hosts:\n  - {name: cp1, address: 192.0.2.1, roles: [worker]}",
            "is the name of spec.hosts[0] too",
        ),
        ("kinit.dev/v1alpha1", "kubeadm.k8s.io/v1beta4", "this kinit reads apiVersion kinit.dev/v1alpha1"),
    ] {
        let file = lab.variant("mistake.yaml", |text| text.replacen(from, to, 1)).unwrap();
        let ran = init(&file, &[]);
        assert_eq!(ran.code, 3, "{expected}: {}", ran.err);
        assert!(ran.err.contains(expected), "{expected} is missing in: {}", ran.err);
    }
    untouched(lab);
}

#[test]
fn what_is_no_cluster_file_or_no_known_hosts_is_refused_at_once() {
    let lab = lab();
    for (file, expected) in [("/dev/zero", "longer than 4 MiB"), ("/nonexistent", "No such file"), ("/", "directory")] {
        let ran = init(file, &[]);
        assert_eq!(ran.code, 3, "{file}: {}", ran.err);
        assert!(ran.err.contains(expected), "{file}: {}", ran.err);
    }
    let file = lab.variant("label.yaml", |text| format!("{text}    labels: {{x: \"a\\nExecStartPre=/bin/false\"}}\n"));
    let ran = init(&file.unwrap(), &[]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("is not a label"), "{}", ran.err);
    // A folder where known_hosts should be knows nobody; it must not make every key a new one.
    let file = lab.variant("folder.yaml", |text| text.replace("/known_hosts", "/")).unwrap();
    let ran = init(&file, &["--dry-run", "--accept-new-host-keys"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("it is not a regular file"), "{}", ran.err);
    let cluster = lab.file().display().to_string();
    assert_eq!(init(&cluster, &["--skip-phases=nope"]).code, 2);
    let ran = init(&cluster, &["--kubeconfig=/proc/none/admin.conf"]);
    assert!(ran.code == 1 && ran.err.contains("write the kubeconfig"), "{}", ran.err);
    untouched(lab);
}

#[test]
fn a_signal_ends_a_run_with_its_own_code() {
    let lab = lab();
    // A server that accepts and says nothing keeps kinit waiting.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let file =
        lab.variant("silent.yaml", |text| format!("{text}    ssh: {{address: 127.0.0.1, port: {port}}}\n")).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = lab.kinit_command(&["init", "--dry-run", "-f", &file]);
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        // The connection says that kinit has begun to wait.
        let _connection = silent.accept().unwrap();
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(&format!("stopped by SIG{signal}")), "{said}");
    }
    untouched(lab);
}

#[test]
fn a_dry_run_prints_the_plan_and_touches_nothing() {
    let lab = lab();
    let plan = lab.on_cluster("init", &["--dry-run"]).unwrap().ok("kinit init --dry-run").unwrap();
    for line in ["cp1        create ca", "cp1        start etcd.service", "cluster    wait for all nodes to be Ready"] {
        assert!(plan.contains(line), "{line} is missing in:\n{plan}");
    }
    untouched(lab);
}
