//! How errors are told to people.

use std::error::Error;

/// The error and all its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transport errors repeat their source in their own words.
        if text.ends_with("transport error") {
            text.truncate(text.len() - "transport error".len());
            text.push_str(&next);
        } else if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    // A hint of a library to whoever programs with it.
    if let Some(end) = text.find(": https://docs.rs/") {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_says_to_programmers_is_left_out() {
        let eof = std::io::Error::other(
            "peer closed connection: https://docs.rs/rustls/latest/x.html#unexpected-eof",
        );
        assert_eq!(chain(&eof), "peer closed connection");
    }
}
