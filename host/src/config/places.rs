//! Where things are: the directories of state and cache, and the binary that
//! helps. The defaults are the user's.

use std::path::PathBuf;

use super::ConfigError;

pub(super) fn state_dir(dir: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    const KEY: &str = "server.state_dir";
    if let Some(dir) = dir {
        if dir.as_os_str().is_empty() {
            return Err(ConfigError::new(KEY, "is empty: name a directory"));
        }
        return std::path::absolute(&dir).map_err(|error| ConfigError::new(KEY, error));
    }
    match xdg("XDG_STATE_HOME", ".local/state") {
        Some(dir) => Ok(dir),
        None => Err(ConfigError::new(
            KEY,
            "there is neither XDG_STATE_HOME nor a home directory: name a directory",
        )),
    }
}

/// Where compiled components are kept: in the directory that is asked for, by
/// default in the user's cache, and nowhere for `none` or without a home.
///
/// # Errors
/// With `server.cache_dir`, if it is no directory's name.
pub fn cache_dir(dir: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    const KEY: &str = "server.cache_dir";
    let Some(dir) = dir else {
        return Ok(own_cache_dir());
    };
    if dir.as_os_str().is_empty() {
        return Err(ConfigError::new(KEY, "is empty: name a directory, or none"));
    }
    if dir.as_os_str() == "none" {
        return Ok(None);
    }
    std::path::absolute(&dir)
        .map(Some)
        .map_err(|error| ConfigError::new(KEY, error))
}

pub(super) fn own_cache_dir() -> Option<PathBuf> {
    xdg("XDG_CACHE_HOME", ".cache")
}

/// The directory of ours in the one that a variable names, or else in the home.
fn xdg(variable: &str, in_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    named
        .filter(|parent| parent.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(in_home)))
        .filter(|parent| parent.is_absolute())
        .map(|parent| parent.join("skep"))
}

pub(super) fn helper(path: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    match path {
        Some(path) if !path.is_absolute() => {
            let problem = format!("`{}` is not an absolute path", path.display());
            Err(ConfigError::new("server.helper", problem))
        }
        Some(path) => Ok(Some(path)),
        None => Ok(crate::helper::own_binary()),
    }
}
