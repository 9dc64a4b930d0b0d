//! Images into containerd, through its API: content, then a name for it that the CRI plugin sees.
//!
//! Unpacking is left to the first pod: the CRI plugin unpacks an image that has no snapshot yet.

use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context, Result, anyhow};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, GetImageRequest, Image, UpdateImageRequest, WriteAction,
    WriteContentRequest,
};
use containerd_client::tonic::metadata::MetadataValue;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request};
use containerd_client::types::Descriptor;
use kinit_resource::{Observed, sha256};
use serde_json::{Value, json};

const SOCKET: &str = "/run/containerd/containerd.sock";
const NAMESPACE: &str = "k8s.io";
const LABEL: &str = "kinit.dev/archive";

async fn connect() -> Result<Channel> {
    containerd_client::connect(SOCKET).await.with_context(|| format!("connect to containerd at {SOCKET}"))
}

/// Whether the image is there, from that very archive.
pub(crate) async fn observe(name: &str, archive_sha256: &str) -> Result<Observed> {
    // Without containerd there is no image; it is installed and started by an earlier step.
    let Ok(channel) = connect().await else { return Ok(Observed::Missing) };
    Ok(match get(&channel, name).await? {
        None => Observed::Missing,
        Some(image) if image.labels.get(LABEL).is_some_and(|l| l == archive_sha256) => Observed::AsWanted,
        Some(_) => Observed::Differs("is from another archive".to_owned()),
    })
}

async fn get(channel: &Channel, name: &str) -> Result<Option<Image>> {
    let request = GetImageRequest { name: name.to_owned() };
    match ImagesClient::new(channel.clone()).get(leased(request, "")).await {
        Ok(answer) => Ok(answer.into_inner().image),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(anyhow!("{}", status.message())).with_context(|| format!("look for image {name}")),
    }
}

/// A request in the kubelet's namespace, under a lease unless that is empty.
fn leased<T>(message: T, lease: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Ok(lease) = MetadataValue::try_from(lease)
        && !lease.is_empty()
    {
        request.metadata_mut().insert("containerd-lease", lease);
    }
    request
}

/// Imports a docker-archive; an image of that name from another archive is replaced.
pub(crate) async fn import(name: &str, archive: &str, archive_sha256: &str) -> Result<()> {
    let parts = read_archive(archive).with_context(|| format!("read {archive}"))?;
    let channel = connect().await?;
    // Content that no image names yet would be collected as garbage at any moment; the lease keeps it.
    let lease = format!("kinit-{archive_sha256}");
    let mut leases = LeasesClient::new(channel.clone());
    let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry()?)]);
    let made = leases.create(leased(CreateRequest { id: lease.clone(), labels }, "")).await;
    if let Err(status) = made.as_ref()
        && status.code() != Code::AlreadyExists
    {
        return Err(anyhow!("{}", status.message())).context("lease room for an image");
    }
    let done = import_parts(&channel, &lease, name, &parts, archive_sha256).await;
    // It expires by itself, were this to fail.
    leases.delete(leased(DeleteRequest { id: lease, sync: false }, "")).await.ok();
    done
}

/// In an hour, RFC 3339.
fn expiry() -> Result<String> {
    let end = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
    end.format(&time::format_description::well_known::Rfc3339).context("format a time")
}

async fn import_parts(channel: &Channel, lease: &str, name: &str, parts: &Parts, archive_sha256: &str) -> Result<()> {
    for layer in &parts.layers {
        write(channel, lease, layer, HashMap::new()).await?;
    }
    write(channel, lease, &parts.config, HashMap::new()).await?;
    // containerd's garbage collector follows these labels from the manifest to its parts.
    let mut labels = HashMap::from([("containerd.io/gc.ref.content.config".to_owned(), digest(&parts.config))]);
    for (i, layer) in parts.layers.iter().enumerate() {
        labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), digest(layer));
    }
    let manifest = parts.manifest()?;
    write(channel, lease, &manifest, labels).await?;
    let labels = HashMap::from([
        (LABEL.to_owned(), archive_sha256.to_owned()),
        ("io.cri-containerd.image".to_owned(), "managed".to_owned()),
        // The kubelet's garbage collection leaves pinned images alone.
        ("io.cri-containerd.pinned".to_owned(), "pinned".to_owned()),
    ]);
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: digest(&manifest),
        size: i64::try_from(manifest.len()).context("manifest size")?,
        annotations: HashMap::new(),
    };
    let image = Some(Image { name: name.to_owned(), labels, target: Some(target), ..Default::default() });
    let mut images = ImagesClient::new(channel.clone());
    let named = if get(channel, name).await?.is_some() {
        images.update(leased(UpdateImageRequest { image, ..Default::default() }, lease)).await.map(drop)
    } else {
        images.create(leased(CreateImageRequest { image, ..Default::default() }, lease)).await.map(drop)
    };
    named.map_err(|s| anyhow!("{}", s.message())).context("name the image")
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

const CHUNK: usize = 1 << 20;

/// Writes content by its digest; what is there already is left alone.
async fn write(channel: &Channel, lease: &str, bytes: &[u8], labels: HashMap<String, String>) -> Result<()> {
    let expected = digest(bytes);
    let total = i64::try_from(bytes.len()).context("content size")?;
    let reference = format!("kinit-{expected}");
    let mut messages = Vec::new();
    let mut offset = 0i64;
    for chunk in bytes.chunks(CHUNK) {
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: reference.clone(),
            total,
            offset,
            data: chunk.to_vec(),
            ..Default::default()
        };
        offset += i64::try_from(chunk.len()).context("content size")?;
        messages.push(message);
    }
    messages.push(WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: reference,
        total,
        expected: expected.clone(),
        offset: total,
        labels,
        ..Default::default()
    });
    let request = futures::stream::iter(messages);
    let answer = ContentClient::new(channel.clone()).write(leased(request, lease)).await;
    let exists = |status: &containerd_client::tonic::Status| status.code() == Code::AlreadyExists;
    let mut stream = match answer {
        Ok(stream) => stream.into_inner(),
        Err(status) if exists(&status) => return Ok(()),
        Err(status) => return Err(anyhow!("{}", status.message())).context("write an image's content"),
    };
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(status) if exists(&status) => return Ok(()),
            Err(status) => return Err(anyhow!("{}", status.message())).context("write an image's content"),
        }
    }
}

struct Parts {
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
}

impl Parts {
    fn manifest(&self) -> Result<Vec<u8>> {
        let part =
            |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let layers: Vec<Value> =
            self.layers.iter().map(|l| part("application/vnd.oci.image.layer.v1.tar", l)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": part("application/vnd.oci.image.config.v1+json", &self.config),
            "layers": layers,
        });
        serde_json::to_vec(&manifest).context("encode an image manifest")
    }
}

/// The first image of a docker-archive (`docker save`).
fn read_archive(path: &str) -> Result<Parts> {
    let mut entries: HashMap<String, Vec<u8>> = HashMap::new();
    let mut archive = tar::Archive::new(std::fs::File::open(path)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        entries.insert(entry.path()?.display().to_string(), bytes);
    }
    let manifest: Value =
        serde_json::from_slice(entries.get("manifest.json").context("there is no manifest.json in it")?)?;
    let image = manifest.get(0).context("its manifest.json is empty")?;
    let mut take = |name: Option<&Value>| -> Result<Vec<u8>> {
        let name = name.and_then(Value::as_str).context("its manifest.json is incomplete")?;
        entries.remove(name).with_context(|| format!("there is no {name} in it"))
    };
    let layers = image.get("Layers").and_then(Value::as_array).context("its manifest.json names no layers")?;
    Ok(Parts {
        config: take(image.get("Config"))?,
        layers: layers.iter().map(|l| take(Some(l))).collect::<Result<_>>()?,
    })
}
