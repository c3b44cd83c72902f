//! Whether what is made of a component before it is compiled is right, for who looks for
//! components of which it is not.

use super::bulk::in_portions;
use super::inspect::{examine, validate};
use super::linking::shells;
use super::refusal::Refusal;

/// Why a form that a component is brought into is not valid, which it is itself: a
/// mistake of ours. Nothing, if all are.
///
/// # Errors
///
/// What [`describe`](super::describe) refuses, `missing_import` and `compile_limit`.
pub fn broken_form(bytes: &[u8]) -> Result<Option<Refusal>, Refusal> {
    let (_, component) = examine(bytes)?;
    let (shells, _) = shells(&component)?;
    let forms = [in_portions(&component)?, shells];
    Ok(forms.iter().find_map(|form| validate(form).err()))
}
