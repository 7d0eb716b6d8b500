//! Which bytes of an object are what, by the format alone: key file, `vault.json`, wrapped keys, footers.

use std::ops::Range;
use std::path::Path;

use holdfast_vault_format::container::{FOOTER_LEN, HEADER_LEN, Keyring, Opener, TAG_LEN};
use holdfast_vault_format::delta::{DeltaRoot, PageRef};
use holdfast_vault_format::keys::DataKey;
use holdfast_vault_format::record::DeltaRef;
use holdfast_vault_format::segment::{CellKind, Directory};
use uuid::Uuid;

/// A region of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Region {
    /// Of an object that is not sealed by the container: `vault.json`, `keys/`.
    Whole,
    Header,
    DataCell,
    ZeroCell,
    /// Stands for one that is stored elsewhere.
    KnownCell,
    /// What a collection left of a data cell; `GoneCell`: nothing.
    KeptCell,
    GoneCell,
    MetaCell,
    Table,
    Body,
    Footer,
}

/// Opens objects without the engine.
#[derive(Debug)]
pub(crate) struct Anatomist {
    ring: Keyring,
}

impl Anatomist {
    pub(crate) fn new(vault: &Path, key_path: &Path) -> Self {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(vault.join("vault.json")).unwrap()).unwrap();
        let id = |key: &str| Uuid::parse_str(json[key].as_str().unwrap()).unwrap();
        let key_file = std::fs::read_to_string(key_path).unwrap();
        let identity: age::x25519::Identity =
            key_file.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap().parse().unwrap();
        let wrapped = std::fs::read(vault.join(format!("keys/{}", id("key_id")))).unwrap();
        let secret = age::decrypt(&identity, &wrapped).unwrap();
        let key = DataKey::new(id("key_id"), secret[..32].try_into().unwrap());
        Self { ring: Keyring { vault: id("vault_id"), key } }
    }

    pub(crate) fn block_hash_key(&self, machine: Uuid, generation: u32) -> [u8; 32] {
        self.ring.key.block_hash_key(machine, generation)
    }

    /// The root of a delta.
    pub(crate) fn delta_root(&self, vault: &Path, machine: Uuid, delta: &DeltaRef) -> DeltaRoot {
        let mut encoded = Vec::new();
        for part in &delta.parts {
            let name = format!("seg/{machine}/{:020}/{:08}.0", delta.seq, part.segment);
            let bytes = std::fs::read(vault.join(&name)).unwrap();
            let opener = Opener::new(&self.ring, &name, &bytes).unwrap();
            let (_, range) = self.regions(&name, &bytes).swap_remove(1 + part.cell as usize);
            let plain_len = u32::try_from(range.len() - TAG_LEN).unwrap();
            encoded.extend(opener.cell(part.cell, 4, plain_len, bytes[range].to_vec()).unwrap());
        }
        assert_eq!(*blake3::hash(&encoded).as_bytes(), delta.hash);
        DeltaRoot::decode(&encoded).unwrap()
    }

    /// Bytes of a delta's pages.
    pub(crate) fn pages_len(&self, vault: &Path, machine: Uuid, delta: &DeltaRef) -> u64 {
        let root = self.delta_root(vault, machine, delta);
        let len = |page: &PageRef| {
            let name = format!("seg/{machine}/{:020}/{:08}.0", delta.seq, page.place.segment);
            let bytes = std::fs::read(vault.join(&name)).unwrap();
            let (_, range) = self.regions(&name, &bytes).swap_remove(1 + page.place.cell as usize);
            (range.len() - TAG_LEN) as u64
        };
        root.extent_pages.iter().chain(&root.hash_pages).map(len).sum()
    }

    /// The object's regions, in order and without gaps.
    pub(crate) fn regions(&self, name: &str, bytes: &[u8]) -> Vec<(Region, Range<usize>)> {
        if name == "vault.json" || name.starts_with("keys/") {
            return vec![(Region::Whole, 0..bytes.len())];
        }
        let opener = Opener::new(&self.ring, name, bytes).unwrap();
        let footer_at = bytes.len() - FOOTER_LEN;
        let layout = opener.footer(&bytes[footer_at..], bytes.len() as u64).unwrap();
        let table_at = usize::try_from(layout.table_at).unwrap();
        let body_at = usize::try_from(layout.body_at).unwrap();
        let mut regions = vec![(Region::Header, 0..HEADER_LEN)];
        if name.starts_with("seg/") {
            let body = opener.body(bytes[body_at..footer_at].to_vec()).unwrap();
            let directory = Directory::decode(&body).unwrap();
            let offsets = directory.offsets();
            for (cell, range) in directory.cells.iter().zip(offsets.windows(2)) {
                let region = match cell.kind {
                    CellKind::Data { .. } => Region::DataCell,
                    CellKind::Zero { .. } => Region::ZeroCell,
                    CellKind::Meta => Region::MetaCell,
                    CellKind::Known { .. } => Region::KnownCell,
                    CellKind::Kept { kept, .. } if kept.is_empty() => Region::GoneCell,
                    CellKind::Kept { .. } => Region::KeptCell,
                    CellKind::Gone => Region::GoneCell,
                };
                let at = |offset: u64| usize::try_from(offset).unwrap();
                regions.push((region, at(range[0])..at(range[1])));
            }
        }
        regions.push((Region::Table, table_at..body_at));
        regions.push((Region::Body, body_at..footer_at));
        regions.push((Region::Footer, footer_at..bytes.len()));
        let mut at = 0;
        for (_, range) in &regions {
            assert_eq!(range.start, at, "a gap in {name}");
            at = range.end;
        }
        assert_eq!(at, bytes.len());
        regions
    }
}
