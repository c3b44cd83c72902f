//! Where the host's configuration comes from: defaults, below a file, below the
//! environment, below flags. It knows of each value where it was set, so that
//! a wrong one can be found.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};
use skep_host::config::{Config, RawConfig};
use toml::de::{DeTable, DeValue};

use super::args::ServeArgs;

const SECTIONS: [&str; 8] = [
    "server", "capacity", "defaults", "ceilings", "grants", "native", "log", "audit",
];

/// Values that have a flag, and variables of the same name: `--state-dir` and
/// `SKEP_STATE_DIR`. Every other one is `SKEP_<SECTION>_<KEY>`.
const SHORT: [(&str, &str); 10] = [
    ("id", "server.id"),
    ("control", "server.control"),
    ("events", "server.events"),
    ("state_dir", "server.state_dir"),
    ("cache_dir", "server.cache_dir"),
    ("grace", "server.grace"),
    ("max_agents", "capacity.max_agents"),
    ("max_queued", "capacity.max_queued"),
    ("dir_root", "grants.dir_roots"),
    ("allow_native", "native.enabled"),
];

/// Values that are texts whatever they look like.
const TEXTS: [&str; 10] = [
    "server.id",
    "server.control",
    "server.events",
    "server.state_dir",
    "server.cache_dir",
    "server.helper",
    "server.grace",
    "capacity.max_ended_age",
    "native.user",
    "log.filter",
];

/// Values that are lists, of which one member may be written without brackets.
const LISTS: [&str; 2] = ["grants.dir_roots", "native.programs"];

/// All that was said, and by whom.
#[derive(Debug)]
pub(super) struct Settings {
    figment: Figment,
    raw: RawConfig,
    file: Option<File>,
}

#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    text: String,
}

impl Settings {
    /// Reads the file, the environment and the flags.
    pub(super) fn load(
        args: &ServeArgs,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, String> {
        let mut variables: Vec<(String, String)> = environment
            // What is not UTF-8 is none of ours.
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        variables.sort();
        let from_variable = || {
            let (_, path) = variables.iter().find(|(name, _)| name == "SKEP_CONFIG")?;
            Some(PathBuf::from(path))
        };
        let file = (args.config.clone().or_else(from_variable))
            .map(File::read)
            .transpose()?;
        let mut figment = Figment::new();
        if let Some(file) = &file {
            figment = figment.merge(file);
        }
        for (name, value) in &variables {
            if let Some(key) = key_of_variable(name) {
                figment = figment.merge(Setting::parse(name.clone(), key, value));
            }
        }
        for setting in flags(args)? {
            figment = figment.merge(setting);
        }
        let raw = figment.extract().map_err(|error| explain(&error))?;
        Ok(Self { figment, raw, file })
    }

    /// The configuration, checked.
    pub(super) fn config(&self) -> Result<Config, String> {
        Config::try_from(self.raw.clone()).map_err(|error| self.blame(&error.key, &error.problem))
    }

    /// What is wrong with a value, and where it was set.
    pub(super) fn blame(&self, key: &str, problem: &str) -> String {
        let Some(origin) = self.figment.find_metadata(key) else {
            return format!("{key}: {problem}");
        };
        let line = self
            .file
            .as_ref()
            .filter(|file| origin.name == file.name())
            .and_then(|file| file.line_of(key));
        let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
        format!("{key}: {problem} (set by {}{line})", origin.name)
    }
}

impl File {
    fn read(path: PathBuf) -> Result<Self, String> {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let file = Self { path, text };
        // Not for its values, but for errors that tell the line.
        match toml::from_str::<RawConfig>(&file.text) {
            Ok(_) => Ok(file),
            Err(error) => Err(file.explain(&error)),
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn explain(&self, error: &toml::de::Error) -> String {
        let name = self.name();
        let problem = error.message().trim().replace('\n', ", ");
        let Some(span) = error.span() else {
            return format!("{name}: {problem}");
        };
        let line = self.line_at(span.start);
        let shown = self.text.lines().nth(line - 1).unwrap_or_default().trim();
        format!("{name} line {line}, `{shown}`: {problem}")
    }

    /// The line, counted from 1, on which a value is set.
    fn line_of(&self, key: &str) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?;
        let (section, key) = key.split_once('.')?;
        let DeValue::Table(section) = table.get_ref().get(section)?.get_ref() else {
            return None;
        };
        let (key, _) = section.get_key_value(key)?;
        Some(self.line_at(key.span().start))
    }

    fn line_at(&self, offset: usize) -> usize {
        let before = self.text.bytes().take(offset);
        1 + before.filter(|&byte| byte == b'\n').count()
    }
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Toml::string(&self.text).data()
    }
}

/// One value of a variable or a flag.
#[derive(Debug)]
struct Setting {
    origin: String,
    key: String,
    value: Value,
}

impl Setting {
    fn parse(origin: String, key: String, text: &str) -> Self {
        // It never fails: what is nothing else is a text.
        let parsed = || text.parse::<Value>().unwrap_or_else(|never| match never {});
        let value = if TEXTS.contains(&key.as_str()) {
            Value::from(text)
        } else if LISTS.contains(&key.as_str()) && !text.trim_start().starts_with('[') {
            Value::from(vec![text])
        } else {
            parsed()
        };
        Self { origin, key, value }
    }
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let nested = nest(&self.key, self.value.clone());
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// The value that a variable sets. Variables of other sections are not ours:
/// `SKEP_HOST` is the client's, `SKEP_TASK` an agent's.
fn key_of_variable(name: &str) -> Option<String> {
    let name = name.strip_prefix("SKEP_")?.to_ascii_lowercase();
    if let Some((_, key)) = SHORT.iter().find(|(short, _)| *short == name) {
        return Some((*key).to_owned());
    }
    let (section, key) = name.split_once('_')?;
    SECTIONS
        .contains(&section)
        .then(|| format!("{section}.{key}"))
}

fn flags(args: &ServeArgs) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    for text in &args.set {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| key.contains('.'))
            .ok_or_else(|| format!("--set {text}: write SECTION.KEY=VALUE"))?;
        settings.push(Setting::parse(
            format!("--set {key}"),
            key.to_owned(),
            value,
        ));
    }
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let roots: Vec<String> = args.dir_root.iter().map(|root| path(root)).collect();
    let values = [
        args.id.clone().map(Value::from),
        args.control.clone().map(Value::from),
        args.events.clone().map(Value::from),
        args.state_dir.as_deref().map(|dir| Value::from(path(dir))),
        args.cache_dir.as_deref().map(|dir| Value::from(path(dir))),
        args.grace.clone().map(Value::from),
        args.max_agents.map(Value::from),
        args.max_queued.map(Value::from),
        (!roots.is_empty()).then(|| Value::from(roots)),
        args.allow_native.then(|| Value::from(true)),
    ];
    for ((short, key), value) in SHORT.into_iter().zip(values) {
        if let Some(value) = value {
            let origin = format!("--{}", short.replace('_', "-"));
            settings.push(Setting {
                origin,
                key: key.to_owned(),
                value,
            });
        }
    }
    Ok(settings)
}

fn explain(error: &Error) -> String {
    let key = error.path.join(".");
    let origin = error
        .metadata
        .as_ref()
        .map(|origin| format!(" (set by {})", origin.name));
    let problem = match &error.kind {
        Kind::UnknownField(found, known) => {
            format!("there is no `{found}`: known are {}", known.join(", "))
        }
        kind if key.is_empty() => kind.to_string(),
        kind => format!("{key}: {kind}"),
    };
    format!("{problem}{}", origin.unwrap_or_default())
}

#[cfg(test)]
mod tests;
