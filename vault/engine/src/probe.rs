use bytes::Bytes;
use uuid::Uuid;

use crate::object::{self, Created};
use crate::store::Storage;
use crate::{VaultError, name};

/// Tries whether a name can be taken once only: everything depends on it, and not every server that says so keeps to it.
pub(crate) async fn refuse_overwriting(storage: &Storage) -> Result<(), VaultError> {
    let name = name::probe(Uuid::new_v4());
    let one = || Bytes::copy_from_slice(&rand::random::<[u8; 32]>());
    let probed = async {
        let first = object::create(storage, &name, one()).await?;
        Ok((first, object::create(storage, &name, one()).await?))
    };
    let probed = probed.await;
    let deleted = object::delete(storage.objects(), &name).await;
    match probed? {
        (Created::Now, Created::Before) => deleted,
        _ => Err(VaultError::CreatesTwice),
    }
}
