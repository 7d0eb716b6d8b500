//! An operator who restores.

use tonic::{Request, Response, Status, Streaming};

use holdfast_proto::v1::restore_service_client::RestoreServiceClient;
use holdfast_proto::v1::{Codec, DiskFrame, Extent, ReadDiskRequest, disk_frame::Kind};
use holdfast_vault_engine::{BLOCK_SIZE, cell_hash, decode_cell};

use crate::bed::Bed;

/// A restored disk, with what its frames looked like.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) point: String,
    pub(crate) disk: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) largest_frame: usize,
}

pub(crate) async fn read(
    bed: &Bed,
    role: &str,
    point: &str,
    disk: &str,
) -> Result<Streaming<DiskFrame>, Status> {
    let mut client = RestoreServiceClient::new(bed.channel()).max_decoding_message_size(8 << 20);
    let mut request = Request::new(ReadDiskRequest { point: point.to_owned(), disk_name: disk.to_owned() });
    if !role.is_empty() {
        request.metadata_mut().insert("test-operator", role.parse().unwrap());
    }
    client.read_disk(request).await.map(Response::into_inner)
}

/// Restores a disk as any receiver must: decode, compare the hash, write each block once, insist on the end.
pub(crate) async fn restore(bed: &Bed, point: &str, disk: &str) -> Result<Restored, Status> {
    let mut frames = read(bed, "admin", point, disk).await?;
    let Some(Kind::Start(start)) = frames.message().await?.unwrap().kind else {
        panic!("the start comes first")
    };
    let size = usize::try_from(start.size_bytes).unwrap();
    let mut image = Image {
        bytes: vec![0xee; size.next_multiple_of(BLOCK_SIZE)],
        seen: vec![false; size.div_ceil(BLOCK_SIZE)],
    };
    let mut largest_frame = 0;
    let count = loop {
        let Some(frame) = frames.message().await? else { panic!("no end") };
        match frame.kind.unwrap() {
            Kind::Start(_) => panic!("a second start"),
            Kind::End(end) => break end.block_count,
            Kind::Cells(cells) => {
                largest_frame = largest_frame.max(cells.cells.iter().map(|cell| cell.data.len()).sum());
                for extent in &cells.zero_extents {
                    image.write(extent, None);
                }
                for cell in &cells.cells {
                    let codec = match cell.codec() {
                        Codec::Zstd => holdfast_vault_engine::Codec::Zstd,
                        _ => holdfast_vault_engine::Codec::Raw,
                    };
                    let plain = decode_cell(codec, cell.plain_bytes, &cell.data).unwrap();
                    assert_eq!(cell_hash(&plain).as_slice(), cell.plain_hash);
                    for piece in &cell.pieces {
                        let from = piece.cell_block as usize * BLOCK_SIZE;
                        image.write(piece.extent.as_ref().unwrap(), Some(&plain[from..]));
                    }
                }
            }
        }
    };
    assert!(frames.message().await?.is_none(), "something after the end");
    assert!(image.seen.iter().all(|seen| *seen), "a block is missing");
    assert_eq!(count, image.seen.len() as u64);
    image.bytes.truncate(size);
    Ok(Restored { point: start.point_id, disk: start.disk_name, bytes: image.bytes, largest_frame })
}

struct Image {
    bytes: Vec<u8>,
    seen: Vec<bool>,
}

impl Image {
    fn write(&mut self, extent: &Extent, bytes: Option<&[u8]>) {
        for at in 0..usize::try_from(extent.block_count).unwrap() {
            let block = usize::try_from(extent.first_block).unwrap() + at;
            assert!(!std::mem::replace(&mut self.seen[block], true), "block {block} came twice");
            let target = &mut self.bytes[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE];
            match bytes {
                Some(bytes) => target.copy_from_slice(&bytes[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE]),
                None => target.fill(0),
            }
        }
    }
}
