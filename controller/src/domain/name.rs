//! Names that people give, and the limits on them.

/// A machine's name: 1 to 253 of `[A-Za-z0-9._-]`, not starting with `-` or `.`, and not a UUID (a name that looks like
/// an id could stand for two machines).
pub(crate) fn is_machine_name(text: &str) -> bool {
    is_word(text, 253) && uuid::Uuid::parse_str(text).is_err()
}

/// A disk's name: 1 to 64 of the same characters.
pub(crate) fn is_disk_name(text: &str) -> bool {
    is_word(text, 64)
}

/// A label's key or value: up to 63 of the same characters and `/`; a value may be empty.
pub(crate) fn is_label(key: &str, value: &str) -> bool {
    let fits = |text: &str| text.len() <= 63 && text.bytes().all(|byte| is_word_byte(byte) || byte == b'/');
    !key.is_empty() && fits(key) && fits(value)
}

fn is_word(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && !text.starts_with(['-', '.'])
        && text.bytes().all(is_word_byte)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_host_names_and_refuses_the_rest() {
        let longest = "x".repeat(253);
        for good in ["web1", "db-2.example.com", "a", "A_b", "0", "9", "z", "Z", "_a", &longest] {
            assert!(is_machine_name(good), "{good}");
        }
        let long = "x".repeat(254);
        for bad in
            ["", "-x", ".x", "a/b", "a b", "ä", "a@latest", "0190d7a8-0000-7000-8000-000000000000", &long]
        {
            assert!(!is_machine_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_disk_may_be_called_like_an_id() {
        for good in ["vda", "0190d7a8-0000-7000-8000-000000000000", &"x".repeat(64)] {
            assert!(is_disk_name(good), "{good}");
        }
        for bad in ["", "-x", ".x", "a/b", "a:b", &"x".repeat(65)] {
            assert!(!is_disk_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_label_has_a_key_and_maybe_a_value() {
        let longest = "x".repeat(63);
        for (key, value) in [("env", "prod"), ("env", ""), ("a/b", "-c/.d_"), (&*longest, &*longest)] {
            assert!(is_label(key, value), "{key}={value}");
        }
        let long = "x".repeat(64);
        for (key, value) in [("", "prod"), ("", ""), ("a b", ""), ("a", "b c"), (&*long, ""), ("a", &*long)] {
            assert!(!is_label(key, value), "{key}={value}");
        }
    }
}
