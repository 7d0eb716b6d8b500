use holdfast_proto::v1::agent_message;

use super::*;
use crate::testing::agent::TestMachine;
use crate::testing::controller::TestController;

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_a_configuration_that_was_read_again_are_told_at_once() {
    let mut controller = TestController::start().await;
    let mut machine = TestMachine::new();
    machine.disk("data", &[1; 5000]);
    machine.enrol(&controller, Duration::from_secs(3600));
    let mut config = machine.config(&controller);
    config.timing.disk_poll = Duration::from_secs(3600);
    let state = Arc::new(StateDir::open(&config.state_dir).unwrap());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (session, _runner) =
        assemble(config, &state, Identity::load(&state).unwrap(), &stop, &tasks).unwrap();
    let session = Arc::new(session);
    let running = tokio::spawn({
        let (session, stop) = (Arc::clone(&session), stop.clone());
        async move { session.run(&stop).await }
    });
    let mut welcomed = controller.welcome().await;
    machine.disk("more", &[1; 9000]);
    machine.config(&controller);
    reload(&machine.path().join("agent.toml"), &session);
    loop {
        if let agent_message::Kind::DisksChanged(changed) = welcomed.message().await {
            let names: Vec<&str> = changed.disks.iter().map(|disk| disk.name.as_str()).collect();
            assert_eq!(names, ["data", "more"]);
            break;
        }
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    running.await.unwrap();
}
