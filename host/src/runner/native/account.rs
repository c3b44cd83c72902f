//! Which user native agents are.

use nix::unistd::{Gid, Uid, User, geteuid};
use serde::{Deserialize, Serialize};

/// Whom agents are under a host that is root and was told no user.
const NOBODY: &str = "nobody";

/// The number of [`NOBODY`] where no file knows that name: the kernel's own
/// for whoever has none.
const NOBODY_ID: u32 = 65_534;

/// A user, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Why agents cannot be the user that the operator names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error("native.user: there is no user `{0}`: make one, such as with `useradd --system {0}`")]
    Unknown(String),
    #[error("native.user: `{0}` is root, whom no jail holds: name a user without privileges")]
    Root(String),
    #[error(
        "native.user: only a host that is root can run agents as `{0}`: start it as root, or as \
         that user and leave this out"
    )]
    NotRoot(String),
}

impl Account {
    /// The user of agents: the one that is named, or else, under root,
    /// `nobody`. `None` means the host's own, which is not root.
    pub(super) fn of(name: Option<&str>) -> Result<Option<Self>, AccountError> {
        let host = geteuid();
        let known = |name: &str| User::from_name(name).ok().flatten();
        let Some(name) = name else {
            let nobody = || known(NOBODY).filter(|user| !is_root(user.uid, user.gid));
            return Ok(host.is_root().then(|| {
                nobody().map_or(
                    Self {
                        uid: NOBODY_ID,
                        gid: NOBODY_ID,
                    },
                    |user| Self::from(&user),
                )
            }));
        };
        let user = known(name).ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
        if is_root(user.uid, user.gid) {
            return Err(AccountError::Root(name.to_owned()));
        }
        match host {
            host if host.is_root() => Ok(Some(Self::from(&user))),
            host if host == user.uid => Ok(None),
            _ => Err(AccountError::NotRoot(name.to_owned())),
        }
    }
}

fn is_root(uid: Uid, gid: Gid) -> bool {
    uid.is_root() || gid.as_raw() == 0
}

impl From<&User> for Account {
    fn from(user: &User) -> Self {
        Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_agent_is_root() {
        assert_eq!(
            Account::of(Some("root")),
            Err(AccountError::Root("root".into()))
        );
        let unknown = "no-such-user-at-all";
        assert_eq!(
            Account::of(Some(unknown)),
            Err(AccountError::Unknown(unknown.into()))
        );
        let default = Account::of(None).unwrap();
        assert_eq!(default.is_some(), geteuid().is_root());
        assert!(default.is_none_or(|account| account.uid != 0 && account.gid != 0));
    }
}
