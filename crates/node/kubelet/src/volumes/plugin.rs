//! What a kind of volume has to be able to do, and the kinds there are.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::Mounted;
use super::api_files::{CONFIG_MAP, DOWNWARD_API, PROJECTED, SECRET};
use super::claim::Claim;
use super::empty_dir::EmptyDir;
use super::hostpath::HostPath;
use super::payload::Tokens;
use crate::downward::Place;
use crate::kubelet::Kubelet;
use crate::names::PodKey;

/// Everything a volume is set up from.
pub struct Request<'a> {
    /// The kubelet.
    pub kubelet: &'a Kubelet,
    /// The pod.
    pub pod: &'a Pod,
    /// Its key.
    pub key: &'a PodKey,
    /// The volume, whose source the plugin serves.
    pub volume: &'a Volume,
    /// What the downward API tells beside the pod.
    pub place: &'a Place,
    /// Service account tokens, kept between calls.
    pub tokens: &'a mut Tokens,
}

impl Request<'_> {
    /// The group that the pod's volumes are to belong to.
    pub fn fs_group(&self) -> Option<i64> {
        self.pod.spec.as_ref()?.security_context.as_ref()?.fs_group
    }
}

/// Why a volume could not be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The cause alone; the volume's name goes before it.
    Cause(String),
    /// All that the event is to say.
    Reported(String),
}

impl From<String> for Failure {
    fn from(cause: String) -> Self {
        Self::Cause(cause)
    }
}

impl Failure {
    /// What the event says, as upstream's do (`operationGenerator`).
    pub fn message(self, volume: &str) -> String {
        match self {
            Self::Cause(cause) => setup_failed(volume, &cause),
            Self::Reported(message) => message,
        }
    }
}

/// The words of a failed set-up.
pub fn setup_failed(volume: &str, cause: &str) -> String {
    format!("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")
}

/// One kind of volume.
#[async_trait]
pub trait VolumePlugin: Sync {
    /// Whether it serves a volume's source, in all that is asked of it.
    fn serves(&self, volume: &Volume) -> bool;

    /// Sets a volume up, or brings it up to date; idempotent.
    async fn set_up(&self, request: Request<'_>) -> Result<Mounted, Failure>;
}

/// All kinds.
const PLUGINS: [&dyn VolumePlugin; 7] = [&EmptyDir, &HostPath, &CONFIG_MAP, &SECRET, &DOWNWARD_API, &PROJECTED, &Claim];

/// The plugin that serves a volume.
pub fn plugin_of(volume: &Volume) -> Option<&'static dyn VolumePlugin> {
    PLUGINS.into_iter().find(|p| p.serves(volume))
}
