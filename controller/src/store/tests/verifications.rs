//! Whose turn it is to be verified, and where it goes on.

use std::time::Duration;

use uuid::Uuid;

use super::{execute, machines, store};

#[tokio::test]
async fn a_verification_goes_on_where_it_was_left() {
    let Some(store) = store().await else { return };
    let machine = machines(&store, Uuid::new_v4(), 1).await[0].0;
    execute(
        &store,
        "INSERT INTO points (id, machine_id, seq, hash, created_at, consistency, state, disks, stored_bytes, serves_until)
         SELECT gen_random_uuid(), m.id, 1, sha256('x'), now(), 'crash', 'listed', '[]', 0, now() FROM machines m",
    )
    .await;
    let claim = async || store.claim_verification(Duration::ZERO).await.unwrap();
    assert_eq!(claim().await, Some((machine, None)));
    store.record_verified_to(machine, "seg/9").await.unwrap();
    assert_eq!(claim().await, None, "somebody is at it");
    execute(&store, "UPDATE machines SET verifying_since = now() - interval '4 hours'").await;
    assert_eq!(claim().await, Some((machine, Some("seg/9".to_owned()))), "whoever was at it died");
    store.leave_verification(machine).await.unwrap();
    assert_eq!(claim().await, Some((machine, Some("seg/9".to_owned()))));
    store.end_verification(machine).await.unwrap();
    assert_eq!(store.claim_verification(Duration::from_secs(3600)).await.unwrap(), None, "its turn is over");
    assert_eq!(claim().await, Some((machine, None)), "the next turn begins anew");
}
