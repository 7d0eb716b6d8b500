use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Shows what is in the vault, and its last garbage collection.
    Status,
    /// Verifies what is stored; fails if something is damaged.
    Check(CheckArgs),
    /// Adds the machines and points of the vault that the controller's database does not have, such as after it was lost.
    RebuildCatalogue,
    /// Removes what no point and no backup needs any more. Done daily by itself.
    Gc(GcArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Says what would be done, and changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The controller's clock is right, although it leapt since the last collection: what was deleted long enough ago may go.
    #[arg(long)]
    pub(crate) trust_clock: bool,
    /// Looks for dead blocks in all machines instead of one in seven: takes long, and frees what can be freed now.
    #[arg(long)]
    pub(crate) compact_all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Reads every byte that the points need, once; otherwise only how they hang together is looked at.
    #[arg(long, conflicts_with = "sample")]
    pub(crate) read_data: bool,
    /// Reads so many of the segments, chosen at random: 5%, 0.5%.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub(crate) sample: Option<u32>,
    /// Only this machine: name or id.
    #[arg(long)]
    pub(crate) machine: Option<String>,
}

/// Hundredths of a percent.
fn parse_percent(text: &str) -> Result<u32, String> {
    let bad = || "write a percentage of 0.01% to 100%, such as 5%".to_owned();
    let number = text.strip_suffix('%').ok_or_else(bad)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || part.len() > 2
        || !(whole.to_owned() + part).bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(bad());
    }
    let hundredths = format!("{whole}{part:0<2}").parse().map_err(|_| bad())?;
    if (1..=10_000).contains(&hundredths) { Ok(hundredths) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        for (text, hundredths) in
            [("5%", 500), ("0.5%", 50), ("12.34%", 1234), ("100%", 10_000), ("0.01%", 1)]
        {
            assert_eq!(parse_percent(text), Ok(hundredths), "{text}");
        }
        for bad in ["", "5", "%", ".5%", "0%", "101%", "0.001%", "-5%", "5.%%", "1e1%", "99999999999%"] {
            assert!(parse_percent(bad).unwrap_err().contains("such as 5%"), "{bad}");
        }
    }
}
