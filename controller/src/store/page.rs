//! Keyset pages. A token is the hex of the last row's sort key: opaque to clients, and checked like any input.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Rows of one page, and where the next one starts.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) rows: Vec<T>,
    /// Empty at the end.
    pub(crate) next: String,
}

/// A row of a sorted listing.
pub(crate) trait Sorted {
    /// What it is sorted by, as text.
    fn sort_key(&self) -> String;
}

/// How many rows a caller gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSize(i64);

impl PageSize {
    /// 1 to 1000; 0 means 100.
    pub(crate) fn new(wanted: i32) -> Option<Self> {
        match wanted {
            0 => Some(Self(100)),
            1..=1000 => Some(Self(i64::from(wanted))),
            _ => None,
        }
    }

    /// One more row than is shown tells whether there is another page.
    pub(super) fn limit(self) -> i64 {
        self.0 + 1
    }

    pub(super) fn page<T: Sorted>(self, mut rows: Vec<T>) -> Page<T> {
        let size = usize::try_from(self.0).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let next = rows.last().filter(|_| more).map(token_after).unwrap_or_default();
        Page { rows, next }
    }
}

/// The token of the page that begins after this row.
pub(crate) fn token_after(row: &impl Sorted) -> String {
    hex::encode(row.sort_key())
}

/// The sort key in a token, as text. `None`: not a token of ours.
pub(crate) fn decode(token: &str) -> Option<Option<String>> {
    if token.is_empty() {
        return Some(None);
    }
    let bytes = hex::decode(token).ok()?;
    // No key of ours has a NUL, and Postgres takes none.
    String::from_utf8(bytes).ok().filter(|key| !key.contains('\0')).map(Some)
}

/// The key of rows sorted by time and id.
pub(super) fn time_key(at: DateTime<Utc>, id: Uuid) -> String {
    format!("{}:{id}", at.timestamp_micros())
}

pub(crate) fn parse_time_key(key: &str) -> Option<(DateTime<Utc>, Uuid)> {
    let (micros, id) = key.split_once(':')?;
    Some((DateTime::from_timestamp_micros(micros.parse().ok()?)?, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn what_is_no_key_of_ours_is_no_token() {
        assert_eq!(decode(""), Some(None));
        assert_eq!(decode(&hex::encode("web1")), Some(Some("web1".to_owned())));
        for bad in ["0", "zz", "ff", "00", "7765620031"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
