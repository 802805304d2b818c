//! One client URL of an etcd.

use hyper::Uri;
use std::fmt;

/// Host and port of one member of an etcd cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// As the system resolves it, without the brackets of IPv6.
    pub host: String,
    /// From 1.
    pub port: u16,
    /// `host:port` as it stands in the URL.
    pub authority: String,
}

impl Endpoint {
    /// Parses a URL such as `http://10.0.0.9:2379`.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const RIGHT: &str = "write http://HOST:PORT, such as http://10.0.0.9:2379";
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {RIGHT}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                let message = "TLS to etcd is not built yet: let etcd listen for HTTP on an address \
                               that only the nodes reach, or put a TLS tunnel before it";
                return Err(message.to_owned());
            }
            Some(_) | None => return Err(format!("it has no scheme http; {RIGHT}")),
        }
        let Some(authority) = uri.authority() else { return Err(RIGHT.to_owned()) };
        let Some(port) = authority.port_u16().filter(|port| *port != 0) else {
            return Err(format!("it has no port; {RIGHT}"));
        };
        if authority.as_str().contains('@') {
            return Err(format!(
                "a password does not belong here, but into cluster.etcd.password_file; {RIGHT}"
            ));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(format!("it goes on behind the port; {RIGHT}"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, authority: authority.to_string() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_host_and_port_are_taken() {
        let cases = [
            ("http://10.0.0.9:2379", "10.0.0.9", 2379),
            ("http://etcd-1.example:80/", "etcd-1.example", 80),
            ("http://[::1]:2379", "::1", 2379),
        ];
        for (text, host, port) in cases {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
            assert_eq!(endpoint.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn other_urls_are_refused_with_what_would_be_right() {
        let cases = [
            ("https://10.0.0.9:2379", "TLS to etcd is not built"),
            ("10.0.0.9:2379", "write http://HOST:PORT"),
            ("http://10.0.0.9", "no port"),
            ("http://10.0.0.9:0", "no port"),
            ("http://a:b@10.0.0.9:2379", "password_file"),
            ("http://10.0.0.9:2379/v3", "behind the port"),
            ("", "write http://HOST:PORT"),
        ];
        for (text, expected) in cases {
            let message = Endpoint::parse(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
