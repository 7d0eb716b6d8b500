//! The way it goes when nothing goes wrong.

use holdfast_proto::v1::MapLayer;

use crate::bed::Bed;
use crate::image::{hashes, noise};
use crate::operator::restore;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn two_disks_become_a_point_and_come_back() {
    let bed = Bed::new().await;
    let mut data = noise(1, 5 * MIB + 1234);
    data[MIB..3 * MIB].fill(0);
    let root = noise(2, 2 * MIB);
    let disks: [(&str, &[u8]); 2] = [("data", &data), ("root", &root)];
    let agent = bed.agent(&disks);
    let open = agent.open().await;
    assert_eq!(open.max_cell_bytes, 131_072);
    assert!(open.committed_point_id.is_empty() && open.transfer_id.len() <= 64);
    assert!(
        open.disks
            .iter()
            .all(|base| base.base_size_bytes == 0 && base.base_map_id.is_empty() && !base.has_overlay)
    );

    let answer = agent.back_up(&disks).await;
    let points: Vec<_> = bed.authority.script().points.values().cloned().collect();
    let [point] = points.as_slice() else { panic!("{points:?}") };
    assert_eq!(answer.point_id, point.id.to_string());
    assert_eq!((point.machine, point.step_id, point.attempt), (agent.machine.0, agent.step.0, 1));
    assert_eq!(point.disks[0].read_bytes, 77);
    let map_ids: Vec<_> = ["data", "root"].iter().map(|disk| point.map_id(disk).unwrap().to_vec()).collect();
    assert_eq!(answer.map_ids, map_ids);
    for (disk, bytes) in disks {
        let restored = restore(&bed, "web1@latest", disk).await.unwrap();
        assert_eq!((restored.point, restored.disk), (answer.point_id.clone(), disk.to_owned()));
        assert!(restored.bytes == bytes, "{disk} came back otherwise");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_backup_sends_what_changed() {
    let bed = Bed::new().await;
    let mut image = noise(1, 4 * MIB);
    let agent = bed.agent(&[("data", &image)]);
    let first = agent.back_up(&[("data", &image)]).await;
    let before = image.clone();
    image[MIB] ^= 1;
    image[2 * MIB..2 * MIB + 4096].fill(0);

    let agent = bed.next(&agent, &[("data", &image)]);
    let open = agent.open().await;
    let base = &open.disks[0];
    assert_eq!((base.base_size_bytes, base.has_overlay), (4 * MIB as u64, false));
    assert_eq!(base.base_map_id, first.map_ids[0]);
    assert_eq!(
        agent.map(&open.transfer_id, "data", MapLayer::Merged).await,
        hashes(&base.block_hash_key, &before)
    );
    let second = agent.back_up(&[("data", &image)]).await;

    let changed: Vec<u64> =
        bed.authority.script().points.values().map(|point| point.disks[0].changed_bytes).collect();
    assert_eq!(changed, [4 * MIB as u64, 8192]);
    assert!(restore(&bed, &first.point_id, "").await.unwrap().bytes == before);
    assert!(restore(&bed, &second.point_id, "").await.unwrap().bytes == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_in_the_order_of_the_request() {
    let bed = Bed::new().await;
    let (one, two) = (noise(1, MIB), noise(2, 2 * MIB));
    let mut agent = bed.agent(&[("one", &one), ("two", &two)]);
    agent.disks.reverse();
    let open = agent.open().await;
    let names: Vec<_> = open.disks.iter().map(|base| base.name.as_str()).collect();
    assert_eq!(names, ["two", "one"]);
    let answer = agent.back_up(&[("one", &one), ("two", &two)]).await;
    let point = bed.authority.script().points.values().next().unwrap().clone();
    assert_eq!(
        answer.map_ids,
        [point.map_id("two").unwrap().to_vec(), point.map_id("one").unwrap().to_vec()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_frames_end_well() {
    let bed = Bed::new().await;
    let image = noise(1, MIB);
    let agent = bed.agent(&[("data", &image)]);
    agent.back_up(&[("data", &image)]).await;
    let agent = bed.next(&agent, &[("data", &image)]);
    let open = agent.open().await;
    agent.send(Vec::new()).await;
    agent.commit(&open.transfer_id).await;
    assert_eq!(bed.points(agent.machine).await, 2);
}
