//! `kinit bundle`: what is installed on hosts.

mod create;
mod packages;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kinit_bundle::{Manifest, Store, Trust, TrustedKey};
use serde_json::json;

use crate::cluster::trust;
use crate::config;
use crate::errors::Usage;
use crate::progress::Output;

/// What can be done with bundles.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Describe the programs and images of a folder in bundle.yaml, and pack them into one file
    Create(create::CreateArgs),
    /// Show what a bundle consists of
    Inspect(LookArgs),
    /// Check a bundle: every hash, and the signature
    Verify(VerifyArgs),
    /// List the bundles on this desk
    List(OutputArgs),
    /// Check a bundle, and keep it on this desk beside those of other versions
    Import(VerifyArgs),
    /// Sign a bundle's manifest, which has the hash of every file
    Sign(SignArgs),
    /// Make a key that signs bundles, and print its public half for spec.bundles.trustedKeys
    NewKey {
        /// Where to write the private key (PEM)
        file: PathBuf,
    },
}

/// How it is shown.
#[derive(Args, Debug)]
pub struct OutputArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Flags of `kinit bundle inspect`.
#[derive(Args, Debug)]
pub struct LookArgs {
    /// The bundle's folder or file
    bundle: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Flags of `kinit bundle verify` and `import`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    look: LookArgs,
    /// Public key that must have signed it (ed25519:BASE64)
    #[arg(long, value_name = "KEY")]
    trusted_key: Vec<String>,
    /// Cluster file whose spec.bundles.trustedKeys must have signed it
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with = "trusted_key")]
    file: Option<PathBuf>,
}

/// Flags of `kinit bundle sign`.
#[derive(Args, Debug)]
pub struct SignArgs {
    /// The bundle's folder
    folder: PathBuf,
    /// The private key (PEM, Ed25519)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Pack the signed bundle into this file too (.tar.zst)
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
}

impl Verb {
    pub(crate) fn is_jsonl(&self) -> bool {
        let output = match self {
            Self::Inspect(args) => args.output.output,
            Self::Verify(args) | Self::Import(args) => args.look.output.output,
            Self::List(args) => args.output,
            Self::Create(_) | Self::Sign(_) | Self::NewKey { .. } => Output::Text,
        };
        output == Output::Jsonl
    }
}

/// Does it.
pub fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Create(args) => create::create(&args),
        Verb::Inspect(args) => {
            with_folder(&args.bundle, &Trust::default(), |folder, manifest| show(folder, manifest, args.output.output))
        }
        Verb::Verify(args) => with_folder(&args.look.bundle, &args.trust()?, |folder, manifest| {
            kinit_bundle::verify(folder, manifest)?;
            let signer = args.trust()?.check(folder)?;
            let signed = signer.map_or_else(|| "not signed".to_owned(), |signer| format!("signed by {signer}"));
            match args.look.output.output {
                Output::Text => {
                    say!("bundle {}: {} files as they were made, {signed}", manifest.version, manifest.files.len())
                }
                Output::Jsonl => {
                    say!("{}", json!({ "event": "done", "version": manifest.version, "signature": signed }))
                }
            }
            Ok(())
        }),
        Verb::List(args) => list(args.output),
        Verb::Import(args) => {
            let (folder, manifest) = store()?.import(&args.look.bundle, &args.trust()?)?;
            match args.look.output.output {
                Output::Text => say!("bundle {} is in {}", manifest.version, folder.display()),
                Output::Jsonl => say!("{}", json!({ "event": "done", "version": manifest.version, "folder": folder })),
            }
            Ok(())
        }
        Verb::Sign(args) => {
            let manifest = kinit_bundle::read_manifest(&args.folder)?;
            kinit_bundle::verify(&args.folder, &manifest)?;
            say!("signed by {}", kinit_bundle::sign(&args.folder, &args.key)?);
            args.pack.iter().try_for_each(|file| pack(&args.folder, &manifest, file))
        }
        Verb::NewKey { file } => {
            say!("{}", kinit_bundle::new_key(&file)?);
            tell!("the private key is in {}: whoever has it can sign bundles", file.display());
            Ok(())
        }
    }
}

/// The bundles of this desk's user.
pub(crate) fn store() -> Result<Store> {
    let home = std::env::home_dir().context("find the home directory")?;
    Ok(Store::of_user(std::env::var_os("XDG_DATA_HOME").map(PathBuf::from), &home))
}

impl VerifyArgs {
    fn trust(&self) -> Result<Trust> {
        if let Some(file) = &self.file {
            return trust(&config::load(file)?.spec.bundles);
        }
        if let Some(wrong) = self.trusted_key.iter().find(|key| !TrustedKey::is_key(key)) {
            return Err(Usage(format!("--trusted-key: {wrong:?} is no key (ed25519:BASE64)")).into());
        }
        let keys = self.trusted_key.iter().map(|key| TrustedKey { key: key.clone(), not_after: None });
        Ok(Trust { keys: keys.collect(), now: jiff::Timestamp::now().as_second() })
    }
}

/// Looks into a bundle's folder, or into its file unpacked.
fn with_folder(bundle: &Path, trust: &Trust, look: impl FnOnce(&Path, &Manifest) -> Result<()>) -> Result<()> {
    if bundle.is_dir() {
        return look(bundle, &kinit_bundle::read_manifest(bundle)?);
    }
    let folder = tempfile::tempdir().context("make a folder to unpack into")?;
    let manifest = kinit_bundle::unpack(bundle, folder.path(), trust)?;
    look(folder.path(), &manifest)
}

fn show(folder: &Path, manifest: &Manifest, output: Output) -> Result<()> {
    if output == Output::Jsonl {
        say!("{}", serde_json::to_string(manifest)?);
        return Ok(());
    }
    say!("bundle {} for {}", manifest.version, manifest.architecture);
    if let Some(minor) = manifest.emulated_version {
        say!("the control plane serves {minor} (--emulated-version)");
    }
    for component in &manifest.components {
        say!("{:<24} {:<28} {}", component.name, component.version, component.file);
        if !component.without_flags.is_empty() {
            say!("{:<24} without flags {}", "", component.without_flags.join(", "));
        }
    }
    for image in &manifest.images {
        say!("{:<24} {:<28} {}", "image", image.name, image.file);
    }
    for set in &manifest.packages {
        let known = |name: &str| set.packages.iter().find(|package| package.name == name);
        let named = kinit_manifests::HOST_PACKAGES.into_iter().filter_map(known);
        for package in named {
            say!("{:<24} {:<28} {}", package.name, package.version, set.release);
        }
        say!("{:<24} {} packages", set.release, set.packages.len());
    }
    let size: u64 = manifest.files.iter().map(|file| file.size).sum();
    say!("{} files, {:.1} MB", manifest.files.len(), size as f64 / 1e6);
    match Trust::default().check(folder)? {
        Some(signer) => say!("signed by {signer}"),
        None => say!("not signed"),
    }
    Ok(())
}

fn list(output: Output) -> Result<()> {
    for (folder, manifest) in store()?.list()? {
        match output {
            Output::Text => {
                let emulated = manifest.emulated_version.map(|minor| format!(" (emulating {minor})"));
                say!("{:<40} {}", format!("{}{}", manifest.version, emulated.unwrap_or_default()), folder.display());
            }
            Output::Jsonl => say!(
                "{}",
                json!({ "version": manifest.version, "emulatedVersion": manifest.emulated_version, "folder": folder })
            ),
        }
    }
    Ok(())
}

fn pack(folder: &Path, manifest: &Manifest, file: &Path) -> Result<()> {
    kinit_bundle::pack(folder, manifest, file)?;
    say!("packed into {}", file.display());
    Ok(())
}
