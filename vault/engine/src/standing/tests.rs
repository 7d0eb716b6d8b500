use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

/// The clocks agree.
fn now(seconds: i64) -> Now {
    Now { earliest: at(seconds), latest: at(seconds) }
}

fn lock(mode: LockMode, until: i64) -> Action {
    Action::Lock { mode, until: at(until).timestamp_micros() }
}

const DELETE: Action = Action::Delete { window_seconds: 14 * 86_400 };

impl Standing {
    /// Decides, if it may be.
    fn decide(&mut self, action: Action, now: Now) -> Result<(), Refusal> {
        let Some(action) = self.check(action, now)? else { return Ok(()) };
        self.apply(&Event {
            machine: uuid::Uuid::nil(),
            seq: 1,
            number: self.decisions + 1,
            at: now.latest.timestamp_micros(),
            epoch: 0,
            actor: "eva".to_owned(),
            action,
        });
        Ok(())
    }
}

#[test]
fn what_was_deleted_comes_back_until_it_is_purged() {
    let mut point = Standing::default();
    assert_eq!(point.decide(Action::Purge, now(0)), Err(Refusal::Listed));
    point.decide(DELETE, now(0)).unwrap();
    assert!(matches!(&point.state, PointState::SoftDeleted(deletion) if deletion.at == at(0)));
    point.decide(DELETE, now(5)).unwrap();
    assert_eq!(point.decisions, 1, "the same again is no new event");
    point.decide(Action::Undelete, now(6)).unwrap();
    assert_eq!(point.state, PointState::Listed);
    point.decide(DELETE, now(7)).unwrap();
    point.decide(Action::Purge, now(8)).unwrap();
    for action in [DELETE, Action::Undelete, Action::Unlock, lock(LockMode::Governance, 99)] {
        assert_eq!(point.decide(action, now(9)), Err(Refusal::Purged));
    }
    point.decide(Action::Purge, now(9)).unwrap();
    assert_eq!((point.decisions, point.state), (4, PointState::Purged));
}

#[test]
fn a_lock_holds_and_only_grows() {
    let mut point = Standing::default();
    assert_eq!(point.decide(lock(LockMode::Governance, 0), now(0)), Err(Refusal::Past));
    point.decide(lock(LockMode::Governance, 1000), now(0)).unwrap();
    assert_eq!(point.decide(DELETE, now(999)), Err(Refusal::Locked { until: at(1000) }));
    let shortened = Err(Refusal::Shortened { until: at(1000) });
    assert_eq!(point.decide(lock(LockMode::Governance, 999), now(1)), shortened);
    point.decide(lock(LockMode::Compliance, 1000), now(1)).unwrap();
    assert_eq!(point.decide(lock(LockMode::Governance, 2000), now(2)), shortened, "it would be weaker");
    point.decide(lock(LockMode::Compliance, 2000), now(3)).unwrap();
    assert_eq!(point.decide(DELETE, now(1999)), Err(Refusal::Locked { until: at(2000) }));
    point.decide(DELETE, now(2000)).unwrap();
    assert_eq!(point.decide(lock(LockMode::Compliance, 9000), now(2001)), Err(Refusal::Deleted));
}

#[test]
fn whoever_locks_for_compliance_has_three_days_to_think() {
    let cooling = i64::try_from(COOLING_OFF.as_secs()).unwrap();
    let mut point = Standing::default();
    point.decide(lock(LockMode::Governance, 10 * cooling), now(0)).unwrap();
    point.decide(lock(LockMode::Compliance, 10 * cooling), now(50)).unwrap();
    // To lock it longer does not make the lock new.
    point.decide(lock(LockMode::Compliance, 11 * cooling), now(cooling)).unwrap();
    let mut other = point.clone();
    other.decide(Action::Unlock, now(49 + cooling)).unwrap();
    assert_eq!(other.lock, None);
    assert_eq!(point.decide(Action::Unlock, now(50 + cooling)), Err(Refusal::Compliance));
    // One that ran out long ago does not make the next one old.
    let mut again = point;
    again.decide(lock(LockMode::Compliance, 30 * cooling), now(20 * cooling)).unwrap();
    assert_eq!(again.retention(now(21 * cooling - 1)), None);
    again.decide(Action::Unlock, now(21 * cooling - 1)).unwrap();
    assert_eq!(again.lock, None);
    let mut governed = Standing::default();
    governed.decide(lock(LockMode::Governance, 10 * cooling), now(0)).unwrap();
    governed.decide(Action::Unlock, now(9 * cooling)).unwrap();
    assert_eq!(governed.lock, None);
}

#[test]
fn a_wrong_clock_opens_nothing() {
    let mut point = Standing::default();
    point.decide(lock(LockMode::Compliance, 100_000_000), now(0)).unwrap();
    // A clock that was set ahead: the vault's time is what it was.
    let ahead = Now { earliest: at(10), latest: at(200_000_000) };
    assert_eq!(point.decide(DELETE, ahead), Err(Refusal::Locked { until: at(100_000_000) }));
    // One that was set back, long after.
    let back = Now { earliest: at(0), latest: at(50_000_000) };
    assert_eq!(point.decide(Action::Unlock, back), Err(Refusal::Compliance));
    // The longer one would count from the clock that is ahead: by the right one it could be taken back.
    let longer = lock(LockMode::Compliance, 300_000_000);
    assert_eq!(point.decide(longer, ahead), Err(Refusal::Doubtful { until: at(100_000_000) }));
    point.decide(longer, now(50_000_000)).unwrap();
    assert_eq!(point.decide(Action::Unlock, now(50_000_001)), Err(Refusal::Compliance));
}

#[test]
fn a_compliance_lock_is_enforced_once_it_is_final() {
    const DAY: i64 = 86_400;
    let mut point = Standing::default();
    assert_eq!(point.retention(now(0)), None);
    point.decide(lock(LockMode::Governance, 10 * DAY), now(0)).unwrap();
    let governed = Retention { mode: LockMode::Governance, until: at(10 * DAY) };
    assert_eq!(point.retention(now(0)), Some(governed));
    assert_eq!(point.retention(now(10 * DAY)), None, "it is over");
    point.decide(lock(LockMode::Compliance, 10 * DAY), now(DAY)).unwrap();
    assert_eq!(point.retention(now(4 * DAY - 1)), None);
    // By one of the clocks somebody could still take it back.
    assert_eq!(point.retention(Now { earliest: at(4 * DAY - 1), latest: at(4 * DAY) }), None);
    let complied = Retention { mode: LockMode::Compliance, until: at(10 * DAY) };
    assert_eq!(point.retention(now(4 * DAY)), Some(complied));
    assert_eq!(point.decide(Action::Unlock, now(4 * DAY)), Err(Refusal::Compliance));
}
