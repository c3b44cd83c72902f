//! Where a host listens and a client connects: `tcp://HOST:PORT` or
//! `ipc://PATH`. Pure data, but for [`Endpoint::resolve`], which may ask DNS.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path that a Unix socket's address holds on Linux, without its NUL.
pub(crate) const MAX_IPC_PATH: usize = 107;

/// A place to listen on or to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `tcp://HOST:PORT`. Port 0 asks the system for a free one when listening.
    Tcp {
        /// An address, or a name to be resolved when it is used.
        host: Host,
        /// The port; 0 only makes sense for listening.
        port: u16,
    },
    /// `ipc://PATH`: a Unix socket in the file system.
    Ipc(PathBuf),
}

/// The host part of a tcp endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A name, resolved at each use.
    Name(String),
}

/// What is wrong with the text of an endpoint, and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no endpoint: {problem}; accepted are tcp://HOST:PORT and ipc://PATH")]
pub struct EndpointError {
    text: String,
    problem: &'static str,
}

impl Endpoint {
    /// The loopback endpoint `tcp://127.0.0.1:PORT`.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self::Tcp {
            host: Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port,
        }
    }

    /// Whether only this machine can reach it: loopback addresses, the name
    /// `localhost` and ipc. A name that merely resolves to loopback is not local,
    /// because it may resolve to something else tomorrow.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => host.is_local(),
            Self::Ipc(_) => true,
        }
    }

    /// The socket addresses of a tcp endpoint; none for ipc. Asks the system's
    /// resolver for names, so it may block for seconds.
    pub(crate) fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        match self {
            Self::Tcp {
                host: Host::Ip(ip),
                port,
            } => Ok(vec![SocketAddr::new(*ip, *port)]),
            Self::Tcp {
                host: Host::Name(name),
                port,
            } => Ok((name.as_str(), *port).to_socket_addrs()?.collect()),
            Self::Ipc(_) => Ok(Vec::new()),
        }
    }
}

impl Host {
    fn is_local(&self) -> bool {
        match self {
            Self::Ip(IpAddr::V4(ip)) => ip.is_loopback(),
            Self::Ip(IpAddr::V6(ip)) => {
                ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
            }
            Self::Name(name) => name.eq_ignore_ascii_case("localhost"),
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("the host is missing");
        }
        if text == "*" {
            return Ok(Self::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return inner
                .parse::<Ipv6Addr>()
                .map(|ip| Self::Ip(IpAddr::V6(ip)))
                .map_err(|_| "what stands in brackets is no IPv6 address");
        }
        if text.contains(':') {
            return Err("an IPv6 address must stand in brackets, as in tcp://[::1]:5555");
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(IpAddr::V4(ip)));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if text.len() > 253 || !text.chars().all(plain) {
            return Err("the host is neither an address nor a name");
        }
        if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return Err("the host looks like an IPv4 address and is none");
        }
        Ok(Self::Name(text.to_owned()))
    }
}

/// Why a path cannot be that of a socket, if it cannot.
pub(crate) fn ipc_problem(path: &Path) -> Option<&'static str> {
    let Some(text) = path.to_str() else {
        return Some("the path is not UTF-8");
    };
    if text.is_empty() {
        Some("the path is missing")
    } else if text == "*" {
        Some("a wildcard path is not supported")
    } else if text.starts_with('@') {
        Some("abstract sockets have no owner and are not supported")
    } else if text.len() > MAX_IPC_PATH {
        Some("the path is longer than 107 bytes, which is all that a Unix socket takes")
    } else if text.chars().any(char::is_control) {
        Some("the path has control characters")
    } else {
        None
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = |problem| EndpointError {
            // A hostile or mistaken megabyte is not repeated in a message.
            text: text.chars().take(120).collect(),
            problem,
        };
        if let Some(path) = text.strip_prefix("ipc://") {
            let path = PathBuf::from(path);
            return match ipc_problem(&path) {
                Some(problem) => Err(wrong(problem)),
                None => Ok(Self::Ipc(path)),
            };
        }
        let Some(address) = text.strip_prefix("tcp://") else {
            return Err(wrong("it names no transport that is known"));
        };
        let (host, port) = address
            .rsplit_once(':')
            .ok_or_else(|| wrong("the port is missing"))?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong("the port is no number"));
        }
        let port = port.parse().map_err(|_| wrong("the port is above 65535"))?;
        let host = Host::parse(host).map_err(wrong)?;
        Ok(Self::Tcp { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp {
            host: Host::Ip(address.ip()),
            port: address.port(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_shown_as_it_was_written() {
        for text in [
            "tcp://127.0.0.1:5555",
            "tcp://127.0.0.1:0",
            "tcp://[::1]:5555",
            "tcp://localhost:65535",
            "tcp://host-1.example.org:1",
            "ipc:///run/skep/control",
            "ipc://relative/control",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        let any: Endpoint = "tcp://*:5555".parse().unwrap();
        assert_eq!(any.to_string(), "tcp://0.0.0.0:5555");
    }

    #[test]
    fn what_is_refused_says_why() {
        let long = format!("ipc:///{}", "x".repeat(107));
        for (text, why) in [
            ("", "transport"),
            ("127.0.0.1:5555", "transport"),
            ("udp://127.0.0.1:5555", "transport"),
            ("TCP://127.0.0.1:5555", "transport"),
            ("tcp://127.0.0.1", "port is missing"),
            ("tcp://127.0.0.1:", "no number"),
            ("tcp://127.0.0.1:+5", "no number"),
            ("tcp://127.0.0.1:65536", "above 65535"),
            ("tcp://:5555", "host is missing"),
            ("tcp://::1:5555", "brackets"),
            ("tcp://[::g]:5555", "no IPv6"),
            ("tcp://1.2.3:5555", "looks like"),
            ("tcp://a b:5555", "neither"),
            ("ipc://", "path is missing"),
            ("ipc://*", "wildcard"),
            ("ipc://@skep", "abstract"),
            ("ipc:///a\0b", "control"),
            (long.as_str(), "107"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(error.contains("tcp://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn local_is_what_only_this_machine_reaches() {
        for (text, local) in [
            ("tcp://127.0.0.1:1", true),
            ("tcp://127.9.9.9:1", true),
            ("tcp://[::1]:1", true),
            ("tcp://[::ffff:127.0.0.1]:1", true),
            ("tcp://localhost:1", true),
            ("ipc://x", true),
            ("tcp://0.0.0.0:1", false),
            ("tcp://*:1", false),
            ("tcp://[::]:1", false),
            ("tcp://10.0.0.1:1", false),
            ("tcp://localhost.example.org:1", false),
        ] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap().is_local(),
                local,
                "{text}"
            );
        }
    }
}
