//! Components that are whole, by digest and by when each was used last.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use skep_protocol::Digest;

use super::Component;

/// Looked up by digest, and let go of by use: neither looks at all of them.
#[derive(Debug, Default)]
pub(super) struct Whole {
    by_digest: BTreeMap<Digest, u64>,
    by_use: BTreeMap<u64, Arc<Component>>,
    uses: u64,
}

/// Whether no agent is made of it, or waits to be. Nobody begins to use it
/// while the state is held.
pub(super) fn is_unused(component: &Arc<Component>) -> bool {
    Arc::strong_count(component) == 1
}

impl Whole {
    pub(super) fn len(&self) -> usize {
        self.by_digest.len()
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.by_digest.contains_key(digest)
    }

    /// The component of this digest, noted as used.
    pub(super) fn used(&mut self, digest: &Digest) -> Option<&Arc<Component>> {
        let component = self.remove(digest)?;
        Some(self.insert(component))
    }

    /// Holds a component as the one that was used last, in place of one of the
    /// same digest.
    pub(super) fn insert(&mut self, component: Arc<Component>) -> &Arc<Component> {
        self.uses += 1;
        if let Some(before) = self.by_digest.insert(component.digest, self.uses) {
            self.by_use.remove(&before);
        }
        self.by_use.entry(self.uses).or_insert(component)
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Arc<Component>> {
        self.by_use.remove(&self.by_digest.remove(digest)?)
    }

    /// Takes out what no agent uses, least recently used first, as far as it is
    /// gone on with.
    pub(super) fn take_unused(&mut self) -> impl Iterator<Item = Arc<Component>> {
        let Self {
            by_digest, by_use, ..
        } = self;
        let unused = by_use.extract_if(.., |_, component| is_unused(component));
        unused.map(|(_, component)| {
            by_digest.remove(&component.digest);
            component
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Component>> {
        self.by_use.values()
    }

    /// Those after a digest, by digest.
    pub(super) fn after(&self, after: Option<Digest>) -> impl Iterator<Item = &Arc<Component>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.by_digest.range((from, Bound::Unbounded));
        range.filter_map(|(_, used)| self.by_use.get(used))
    }
}
