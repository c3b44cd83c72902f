//! Bulk instructions, done in portions, and looks at the clock before calls.
//!
//! A guest gives its thread back at the next loop or function it enters. One
//! instruction that copies a hundred megabytes enters none: two guests that
//! copy memory they never touched before hold both their threads for a quarter
//! of a second each. So before a component is compiled, each such instruction
//! becomes a call of a function that is added to its module, and does the same
//! a portion at a time.
//!
//! A call of the host enters neither a loop nor a function of the guest: a
//! function that calls it a hundred thousand times in a row, a millisecond each,
//! would hold its thread for minutes and could not be killed. So before each
//! call that may lead there, before each portion that stays as it is, and before
//! each growth, stands an empty loop. It costs a nanosecond, and no fuel. How much
//! a growth takes is bounded by how large a table may be; a memory grows by
//! what is not touched.
//!
//! All other bytes stay as they are, so that no instruction needs to be
//! understood but the few that are replaced. What goes in was validated; what
//! comes out is validated again by the compiler.

mod function;
mod module;

use std::borrow::Cow;

use self::module::Module;
use super::modules::changed;
use super::refusal::Refusal;

/// To be raised with each change of what comes out: code that was compiled
/// before is not used with another version.
pub(super) const VERSION: u32 = 6;

/// The component with its bulk instructions in portions and looks before calls,
/// or as it is if it has none of either.
pub(super) fn in_portions(component: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    let rewrite = |module: &[u8]| Module::read(module)?.rewrite();
    Ok(changed(component, &rewrite)?.map_or(Cow::Borrowed(component), Cow::Owned))
}

#[cfg(test)]
mod tests;
