//! What was said before the power went is true afterwards, and the vault goes on.

use std::path::Path;

use holdfast_vault_engine::{
    BlockHasher, KeyFile, MapLayer, Point, PointState, PointStatus, Refusal, Storage, Vault, VaultError,
    VerifyDepth, VerifyPace, VerifyScope,
};
use uuid::Uuid;

use super::ledger::{Deleted, Key, Said};
use super::work::{ALONE, BORROWER, LENDER, options};
use crate::collect::{AT_ONCE, refusal};
use crate::support::agent::read_map;
use crate::support::garbage::collect_garbage;
use crate::support::{Image, back_up, begin, finish, request, restore, restore_disk};

/// What a check came upon.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) points: usize,
    pub(super) acknowledged_blocks: usize,
    pub(super) decisions: usize,
    pub(super) deleted_segments: u64,
}

impl Found {
    pub(super) fn add(&mut self, other: &Self) {
        self.points += other.points;
        self.acknowledged_blocks += other.acknowledged_blocks;
        self.decisions += other.decisions;
        self.deleted_segments += other.deleted_segments;
    }
}

pub(super) struct Check<'s> {
    pub(super) said: &'s Said,
    pub(super) key: &'s KeyFile,
    pub(super) second: &'s KeyFile,
}

impl Check<'_> {
    pub(super) async fn of(&self, path: &Path) -> Found {
        let mut found = Found::default();
        let storage = Storage::directory(path).unwrap();
        let vault = match Vault::open(storage.clone(), self.key).await {
            Err(VaultError::NotAVault) if !self.said.made => Vault::create(storage.clone(), self.key).await,
            opened => opened,
        };
        let vault = vault.unwrap();
        self.keys(&storage).await;
        for machine in [LENDER, BORROWER, ALONE] {
            self.points(&vault, machine, &mut found).await;
        }
        let report =
            vault.verify(VerifyScope::Vault, VerifyDepth::ReadData, VerifyPace::Full, |_| {}).await.unwrap();
        assert!(report.findings.is_empty(), "{report:?}");
        let mut made = Vec::new();
        for machine in [LENDER, BORROWER, ALONE] {
            made.push(self.next(&vault, machine, &mut found).await);
        }
        for _ in 0..3 {
            let report = collect_garbage(&vault, options(), |_| {}).await.unwrap();
            assert!(report.held.is_empty() && report.waiting_for.is_empty(), "{report:?}");
            found.deleted_segments += report.deleted_segments;
        }
        let plan = vault.plan_collection(options(), |_| {}).await.unwrap();
        assert_eq!((plan.condemned_segments, plan.held.len()), (0, 0), "{plan:?}");
        for (point, image) in &made {
            restore_disk(&vault, point, "sda", image).await;
        }
        for machine in [LENDER, BORROWER, ALONE] {
            self.restore_all(&vault, machine).await;
        }
        found
    }

    async fn keys(&self, storage: &Storage) {
        let opened = Vault::open(storage.clone(), self.second).await;
        match self.said.second_key {
            Key::Added => drop(opened.unwrap()),
            Key::Removed => assert!(matches!(opened, Err(VaultError::WrongKey { .. })), "{opened:?}"),
            Key::Unknown | Key::Removing => match opened {
                Ok(_) | Err(VaultError::WrongKey { .. }) => {}
                Err(error) => panic!("{error:?}"),
            },
        }
    }

    fn image(&self, point: &Point) -> &Image {
        self.said.images.get(&point.step_id).expect("a point that nobody began")
    }

    /// What is listed restores; answers it.
    async fn restore_all(&self, vault: &Vault, machine: Uuid) -> Vec<PointStatus> {
        let statuses = vault.points(machine).await.unwrap();
        for status in &statuses {
            match status {
                PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => {
                    // Those of the check itself are looked at where they were made.
                    if self.said.images.contains_key(&point.step_id) {
                        let restored = restore(vault, point, "sda").await.unwrap();
                        assert!(restored == *self.image(point), "WRONG BYTES: point {}", point.seq);
                    }
                }
                PointStatus::Damaged { seq, error } => panic!("point {seq} is damaged: {error:?}"),
            }
        }
        statuses
    }

    async fn points(&self, vault: &Vault, machine: Uuid, found: &mut Found) {
        let statuses = self.restore_all(vault, machine).await;
        found.points += statuses.len();
        for status in &statuses {
            if let PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) = status {
                self.image(point);
            }
        }
        for ((_, seq), said) in self.said.points.iter().filter(|((of, _), _)| *of == machine) {
            let standing = vault.standing(machine, *seq).await.unwrap();
            let listed = statuses.iter().find(|status| seq_of(status) == *seq);
            let is_as_said = match said.deleted {
                Deleted::No => matches!(listed, Some(PointStatus::Ok(_))),
                Deleted::Asked => listed.is_some(),
                Deleted::Yes => matches!(listed, Some(PointStatus::SoftDeleted(..))),
                Deleted::Purging => !matches!(listed, Some(PointStatus::Ok(_))),
                Deleted::Purged => listed.is_none() && standing.state == PointState::Purged,
            };
            assert!(is_as_said, "{:?} was said of point {seq} of {machine}: {listed:?}", said.deleted);
            found.decisions += usize::from(said.deleted != Deleted::No);
            if let Some(until) = said.locked {
                found.decisions += 1;
                assert_eq!(standing.lock.map(|lock| lock.until.timestamp()), Some(until.timestamp()));
                let refused = vault.decide_point(machine, *seq, AT_ONCE, "eva").await;
                assert!(matches!(refusal(refused), Refusal::Locked { .. }));
            }
        }
    }

    /// The next backup of a machine, which takes over what was acknowledged to the one before.
    async fn next(&self, vault: &Vault, machine: Uuid, found: &mut Found) -> (Point, Image) {
        let newest = vault.points(machine).await.unwrap().last().map_or(0, seq_of);
        // If the point was created before anybody was told, there is nothing to take over.
        let acknowledged = self.said.acknowledged.get(&machine).filter(|of| of.seq > newest);
        let Some(acknowledged) = acknowledged else {
            let image = Image::mixed(u64::try_from(machine.as_u128()).unwrap() + 70, 200_000);
            return (back_up(vault, machine, &[("sda", &image)]).await.unwrap(), image);
        };
        let image = &*acknowledged.image;
        let next = begin(vault, request(machine, &[("sda", image)])).await.unwrap();
        let hasher = BlockHasher::new(&next.disk_base("sda").unwrap().block_hash_key);
        let overlay = read_map(&next, "sda", MapLayer::Overlay).await.unwrap();
        for block in &acknowledged.blocks {
            let hash = hasher.hash(&image.block(*block));
            assert_eq!(overlay.get(&(*block as u64)), Some(&hash), "block {block} was acknowledged");
            found.acknowledged_blocks += 1;
        }
        (finish(&next, &[("sda", image)]).await.unwrap(), image.clone())
    }
}

fn seq_of(status: &PointStatus) -> u64 {
    match status {
        PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => point.seq,
        PointStatus::Damaged { seq, .. } => *seq,
    }
}
