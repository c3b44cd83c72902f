//! Specs that a host does not take, each for its own reason; and what lies just
//! within the limits, which it does.

use serde_bytes::ByteBuf;
use serde_json::json;
use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentSpec, LimitName, Limits, LimitsAsk, Outcome};
use skep_protocol::ErrorCode;
use skep_tests::{TestHost, native, run, spec};

use crate::{refusal, refused};

fn hello() -> AgentSpec {
    spec("hello", &[])
}

fn limit(name: &str, value: u64) -> LimitsAsk {
    serde_json::from_value(json!({ name: value })).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_enforced_yet_is_refused() {
    let host = crate::native::host().await;
    let client = host.client().await;
    let mut cases: Vec<(&str, AgentSpec)> = Vec::new();
    let mut with = |field, change: &dyn Fn(&mut AgentSpec)| {
        let mut spec = hello();
        change(&mut spec);
        cases.push((field, spec));
    };
    with("spec.grants.http", &|spec| {
        spec.grants.http = vec!["https://example.com".to_owned()]
    });
    with("spec.grants.messages", &|spec| {
        spec.grants.messages = vec!["other".to_owned()]
    });
    with("processes", &|spec| spec.limits = limit("processes", 1));
    for name in ["disk_bytes", "files"] {
        let mut spec = native(&["/bin/true"]);
        spec.limits = limit(name, 1);
        cases.push((name, spec));
    }
    let mut with_fuel = native(&["/bin/true"]);
    with_fuel.limits = limit("fuel", 1);
    cases.push(("fuel", with_fuel));

    for (field, spec) in cases {
        let refusal = refusal(client.spawn(spec, None).await);
        assert_eq!(
            refusal.code,
            ErrorCode::UnsupportedFeature,
            "{field}: {refusal}"
        );
        let told = refusal.details.field.unwrap();
        assert!(
            told == field || told == format!("spec.limits.{field}"),
            "{told} for {field}"
        );
    }
    assert_eq!(client.stats().await.unwrap().spawns, 0);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_that_make_no_sense_are_refused() {
    let host = TestHost::start().await;
    let client = host.client().await;
    for (field, restart) in [
        ("policy", json!({"policy": "never", "max": 3})),
        ("max", json!({"policy": "always", "max": 0})),
        ("backoff_ms", json!({"policy": "always", "backoff_ms": 99})),
        (
            "max_backoff_ms",
            json!({"policy": "on_failure", "backoff_ms": 200, "max_backoff_ms": 100}),
        ),
    ] {
        let mut spec = hello();
        spec.restart = serde_json::from_value(restart).unwrap();
        let refusal = refusal(client.spawn(spec, None).await);
        assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{refusal}");
        let field = format!("spec.restart.{field}");
        assert_eq!(refusal.details.field, Some(field), "{refusal}");
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_over_the_ceiling_are_refused_with_both_numbers() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ceilings = client.hello().await.unwrap().ceilings;
    let mut highest = hello();
    let mut all = serde_json::Map::new();
    for name in LimitName::ALL {
        let (name, ceiling) = (name.as_str(), ceilings.get(*name));
        // A component has none.
        if name != "processes" {
            all.insert(name.to_owned(), ceiling.into());
        }
        for asked in [ceiling + 1, u64::MAX] {
            let spec = AgentSpec {
                limits: limit(name, asked),
                ..hello()
            };
            let refusal = refusal(client.spawn(spec, None).await);
            assert_eq!(
                refusal.code,
                ErrorCode::LimitExceedsCeiling,
                "{name}: {refusal}"
            );
            let details = refusal.details;
            assert_eq!(details.limit.as_deref(), Some(name));
            assert_eq!(
                (details.asked, details.ceiling),
                (Some(asked), Some(ceiling)),
                "{name}"
            );
        }
        let refusal = refusal(
            client
                .spawn(
                    AgentSpec {
                        limits: limit(name, 0),
                        ..hello()
                    },
                    None,
                )
                .await,
        );
        assert_eq!(
            refusal.code,
            ErrorCode::InvalidArgument,
            "{name}: {refusal}"
        );
        assert_eq!(refusal.details.field, Some(format!("spec.limits.{name}")));
    }
    // The twin: at the ceiling of each, it runs.
    highest.limits = serde_json::from_value(all.into()).unwrap();
    let ended = run(&client, highest).await;
    let expected = Limits {
        processes: ended.info.limits.processes,
        ..ceilings
    };
    assert_eq!(
        (ended.outcome, ended.info.limits),
        (Outcome::Exited { code: 0 }, expected)
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_below_what_a_component_needs_are_refused() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let with = |name: &str, value| AgentSpec {
        limits: limit(name, value),
        ..hello()
    };
    for name in ["memory_bytes", "instances"] {
        let refusal = refusal(client.spawn(with(name, 1), None).await);
        assert_eq!(refusal.code, ErrorCode::LimitTooSmall, "{name}: {refusal}");
        let details = refusal.details;
        assert_eq!(
            (details.limit.as_deref(), details.asked),
            (Some(name), Some(1))
        );
        let needed = details.needed.unwrap();
        refused(
            client.spawn(with(name, needed - 1), None).await,
            ErrorCode::LimitTooSmall,
        );
        // Enough to begin with: it is not refused any more.
        client.spawn(with(name, needed), None).await.unwrap();
    }
    let size = skep_tests::guest("hello").len() as u64;
    refused(
        client.spawn(with("component_bytes", size - 1), None).await,
        ErrorCode::TooLarge,
    );
    assert_eq!(
        run(&client, with("component_bytes", size))
            .await
            .output
            .stdout(),
        "Hello, world!\n"
    );

    let mut long = with("args_env_bytes", 1000);
    long.args = vec!["x".repeat(1000)];
    let refusal = refusal(client.spawn(long.clone(), None).await);
    assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{refusal}");
    assert_eq!(refusal.details.field.as_deref(), Some("spec.args"));
    long.args = vec!["x".repeat(999)];
    assert_eq!(
        run(&client, long).await.outcome,
        Outcome::Exited { code: 0 }
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_component_is_refused() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let elf = std::fs::read("/proc/self/exe").unwrap()[..4096].to_vec();
    let mut cut = skep_tests::guest("hello");
    cut.truncate(cut.len() / 2);
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("a text", b"(component)".to_vec()),
        ("a program", elf),
        ("half a component", cut),
        (
            "random bytes",
            (0..1000_u32).map(|n| (n * 167 % 251) as u8).collect(),
        ),
    ] {
        let mut spec = hello();
        spec.component = Some(ComponentRef::Data(ByteBuf::from(bytes)));
        let refusal = refusal(client.spawn(spec, None).await);
        assert_eq!(
            refusal.code,
            ErrorCode::InvalidComponent,
            "{what}: {refusal}"
        );
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_nothing_provides_is_named() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let component = r#"(component
        (import "nobody:knows/this@1.2.3" (instance (export "f" (func))))
        (core module $m (func (export "run") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#;
    let mut spec = hello();
    spec.component = Some(ComponentRef::Data(ByteBuf::from(
        wat::parse_str(component).unwrap(),
    )));
    let refusal = refusal(client.spawn(spec, None).await);
    assert_eq!(refusal.code, ErrorCode::MissingImport, "{refusal}");
    assert_eq!(
        refusal.details.imports.unwrap(),
        ["nobody:knows/this@1.2.3"]
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn program_and_component_do_not_mix() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut nothing = hello();
    nothing.component = None;
    let mut both = hello();
    both.command = vec!["/bin/true".to_owned()];
    let mut no_program = native(&["/bin/true"]);
    no_program.command.clear();
    let mut arguments = native(&["/bin/true"]);
    arguments.args = vec!["x".to_owned()];
    for (field, spec) in [
        ("spec.component", nothing),
        ("spec.command", both),
        ("spec.command", no_program),
        ("spec.args", arguments),
    ] {
        let refusal = refusal(client.spawn(spec, None).await);
        assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{refusal}");
        assert_eq!(refusal.details.field.as_deref(), Some(field));
    }
    host.end().await;
}
