//! Expressions, with macros expanded.

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub enum Const {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// An expression and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// Place in the text, in characters.
    pub at: usize,
    /// What it is.
    pub kind: Kind,
    /// How deep it goes.
    pub depth: usize,
}

/// What an expression is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Const(Const),
    Ident(String),
    /// `operand.field`, `operand.?field`, and `has(operand.field)`.
    Select {
        operand: Box<Expr>,
        field: String,
        access: Access,
    },
    /// `operand[index]`, `operand[?index]`.
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    /// Functions and operators; the target of a member call stands first.
    Call {
        name: String,
        member: bool,
        args: Vec<Expr>,
    },
    /// `a && b && c`.
    And(Vec<Expr>),
    /// `a || b || c`.
    Or(Vec<Expr>),
    /// `a ? b : c`.
    Cond(Box<[Expr; 3]>),
    /// Elements, and whether each is optional.
    List(Vec<(Expr, bool)>),
    /// Entries, and whether each is optional.
    Map(Vec<(Expr, Expr, bool)>),
    /// `Type{field: value}`.
    Struct {
        name: String,
        fields: Vec<(String, Expr, bool)>,
    },
    Comp(Box<Comp>),
    /// `cel.bind(name, init, body)`.
    Bind {
        name: String,
        init: Box<Expr>,
        body: Box<Expr>,
    },
    /// `target.optMap(name, body)`, `target.optFlatMap(name, body)`.
    OptMap {
        target: Box<Expr>,
        name: String,
        body: Box<Expr>,
        flat: bool,
    },
}

/// How a field is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Value,
    Test,
    Optional,
}

/// A comprehension.
#[derive(Debug, Clone, PartialEq)]
pub struct Comp {
    pub fold: Fold,
    pub range: Expr,
    /// The element, or a map's key; with `second` the index or key.
    pub first: String,
    pub second: Option<String>,
    pub filter: Option<Expr>,
    pub body: Expr,
}

/// What a comprehension makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    All,
    Exists,
    ExistsOne,
    /// A list of the bodies: `map`, `transformList`.
    List,
    /// A list of the elements whose body holds.
    Filter,
    /// A map with the bodies as values.
    Map,
    /// A map of the bodies' entries.
    Entries,
}

impl Expr {
    pub fn new(at: usize, kind: Kind) -> Self {
        let mut below = 0;
        kind.each(&mut |child| below = below.max(child.depth));
        Self { at, kind, depth: below + 1 }
    }
}

impl Kind {
    /// Shows all expressions right below.
    pub fn each<'e>(&'e self, see: &mut dyn FnMut(&'e Expr)) {
        match self {
            Self::Const(_) | Self::Ident(_) => {}
            Self::Select { operand, .. } => see(operand),
            Self::Index { operand, index, .. } => [operand, index].into_iter().for_each(|e| see(e)),
            Self::Call { args, .. } | Self::And(args) | Self::Or(args) => args.iter().for_each(see),
            Self::Cond(parts) => parts.iter().for_each(see),
            Self::List(items) => items.iter().for_each(|(e, _)| see(e)),
            Self::Map(entries) => {
                for (key, value, _) in entries {
                    see(key);
                    see(value);
                }
            }
            Self::Struct { fields, .. } => fields.iter().for_each(|(_, e, _)| see(e)),
            Self::Comp(comp) => {
                see(&comp.range);
                comp.filter.iter().for_each(&mut *see);
                see(&comp.body);
            }
            Self::Bind { init, body, .. } => [init, body].into_iter().for_each(|e| see(e)),
            Self::OptMap { target, body, .. } => [target, body].into_iter().for_each(|e| see(e)),
        }
    }
}
