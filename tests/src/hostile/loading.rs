//! What is refused before it runs, and what fails while it starts.

use skep_client::protocol::{AgentSpec, ErrorCode, LimitsAsk, Trap};

use super::wat::{command, commanding, of_bytes, parse};
use super::{Case, Ends, MIB, SOME_FUEL, SOON_MS};
use crate::guests::guest;

pub(super) fn cases() -> Vec<Case> {
    [nonsense(), foreign(), large(), starts(), absurd_limits()].concat()
}

fn refused(row: &'static str, what: &str, spec: AgentSpec, code: ErrorCode) -> Case {
    Case::new(row, what, spec, Ends::Refused(code))
}

fn nonsense() -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
    let mut torn = guest("hello");
    torn.truncate(torn.len() / 2);
    let own = std::fs::read("/proc/self/exe").expect("this program");
    let program: Vec<u8> = own.into_iter().take(65_536).collect();
    let case = |what, bytes| {
        refused(
            "nonsense",
            what,
            of_bytes(bytes),
            ErrorCode::InvalidComponent,
        )
    };
    vec![
        case("nothing", Vec::new()),
        case("random bytes", noise.clone()),
        case(
            "random bytes that begin well",
            [&b"\0asm\x0d\0\x01\0"[..], &noise].concat(),
        ),
        case("a program of this system", program),
        case("text", b"(component)".to_vec()),
        case("half a component", torn),
        case("compiled code, forged", forged()),
    ]
}

/// The head of what wasmtime compiles: an ELF file of its own kind.
fn forged() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let head = [
        0x7f, b'E', b'L', b'F', 2, 1, 1, 200, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 62, 0, 1, 0, 0, 0,
    ];
    // Its flags, at 48, say that it is a component.
    for (at, byte) in head.into_iter().enumerate().chain([(48, 2), (52, 64)]) {
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
    }
    bytes
}

fn foreign() -> Vec<Case> {
    let run = |name: &str| {
        format!(
            r#"(core module $m (func (export "run") (result i32) i32.const 0))
           (core instance $i (instantiate $m))
           (func $run (result (result)) (canon lift (core func $i "run")))
           (instance $e (export "run" (func $run)))
           (export "{name}" (instance $e))"#
        )
    };
    let (now, later) = (run("wasi:cli/run@0.2.0"), run("wasi:cli/run@0.3.0"));
    let case = |what, text: &str, code| {
        let component = of_bytes(parse(&format!("(component {text})")));
        refused("foreign", what, component, code)
    };
    let off = |what, module| {
        refused(
            "foreign",
            what,
            command("i32.const 0", module),
            ErrorCode::UnsupportedFeature,
        )
    };
    vec![
        case(
            "an import that nothing provides",
            &format!(r#"(import "nobody:knows/this@1.2.3" (instance (export "f" (func)))) {now}"#),
            ErrorCode::MissingImport,
        ),
        case(
            "a function that its interface lacks",
            &format!(r#"(import "wasi:cli/exit@0.2.0" (instance (export "leave" (func)))) {now}"#),
            ErrorCode::MissingImport,
        ),
        case("nothing to run", "", ErrorCode::InvalidComponent),
        case("another WASI", &later, ErrorCode::UnsupportedWorld),
        off("threads", "(memory 1 1 shared)"),
        off("64-bit memory", "(memory i64 1)"),
        Case::new(
            "foreign",
            "an import of types alone",
            of_bytes(parse(&format!(
                r#"(component (import "acme:tools/types@1.0.0"
                (instance (type $t u32) (export "t" (type (eq $t))))) {now})"#
            ))),
            Ends::Exited(0),
        ),
    ]
}

fn large() -> Vec<Case> {
    let instances = |count: usize| {
        let each = "(core instance (instantiate $m))".repeat(count);
        let before = format!("(core module $m) (component $c {each})");
        commanding(
            &format!("{before} (instance (instantiate $c))"),
            "i32.const 0",
            "",
        )
    };
    let five_thousand = {
        let each = "(core instance (instantiate $m))".repeat(1000);
        let copies = "(instance (instantiate $c))".repeat(5);
        let before = format!("(core module $m) (component $c {each}) {copies}");
        commanding(&before, "i32.const 0", "")
    };
    let module = |text: &str| command("i32.const 0", text);
    // Whatever a host keeps for each must not be a descriptor.
    let filled: String = (0..64)
        .map(|n| format!("(memory $m{n} 1) (data (memory $m{n}) (i32.const 0) \"{n}\")"))
        .collect();
    let case = |what, spec, ends| Case::new("large", what, spec, ends).memory(64 * MIB);
    let refusal = Ends::Refused(ErrorCode::LimitTooSmall);
    vec![
        case("5,000 instances", five_thousand, refusal),
        case("one instance too many", instances(64), refusal),
        case(
            "as many instances as it may",
            instances(63),
            Ends::Exited(0),
        ),
        case("100 memories", module(&"(memory 0)".repeat(100)), refusal),
        case(
            "as many memories as it may",
            module(&"(memory 0)".repeat(64)),
            Ends::Exited(0),
        ),
        case(
            "as many that begin with data",
            module(&filled),
            Ends::Exited(0),
        ),
        case(
            "tables of a million",
            module(&"(table 100000 funcref)".repeat(10)),
            refusal,
        )
        .memory(7 * MIB),
        case(
            "tables of a million, with room",
            module(&"(table 100000 funcref)".repeat(10)),
            Ends::Exited(0),
        )
        .memory(8 * MIB),
        case("1 GiB to begin with", module("(memory 16384)"), refusal),
        case(
            "64 MiB to begin with",
            module("(memory 1024)"),
            Ends::Exited(0),
        ),
    ]
}

fn starts() -> Vec<Case> {
    let case = |what, body: &str, ends| {
        let module = format!("(memory 1) (func $s {body}) (start $s)");
        Case::new("starts", what, command("i32.const 0", &module), ends).memory(64 * MIB)
    };
    vec![
        case("spins", "(loop $l br $l)", Ends::OutOfFuel).fuel(SOME_FUEL),
        case("spins against the clock", "(loop $l br $l)", Ends::Deadline).wall_ms(SOON_MS),
        case("traps", "unreachable", Ends::Trapped(Trap::Unreachable)),
        case(
            "takes all memory",
            "(loop $l i32.const 256 memory.grow i32.const -1 i32.ne br_if $l) unreachable",
            Ends::OutOfMemory,
        ),
        case(
            "takes what it may",
            "(drop (memory.grow (i32.const 1023)))",
            Ends::Exited(0),
        ),
    ]
}

fn absurd_limits() -> Vec<Case> {
    let case = |what, limits: LimitsAsk, code| {
        let mut spec = of_bytes(guest("hello"));
        spec.limits = limits;
        refused("absurd_limits", what, spec, code)
    };
    let none = LimitsAsk::default();
    let over = ErrorCode::LimitExceedsCeiling;
    vec![
        case(
            "fuel 2^64-1",
            LimitsAsk {
                fuel: Some(u64::MAX),
                ..none
            },
            over,
        ),
        case(
            "memory 1 TiB",
            LimitsAsk {
                memory_bytes: Some(1 << 40),
                ..none
            },
            over,
        ),
        case(
            "no time",
            LimitsAsk {
                wall_ms: Some(0),
                ..none
            },
            ErrorCode::InvalidArgument,
        ),
        case(
            "no fuel",
            LimitsAsk {
                fuel: Some(0),
                ..none
            },
            ErrorCode::InvalidArgument,
        ),
    ]
}
