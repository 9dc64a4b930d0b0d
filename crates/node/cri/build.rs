//! Generates the CRI v1 messages and clients from the published interface definition.

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto/api.proto");
    let mut config = tonic_prost_build::Config::new();
    config.disable_comments(["."]);
    config.btree_map(["."]);
    // Registry credentials must not be printable by accident.
    config.skip_debug(["runtime.v1.AuthConfig"]);
    tonic_prost_build::configure().build_server(false).build_client(true).compile_with_config(
        config,
        &["proto/api.proto"],
        &["proto"],
    )
}
