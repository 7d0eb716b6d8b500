use uuid::Uuid;

use crate::store::StoreError;
use crate::store::request::{FirstRequest, RequestKey};

use super::store;

#[tokio::test]
async fn a_repetition_finds_what_it_was_about_and_whether_it_is_done() {
    let Some(store) = store().await else { return };
    let key = RequestKey { id: Uuid::new_v4(), method: "DeletePoint", body_hash: [1; 32] };
    let (resource, later) = (Uuid::new_v4(), Uuid::new_v4());
    assert_eq!(store.repeated_request(Some(key)).await.unwrap(), None);
    assert_eq!(store.claim_request(Some(key), resource).await.unwrap(), resource);
    assert_eq!(store.claim_request(Some(key), later).await.unwrap(), resource);
    let first = |is_done| Some(FirstRequest { resource, is_done });
    assert_eq!(store.repeated_request(Some(key)).await.unwrap(), first(false), "it may have failed");
    store.finish_request(Some(key)).await.unwrap();
    assert_eq!(store.repeated_request(Some(key)).await.unwrap(), first(true));
    let other = RequestKey { body_hash: [2; 32], ..key };
    let refused = store.repeated_request(Some(other)).await;
    assert!(matches!(refused, Err(StoreError::RequestReused { .. })), "{refused:?}");
}
