use std::io::Write as _;

use comfy_table::{Table, presets};
use holdfast_vault_engine::{PointStatus, Vault, chain};

use crate::args::Output;
use crate::error::ToolError;
use crate::output::PointEntry;

/// Prints all points of all machines, oldest first.
pub(crate) async fn list(vault: &Vault, output: Output) -> Result<(), ToolError> {
    let mut entries = Vec::new();
    for machine in vault.machines().await.map_err(ToolError::List)? {
        let points = vault.points(machine).await.map_err(ToolError::List)?;
        let name = points.iter().rev().find_map(|status| match status {
            PointStatus::Ok(point) | PointStatus::SoftDeleted(point, _) => Some(point.machine_name.clone()),
            PointStatus::Damaged { .. } => None,
        });
        let name = name.unwrap_or_else(|| machine.to_string());
        for status in &points {
            entries.push(match status {
                PointStatus::Ok(point) => PointEntry::of(point, "listed"),
                PointStatus::SoftDeleted(point, _) => PointEntry::of(point, "soft_deleted"),
                PointStatus::Damaged { seq, error } => {
                    PointEntry::damaged(name.clone(), machine, *seq, chain(error))
                }
            });
        }
    }
    let text = match output {
        Output::Json => {
            serde_json::to_string_pretty(&entries).map_err(|error| ToolError::Print(error.into()))?
        }
        Output::Table => table(&entries),
    };
    writeln!(std::io::stdout().lock(), "{text}").map_err(ToolError::Print)?;
    for entry in &entries {
        if let Some(error) = &entry.error {
            eprintln!("warning: point {} of machine {} is damaged: {error}", entry.seq, entry.machine);
        }
    }
    Ok(())
}

fn table(entries: &[PointEntry]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["POINT", "MACHINE", "CREATED", "CONSISTENCY", "STATE", "DISK", "SIZE", "STORED"]);
    for entry in entries {
        let id = entry.id.map_or_else(|| format!("number {}", entry.seq), |id| id.to_string());
        let created = entry.created_at.as_deref().unwrap_or("-");
        let consistency = entry.consistency.unwrap_or("-");
        let row = |disk: &str, size: &str, stored: &str| {
            [&id, entry.machine.as_str(), created, consistency, entry.state, disk, size, stored]
                .map(str::to_owned)
        };
        if entry.disks.is_empty() {
            table.add_row(row("-", "-", "-"));
        }
        for disk in &entry.disks {
            let size = indicatif::BinaryBytes(disk.size_bytes).to_string();
            let stored = indicatif::BinaryBytes(disk.stored_bytes).to_string();
            table.add_row(row(&disk.name, &size, &stored));
        }
    }
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}
