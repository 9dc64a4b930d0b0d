//! `kinit bundle create`: from a folder to a bundle.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use kinit_bundle::{COMPONENTS, Component, Image, Manifest, OPTIONAL};
use kinit_config::{Minor, Version};

use super::{pack, packages};
use crate::errors::Usage;

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
    /// Download the packages that hosts need, with all that these need themselves, into packages/, so that hosts
    /// without a source of packages can be installed
    #[arg(long)]
    with_packages: bool,
    /// Release of the hosts that the packages are for, such as debian-trixie; several may be given [default: that of
    /// this machine]
    #[arg(long, value_name = "RELEASE", requires = "with_packages")]
    suite: Vec<String>,
    /// Where the packages are, as a line of sources.list(5) [default: this machine's own sources, for that release]
    #[arg(long, value_name = "LINE", requires = "with_packages")]
    package_source: Vec<String>,
    /// Pack the bundle into this file too (.tar.zst)
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
}

/// The program of all components.
const MULTI_CALL: &str = "hyperkube";
/// Where another folder's programs are put.
const UPSTREAM: &str = "upstream";

/// Describes a folder, with what was asked for added.
pub(super) fn create(args: &CreateArgs) -> Result<()> {
    let folder = &args.folder;
    let components = components(args)?;
    if args.with_packages {
        packages::download(folder, &args.suite, &args.package_source)?;
    }
    let server = components.first().context("a bundle without an API server")?;
    let mut manifest = Manifest::new(args.version.clone().unwrap_or_else(|| server.version.clone()));
    manifest.emulated_version = args.emulated_version;
    manifest.images = images(folder)?;
    let mut files: Vec<String> = components.iter().map(|component| component.file.clone()).collect();
    files.extend(manifest.images.iter().map(|image| image.file.clone()));
    files.extend(ALSO.into_iter().filter(|file| folder.join(file).is_file()).map(str::to_owned));
    manifest.packages = packages::describe(folder)?;
    for set in &manifest.packages {
        files.push(set.index.clone());
        files.extend(set.packages.iter().map(|package| package.file.clone()));
    }
    files.sort();
    files.dedup();
    manifest.files = files.iter().map(|file| kinit_bundle::digest(folder, file)).collect::<Result<_, _>>()?;
    manifest.components = components;
    let path = kinit_bundle::write_manifest(folder, &manifest)?;
    say!("bundle {} is described in {}", manifest.version, path.display());
    args.pack.iter().try_for_each(|file| pack(folder, &manifest, file))
}

/// Files that are part of a bundle where they are there: the desk's program, and what `cargo xtask bundle` says of what
/// the programs are made of.
const ALSO: [&str; 3] = ["kinit", "sbom.cdx.json", "third-party-licences.txt"];

/// The programs, each asked for its version.
fn components(args: &CreateArgs) -> Result<Vec<Component>> {
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
    Ok(components)
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
