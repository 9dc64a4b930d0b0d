//! Match conditions (CEL): which requests of those that rules select are meant (`matchconditions.Matcher`).

use std::sync::{Arc, LazyLock};

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names;
use kinit_apimachinery::status::FieldErrors;
use kinit_cel::{
    AUTHORIZER, Asking, Authority, Bindings, Budget, Env, Object, Program, Question, RESOURCE_CHECK, Ty, Value as Cel,
};
use serde_json::Value;

/// What all conditions of one webhook may cost for one request (`RuntimeCELCostBudgetMatchConditions`).
const BUDGET: u64 = 2_500_000;
/// How many conditions there may be.
const MOST: usize = 64;

static REQUEST: LazyLock<Ty> = LazyLock::new(|| Ty::Object(Arc::new(request_type())));
static ENV: LazyLock<Env> = LazyLock::new(|| env(Ty::Dyn));

/// What expressions about a request may use, where its objects are of a type.
fn env(object: Ty) -> Env {
    Env::new()
        .with("object", object.clone())
        .with("oldObject", object)
        .with("request", REQUEST.clone())
        .with("authorizer", Ty::Opaque(AUTHORIZER))
        .with("authorizer.requestResource", Ty::Opaque(RESOURCE_CHECK))
}

/// The type of `request`: AdmissionRequest without its objects (`BuildRequestType`).
fn request_type() -> Object {
    let object = |name: &str, fields: &[(&str, Ty)]| {
        let fields = fields.iter().map(|(field, ty)| ((*field).to_owned(), ty.clone()));
        Object::new(format!("kubernetes.{name}"), fields)
    };
    let of = |name: &str, fields: &[(&str, Ty)]| Ty::Object(Arc::new(object(name, fields)));
    let kind = of("GroupVersionKind", &[("group", Ty::Text), ("version", Ty::Text), ("kind", Ty::Text)]);
    let resource = of("GroupVersionResource", &[("group", Ty::Text), ("version", Ty::Text), ("resource", Ty::Text)]);
    let user = [
        ("username", Ty::Text),
        ("uid", Ty::Text),
        ("groups", Ty::list(Ty::Text)),
        ("extra", Ty::map(Ty::list(Ty::Text))),
    ];
    object(
        "AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Ty::Text),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Ty::Text),
            ("name", Ty::Text),
            ("namespace", Ty::Text),
            ("operation", Ty::Text),
            ("userInfo", of("UserInfo", &user)),
            ("dryRun", Ty::Bool),
            ("options", Ty::Dyn),
        ],
    )
}

fn compile(expression: &str) -> Result<Program, String> {
    let program = Program::compile(expression, &ENV).map_err(|e| format!("compilation failed: {e}"))?;
    match program.ty() {
        Ty::Bool | Ty::Dyn => Ok(program),
        _ => Err("must evaluate to bool".into()),
    }
}

/// What expressions about a request may use: `object`, `oldObject`, `request` and `authorizer`.
pub fn request_env(object: Ty) -> Env {
    if object == Ty::Dyn { ENV.clone() } else { env(object) }
}

/// The values of these, of an AdmissionRequest with its objects.
pub fn bindings<'a>(request: &'a Value, rights: &'a dyn Authority) -> Bindings<'a> {
    let at = |key: &str| request.get(key).unwrap_or(&Value::Null);
    let text = |path: &[&str]| request.str_at(path).to_owned();
    let own = Question {
        group: text(&["resource", "group"]),
        resource: text(&["resource", "resource"]),
        subresource: text(&["subResource"]),
        namespace: text(&["namespace"]),
        name: text(&["name"]),
        ..Question::default()
    };
    Bindings::new()
        .with("authorizer", Cel::Asking(Asking::new(rights)))
        .with("authorizer.requestResource", Cel::Asking(Asking::of_resource(rights, own)))
        .with("object", Cel::json(at("object")))
        .with("oldObject", Cel::json(at("oldObject")))
        .with("request", Cel::typed(request, &REQUEST))
}

/// Conditions that are compiled once. A stored one that cannot be fails whenever it is asked.
pub struct Conditions(Vec<(String, Result<Program, String>)>);

impl Conditions {
    /// From a list of `MatchCondition`.
    pub fn of(list: &[Value]) -> Self {
        let one = |c: &Value| (c.str_at(&["name"]).to_owned(), compile(c.str_at(&["expression"])));
        Self(list.iter().map(one).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold for a request, an AdmissionRequest with its objects. One that is false decides, whatever
    /// others fail; `Err` says what failed.
    pub fn hold(&self, request: &Value, rights: &dyn Authority) -> Result<bool, String> {
        let bindings = bindings(request, rights);
        let (mut left, mut failed) = (BUDGET, Vec::new());
        for (name, program) in &self.0 {
            let outcome = match program {
                Ok(program) => {
                    let (outcome, used) = program.eval_metered(&bindings, Budget(left));
                    left = left.saturating_sub(used);
                    outcome.map_err(|e| e.to_string())
                }
                Err(problem) => Err(problem.clone()),
            };
            match outcome {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => failed.push(format!("condition \"{name}\" did not evaluate to bool")),
                Err(problem) => failed.push(format!("condition \"{name}\" failed: {problem}")),
            }
        }
        if failed.is_empty() { Ok(true) } else { Err(failed.join(", ")) }
    }
}

/// Checks conditions that are written (`validateMatchConditions`).
pub fn validate(list: &[Value], at: &str, errors: &mut FieldErrors) {
    validate_with(list, at, errors, |expression| compile(expression).map(|_| ()));
}

/// The same, for expressions that may use more.
pub fn validate_with(list: &[Value], at: &str, errors: &mut FieldErrors, compile: impl Fn(&str) -> Result<(), String>) {
    if list.len() > MOST {
        errors.invalid(at, &list.len().into(), &format!("must have at most {MOST} items"));
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for (i, condition) in list.iter().enumerate() {
        let (name, expression) = (condition.str_at(&["name"]), condition.str_at(&["expression"]));
        let path = format!("{at}[{i}]");
        if expression.trim().is_empty() {
            errors.required(&format!("{path}.expression"), "");
        } else if let Err(problem) = compile(expression) {
            errors.invalid(&format!("{path}.expression"), &expression.into(), &problem);
        }
        if name.is_empty() {
            errors.required(&format!("{path}.name"), "");
            continue;
        }
        for problem in names::check_qualified_name(name) {
            errors.invalid(&format!("{path}.name"), &name.into(), &problem);
        }
        if !seen.insert(name) {
            errors.duplicate(&format!("{path}.name"), &name.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hold(expressions: &[&str]) -> Result<bool, String> {
        let request = json!({"operation": "UPDATE", "dryRun": false, "userInfo": {"username": "u", "groups": ["g"]},
            "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "n",
            "object": {"metadata": {"name": "a"}}, "oldObject": null});
        let list: Vec<Value> = expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
        Conditions::of(&list).hold(&request, &Everything)
    }

    /// Allows what is done with pods.
    struct Everything;

    impl Authority for Everything {
        fn decide(&self, question: &Question) -> kinit_cel::Decision {
            let allowed = question.resource == "pods" || question.path == "/healthz";
            kinit_cel::Decision {
                allowed,
                reason: format!("{} {}", question.verb, question.name),
                ..Default::default()
            }
        }
    }

    #[test]
    fn rights_can_be_asked_for() {
        let checked = "authorizer.group('').resource('secrets').namespace('n').name('x').check('get')";
        assert_eq!(hold(&["authorizer.requestResource.check('delete').allowed()"]), Ok(true));
        assert_eq!(hold(&["authorizer.path('/healthz').check('get').allowed()"]), Ok(true));
        assert_eq!(hold(&[&format!("{checked}.allowed()")]), Ok(false));
        assert_eq!(hold(&[&format!("{checked}.reason() == 'get x' && !{checked}.errored()")]), Ok(true));
        assert!(hold(&["authorizer.serviceAccount('n', 'a').requestResource"]).is_err());
        // One costs 350,000: seven are within what conditions may cost, eight are not.
        let many = |n: usize| vec!["authorizer.requestResource.check('get').allowed()"; n];
        assert_eq!(hold(&many(7)), Ok(true));
        assert!(hold(&many(8)).unwrap_err().contains("actual cost limit exceeded"));
    }

    #[test]
    fn all_must_hold_and_false_decides() {
        assert_eq!(hold(&[]), Ok(true));
        assert_eq!(hold(&["request.userInfo.groups.exists(g, g == 'g')", "oldObject == null"]), Ok(true));
        assert_eq!(hold(&["request.resource.resource != 'leases'", "object.metadata.name == 'b'"]), Ok(false));
        assert_eq!(hold(&["object.nope == 1", "false"]), Ok(false));
        assert_eq!(hold(&["object.nope == 1"]), Err("condition \"c\" failed: no such key: nope".into()));
        assert!(hold(&["object.metadata"]).unwrap_err().contains("did not evaluate to bool"));
        assert!(hold(&["[1].all("]).unwrap_err().contains("compilation failed: ERROR: <input>:1:9"));
    }

    #[test]
    fn what_is_wrong_is_told_when_it_is_written() {
        let list = [
            json!({"name": "a", "expression": "request.nope"}),
            json!({"name": "a", "expression": "1 + 1"}),
            json!({"name": "a b", "expression": ""}),
            json!({"expression": "authorizer.nope('/')"}),
        ];
        let mut errors = FieldErrors::default();
        validate(&list, "w", &mut errors);
        let error = errors.into_result("", "X", "x").unwrap_err().message;
        for part in [
            "w[0].expression: Invalid value: \"request.nope\": compilation failed: ERROR: <input>:1:8: undefined field 'nope'",
            "w[1].expression: Invalid value: \"1 + 1\": must evaluate to bool",
            "w[1].name: Duplicate value: \"a\"",
            "w[2].expression: Required value",
            "w[2].name: Invalid value: \"a b\"",
            "w[3].name: Required value",
            "undeclared reference to 'nope'",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
