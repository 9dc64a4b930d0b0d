//! Questions that others answer.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

const CACHED: u64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the host's resolvers.
pub struct Forwarder(TokioResolver);

/// What they said.
#[derive(Debug, PartialEq)]
pub struct Said {
    /// How it went.
    pub code: ResponseCode,
    /// The answer.
    pub answers: Vec<Record>,
    /// The zone's record, with negative answers.
    pub soa: Option<Record>,
}

impl Forwarder {
    /// Reads the resolvers' addresses from a file like `/etc/resolv.conf`.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let (config, mut options) = hickory_resolver::system_conf::parse_resolv_conf(text)
            .with_context(|| format!("parse {}", path.display()))?;
        options.cache_size = CACHED;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.edns0 = true;
        // Clients wait five seconds: they are to hear of a failure before they give up.
        options.timeout = TIMEOUT;
        options.attempts = 1;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self(builder.build().context("prepare the resolver")?))
    }

    /// Looks a fully qualified name up.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Said {
        let mut name = name.clone();
        name.set_fqdn(true);
        match self.0.lookup(name.clone(), kind).await {
            Ok(lookup) => Said { code: ResponseCode::NoError, answers: lookup.answers().to_vec(), soa: None },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Said {
                code: none.response_code,
                answers: Vec::new(),
                soa: none.soa.map(|soa| {
                    let soa = *soa;
                    Record::from_rdata(soa.name, soa.ttl, RData::SOA(soa.data))
                }),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Said { code, answers: Vec::new(), soa: None },
            Err(error) => {
                tracing::debug!(%name, %kind, %error, "forward a question");
                Said { code: ResponseCode::ServFail, answers: Vec::new(), soa: None }
            }
        }
    }
}
