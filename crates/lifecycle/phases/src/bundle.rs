//! The bundle on the desk, read for hosts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use kinit_agent::Upload;
use kinit_bundle::{Error, Manifest, Trust};
use kinit_manifests::{Bundle, ImageArchive, Program};

use crate::record::Record;
use crate::request::Impossible;

/// What is in the folder, read and compressed once for all hosts.
pub struct LocalBundle {
    /// What the planner needs to know of it.
    pub bundle: Bundle,
    /// What it says of itself.
    pub(crate) manifest: Manifest,
    uploads: BTreeMap<String, Upload>,
    program: (String, Arc<Vec<u8>>),
    /// Compressed when a host asks for it: most clusters have no schedule.
    compressed: OnceLock<Option<Upload>>,
    /// Files of packages, by their hashes: they were checked, and are read when a host misses one.
    packages: BTreeMap<String, PathBuf>,
    /// Those that were read.
    read: Mutex<BTreeMap<String, Upload>>,
}

/// Where a run has its bundle from.
pub enum BundleSource {
    /// The desk.
    Desk(Arc<LocalBundle>),
    /// The hosts, which have that of the version before the last upgrade still; with kinit itself.
    Previous(Arc<Vec<u8>>),
}

impl BundleSource {
    /// The bundle, by what is known of the cluster.
    pub(crate) fn resolve(self, kept: &Record) -> Result<Arc<LocalBundle>> {
        match self {
            Self::Desk(bundle) => Ok(bundle),
            Self::Previous(program) => {
                let manifest = kept.bundles.previous()?.ok_or(Impossible::NoPrevious)?;
                Ok(Arc::new(LocalBundle::on_hosts(manifest, program)))
            }
        }
    }
}

impl LocalBundle {
    /// Reads the bundle of a folder, checked against its manifest and signature; `program` is kinit itself.
    pub fn read(dir: &Path, program: Arc<Vec<u8>>, trust: &Trust) -> Result<Self> {
        trust.check(dir)?;
        let manifest = kinit_bundle::read_manifest(dir)?;
        let mut uploads = BTreeMap::new();
        let mut why = Vec::new();
        for file in files(&manifest) {
            let entry = manifest.file(file).with_context(|| format!("{file} is no file of the bundle"))?;
            let upload = Upload::read(&dir.join(file))?;
            if upload.sha256 != entry.sha256 {
                why.push(format!("{file} has other content"));
            }
            uploads.insert(upload.sha256.clone(), upload);
        }
        if !why.is_empty() {
            return Err(Error::Damaged { folder: dir.to_owned(), why }.into());
        }
        let (indexes, packages) = packages(dir, &manifest)?;
        let kinit = kinit_resource::sha256(&program);
        let mut bundle = described(&manifest, kinit.clone());
        bundle.packages = indexes;
        ensure!(!bundle.programs.is_empty(), "the bundle in {} has no programs", dir.display());
        Ok(Self { uploads, packages, ..Self::bare(bundle, manifest, (kinit, program)) })
    }

    fn bare(bundle: Bundle, manifest: Manifest, program: (String, Arc<Vec<u8>>)) -> Self {
        let (uploads, packages) = (BTreeMap::new(), BTreeMap::new());
        Self { bundle, manifest, uploads, program, compressed: OnceLock::new(), packages, read: Mutex::default() }
    }

    /// One whose files are on the hosts already.
    pub(crate) fn on_hosts(manifest: Manifest, program: Arc<Vec<u8>>) -> Self {
        let kinit = kinit_resource::sha256(&program);
        let bundle = described(&manifest, kinit.clone());
        Self::bare(bundle, manifest, (kinit, program))
    }

    /// The file of that content.
    pub(crate) fn upload(&self, sha256: &str) -> Option<&Upload> {
        if sha256 == self.program.0 {
            return self.compressed.get_or_init(|| Upload::from_bytes(&self.program.1).ok()).as_ref();
        }
        self.uploads.get(sha256)
    }

    /// The package whose file has that content.
    pub(crate) fn package(&self, sha256: &str) -> Result<Upload> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upload) = read.get(sha256) {
            return Ok(upload.clone());
        }
        let path = self.packages.get(sha256).with_context(|| format!("the bundle has no package {sha256}"))?;
        let upload = Upload::read(path)?;
        ensure!(upload.sha256 == sha256, "{} has other content than when the run began", path.display());
        read.insert(sha256.to_owned(), upload.clone());
        Ok(upload)
    }
}

type Packages = (BTreeMap<String, String>, BTreeMap<String, PathBuf>);

/// The indexes of a bundle's packages, by release, and their files, by hash; all of them as the manifest says.
fn packages(dir: &Path, manifest: &Manifest) -> Result<Packages> {
    let (mut indexes, mut files, mut why) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for set in &manifest.packages {
        let paths = set.packages.iter().map(|package| &package.file).chain([&set.index]);
        for path in paths {
            let entry = manifest.file(path).with_context(|| format!("{path} is no file of the bundle"))?;
            why.extend(kinit_bundle::difference(dir, entry));
            files.insert(entry.sha256.clone(), dir.join(path));
        }
    }
    if !why.is_empty() {
        return Err(Error::Damaged { folder: dir.to_owned(), why }.into());
    }
    for set in &manifest.packages {
        indexes.insert(set.release.clone(), set.read_index(dir, manifest)?);
    }
    Ok((indexes, files))
}

/// What hosts get: programs and images, each file once.
fn files(manifest: &Manifest) -> Vec<&str> {
    let mut files: Vec<&str> = manifest.components.iter().map(|component| component.file.as_str()).collect();
    files.extend(manifest.images.iter().map(|image| image.file.as_str()));
    files.sort_unstable();
    files.dedup();
    files
}

fn described(manifest: &Manifest, kinit: String) -> Bundle {
    let sha256 = |path: &str| manifest.file(path).map(|file| file.sha256.clone()).unwrap_or_default();
    let program = |component: &kinit_bundle::Component| {
        let file = component.file.rsplit('/').next().unwrap_or(&component.file);
        Program {
            version: component.version.clone(),
            file: file.to_owned(),
            sha256: sha256(&component.file),
            without_flags: component.without_flags.clone(),
        }
    };
    let image = |image: &kinit_bundle::Image| ImageArchive { name: image.name.clone(), sha256: sha256(&image.file) };
    Bundle {
        version: manifest.version.clone(),
        emulated: manifest.emulated_version,
        programs: manifest.components.iter().map(|c| (c.name.clone(), program(c))).collect(),
        kinit,
        images: manifest.images.iter().map(image).collect(),
        packages: BTreeMap::new(),
    }
}
