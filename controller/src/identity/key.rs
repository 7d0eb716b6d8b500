use std::fmt;

use crate::pki::sha256;

const PREFIX: &str = "hfk_";
const HEX_DIGITS: usize = 64;

/// An API key as its owner has it: `hfk_` and 64 lower-case hex digits, 256 random bits. The database has only its
/// SHA-256, which is enough for a secret that nobody can guess.
pub(crate) struct KeyText(String);

impl KeyText {
    pub(crate) fn generate() -> Self {
        Self(format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 32]>())))
    }

    /// Reads what a caller sent; `None` if it does not even look like a key.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (digits.len() == HEX_DIGITS && digits.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }

    /// The secret itself, to be shown once.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_is_parsed_and_nothing_else() {
        let key = KeyText::generate();
        assert_eq!(KeyText::parse(key.reveal()).unwrap().sha256(), key.sha256());
        assert_ne!(key.sha256(), KeyText::generate().sha256());
        let short = &key.reveal()[..67];
        let upper = key.reveal().replace("hfk_", "HFK_");
        for bad in ["", "hfk_", short, &upper, &format!("{short}g"), &format!("{short}A")] {
            assert!(KeyText::parse(bad).is_none(), "{bad}");
        }
        assert!(!format!("{key:?}").contains(&key.reveal()[4..]));
    }
}
