//! Sets of which many members have the same few: each is stored once and named by a number.

use std::{collections::HashMap, hash::Hash};

/// The number of a set; equal sets have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetId(u32);

/// The sets, each a sorted list.
#[derive(Debug)]
pub struct Interner<T> {
    ids: HashMap<Vec<T>, SetId>,
    sets: Vec<Vec<T>>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), sets: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash + Ord> Interner<T> {
    /// The number of a set with these elements, in any order.
    pub fn intern(&mut self, mut set: Vec<T>) -> SetId {
        set.sort_unstable();
        set.dedup();
        if let Some(known) = self.ids.get(&set) {
            return *known;
        }
        let id = SetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        id
    }

    /// The elements of a set, in order.
    pub fn get(&self, id: SetId) -> &[T] {
        self.sets.get(id.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// The number of a set with one more element; `None` stands for the empty set.
    pub fn with(&mut self, set: Option<SetId>, element: T) -> SetId {
        let mut elements = set.map_or_else(Vec::new, |set| self.get(set).to_vec());
        elements.push(element);
        self.intern(elements)
    }
}
