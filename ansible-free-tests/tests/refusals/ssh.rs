//! SSH as people have it: sudo, jump hosts, the desk's `~/.ssh/config`, shells with habits.

use std::os::unix::fs::PermissionsExt;

use ansible_free_tests::{Lab, Ran};

use crate::untouched;

const PASSWORD: &str = "correct-horse";

fn address(lab: &Lab, host: &str) -> String {
    lab.ssh(host, "hostname -I").unwrap().split_whitespace().next().unwrap().to_owned()
}

/// A file on the desk that only its owner may read.
fn private(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// A user who has the desk's key and may nothing yet.
fn add_user(lab: &Lab, host: &str, user: &str) {
    let command = format!(
        "useradd -m -s /bin/bash {user} && echo {user}:{PASSWORD} | chpasswd && install -d -m 700 -o {user} /home/{user}/.ssh && \
         install -m 600 -o {user} /root/.ssh/authorized_keys /home/{user}/.ssh/"
    );
    lab.ssh(host, &command).unwrap();
}

/// Plans, and changes nothing.
fn plan(lab: &Lab, file: &str, more: &[&str]) -> Ran {
    lab.kinit(&[&["init", "-f", file, "--dry-run"], more].concat()).unwrap()
}

#[test]
fn a_user_becomes_root_by_sudo_or_is_told_why_not() {
    // Hosts of its own: other tests' runs would hold their locks.
    let lab = &Lab::up("sudo", 0, 1, 1).unwrap();
    ["cp1", "w1"].iter().for_each(|host| add_user(lab, host, "ops"));
    let file = lab.variant("sudo.yaml", |text| text.replace("  ssh:\n", "  ssh:\n    user: ops\n")).unwrap();
    let (right, wrong) = (private(lab, "right", &format!("{PASSWORD}\n")), private(lab, "wrong", "battery\n"));
    let [right, wrong] = [right, wrong].map(|path| format!("--sudo-password-file={path}"));
    let refused = |ran: Ran, words: &str| {
        assert_eq!(ran.code, 4, "{}", ran.err);
        assert!(["cp1", "w1"].iter().all(|host| ran.err.contains(&format!("{host}: {words}"))), "{}", ran.err);
        assert!(!format!("{}{}", ran.out, ran.err).contains(PASSWORD));
    };
    refused(plan(lab, &file, &[&right]), "sudo: ops may not become root on this host: ops is not in the sudoers file");
    ["cp1", "w1"].iter().for_each(|host| drop(lab.ssh(host, "usermod -aG sudo ops").unwrap()));
    refused(plan(lab, &file, &[&wrong]), "sudo does not take this password of ops");
    plan(lab, &file, &[&right]).ok("kinit init --dry-run by sudo with a password").unwrap();
    // By a descriptor of the shell's.
    let kinit = lab.kinit_command(&[]).get_program().to_string_lossy().into_owned();
    let script = format!("{kinit} init -f {file} --dry-run --sudo-password-fd 7 7<<<{PASSWORD}");
    let ran = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    // What runs as root is root's, and nobody else could have written to it.
    let owners = lab.ssh("w1", "find /run -maxdepth 1 -name 'kinit-agent*' -printf '%u %m\\n'").unwrap();
    assert_eq!(owners, "root 700\n");
    assert_eq!(
        lab.ssh("w1", "find /home/ops -type f -newer /home/ops/.ssh/authorized_keys ! -name .sudo_as_admin_successful")
            .unwrap(),
        ""
    );
    let logged = lab.ssh("w1", &format!("journalctl --no-pager | grep -c {PASSWORD} || true")).unwrap();
    assert_eq!(logged.trim(), "0");
    ["cp1", "w1"].iter().for_each(|host| {
        lab.ssh(host, "echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops").unwrap();
    });
    plan(lab, &file, &[&wrong]).ok("kinit init --dry-run by sudo, which asks for nothing").unwrap();
    lab.ssh("cp1", "echo 'Defaults:ops requiretty' >> /etc/sudoers.d/ops").unwrap();
    let ran = plan(lab, &file, &[]);
    assert!(ran.code == 4 && ran.err.contains("cp1: sudo on this host wants a terminal (requiretty)"), "{}", ran.err);
    untouched(lab);
    lab.down().unwrap();
}

#[test]
fn the_desks_ssh_configuration_leads_through_a_jump_host_whose_key_is_checked() {
    let lab = crate::lab();
    let (cp1, w1) = (address(lab, "cp1"), address(lab, "w1"));
    let (key, known) = (lab.dir.join("id_ed25519"), lab.dir.join("known_hosts"));
    let config = |known: &str| {
        format!(
            "Host jump\n  HostName {cp1}\n  User root\nHost worker\n  HostName {w1}\n  ProxyJump jump\n\
             Host *\n  IdentityFile {}\n  UserKnownHostsFile {known}\n  IdentitiesOnly yes\n",
            key.display()
        )
    };
    let file = |name: &str, known: &str| {
        let config = private(lab, &format!("{name}.config"), &config(known));
        lab.variant(&format!("{name}.yaml"), |text| {
            let (head, _) = text.split_once("    identityFile:").unwrap();
            let (_, rest) = text.split_once("/known_hosts\n").unwrap();
            format!("{head}    configFile: {config}\n{rest}    ssh: {{address: worker}}\n")
        })
        .unwrap()
    };
    let right = file("jump", &known.display().to_string());
    plan(lab, &right, &[]).ok("kinit init --dry-run through a jump host").unwrap();
    let came = lab
        .ssh("w1", "journalctl -u ssh --no-pager | grep -c 'Accepted.* from '$(getent hosts cp1 | cut -d' ' -f1)' '");
    assert!(came.unwrap().trim().parse::<u32>().unwrap() > 0, "nobody came to w1 from cp1");
    // The worker's key is known and the jump host's is not.
    let only: String = std::fs::read_to_string(&known).unwrap().lines().filter(|l| l.starts_with(&w1)).collect();
    let ran = plan(lab, &file("stranger", &private(lab, "only_w1", &format!("{only}\n"))), &[]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(
        ran.err.contains(&format!("w1: jump host {cp1}:22: the host is not known; its key is SHA256:")),
        "{}",
        ran.err
    );
    untouched(lab);
}

#[test]
fn a_shell_that_talks_with_a_umask_of_its_own_and_an_sshd_without_sftp_are_no_obstacle() {
    let lab = &Lab::up("habits", 0, 1, 0).unwrap();
    lab.ssh("cp1", "sed -i '1i echo Welcome, dear administrator; umask 077' ~/.bashrc").unwrap();
    lab.ssh("cp1", "sed -i 's/^Subsystem/#&/' /etc/ssh/sshd_config && systemctl restart ssh").unwrap();
    let said = lab.on_cluster("init", &["--dry-run", "--output=jsonl"]).unwrap().ok("kinit init --dry-run").unwrap();
    assert!(said.lines().all(|l| l.starts_with("{\"") && l.ends_with('}')), "{said}");
    lab.down().unwrap();
}
