//! Upstream's flags of `kube-scheduler`, as far as they are honoured here.

use clap::Parser;
use kinit_client::component::ComponentArgs;

/// Decides on which node each pod runs
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-scheduler", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Flags that components which lead by election share.
    #[command(flatten)]
    pub component: ComponentArgs,
    /// Port for health checks and metrics over TLS
    #[arg(long, default_value_t = 10259)]
    pub secure_port: u16,
}
