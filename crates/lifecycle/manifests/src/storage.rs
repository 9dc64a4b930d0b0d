//! The StorageClass that a cluster has from the start: `local-path`, folders on the nodes' own disks. It needs nothing
//! but the controller manager and the kubelets.

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinit_config::{Cluster, LocalPathClass};
use serde_json::Value;

use crate::objects::{meta, value};

const NAME: &str = "local-path";
/// The provisioner in the controller manager that has these volumes made.
const PROVISIONER: &str = "kinit.dev/local-path";
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// The classes that kinit makes.
pub fn storage_objects(cluster: &Cluster) -> Vec<Value> {
    let is_default = match cluster.spec.storage.local_path {
        LocalPathClass::None => return Vec::new(),
        LocalPathClass::Default => "true",
        // It may have been before.
        LocalPathClass::Class => "false",
    };
    vec![value(StorageClass {
        metadata: ObjectMeta {
            annotations: Some(BTreeMap::from([(DEFAULT.to_owned(), is_default.to_owned())])),
            ..meta(None, NAME)
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        // The disk is that of the node that the pod goes to.
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        // Sizes are an account, which costs nothing to raise.
        allow_volume_expansion: Some(true),
        ..Default::default()
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinit_component_helpers::storage::LocalPath;

    fn class(choice: LocalPathClass) -> Option<Value> {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        cluster.spec.storage.local_path = choice;
        storage_objects(&cluster).into_iter().next()
    }

    #[test]
    fn the_class_is_the_default_unless_it_is_told_otherwise() {
        let marked = |choice| class(choice).map(|c| c["metadata"]["annotations"][DEFAULT] == "true");
        assert_eq!(marked(LocalPathClass::Default), Some(true));
        assert_eq!(marked(LocalPathClass::Class), Some(false));
        assert_eq!(marked(LocalPathClass::None), None);
        let made = class(LocalPathClass::Default).unwrap();
        assert_eq!(
            (&made["apiVersion"], &made["kind"]),
            (&Value::from("storage.k8s.io/v1"), &Value::from("StorageClass"))
        );
        assert_eq!(made["provisioner"], LocalPath::PROVISIONER, "what the controller manager answers to");
    }
}
