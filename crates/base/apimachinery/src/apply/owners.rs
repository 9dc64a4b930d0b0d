//! `metadata.managedFields`: who owns what, since when.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::fields::Fields;
use crate::meta::Meta;
use crate::time;

/// How many entries of updates there may be before the oldest become one (`DefaultMaxUpdateManagers`).
const MOST_UPDATERS: usize = 10;
/// Who owns what the oldest of them owned.
const ANCIENT: &str = "ancient-changes";

/// How fields came to be owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Who.
    pub manager: String,
    /// How.
    pub operation: Operation,
    /// In which version the fields are.
    pub api_version: String,
    /// Since when, as RFC 3339 text.
    pub time: Option<String>,
    /// `status`, or "" for the resource itself.
    pub subresource: String,
    /// What.
    pub fields: Fields,
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(pub Vec<Owner>);

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

impl Owner {
    /// Whether both are the same owner (`BuildManagerIdentifier`): who applies stays the same in every version.
    pub fn is(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    fn key(&self) -> (&str, Operation, &str, &str) {
        let version = if self.operation == Operation::Apply { "" } else { self.api_version.as_str() };
        (&self.manager, self.operation, version, &self.subresource)
    }

    /// As upstream's conflicts name it (`printManager`).
    pub fn named(&self) -> String {
        let mut out = crate::status::quoted(&self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", crate::status::quoted(&self.subresource)));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(time::parse).map_or(0, Timestamp::as_second)
    }

    fn read(entry: &Value, at: usize) -> Result<Self, String> {
        let operation = match entry.str_at(&["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".into()),
        };
        if entry.str_at(&["apiVersion"]).is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match entry.str_at(&["fieldsType"]) {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
        }
        let fields = match entry.get("fieldsV1") {
            None | Some(Value::Null) => Fields::default(),
            Some(value) => Fields::from_value(value).map_err(|e| format!("error decoding set: {e}"))?,
        };
        Ok(Self {
            manager: entry.str_at(&["manager"]).into(),
            operation,
            api_version: entry.str_at(&["apiVersion"]).into(),
            time: Some(entry.str_at(&["time"])).filter(|t| !t.is_empty()).map(str::to_owned),
            subresource: entry.str_at(&["subresource"]).into(),
            fields,
        })
    }

    fn to_value(&self) -> Value {
        let mut entry = Map::with_capacity(7);
        let mut put = |key: &str, text: &str| {
            if !text.is_empty() {
                entry.insert(key.to_owned(), text.into());
            }
        };
        put("manager", &self.manager);
        put("operation", self.operation.name());
        put("apiVersion", &self.api_version);
        put("time", self.time.as_deref().unwrap_or_default());
        put("fieldsType", "FieldsV1");
        entry.insert("fieldsV1".into(), self.fields.to_value());
        if !self.subresource.is_empty() {
            entry.insert("subresource".into(), self.subresource.as_str().into());
        }
        Value::Object(entry)
    }
}

impl Owners {
    /// From `managedFields`; the error says what is wrong with them (`DecodeManagedFields`).
    pub fn decode(list: Option<&Value>) -> Result<Self, String> {
        let mut out = Self::default();
        for (at, entry) in list.and_then(Value::as_array).into_iter().flatten().enumerate() {
            let owner = Owner::read(entry, at)?;
            match out.find(&owner) {
                Some(same) => *same = owner,
                None => out.0.push(owner),
            }
        }
        Ok(out)
    }

    /// The owners after a write that may have brought a list of its own (`decodeLiveOrNew`): a client's list counts
    /// where it says something that can be understood; an empty one, or one of an empty entry, takes all ownership
    /// away.
    pub fn of_update(live: Option<&Value>, given: Option<&Value>) -> Self {
        let live_owners = || Self::decode(live).unwrap_or_default();
        let Some(list) = given.and_then(Value::as_array) else { return live_owners() };
        if list.is_empty() || (list.len() == 1 && list[0].as_object().is_some_and(Map::is_empty)) {
            return Self::default();
        }
        Self::decode(given).ok().filter(|owners| !owners.0.is_empty()).unwrap_or_else(live_owners)
    }

    /// The entry of the same owner.
    pub fn find(&mut self, owner: &Owner) -> Option<&mut Owner> {
        self.0.iter_mut().find(|o| o.is(owner))
    }

    /// As `managedFields`; `None` without owners.
    pub fn encode(&self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        let mut order: Vec<&Owner> = self.0.iter().collect();
        order.sort_by(|a, b| {
            (a.operation.cmp(&b.operation)).then_with(|| a.seconds().cmp(&b.seconds())).then_with(|| by_name(a, b))
        });
        Some(Value::Array(order.into_iter().map(Owner::to_value).collect()))
    }

    /// Makes one owner of the oldest updaters where there are too many (`capUpdateManagers`).
    pub(super) fn cap(&mut self) {
        let mut order: Vec<usize> = (0..self.0.len()).filter(|i| self.0[*i].operation == Operation::Update).collect();
        if order.len() <= MOST_UPDATERS {
            return;
        }
        order.sort_by(|a, b| {
            let (a, b) = (&self.0[*a], &self.0[*b]);
            a.seconds().cmp(&b.seconds()).then_with(|| by_name(a, b))
        });
        let mut left = order.len();
        // The first of each version is merged into only when there is a second.
        let mut firsts: Vec<usize> = Vec::new();
        let mut gone = Vec::new();
        for at in order {
            if left <= MOST_UPDATERS {
                break;
            }
            let Some(first) = firsts.iter().copied().find(|f| self.0[*f].api_version == self.0[at].api_version) else {
                firsts.push(at);
                continue;
            };
            let (fields, time) = (std::mem::take(&mut self.0[at].fields), self.0[at].time.take());
            let bucket = &mut self.0[first];
            bucket.manager = ANCIENT.into();
            bucket.subresource.clear();
            bucket.fields.add(&fields);
            bucket.time = time;
            gone.push(at);
            left -= 1;
        }
        let mut at = 0..;
        self.0.retain(|_| !at.next().is_some_and(|i| gone.contains(&i)));
    }
}

fn by_name(a: &Owner, b: &Owner) -> Ordering {
    let key = |o: &Owner| (o.manager.clone(), o.api_version.clone(), o.subresource.clone());
    key(a).cmp(&key(b))
}
