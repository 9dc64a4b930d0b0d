//! What is around the host and not of kinit's making: its firewall, its clock, its disk.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use kinit_resource::Firewall;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::netfilter;

/// Whether this system shares its kernel, clock and hardware with another (systemd's own mark).
pub(crate) fn is_container() -> bool {
    Path::new("/run/systemd/container").exists()
}

/// The hardware's identity, if it is this host's own (kubeadm's `product_uuid`).
pub(crate) fn product_uuid() -> Option<String> {
    if is_container() {
        return None;
    }
    let text = std::fs::read_to_string("/sys/class/dmi/id/product_uuid").ok()?;
    Some(text.trim().to_lowercase()).filter(|id| !id.is_empty())
}

/// What etcd writes at a time, and how many of these are measured at most.
const WRITE: [u8; 2300] = [0x5a; 2300];
const SAMPLES: usize = 100;
/// A slow disk is known to be slow after this long.
const BUDGET: Duration = Duration::from_millis(500);

/// The 99th percentile of the time that one write takes to be on the disk where `data` is or would be, as etcd's
/// documentation measures it (Hardware recommendations, Disks); in microseconds. The file has no name and is gone with
/// its descriptor. `None` where that cannot be done, or where etcd runs already: it has its own metrics.
pub(crate) fn fsync_p99(data: &Path) -> Option<u64> {
    if data.join("member").exists() {
        return None;
    }
    let folder = data.ancestors().find(|folder| folder.is_dir())?;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR).ok()?);
    let (mut times, begun) = (Vec::with_capacity(SAMPLES), Instant::now());
    while times.len() < SAMPLES && begun.elapsed() < BUDGET {
        let started = Instant::now();
        file.write_all(&WRITE).ok()?;
        file.sync_data().ok()?;
        times.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    percentile_99(times)
}

fn percentile_99(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    let rank = (values.len() * 99).div_ceil(100);
    values.get(rank.checked_sub(1)?).copied()
}

/// The longest that one question on the bus may take.
const ASK: Duration = Duration::from_secs(3);

async fn asked<T>(question: impl Future<Output = zbus::Result<T>>) -> Option<T> {
    tokio::time::timeout(ASK, question).await.ok()?.ok()
}

/// Whether the kernel's clock follows another (`timedatectl`'s "System clock synchronized"); `None` when it is not this
/// host's own, or when that cannot be learned.
pub(crate) async fn clock_synchronized() -> Option<bool> {
    if is_container() {
        return None;
    }
    asked(async {
        let bus = zbus::Connection::system().await?;
        let path = "/org/freedesktop/timedate1";
        let proxy = zbus::Proxy::new(&bus, "org.freedesktop.timedate1", path, "org.freedesktop.timedate1").await?;
        proxy.get_property::<bool>("NTPSynchronized").await
    })
    .await
}

/// Firewalls that drop what nobody allowed.
pub(crate) async fn firewalls() -> Vec<Firewall> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let ufw = ufw(&read("/etc/ufw/ufw.conf"), &read("/etc/default/ufw"), &read("/etc/ufw/user.rules"));
    let firewalld = firewalld().await;
    // These two write rules of their own, which would be found again.
    let managed = ufw.is_some() || firewalld.is_some();
    let mut found: Vec<Firewall> = ufw.into_iter().chain(firewalld).collect();
    if !managed {
        let chains = netfilter::dropping().unwrap_or_default();
        found.extend(chains.into_iter().map(|(name, input)| Firewall {
            name,
            open: Vec::new(),
            input,
            forward: !input,
        }));
    }
    found
}

/// ufw's settings, and what its rules (`### tuple ### ACTION PROTOCOL PORT ...`) allow.
fn ufw(conf: &str, default: &str, rules: &str) -> Option<Firewall> {
    let setting = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches(['"', '\'', ' ']).to_lowercase())
    };
    if setting(conf, "ENABLED")? != "yes" {
        return None;
    }
    let accepts = |name: &str| setting(default, name).is_some_and(|policy| policy == "accept");
    let open = rules.lines().filter_map(|line| line.strip_prefix("### tuple ### ")).filter_map(ufw_opens).flatten();
    let (input, forward) = (!accepts("DEFAULT_INPUT_POLICY"), !accepts("DEFAULT_FORWARD_POLICY"));
    (input || forward).then(|| Firewall { name: "ufw".to_owned(), open: open.collect(), input, forward })
}

/// TCP ports that a rule opens, to whomever.
fn ufw_opens(tuple: &str) -> Option<Vec<(u16, u16)>> {
    let mut words = tuple.split_whitespace();
    let (action, protocol, ports) = (words.next()?, words.next()?, words.next()?);
    let incoming = tuple.split_whitespace().any(|word| word == "in" || word.starts_with("in_"));
    if !incoming || !(action.starts_with("allow") || action.starts_with("limit")) || protocol == "udp" {
        return None;
    }
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    Some(if ports == "any" { vec![(0, u16::MAX)] } else { ports.split(',').filter_map(range).collect() })
}

/// firewalld, asked for the ports of its default zone.
async fn firewalld() -> Option<Firewall> {
    const NAME: &str = "org.fedoraproject.FirewallD1";
    const PATH: &str = "/org/fedoraproject/FirewallD1";
    let bus = asked(zbus::Connection::system()).await?;
    let owner = asked(async {
        let dbus = zbus::fdo::DBusProxy::new(&bus).await?;
        Ok(dbus.name_has_owner(NAME.try_into()?).await?)
    });
    if !owner.await? {
        return None;
    }
    let ports = asked(async {
        let main = zbus::Proxy::new(&bus, NAME, PATH, NAME).await?;
        let zone: String = main.call("getDefaultZone", &()).await?;
        let zones = zbus::Proxy::new(&bus, NAME, PATH, "org.fedoraproject.FirewallD1.zone").await?;
        zones.call::<_, _, Vec<Vec<String>>>("getPorts", &(zone.as_str(),)).await
    });
    let open = ports.await.unwrap_or_default().iter().filter_map(|port| firewalld_opens(port)).collect();
    Some(Firewall { name: "firewalld".to_owned(), open, input: true, forward: true })
}

/// `[PORT or FIRST-LAST, PROTOCOL]`
fn firewalld_opens(port: &[String]) -> Option<(u16, u16)> {
    let [range, protocol] = port else { return None };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    (protocol == "tcp").then_some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ufws_settings_and_rules_are_read() {
        let rules = "*filter\n### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 22 -j ACCEPT\n\
                     ### tuple ### allow tcp 2379:2380 0.0.0.0/0 any 10.0.0.0/8 in\n### tuple ### limit any 80,443 0.0.0.0/0 any 0.0.0.0/0 in_eth0\n\
                     ### tuple ### deny tcp 6443 0.0.0.0/0 any 0.0.0.0/0 in\n### tuple ### allow udp 53 0.0.0.0/0 any 0.0.0.0/0 in\n\
                     ### tuple ### allow tcp 99 0.0.0.0/0 any 0.0.0.0/0 out\n";
        let default = "DEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_FORWARD_POLICY=\"ACCEPT\"\n";
        let found = ufw("# on\nENABLED=yes\n", default, rules).unwrap();
        assert_eq!(found.open, [(22, 22), (2379, 2380), (80, 80), (443, 443)]);
        assert!(found.input && !found.forward);
        assert_eq!(ufw("ENABLED=no", default, rules), None);
        assert_eq!(ufw("", "", ""), None);
        let any = "### tuple ### allow any any 0.0.0.0/0 any 10.0.0.0/8 in";
        assert_eq!(ufw("ENABLED=yes", "", any).unwrap().open, [(0, u16::MAX)]);
        let open = |port: &str, protocol: &str| firewalld_opens(&[port.to_owned(), protocol.to_owned()]);
        assert_eq!(
            (open("6443", "tcp"), open("1-9", "tcp"), open("53", "udp")),
            (Some((6443, 6443)), Some((1, 9)), None)
        );
    }

    #[test]
    fn a_disk_is_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fsync_p99(&dir.path().join("not/there/yet")).unwrap() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::create_dir(dir.path().join("member")).unwrap();
        assert_eq!(fsync_p99(dir.path()), None);
        assert_eq!(percentile_99((1..=100).collect()), Some(99));
        assert_eq!((percentile_99(vec![5, 7]), percentile_99(Vec::new())), (Some(7), None));
    }
}
