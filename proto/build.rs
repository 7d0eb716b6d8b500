use std::path::PathBuf;

use prost::Message as _;

/// Compiles every file of `holdfast/v1` with protox (no `protoc` needed), and keeps the descriptors for
/// gRPC reflection.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // At run time: several checkouts may share one target folder.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let root = root.as_path();
    println!("cargo:rerun-if-changed=holdfast");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("holdfast/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("holdfast.v1.fds"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".holdfast.v1.Cell.data")
        .bytes(".holdfast.v1.RestoredCell.data")
        .bytes(".holdfast.v1.BlockMapRun")
        .compile_fds(descriptors)?;
    Ok(())
}
