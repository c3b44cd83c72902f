//! Which programs run.

use skep_tests::end_of;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_agents_are_off_unless_the_operator_allows_them() {
    let host = TestHost::start().await;
    let client = host.client().await;
    assert_eq!(client.hello().await.unwrap().runners, [RunnerKind::Wasm]);
    let refusal = refusal(client.spawn(native(&["/bin/true"]), None).await);
    assert_eq!(refusal.code, ErrorCode::Denied);
    assert_eq!(refusal.details.field.as_deref(), Some("spec.runner"));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_listed_programs_run() {
    let host = host_with(&["/bin/echo"]).await;
    let client = host.client().await;
    for program in ["/bin/echo", "echo"] {
        let ended = run(&client, native(&[program, "allowed"])).await;
        assert_eq!(ended.output.stdout(), "allowed\n", "{program}");
    }
    let (denied, invalid) = (ErrorCode::Denied, ErrorCode::InvalidArgument);
    for (program, code) in [
        ("/bin/cat", denied),
        ("/bin/../bin/echo", denied),
        ("/nowhere/at/all", denied),
        ("cat", denied),
        ("./echo", invalid),
        ("bin/echo", invalid),
        ("..", invalid),
    ] {
        let refusal = refusal(client.spawn(native(&[program]), None).await);
        assert_eq!(refusal.code, code, "{program}: {refusal}");
        assert_eq!(refusal.details.field.as_deref(), Some("spec.command"));
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_run_does_not_start() {
    let host = host().await;
    let client = host.client().await;
    let plain = host.shared().join("plain");
    std::fs::write(&plain, "not a program").unwrap();
    for program in ["/nowhere/at/all", plain.to_str().unwrap()] {
        match client.spawn(native(&[program]), None).await {
            Ok(agent) => {
                let outcome = end_of(&client, agent.id).await.outcome;
                assert_eq!(outcome.kind(), "start_failed", "{program}: {outcome}");
            }
            Err(error) => assert_eq!(error.code(), Some(ErrorCode::Denied), "{program}: {error}"),
        }
    }
    quiet(&client).await;
    host.end().await;
}
