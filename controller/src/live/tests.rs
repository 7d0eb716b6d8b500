use super::*;

fn connected(sessions: &Sessions) -> Arc<Live> {
    let (outbound, _) = mpsc::channel(1);
    let live = Live::new(AgentId::generate(), MachineId::generate(), 1, outbound);
    sessions.register(&live);
    live
}

#[tokio::test]
async fn what_does_not_get_to_the_database_makes_nobody_look_dead() {
    let while_it_lasts = Duration::from_millis(20);
    let pass = || tokio::time::sleep(while_it_lasts);
    let sessions = Sessions::new();
    let live = connected(&sessions);
    assert!(!sessions.has_known_for(Duration::from_secs(60)), "it has just started");
    pass().await;
    assert!(sessions.has_known_for(while_it_lasts));

    let heard = sessions.take_heard();
    assert_eq!(heard.sessions().iter().map(|one| one.agent).collect::<Vec<_>>(), [live.agent]);
    pass().await;
    assert!(!sessions.has_known_for(while_it_lasts), "as long as it is on its way");
    heard.written();
    assert!(sessions.has_known_for(while_it_lasts));

    live.note_heard();
    drop(sessions.take_heard());
    assert!(!sessions.has_known_for(while_it_lasts), "its pass failed, was cut off or panicked");
    let again = sessions.take_heard();
    assert_eq!(again.sessions().len(), 1, "it is not forgotten");
    again.written();
    pass().await;
    assert!(sessions.has_known_for(while_it_lasts));
}
