use skep_protocol::LimitName;

use super::*;

#[test]
fn nothing_said_is_the_default() {
    let config = Config::try_from(RawConfig::default()).unwrap();
    assert_eq!(config.control.to_string(), "tcp://127.0.0.1:5555");
    assert_eq!(config.events.unwrap().to_string(), "tcp://127.0.0.1:5556");
    assert_eq!(config.capacity, Capacity::default());
    assert_eq!(config.defaults, Limits::default());
    assert_eq!(config.native, None);
    assert_eq!(config.audit, Some(Audit::default()));
    assert!(config.state_dir.ends_with("skep"), "{:?}", config.state_dir);
    assert!(config.server_id.parse::<AgentName>().is_ok());
}

#[test]
fn a_ceiling_lowers_a_default_that_nobody_set() {
    let mut raw = RawConfig::default();
    raw.ceilings.0.handles = Some(10);
    let config = Config::try_from(raw.clone()).unwrap();
    assert_eq!((config.defaults.handles, config.ceilings.handles), (10, 10));
    raw.defaults.0.handles = Some(11);
    let error = Config::try_from(raw).unwrap_err();
    assert_eq!(
        error.to_string(),
        "defaults.handles: 11 is over ceilings.handles, which is 10"
    );
}

#[test]
fn no_agent_is_promised_more_memory_than_all_may_use() {
    let mut raw = RawConfig::default();
    raw.capacity.memory_bytes = Some(RawSize(32 * MIB));
    raw.capacity.max_queued = Some(0);
    let config = Config::try_from(raw.clone()).unwrap();
    assert_eq!(config.ceilings.memory_bytes, 32 * MIB);
    assert_eq!(config.defaults.memory_bytes, 32 * MIB);
    assert_eq!(config.capacity.limits_bytes(), 8 * 32 * MIB);
    assert_eq!(config.capacity.max_queued, 0);
    raw.ceilings.0.memory_bytes = Some(64 * MIB);
    assert_eq!(
        Config::try_from(raw).unwrap_err().to_string(),
        "ceilings.memory_bytes: 67108864 is over capacity.memory_bytes, which is 33554432"
    );
    let mut raw = RawConfig::default();
    raw.capacity.memory_overcommit = Some(0);
    let error = Config::try_from(raw).unwrap_err();
    assert_eq!(error.key, "capacity.memory_overcommit");
}

#[test]
fn only_this_machine_is_served() {
    let mut raw = RawConfig::default();
    raw.server.events = Some("tcp://10.0.0.1:5556".to_owned());
    assert_eq!(Config::try_from(raw).unwrap_err().key, "server.events");
}

#[test]
fn the_whole_can_be_written_and_read_again() {
    let mut raw = RawConfig::default();
    raw.native.enabled = Some(true);
    raw.grants.dir_roots = Some(vec!["/".into()]);
    raw.defaults.0.fuel = Some(7);
    raw.ceilings.0.fuel = Some(8);
    let config = Config::try_from(raw).unwrap();
    let whole = RawConfig::from(&config);
    for &name in LimitName::ALL {
        assert_eq!(
            (whole.defaults.0.get(name), whole.ceilings.0.get(name)),
            (
                Some(config.defaults.get(name)),
                Some(config.ceilings.get(name))
            )
        );
    }
    assert_eq!(Config::try_from(whole), Ok(config));
}

#[test]
fn an_embedded_host_keeps_nothing() {
    let (one, other) = (Config::embedded(), Config::embedded());
    assert_ne!(one.state_dir, other.state_dir);
    assert!(!one.state_dir.exists());
    assert!(one.native.is_some());
    assert_eq!(one.audit, None);
}

#[test]
fn the_state_directory_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let mut config = Config::embedded();
    config.state_dir = parent.path().join("a/b");
    config.create_state_dir().unwrap();
    config.create_state_dir().unwrap();
    let mode = config.state_dir.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    std::fs::write(parent.path().join("file"), "").unwrap();
    config.state_dir = parent.path().join("file/b");
    let error = config.create_state_dir().unwrap_err();
    assert_eq!(error.key, "server.state_dir");
}
