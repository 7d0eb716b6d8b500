use super::*;
use crate::domain::error::Fault;

fn job() -> JobView {
    JobView {
        cancel_requested: false,
        round: 1,
        has_snapshot: true,
        has_point: false,
        error: None,
        warning: None,
    }
}

fn step(kind: StepKind) -> EndedStep {
    EndedStep { kind, tries: 1 }
}

fn failure(code: &str, retryable: bool) -> JobError {
    JobError {
        code: code.to_owned(),
        fault: Fault::Agent,
        retryable,
        message: "m".to_owned(),
        action: String::new(),
    }
}

/// Plays outcomes until the job ends; returns the end and the kinds that were run.
fn play(mut view: JobView, outcomes: Vec<StepOutcome>) -> (JobState, Option<JobError>, Vec<StepKind>) {
    let mut kind = StepKind::TakeSnapshot;
    let mut tries_of = std::collections::HashMap::new();
    let mut ran = Vec::new();
    for outcome in outcomes {
        ran.push(kind);
        let tries = tries_of.entry(kind.as_str()).and_modify(|n| *n += 1).or_insert(1_i32);
        if kind == StepKind::TransferData && outcome == StepOutcome::Done {
            view.has_point = true;
        }
        match after_step(&view, EndedStep { kind, tries: *tries }, outcome) {
            Next::Retry { .. } => {}
            Next::SnapshotAgain => {
                view.round += 1;
                tries_of.clear();
                kind = StepKind::TakeSnapshot;
            }
            Next::Advance { ready, error, .. } => {
                view.error = view.error.or(error);
                kind = ready;
            }
            Next::End { job, error, .. } => return (job, error, ran),
        }
    }
    panic!("the job did not end: {ran:?}");
}

use StepKind::{ReleaseSnapshot, TakeSnapshot, TransferData};
use StepOutcome::{Cancelled, Done, Failed, GivenUp, Lost};

#[test]
fn all_well() {
    let (state, error, ran) = play(job(), vec![Done, Done, Done]);
    assert_eq!((state, error), (JobState::Succeeded, None));
    assert_eq!(ran, [TakeSnapshot, TransferData, ReleaseSnapshot]);
}

#[test]
fn a_snapshot_that_lacks_something_is_a_warning_only_if_there_is_a_point() {
    let view = JobView { warning: Some(failure("hook_failed", false)), ..job() };
    let (state, error, _) = play(view.clone(), vec![Done, Done, Done]);
    assert_eq!((state, error), (JobState::SucceededWithWarnings, Some(failure("hook_failed", false))));
    let broken = failure("disk_unreadable", false);
    let (state, error, _) = play(view, vec![Done, Failed(broken.clone()), Done]);
    assert_eq!((state, error), (JobState::Failed, Some(broken)));
}

#[test]
fn a_failed_release_is_a_warning() {
    let (state, error, _) = play(job(), vec![Done, Done, Failed(failure("x", false))]);
    assert_eq!(state, JobState::SucceededWithWarnings);
    assert_eq!(error.unwrap().code, "x");
}

#[test]
fn release_runs_after_a_failed_transfer_and_the_transfers_error_is_told() {
    let (state, error, ran) =
        play(job(), vec![Done, Failed(failure("bad", false)), Failed(failure("also", false))]);
    assert_eq!(state, JobState::Failed);
    assert_eq!(error.unwrap().code, "bad");
    assert_eq!(ran, [TakeSnapshot, TransferData, ReleaseSnapshot]);
}

#[test]
fn a_lost_snapshot_starts_a_round_at_most_three_times() {
    let lost = || Failed(failure(SNAPSHOT_LOST, true));
    let (state, error, ran) = play(job(), vec![Done, lost(), Done, lost(), Done, lost(), Done]);
    assert_eq!(state, JobState::Failed);
    assert_eq!(error.unwrap().code, SNAPSHOT_LOST);
    assert_eq!(ran.iter().filter(|kind| **kind == TakeSnapshot).count(), 3);
}

#[test]
fn tries_are_bounded() {
    for kind in StepKind::IN_ORDER {
        let last = EndedStep { kind, tries: MAX_TRIES };
        for outcome in [Lost, Failed(failure("x", true))] {
            assert!(
                !matches!(after_step(&job(), last, outcome.clone()), Next::Retry { .. }),
                "{kind:?} {outcome:?}"
            );
            assert!(matches!(after_step(&job(), step(kind), outcome), Next::Retry { .. }), "{kind:?}");
        }
    }
}

#[test]
fn cancelled_jobs_end_cancelled_and_release() {
    let mut view = job();
    view.cancel_requested = true;
    assert_eq!(play(view.clone(), vec![Cancelled]).0, JobState::Cancelled);
    assert_eq!(play(view.clone(), vec![Lost]).0, JobState::Cancelled);
    let (state, _, ran) = play(view, vec![Done, Done]);
    assert_eq!(state, JobState::Cancelled);
    assert_eq!(ran, [TakeSnapshot, ReleaseSnapshot], "the transfer is skipped");
    let (state, _, _) = play(job(), vec![Done, Cancelled, Done]);
    assert_eq!(state, JobState::Cancelled);
}

#[test]
fn a_commit_that_won_against_a_cancel_succeeds() {
    let mut view = job();
    view.cancel_requested = true;
    view.has_point = true;
    let Next::Advance { error, ready, .. } = after_step(&view, step(TransferData), Done) else { panic!() };
    assert_eq!((error, ready), (None, ReleaseSnapshot));
    let Next::End { job, .. } = after_step(&view, step(ReleaseSnapshot), Done) else { panic!() };
    assert_eq!(job, JobState::Succeeded);
}

#[test]
fn what_follows_each_end_of_an_attempt() {
    let after = |kind, tries, outcome| after_step(&job(), EndedStep { kind, tries }, outcome);
    let failed = |error: &JobError| Next::End {
        state: StepState::Failed,
        skip: vec![TransferData, ReleaseSnapshot],
        job: JobState::Failed,
        error: Some(error.clone()),
    };
    let released = |error: &JobError| Next::Advance {
        state: StepState::Failed,
        ready: ReleaseSnapshot,
        skip: Vec::new(),
        error: Some(error.clone()),
    };
    let done = |ready| Next::Advance { state: StepState::Done, ready, skip: Vec::new(), error: None };
    let (again, bad) = (failure("again", true), failure("bad", false));
    assert_eq!(after(TakeSnapshot, 1, Done), done(TransferData));
    assert_eq!(after(TransferData, 1, Done), done(ReleaseSnapshot));
    for kind in StepKind::IN_ORDER {
        assert_eq!(after(kind, 4, Lost), Next::Retry { delay: Retry::First });
        assert_eq!(after(kind, 4, Failed(again.clone())), Next::Retry { delay: Retry::Backoff(4) });
    }
    assert_eq!(after(TakeSnapshot, 5, Lost), failed(&JobError::agent_lost()));
    assert_eq!(after(TakeSnapshot, 0, GivenUp(bad.clone())), failed(&bad));
    assert_eq!(after(TransferData, 0, GivenUp(again.clone())), released(&again));
    assert_eq!(after(TakeSnapshot, 5, Failed(again.clone())), failed(&again));
    assert_eq!(after(TakeSnapshot, 1, Failed(bad.clone())), failed(&bad));
    assert_eq!(after(TransferData, 5, Lost), released(&JobError::agent_lost()));
    assert_eq!(after(TransferData, 5, Failed(again.clone())), released(&again));
    assert_eq!(after(TransferData, 1, Failed(bad.clone())), released(&bad));
    assert_eq!(after(TransferData, 1, Cancelled), released(&JobError::cancelled()));
    let lost = failure(SNAPSHOT_LOST, false);
    assert_eq!(after(TransferData, 5, Failed(lost.clone())), Next::SnapshotAgain);
    let last_round = JobView { round: MAX_ROUNDS, ..job() };
    assert_eq!(after_step(&last_round, step(TransferData), Failed(lost.clone())), released(&lost));
}

#[test]
fn what_a_cancel_makes_of_each_end_of_an_attempt() {
    let asked = JobView { cancel_requested: true, ..job() };
    let after = |kind, outcome| after_step(&asked, step(kind), outcome);
    let cancelled = || Some(JobError::cancelled());
    let ended = Next::End {
        state: StepState::Failed,
        skip: vec![TransferData, ReleaseSnapshot],
        job: JobState::Cancelled,
        error: cancelled(),
    };
    let released = |state, skip| Next::Advance { state, ready: ReleaseSnapshot, skip, error: cancelled() };
    for outcome in [
        Lost,
        GivenUp(failure("x", true)),
        Cancelled,
        Failed(failure("x", true)),
        Failed(failure("x", false)),
        Failed(failure(SNAPSHOT_LOST, true)),
    ] {
        assert_eq!(after(TakeSnapshot, outcome.clone()), ended, "{outcome:?}");
        assert_eq!(
            after(TransferData, outcome.clone()),
            released(StepState::Failed, Vec::new()),
            "{outcome:?}"
        );
    }
    assert_eq!(after(TakeSnapshot, Done), released(StepState::Done, vec![TransferData]));
    // The snapshot has to go all the same.
    assert_eq!(after(ReleaseSnapshot, Lost), Next::Retry { delay: Retry::First });
    let again = Next::Retry { delay: Retry::Backoff(1) };
    assert_eq!(after(ReleaseSnapshot, Failed(failure("x", true))), again);
}

/// By what is known before (an error, a point, a warning) and how the release ended.
#[test]
fn what_the_job_becomes() {
    let (error, warning, unreleased) = (failure("e", false), failure("w", false), failure("r", false));
    let (some, none) = (|error: &JobError| Some(error.clone()), || None::<JobError>);
    let lost = JobError::agent_lost();
    let cancelled = JobError::cancelled();
    use JobState::{Succeeded, SucceededWithWarnings};
    let (failed, ended) = (JobState::Failed, JobState::Cancelled);
    let cases = [
        (none(), true, none(), Done, Succeeded, none()),
        (some(&error), true, none(), Done, Succeeded, none()),
        (none(), true, some(&warning), Done, SucceededWithWarnings, some(&warning)),
        (none(), true, some(&warning), Failed(unreleased.clone()), SucceededWithWarnings, some(&unreleased)),
        (none(), true, none(), Cancelled, SucceededWithWarnings, some(&lost)),
        (some(&error), false, some(&warning), Done, failed, some(&error)),
        (some(&error), false, none(), Failed(unreleased.clone()), failed, some(&error)),
        (some(&cancelled), false, none(), Done, ended, some(&cancelled)),
        (some(&cancelled), false, none(), Failed(unreleased.clone()), ended, some(&cancelled)),
        (none(), false, some(&warning), Done, failed, none()),
        (none(), false, none(), Failed(unreleased.clone()), failed, some(&unreleased)),
    ];
    for (error, has_point, warning, outcome, state, told) in cases {
        let view = JobView { error, has_point, warning, ..job() };
        let step_state = if outcome == Done { StepState::Done } else { StepState::Failed };
        let end = Next::End { state: step_state, skip: Vec::new(), job: state, error: told };
        assert_eq!(after_step(&view, step(ReleaseSnapshot), outcome.clone()), end, "{view:?} {outcome:?}");
    }
    let last = EndedStep { kind: ReleaseSnapshot, tries: MAX_TRIES };
    let end = Next::End { state: StepState::Failed, skip: Vec::new(), job: failed, error: some(&lost) };
    assert_eq!(after_step(&job(), last, Lost), end);
    assert_eq!(after_step(&job(), step(ReleaseSnapshot), GivenUp(lost)), end);
}

#[test]
fn cancel_of_an_unclaimed_step() {
    let early = JobView { has_snapshot: false, ..job() };
    let cancelled = || Some(JobError::cancelled());
    let end = |skip| {
        let (state, job) = (StepState::Skipped, JobState::Cancelled);
        Some(Next::End { state, skip, job, error: cancelled() })
    };
    let (state, ready) = (StepState::Skipped, ReleaseSnapshot);
    let release = Some(Next::Advance { state, ready, skip: Vec::new(), error: cancelled() });
    for view in [job(), early.clone()] {
        assert_eq!(cancel_pending(&view, ReleaseSnapshot), None);
        assert_eq!(cancel_pending(&view, TakeSnapshot), end(vec![TransferData, ReleaseSnapshot]));
    }
    assert_eq!(cancel_pending(&job(), TransferData), release);
    assert_eq!(cancel_pending(&early, TransferData), end(vec![ReleaseSnapshot]));
}

#[test]
fn every_decision_is_a_legal_transition() {
    for out in [StepState::Dispatched, StepState::Running] {
        for kind in StepKind::IN_ORDER {
            for outcome in [
                Done,
                Cancelled,
                Lost,
                GivenUp(failure("x", true)),
                Failed(failure("x", true)),
                Failed(failure("x", false)),
            ] {
                let to = match after_step(&job(), step(kind), outcome) {
                    Next::Retry { .. } | Next::SnapshotAgain => StepState::Pending,
                    Next::Advance { state, .. } => state,
                    Next::End { state, job, .. } => {
                        assert!(JobState::Running.may_become(job));
                        state
                    }
                };
                assert!(out.may_become(to), "{out:?} -> {to:?}");
            }
        }
    }
}

#[test]
fn backoff_doubles_and_is_bounded() {
    let first = Duration::from_secs(10);
    let delay = |retry: Retry| retry.delay(first, 0.5);
    assert_eq!(delay(Retry::Backoff(1)), first);
    assert_eq!(delay(Retry::Backoff(3)), 4 * first);
    assert_eq!(delay(Retry::Backoff(7)), 64 * first);
    assert_eq!(delay(Retry::Backoff(0)), first, "tries count from one");
    assert_eq!(delay(Retry::Backoff(1000)), 64 * first);
    assert_eq!(delay(Retry::First), first);
}

#[test]
fn what_failed_at_one_time_does_not_come_back_at_one_time() {
    let first = Duration::from_secs(10);
    for (retry, middle) in [(Retry::First, first), (Retry::Backoff(2), 2 * first)] {
        assert_eq!(retry.delay(first, 0.0), middle / 2);
        assert_eq!(retry.delay(first, 1.0), middle * 3 / 2);
        assert_eq!(retry.delay(first, 7.0), middle * 3 / 2);
        assert_eq!(retry.delay(first, 0.123_456_789_123).subsec_nanos() % 1000, 0, "Postgres counts none");
        assert_eq!(retry.delay(Duration::ZERO, 1.0), Duration::ZERO);
    }
}
