//! Sets of field paths, and their `FieldsV1` form (`fieldpath.Set`).

use serde_json::{Map, Value};

use super::path::Elem;

/// A set of paths below some place, as a tree: the first steps, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(Elem, Node)>);

/// What is in the set at and below one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether the path that ends here is in the set.
    pub member: bool,
    /// What goes on from here.
    pub below: Fields,
}

impl Node {
    /// A path that ends here.
    pub fn leaf() -> Self {
        Self { member: true, below: Fields::default() }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Fields {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// From steps in any order, each at most once, none of them empty.
    pub(super) fn from_parts(mut parts: Vec<(Elem, Node)>) -> Self {
        parts.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Self(parts)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in it at a step.
    pub fn get(&self, elem: &Elem) -> Option<&Node> {
        self.0.binary_search_by(|(e, _)| e.cmp(elem)).ok().map(|i| &self.0[i].1)
    }

    /// What is in it at a field.
    pub fn field(&self, name: &str) -> Option<&Node> {
        self.get(&Elem::field(name))
    }

    /// Adds what the other has.
    pub fn add(&mut self, other: &Self) {
        for (elem, theirs) in &other.0 {
            match self.0.binary_search_by(|(e, _)| e.cmp(elem)) {
                Ok(at) => {
                    let mine = &mut self.0[at].1;
                    mine.member |= theirs.member;
                    mine.below.add(&theirs.below);
                }
                Err(at) => self.0.insert(at, (elem.clone(), theirs.clone())),
            }
        }
    }

    /// Takes out the very paths that the other has.
    pub fn subtract(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.0.retain_mut(|(elem, mine)| {
            if let Some(theirs) = other.get(elem) {
                mine.member &= !theirs.member;
                mine.below.subtract(&theirs.below);
            }
            !mine.is_empty()
        });
    }

    /// The paths that both have.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let both = self.0.iter().filter_map(|(elem, mine)| {
            let theirs = other.get(elem)?;
            let node = Node { member: mine.member && theirs.member, below: mine.below.intersect(&theirs.below) };
            (!node.is_empty()).then(|| (elem.clone(), node))
        });
        Self(both.collect())
    }

    /// Takes out a path and all below it. `*` stands for any step.
    pub fn cut(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        self.0.retain_mut(|(elem, node)| {
            if !matches_step(elem, first) {
                return true;
            }
            node.below.cut(rest);
            !rest.is_empty() && !node.is_empty()
        });
    }

    /// Leaves only what is at or below one of the paths. `*` stands for any step.
    pub fn keep(&mut self, paths: &[&[&str]]) {
        self.0.retain_mut(|(elem, node)| {
            let mut rests = Vec::new();
            for path in paths {
                match path.split_first() {
                    Some((first, [])) if matches_step(elem, first) => return true,
                    Some((first, rest)) if matches_step(elem, first) => rests.push(rest),
                    _ => {}
                }
            }
            node.member = false;
            node.below.keep(&rests);
            !node.is_empty()
        });
    }

    /// All paths, as upstream's messages write them, a set's own members before what is below.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.write_paths("", &mut out);
        out
    }

    fn write_paths(&self, at: &str, out: &mut Vec<String>) {
        out.extend(self.0.iter().filter(|(_, node)| node.member).map(|(elem, _)| format!("{at}{elem}")));
        for (elem, node) in self.0.iter().filter(|(_, node)| !node.below.is_empty()) {
            node.below.write_paths(&format!("{at}{elem}"), out);
        }
    }

    /// `FieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut out = Map::with_capacity(self.0.len());
        for (elem, node) in &self.0 {
            out.insert(elem.text(), node.to_value());
        }
        Value::Object(out)
    }

    /// From `FieldsV1`; the error says what is none.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let Value::Object(map) = value else { return Err("not an object".into()) };
        let mut parts = Vec::with_capacity(map.len());
        for (name, inner) in map {
            // The whole object is never in its own set.
            if name != "."
                && let Some(elem) = Elem::parse(name)?
            {
                let node = Node::from_value(inner)?;
                if !node.is_empty() {
                    parts.push((elem, node));
                }
            }
        }
        let mut out = Self::from_parts(parts);
        // Two spellings of one element.
        out.0.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1.member |= later.1.member;
                first.1.below.add(&later.1.below);
            }
            same
        });
        Ok(out)
    }
}

impl Node {
    fn to_value(&self) -> Value {
        let mut value = self.below.to_value();
        if self.member
            && !self.below.is_empty()
            && let Value::Object(map) = &mut value
        {
            map.shift_insert(0, ".".into(), Value::Object(Map::new()));
        }
        value
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        let Value::Object(map) = value else { return Err("not an object".into()) };
        Ok(Self { member: map.is_empty() || map.contains_key("."), below: Fields::from_value(value)? })
    }
}

fn matches_step(elem: &Elem, step: &str) -> bool {
    step == "*" || matches!(elem, Elem::Field(name) if name.as_ref() == step)
}
