//! How many rounds the tests take in which something dies at random, and at which moments.

use std::env::{self, VarError};

const ROUNDS: &str = "HOLDFAST_FAULT_ROUNDS";
const SEED: &str = "HOLDFAST_FAULT_SEED";
/// More than could ever be waited for.
const MAX_ROUNDS: u64 = 1_000_000;

/// What `HOLDFAST_FAULT_ROUNDS` says, 1 to 1,000,000, or `default`.
#[must_use]
pub fn rounds(default: u64) -> u64 {
    set(ROUNDS, 1, MAX_ROUNDS).unwrap_or(default)
}

/// What `HOLDFAST_FAULT_SEED` says, 0 to 2^32 - 1, or 1. Round `n` has this seed plus `n`.
#[must_use]
pub fn seed() -> u64 {
    set(SEED, 0, u32::MAX.into()).unwrap_or(1)
}

fn set(name: &str, min: u64, max: u64) -> Option<u64> {
    // A name that is mistyped would mean the default as silently as a value would.
    for (other, _) in env::vars_os() {
        let other = other.to_string_lossy();
        assert!(
            !other.starts_with("HOLDFAST_FAULT_") || [ROUNDS, SEED].contains(&other.as_ref()),
            "{other} is not known: there are {ROUNDS} and {SEED}"
        );
    }
    match env::var(name) {
        Ok(text) => Some(parse(name, &text, min, max).unwrap_or_else(|message| panic!("{message}"))),
        Err(VarError::NotPresent) => None,
        Err(VarError::NotUnicode(text)) => panic!("{name} is no text: {}", text.display()),
    }
}

fn parse(name: &str, text: &str, min: u64, max: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("{name} is {text:?}: it must be a number from {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_or_out_of_range_is_an_error() {
        for (text, number) in [("1", 1), ("20", 20), ("30", 30)] {
            assert_eq!(parse(ROUNDS, text, 1, 30), Ok(number));
        }
        for bad in ["", "0", "31", "2O", "-1", "1.5", " 2", "99999999999999999999"] {
            let said = parse(ROUNDS, bad, 1, 30).unwrap_err();
            assert_eq!(said, format!("{ROUNDS} is {bad:?}: it must be a number from 1 to 30"));
        }
    }
}
