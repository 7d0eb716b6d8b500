//! The vault's folder without the vault: its file system is not mounted.

use tokio::sync::mpsc;
use tonic::Code;

use holdfast_gateway::VerifyTarget;
use holdfast_proto::error::detail_of;
use holdfast_vault_engine::VerifyDepth;

use crate::bed::Bed;
use crate::image::noise;

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_not_called_sound_and_nothing_in_it_damaged() {
    let bed = Bed::new().await;
    let image = noise(1, 1 << 20);
    let agent = bed.agent(&[("root", &image)]);
    agent.back_up(&[("root", &image)]).await;
    let (progress, _told) = mpsc::channel(8);
    let verify = |target| bed.gateway.verify(target, VerifyDepth::Structure, "test", progress.clone());
    assert_eq!(verify(VerifyTarget::Vault).await.unwrap().points, 1);
    assert_eq!(bed.gateway.vault_error().await, None);

    let away = bed.dir.path().join("away");
    std::fs::rename(bed.root(), &away).unwrap();
    std::fs::create_dir(bed.root()).unwrap();
    for target in [VerifyTarget::Vault, VerifyTarget::Machine(agent.machine)] {
        let refused = verify(target).await.unwrap_err();
        assert_eq!((refused.code(), detail_of(&refused).code.as_str()), (Code::Unavailable, "vault_gone"));
    }
    assert_eq!(bed.gateway.vault_error().await.unwrap().code, "vault_gone");

    std::fs::remove_dir(bed.root()).unwrap();
    std::fs::rename(&away, bed.root()).unwrap();
    let verified = bed.authority.script().verified.clone();
    assert_eq!(verified.len(), 1, "only what was looked at while the vault was there: {verified:?}");
    assert!(verified[0].damaged.is_empty(), "{verified:?}");
    let report = verify(VerifyTarget::Vault).await.unwrap();
    assert_eq!((report.points, report.findings.len()), (1, 0));
    assert_eq!(bed.gateway.vault_error().await, None);
}
