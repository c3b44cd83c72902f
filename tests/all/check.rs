//! What is told of a component before anything of it runs: the same as a spawn
//! would say.

mod components;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skep_client::protocol::op::{CheckReply, ComponentCheck, ImportStatus};
use skep_client::protocol::spec::{ComponentRef, DirGrant, DirMode, Grants};
use skep_client::protocol::{AgentName, AgentSpec, AgentState, Digest, LimitsAsk, Outcome};
use skep_client::{Client, ClientError};
use skep_protocol::{ErrorCode, WireError};
use skep_tests::{TestHost, guest};

use self::components::{
    ANOTHER_TYPE, EXPORTED_AGAIN, FILES, HTTP, NO_SUCH_FUNCTION, NO_SUCH_RESOURCE, NOBODYS,
    SOCKETS, WORLD_0_3, component, core_module,
};
use crate::command::{prebuilt, skep};

fn checked(digest: Digest) -> ComponentCheck {
    ComponentCheck {
        digest,
        grants: None,
        limits: None,
    }
}

fn spec_of(asked: &ComponentCheck) -> AgentSpec {
    AgentSpec {
        component: Some(ComponentRef::Digest(asked.digest)),
        grants: asked.grants.clone().unwrap_or_default(),
        limits: asked.limits.unwrap_or_default(),
        ..AgentSpec::named(AgentName::from_lossy("checked"))
    }
}

/// Checks, spawns, and says both verdicts, which must be the same.
async fn verdict(client: &Client, asked: ComponentCheck) -> CheckReply {
    let reply = client.check_component(&asked).await.unwrap();
    let spawned: Option<WireError> = match client.spawn(spec_of(&asked), None).await {
        Ok(_) => None,
        Err(ClientError::Refused(refusal)) => Some(*refusal),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(reply.refusal, spawned, "{asked:?}");
    assert_eq!(reply.runnable, spawned.is_none());
    reply
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_says_what_a_spawn_says() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let runs = None;
    let missing = Some(ErrorCode::MissingImport);
    let small = Some(ErrorCode::LimitTooSmall);
    let invalid = Some(ErrorCode::InvalidComponent);
    for (what, bytes, kind, expected) in [
        ("hello", guest("hello"), "command", runs),
        ("probe", guest("probe"), "command", runs),
        ("echo", guest("echo"), "command", runs),
        ("log-errors", guest("log-errors"), "command", runs),
        ("nothing imported", component("", ""), "command", runs),
        ("sockets", component(SOCKETS, ""), "command", runs),
        ("files", component(FILES, ""), "command", runs),
        ("http", component(HTTP, ""), "command", missing),
        ("nobody's", component(NOBODYS, ""), "command", missing),
        (
            "no such function",
            component(NO_SUCH_FUNCTION, ""),
            "command",
            missing,
        ),
        (
            "another type",
            component(ANOTHER_TYPE, ""),
            "command",
            invalid,
        ),
        (
            "an import that is exported again",
            component(EXPORTED_AGAIN, ""),
            "command",
            invalid,
        ),
        (
            "no such resource",
            component(NO_SUCH_RESOURCE, ""),
            "command",
            invalid,
        ),
        ("64 MiB", component("", "(memory 1024)"), "command", runs),
        (
            "a page more",
            component("", "(memory 1025)"),
            "command",
            small,
        ),
        (
            "65 memories",
            component("", &"(memory 0)".repeat(65)),
            "command",
            small,
        ),
        (
            "a core module",
            core_module("proc_exit"),
            "core-module",
            runs,
        ),
    ] {
        let digest = client.upload(&bytes).await.unwrap();
        let reply = verdict(&client, checked(digest)).await;
        assert_eq!(reply.kind, kind, "{what}");
        let code = reply.refusal.map(|refusal| refusal.code);
        assert_eq!(code, expected, "{what}");
    }
    // What is a component of no kind is taken as any bytes are.
    for (what, bytes, code) in [
        (
            "WASI 0.3",
            component(WORLD_0_3, ""),
            ErrorCode::UnsupportedWorld,
        ),
        (
            "no such call",
            core_module("no_such_call"),
            ErrorCode::MissingImport,
        ),
        (
            "a text",
            b"(component)".to_vec(),
            ErrorCode::InvalidComponent,
        ),
        (
            "threads",
            component("", "(memory 1 1 shared)"),
            ErrorCode::UnsupportedFeature,
        ),
    ] {
        let digest = client.upload(&bytes).await.unwrap();
        let reply = verdict(&client, checked(digest)).await;
        assert_eq!(reply.kind, "blob", "{what}");
        assert_eq!(reply.refusal.unwrap().code, code, "{what}");
    }
    host.end().await;
}

/// A function larger than any that is compiled.
fn too_large() -> Vec<u8> {
    let body = "i32.const 1 drop ".repeat(2_400_000);
    component("", &format!("(func {body})"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_never_compiled_does_not_run() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let functions = |count| component("", &"(func)".repeat(count));
    let table = |elements: u32| component("", &format!("(table {elements} funcref)"));
    let deep = |levels| {
        let (open, close) = ("(component ".repeat(levels), ")".repeat(levels));
        component(&format!("{open} (core module) {close}"), "")
    };
    for (bytes, limit) in [
        (too_large(), Some("function_bytes")),
        (functions(250_001), Some("functions")),
        (functions(1000), None),
        (table((1 << 20) + 1), Some("table_elements")),
        (table(1 << 20), None),
        (deep(65), Some("nesting")),
        (deep(60), None),
    ] {
        let digest = client.upload(&bytes).await.unwrap();
        let reply = client.check_component(&checked(digest)).await.unwrap();
        assert_eq!(reply.runnable, limit.is_none());
        let refusal = reply.refusal.as_ref();
        let told = refusal.and_then(|refusal| refusal.details.limit.as_deref());
        assert_eq!(told, limit);
        // The spawn is taken all the same, and fails with the same words.
        let ended = skep_tests::run(&client, spec_of(&checked(digest))).await;
        match (refusal, ended.outcome) {
            (None, Outcome::Exited { code: 0 }) => {}
            (Some(refusal), Outcome::StartFailed { code, message }) => {
                assert_eq!(code, ErrorCode::CompileLimit);
                assert_eq!((refusal.code, &refusal.message), (code, &message));
            }
            (_, other) => panic!("{other:?}"),
        }
    }
    host.end().await;
}

/// More exported functions, each of a type of its own, than are looked at without a
/// compiler.
fn many_types() -> String {
    let export = |n: usize| {
        let bits = (0..10).map(|bit| ["i32 ", "i64 "][n >> bit & 1]);
        let params = bits.collect::<String>();
        format!("(func (export \"f{n}\") (param {params}))")
    };
    (0..600).map(export).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_compiler_can_tell_is_told_by_one() {
    let host = TestHost::start().await;
    let client = host.client().await;
    for (what, imports, code) in [
        ("nothing imported", "", None),
        (
            "another type",
            ANOTHER_TYPE,
            Some(ErrorCode::InvalidComponent),
        ),
    ] {
        let bytes = component(imports, &many_types());
        let digest = client.upload(&bytes).await.unwrap();
        let reply = client.check_component(&checked(digest)).await.unwrap();
        let refusal = reply.refusal.map(|refusal| (refusal.code, refusal.message));
        assert_eq!(refusal.as_ref().map(|(code, _)| *code), code, "{what}");
        assert_eq!(reply.runnable, refusal.is_none(), "{what}");
        // The spawn is taken all the same, and ends with the same words.
        let ended = skep_tests::run(&client, spec_of(&checked(digest))).await;
        let expected = match refusal {
            None => Outcome::Exited { code: 0 },
            Some((code, message)) => Outcome::StartFailed { code, message },
        };
        assert_eq!(ended.outcome, expected, "{what}");
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_and_limits_are_judged_as_in_a_spec() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let digest = client.upload(&guest("hello")).await.unwrap();
    let dir = |host: &str| Grants {
        dirs: vec![DirGrant {
            host: host.to_owned(),
            guest: "/d".to_owned(),
            mode: DirMode::Ro,
        }],
        ..Grants::default()
    };
    let granted = |grants| ComponentCheck {
        grants: Some(grants),
        ..checked(digest)
    };
    let limited = |limits| ComponentCheck {
        limits: Some(limits),
        ..checked(digest)
    };
    let none = LimitsAsk::default;
    let needs = client
        .check_component(&checked(digest))
        .await
        .unwrap()
        .needs;
    let ceiling = client.hello().await.unwrap().ceilings.memory_bytes;
    for (asked, expected) in [
        (granted(dir(host.shared().to_str().unwrap())), None),
        (granted(dir("/nowhere")), Some(ErrorCode::Denied)),
        (
            granted(Grants {
                http: vec!["https://example.com".to_owned()],
                ..Grants::default()
            }),
            Some(ErrorCode::UnsupportedFeature),
        ),
        (
            granted(Grants {
                scratch: true,
                ..Grants::default()
            }),
            None,
        ),
        // Exactly what it needs is enough, and one less is not.
        (
            limited(LimitsAsk {
                memory_bytes: Some(needs.memory_bytes),
                instances: Some(needs.instances),
                ..none()
            }),
            None,
        ),
        (
            limited(LimitsAsk {
                memory_bytes: Some(needs.memory_bytes - 1),
                ..none()
            }),
            Some(ErrorCode::LimitTooSmall),
        ),
        (
            limited(LimitsAsk {
                instances: Some(needs.instances - 1),
                ..none()
            }),
            Some(ErrorCode::LimitTooSmall),
        ),
        (
            limited(LimitsAsk {
                component_bytes: Some(1),
                ..none()
            }),
            Some(ErrorCode::TooLarge),
        ),
        (
            limited(LimitsAsk {
                memory_bytes: Some(ceiling + 1),
                ..none()
            }),
            Some(ErrorCode::LimitExceedsCeiling),
        ),
    ] {
        let reply = verdict(&client, asked.clone()).await;
        let code = reply.refusal.map(|refusal| refusal.code);
        assert_eq!(code, expected, "{asked:?}");
    }
    host.end().await;
}

/// Two components of which one hands the other a string.
const COMPOSED: &str = r#"(component
    (component $callee
        (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func (export "f") (param "s" string) (canon lift (core func $i "f")
            (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))
    (component $caller
        (import "f" (func $f (param "s" string)))
        (core module $libc (memory (export "memory") 1))
        (core instance $libc (instantiate $libc))
        (core func $f (canon lower (func $f) (memory (core memory $libc "memory"))))
        (core module $m (import "" "f" (func $f (param i32 i32)))
            (func (export "run") (result i32)
                (call $f (i32.const 0) (i32.const 9)) i32.const 0))
        (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
        (func (export "run") (result (result)) (canon lift (core func $i "run"))))
    (instance $b (instantiate $callee))
    (instance $a (instantiate $caller (with "f" (func $b "f"))))
    (alias export $a "run" (func $run))
    (instance $e (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $e)))"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_that_hand_strings_to_each_other_have_less_memory() {
    const MOST: u64 = 64 << 20;
    let host = TestHost::start().await;
    let client = host.client().await;
    let composed = wat::parse_str(COMPOSED).unwrap();
    let digest = client.upload(&composed).await.unwrap();
    for (memory_bytes, refused) in [(MOST, None), (MOST + 1, Some((MOST + 1, MOST)))] {
        let asked = ComponentCheck {
            limits: Some(LimitsAsk {
                memory_bytes: Some(memory_bytes),
                ..LimitsAsk::default()
            }),
            ..checked(digest)
        };
        let refusal = verdict(&client, asked).await.refusal;
        let numbers = refusal.map(|refusal| {
            assert_eq!(refusal.code, ErrorCode::LimitExceedsCeiling);
            let details = refusal.details;
            (details.asked.unwrap(), details.ceiling.unwrap())
        });
        assert_eq!(numbers, refused);
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_import_is_named_with_what_provides_it() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let imports = format!("{NOBODYS} {NO_SUCH_FUNCTION} {FILES}");
    let module = "(table 10 funcref) (memory 2)";
    let digest = client.upload(&component(&imports, module)).await.unwrap();
    let reply = client.check_component(&checked(digest)).await.unwrap();
    let statuses: BTreeMap<_, _> = (reply.imports.iter())
        .map(|import| (import.name.as_str(), import.status))
        .collect();
    let expected = BTreeMap::from([
        ("nobody:knows/this@1.2.3", ImportStatus::Unknown),
        ("wasi:cli/stdout@0.2.0#get-stdin", ImportStatus::Unknown),
        ("wasi:filesystem/types@0.2.0", ImportStatus::Provided),
        ("wasi:filesystem/preopens@0.2.0", ImportStatus::Provided),
    ]);
    assert_eq!(statuses, expected);
    let needs = reply.needs;
    assert_eq!((needs.instances, needs.tables), (1, 1));
    assert_eq!(needs.memory_bytes, 2 * 65_536 + 10 * 8);
    // Nothing ran, and nothing waits.
    assert_eq!(client.stats().await.unwrap().spawns, 0);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_host_checks_all_the_same() {
    let host = TestHost::with(|config| config.capacity.max_agents = 1).await;
    let client = host.client().await;
    let runs = host.spawn(skep_tests::probe(&["sleep", "600000"])).await;
    let digest = runs.spec.component.unwrap();
    let reply = client.check_component(&checked(digest)).await.unwrap();
    assert!(reply.runnable);
    assert_eq!(
        client
            .spawn(spec_of(&checked(digest)), None)
            .await
            .unwrap()
            .state,
        AgentState::Queued
    );
    host.end().await;
}

#[tokio::test]
async fn the_command_tells_what_is_missing_and_exits_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let hello = skep(&["check", &prebuilt("hello")]).await;
    assert_eq!((hello.code, hello.stderr.as_str()), (Some(0), ""));
    assert!(hello.stdout.starts_with("IMPORT"), "{}", hello.stdout);
    assert!(hello.stdout.ends_with("it runs here\n"), "{}", hello.stdout);
    assert!(
        hello
            .stdout
            .contains("finds what --dir and --scratch grant")
    );

    let large = skep(&["check", &file("large.wasm", &too_large())]).await;
    assert_eq!(large.code, Some(126), "{}", large.stderr);
    assert!(
        large.stdout.contains("largest function"),
        "{}",
        large.stdout
    );

    let lacks = file("lacks.wasm", &component(NOBODYS, ""));
    let ran = skep(&["check", &lacks]).await;
    assert_eq!(ran.code, Some(126), "{}", ran.stderr);
    for told in [
        "nobody:knows/this@1.2.3",
        "unknown",
        "does not run here",
        "(missing_import)",
    ] {
        assert!(ran.stdout.contains(told), "{told}: {}", ran.stdout);
    }
    let ran = skep(&["--json", "check", &lacks]).await;
    let reply: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &reply["runnable"]), (Some(126), &json!(false)));
    assert_eq!(reply["imports"][0]["status"], "unknown");

    for (name, bytes, code) in [
        ("text", b"(component)".to_vec(), "invalid_component"),
        ("call", core_module("no_such_call"), "missing_import"),
        ("world", component(WORLD_0_3, ""), "unsupported_world"),
    ] {
        let path = file(name, &bytes);
        let ran = skep(&["check", &path]).await;
        assert_eq!(ran.code, Some(126), "{name}: {}", ran.stderr);
        assert!(ran.stdout.contains(&format!("({code})")), "{}", ran.stdout);
        let ran = skep(&["--json", "check", &path]).await;
        let reply: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(reply["refusal"]["code"], code, "{name}");
    }
    let small = skep(&["check", "--limit", "instances=1", &prebuilt("hello")]).await;
    assert_eq!(small.code, Some(126));
    assert!(
        small.stdout.contains("(limit_too_small)"),
        "{}",
        small.stdout
    );
    let nothing = skep(&["check", "/no/such/file.wasm"]).await;
    assert_eq!(nothing.code, Some(127), "{}", nothing.stderr);

    // The same on a host, by file and by digest.
    let host = TestHost::start().await;
    let at = host.control().to_string();
    let ran = skep(&["--host", &at, "check", &prebuilt("hello")]).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), hello.stdout));
    let digest = Digest::of(&guest("hello")).to_string();
    let ran = skep(&["--host", &at, "check", &digest]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let unknown = Digest::of(b"").to_string();
    let ran = skep(&["--host", &at, "check", &unknown]).await;
    assert_eq!(ran.code, Some(125), "{}", ran.stderr);
    host.end().await;
}
