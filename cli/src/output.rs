use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::Format;
use crate::error::CliError;

/// Prints answers in the wanted format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// Prints a value: as it is for programs, as `table` makes it for people.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => table(),
            Format::Json => serde_json::to_string_pretty(value)
                .map_err(|error| CliError::Encode { detail: error.to_string() })?,
            Format::Yaml => serde_yaml_ng::to_string(value)
                .map_err(|error| CliError::Encode { detail: error.to_string() })?,
        };
        write(&text)
    }

    pub(crate) fn version(self) -> Result<(), CliError> {
        #[derive(Serialize)]
        struct Version {
            version: &'static str,
        }
        let version = Version { version: env!("CARGO_PKG_VERSION") };
        self.print(&version, || format!("holdfast {}", version.version))
    }

    /// Whether a progress bar makes sense.
    pub(crate) fn draws_progress(self) -> bool {
        std::io::stderr().is_terminal()
    }
}

/// Writes text and a newline to stdout.
pub(crate) fn write(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        // `holdfast ... | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| CliError::Print { source }),
    }
}

/// A table without lines, for people and `awk` alike.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// `12.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
