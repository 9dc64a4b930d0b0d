//! A containerd of a test's own: directories, socket and shims apart from the machine's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::image;

/// A running containerd; with this value end it, its containers, their mounts and their cgroups.
pub struct Containerd {
    dir: PathBuf,
    /// Below which its pods' cgroups are.
    cgroup: String,
    child: Child,
}

const CONFIG: &str = r#"version = 2
root = "DIR/root"
state = "DIR/state"
[grpc]
  address = "DIR/containerd.sock"
[ttrpc]
  address = "DIR/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "IMAGE"
  # As on hosts whose processes may not lower their score.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # Works on any file system, an overlay too.
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "DIR/cni"
"#;

fn spawn(dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("containerd.log")).unwrap();
    let mut command = Command::new("containerd");
    command.arg("--config").arg(dir.join("config.toml")).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap_or_else(|e| {
        panic!("start containerd: {e}; it and runc must be in PATH: `cargo xtask test` brings them, Debian's packages are containerd and runc")
    })
}

impl Containerd {
    /// Starts one below `dir`, with the tests' image.
    pub fn start(dir: &Path, cgroup: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "containers need root: run this test as root");
        std::fs::create_dir_all(dir.join("cni")).unwrap();
        let config = CONFIG.replace("DIR", &dir.display().to_string()).replace("IMAGE", image::IMAGE);
        std::fs::write(dir.join("config.toml"), config).unwrap();
        let mut out = Self { dir: dir.to_owned(), cgroup: cgroup.to_owned(), child: spawn(dir) };
        out.wait();
        let archive = dir.join("image.tar");
        image::write(&archive);
        let imported = out.ctr().args(["images", "import"]).arg(&archive).output().unwrap();
        assert!(imported.status.success(), "import the image: {}", String::from_utf8_lossy(&imported.stderr));
        out
    }

    /// `unix://SOCKET`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.dir.join("containerd.sock").display())
    }

    /// Its client, in the namespace that the CRI uses.
    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("containerd.sock")).args(["--namespace", "k8s.io"]);
        command
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.ctr().arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success() {
            let log = || std::fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("containerd ended at once with {status}: {}", log());
            }
            assert!(Instant::now() < deadline, "containerd does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it; its containers run on.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.dir);
        self.wait();
    }

    /// Process ids of what runs in it, by container.
    pub fn tasks(&self) -> Vec<(String, u32)> {
        let output = self.ctr().args(["tasks", "ls"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let task = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        let mut tasks: Vec<(String, u32)> = text.lines().skip(1).filter_map(task).collect();
        // They are listed in no order.
        tasks.sort();
        tasks
    }
}

/// Where things are mounted below a directory, the deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    below
}

/// Removes a cgroup and all below it, whose processes have ended.
fn remove_cgroup(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // Gone already, or still held: then the next run of the machine's cleaning has it.
    let _ = std::fs::remove_dir(path);
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            self.child = spawn(&self.dir);
            std::thread::sleep(Duration::from_secs(1));
        }
        for (id, _) in self.tasks() {
            // A task that ended meanwhile is no failure.
            let _ = self.ctr().args(["tasks", "rm", "--force", &id]).output();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for point in mounts_below(&self.dir) {
            let _ = Command::new("umount").arg("--lazy").arg(&point).output();
        }
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
        for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            remove_cgroup(&hierarchy.join(&self.cgroup));
        }
    }
}
