use clap::Subcommand;

use super::parse_label;

#[derive(Debug, Subcommand)]
pub(crate) enum MachineCommand {
    /// Lists machines by name.
    List {
        /// Those that were removed as well.
        #[arg(long)]
        all: bool,
    },
    /// Shows a machine with its disks, and what needs a look.
    Show {
        /// Name or id.
        machine: String,
    },
    /// Lets a machine work again that was quarantined because two answered under its identity.
    LiftQuarantine {
        /// Name or id.
        machine: String,
    },
    /// Ends a machine's protection: its agent is refused, and its name is free. Its points stay until they are deleted.
    Remove {
        /// Name or id.
        machine: String,
    },
    /// Sets and removes labels.
    Label {
        /// Name or id.
        machine: String,
        /// KEY=VALUE sets a label, KEY- removes it.
        #[arg(required = true, value_parser = parse_label_change)]
        changes: Vec<LabelChange>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelChange {
    Set(String, String),
    Remove(String),
}

fn parse_label_change(text: &str) -> Result<LabelChange, String> {
    match text.strip_suffix('-').filter(|key| !key.is_empty() && !key.contains('=')) {
        Some(key) => Ok(LabelChange::Remove(key.to_owned())),
        None => parse_label(text)
            .map(|(key, value)| LabelChange::Set(key, value))
            .map_err(|_| "write KEY=VALUE to set a label, KEY- to remove it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_changes() {
        let set = |key: &str, value: &str| Ok(LabelChange::Set(key.to_owned(), value.to_owned()));
        assert_eq!(parse_label_change("env=prod"), set("env", "prod"));
        assert_eq!(parse_label_change("env="), set("env", ""));
        assert_eq!(parse_label_change("env=a-"), set("env", "a-"));
        assert_eq!(parse_label_change("env-"), Ok(LabelChange::Remove("env".to_owned())));
        for bad in ["", "-", "=x", "env"] {
            let refused = parse_label_change(bad).unwrap_err();
            assert_eq!(refused, "write KEY=VALUE to set a label, KEY- to remove it", "{bad}");
        }
    }
}
