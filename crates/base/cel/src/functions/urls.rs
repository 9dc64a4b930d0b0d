//! `kubernetes.URL`.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::{Position, Url};

use super::{Row, args};
use crate::eval::{Outcome, fail};
use crate::value::{Key, Map, Value};

pub(super) const ROWS: &[Row] = &[
    ("url(string) url", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            match parse(text) {
                Some(url) => Ok(Value::Url(Arc::new(url))),
                None => fail(format!("URL parse error during conversion from string: parse {text:.128}: invalid URI for request")),
            }
        })
    }),
    ("isURL(string) bool", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            Ok(Value::Bool(parse(text).is_some()))
        })
    }),
    ("url.getScheme() string", |_, args| {
        of(args, |url| if is_path(url) { String::new() } else { url.scheme().to_owned() })
    }),
    ("url.getHost() string", |_, args| {
        of(
            args,
            |url| {
                if is_path(url) { String::new() } else { url[Position::BeforeHost..Position::AfterPort].to_owned() }
            },
        )
    }),
    ("url.getHostname() string", |_, args| {
        of(args, |url| {
            if is_path(url) {
                String::new()
            } else {
                url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned()
            }
        })
    }),
    ("url.getPort() string", |_, args| {
        of(
            args,
            |url| {
                if is_path(url) { String::new() } else { url.port().map(|port| port.to_string()).unwrap_or_default() }
            },
        )
    }),
    ("url.getEscapedPath() string", |_, args| {
        of(args, |url| {
            // A missing path is no path, though the parser puts a slash there.
            if !is_path(url) && url.path() == "/" && !url.as_str().ends_with('/') {
                String::new()
            } else {
                url.path().to_owned()
            }
        })
    }),
    ("url.getQuery() map<string, list<string>>", query),
];

/// The scheme of what is an absolute path alone, which `url()` takes too.
const PATH: &str = "path";

/// An absolute URL or an absolute path (`url.ParseRequestURI`).
fn parse(text: &str) -> Option<Url> {
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    if text.starts_with('/') {
        return Url::parse(&format!("{PATH}://{PATH}{text}")).ok();
    }
    // A fragment is part of the path there.
    Url::parse(text).ok().filter(|url| url.scheme() != PATH)
}

fn is_path(url: &Url) -> bool {
    url.scheme() == PATH
}

fn of<'a>(args: &[Value<'a>], part: impl Fn(&Url) -> String) -> Outcome<'a> {
    args!(args, [Value::Url(url)] => Ok(Value::Text(part(url).into())))
}

fn query<'a>(meter: &mut crate::eval::Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Url(url)] => {
        meter.charge_text(url.as_str().len())?;
        let mut pairs: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
        for (name, value) in url.query_pairs() {
            pairs.entry(name.into_owned()).or_default().push(Value::text(value));
        }
        let entry = |(name, values): (String, Vec<Value<'a>>)| {
            let name: Arc<str> = name.into();
            (Key::Text(name.clone()), (Value::Text(name), Value::list(values)))
        };
        Ok(Value::Map(Map::Own(Arc::new(pairs.into_iter().map(entry).collect()))))
    })
}
