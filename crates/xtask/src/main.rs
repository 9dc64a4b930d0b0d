//! Chores of the workspace: `cargo xtask <chore>`.
//!
//! ```text
//! main ── schema   upstream's .proto files, struct tags and apply schema -> apimachinery/data/schema.json
//! ```

mod schema;

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
}

fn main() -> ExitCode {
    let result = match Args::parse().chore {
        Chore::Schema { from, version, out } => schema::generate(&from, &version, &out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
