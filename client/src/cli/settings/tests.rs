use clap::Parser;
use skep_host::config::LogFormat;

use super::*;
use crate::cli::args::{Cli, Command};

/// Loads a file's text, variables and flags.
fn load(toml: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("skep.toml");
    std::fs::write(&path, toml).unwrap();
    let line = ["skep", "serve", "--config", path.to_str().unwrap()];
    let cli = Cli::try_parse_from(line.iter().chain(flags)).map_err(|error| error.to_string())?;
    let Command::Serve(args) = cli.command else {
        panic!("serve")
    };
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    Settings::load(&args, variables)?.config()
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = "[server]\ncontrol = \"tcp://127.0.0.1:1\"\n[capacity]\nmax_agents = 1\n[defaults]\nfuel = 1\n";
    let variables = [
        ("SKEP_CONTROL", "tcp://127.0.0.1:2"),
        ("SKEP_CAPACITY_MAX_AGENTS", "2"),
    ];
    let flags = ["--max-agents", "3", "--max-queued", "0"];
    let config = load(file, &variables, &flags).unwrap();
    assert_eq!(config.control.to_string(), "tcp://127.0.0.1:2");
    assert_eq!(config.capacity.max_agents, 3);
    assert_eq!(config.capacity.max_queued, 0);
    assert_eq!(config.defaults.fuel, 1);
    assert_eq!(config.capacity.max_ended, 10_000);
}

#[test]
fn every_value_can_be_set_from_everywhere() {
    let variables = [
        ("SKEP_SERVER_ID", "42"),
        ("SKEP_GRANTS_DIR_ROOTS", "/"),
        ("SKEP_NATIVE_ENABLED", "true"),
        ("SKEP_NATIVE_PROGRAMS", "[\"/bin/sh\", \"/bin/ls\"]"),
        ("SKEP_DEFAULTS_MEMORY_BYTES", "1MiB"),
        ("SKEP_LOG_FORMAT", "json"),
        ("SKEP_CACHE_DIR", "/var/cache/1"),
        ("SKEP_SERVER_HELPER", "/usr/bin/skep"),
        ("SKEP_CAPACITY_COMPILE_MS", "5000"),
        ("SKEP_CAPACITY_MAX_ENDED_AGE", "36h"),
        ("SKEP_AUDIT_MAX_BYTES", "1MiB"),
        ("SKEP_CAPACITY_COMPILE_MEMORY_BYTES", "256MiB"),
        // Others'.
        ("SKEP_HOST", "tcp://127.0.0.1:1"),
        ("SKEP_TASK", "sleep"),
        ("SKEP_SYSTEM_PROMPT", "be kind"),
        ("HOME", "/"),
    ];
    let flags = [
        "--set",
        "ceilings.wall_ms=2h",
        "--set",
        "capacity.history_bytes=5MiB",
        "--set",
        "audit.files=3",
        "--grace",
        "9s",
    ];
    let config = load("", &variables, &flags).unwrap();
    assert_eq!(config.server_id, "42");
    assert_eq!(config.dir_roots, [PathBuf::from("/")]);
    assert_eq!(config.native.unwrap().programs.len(), 2);
    assert_eq!(config.defaults.memory_bytes, 1 << 20);
    assert_eq!(config.ceilings.wall_ms, 7_200_000);
    assert_eq!(config.capacity.history_bytes, 5 << 20);
    assert_eq!(config.grace.as_secs(), 9);
    assert_eq!(config.cache_dir, Some(PathBuf::from("/var/cache/1")));
    assert_eq!(config.helper, Some(PathBuf::from("/usr/bin/skep")));
    assert_eq!(config.capacity.compile_time.as_secs(), 5);
    assert_eq!(config.capacity.max_ended_age.as_secs(), 36 * 3600);
    let audit = config.audit.unwrap();
    assert_eq!((audit.max_bytes, audit.files), (1 << 20, 3));
    assert_eq!(config.capacity.compile_memory_bytes, 256 << 20);
    let none = load("[server]\ncache_dir = \"none\"\n", &[], &[]).unwrap();
    assert_eq!(none.cache_dir, None);
    let none = load("[audit]\nenabled = false\n", &[], &[]).unwrap();
    assert_eq!(none.audit, None);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_wrong_file_is_named_with_its_line() {
    for (toml, named) in [
        (
            "[servers]\n",
            "skep.toml line 1, `[servers]`: unknown field `servers`",
        ),
        (
            "\n[server]\ncontroll = \"x\"\n",
            "skep.toml line 3, `controll = \"x\"`: unknown field `controll`",
        ),
        (
            "[capacity]\nmax_agents = \"many\"\n",
            "skep.toml line 2, `max_agents = \"many\"`: invalid type",
        ),
        ("[capacity]\nmax_agents = -1\n", "skep.toml line 2"),
        ("[capacity]\nhistory_bytes = \"big\"\n", "`big` is no size"),
        ("[defaults]\nfuel = 1\nfoul = 1\n", "unknown field `foul`"),
        (
            "[defaults]\nwall_ms = \"1 aeon\"\n",
            "`wall_ms`: `1 aeon` is no length of time",
        ),
        (
            "[server]\ngrace = \"soon\"\n",
            "skep.toml line 2, `grace = \"soon\"`: `soon` is no length of time",
        ),
        (
            "[capacity]\nmax_ended_age = \"0s\"\n",
            "capacity.max_ended_age: must be at least 1s (set by ",
        ),
        (
            "[capacity]\nmax_ended_age = 3600\n",
            "skep.toml line 2, `max_ended_age = 3600`",
        ),
        ("[log]\nformat = \"xml\"\n", "skep.toml line 2"),
        ("[server\n", "skep.toml line 1"),
        // What is well formed and does not do.
        (
            "[server]\n\ncontrol = \"tcp://0.0.0.0:5555\"\n",
            "skep.toml line 3)",
        ),
        (
            "[server]\nid = \"../x\"\n",
            "server.id: `../x` is not a name",
        ),
        (
            "[server]\nevents = \"off\"\n",
            "server.events: `off` is no endpoint",
        ),
        ("[server]\nstate_dir = \"\"\n", "server.state_dir: is empty"),
        ("[server]\ncache_dir = \"\"\n", "server.cache_dir: is empty"),
        (
            "[server]\nhelper = \"skep\"\n",
            "server.helper: `skep` is not an absolute path",
        ),
        (
            "[capacity]\ncompile_ms = 0\n",
            "capacity.compile_ms: must be at least 1",
        ),
        (
            "[capacity]\ncompile_memory_bytes = \"1MiB\"\n",
            "capacity.compile_memory_bytes: must be at least",
        ),
        (
            "[capacity]\nmax_agents = 0\n",
            "capacity.max_agents: must be at least 1",
        ),
        ("[capacity]\nmemory_bytes = \"lots\"\n", "`lots` is no size"),
        (
            "[capacity]\nmemory_overcommit = 0\n",
            "capacity.memory_overcommit: must be at least 1",
        ),
        (
            "[defaults]\nfuel = 0\n",
            "defaults.fuel: must be at least 1",
        ),
        (
            "[defaults]\nfuel = 10\n[ceilings]\nfuel = 9\n",
            "defaults.fuel: 10 is over ceilings.fuel, which is 9",
        ),
        (
            "[grants]\ndir_roots = [\"srv\"]\n",
            "grants.dir_roots: `srv` is not an absolute path",
        ),
        (
            "[grants]\ndir_roots = [\"/nothing/here\"]\n",
            "grants.dir_roots: /nothing/here",
        ),
        (
            "[native]\nprograms = [\"python3\"]\n",
            "native.programs: `python3`",
        ),
        ("[log]\nfilter = \"\"\n", "log.filter: is empty"),
        (
            "[audit]\nmax_bytes = \"1KiB\"\n",
            "audit.max_bytes: must be at least 65536 (set by",
        ),
        (
            "[capacity]\nmemory_bytes = 1\n",
            "capacity.memory_bytes: 1 is less than one small agent needs, which is 2097152 (set by",
        ),
        ("[audit]\nfiles = 0\n", "audit.files: must be within 1 and"),
    ] {
        let error = load(toml, &[], &[]).unwrap_err();
        assert!(error.contains(named), "{toml}: {error}");
        assert!(error.contains("skep.toml"), "{toml}: {error}");
        assert!(!error.contains('\n'), "{toml}: {error}");
    }
}

#[test]
fn wrong_variables_and_flags_are_named() {
    let none: [(&str, &str); 0] = [];
    for (variable, named) in [
        (("SKEP_SERVER_CONTROLL", "x"), "SKEP_SERVER_CONTROLL"),
        (("SKEP_MAX_AGENTS", "many"), "(set by SKEP_MAX_AGENTS)"),
        (("SKEP_CONTROL", "tcp://0.0.0.0:1"), "(set by SKEP_CONTROL)"),
        (("SKEP_DEFAULTS_FUEL", "x"), "`x` is no number"),
    ] {
        let error = load("", &[variable], &[]).unwrap_err();
        assert!(error.contains(named), "{variable:?}: {error}");
    }
    for (flags, named) in [
        (["--events", "off"], "server.events: `off` is no endpoint"),
        (["--set", "fuel=1"], "write SECTION.KEY=VALUE"),
        (["--set", "server.idd=1"], "idd"),
        (["--set", "servers.id=1"], "servers"),
    ] {
        let error = load("", &none, &flags).unwrap_err();
        assert!(error.contains(named), "{flags:?}: {error}");
    }
    let config = Cli::try_parse_from(["skep", "serve", "--config", "/no/such.toml"]).unwrap();
    let Command::Serve(args) = config.command else {
        panic!("serve")
    };
    let error = Settings::load(&args, std::iter::empty()).unwrap_err();
    assert!(error.starts_with("/no/such.toml: "), "{error}");
}

#[test]
fn what_is_printed_can_be_read_again() {
    let config = load("", &[], &["--id", "a", "--allow-native", "--dir-root", "/"]).unwrap();
    let printed = toml::to_string(&RawConfig::from(&config)).unwrap();
    assert_eq!(load(&printed, &[], &[]).unwrap(), config);
}
