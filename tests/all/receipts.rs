//! Receipts: what ran, and that it can be checked what it wrote.

use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use skep_client::WatchEvent;
use skep_client::protocol::receipt::CanonicalSpec;
use skep_client::protocol::spec::Stdin;
use skep_client::protocol::{Digest, Outcome, Receipt};
use skep_tests::{TestHost, guest, probe, run, soon, spec};

use crate::command::{prebuilt, skep};

fn receipt_of(ended: &skep_tests::Ended) -> Receipt {
    ended.info.receipt.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_says_what_ran_and_what_it_wrote() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut asked = spec("echo", &[]);
    asked.stdin = Stdin::Data(ByteBuf::from(b"one\n\xff\n\nno newline".to_vec()));
    asked.env.insert("TOKEN".to_owned(), "secret".to_owned());
    asked.limits.fuel = Some(5_000_000_000);
    let ended = run(&client, asked.clone()).await;
    let receipt = receipt_of(&ended);
    assert_eq!(receipt.agent, ended.info.id);
    assert_eq!(receipt.run, 0);
    assert_eq!(receipt.component, Some(Digest::of(&guest("echo"))));
    assert_eq!(
        receipt.spec_digest,
        CanonicalSpec::of(&asked).unwrap().digest()
    );
    assert_eq!(receipt.limits, ended.info.limits);
    assert_eq!(receipt.fuel_used, ended.info.usage.fuel_used);
    assert!(receipt.fuel_used > 0 && receipt.memory_peak_bytes > 0);
    assert_eq!(
        (receipt.created_ms, receipt.started_ms, receipt.exited_ms),
        (
            ended.info.created_ms,
            ended.info.started_ms,
            ended.info.exited_ms.unwrap()
        )
    );
    assert_eq!(receipt.outcome, Outcome::Exited { code: 0 });
    let stdout = b"one\n\xff\n\nno newline";
    assert_eq!(receipt.stdout.sha256, Digest::of(stdout));
    assert_eq!(receipt.stdout.bytes, stdout.len() as u64);
    assert_eq!(receipt.stderr.sha256, Digest::of(b""));

    // Another secret is another spec, which nobody is shown.
    asked.env.insert("TOKEN".to_owned(), "other".to_owned());
    let other = receipt_of(&run(&client, asked).await);
    assert_ne!(other.spec_digest, receipt.spec_digest);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_final_status_bears_it_and_no_other() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    let mut watch = client.watch(agent).await.unwrap();
    crate::written(&client, agent, 1).await;
    assert_eq!(client.get(agent).await.unwrap().receipt, None);
    client.stop(agent, None).await.unwrap();
    let status = soon("the final status", async {
        while let Some(event) = watch.next().await.unwrap() {
            if let WatchEvent::Status(status) = event
                && status.outcome.is_some()
            {
                return status;
            }
        }
        panic!("no final status")
    })
    .await;
    let told = client.get(agent).await.unwrap().receipt;
    assert!(told.is_some());
    assert_eq!(status.receipt.as_deref(), told.as_ref());
    assert_eq!(
        told.unwrap().stdout.sha256,
        Digest::of(b"ready\nstopping\n")
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_tampered_with_is_not_verified() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let at = host.control().to_string();
    let asked = probe(&["lines", "5000"]);
    let ended = run(&client, asked.clone()).await;
    let agent = ended.info.id.to_string();
    let verify = async |args: &[&str]| {
        let ran = skep(&[&["--host", &at, "--json", "verify"], args].concat()).await;
        let told: Value = serde_json::from_str(&ran.stdout).unwrap_or(Value::Null);
        (ran.code, told, ran.stderr)
    };
    let (code, told, stderr) = verify(&[&agent]).await;
    assert_eq!(
        (code, &told["verified"]),
        (Some(0), &json!(true)),
        "{stderr}"
    );

    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let printed = skep(&["--host", &at, "inspect", "--receipt", &agent]).await;
    let receipt = write("receipt.json", printed.stdout.as_bytes());
    let stdout = write("stdout", ended.output.stdout().as_bytes());
    let stderr = write("stderr", b"");
    let form = json!({
        "name": "probe", "args": ["lines", "5000"],
        "component": {"digest": Digest::of(&guest("probe"))},
    });
    let asked = write("spec.json", form.to_string().as_bytes());
    let all = [
        receipt.as_str(),
        "--component",
        &prebuilt("probe"),
        "--spec",
        &asked,
        "--stdout",
        &stdout,
        "--stderr",
        &stderr,
    ];
    let (code, told, error) = verify(&all).await;
    assert_eq!(code, Some(0), "{told} {error}");
    assert_eq!(told["checks"].as_array().unwrap().len(), 5);
    let (code, told, _) = verify(&[&receipt]).await;
    assert_eq!(
        (code, &told["checks"][0]["part"]),
        (Some(0), &json!("record"))
    );

    // One byte of each part.
    let text = ended.output.stdout().replacen('7', "8", 1);
    let wrong = write("wrong", text.as_bytes());
    let mut component = guest("probe");
    component[1000] ^= 1;
    let component = write("wrong.wasm", &component);
    let spec = write(
        "wrong.json",
        form.to_string().replace("5000", "5001").as_bytes(),
    );
    for (flag, file, part) in [
        ("--stdout", &wrong, "stdout"),
        ("--stderr", &wrong, "stderr"),
        ("--component", &component, "component"),
        ("--spec", &spec, "spec"),
    ] {
        let (code, told, error) = verify(&[&receipt, flag, file]).await;
        assert_eq!(code, Some(1), "{flag}: {told} {error}");
        let checks = told["checks"].as_array().unwrap();
        let differs: Vec<_> = (checks.iter())
            .filter(|check| check["verdict"] == "differs")
            .map(|check| check["part"].as_str().unwrap())
            .collect();
        assert_eq!(differs, [part]);
    }
    // And of the receipt itself: every member is in the host's record.
    let genuine: Value = serde_json::from_str(&printed.stdout).unwrap();
    let other = Digest::of(b"other").to_string();
    for (member, value) in [
        ("spec_digest", json!(other)),
        ("component", json!(other)),
        ("fuel_used", json!(1)),
        ("exited_ms", json!(1)),
        ("outcome", json!({"kind": "exited", "code": 1})),
        ("stdout", json!({"sha256": other, "bytes": 1})),
    ] {
        let mut forged = genuine.clone();
        forged[member] = value;
        let forged = write("forged.json", forged.to_string().as_bytes());
        for streams in [&[][..], &["--stdout", &stdout, "--stderr", &stderr]] {
            let (code, told, _) = verify(&[&[forged.as_str()], streams].concat()).await;
            assert_eq!(code, Some(1), "{member}: {told}");
        }
    }
    // What is left out, or there in addition, was changed too.
    for (member, change) in [
        (
            "limits",
            (|of| drop(of["limits"].as_object_mut().unwrap().remove("fuel"))) as fn(&mut Value),
        ),
        ("limits", |of| of["limits"]["evil"] = json!(1)),
        ("outcome", |of| of["outcome"]["evil"] = json!("yes")),
        ("evil", |of| of["evil"] = json!("yes")),
    ] {
        let mut forged = genuine.clone();
        change(&mut forged);
        let forged = write("forged.json", forged.to_string().as_bytes());
        let (code, told, _) = verify(&[&forged]).await;
        assert_eq!(code, Some(1), "{member}: {told}");
        let detail = told["checks"][0]["detail"].as_str().unwrap();
        assert!(detail.ends_with(&format!("another {member}")), "{detail}");
    }
    host.end().await;

    // Without a host nobody knows what the record was, and that is said.
    let nowhere = format!("ipc://{}", dir.path().join("nowhere").display());
    let alone = ["--host", &nowhere, "verify", &receipt];
    let streams = ["--stdout", &stdout, "--stderr", &stderr];
    let ran = skep(&[&alone[..], &streams].concat()).await;
    assert_eq!(ran.code, Some(2), "{}{}", ran.stdout, ran.stderr);
    let row = |part: &str| ran.stdout.lines().find(|line| line.starts_with(part));
    assert!(
        row("record").unwrap().contains("not compared"),
        "{}",
        ran.stdout
    );
    assert!(
        row("stdout").unwrap().contains("verified"),
        "{}",
        ran.stdout
    );
    let ran = skep(&alone).await;
    assert_eq!(ran.code, Some(125), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_neither_verified_nor_denied() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let at = host.control().to_string();
    let mut asked = probe(&["lines", "20000"]);
    asked.limits.output_history_bytes = Some(64 * 1024);
    let ended = client.spawn(asked, None).await.unwrap();
    let ended = client
        .wait(ended.id, Some(skep_tests::DEADLINE))
        .await
        .unwrap();
    let agent = ended.id.to_string();
    let ran = skep(&["--host", &at, "verify", &agent]).await;
    assert_eq!(ran.code, Some(2), "{}{}", ran.stdout, ran.stderr);
    let stdout = ran.stdout.lines().find(|line| line.starts_with("stdout"));
    assert!(stdout.unwrap().contains("expired"), "{}", ran.stdout);
    // Nothing was written there, and that can be told whatever is gone.
    let stderr = ran.stdout.lines().find(|line| line.starts_with("stderr"));
    assert!(stderr.unwrap().contains("verified"), "{}", ran.stdout);

    // What the person has kept is checked all the same.
    let text: String = (1..=20_000).map(|line| format!("line {line}\n")).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stdout");
    std::fs::write(&file, text).unwrap();
    let ran = skep(&[
        "--host",
        &at,
        "verify",
        &agent,
        "--stdout",
        file.to_str().unwrap(),
    ])
    .await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);

    let printed = skep(&["--host", &at, "inspect", "--receipt", &agent]).await;
    let receipt = dir.path().join("receipt.json");
    std::fs::write(&receipt, printed.stdout).unwrap();
    client.forget(ended.id).await.unwrap();
    let ran = skep(&["--host", &at, "verify", receipt.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(2), "{}{}", ran.stdout, ran.stderr);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_none_before_the_end() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let at = host.control().to_string();
    let agent = client
        .spawn(probe(&["sleep", "600000"]), None)
        .await
        .unwrap()
        .id;
    for command in [&["inspect", "--receipt"][..], &["verify"]] {
        let ran = skep(&[&["--host", &at], command, &[&agent.to_string()]].concat()).await;
        assert_eq!(ran.code, Some(125));
        assert!(ran.stderr.contains("has not ended"), "{}", ran.stderr);
    }
    client.kill(agent).await.unwrap();
    let receipt = client.get(agent).await.unwrap().receipt.unwrap();
    assert_eq!(receipt.outcome, Outcome::Killed);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_runs_it_is_the_last_ones() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut asked = probe(&["lines", "3"]);
    asked.restart = serde_json::from_value(json!({
        "policy": "always", "max": 1, "backoff_ms": 100
    }))
    .unwrap();
    let ended = run(&client, asked).await;
    let receipt = receipt_of(&ended);
    assert_eq!((receipt.run, ended.info.usage.restarts), (1, 1));
    assert_eq!(ended.output.stdout(), "line 1\nline 2\nline 3\n".repeat(2));
    let once = Digest::of(b"line 1\nline 2\nline 3\n");
    assert_eq!(receipt.stdout.sha256, once);
    assert!(0 < receipt.fuel_used && receipt.fuel_used < ended.info.usage.fuel_used);
    let at = host.control().to_string();
    let ran = skep(&["--host", &at, "verify", &receipt.agent.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    host.end().await;
}
