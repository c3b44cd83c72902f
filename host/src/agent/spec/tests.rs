use std::path::Path;

use serde_bytes::ByteBuf;
use skep_protocol::LimitsAsk;
use skep_protocol::spec::{DirGrant, DirMode, Grants};

use super::dirs::{MAX_DIRS, MAX_PATH_BYTES};
use super::*;

fn rules() -> Rules {
    Rules {
        defaults: Limits::default(),
        ceilings: Limits {
            fuel: 1000,
            ..Limits::default()
        },
        dir_roots: Vec::new(),
        cache_dir: None,
        state_dir: None,
    }
}

fn spec() -> AgentSpec {
    AgentSpec {
        component: Some(ComponentRef::Data(ByteBuf::from(vec![1]))),
        ..AgentSpec::named("test".parse().unwrap())
    }
}

fn field_of(denied: Denied) -> String {
    match denied {
        Denied::Invalid { field, .. } | Denied::NotAllowed { field, .. } => field,
        Denied::Unsupported { field } | Denied::NotOfRunner { field, .. } => field.to_owned(),
        Denied::OverCeiling { limit, .. } => limit.as_str().to_owned(),
    }
}

fn refused(spec: AgentSpec, rules: &Rules) -> String {
    field_of(validate(spec, rules).unwrap_err())
}

#[test]
fn a_limit_over_its_ceiling_is_refused_with_both_numbers() {
    let ask = |fuel| AgentSpec {
        limits: LimitsAsk {
            fuel: Some(fuel),
            ..LimitsAsk::default()
        },
        ..spec()
    };
    assert_eq!(validate(ask(1000), &rules()).unwrap().limits.fuel, 1000);
    assert_eq!(
        validate(ask(1001), &rules()).unwrap_err(),
        Denied::OverCeiling {
            limit: LimitName::Fuel,
            asked: 1001,
            ceiling: 1000
        }
    );
    assert_eq!(refused(ask(0), &rules()), "spec.limits.fuel");
}

#[test]
fn what_is_not_there_yet_is_refused() {
    let cases = [
        AgentSpec {
            runner: RunnerKind::Native,
            on_fuel_exhausted: OnFuelExhausted::Pause,
            ..spec()
        },
        AgentSpec {
            grants: Grants {
                http: vec!["https://a".into()],
                ..Grants::default()
            },
            ..spec()
        },
        AgentSpec {
            limits: LimitsAsk {
                processes: Some(1),
                ..LimitsAsk::default()
            },
            ..spec()
        },
    ];
    for case in cases {
        let denied = validate(case.clone(), &rules()).unwrap_err();
        assert!(
            matches!(
                denied,
                Denied::Unsupported { .. } | Denied::NotOfRunner { .. }
            ),
            "{case:?}: {denied:?}"
        );
    }
}

#[test]
fn the_program_fits_the_runner() {
    assert_eq!(
        refused(
            AgentSpec {
                component: None,
                ..spec()
            },
            &rules()
        ),
        "spec.component"
    );
    assert_eq!(
        refused(
            AgentSpec {
                command: vec!["ls".into()],
                ..spec()
            },
            &rules()
        ),
        "spec.command"
    );
    let native = AgentSpec {
        runner: RunnerKind::Native,
        ..spec()
    };
    assert_eq!(refused(native.clone(), &rules()), "spec.component");
    let native = AgentSpec {
        component: None,
        ..native
    };
    assert_eq!(refused(native.clone(), &rules()), "spec.command");
    assert!(
        validate(
            AgentSpec {
                command: vec!["ls".into()],
                ..native
            },
            &rules()
        )
        .is_ok()
    );
}

#[test]
fn arguments_and_environment_are_bounded_and_clean() {
    let limits = LimitsAsk {
        args_env_bytes: Some(10),
        ..LimitsAsk::default()
    };
    let args = |args: &[&str]| AgentSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        limits,
        ..spec()
    };
    assert!(validate(args(&["123456789"]), &rules()).is_ok());
    assert_eq!(refused(args(&["1234567890"]), &rules()), "spec.args");
    assert_eq!(refused(args(&["a\0"]), &rules()), "spec.args");
    for name in ["", "a=b", "a\0"] {
        let env = BTreeMap::from([(name.to_owned(), String::new())]);
        assert_eq!(refused(AgentSpec { env, ..spec() }, &rules()), "spec.env");
    }
}

#[test]
fn the_texts_of_the_task_are_bounded_together() {
    let part = "x".repeat(MAX_TEXTS / 4);
    let longest = AgentSpec {
        task: part.clone(),
        context: part.clone(),
        system_prompt: part.clone(),
        model: part,
        ..spec()
    };
    assert!(validate(longest.clone(), &rules()).is_ok());
    for text in 0..4 {
        let mut longer = longest.clone();
        let texts = [
            &mut longer.task,
            &mut longer.context,
            &mut longer.system_prompt,
            &mut longer.model,
        ];
        texts[text].push('x');
        assert_eq!(refused(longer, &rules()), "spec.context", "{text}");
    }
}

#[test]
fn labels_are_few_and_short() {
    let with = |labels: BTreeMap<String, String>| AgentSpec { labels, ..spec() };
    let many = |count: usize| {
        let label = |number: usize| (format!("{number:0>MAX_LABEL_BYTES$}"), "v".to_owned());
        with((0..count).map(label).collect())
    };
    assert!(validate(many(MAX_LABELS), &rules()).is_ok());
    assert_eq!(refused(many(MAX_LABELS + 1), &rules()), "spec.labels");
    let one = |key: usize, value: usize| with([("k".repeat(key), "v".repeat(value))].into());
    assert!(validate(one(MAX_LABEL_BYTES, MAX_LABEL_BYTES), &rules()).is_ok());
    assert!(validate(one(1, 0), &rules()).is_ok());
    for (key, value) in [(0, 1), (MAX_LABEL_BYTES + 1, 1), (1, MAX_LABEL_BYTES + 1)] {
        assert_eq!(refused(one(key, value), &rules()), "spec.labels");
    }
}

#[test]
fn values_of_the_environment_are_not_shown() {
    let env = BTreeMap::from([("TOKEN".to_owned(), "secret".to_owned())]);
    let spec = validate(
        AgentSpec {
            env,
            task: "do".into(),
            ..spec()
        },
        &rules(),
    )
    .unwrap();
    assert_eq!(spec.info.env, ["TOKEN"]);
    assert_eq!(spec.env["TOKEN"], "secret");
    assert_eq!(spec.env["SKEP_TASK"], "do");
    assert!(!spec.env.contains_key("SKEP_MODEL"));
}

#[test]
fn directories_lie_under_a_root_and_have_one_mode() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("open/inner")).unwrap();
    std::fs::create_dir_all(root.join("closed")).unwrap();
    std::os::unix::fs::symlink(root.join("closed"), root.join("open/way-out")).unwrap();
    let rules = Rules {
        dir_roots: vec![root.join("open")],
        ..rules()
    };
    let dir = |host: &str, guest: &str, mode| DirGrant {
        host: root.join(host).to_str().unwrap().to_owned(),
        guest: guest.to_owned(),
        mode,
    };
    let with = |dirs: Vec<DirGrant>| AgentSpec {
        grants: Grants {
            dirs,
            ..Grants::default()
        },
        ..spec()
    };
    let ok = validate(with(vec![dir("open", "/data/", DirMode::Ro)]), &rules).unwrap();
    assert_eq!(ok.dirs[0].guest, "/data");

    for host in [
        "closed",
        "open/way-out",
        "open/missing",
        "open/../closed",
        "",
    ] {
        assert_eq!(
            refused(with(vec![dir(host, "/d", DirMode::Ro)]), &rules),
            "spec.grants.dirs[0].host",
            "{host}"
        );
    }
    for guest in ["", "data", "/a/../b", "//", "/a//b", "/a\0"] {
        assert_eq!(
            refused(with(vec![dir("open", guest, DirMode::Ro)]), &rules),
            "spec.grants.dirs[0].guest"
        );
    }
    let twice = vec![
        dir("open", "/a", DirMode::Ro),
        dir("open/inner", "/b", DirMode::Rw),
    ];
    assert_eq!(refused(with(twice), &rules), "spec.grants.dirs[1].mode");
}

#[test]
fn directories_are_few_and_their_paths_short() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    let rules = Rules {
        dir_roots: vec![root.clone()],
        ..rules()
    };
    let with = |guests: Vec<String>| {
        let dir = |guest| DirGrant {
            host: root.to_str().unwrap().to_owned(),
            guest,
            mode: DirMode::Ro,
        };
        let mut spec = spec();
        spec.grants.dirs = guests.into_iter().map(dir).collect();
        spec
    };
    let many = |count: usize| with((0..count).map(|number| format!("/{number}")).collect());
    assert_eq!(validate(many(MAX_DIRS), &rules).unwrap().dirs.len(), 32);
    assert_eq!(refused(many(MAX_DIRS + 1), &rules), "spec.grants.dirs");
    let path = |bytes: usize| with(vec![format!("/{}", "d".repeat(bytes - 1))]);
    assert!(validate(path(MAX_PATH_BYTES), &rules).is_ok());
    assert_eq!(
        refused(path(MAX_PATH_BYTES + 1), &rules),
        "spec.grants.dirs[0].guest"
    );
}

#[test]
fn a_native_agent_is_not_given_limits_that_do_not_hold() {
    let native = |limits| AgentSpec {
        runner: RunnerKind::Native,
        component: None,
        command: vec!["/bin/true".into()],
        limits,
        ..spec()
    };
    let fuel = LimitsAsk {
        fuel: Some(5),
        ..LimitsAsk::default()
    };
    assert_eq!(refused(native(fuel), &rules()), "spec.limits.fuel");
    let memory = LimitsAsk {
        memory_bytes: Some(1),
        ..LimitsAsk::default()
    };
    assert!(validate(native(memory), &rules()).is_ok());
    let processes = LimitsAsk {
        processes: Some(5),
        ..LimitsAsk::default()
    };
    assert!(validate(native(processes), &rules()).is_ok());
    let wasm = AgentSpec {
        limits: processes,
        ..spec()
    };
    assert_eq!(refused(wasm, &rules()), "spec.limits.processes");
    let none = LimitsAsk::default();
    for (field, asked) in [
        (
            "disk_bytes",
            LimitsAsk {
                disk_bytes: Some(1),
                ..none
            },
        ),
        (
            "files",
            LimitsAsk {
                files: Some(1),
                ..none
            },
        ),
    ] {
        let field = format!("spec.limits.{field}");
        assert_eq!(refused(native(asked), &rules()), field);
    }
    let wall = LimitsAsk {
        wall_ms: Some(5),
        ..LimitsAsk::default()
    };
    assert!(validate(native(wall), &rules()).is_ok());
    let nul = AgentSpec {
        command: vec!["a\0".into()],
        ..native(LimitsAsk::default())
    };
    assert_eq!(refused(nul, &rules()), "spec.command");
}

/// Whether a directory of the host is granted to an agent.
fn grant(rules: &Rules, dir: &Path, mode: DirMode) -> Result<(), Denied> {
    let mut spec = spec();
    spec.grants.dirs = vec![DirGrant {
        host: dir.to_str().unwrap().to_owned(),
        guest: "/data".to_owned(),
        mode,
    }];
    validate(spec, rules).map(drop)
}

#[test]
fn nobody_writes_to_the_cache_of_compiled_code() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for name in ["home/cache/skep/entries", "home/work", "elsewhere"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(root.join("home"), root.join("link")).unwrap();
    let asks = |cache: &str, host: &str, mode| {
        let rules = Rules {
            dir_roots: vec![root.clone()],
            cache_dir: Some(root.join(cache)),
            ..rules()
        };
        grant(&rules, &root.join(host), mode)
    };
    // As it is named, through a link, and before it is there.
    for cache in ["home/cache/skep", "link/cache/skep", "home/cache/new/skep"] {
        for host in ["", "home", "link", "home/cache"] {
            let denied = asks(cache, host, DirMode::Rw);
            assert!(
                matches!(&denied, Err(Denied::NotAllowed { field, .. }) if field == "spec.grants.dirs[0].host"),
                "{cache} {host}: {denied:?}"
            );
            assert_eq!(asks(cache, host, DirMode::Ro), Ok(()), "{cache} {host}");
        }
        for host in ["home/work", "elsewhere"] {
            assert_eq!(asks(cache, host, DirMode::Rw), Ok(()), "{cache} {host}");
        }
    }
    assert!(asks("home/cache/skep", "home/cache/skep/entries", DirMode::Rw).is_err());
}

#[test]
fn inputs_lie_below_one_directory_and_nowhere_else() {
    let with = |paths: &[&str]| AgentSpec {
        inputs: (paths.iter())
            .map(|&path| (path.to_owned(), Digest::of(b"")))
            .collect(),
        ..spec()
    };
    let inputs = validate(with(&["a", "a-b", "b/a", "b/c/d"]), &rules())
        .unwrap()
        .inputs;
    assert_eq!(inputs.len(), 4);
    let long = format!("{}/x", "d/".repeat(600));
    for wrong in [
        &["../x"][..],
        &["/etc/passwd"],
        &[""],
        &["a\0b"],
        &["a/./b"],
        &["a", "a-b", "a/b"],
        &["a/b/c", "a"],
        &[&long],
    ] {
        assert_eq!(refused(with(wrong), &rules()), "spec.inputs", "{wrong:?}");
    }
    let many = |count: usize| AgentSpec {
        inputs: (0..count)
            .map(|number| (number.to_string(), Digest::of(b"")))
            .collect(),
        ..spec()
    };
    assert!(validate(many(MAX_INPUTS), &rules()).is_ok());
    assert_eq!(refused(many(MAX_INPUTS + 1), &rules()), "spec.inputs");

    let dir = tempfile::tempdir().unwrap().keep();
    let dir = dir.canonicalize().unwrap();
    let rules = Rules {
        dir_roots: vec![dir.clone()],
        ..rules()
    };
    let mut taken = with(&["a"]);
    taken.grants.dirs = vec![DirGrant {
        host: dir.to_str().unwrap().to_owned(),
        guest: "/inputs".to_owned(),
        mode: DirMode::Ro,
    }];
    assert_eq!(refused(taken.clone(), &rules), "spec.grants.dirs[0].guest");
    taken.inputs.clear();
    assert!(validate(taken, &rules).is_ok());
    std::fs::remove_dir(dir).unwrap();
}

#[test]
fn nobody_is_given_the_hosts_state() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for name in ["home/state/skep/logs", "home/state/other", "elsewhere"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(root.join("home"), root.join("link")).unwrap();
    for state in ["home/state/skep", "link/state/skep"] {
        for mode in [DirMode::Ro, DirMode::Rw] {
            let asks = |host: &str| {
                let rules = Rules {
                    dir_roots: vec![root.clone()],
                    state_dir: Some(root.join(state)),
                    ..rules()
                };
                grant(&rules, &root.join(host), mode).map_err(field_of)
            };
            for host in [
                "",
                "home",
                "link",
                "home/state/skep",
                "link/state/skep/logs",
            ] {
                let denied = asks(host).unwrap_err();
                assert_eq!(denied, "spec.grants.dirs[0].host", "{state} {host}");
            }
            for host in ["home/state/other", "elsewhere"] {
                assert_eq!(asks(host), Ok(()), "{state} {host}");
            }
        }
    }
}
