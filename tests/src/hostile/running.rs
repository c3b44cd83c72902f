//! Taking time, stack and memory, and all the ways to trap.

use skep_client::protocol::Trap;

use super::wat::command;
use super::{Case, Ends, MIB, SOME_FUEL, SOON_MS};
use crate::guests::probe;

/// Grows the memory by 16 MiB until that fails.
const GREEDY: &str = "(loop $l i32.const 256 memory.grow i32.const -1 i32.ne br_if $l)";

pub(super) fn cases() -> Vec<Case> {
    [
        loops(),
        recursion(),
        memory(),
        fresh(),
        copies(),
        traps(),
        exits(),
    ]
    .concat()
}

fn loops() -> Vec<Case> {
    let case = |what, body, module, ends| Case::new("loops", what, command(body, module), ends);
    let tight = "(loop $l br $l) i32.const 0";
    vec![
        case(
            "with calls",
            "(loop $l call $f br $l) i32.const 0",
            "(func $f)",
            Ends::OutOfFuel,
        )
        .fuel(SOME_FUEL),
        case("without calls", tight, "", Ends::OutOfFuel).fuel(SOME_FUEL),
        case("against the clock", tight, "", Ends::Deadline).wall_ms(SOON_MS),
        case("until it is killed", tight, "", Ends::Killed),
        case(
            "as long as the fuel lasts",
            "(local $n i32) i32.const 1000000 local.set $n \
             (loop $l local.get $n i32.const 1 i32.sub local.tee $n br_if $l) i32.const 0",
            "",
            Ends::Exited(0),
        )
        .fuel(SOME_FUEL),
    ]
}

fn recursion() -> Vec<Case> {
    let deep = |depth: u32| {
        let body = format!("i32.const {depth} call $down i32.const 0");
        let down = "(func $down (param i32) (if (local.get 0) \
                    (then (call $down (i32.sub (local.get 0) (i32.const 1))))))";
        command(&body, down)
    };
    vec![
        Case::new(
            "recursion",
            "without end",
            command("call $run", ""),
            Ends::Trapped(Trap::StackOverflow),
        ),
        Case::new(
            "recursion",
            "a million deep",
            deep(1_000_000),
            Ends::Trapped(Trap::StackOverflow),
        ),
        Case::new("recursion", "a thousand deep", deep(1000), Ends::Exited(0)),
    ]
}

fn memory() -> Vec<Case> {
    let case = |what, body: &str, module: &str, ends| {
        Case::new("memory", what, command(body, module), ends).memory(64 * MIB)
    };
    let grow_table = |by: u32| {
        format!(
            "(if (i32.eq (table.grow 0 (ref.null func) (i32.const {by})) (i32.const -1)) \
             (then unreachable)) i32.const 0"
        )
    };
    let memories: String = (0..4).map(|n| format!("(memory $m{n} 1)")).collect();
    let grow_each = |pages: u32| -> String {
        let grow = |n| {
            format!(
                "(if (i32.eq (memory.grow $m{n} (i32.const {pages})) (i32.const -1)) \
                 (then unreachable))"
            )
        };
        (0..4).map(grow).chain(["i32.const 0".to_owned()]).collect()
    };
    let grow_once = |pages: u32| {
        format!(
            "(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable)) \
             i32.const 0"
        )
    };
    vec![
        case(
            "grows without end",
            &format!("{GREEDY} unreachable"),
            "(memory 1)",
            Ends::OutOfMemory,
        ),
        case(
            "grows and lives on",
            &format!("{GREEDY} i32.const 0"),
            "(memory 1)",
            Ends::Exited(0),
        ),
        case(
            "one page too many",
            &grow_once(1024),
            "(memory 1)",
            Ends::OutOfMemory,
        ),
        case(
            "to the last page",
            &grow_once(1023),
            "(memory 1)",
            Ends::Exited(0),
        ),
        case(
            "many memories",
            &grow_each(319),
            &memories,
            Ends::OutOfMemory,
        ),
        case(
            "many memories, in all enough",
            &grow_each(255),
            &memories,
            Ends::Exited(0),
        ),
        case(
            "a table",
            &grow_table(1_000_000),
            "(table 30000 funcref)",
            Ends::OutOfMemory,
        )
        .memory(7 * MIB),
        case(
            "a table that fits",
            &grow_table(800_000),
            "(table 30000 funcref)",
            Ends::Exited(0),
        )
        .memory(7 * MIB),
        case(
            "a table larger than any",
            &grow_table(400_000_000),
            "(table 30000 funcref)",
            Ends::Trapped(Trap::Unreachable),
        )
        .memory(512 * MIB),
        case(
            "a table as large as any",
            &grow_table((1 << 20) - 30_000),
            "(table 30000 funcref)",
            Ends::Exited(0),
        ),
        Case::new(
            "memory",
            "a program that takes all",
            probe(&["alloc"]),
            Ends::OutOfMemory,
        )
        .memory(16 * MIB),
    ]
}

/// Slots of memory go from one agent to the next: whoever finds anything but
/// zeros in a fresh one reads what was another's.
fn fresh() -> Vec<Case> {
    let fill = |pages: u32, then: &str| {
        let bytes = u64::from(pages) * 65_536;
        let body = format!(
            "(drop (memory.grow (i32.const {}))) \
             (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const {bytes})) {then}",
            pages - 1
        );
        command(&body, "(memory 1)")
    };
    let search = |first: u32, pages: u32| {
        let body = format!(
            "(local $at i32) (local $found i64) \
             (if (i32.eq (memory.grow (i32.const {})) (i32.const -1)) (then unreachable)) \
             (loop $l \
                (local.set $found (i64.or (local.get $found) (i64.load (local.get $at)))) \
                (local.set $at (i32.add (local.get $at) (i32.const 8))) \
                (br_if $l (i32.lt_u (local.get $at) (i32.const {})))) \
             (if (i64.ne (local.get $found) (i64.const 0)) (then unreachable)) \
             i32.const 0",
            pages - first,
            u64::from(pages) * 65_536
        );
        command(&body, &format!("(memory {first})"))
    };
    let table = |body: &str| {
        let module = "(table 20000 funcref) (elem declare func $run)";
        command(&format!("{body} i32.const 0"), module)
    };
    let fill_table = "(table.fill 0 (i32.const 0) (ref.func $run) (i32.const 20000))";
    let search_table = "(local $at i32) \
        (loop $l \
            (if (i32.eqz (ref.is_null (table.get 0 (local.get $at)))) (then unreachable)) \
            (local.set $at (i32.add (local.get $at) (i32.const 1))) \
            (br_if $l (i32.lt_u (local.get $at) (i32.const 20000))))";
    let row = "fresh_memory";
    vec![
        Case::new(
            row,
            "fills all it has",
            fill(1023, "i32.const 0"),
            Ends::Exited(0),
        ),
        Case::new(
            row,
            "fills some of it",
            fill(20, "i32.const 0"),
            Ends::Exited(0),
        ),
        Case::new(
            row,
            "fills it and traps",
            fill(500, "unreachable"),
            Ends::Trapped(Trap::Unreachable),
        ),
        Case::new(
            row,
            "fills it until it is killed",
            fill(700, "(loop $l br $l) i32.const 0"),
            Ends::Killed,
        ),
        Case::new(
            row,
            "searches what it began with",
            search(1023, 1023),
            Ends::Exited(0),
        )
        .guarding(),
        Case::new(
            row,
            "searches what it grew by",
            search(1, 1023),
            Ends::Exited(0),
        )
        .guarding(),
        Case::new(row, "searches a little", search(1, 20), Ends::Exited(0)).guarding(),
        Case::new(row, "fills its table", table(fill_table), Ends::Exited(0)),
        Case::new(
            row,
            "searches its table",
            table(search_table),
            Ends::Exited(0),
        )
        .guarding(),
    ]
}

fn copies() -> Vec<Case> {
    const COPY: &str = "i32.const 64 i32.const 0 i32.const 104857600 memory.copy";
    let endless = command(
        &format!("(loop $l {COPY} br $l) i32.const 0"),
        "(memory 1601)",
    );
    let once = command(&format!("{COPY} i32.const 0"), "(memory 1601)");
    let row = "copies";
    vec![
        Case::new(
            row,
            "100 MiB until it is killed",
            endless.clone(),
            Ends::Killed,
        )
        .memory(128 * MIB),
        Case::new(row, "100 MiB against the clock", endless, Ends::Deadline)
            .memory(128 * MIB)
            .wall_ms(SOON_MS),
        Case::new(row, "100 MiB once", once, Ends::Exited(0)).memory(128 * MIB),
    ]
}

fn traps() -> Vec<Case> {
    let memory = "(memory 1)";
    let table = "(type $t (func (result i32))) (table 1 1 funcref)";
    let filled = "(type $t (func (param i64) (result i32))) (table 1 1 funcref) \
                  (elem (i32.const 0) $run)";
    let called = "(type $t (func (result i32))) (table 1 1 funcref) (elem (i32.const 0) $seven) \
                  (func $seven (result i32) i32.const 7)";
    let case = |what, body, module, trap| {
        Case::new("traps", what, command(body, module), Ends::Trapped(trap))
    };
    let well =
        |what, body, module| Case::new("traps", what, command(body, module), Ends::Exited(0));
    vec![
        case("unreachable", "unreachable", "", Trap::Unreachable),
        case(
            "division by zero",
            "i32.const 1 i32.const 0 i32.div_u",
            "",
            Trap::IntegerDivideByZero,
        ),
        case(
            "overflow",
            "i32.const 0x80000000 i32.const -1 i32.div_s",
            "",
            Trap::IntegerOverflow,
        ),
        case(
            "bad conversion",
            "f32.const nan i32.trunc_f32_s",
            "",
            Trap::BadConversion,
        ),
        case(
            "out of bounds",
            "i32.const 65533 i32.load",
            memory,
            Trap::MemoryOutOfBounds,
        ),
        case(
            "an empty place",
            "i32.const 0 call_indirect (type $t)",
            table,
            Trap::NullReference,
        ),
        case(
            "a place too far",
            "i32.const 1 call_indirect (type $t)",
            table,
            Trap::TableOutOfBounds,
        ),
        case(
            "another type",
            "i64.const 0 i32.const 0 call_indirect (type $t)",
            filled,
            Trap::IndirectCallMismatch,
        ),
        well("the last word", "i32.const 65532 i32.load", memory),
        well(
            "the right type",
            "i32.const 0 call_indirect (type $t) i32.const 7 i32.sub",
            called,
        ),
    ]
}

fn exits() -> Vec<Case> {
    let exit = |code: u8| {
        let spec = probe(&["exit", &code.to_string()]);
        Case::new("exits", &format!("with {code}"), spec, Ends::Exited(code)).writing(Vec::new())
    };
    let mut cases: Vec<Case> = [0, 1, 7, 255].map(exit).to_vec();
    cases.push(Case::new(
        "exits",
        "by a panic",
        probe(&["panic"]),
        Ends::Trapped(Trap::Unreachable),
    ));
    cases
}
