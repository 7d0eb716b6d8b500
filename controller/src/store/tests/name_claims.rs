use std::time::Duration;

use bytes::Bytes;
use holdfast_vault_engine::{Arbiter as _, Claim};
use uuid::Uuid;

use super::store;

fn claim(name: &str, content: &'static [u8]) -> Claim {
    let content = Bytes::from_static(content);
    Claim { name: name.to_owned(), hash: holdfast_vault_engine::cell_hash(&content), content: Some(content) }
}

fn own(claim: &Claim) -> Claim {
    Claim { content: None, ..claim.clone() }
}

#[tokio::test]
async fn a_name_is_whose_claim_came_first_until_that_is_released() {
    let Some(store) = store().await else { return };
    let (vault, other) = (Uuid::new_v4(), Uuid::new_v4());
    let (point, abort) = (claim("points/a/1", b"point"), claim("points/a/1", b"abort"));
    assert_eq!(store.claim(vault, &point).await.unwrap(), own(&point));
    assert_eq!(store.claim(vault, &abort).await.unwrap(), point, "what it is for is kept");
    assert_eq!(store.claim(vault, &point).await.unwrap(), own(&point), "once more");
    assert_eq!(store.claim(other, &abort).await.unwrap(), own(&abort), "another vault's");
    let segment = Claim { content: None, ..claim("seg/a/1/0.0", b"") };
    assert_eq!(store.claim(vault, &segment).await.unwrap(), segment);
    assert_eq!(store.stale(vault, Duration::ZERO).await.unwrap(), std::slice::from_ref(&point));
    assert_eq!(store.stale(vault, Duration::from_secs(60)).await.unwrap(), []);

    store.release(vault, &abort).await.unwrap();
    assert_eq!(store.claim(vault, &abort).await.unwrap(), point, "nobody else's is released");
    store.release(vault, &point).await.unwrap();
    assert_eq!(store.claim(vault, &abort).await.unwrap(), own(&abort));
}

#[tokio::test]
async fn of_many_at_once_one_has_the_name() {
    let Some(store) = store().await else { return };
    let vault = Uuid::new_v4();
    for round in 0..20 {
        let name = format!("points/a/{round}");
        let claims: Vec<Claim> =
            [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"].map(|content| claim(&name, content)).into();
        let answers = claims.iter().cloned().map(|claim| {
            let store = store.clone();
            tokio::spawn(async move { store.claim(vault, &claim).await.unwrap() })
        });
        let holders = futures::future::join_all(answers.collect::<Vec<_>>()).await;
        let holders: Vec<Claim> = holders.into_iter().map(Result::unwrap).collect();
        // Who has it is told nothing that he does not know, all the others what he has it for.
        let Some(holder) = claims.iter().find(|claim| claim.hash == holders[0].hash) else {
            panic!("nobody claimed it for that: {holders:?}");
        };
        let told: Vec<Claim> =
            claims.iter().map(|claim| if claim == holder { own(holder) } else { holder.clone() }).collect();
        assert_eq!(holders, told);
    }
}
