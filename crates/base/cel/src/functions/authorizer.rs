//! The functions of `authorizer`. A check costs what upstream says it does (`CostEstimator.CallCost`), the rest a step.

use std::sync::Arc;

use super::{Row, args};
use crate::authority::{Asking, Question, Stage};
use crate::eval::{Outcome, fail};
use crate::value::Value;

/// What one check costs beyond a step.
const CHECK: u64 = 350_000;

pub(super) const ROWS: &[Row] = &[
    ("authorizer.path(string) pathcheck", |_, args| {
        args!(args, [Value::Asking(asking), Value::Text(path)] => match path.is_empty() {
            true => fail("path must not be empty"),
            false => Ok(next(asking, Stage::Path, |q| q.path = path.to_string())),
        })
    }),
    ("authorizer.group(string) groupcheck", |_, args| text(args, Stage::Group, |q, text| q.group = text)),
    ("authorizer.serviceAccount(string, string) authorizer", |_, args| {
        args!(args, [Value::Asking(asking), Value::Text(namespace), Value::Text(name)] => {
            use kinit_apimachinery::names::NameRule;
            for (text, rule, what) in [(namespace, NameRule::Label, "namespace"), (name, NameRule::Subdomain, "name")] {
                if !rule.check(text).is_empty() {
                    return fail(format!("Invalid service account {what}"));
                }
            }
            let account = Some((namespace.to_string(), name.to_string()));
            Ok(next(asking, Stage::Authorizer, |q| q.service_account = account))
        })
    }),
    ("groupcheck.resource(string) resourcecheck", |_, args| text(args, Stage::Resource, |q, text| q.resource = text)),
    ("resourcecheck.subresource(string) resourcecheck", |_, args| {
        text(args, Stage::Resource, |q, text| q.subresource = text)
    }),
    ("resourcecheck.namespace(string) resourcecheck", |_, args| {
        text(args, Stage::Resource, |q, text| q.namespace = text)
    }),
    ("resourcecheck.name(string) resourcecheck", |_, args| text(args, Stage::Resource, |q, text| q.name = text)),
    ("resourcecheck.fieldSelector(string) resourcecheck", |_, args| {
        text(args, Stage::Resource, |q, text| q.field_selector = text)
    }),
    ("resourcecheck.labelSelector(string) resourcecheck", |_, args| {
        text(args, Stage::Resource, |q, text| q.label_selector = text)
    }),
    ("resourcecheck.check(string) decision", |meter, args| {
        meter.charge(CHECK)?;
        check(args)
    }),
    ("pathcheck.check(string) decision", |meter, args| {
        meter.charge(CHECK)?;
        check(args)
    }),
    ("decision.allowed() bool", |_, args| args!(args, [Value::Decision(d)] => Ok(Value::Bool(d.allowed)))),
    ("decision.errored() bool", |_, args| args!(args, [Value::Decision(d)] => Ok(Value::Bool(!d.error.is_empty())))),
    ("decision.reason() string", |_, args| args!(args, [Value::Decision(d)] => Ok(Value::text(&d.reason)))),
    ("decision.error() string", |_, args| args!(args, [Value::Decision(d)] => Ok(Value::text(&d.error)))),
];

fn next<'a>(asking: &Asking<'a>, stage: Stage, change: impl FnOnce(&mut Question)) -> Value<'a> {
    Value::Asking(asking.with(stage, change))
}

fn text<'a>(args: &[Value<'a>], stage: Stage, change: impl FnOnce(&mut Question, String)) -> Outcome<'a> {
    args!(args, [Value::Asking(asking), Value::Text(text)] => Ok(next(asking, stage, |q| change(q, text.to_string()))))
}

fn check<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Asking(asking), Value::Text(verb)] => {
        let mut question = (*asking.question).clone();
        question.verb = verb.to_string();
        Ok(Value::Decision(Arc::new(asking.who.decide(&question))))
    })
}
