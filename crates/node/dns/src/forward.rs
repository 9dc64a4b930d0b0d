//! Questions that others answer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use parking_lot::Mutex;

const CACHED: u64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(2);

type Key = (Name, RecordType);
type Questions = Arc<Mutex<HashMap<Key, WeakShared<BoxFuture<'static, Said>>>>>;

/// Asks the host's resolvers. A question that is on its way is not asked a second time: who asks meanwhile gets the
/// same answer, and a resolver that sends our questions back to us goes round once, not for ever.
pub struct Forwarder {
    resolver: Arc<TokioResolver>,
    asking: Questions,
}

/// What they said.
#[derive(Debug, Clone, PartialEq)]
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
        let (config, options) = hickory_resolver::system_conf::parse_resolv_conf(text)
            .with_context(|| format!("parse {}", path.display()))?;
        Self::new(config, options)
    }

    /// Asks the servers of `config`.
    pub fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self> {
        options.cache_size = CACHED;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.edns0 = true;
        // Clients wait five seconds: they are to hear of a failure before they give up.
        options.timeout = TIMEOUT;
        options.attempts = 1;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = Arc::new(builder.build().context("prepare the resolver")?);
        Ok(Self { resolver, asking: Questions::default() })
    }

    /// Looks a fully qualified name up.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Said {
        let mut name = name.to_lowercase();
        name.set_fqdn(true);
        let key = (name, kind);
        let answer = {
            let mut asking = self.asking.lock();
            match asking.get(&key).and_then(WeakShared::upgrade) {
                Some(answer) => answer,
                None => {
                    let answer = self.start(key.clone());
                    asking.extend(answer.downgrade().map(|weak| (key, weak)));
                    answer
                }
            }
        };
        answer.await
    }

    fn start(&self, key: Key) -> Shared<BoxFuture<'static, Said>> {
        let (resolver, asking) = (self.resolver.clone(), self.asking.clone());
        async move {
            let said = lookup(&resolver, &key.0, key.1).await;
            asking.lock().remove(&key);
            said
        }
        .boxed()
        .shared()
    }
}

async fn lookup(resolver: &TokioResolver, name: &Name, kind: RecordType) -> Said {
    // The resolver's own time-out is one server's.
    let answer = tokio::time::timeout(TIMEOUT * 2, resolver.lookup(name.clone(), kind)).await;
    match answer {
        Ok(Ok(lookup)) => Said { code: ResponseCode::NoError, answers: lookup.answers().to_vec(), soa: None },
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => Said {
            code: none.response_code,
            answers: Vec::new(),
            soa: none.soa.map(|soa| {
                let soa = *soa;
                Record::from_rdata(soa.name, soa.ttl, RData::SOA(soa.data))
            }),
        },
        Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => Said { code, answers: Vec::new(), soa: None },
        Ok(Err(error)) => {
            tracing::debug!(%name, %kind, %error, "forward a question");
            Said { code: ResponseCode::ServFail, answers: Vec::new(), soa: None }
        }
        Err(_) => Said { code: ResponseCode::ServFail, answers: Vec::new(), soa: None },
    }
}
