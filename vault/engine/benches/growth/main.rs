//! What a vault grows by: metadata of incrementals, depth of stacks, space of dead blocks, clones, what a collection reads, and what the samples of
//! deduplication find in large vaults. Not a test: it prints tables for docs/performance.md.
//!
//!   cargo bench -p holdfast-vault-engine --bench growth -- [metadata|stacks|dead|samples|collect]...
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

mod collect;
mod dead;
mod disk;
mod metadata;
mod samples;
mod stacks;

#[tokio::main]
async fn main() {
    let mut wanted: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if wanted.is_empty() {
        wanted = ["metadata", "stacks", "dead", "samples", "collect"].map(str::to_owned).to_vec();
    }
    for name in wanted {
        match name.as_str() {
            "metadata" => metadata::run().await,
            "stacks" => stacks::run().await,
            "dead" => dead::run().await,
            "samples" => samples::run(),
            "collect" => collect::run().await,
            other => panic!("{other}: metadata, stacks, dead, samples or collect"),
        }
    }
}
