//! The kinds of resources.

use kinit_pki::{Authority, KeyAlgorithm, Leaf, Subject};
use serde::{Deserialize, Serialize};

/// A secret that several hosts share. It is born on one host and copied, never kept on the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shared {
    /// A certificate authority.
    Authority(Authority),
    /// The key that signs service-account tokens.
    ServiceAccountKey,
    /// The API server's EncryptionConfiguration, with its key.
    EncryptionConfig,
}

impl Shared {
    /// The cluster's own authority, which signs the certificates of nodes too.
    pub const CLUSTER: Self = Self::Authority(Authority::Kubernetes);

    /// All of them, in the order they are made.
    pub const ALL: [Self; 5] = [
        Self::Authority(Authority::Kubernetes),
        Self::Authority(Authority::FrontProxy),
        Self::Authority(Authority::Etcd),
        Self::ServiceAccountKey,
        Self::EncryptionConfig,
    ];

    /// Name for people; kubeadm's where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authority(Authority::Kubernetes) => "ca",
            Self::Authority(Authority::FrontProxy) => "front-proxy-ca",
            Self::Authority(Authority::Etcd) => "etcd-ca",
            Self::ServiceAccountKey => "sa",
            Self::EncryptionConfig => "encryption-config",
        }
    }

    /// The public file and the private one below `/etc/kubernetes/pki`; the encryption configuration is private
    /// altogether.
    pub fn files(self) -> (Option<String>, String) {
        match self {
            Self::Authority(authority) => {
                (Some(format!("{}.crt", authority.stem())), format!("{}.key", authority.stem()))
            }
            Self::ServiceAccountKey => (Some("sa.pub".to_owned()), "sa.key".to_owned()),
            Self::EncryptionConfig => (None, "encryption.yaml".to_owned()),
        }
    }
}

/// How much of a shared secret a host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Both halves.
    Whole,
    /// The certificate or public key alone.
    Public,
}

/// A file's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Known when planning.
    Text(String),
    /// Made while executing, known by name until then.
    Secret(String),
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Where.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// `user:group`, by name.
    pub owner: String,
    /// What is in it.
    pub content: Content,
    /// When this path exists the file is not needed any more (a bootstrap kubeconfig, once the node has its
    /// certificate).
    pub unless_exists: Option<String>,
}

/// Where a leaf certificate and its key are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeafForm {
    /// `PATH.crt` (0644) and `PATH.key` (0600).
    Files {
        /// Without extension.
        path: String,
        /// `user:group`, by name.
        owner: String,
    },
    /// Embedded in a kubeconfig (0600).
    Kubeconfig {
        /// Its path.
        path: String,
        /// URL of the API server.
        server: String,
        /// Name of the cluster in it.
        cluster: String,
    },
    /// Certificate and key in one file (0600), as kubelets keep theirs (upstream's `FileStore`).
    Combined {
        /// Its path.
        path: String,
    },
}

/// Which leaf certificate: one of kubeadm's tree, or one of those that kubelets ask for themselves where the cluster
/// signs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LeafName {
    /// Of the tree.
    Tree(Leaf),
    /// A kubelet as client of the API.
    KubeletClient,
    /// A kubelet's server.
    KubeletServer,
}

impl LeafName {
    /// Who signs it.
    pub fn authority(self) -> Authority {
        match self {
            Self::Tree(leaf) => leaf.authority(),
            Self::KubeletClient | Self::KubeletServer => Authority::Kubernetes,
        }
    }
}

impl From<Leaf> for LeafName {
    fn from(leaf: Leaf) -> Self {
        Self::Tree(leaf)
    }
}

/// A leaf certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafSpec {
    /// Which.
    pub leaf: LeafName,
    /// Its subject here.
    pub subject: Subject,
    /// Kind of key.
    pub algorithm: KeyAlgorithm,
    /// Where it is kept.
    pub form: LeafForm,
    /// File of the issuer's certificate on the host.
    pub authority_file: String,
}

impl LeafSpec {
    /// The file that shows that it exists.
    pub fn path(&self) -> String {
        match &self.form {
            LeafForm::Files { path, .. } => format!("{path}.crt"),
            LeafForm::Kubeconfig { path, .. } | LeafForm::Combined { path } => path.clone(),
        }
    }

    /// The name of the request for it, without its ending: `apiserver`, `etcd/server`, `admin.conf` (those of
    /// `kubeadm certs generate-csr`), and `kubelet-client`, `kubelet-server`.
    pub fn request_name(&self) -> String {
        match (self.leaf, &self.form) {
            (LeafName::Tree(leaf), LeafForm::Kubeconfig { .. }) => format!("{}.conf", leaf.stem()),
            (LeafName::Tree(leaf), _) => leaf.stem().to_owned(),
            (LeafName::KubeletClient, _) => "kubelet-client".to_owned(),
            (LeafName::KubeletServer, _) => "kubelet-server".to_owned(),
        }
    }
}

/// What a systemd unit should be doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitState {
    /// Enabled and active, started after its unit file and all of these files last changed.
    Running {
        /// Files and links it reads at start.
        reads: Vec<String>,
        /// It takes changes of them by a reload, which keeps its connections; a changed unit file needs a restart all
        /// the same.
        reloads: bool,
    },
    /// Disabled and stopped, if kinit enabled it; a unit that kinit has never touched is left alone.
    Stopped,
}

/// Anything a host can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// Distribution packages, all installed, and held where they are.
    Packages {
        /// Their names.
        names: Vec<String>,
        /// Units that the packages would start by themselves, before they are configured.
        mask: Vec<String>,
        /// The index of a bundle's packages, in apt's format: nothing is taken from elsewhere. Without one they come
        /// from the host's own sources.
        index: Option<String>,
    },
    /// Distribution packages that are installed already, at least as new as those of a bundle.
    PackageVersions {
        /// Their names.
        names: Vec<String>,
        /// The program among them that a unit runs.
        program: String,
        /// The index of the bundle's packages.
        index: String,
    },
    /// A directory.
    Directory {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// `user:group`, by name.
        owner: String,
        /// A component fills it while it runs: reset removes from it whatever was not there before.
        populated: bool,
    },
    /// A file.
    File(FileSpec),
    /// A symbolic link.
    Link {
        /// Where.
        path: String,
        /// Where to.
        target: String,
        /// Whatever stands there already may stay.
        keep_existing: bool,
    },
    /// Nothing of kinit's at that path: what kinit made there is removed, what it replaced is put back, and what it has
    /// never touched is left alone.
    Absent {
        /// Where.
        path: String,
    },
    /// Nothing at that path, whoever put it there, and no copy of it either: a key that is kept elsewhere now.
    Erased {
        /// Where.
        path: String,
    },
    /// A kernel setting, now; its file keeps it for the next boot.
    Sysctl {
        /// `net.ipv4.ip_forward`.
        key: String,
        /// `1`.
        value: String,
    },
    /// A kernel feature, loaded or built in.
    KernelModule(String),
    /// No swap in use.
    SwapOff,
    /// An uploaded file, known by its content.
    Blob {
        /// Where.
        path: String,
        /// Its content's SHA-256 in hexadecimal.
        sha256: String,
        /// Permission bits.
        mode: u32,
    },
    /// An image in containerd's store, from an archive on the host.
    Image {
        /// `kinit.dev/pause:0.1.0`.
        name: String,
        /// The archive.
        archive: String,
        /// The archive's SHA-256, recorded as a label of the image.
        sha256: String,
    },
    /// A systemd unit.
    Unit {
        /// With `.service`.
        name: String,
        /// What it should be doing.
        state: UnitState,
    },
    /// A shared secret.
    Shared {
        /// Which.
        shared: Shared,
        /// How much of it.
        place: Place,
    },
    /// A leaf certificate.
    Leaf(Box<LeafSpec>),
    /// The cluster that a component's own kubeconfig leads to, once the component has written it (the kubelet does at
    /// its TLS bootstrap). The user in it is the component's affair.
    ClusterOf {
        /// The kubeconfig.
        path: String,
        /// URL of the API server.
        server: String,
        /// File of the authority's certificate on the host.
        authority_file: String,
        /// A file that is written whenever the kubeconfig is: the component writes the kubeconfig itself while it
        /// runs, so that the age of that says nothing about a restart.
        stamp: String,
        /// A file with its user's certificate and key, where the component does not write the kubeconfig itself: it is
        /// made where there is none.
        credentials: Option<String>,
    },
    /// A unit that stays up for a while after its start: programs that do not like their flags or files end at once.
    /// Waiting for it changes nothing.
    Steady {
        /// With `.service`.
        unit: String,
        /// How long, in seconds.
        seconds: u32,
    },
    /// An address that answers 200 to `GET`. Waiting for it changes nothing.
    Healthy {
        /// `https://10.0.0.1:6443/readyz`.
        url: String,
        /// File of the authority's certificate on the host, for https.
        authority_file: Option<String>,
        /// How long it may take, in seconds.
        seconds: u32,
    },
}

/// What the agent saw of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observed {
    /// It is as wanted.
    AsWanted,
    /// There is none.
    Missing,
    /// There is one, but it differs; the words say how.
    Differs(String),
    /// Packages that are installed, of which these are not held.
    NotHeld(Vec<String>),
    /// A text file of kinit's whose text differs: what would change, line by line.
    TextDiffers(String),
    /// A shared secret's public half, by SHA-256 (of the whole where there is no public half).
    Fingerprint(String),
    /// Of a shared secret that should be whole there is only the public half, by SHA-256: an authority whose key is
    /// kept elsewhere (kubeadm's external CA mode).
    Public(String),
    /// A leaf certificate that another one takes the place of: it was signed elsewhere, fits, and is on the host
    /// (`kinit certs import`). The words say what is there now.
    Signed(String),
    /// It could not be looked at.
    Failed(String),
}
