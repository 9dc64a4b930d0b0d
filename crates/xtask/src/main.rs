//! Chores of the workspace: `cargo xtask <chore>`. It builds with nothing installed but Rust.
//!
//! ```text
//! demo   setup ► bundle ► kinit playground up ► kinit init ► kinit playground demo
//! test   setup ► bundle ► every test, end-to-end ones included ► one closing line
//! tidy   what lints cannot say
//! bench  figures beside their floors
//! schema upstream's .proto files, struct tags and apply schema ► apimachinery/data/schema.json
//! ```

mod bench;
mod bundle;
mod demo;
mod docs;
mod image;
mod images;
mod panics;
mod programs;
mod run;
mod sbom;
mod schema;
mod setup;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Chores of the workspace")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install the Debian packages that building and testing need
    Setup,
    /// Build kinit, its components and its images into one folder, optimized, for real machines
    Bundle {
        /// The one of the tests instead: in their profile, with the demonstration's image
        #[arg(long)]
        for_tests: bool,
    },
    /// Write what the programs of a bundle are made of (sbom.cdx.json, third-party-licences.txt) into a folder;
    /// `bundle` does it for its own
    Sbom {
        /// The folder
        directory: PathBuf,
    },
    /// From nothing to a running cluster on this machine
    Demo,
    /// Run all tests, end-to-end ones included
    Test(test::Args),
    /// Check what lints cannot say: crate edges, sizes, comments, licences, marks of unfinished work
    Tidy,
    /// Make docs/cli.md anew from kinit's own verbs and flags
    Docs,
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build the container images (pause, kube-dns) as archives
    Images(images::Args),
    /// Make the schema data of the API types from upstream's sources (k8s.io/{api,apimachinery,client-go})
    Schema {
        /// The directory that holds k8s.io's `api`, `apimachinery` and `client-go`
        #[arg(long)]
        from: PathBuf,
        /// Version of those sources, for the provenance note
        #[arg(long)]
        version: String,
        /// Where to write
        #[arg(long, default_value = "crates/base/apimachinery/data/schema.json")]
        out: PathBuf,
    },
    /// Make the descriptions of the API types from the published definitions that crate k8s-openapi is made of
    Prose {
        /// The crate's module of the minor version
        #[arg(long, default_value = "v1_36")]
        minor: String,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().chore {
        Chore::Setup => setup::run(),
        Chore::Bundle { for_tests } => setup::run()
            .and_then(|()| if for_tests { bundle::for_tests() } else { bundle::release() })
            .map(|dir| println!("{}", dir.display())),
        Chore::Sbom { directory } => sbom::write(&directory, &run::root(), bundle::PROGRAMS),
        Chore::Demo => demo::run(),
        Chore::Test(args) => return test::run(&args),
        Chore::Tidy => tidy::run(),
        Chore::Docs => docs::run(),
        Chore::Bench(bench) => bench::run(&bench),
        Chore::Images(args) => images::run(&args),
        Chore::Schema { from, version, out } => schema::generate(&from, &version, &out),
        Chore::Prose { minor } => schema::prose::generate(&minor),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
