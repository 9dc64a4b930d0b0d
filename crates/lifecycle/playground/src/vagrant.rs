//! The same hosts as virtual machines: a Vagrantfile of a topology. Vagrant's language is Ruby; what is written here is
//! data in it, and a loop.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::topology::{Host, Role, Topology};

/// The image that the machines start from: plain Debian.
pub const BOX: &str = "debian/trixie64";

/// VirtualBox gives host-only networks addresses of 192.168.56.0/21 unless it is told otherwise (its manual, "Host-Only
/// Networking"); libvirt takes any.
pub fn address(host: &Host) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 56, host.number)
}

/// CPUs and MiB of memory: what preflight asks for and some air.
fn size(role: Role) -> (u8, u32) {
    match role {
        Role::LoadBalancer => (1, 512),
        Role::ControlPlane => (2, 2560),
        Role::Worker => (2, 2048),
    }
}

/// The Vagrantfile. Root of every machine takes the key `id_ed25519.pub` beside it.
pub fn vagrantfile(topology: &Topology) -> String {
    let mut text = String::from(
        "# Made by `kinit playground vagrant`. It was never tried on a hypervisor: there is none where kinit is made.\n\
         HOSTS = [\n",
    );
    for host in &topology.hosts {
        let (cpus, memory) = size(host.role);
        writeln!(
            text,
            "  {{ name: \"{}\", address: \"{}\", cpus: {cpus}, memory: {memory} }},",
            host.name,
            address(host)
        )
        .unwrap_or_default();
    }
    text.push_str("].freeze\n\n");
    text.push_str("KEY = File.read(File.join(__dir__, \"id_ed25519.pub\")).strip\n\n");
    text.push_str("Vagrant.configure(\"2\") do |config|\n");
    text.push_str(&format!("  config.vm.box = \"{BOX}\"\n"));
    text.push_str("  config.vm.synced_folder \".\", \"/vagrant\", disabled: true\n");
    text.push_str(MACHINES);
    text.push_str("end\n");
    text
}

const MACHINES: &str = r#"  HOSTS.each do |host|
    config.vm.define host[:name] do |machine|
      machine.vm.hostname = host[:name]
      machine.vm.network "private_network", ip: host[:address]
      machine.vm.provider "virtualbox" do |provider|
        provider.cpus = host[:cpus]
        provider.memory = host[:memory]
      end
      machine.vm.provider "libvirt" do |provider|
        provider.cpus = host[:cpus]
        provider.memory = host[:memory]
      end
      machine.vm.provision "shell", args: [KEY], inline: <<~SHELL
        install -d -m 700 /root/.ssh
        grep -qxF "$1" /root/.ssh/authorized_keys 2>/dev/null || echo "$1" >> /root/.ssh/authorized_keys
        chmod 600 /root/.ssh/authorized_keys
      SHELL
    end
  end
"#;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Names and addresses in the list of hosts.
    fn hosts(text: &str) -> Vec<(String, String)> {
        let quoted =
            |line: &str, name: &str| Some(line.split_once(&format!("{name}: \""))?.1.split('"').next()?.to_owned());
        text.lines().filter_map(|line| Some((quoted(line, "name")?, quoted(line, "address")?))).collect()
    }

    /// Blocks that begin and end, heredocs left out: what `ruby -c` would miss first.
    fn open_blocks(text: &str) -> i32 {
        let (mut open, mut heredoc) = (0, false);
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            match heredoc {
                true => heredoc = line != "SHELL",
                false => {
                    heredoc = line.contains("<<~SHELL");
                    open += i32::from(line.ends_with('|') && line.contains(" do |")) - i32::from(line == "end");
                    assert!(open >= 0, "an `end` too many: {line}");
                }
            }
        }
        assert!(!heredoc, "the script does not end");
        open
    }

    #[test]
    fn every_host_is_a_machine_with_an_address_of_its_own() {
        let topology = Topology::new(7, 2, 3, 2).unwrap();
        let text = vagrantfile(&topology);
        let expected: Vec<_> = topology.hosts.iter().map(|h| (h.name.clone(), address(h).to_string())).collect();
        assert_eq!(hosts(&text), expected);
        assert_eq!(open_blocks(&text), 0);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(text.starts_with("# Made by") && text.contains("never tried on a hypervisor"));
    }

    /// Where Ruby is installed it is asked; elsewhere the test above is what there is.
    #[test]
    fn ruby_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("Vagrantfile");
        std::fs::write(&file, vagrantfile(&Topology::new(0, 1, 3, 2).unwrap())).unwrap();
        match Command::new("ruby").arg("-c").arg(&file).output() {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// `kinit playground vagrant vagrant` makes it anew.
    #[test]
    fn the_one_in_this_repository_is_the_default() {
        let text = vagrantfile(&Topology::new(0, 1, 3, 2).unwrap());
        assert_eq!(include_str!("../../../../vagrant/Vagrantfile"), text);
    }
}
