use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use crate::domain::token::TokenState;
use crate::store::agent::NewAgent;
use crate::store::page::{self, PageSize};
use crate::store::token::{self, NewToken, Revoked, Shown, TokenRow, id_of, parse_token_key};
use crate::store::{Store, StoreError};

use super::{AgentId, MachineId, execute, machines, store};

fn new_token(max_uses: i32, machine: Option<MachineId>) -> NewToken {
    NewToken {
        sha256: rand::random(),
        max_uses,
        ttl: Duration::from_secs(600),
        labels: [("env".to_owned(), "test".to_owned())].into(),
        machine,
        created_by: "alice".to_owned(),
    }
}

async fn create(store: &Store, max_uses: i32, machine: Option<MachineId>) -> [u8; 32] {
    let new = new_token(max_uses, machine);
    let sha256 = new.sha256;
    store.create_token(new).await.unwrap();
    sha256
}

fn agent_with(token_sha256: [u8; 32]) -> NewAgent {
    NewAgent {
        token_sha256,
        agent: AgentId::generate(),
        machine: MachineId::generate(),
        machine_name: format!("m-{}", Uuid::new_v4().simple()),
        os: String::new(),
        version: "0".to_owned(),
        serial: Uuid::new_v4().to_string(),
        not_after: Utc::now(),
    }
}

async fn list(store: &Store, shown: Shown) -> Vec<TokenRow> {
    store.list_tokens(shown, None, PageSize::new(0).unwrap()).await.unwrap().rows
}

#[tokio::test]
async fn a_revoked_token_enrols_nobody_and_stays_revoked() {
    let Some(store) = store().await else { return };
    let sha256 = create(&store, 100, None).await;
    let first = agent_with(sha256);
    store.enrol(first.clone()).await.unwrap();

    let (row, done) = store.revoke_token(&id_of(&sha256), "bob").await.unwrap();
    assert_eq!((row.state, row.uses, done), (TokenState::Revoked, 1, Revoked::Now));
    assert_eq!(row.revoked_at, Some(row.expires_at), "which a controller of before goes by");
    let (again, done) = store.revoke_token(&id_of(&sha256), "carol").await.unwrap();
    assert_eq!((again.revoked_at, done), (row.revoked_at, Revoked::Before));
    // Neither somebody new nor whoever has enrolled with it and asks again.
    for agent in [agent_with(sha256), NewAgent { serial: "another".to_owned(), ..first.clone() }] {
        let refused = store.enrol(agent).await;
        assert!(matches!(refused, Err(StoreError::TokenRevoked)), "{refused:?}");
    }
    assert!(store.agent_is_active(first.agent, &first.serial).await.unwrap(), "who enrolled stays");
    let unknown = store.enrol(agent_with([7; 32])).await;
    assert!(matches!(unknown, Err(StoreError::TokenRefused)), "{unknown:?}");

    let told: Vec<(String, String)> =
        sqlx::query_as("SELECT actor, subject FROM audit WHERE action = 'token.revoke'")
            .fetch_all(&store.pool)
            .await
            .unwrap();
    assert_eq!(told, [("bob".to_owned(), id_of(&sha256))]);
    let missing = store.revoke_token("no such token", "bob").await;
    assert!(matches!(missing, Err(StoreError::NotFound { noun: "token", .. })), "{missing:?}");
}

/// The time of a transaction is that of its begin: by that, the token of an enrolment that waits has not expired yet.
#[tokio::test]
async fn an_enrolment_that_began_before_the_revocation_is_refused_after_it() {
    let Some(store) = store().await else { return };
    let sha256 = create(&store, 100, None).await;
    let other = store.clone();
    let consumed = store.transaction("test", move |connection| {
        Box::pin(async move {
            other.revoke_token(&id_of(&sha256), "bob").await?;
            token::consume(connection, &sha256).await.map(drop)
        })
    });
    let consumed = consumed.await;
    assert!(matches!(consumed, Err(StoreError::TokenRevoked)), "{consumed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_races_with_a_revocation_enrols_or_is_refused() {
    let Some(store) = store().await else { return };
    for round in 0..8_u64 {
        let sha256 = create(&store, 100, None).await;
        let enrolments: Vec<_> = (0..8)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.enrol(agent_with(sha256)).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(round)).await;
        let (revoked, _) = store.revoke_token(&id_of(&sha256), "bob").await.unwrap();
        let mut enrolled = 0;
        for enrolment in enrolments {
            match enrolment.await.unwrap() {
                Ok(_) => enrolled += 1,
                Err(StoreError::TokenRevoked) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(revoked.uses, enrolled, "none after the answer");
    }
}

#[tokio::test]
async fn tokens_are_listed_page_by_page_as_long_as_somebody_can_enrol_with_them() {
    let Some(store) = store().await else { return };
    let [(kept, _), (gone, _)] = machines(&store, Uuid::new_v4(), 2).await[..] else { panic!() };
    let usable = [create(&store, 3, None).await, create(&store, 1, Some(kept)).await];
    let expired = create(&store, 1, None).await;
    execute(
        &store,
        "UPDATE enrolment_tokens SET expires_at = now() WHERE created_at = (SELECT max(created_at) FROM enrolment_tokens)",
    )
    .await;
    let of_removed = create(&store, 1, Some(gone)).await;
    store.remove_machine(gone, "test").await.unwrap();
    let revoked = create(&store, 1, None).await;
    store.revoke_token(&id_of(&revoked), "bob").await.unwrap();

    let listed = list(&store, Shown::Usable).await;
    let ids: Vec<&str> = listed.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, [id_of(&usable[1]), id_of(&usable[0])], "newest first");
    assert_eq!((listed[0].machine_id, listed[1].machine_id), (Some(kept.0), None));
    assert!(listed[0].machine_name.is_some());
    let row = &listed[1];
    assert_eq!((row.created_by.as_str(), row.uses, row.max_uses), ("alice", 0, 3));
    assert_eq!(row.labels.get("env").map(String::as_str), Some("test"));

    let all = list(&store, Shown::All).await;
    let states: Vec<_> = all.iter().map(|row| (row.id.clone(), row.state)).collect();
    let expected = [
        (revoked, TokenState::Revoked),
        (of_removed, TokenState::MachineRemoved),
        (expired, TokenState::Expired),
        (usable[1], TokenState::Usable),
        (usable[0], TokenState::Usable),
    ]
    .map(|(sha256, state)| (id_of(&sha256), state));
    assert_eq!(states[..5], expected);
    assert_eq!(all[5].state, TokenState::UsedUp, "with which the machines were made");

    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_tokens(Shown::All, after, PageSize::new(2).unwrap()).await.unwrap();
        paged.extend(page.rows.into_iter().map(|row| row.id));
        let Some(key) = page::decode(&page.next).unwrap() else { break };
        after = Some(parse_token_key(&key).unwrap());
    }
    assert_eq!(paged, all.iter().map(|row| row.id.clone()).collect::<Vec<_>>());
    for bad in ["", "1", "x:1", "99999999999999999999:1"] {
        assert!(parse_token_key(bad).is_none(), "{bad}");
    }
}
