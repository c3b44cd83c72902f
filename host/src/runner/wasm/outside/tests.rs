use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};

use super::confine::{Granted, confine};
use super::*;
use crate::runner::wasm::tests::{DEADLINE, bombs, command, prebuilt};
use crate::runner::wasm::{Engines, engine};

const WANTED: &dyn Fn() -> bool = &|| false;

fn outside(change: impl FnOnce(&mut WasmConfig)) -> Outside {
    let mut config = WasmConfig::default();
    change(&mut config);
    let fingerprint = engine::fingerprint(&engine::for_compiling(false).unwrap());
    Outside::new(&config, fingerprint)
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Refusal {
    match result {
        Err(Error::Refused(refusal) | Error::OutOfTime(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_component_comes_back_as_facts_and_code() {
    let outside = outside(|_| {});
    let hello = prebuilt("hello");
    let facts = outside.check(&hello, WANTED).unwrap();
    assert_eq!(facts.needs.memories, 1);
    let (same, code) = outside.compile(&hello, Patience::Whole, WANTED).unwrap();
    assert_eq!(same, facts);
    let engines = Engines::new(&WasmConfig::default()).unwrap();
    let compiled = crate::runner::wasm::load::load(&engines, facts, &code).unwrap();
    assert_eq!(compiled.size, crate::runner::wasm::weight::weight(&code));
}

#[test]
fn a_refusal_comes_back_whole() {
    let outside = outside(|_| {});
    let refused = refusal(outside.check(b"nonsense", WANTED));
    assert_eq!(refused.code, ErrorCode::InvalidComponent);
    let foreign = crate::runner::wasm::tests::wat(
        r#"(module (import "env" "f" (func)) (func (export "_start")))"#,
    );
    assert_eq!(refusal(outside.check(&foreign, WANTED)).imports, ["env.f"]);
    let threads = command("i32.const 0", "(memory 1 1 shared)");
    let refused = refusal(outside.compile(&threads, Patience::Whole, WANTED));
    assert_eq!(refused.feature.as_deref(), Some("threads"));
}

#[test]
fn bombs_end_within_their_limits() {
    let outside = outside(|config| config.compile_time = Duration::from_secs(1));
    for (name, bomb) in bombs() {
        let begun = Instant::now();
        let compiled = outside.compile(&bomb, Patience::Whole, WANTED);
        assert!(begun.elapsed() < DEADLINE, "{name}");
        match compiled {
            // Some are none to a compiler that is quick enough.
            Ok((_, code)) => assert!(code.len() < 64 * 1024 * 1024, "{name}"),
            Err(Error::Refused(refusal) | Error::OutOfTime(refusal)) => {
                assert_eq!(refusal.code, ErrorCode::CompileLimit, "{name}: {refusal}");
            }
            Err(other) => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn each_limit_is_named_with_its_number() {
    let slow = &bombs()[0].1;
    let time = |ms| outside(|config| config.compile_time = Duration::from_millis(ms));
    let processor = refusal(time(1000).compile(slow, Patience::Whole, WANTED));
    assert_eq!(processor.code, ErrorCode::CompileLimit);
    assert_eq!(
        processor.to_wire().details.limit.as_deref(),
        Some("compile_ms")
    );
    assert!(processor.message.contains("1000"), "{processor}");
    // By the clock, whoever computed meanwhile takes long, and nobody else.
    let late = |used| {
        let said = Said {
            ended: Ended::Late(Duration::from_millis(used)),
            output: Vec::new(),
            words: Vec::new(),
        };
        refusal(time(20).understand(said))
    };
    let clock = late(10);
    assert_eq!(clock.code, ErrorCode::CompileLimit);
    assert!(clock.message.contains("80 ms by the clock"), "{clock}");
    assert_eq!(late(9).code, ErrorCode::Capacity);

    let many: String = (0..20_000)
        .map(|n| format!("(func (param i32) (result i32) local.get 0 i32.const {n} i32.add)"))
        .collect();
    let large = command("i32.const 0", &many);
    let memory = |bytes| outside(|config| config.compile_memory_bytes = bytes);
    let hoard = refusal(memory(24 << 20).compile(&large, Patience::Whole, WANTED));
    assert_eq!(hoard.code, ErrorCode::CompileLimit);
    assert!(hoard.message.contains("25165824"), "{hoard}");
    assert!(
        memory(1 << 30)
            .compile(&large, Patience::Whole, WANTED)
            .is_ok()
    );
    // It does not even fit in.
    let huge = vec![0; 64 << 20];
    let hoard = refusal(memory(24 << 20).check(&huge, WANTED));
    assert_eq!(hoard.code, ErrorCode::CompileLimit, "{hoard}");
}

#[test]
fn a_binary_that_is_no_helper_is_our_fault_and_soon_over() {
    for helper in ["/bin/true", "/bin/cat", "/bin/sh", "/nothing/here", ""] {
        let outside = outside(|config| config.helper = helper.into());
        let failure = outside.check(&prebuilt("hello"), WANTED).unwrap_err();
        assert!(matches!(failure, Error::Fault { .. }), "{failure:?}");
    }
    let foreign = Outside::new(&WasmConfig::default(), 0);
    let failure = foreign
        .compile(&prebuilt("hello"), Patience::Whole, WANTED)
        .unwrap_err();
    assert!(matches!(failure, Error::Fault { .. }), "{failure:?}");
}

fn shell(script: &str, input: &[u8], bounds: &Bounds<'_>) -> Said {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    process::run(&mut command, input, bounds).unwrap()
}

#[test]
fn a_process_is_held_to_its_bounds() {
    let bounds = |ms, output| Bounds {
        time: Duration::from_millis(ms),
        output,
        unwanted: WANTED,
    };
    let patient = 120_000;
    let much = vec![b'x'; 3_000_000];
    let said = shell(
        "cat; echo last >&2; exit 3",
        &much,
        &bounds(patient, much.len()),
    );
    assert!(matches!(said.ended, Ended::Itself(status) if status.code() == Some(3)));
    assert_eq!(said.output, much);
    assert_eq!(said.words, b"last\n");
    let said = shell("cat", &much, &bounds(patient, much.len() - 1));
    assert!(matches!(said.ended, Ended::TooMuch), "{:?}", said.ended);
    // It neither reads nor writes, and has closed all that it could be awaited by.
    let said = shell("exec <&- >&- 2>&-; exec sleep 1000", &much, &bounds(300, 1));
    assert!(matches!(said.ended, Ended::Late(_)), "{:?}", said.ended);
    let said = shell("exec sleep 1000", &much, &bounds(300, 1));
    assert!(matches!(said.ended, Ended::Late(_)), "{:?}", said.ended);
    // It says on its standard error what nobody wants to know.
    let said = shell("yes >&2; echo done", b"", &bounds(patient, 100));
    assert!(said.words.len() <= 4097);
    assert_eq!(said.output, b"done\n");
}

#[test]
fn a_process_that_nobody_wants_is_ended() {
    let unwanted = AtomicBool::new(false);
    let ask = || unwanted.load(Relaxed);
    let bounds = Bounds {
        time: DEADLINE,
        output: 100,
        unwanted: &ask,
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| unwanted.store(true, Relaxed));
        let said = shell("exec sleep 1000", b"", &bounds);
        assert!(matches!(said.ended, Ended::Unwanted));
    });
    assert!(begun.elapsed() < DEADLINE);
}

/// Names the part of the next test that runs confined.
const CONFINED: &str = "SKEP_TEST_CONFINED";

/// What a process may still do once it is confined, tried from inside of one:
/// this test, started again.
#[test]
fn a_confined_process_computes_and_nothing_else() {
    if std::env::var_os(CONFINED).is_some() {
        try_everything();
    }
    let name = "runner::wasm::outside::tests::a_confined_process_computes_and_nothing_else";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CONFINED, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(42), "{said}");
    for denied in [
        "open", "write", "tcp", "udp", "execute", "fork", "memory", "kill",
    ] {
        assert!(said.contains(&format!("{denied}: denied")), "{said}");
    }
    assert!(said.contains("thread: 7"), "{said}");
    assert!(said.contains("as granted: true"), "{said}");
}

fn try_everything() -> ! {
    let mut kept = std::fs::File::open("/etc/passwd").unwrap();
    let has = what_the_kernel_has();
    let job = Job {
        task: Task::Check,
        host: nix::unistd::getppid().as_raw(),
        engine: 0,
        cpu_seconds: 60,
        memory_bytes: 256 << 20,
        threads: 1,
        lower: 1,
    };
    let granted = confine(&job).unwrap();
    let mut report = String::new();
    let mut tried = |what: &str, denied: bool| {
        report += &format!("{what}: {}\n", if denied { "denied" } else { "ALLOWED" });
    };
    tried("open", std::fs::File::open("/etc/passwd").is_err());
    tried("write", std::fs::write("/tmp/skep-confined", "x").is_err());
    tried(
        "tcp",
        TcpStream::connect("127.0.0.1:1")
            .is_err_and(|error| error.kind() != std::io::ErrorKind::ConnectionRefused),
    );
    tried("udp", UdpSocket::bind("127.0.0.1:0").is_err());
    tried("execute", Command::new("/bin/true").spawn().is_err());
    let parent = nix::unistd::getppid();
    tried("kill", nix::sys::signal::kill(parent, None).is_err());
    let mut large: Vec<u8> = Vec::new();
    tried("memory", large.try_reserve_exact(512 << 20).is_err());
    tried("fork", fork_is_denied());
    // What was open stays so, and threads are for computing.
    kept.read_exact(&mut [0]).unwrap();
    let seven = std::thread::spawn(|| 7).join().unwrap();
    report += &format!("thread: {seven}\n");
    // Each by itself denies most of that: neither may hide that the other is not there.
    report += &format!("as granted: {}\n", granted == has);
    std::io::stdout().write_all(report.as_bytes()).unwrap();
    std::process::exit(42)
}

/// Found out where it can still be found out.
fn what_the_kernel_has() -> Granted {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    Granted {
        files: rules.is_ok(),
        calls: std::path::Path::new("/proc/sys/kernel/seccomp").exists(),
    }
}

#[expect(unsafe_code, reason = "fork")]
fn fork_is_denied() -> bool {
    // SAFETY: if there is a child after all, it exits at once.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Child) => std::process::exit(1),
        Ok(nix::unistd::ForkResult::Parent { .. }) => false,
        Err(_) => true,
    }
}
