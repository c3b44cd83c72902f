//! One module, and what in it is replaced.

use std::collections::HashMap;
use std::ops::Range;

use wasm_encoder::{
    BlockType, CodeSection, CustomSection, Encode, Instruction, Module as Encoded, RawSection,
    TypeSection,
};
use wasmparser::{
    BinaryReader, DataKind, FunctionBody, Operator, Parser, Payload, Result, TypeRef,
};

use super::super::modules::within;
use super::function::Bulk;

/// Sections by their number in the binary format.
const CUSTOM: u8 = 0;
const TYPE: u8 = 1;
const FUNCTION: u8 = 3;
const CODE: u8 = 10;

/// The subsection of the custom section `name` that names functions.
const FUNCTION_NAMES: u8 = 1;

/// A bulk instruction of so many bytes or elements takes no longer than some
/// others do.
const SHORT: u32 = 4096;

/// A module, and what has to be known of it.
pub(super) struct Module<'a> {
    bytes: &'a [u8],
    /// In their order. Of the code section, there are the bodies.
    sections: Vec<(u8, Range<usize>)>,
    bodies: Vec<FunctionBody<'a>>,
    names: Option<Names<'a>>,
    types: u32,
    /// Functions that it imports; they are the first.
    imported: u32,
    functions: u32,
    /// How much there is in each passive segment.
    data: Vec<usize>,
    elements: Vec<u32>,
}

/// A section `name`.
struct Names<'a> {
    data: &'a [u8],
    /// Where it ends.
    end: usize,
}

impl<'a> Module<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut module = Self {
            bytes,
            sections: Vec::new(),
            bodies: Vec::new(),
            names: None,
            types: 0,
            imported: 0,
            functions: 0,
            data: Vec::new(),
            elements: Vec::new(),
        };
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            module.note(&payload)?;
            if let Some((id, range)) = payload.as_section() {
                module.sections.push((id, range));
            }
        }
        Ok(module)
    }

    fn note(&mut self, payload: &Payload<'a>) -> Result<()> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section.clone() {
                    self.types += number(group?.types().len());
                }
            }
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    if matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        self.imported += 1;
                        self.functions += 1;
                    }
                }
            }
            Payload::FunctionSection(section) => self.functions += section.count(),
            Payload::ElementSection(section) => {
                for segment in section.clone() {
                    self.elements.push(match segment?.items {
                        wasmparser::ElementItems::Functions(items) => items.count(),
                        wasmparser::ElementItems::Expressions(_, items) => items.count(),
                    });
                }
            }
            Payload::DataSection(section) => {
                for segment in section.clone() {
                    let segment = segment?;
                    self.data.push(match segment.kind {
                        DataKind::Passive => segment.data.len(),
                        DataKind::Active { .. } => 0,
                    });
                }
            }
            Payload::CodeSectionEntry(body) => self.bodies.push(body.clone()),
            Payload::CustomSection(section) if section.name() == "name" => {
                self.names = Some(Names {
                    data: section.data(),
                    end: section.range().end,
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// The module with its bulk instructions replaced, and looks before what may
    /// take long; none, if it has nothing of that.
    pub(super) fn rewrite(&self) -> Result<Option<Vec<u8>>> {
        let mut added = Added::after(self.functions);
        let mut code = CodeSection::new();
        let mut changed = false;
        for body in &self.bodies {
            let after = self.body(body, &mut added)?;
            // Not by its length, which may come out the same.
            changed |= after != within(self.bytes, body.range());
            code.raw(&after);
        }
        if !changed {
            return Ok(None);
        }
        let mut types = TypeSection::new();
        let mut of_types = Vec::new();
        for (number, bulk) in (self.types..).zip(&added.bulks) {
            types.ty().function(bulk.params(), []);
            number.encode(&mut of_types);
            code.function(&bulk.function());
        }
        let count = number(added.bulks.len());
        let mut module = Encoded::new();
        for (id, range) in &self.sections {
            let data = within(self.bytes, range.clone());
            match *id {
                TYPE => {
                    // Its encoding begins with its length and the count.
                    let mut more = Vec::new();
                    types.encode(&mut more);
                    let mut more = BinaryReader::new(&more, 0);
                    more.read_var_u32()?;
                    more.read_var_u32()?;
                    let more = more.read_bytes(more.bytes_remaining())?;
                    append(&mut module, TYPE, &longer(data, count, more)?);
                }
                FUNCTION => append(&mut module, FUNCTION, &longer(data, count, &of_types)?),
                CODE => {
                    module.section(&code);
                }
                // Where in the code a branch is likely: it is elsewhere now.
                CUSTOM if names_places(data) => {}
                CUSTOM
                    if !added.bulks.is_empty()
                        && self
                            .names
                            .as_ref()
                            .is_some_and(|names| names.end == range.end) => {}
                id => append(&mut module, id, data),
            }
        }
        if added.bulks.is_empty() {
            return Ok(Some(module.finish()));
        }
        let names = self.names.as_ref().map(|names| names.data);
        module.section(&CustomSection {
            name: "name".into(),
            data: added.names(names.unwrap_or_default()).into(),
        });
        Ok(Some(module.finish()))
    }

    /// The body with calls where there were bulk instructions, and an empty loop
    /// before each instruction that may take long: at the start of a loop the
    /// guest gives its thread back if its turn is over.
    fn body(&self, body: &FunctionBody<'_>, added: &mut Added) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(body.range().len());
        let mut taken = body.range().start;
        let mut operators = body.get_operators_reader()?;
        let mut constant = None;
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset()?;
            let bulk = Bulk::of(&operator);
            if let Some(bulk) = bulk.filter(|bulk| self.may_be_long(*bulk, constant)) {
                out.extend_from_slice(within(self.bytes, taken..at));
                Instruction::Call(added.function(bulk)).encode(&mut out);
                taken = operators.original_position();
            } else if self.may_take_long(&operator, bulk, constant) {
                out.extend_from_slice(within(self.bytes, taken..at));
                Instruction::Loop(BlockType::Empty).encode(&mut out);
                Instruction::End.encode(&mut out);
                taken = at;
            }
            constant = match operator {
                Operator::I32Const { value } => Some(value.cast_unsigned()),
                _ => None,
            };
        }
        out.extend_from_slice(within(self.bytes, taken..body.range().end));
        Ok(out)
    }

    /// Whether it calls the host, which may take as long as a turn, or may do so;
    /// grows something, or is a bulk instruction of a portion. A tail call needs no
    /// look: whoever repeats it enters a function each time.
    fn may_take_long(
        &self,
        operator: &Operator<'_>,
        bulk: Option<Bulk>,
        last: Option<u32>,
    ) -> bool {
        match *operator {
            Operator::Call { function_index } => function_index < self.imported,
            Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::MemoryGrow { .. }
            | Operator::TableGrow { .. } => true,
            _ => bulk.is_some() && last.is_none_or(|length| length > SHORT),
        }
    }

    /// Whether it can be more than a portion, where the instruction before it
    /// was this constant: its length.
    fn may_be_long(&self, bulk: Bulk, length: Option<u32>) -> bool {
        let portion = bulk.portion();
        let at_most = match bulk {
            Bulk::MemoryInit { segment, .. } => {
                let bytes = self.data.get(segment as usize).copied().unwrap_or_default();
                u32::try_from(bytes).unwrap_or(u32::MAX)
            }
            Bulk::TableInit { segment, .. } => {
                let elements = self.elements.get(segment as usize);
                elements.copied().unwrap_or_default()
            }
            _ => u32::MAX,
        };
        at_most > portion && length.is_none_or(|length| length > portion)
    }
}

/// The functions that are added behind those of a module.
struct Added {
    first: u32,
    numbers: HashMap<Bulk, u32>,
    bulks: Vec<Bulk>,
}

impl Added {
    fn after(functions: u32) -> Self {
        Self {
            first: functions,
            numbers: HashMap::new(),
            bulks: Vec::new(),
        }
    }

    fn function(&mut self, bulk: Bulk) -> u32 {
        *self.numbers.entry(bulk).or_insert_with(|| {
            self.bulks.push(bulk);
            self.first + number(self.bulks.len() - 1)
        })
    }

    /// The contents of a section `name` with theirs. What cannot be read is no
    /// error there, and makes room for them.
    fn names(&self, before: &[u8]) -> Vec<u8> {
        let mut own = Vec::new();
        for (number, bulk) in (self.first..).zip(&self.bulks) {
            number.encode(&mut own);
            bulk.name().encode(&mut own);
        }
        let count = number(self.bulks.len());
        let with_own = |before: &[u8]| longer(before, count, &own);
        renamed(before, with_own)
            .or_else(|_| renamed(&[], with_own))
            .unwrap_or_default()
    }
}

/// The subsections, with that of functions' names made longer.
fn renamed(names: &[u8], longer: impl Fn(&[u8]) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut functions = None;
    let mut reader = BinaryReader::new(names, 0);
    let mut after = Vec::new();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let length = reader.read_var_u32()?;
        let bytes = reader.read_bytes(length as usize)?;
        if id == FUNCTION_NAMES {
            functions = Some(bytes);
            continue;
        }
        // They stand in the order of their numbers.
        let to = if id < FUNCTION_NAMES {
            &mut out
        } else {
            &mut after
        };
        to.push(id);
        bytes.encode(to);
    }
    out.push(FUNCTION_NAMES);
    longer(functions.unwrap_or(&[0]))?.encode(&mut out);
    out.extend_from_slice(&after);
    Ok(out)
}

/// A vector of the binary format with so many more items behind its own.
fn longer(vector: &[u8], more: u32, items: &[u8]) -> Result<Vec<u8>> {
    let mut reader = BinaryReader::new(vector, 0);
    let count = reader.read_var_u32()?;
    let before = reader.read_bytes(reader.bytes_remaining())?;
    let mut out = Vec::with_capacity(vector.len() + items.len() + 5);
    count.saturating_add(more).encode(&mut out);
    out.extend_from_slice(before);
    out.extend_from_slice(items);
    Ok(out)
}

/// A count; the format has no larger ones.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn append(module: &mut Encoded, id: u8, data: &[u8]) {
    module.section(&RawSection { id, data });
}

/// Whether a custom section tells of places in the code.
fn names_places(section: &[u8]) -> bool {
    let name = BinaryReader::new(section, 0).read_string();
    name.is_ok_and(|name| name.starts_with("metadata.code."))
}
