use uuid::Uuid;
use zeroize::ZeroizeOnDrop;

/// The vault's secret, from which every object's key is derived. Wrapped for its recipients in `keys/<key-id>`.
#[derive(Clone, ZeroizeOnDrop)]
pub struct DataKey {
    #[zeroize(skip)]
    pub id: Uuid,
    secret: [u8; 32],
}

impl DataKey {
    #[must_use]
    pub fn new(id: Uuid, secret: [u8; 32]) -> Self {
        Self { id, secret }
    }

    /// The key of one physically written object and its commitment. `salt` is drawn afresh for each.
    pub(crate) fn object_key(&self, vault: Uuid, kind: u8, salt: &[u8; 32]) -> ObjectKey {
        let mut hasher = blake3::Hasher::new_derive_key("Holdfast vault v1 object key");
        hasher.update(&self.secret).update(vault.as_bytes()).update(&[kind]).update(salt);
        let mut bytes = [0; 64];
        hasher.finalize_xof().fill(&mut bytes);
        let (mut key, mut commitment) = ([0; 32], [0; 32]);
        key.copy_from_slice(&bytes[..32]);
        commitment.copy_from_slice(&bytes[32..]);
        ObjectKey { key, commitment }
    }

    /// The key for a machine's block hashes in one generation of its maps.
    #[must_use]
    pub fn block_hash_key(&self, machine: Uuid, generation: u32) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("Holdfast vault v1 block hash key");
        hasher.update(&self.secret).update(machine.as_bytes()).update(&generation.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(ZeroizeOnDrop)]
pub(crate) struct ObjectKey {
    pub(crate) key: [u8; 32],
    #[zeroize(skip)]
    pub(crate) commitment: [u8; 32],
}
