//! From a request to its response.

use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::forward::Said;
use crate::metrics::{Metrics, Query};
use crate::router::Router;
use crate::zone::{Answer, Zone};

/// What a client may be sent in one UDP packet without fragments (the DNS flag day's number).
const PAYLOAD: u16 = 1232;

/// Answers from the zone, or asks others.
pub struct Handler {
    zone: Arc<Zone>,
    router: Arc<Router>,
    metrics: Metrics,
}

struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Vec<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), soa: Vec::new(), additional: Vec::new() }
    }

    fn said(said: Said) -> Self {
        Self { answers: said.answers, soa: said.soa.into_iter().collect(), ..Self::code(said.code) }
    }
}

impl Handler {
    /// Registers its metrics.
    pub fn new(zone: Arc<Zone>, router: Arc<Router>) -> Self {
        let metrics = Metrics::new(&zone.origin().to_string());
        Self { zone, router, metrics }
    }

    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Reply::code(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else { return Reply::code(ResponseCode::FormErr) };
        let question = info.query.original();
        if question.query_class() != DNSClass::IN {
            return Reply::code(ResponseCode::Refused);
        }
        let (name, kind) = (question.name(), question.query_type());
        let ours = |answers, additional| Reply {
            authoritative: true,
            answers,
            additional,
            ..Reply::code(ResponseCode::NoError)
        };
        let nothing = |code| Reply { authoritative: true, soa: vec![self.zone.soa()], ..Reply::code(code) };
        match self.zone.answer(name, kind) {
            Answer::NotOurs => Reply::said(self.router.ask(name, kind).await),
            // Until the stores are filled, "there is none" would be a lie that clients remember.
            Answer::NoName | Answer::NoData if !self.zone.data().is_synced() => Reply::code(ResponseCode::ServFail),
            Answer::NoName => nothing(ResponseCode::NXDomain),
            Answer::NoData => nothing(ResponseCode::NoError),
            Answer::Records { mut answers, additional } => {
                shuffle(&mut answers);
                ours(answers, additional)
            }
            Answer::Alias(alias, target) => {
                let mut answers = vec![alias];
                if kind != RecordType::CNAME {
                    answers.extend(self.target_of_alias(&target, kind).await);
                }
                ours(answers, Vec::new())
            }
        }
    }

    async fn target_of_alias(&self, target: &hickory_proto::rr::Name, kind: RecordType) -> Vec<Record> {
        match self.zone.answer(target, kind) {
            Answer::Records { answers, .. } => answers,
            Answer::NotOurs => self.router.ask(target, kind).await.answers,
            // An alias of an alias is left to the client, or a circle would be ours to find.
            _ => Vec::new(),
        }
    }
}

/// The largest packet for a client: what it says it takes, within what gets through (RFC 6891, 6.2.3 and 6.2.5).
fn payload(edns: Option<&Edns>) -> u16 {
    edns.map_or(512, |edns| edns.max_payload().clamp(512, PAYLOAD))
}

/// Clients take the first address: each is first in its turn.
fn shuffle(answers: &mut [Record]) {
    for i in (1..answers.len()).rev() {
        answers.swap(i, rand::random_range(0..=i));
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let begun = Instant::now();
        let reply = self.reply(request).await;
        self.metrics.answered(Query {
            tcp: request.protocol() == Protocol::Tcp,
            v6: request.src().is_ipv6(),
            kind: request.request_info().ok().map(|info| info.query.original().query_type()),
            ours: reply.authoritative,
            code: reply.code,
            took: begun.elapsed(),
        });
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let mut edns = Edns::new();
        edns.set_max_payload(payload(request.edns.as_ref()));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let message = builder.build(metadata, &reply.answers, &[], &reply.soa, &reply.additional);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "send a response");
                ResponseInfo::from(hickory_proto::op::Header {
                    metadata,
                    counts: hickory_proto::op::HeaderCounts::default(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
