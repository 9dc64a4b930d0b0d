//! The first process of a host: lays out its file systems, then becomes systemd.

use std::convert::Infallible;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::cgroup;
use crate::disk::Disk;
use crate::state::Playground;

/// Settings that are the whole machine's, or that a network namespace may not change: each host gets a private file to
/// read and write.
const GLOBAL_SYSCTLS: &[&str] = &[
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/panic_on_oom",
    "vm/overcommit_memory",
    "vm/swappiness",
    "vm/max_map_count",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/inotify/max_user_watches",
    "fs/inotify/max_user_instances",
    "fs/file-max",
    "kernel/pid_max",
    "net/netfilter/nf_conntrack_max",
];

/// Runs as PID 1 in the host's new namespaces; returns only when it fails.
pub fn init(dir: &Path, host: &str) -> Result<Infallible> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("tie the host to its launcher")?;
    let cache = Playground::open_dir(dir)?.cache();
    let disk = Disk::new(dir, host);
    let root = disk.path("root");
    let none = MsFlags::empty();
    mount_at("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
    let overlay = format!(
        "lowerdir={},upperdir={},workdir={}",
        cache.root().display(),
        disk.path("upper").display(),
        disk.path("work").display()
    );
    mount_at("overlay", &root, "overlay", none, &overlay)?;
    mount_at(&disk.path("var").to_string_lossy(), root.join("var"), "", MsFlags::MS_BIND, "")?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("proc", root.join("proc"), "proc", quiet, "")?;
    mount_at("sysfs", root.join("sys"), "sysfs", quiet, "")?;
    devices(&root)?;
    mount_at("tmpfs", root.join("run"), "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
    private_files(&root)?;
    control_groups(&root)?;
    nix::unistd::sethostname(host).context("set the host name")?;
    nix::unistd::chdir(&root)?;
    nix::unistd::pivot_root(".", "mnt").context("change to the host's root file system")?;
    nix::unistd::chroot(".")?;
    umount2("/mnt", MntFlags::MNT_DETACH).context("let go of the machine's file systems")?;
    // The kubelet's volumes need propagation, as on any systemd host.
    mount_at("none", "/", "", MsFlags::MS_REC | MsFlags::MS_SHARED, "")?;
    drop_global_powers()?;
    become_systemd()
}

fn mount_at(source: &str, target: impl AsRef<Path>, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
    let target = target.as_ref();
    let kind = (!kind.is_empty()).then_some(kind);
    let data = (!data.is_empty()).then_some(data);
    mount(Some(source), target, kind, flags, data).with_context(|| format!("mount {source} on {}", target.display()))
}

fn devices(root: &Path) -> Result<()> {
    let dev = root.join("dev");
    mount_at("dev", &dev, "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, "mode=755,size=4m")?;
    for dir in ["pts", "shm", "mqueue", "net"] {
        std::fs::DirBuilder::new().mode(0o755).create(dev.join(dir))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_at("devpts", dev.join("pts"), "devpts", quiet, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    mount_at("shm", dev.join("shm"), "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    mount_at("mqueue", dev.join("mqueue"), "mqueue", quiet | MsFlags::MS_NODEV, "")?;
    let nodes: [(&str, u64, u64, u32); 9] = [
        ("null", 1, 3, 0o666),
        ("zero", 1, 5, 0o666),
        ("full", 1, 7, 0o666),
        ("random", 1, 8, 0o666),
        ("urandom", 1, 9, 0o666),
        ("kmsg", 1, 11, 0o600),
        ("tty", 5, 0, 0o666),
        ("fuse", 10, 229, 0o666),
        ("net/tun", 10, 200, 0o666),
    ];
    for (name, major, minor, mode) in nodes {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(mode), makedev(major, minor))
            .with_context(|| format!("create {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    for (link, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("console", "null"),
    ] {
        symlink(target, dev.join(link))?;
    }
    Ok(())
}

/// A boot id of its own per boot, and private copies of what is global.
fn private_files(root: &Path) -> Result<()> {
    let store = root.join("run/.playground");
    std::fs::create_dir(&store)?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("make a boot id")?;
    bind_copy(&store, root, "sys/kernel/random/boot_id", &boot_id)?;
    // The machine's swap is none of the host's, which could not switch it off either.
    bind_copy(&store, root, "swaps", NO_SWAPS)?;
    for key in GLOBAL_SYSCTLS {
        // Not every kernel has every setting.
        let path = format!("sys/{key}");
        if let Ok(value) = std::fs::read_to_string(root.join("proc").join(&path)) {
            bind_copy(&store, root, &path, &value)?;
        }
    }
    Ok(())
}

/// What the kernel prints when there is no swap.
const NO_SWAPS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

/// Puts a file of the host's own in the place of one below /proc.
fn bind_copy(store: &Path, root: &Path, path: &str, value: &str) -> Result<()> {
    let copy = store.join(path.replace('/', "."));
    std::fs::write(&copy, value).with_context(|| format!("write {}", copy.display()))?;
    mount_at(&copy.to_string_lossy(), root.join("proc").join(path), "", MsFlags::MS_BIND, "")
}

fn control_groups(root: &Path) -> Result<()> {
    let top = root.join("sys/fs/cgroup");
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if cgroup::is_v2() {
        return mount_at("cgroup2", &top, "cgroup2", quiet, "");
    }
    mount_at("tmpfs", &top, "tmpfs", quiet, "mode=755")?;
    for name in cgroup::V1.iter().filter(|name| Path::new("/sys/fs/cgroup").join(name).is_dir()) {
        let dir = top.join(name);
        std::fs::create_dir(&dir)?;
        match *name {
            "unified" => mount_at("cgroup2", &dir, "cgroup2", quiet, "")?,
            "systemd" => mount_at("cgroup", &dir, "cgroup", quiet, "none,name=systemd,xattr")?,
            controller => mount_at("cgroup", &dir, "cgroup", quiet, controller)?,
        }
    }
    Ok(())
}

/// The clock, the kernel's modules and raw devices are the machine's: no host may touch them.
#[expect(unsafe_code, reason = "prctl has no safe form")]
fn drop_global_powers() -> Result<()> {
    const SYS_MODULE: u64 = 16;
    const SYS_RAWIO: u64 = 17;
    const SYS_TIME: u64 = 25;
    for capability in [SYS_MODULE, SYS_RAWIO, SYS_TIME] {
        // SAFETY: prctl(PR_CAPBSET_DROP) takes a number and touches no memory of ours.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if done != 0 {
            return Err(std::io::Error::last_os_error()).context("drop a capability from the host's bounding set");
        }
    }
    Ok(())
}

fn become_systemd() -> Result<Infallible> {
    let legacy = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1";
    let mut command = Command::new("/lib/systemd/systemd");
    command.args(["--system", "--log-target=journal-or-kmsg"]).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("container", "kinit-playground");
    if !cgroup::is_v2() {
        command.env("SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE", "1");
        let line = format!("systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0 {legacy}");
        command.env("SYSTEMD_PROC_CMDLINE", line);
    }
    Err(command.exec()).context("start systemd")
}
