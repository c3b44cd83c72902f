//! What would keep a compiler busy, refused by its size alone. Those that only
//! time ends need a host of less patience, and are tried by themselves.

use skep_client::protocol::{AgentSpec, ErrorCode};

use super::wat::{commanding, of_bytes};
use super::{Case, Ends};

/// The largest function, and the most functions, that a host compiles.
const LARGEST_FUNCTION: u32 = 1024 * 1024;
const MOST_FUNCTIONS: u32 = 250_000;

pub(super) fn cases() -> Vec<Case> {
    let case = |what, spec, ends| Case::new("compiling", what, spec, ends);
    let refusal = Ends::StartFailed(ErrorCode::CompileLimit);
    vec![
        case("a function of 7 MB", functions(1, 7_000_000), refusal),
        case(
            "a function one byte too large",
            functions(1, LARGEST_FUNCTION + 1),
            refusal,
        ),
        case(
            "a function as large as may be",
            functions(1, LARGEST_FUNCTION),
            Ends::Exited(0),
        ),
        case(
            "one function too many",
            functions(MOST_FUNCTIONS, SMALLEST),
            refusal,
        ),
        case(
            "two thousand functions",
            functions(2000, SMALLEST),
            Ends::Exited(0),
        ),
        case(
            "nested forty deep, each twice",
            nested(40),
            Ends::Refused(ErrorCode::CompileLimit),
        ),
        case("nested four deep", nested(4), Ends::Exited(0)),
    ]
}

/// The bytes of a function that does nothing: no locals, and its end.
const SMALLEST: u32 = 2;

/// A program with so many functions of so many bytes besides its own, all of
/// which do nothing. Written by hand: as text it would be many times as large.
fn functions(count: u32, bytes: u32) -> AgentSpec {
    const TYPE_OF_EACH: u8 = 0;
    const NO_LOCALS: u8 = 0;
    const NOP: u8 = 1;
    const END: u8 = 0x0b;
    let mut each = leb128(bytes);
    each.push(NO_LOCALS);
    each.resize(each.len() + bytes as usize - 2, NOP);
    each.push(END);
    let all = |own: &[u8], each: &[u8]| {
        [&leb128(count + 1)[..], own, &each.repeat(count as usize)].concat()
    };
    let own = [SMALLEST.to_le_bytes()[0], NO_LOCALS, END];
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, section) in [
        // One type, without parameters and results.
        (1, vec![1, 0x60, 0, 0]),
        (3, all(&[TYPE_OF_EACH], &[TYPE_OF_EACH])),
        // One memory of one page.
        (5, vec![1, 0, 1]),
        (7, b"\x02\x06_start\0\0\x06memory\x02\0".to_vec()),
        (10, all(&own, &each)),
    ] {
        module.push(id);
        module.extend(leb128(u32::try_from(section.len()).expect("a section")));
        module.extend(section);
    }
    of_bytes(module)
}

fn leb128(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let seven = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            bytes.push(seven);
            return bytes;
        }
        bytes.push(seven | 0x80);
    }
}

/// Components so deep, each of which makes the one below it twice.
fn nested(deep: u32) -> AgentSpec {
    let levels: String = (1..=deep)
        .map(|level| {
            let below = level - 1;
            let once = format!("(instance (instantiate $below{below}))");
            format!(
                "(component $c{level} (alias outer 1 $c{below} (component $below{below})) \
                 {once} {once})"
            )
        })
        .collect();
    let lowest = "(component $c0 (core module $m) (core instance (instantiate $m)))";
    let before = format!("{lowest} {levels} (instance (instantiate $c{deep}))");
    commanding(&before, "i32.const 0", "")
}
