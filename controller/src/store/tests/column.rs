use crate::store::StoreError;

use super::damage::backed_up;
use super::{execute, store};

#[tokio::test]
async fn a_state_of_a_newer_version_is_told_and_no_other_one_is_made_of_it() {
    let Some(store) = store().await else { return };
    let (_, made) = backed_up(&store).await.unwrap();
    assert!(store.find_point(made.id).await.is_ok());
    execute(
        &store,
        "ALTER TABLE points DROP CONSTRAINT points_state_check; UPDATE points SET state = 'archived'",
    )
    .await;
    let told = store.find_point(made.id).await.unwrap_err();
    assert!(matches!(&told, StoreError::Corrupt { what } if what.contains("archived")), "{told:?}");
}
