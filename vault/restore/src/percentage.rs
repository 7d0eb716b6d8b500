/// Reads a percentage as an operator writes it, `5%` or `5`: hundredths of a percent, at least one.
///
/// # Errors
/// In words for whoever wrote it.
pub fn parse_percentage(text: &str) -> Result<u32, String> {
    let bad = || "write a percentage of 0.01 to 100, such as 5 or 0.5%".to_owned();
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 2 {
        return Err(bad());
    }
    let hundredths = format!("{whole}{part:0<2}").parse().map_err(|_| bad())?;
    if (1..=10_000).contains(&hundredths) { Ok(hundredths) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_a_sign_or_none() {
        for (number, hundredths) in
            [("5", 500), ("0.5", 50), ("12.34", 1234), ("100", 10_000), ("100.00", 10_000), ("0.01", 1)]
        {
            for text in [number.to_owned(), format!("{number}%")] {
                assert_eq!(parse_percentage(&text), Ok(hundredths), "{text}");
            }
        }
        let bad = [
            ".5",
            "5.",
            "0",
            "0.00",
            "101",
            "100.01",
            "0.001",
            "-5",
            "+5",
            "5.%",
            "1e1",
            "5 ",
            "99999999999",
            "",
        ];
        for text in
            bad.into_iter().flat_map(|bad| [bad.to_owned(), format!("{bad}%")]).chain(["5%%".to_owned()])
        {
            assert!(parse_percentage(&text).unwrap_err().contains("such as 5"), "{text}");
        }
    }
}
