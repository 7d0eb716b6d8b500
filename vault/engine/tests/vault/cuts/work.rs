//! What a vault goes through: everything that changes it, at least once.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use holdfast_vault_engine::{
    Action, BeginBackup, ClockTrust, CollectOptions, Compaction, KeyFile, Keys, LockMode, Samples, Storage,
    Unlock, Vault,
};
use uuid::Uuid;

use super::ledger::{Acknowledged, Deleted, Key, Ledger};
use crate::collect::AT_ONCE;
use crate::support::agent::{changed_blocks, push_blocks};
use crate::support::garbage::collect_garbage;
use crate::support::{Image, begin, request, send_changes};

pub(super) const LENDER: Uuid = Uuid::from_u128(1);
/// A clone of it.
pub(super) const BORROWER: Uuid = Uuid::from_u128(2);
/// Its old segments are compacted: nobody borrows from them.
pub(super) const ALONE: Uuid = Uuid::from_u128(3);

/// Large enough to be written past the page cache: those names only the engine makes durable.
const LARGE: usize = 5 << 18;

pub(super) struct Work<'k> {
    pub(super) ledger: Ledger,
    pub(super) key: &'k KeyFile,
    pub(super) second: &'k KeyFile,
}

pub(super) fn options() -> CollectOptions {
    CollectOptions {
        clock: ClockTrust::Trusted,
        compaction: Compaction::All,
        least_gain: 1,
        ..CollectOptions::new(Utc::now())
    }
}

impl Work<'_> {
    pub(super) async fn do_all(&self, storage: Storage) {
        self.ledger.doing("the vault is made");
        let vault = Vault::create(storage.clone(), self.key).await.unwrap();
        self.ledger.says().made = true;

        let mut image = Image::noise(1, LARGE);
        let clone = image.clone();
        let first = self.back_up(&vault, LENDER, &image).await;
        self.add_key(&storage).await;
        image.change(10, 60);
        self.acknowledge(&vault, LENDER, &image).await;
        let second = self.back_up(&vault, LENDER, &image).await;

        let deduplicating = vault.deduplicating(Arc::new(Samples::within(0)));
        deduplicating.learn_samples(|_| {}).await.unwrap();
        self.acknowledge(&deduplicating, BORROWER, &clone).await;
        let borrowed = self.back_up(&deduplicating, BORROWER, &clone).await;

        let mut alone = Image::noise(2, LARGE);
        let mut points = vec![self.back_up(&vault, ALONE, &alone).await];
        for round in 0..2 {
            alone.change(20 + round, 200);
            points.push(self.back_up(&vault, ALONE, &alone).await);
        }

        self.lock(&vault, LENDER, second).await;
        self.delete(&vault, LENDER, first).await;
        self.undelete(&vault, LENDER, first).await;
        self.delete(&vault, LENDER, first).await;
        self.collect(&vault).await;
        self.delete(&vault, ALONE, points[0]).await;
        self.delete(&vault, ALONE, points[1]).await;
        self.collect(&vault).await;
        self.remove_key(&storage).await;
        self.collect(&vault).await;

        image.change(30, 20);
        self.back_up(&vault, LENDER, &image).await;
        self.delete(&vault, BORROWER, borrowed).await;
        self.collect(&vault).await;
        self.collect(&vault).await;
        alone.change(40, 30);
        self.acknowledge(&vault, ALONE, &alone).await;
        self.ledger.doing("nothing");
    }

    fn request(&self, machine: Uuid, image: &Image) -> BeginBackup {
        let request = request(machine, &[("sda", image)]);
        self.ledger.says().images.insert(request.step_id, Arc::new(image.clone()));
        request
    }

    async fn back_up(&self, vault: &Vault, machine: Uuid, image: &Image) -> u64 {
        self.ledger.doing(format!("a backup of {machine}"));
        let backup = begin(vault, self.request(machine, image)).await.unwrap();
        send_changes(&backup, "sda", image).await.unwrap();
        let prepared = backup.prepare(&[]).await.unwrap();
        let point = prepared.commit().await.unwrap();
        let mut said = self.ledger.says();
        said.acknowledged.remove(&machine);
        said.points.insert((machine, point.seq), Default::default());
        if machine == BORROWER {
            assert!(point.disks[0].stored_bytes < LARGE as u64 / 4, "it borrows: {point:?}");
        }
        point.seq
    }

    /// A backup that is given up when some of its cells are acknowledged.
    async fn acknowledge(&self, vault: &Vault, machine: Uuid, image: &Image) {
        self.ledger.doing(format!("a backup of {machine} that is given up"));
        let backup = begin(vault, self.request(machine, image)).await.unwrap();
        let blocks = changed_blocks(&backup, "sda", image).await.unwrap();
        let (now, later) = blocks.split_at(blocks.len() / 2);
        let receipts = push_blocks(&backup, "sda", image, now).await.unwrap();
        backup.flush().await.unwrap();
        for receipt in receipts {
            receipt.durable().await.unwrap();
        }
        let acknowledged =
            Acknowledged { seq: backup.seq(), image: Arc::new(image.clone()), blocks: now.to_vec() };
        self.ledger.says().acknowledged.insert(machine, acknowledged);
        push_blocks(&backup, "sda", image, later).await.unwrap();
    }

    async fn delete(&self, vault: &Vault, machine: Uuid, seq: u64) {
        self.ledger.doing(format!("point {seq} of {machine} is deleted"));
        self.ledger.deleted((machine, seq), Deleted::Asked);
        vault.decide_point(machine, seq, AT_ONCE, "eva").await.unwrap();
        self.ledger.deleted((machine, seq), Deleted::Yes);
    }

    async fn undelete(&self, vault: &Vault, machine: Uuid, seq: u64) {
        self.ledger.doing(format!("point {seq} of {machine} is undeleted"));
        self.ledger.deleted((machine, seq), Deleted::Asked);
        vault.decide_point(machine, seq, Action::Undelete, "eva").await.unwrap();
        self.ledger.deleted((machine, seq), Deleted::No);
    }

    async fn lock(&self, vault: &Vault, machine: Uuid, seq: u64) {
        self.ledger.doing(format!("point {seq} of {machine} is locked"));
        let until = Utc::now() + TimeDelta::days(7);
        let lock = Action::Lock { mode: LockMode::Governance, until: until.timestamp_micros() };
        vault.decide_point(machine, seq, lock, "eva").await.unwrap();
        self.ledger.says().points.get_mut(&(machine, seq)).unwrap().locked = Some(until);
    }

    async fn collect(&self, vault: &Vault) {
        self.ledger.doing("a collection");
        for standing in self.ledger.says().points.values_mut().filter(|said| said.deleted == Deleted::Yes) {
            standing.deleted = Deleted::Purging;
        }
        let report = collect_garbage(vault, options(), |_| {}).await.unwrap();
        assert!(report.held.is_empty(), "{report:?}");
        for purged in report.purged {
            self.ledger.deleted((purged.machine, purged.seq), Deleted::Purged);
        }
    }

    async fn add_key(&self, storage: &Storage) {
        self.ledger.doing("a key is added");
        let keys = Keys::unlock(storage.clone(), Unlock::Key(self.key)).await.unwrap();
        keys.add_identity("second", &self.second.public()).await.unwrap();
        self.ledger.says().second_key = Key::Added;
    }

    async fn remove_key(&self, storage: &Storage) {
        self.ledger.doing("a key is removed");
        self.ledger.says().second_key = Key::Removing;
        let keys = Keys::unlock(storage.clone(), Unlock::Key(self.key)).await.unwrap();
        let all = Keys::recipients(storage).await.unwrap();
        let second = all.iter().find(|recipient| recipient.label == "second").unwrap();
        keys.remove(second.id).await.unwrap();
        self.ledger.says().second_key = Key::Removed;
    }
}
