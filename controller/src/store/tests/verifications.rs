//! Whose turn it is to be verified, and where it goes on.

use std::time::Duration;

use uuid::Uuid;

use super::{execute, machines, store};
use crate::store::verify::Held;

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
    let hour = Duration::from_secs(3600);
    let claim = async || store.claim_verification(Duration::ZERO).await.unwrap();
    // Of turns of an hour, where the time before the last one is over.
    let goes_on = async || {
        execute(&store, "UPDATE machines SET enrolled_at = now() - interval '9 hours'").await;
        store.claim_verification(hour).await.unwrap()
    };
    let first = goes_on().await.unwrap();
    assert_eq!((first.machine, &first.read_to), (machine, &None));
    assert_eq!(store.record_verified_to(&first, "seg/9").await.unwrap(), Held::Yes);
    assert_eq!(goes_on().await, None, "somebody is at it");
    execute(&store, "UPDATE machines SET verifying_since = now() - interval '4 hours'").await;
    let second = goes_on().await.unwrap();
    assert_eq!(second.read_to.as_deref(), Some("seg/9"), "whoever was at it died");

    // Or hung, and goes on now.
    assert_eq!(store.record_verified_to(&first, "seg/5").await.unwrap(), Held::No);
    assert_eq!(store.leave_verification(&first).await.unwrap(), Held::No);
    assert_eq!(store.end_verification(&first).await.unwrap(), Held::No);
    assert_eq!(store.renew_verification(&first).await.unwrap(), Held::No);
    assert_eq!(goes_on().await, None, "somebody is at it");

    assert_eq!(store.leave_verification(&second).await.unwrap(), Held::Yes);
    let third = goes_on().await.unwrap();
    assert_eq!(third.read_to.as_deref(), Some("seg/9"));
    execute(&store, "UPDATE machines SET verify_began = now() - interval '50 minutes'").await;
    let unverified = async || {
        let row = store.find_machine(&machine.to_string()).await.unwrap();
        (row.verified_at, row.unverified_since, store.status(hour).await.unwrap().machines_unverified)
    };
    let (verified_at, since, overdue) = unverified().await;
    assert_eq!((verified_at, overdue), (None, 0), "its point is not an hour old");
    execute(&store, "UPDATE points SET created_at = now() - interval '2 hours'").await;
    let (_, earlier, overdue) = unverified().await;
    assert!(earlier.unwrap() < since.unwrap());
    assert_eq!(overdue, 1);
    assert_eq!(store.end_verification(&third).await.unwrap(), Held::Yes);
    let (verified_at, since, overdue) = unverified().await;
    assert!(verified_at.is_some() && since == verified_at, "{verified_at:?} {since:?}");
    assert_eq!(overdue, 0);
    assert_eq!(goes_on().await, None, "its turn is over");
    let after_ten_minutes = store.claim_verification(Duration::from_secs(45 * 60)).await.unwrap().unwrap();
    assert_eq!(after_ten_minutes.read_to, None, "turns are counted from their beginnings, and begin anew");

    // What was read long ago has to be read again.
    assert_eq!(store.record_verified_to(&after_ten_minutes, "seg/9").await.unwrap(), Held::Yes);
    assert_eq!(store.leave_verification(&after_ten_minutes).await.unwrap(), Held::Yes);
    assert_eq!(claim().await.unwrap().read_to, None);
}
