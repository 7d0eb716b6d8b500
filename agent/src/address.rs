//! Where a controller or gateway listens.

use std::fmt;
use std::str::FromStr;

/// A host name or IP address (without brackets) and a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The text is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form HOST:PORT")]
pub(crate) struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        let host = bare_host(host).ok_or_else(error)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A host as configured or dispatched, without the brackets of an IPv6 address; `None` if it cannot be one.
pub(crate) fn bare_host(host: &str) -> Option<&str> {
    match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok().map(|_| inner)
        }
        None => {
            let valid = !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
            valid.then_some(host)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_names_and_addresses_of_both_families() {
        for text in ["controller.example:7443", "127.0.0.1:1", "[::1]:7443"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_host_and_port() {
        for text in
            ["", "host", "host:", ":1", "host:0", "host:70000", "::1:5", "a b:1", "a/b:1", "[x]:1", "u@h:1"]
        {
            assert_eq!(text.parse::<Address>(), Err(AddressError(text.to_owned())));
        }
    }
}
