//! The functions that do bulk instructions in portions.

use wasm_encoder::{BlockType, Function, InstructionSink, ValType};
use wasmparser::Operator;

/// Bytes of memory at a time: 3 ms where two guests touch new memory at once.
pub(super) const BYTES: u32 = 1 << 20;
/// Elements of a table at a time, of up to 16 bytes each.
pub(super) const ELEMENTS: u32 = 1 << 16;

/// Pages of a memory of 4 GiB.
const MOST_PAGES: i32 = 1 << 16;

/// A bulk instruction, with what it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Bulk {
    MemoryCopy { to: u32, from: u32 },
    MemoryFill { memory: u32 },
    MemoryInit { memory: u32, segment: u32 },
    TableCopy { to: u32, from: u32 },
    TableFill { table: u32 },
    TableInit { table: u32, segment: u32 },
}

/// The parameters, in the order of the instructions' operands.
const TO: u32 = 0;
/// Where it comes from, or with what it is filled.
const FROM: u32 = 1;
const LENGTH: u32 = 2;

impl Bulk {
    /// What the instruction is, if it is one of these.
    pub(super) fn of(operator: &Operator<'_>) -> Option<Self> {
        Some(match *operator {
            Operator::MemoryCopy { dst_mem, src_mem } => Self::MemoryCopy {
                to: dst_mem,
                from: src_mem,
            },
            Operator::MemoryFill { mem } => Self::MemoryFill { memory: mem },
            Operator::MemoryInit { data_index, mem } => Self::MemoryInit {
                memory: mem,
                segment: data_index,
            },
            Operator::TableCopy {
                dst_table,
                src_table,
            } => Self::TableCopy {
                to: dst_table,
                from: src_table,
            },
            Operator::TableFill { table } => Self::TableFill { table },
            Operator::TableInit { elem_index, table } => Self::TableInit {
                table,
                segment: elem_index,
            },
            _ => return None,
        })
    }

    /// How much it may do at a time.
    pub(super) const fn portion(self) -> u32 {
        match self {
            Self::MemoryCopy { .. } | Self::MemoryFill { .. } | Self::MemoryInit { .. } => BYTES,
            Self::TableCopy { .. } | Self::TableFill { .. } | Self::TableInit { .. } => ELEMENTS,
        }
    }

    /// What a backtrace calls its function.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MemoryCopy { .. } => "memory.copy",
            Self::MemoryFill { .. } => "memory.fill",
            Self::MemoryInit { .. } => "memory.init",
            Self::TableCopy { .. } => "table.copy",
            Self::TableFill { .. } => "table.fill",
            Self::TableInit { .. } => "table.init",
        }
    }

    pub(super) const fn params(self) -> [ValType; 3] {
        let from = match self {
            // Tables of anything else need garbage collection.
            Self::TableFill { .. } => ValType::FUNCREF,
            _ => ValType::I32,
        };
        [ValType::I32, from, ValType::I32]
    }

    const fn fills(self) -> bool {
        matches!(self, Self::MemoryFill { .. } | Self::TableFill { .. })
    }

    /// Whether what is written may be what is still to be read: also where the two
    /// have different numbers, since what is imported twice has two.
    const fn overlaps(self) -> bool {
        matches!(self, Self::MemoryCopy { .. } | Self::TableCopy { .. })
    }

    fn emit(self, code: &mut InstructionSink<'_>) {
        match self {
            Self::MemoryCopy { to, from } => code.memory_copy(to, from),
            Self::MemoryFill { memory } => code.memory_fill(memory),
            Self::MemoryInit { memory, segment } => code.memory_init(memory, segment),
            Self::TableCopy { to, from } => code.table_copy(to, from),
            Self::TableFill { table } => code.table_fill(table),
            Self::TableInit { table, segment } => code.table_init(table, segment),
        };
    }

    /// The same as the instruction, in portions.
    pub(super) fn function(self) -> Function {
        let mut function = Function::new([]);
        let code = &mut function.instructions();
        self.at_once_if(code, |code| {
            code.local_get(LENGTH)
                .i32_const(self.portion().cast_signed());
            code.i32_le_u();
        });
        // What ends out of bounds traps at once.
        self.at_once_if(code, |code| {
            self.ends_beyond(code, TO);
            if !self.fills() {
                self.ends_beyond(code, FROM);
                code.i32_or();
            }
        });
        // All of it has to be there before any of it is touched: nothing, done
        // at the end, traps like the whole. An end of 0 is 4 GiB, and was looked at.
        code.local_get(TO)
            .local_get(LENGTH)
            .i32_add()
            .local_get(FROM);
        if !self.fills() {
            code.local_get(LENGTH).i32_add();
        }
        code.i32_const(0);
        self.emit(code);
        if self.overlaps() {
            code.local_get(FROM).local_get(TO).i32_lt_u();
            code.if_(BlockType::Empty);
            self.backwards(code);
            code.else_();
            self.forwards(code);
            code.end();
        } else {
            self.forwards(code);
        }
        self.whole(code);
        code.end();
        function
    }

    fn at_once_if(
        self,
        code: &mut InstructionSink<'_>,
        condition: impl FnOnce(&mut InstructionSink<'_>),
    ) {
        condition(code);
        code.if_(BlockType::Empty);
        self.whole(code);
        code.return_().end();
    }

    /// Whether the end is out of bounds as it is beyond 4 GiB, or is 4 GiB sharp and
    /// that is more than there is. A memory may be as large as that, and nothing else.
    fn ends_beyond(self, code: &mut InstructionSink<'_>, start: u32) {
        let end = |code: &mut InstructionSink<'_>| {
            code.local_get(start).local_get(LENGTH).i32_add();
        };
        end(code);
        code.local_get(start).i32_lt_u();
        let memory = match (self, start) {
            (
                Self::MemoryCopy { to: memory, .. }
                | Self::MemoryFill { memory }
                | Self::MemoryInit { memory, .. },
                TO,
            )
            | (Self::MemoryCopy { from: memory, .. }, FROM) => memory,
            _ => return,
        };
        end(code);
        code.memory_size(memory).i32_const(MOST_PAGES).i32_ne();
        code.i32_or().i32_const(0).i32_ne().i32_and();
    }

    /// What is left, at once.
    fn whole(self, code: &mut InstructionSink<'_>) {
        code.local_get(TO).local_get(FROM).local_get(LENGTH);
        self.emit(code);
    }

    /// Portions from the start, until one or less is left.
    fn forwards(self, code: &mut InstructionSink<'_>) {
        let portion = self.portion().cast_signed();
        code.loop_(BlockType::Empty);
        code.local_get(TO).local_get(FROM).i32_const(portion);
        self.emit(code);
        code.local_get(TO)
            .i32_const(portion)
            .i32_add()
            .local_set(TO);
        if !self.fills() {
            code.local_get(FROM).i32_const(portion).i32_add();
            code.local_set(FROM);
        }
        Self::take_and_repeat(code, portion);
    }

    /// Portions from the end, until one or less is left.
    fn backwards(self, code: &mut InstructionSink<'_>) {
        let portion = self.portion().cast_signed();
        code.loop_(BlockType::Empty);
        for start in [TO, FROM] {
            code.local_get(start).local_get(LENGTH).i32_add();
            code.i32_const(portion).i32_sub();
        }
        code.i32_const(portion);
        self.emit(code);
        Self::take_and_repeat(code, portion);
    }

    fn take_and_repeat(code: &mut InstructionSink<'_>, portion: i32) {
        code.local_get(LENGTH).i32_const(portion).i32_sub();
        code.local_tee(LENGTH).i32_const(portion).i32_gt_u();
        code.br_if(0).end();
    }
}
