//! Agents that say what cannot be understood, or say that they live and nothing else: neither costs more than the attempt.

use std::time::Duration;

use holdfast_proto::v1::agent_message::Kind;
use holdfast_proto::v1::agent_service_client::AgentServiceClient;
use holdfast_proto::v1::controller_message::Kind as Said;
use holdfast_proto::v1::{
    AckResult, AgentMessage, ControllerMessage, Disk, Heartbeat, Hello, SnapshotTaken, StepAttempt,
    StepReport, Welcome, step_report::Outcome,
};
use holdfast_tests::{Agent, Postgres, World};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{MIB, PATIENCE, channel, run};

/// A session whose agent is this test.
struct Session {
    says: mpsc::Sender<AgentMessage>,
    hears: Streaming<ControllerMessage>,
}

impl Session {
    fn open(world: &World) -> Self {
        Self::open_as(world, &world.enrolled_agent("web1", &[]), Hello::default())
    }

    fn open_as(world: &World, agent: &Agent, hello: Hello) -> Self {
        let hello = Hello {
            boot_id: "raw".to_owned(),
            disks: vec![Disk { name: "data".to_owned(), size_bytes: MIB }],
            ..hello
        };
        run(async {
            let (says, queue) = mpsc::channel(8);
            says.send(AgentMessage { kind: Some(Kind::Hello(hello)) }).await.unwrap();
            let mut client = AgentServiceClient::new(channel(world, Some(agent)));
            let hears = client.session(ReceiverStream::new(queue)).await.unwrap().into_inner();
            Self { says, hears }
        })
    }

    fn say(&self, kind: Kind) {
        run(self.says.send(AgentMessage { kind: Some(kind) })).unwrap();
    }

    /// The first message of which this makes something. Heartbeats go out meanwhile.
    fn hear<T>(&mut self, wanted: impl Fn(Said) -> Option<T>) -> T {
        let heard = async {
            loop {
                let heartbeat = AgentMessage { kind: Some(Kind::Heartbeat(Heartbeat {})) };
                tokio::select! {
                    message = self.hears.message() => {
                        let message = message.unwrap().expect("the session ended");
                        if let Some(found) = message.kind.and_then(&wanted) {
                            return found;
                        }
                    }
                    () = tokio::time::sleep(Duration::from_millis(300)) => self.says.send(heartbeat).await.unwrap(),
                }
            }
        };
        run(async { tokio::time::timeout(PATIENCE, heard).await.expect("it was not said") })
    }

    fn dispatched(&mut self) -> StepAttempt {
        self.hear(|said| match said {
            Said::Dispatch(dispatch) => dispatch.attempt,
            _ => None,
        })
    }
}

#[test]
fn a_snapshot_that_nobody_wants_goes_while_another_one_is_taken() {
    const LEFT: &str = "019a0000-0000-7000-8000-000000000003";
    const TAKEN: &str = "019a0000-0000-7000-8000-000000000004";
    let world = World::start();
    let agent = world.enrolled_agent("web1", &[]);
    let hello = |attempt: &StepAttempt| Hello {
        snapshot_ids: vec![LEFT.to_owned(), TAKEN.to_owned()],
        running: vec![attempt.clone()],
        ..Hello::default()
    };
    let welcomed = |session: &mut Session| -> Welcome {
        session.hear(|said| match said {
            Said::Welcome(welcome) => Some(welcome),
            _ => None,
        })
    };
    let mut session = Session::open_as(&world, &agent, Hello::default());
    let _job = world.start_backup("web1");
    let taking = session.dispatched();
    drop(session);

    // Either may be the one that is being taken, if the agent does not say which one is not.
    let mut session = Session::open_as(&world, &agent, hello(&taking));
    assert_eq!(welcomed(&mut session).remove_snapshot_ids, [""; 0]);
    drop(session);
    let telling = Hello { settled_snapshot_ids: vec![LEFT.to_owned()], ..hello(&taking) };
    let mut session = Session::open_as(&world, &agent, telling);
    assert_eq!(welcomed(&mut session).remove_snapshot_ids, [LEFT]);
    let taken = SnapshotTaken {
        snapshot_id: TAKEN.to_owned(),
        disks: vec![Disk { name: "data".to_owned(), size_bytes: MIB }],
        ..SnapshotTaken::default()
    };
    let outcome = Some(Outcome::SnapshotTaken(taken));
    session.say(Kind::Report(StepReport { attempt: Some(taking), sequence: 1, outcome }));
    let transferring = session.dispatched();
    drop(session);

    let mut session = Session::open_as(&world, &agent, hello(&transferring));
    assert_eq!(welcomed(&mut session).remove_snapshot_ids, [LEFT]);
}

#[test]
fn a_report_that_is_not_understood_ends_its_attempt_and_not_the_session() {
    let world = World::start();
    let mut session = Session::open(&world);
    let job = world.start_backup("web1");
    let attempt = session.dispatched();
    let of_nothing = StepAttempt { step_id: "nothing".to_owned(), attempt: 1 };
    for attempt in [None, Some(of_nothing), Some(attempt.clone())] {
        // As a newer agent's would arrive.
        session.say(Kind::Report(StepReport { attempt, sequence: 1, outcome: None }));
    }
    let ack = session.hear(|said| match said {
        Said::Ack(ack) => Some(ack),
        _ => None,
    });
    assert_eq!((ack.attempt.as_ref(), ack.result()), (Some(&attempt), AckResult::Recorded));
    let ended = world.wait_for_job(&job);
    assert_eq!(
        (&ended["state"], &ended["error"]["code"]),
        (&"failed".into(), &"wrong_report".into()),
        "{ended:#}"
    );
    assert_eq!(world.machine("web1")["state"], "online");
    assert_eq!(world.database.number("SELECT epoch FROM agent_sessions"), 1);
}

#[test]
fn an_attempt_that_does_not_get_on_is_ended_though_its_agent_lives() {
    let world = World::start_with(Postgres::shared(), &[("stalled_after", "3s")]);
    let mut session = Session::open(&world);
    let job = world.start_backup("web1");
    let attempt = session.dispatched();
    let cancelled = session.hear(|said| match said {
        Said::Cancel(cancel) => cancel.attempt,
        _ => None,
    });
    assert_eq!(cancelled, attempt);
    let ended = world.wait_for_job(&job);
    assert_eq!(
        (&ended["state"], &ended["error"]["code"]),
        (&"failed".into(), &"no_progress".into()),
        "{ended:#}"
    );
    assert_eq!(world.machine("web1")["state"], "online");
    // The machine is free for the next one.
    let next = world.start_backup("web1");
    assert_ne!(session.dispatched().step_id, attempt.step_id);
    assert_eq!(world.job(&next)["state"], "running");
}
