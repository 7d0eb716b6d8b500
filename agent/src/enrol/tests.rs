use super::*;
use crate::testing::agent::TestMachine;
use crate::testing::controller::TestController;
use crate::testing::pki::TestCa;

fn fingerprint(ca: &TestCa) -> FirstTrust {
    FirstTrust::Fingerprint(tls::fingerprints(&ca.pem).unwrap()[0])
}

async fn try_enrol(
    machine: &TestMachine,
    controller: &TestController,
    token: &str,
    trust: FirstTrust,
    existing: Existing,
) -> Result<AgentRecord, String> {
    let config = machine.config(controller);
    let state = StateDir::open(&config.state_dir).unwrap();
    let enrolment =
        Enrolment { token: token.to_owned(), trust, machine_name: Some("web1".to_owned()), existing };
    enrol(&config, &state, enrolment)
        .await
        .map_err(|error| format!("{}; {}", crate::error::chain(&error), error.action().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_enrols_once_unless_it_is_forced_and_can_connect_then() {
    let mut controller = TestController::start().await;
    let machine = TestMachine::new();
    let trust = FirstTrust::CaPem(controller.ca.pem.clone());
    let first = try_enrol(&machine, &controller, "good", trust.clone(), Existing::Keep).await.unwrap();
    let error = try_enrol(&machine, &controller, "good", trust, Existing::Keep).await.unwrap_err();
    assert!(error.contains("web1") && error.contains("--force") && error.contains("run"), "{error}");
    let trust = fingerprint(&controller.ca);
    let second = try_enrol(&machine, &controller, "good", trust, Existing::Replace).await.unwrap();
    assert_ne!(first.agent_id, second.agent_id);
    let agent = machine.start(&controller);
    controller.welcome().await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_not_the_right_one_never_sees_the_token() {
    let controller = TestController::start().await;
    let machine = TestMachine::new();
    let other = TestCa::new();
    for (trust, option) in
        [(FirstTrust::CaPem(other.pem.clone()), "--ca-file"), (fingerprint(&other), "--ca-fingerprint")]
    {
        let error = try_enrol(&machine, &controller, "good", trust, Existing::Keep).await.unwrap_err();
        assert!(error.contains(option), "{error}");
        assert!(!machine.path().join("state/identity").try_exists().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_leaves_nothing() {
    let controller = TestController::start().await;
    let machine = TestMachine::new();
    let trust = fingerprint(&controller.ca);
    let error = try_enrol(&machine, &controller, "bad", trust, Existing::Keep).await.unwrap_err();
    assert!(error.contains("the token is not valid"), "{error}");
    assert!(!machine.path().join("state/identity").try_exists().unwrap());
}
