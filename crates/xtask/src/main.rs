//! The workspace's own tools: `cargo xtask <verb>`.

mod image;
mod images;

use clap::Parser;

#[derive(Parser)]
#[command(name = "xtask", about = "Tasks of the workspace")]
enum Task {
    /// Build the container images (pause, kube-dns) as archives into target/images/
    Images(images::Args),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Images(args) => images::run(&args),
    }
}
