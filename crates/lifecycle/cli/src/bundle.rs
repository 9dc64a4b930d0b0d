//! `kinit bundle`: what is installed on hosts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use kinit_bundle::{COMPONENTS, Component, Image, Manifest, OPTIONAL, Store, Trust, TrustedKey};
use kinit_config::{Minor, Version};
use serde_json::json;

use crate::cluster::trust;
use crate::config;
use crate::errors::Usage;
use crate::progress::Output;

/// What can be done with bundles.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Describe the programs and images of a folder in bundle.yaml, and pack them into one file
    Create(CreateArgs),
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

/// Flags of `kinit bundle create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Folder with the programs (`kube-apiserver` and so on, or `hyperkube` for all of them) and images/*.tar
    folder: PathBuf,
    /// Version of the bundle [default: that of its API server]
    #[arg(long)]
    version: Option<Version>,
    /// Minor that the control plane serves, when it is to be an earlier one than its own, such as 1.35
    #[arg(long, value_name = "MINOR")]
    emulated_version: Option<Minor>,
    /// Take these components from another folder, such as upstream's programs: all that are in it
    #[arg(long, value_name = "DIR")]
    from_upstream: Option<PathBuf>,
    /// Flags that a component does not know: COMPONENT=FLAG[,FLAG...]
    #[arg(long, value_name = "COMPONENT=FLAGS")]
    without_flags: Vec<String>,
    /// Pack the bundle into this file too (.tar.zst)
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
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
        Verb::Create(args) => create(&args),
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

/// The program of all components.
const MULTI_CALL: &str = "hyperkube";
/// Where another folder's programs are put.
const UPSTREAM: &str = "upstream";

fn create(args: &CreateArgs) -> Result<()> {
    let folder = &args.folder;
    let mut components = Vec::new();
    for name in COMPONENTS {
        let file = program(args, name)?;
        let version = version_of(&folder.join(&file), name)?;
        components.push(Component { name: name.to_owned(), version, file, without_flags: Vec::new() });
    }
    for name in OPTIONAL {
        // An earlier multi-call program knows nothing of it.
        let Ok(file) = program(args, name) else { continue };
        match version_of(&folder.join(&file), name) {
            Ok(version) => {
                components.push(Component { name: name.to_owned(), version, file, without_flags: Vec::new() });
            }
            Err(error) if file != MULTI_CALL => return Err(error),
            Err(_) => {}
        }
    }
    for text in &args.without_flags {
        let (name, flags) = text.split_once('=').ok_or_else(|| Usage(format!("--without-flags: {text:?} has no =")))?;
        let component = components.iter_mut().find(|component| component.name == name);
        let component = component.ok_or_else(|| Usage(format!("--without-flags: {name:?} is no component")))?;
        component.without_flags.extend(flags.split(',').map(|flag| flag.trim_start_matches('-').to_owned()));
    }
    let server = components.first().context("a bundle without an API server")?;
    let mut manifest = Manifest::new(args.version.clone().unwrap_or_else(|| server.version.clone()));
    manifest.emulated_version = args.emulated_version;
    manifest.images = images(folder)?;
    let mut files: Vec<String> = components.iter().map(|component| component.file.clone()).collect();
    files.extend(manifest.images.iter().map(|image| image.file.clone()));
    files.extend(folder.join("kinit").is_file().then(|| "kinit".to_owned()));
    files.sort();
    files.dedup();
    manifest.files = files.iter().map(|file| kinit_bundle::digest(folder, file)).collect::<Result<_, _>>()?;
    manifest.components = components;
    let path = kinit_bundle::write_manifest(folder, &manifest)?;
    say!("bundle {} is described in {}", manifest.version, path.display());
    args.pack.iter().try_for_each(|file| pack(folder, &manifest, file))
}

/// The file of a component's program: upstream's where it is asked for and there, then one of its own name, then the
/// multi-call program.
fn program(args: &CreateArgs, name: &str) -> Result<String> {
    if let Some(upstream) = &args.from_upstream
        && upstream.join(name).is_file()
    {
        let file = format!("{UPSTREAM}/{name}");
        let (from, to) = (upstream.join(name), args.folder.join(&file));
        std::fs::create_dir_all(args.folder.join(UPSTREAM)).context("make the folder for upstream's programs")?;
        std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        return Ok(file);
    }
    let found = [name, MULTI_CALL].into_iter().find(|file| args.folder.join(file).is_file());
    found.map(str::to_owned).with_context(|| {
        format!("{} has neither {name} nor {MULTI_CALL}: what should be installed as {name}?", args.folder.display())
    })
}

/// What a program says of itself: `Kubernetes v1.36.0` as upstream's do, or `NAME v1.36.0`.
fn version_of(program: &Path, name: &str) -> Result<Version> {
    let mut command = Command::new(program);
    if program.file_name().is_some_and(|file| file == MULTI_CALL) {
        command.arg(name);
    }
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().with_context(|| format!("ask {} for its version", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.split_whitespace().find_map(|word| word.parse().ok());
    ensure!(output.status.success(), "{} --version: {}", program.display(), output.status);
    found.with_context(|| format!("{} --version says {:?}, which has no version", program.display(), text.trim()))
}

/// The archives in `images/`.
fn images(folder: &Path) -> Result<Vec<Image>> {
    let directory = folder.join("images");
    let mut names = Vec::new();
    match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries.with_context(|| format!("list {}", directory.display()))? {
                let name = entry.with_context(|| format!("list {}", directory.display()))?.file_name();
                names.extend(name.into_string().ok().filter(|name| name.ends_with(".tar")));
            }
        }
    }
    names.sort();
    let image = |name: &String| {
        let file = format!("images/{name}");
        Ok(Image { name: image_name(&folder.join(&file))?, file })
    };
    names.iter().map(image).collect()
}

/// The first name in a docker-archive's manifest.
fn image_name(path: &Path) -> Result<String> {
    let read = || -> Result<String> {
        let mut archive = tar::Archive::new(std::fs::File::open(path)?);
        for entry in archive.entries()? {
            let entry = entry?;
            if entry.path()?.as_os_str() == "manifest.json" {
                let manifest: serde_json::Value = serde_json::from_reader(entry)?;
                let name = manifest.pointer("/0/RepoTags/0").and_then(|name| name.as_str());
                return name.map(str::to_owned).context("its manifest.json has no name");
            }
        }
        anyhow::bail!("there is no manifest.json in it")
    };
    read().with_context(|| format!("read the image archive {}", path.display()))
}
