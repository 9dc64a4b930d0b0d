//! Events that never hold up the work they tell of.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kinit_component_base::supervise::guarded;
use kube::runtime::events::{Event, EventType, Recorder as Publisher, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;

/// Queues events and publishes them in the background; when the queue is full the newest is dropped, as upstream's
/// broadcaster does.
#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<(ObjectReference, Event)>);

const QUEUE: usize = 1000;
/// So many different texts are remembered.
const TEXTS: usize = 256;

impl Recorder {
    /// Publishes as `component` (events' `reportingController`), from `instance` (a host's or pod's name; "" for the
    /// component itself: the API wants one).
    pub fn new(client: Client, component: &str, instance: &str) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(ObjectReference, Event)>(QUEUE);
        let reporter = Reporter {
            controller: component.to_owned(),
            instance: Some(instance.to_owned()).filter(|i| !i.is_empty()),
        };
        tokio::spawn(async move {
            // A publisher counts events of one reason as one, whatever they say: with one publisher a text, only what
            // says the same is counted, as upstream's correlator does.
            let mut publishers: HashMap<Option<String>, Publisher> = HashMap::new();
            while let Some((object, event)) = receiver.recv().await {
                if publishers.len() >= TEXTS {
                    publishers.clear();
                }
                let fresh = || Publisher::new(client.clone(), reporter.clone());
                let publisher = publishers.entry(event.note.clone()).or_insert_with(fresh);
                // The next event is to be published even if this one makes the publisher panic.
                if let Ok(Err(error)) = guarded("publishing of events", publisher.publish(&event, &object)).await {
                    tracing::debug!(%error, reason = event.reason, "publish an event");
                }
            }
        });
        Self(sender)
    }

    /// A `Normal` event on `object`.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: impl Into<String>) {
        self.send(object.object_ref(&()), EventType::Normal, reason, note.into());
    }

    /// A `Warning` event on `object`.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: impl Into<String>) {
        self.send(object.object_ref(&()), EventType::Warning, reason, note.into());
    }

    /// An event on a reference, for objects that are known by name only or parts of objects (`fieldPath`).
    pub fn send(&self, object: ObjectReference, type_: EventType, reason: &str, note: String) {
        // The API allows notes of at most 1024 bytes.
        let mut note = note;
        while note.len() > 1024 {
            note.pop();
        }
        let event =
            Event { type_, reason: reason.to_owned(), note: Some(note), action: reason.to_owned(), secondary: None };
        if self.0.try_send((object, event)).is_err() {
            tracing::debug!(reason, "the event queue is full");
        }
    }
}
