//! Every function, the language's corner cases, and what must not be.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::*;

const PLENTY: Budget = Budget(1_000_000);

fn env() -> Env {
    Env::new().with("x", Ty::Dyn).with("self", Ty::Dyn)
}

fn run(text: &str) -> Result<Json, String> {
    run_with(text, &json!({"a": 1, "list": [3, 1, 2], "text": "hi", "none": null, "map": {"k": "v", "l": "w"}}))
}

fn run_with(text: &str, x: &Json) -> Result<Json, String> {
    let program = Program::compile(text, &env()).map_err(|e| e.to_string())?;
    let bindings = Bindings::new().with("x", Value::json(x)).with("self", Value::json(x));
    let value = program.eval(&bindings, PLENTY).map_err(|e| e.to_string())?;
    Ok(match &value {
        Value::Optional(None) => json!("none"),
        Value::Optional(Some(inner)) => json!({"some": inner.to_json()}),
        other => other.to_json().unwrap_or_else(|| json!(other.type_name())),
    })
}

fn holds(cases: &[&str]) {
    for case in cases {
        assert_eq!(run(case), Ok(json!(true)), "{case}");
    }
}

fn gives(cases: &[(&str, Json)]) {
    for (case, wanted) in cases {
        assert_eq!(run(case).as_ref(), Ok(wanted), "{case}");
    }
}

fn fails(cases: &[(&str, &str)]) {
    for (case, message) in cases {
        let problem = run(case).expect_err(case);
        assert!(problem.contains(message), "{case}: {problem}");
    }
}

#[test]
fn literals() {
    gives(&[
        ("1", json!(1)),
        ("-1", json!(-1)),
        ("0x1F", json!(31)),
        ("-0x1F", json!(-31)),
        ("7u", json!(7)),
        ("9223372036854775807", json!(i64::MAX)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("18446744073709551615u", json!(u64::MAX)),
        ("1.5", json!(1.5)),
        (".5", json!(0.5)),
        ("1e3", json!(1000.0)),
        ("-2.5E-1", json!(-0.25)),
        ("'a'", json!("a")),
        (r#""a'b""#, json!("a'b")),
        (r#"'a\n\t\\\'\x41\u00e9\U0001F600\101'"#, json!("a\n\t\\'A\u{e9}\u{1F600}A")),
        (r#"r'a\n'"#, json!("a\\n")),
        ("'''a\n'b' '''", json!("a\n'b' ")),
        (r#"b'\xff\101'"#, json!("/0E=")),
        ("null", Json::Null),
        ("[1, 2,]", json!([1, 2])),
        ("{'a': 1, 'b': [true]}", json!({"a": 1, "b": [true]})),
        ("1 // a remark\n + 2", json!(3)),
        ("--1", json!(1)),
        ("!!true", json!(true)),
    ]);
    fails(&[
        ("9223372036854775808", "invalid int literal"),
        ("99999999999999999999", "invalid int literal"),
        ("18446744073709551616u", "invalid uint literal"),
        ("'a", "Syntax error"),
        (r"'\q'", "Syntax error"),
        (r"'\ud800'", "invalid unicode code point"),
        ("1 +", "mismatched input '<EOF>'"),
        ("(1", "mismatched input '<EOF>'"),
        ("1 1", "Syntax error"),
        ("a.b(", "Syntax error"),
        ("for", "reserved identifier: for"),
        ("$", "token recognition error at: '$'"),
        ("", "mismatched input '<EOF>'"),
        ("has(1)", "invalid argument to has() macro"),
        ("[1].all(1, true)", "argument must be a simple name"),
    ]);
}

#[test]
fn numbers() {
    gives(&[
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("7 / -2", json!(-3)),
        ("-7 % 3", json!(-1)),
        ("2u * 3u", json!(6)),
        ("1.5 + 1.5", json!(3.0)),
        ("int('12') + int(3.99) + int(4u) + int(duration('1ns'))", json!(20)),
        ("uint(3.7)", json!(3)),
        ("double('1.5') + double(1)", json!(2.5)),
    ]);
    fails(&[
        ("9223372036854775807 + 1", "integer overflow"),
        ("-9223372036854775808 - 1", "integer overflow"),
        ("9223372036854775807 * 2", "integer overflow"),
        ("-(-9223372036854775808)", "integer overflow"),
        ("-9223372036854775808 / -1", "integer overflow"),
        ("0u - 1u", "unsigned integer overflow"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("1u / 0u", "division by zero"),
        ("int(1e30)", "integer overflow"),
        ("int('x')", "type conversion error"),
        ("uint(-1)", "unsigned integer overflow"),
        ("int(double('NaN'))", "integer overflow"),
    ]);
    holds(&["1.0 / 0.0 > 1e300", "double('NaN') != double('NaN')", "-0.0 == 0.0"]);
}

#[test]
fn equality_and_order() {
    holds(&[
        "dyn(1) == dyn(1u)",
        "dyn(1) == dyn(1.0)",
        "dyn(1) != dyn('1')",
        "dyn([1]) == dyn([1.0])",
        "{'a': 1} == {'a': 1}",
        "{'a': 1} != {'a': 2}",
        "x.none == null",
        "x.a != null",
        "1 < 2.5",
        "2.5 > 1",
        "dyn(9223372036854775807) < 9223372036854775808.0",
        "'a' < 'b'",
        "b'a' < b'b'",
        "false < true",
        "duration('1s') < duration('1m')",
        "timestamp('2020-01-01T00:00:00Z') < timestamp('2021-01-01T00:00:00Z')",
        "2 in x.list",
        "!(9 in x.list)",
        "dyn(1.0) in [1, 2]",
        "'k' in x.map",
        "type(1) == int",
        "type(x.list) == list",
        "type(timestamp('2020-01-01T00:00:00Z')) == google.protobuf.Timestamp",
        "type(quantity('1')) == kubernetes.Quantity",
    ]);
    fails(&[("x.text < 1", "no such overload"), ("[1] < [2]", "found no matching overload for '_<_'")]);
}

#[test]
fn logic_absorbs_errors() {
    holds(&[
        "true || 1 / 0 > 1",
        "1 / 0 > 1 || true",
        "!(false && 1 / 0 > 1)",
        "!(1 / 0 > 1 && false)",
        "x.missing == 1 || true",
        "true ? true : x.missing",
        "[1, 2].exists(i, i / (i - 1) == 2)",
        "!([0, 1].all(i, 1 / i == 2))",
    ]);
    fails(&[
        ("1 / 0 > 1 || false", "division by zero"),
        ("1 / 0 > 1 && true", "division by zero"),
        ("[0].exists(i, 1 / i == 2)", "division by zero"),
        ("x.a && true", "no such overload"),
        ("1 && true", "found no matching overload for '_&&_'"),
    ]);
}

#[test]
fn fields_macros_and_optionals() {
    gives(&[
        ("x.map.k + x['map']['l']", json!("vw")),
        ("x.list[1]", json!(1)),
        ("has(x.a) && !has(x.b)", json!(true)),
        ("x.list.map(i, i * 2)", json!([6, 2, 4])),
        ("x.list.map(i, i > 1, i * 2)", json!([6, 4])),
        ("x.list.filter(i, i > 1)", json!([3, 2])),
        ("x.list.exists_one(i, i > 2)", json!(true)),
        ("x.map.all(k, k.size() == 1)", json!(true)),
        ("x.list.all(i, v, i < 3 && v > 0)", json!(true)),
        ("x.map.exists(k, v, k == 'k' && v == 'v')", json!(true)),
        ("x.list.existsOne(i, v, v == 3)", json!(true)),
        ("x.list.transformList(i, v, i + v)", json!([3, 2, 4])),
        ("x.list.transformList(i, v, v > 1, v)", json!([3, 2])),
        ("x.map.transformMap(k, v, v + k)", json!({"k": "vk", "l": "wl"})),
        ("x.map.transformMap(k, v, k != 'k', v)", json!({"l": "w"})),
        ("x.map.transformMapEntry(k, v, {v: k})", json!({"v": "k", "w": "l"})),
        ("cel.bind(y, x.a + 1, y * y)", json!(4)),
        ("x.?a", json!({"some": 1})),
        ("x.?b", json!("none")),
        ("x.?b.c.d", json!("none")),
        ("x.?map.k", json!({"some": "v"})),
        ("x.?b.orValue(7)", json!(7)),
        ("x.list[?9].orValue(7)", json!(7)),
        ("x.map[?'k'].value()", json!("v")),
        ("x.?b.or(x.?a).value()", json!(1)),
        ("x.?a.hasValue() && !x.?b.hasValue()", json!(true)),
        ("x.?a.optMap(v, v + 1)", json!({"some": 2})),
        ("x.?a.optFlatMap(v, x.?b)", json!("none")),
        ("[?x.?a, ?x.?b, 9]", json!([1, 9])),
        ("{?'a': x.?a, ?'b': x.?b}", json!({"a": 1})),
        ("optional.of(1)", json!({"some": 1})),
        ("optional.none()", json!("none")),
        ("optional.ofNonZeroValue('')", json!("none")),
        ("size(x.list) + size(x.map) + size('h\u{e9}') + b'abc'.size()", json!(10)),
        ("[1] + [2]", json!([1, 2])),
        ("x.`map`.k", json!("v")),
    ]);
    fails(&[
        ("x.b", "no such key: b"),
        ("x.map['z']", "no such key: z"),
        ("x.list[9]", "index out of bounds: 9"),
        ("x.list[-1]", "index out of bounds: -1"),
        ("optional.none().value()", "optional.none() dereference"),
        ("{'a': 1, 'a': 2}", "already exists"),
        ("{1.5: 1}", "unsupported key type"),
        ("[1].map(i, i, i, i)", "undeclared reference to 'i'"),
    ]);
}

#[test]
fn strings() {
    gives(&[
        ("'tacocat'.charAt(3)", json!("o")),
        ("'abc'.charAt(3)", json!("")),
        ("'hello mellow'.indexOf('ello')", json!(1)),
        ("'hello mellow'.indexOf('ello', 2)", json!(7)),
        ("'hello mellow'.indexOf('')", json!(0)),
        ("'hello'.indexOf('z')", json!(-1)),
        ("'hello mellow'.lastIndexOf('ello')", json!(7)),
        ("'hello mellow'.lastIndexOf('ello', 6)", json!(1)),
        ("'TacoCat'.lowerAscii() + 'TacoC\u{c6}t'.upperAscii()", json!("tacocatTACOC\u{c6}T")),
        ("'hello hello'.replace('he', 'we')", json!("wello wello")),
        ("'hello hello'.replace('he', 'we', 1)", json!("wello hello")),
        ("'ab'.replace('', '-')", json!("-a-b-")),
        ("'a,b,c'.split(',')", json!(["a", "b", "c"])),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("'abc'.split('')", json!(["a", "b", "c"])),
        ("'a,b'.split(',', 0)", json!([])),
        ("'tacocat'.substring(4) + 'tacocat'.substring(0, 4)", json!("cattaco")),
        ("'  trim\u{a0}\\n '.trim()", json!("trim")),
        ("['a', 'b'].join() + ['a', 'b'].join('-')", json!("aba-b")),
        ("strings.quote('a\"b\\n')", json!("\"a\\\"b\\n\"")),
        ("'a\u{e9}'.reverse()", json!("\u{e9}a")),
        (
            "'%s %d %.2f %b %x %X %o %e %%'.format(['a', 1, 2.5, 5, 'hi', 255, 8, 1500.0])",
            json!("a 1 2.50 101 6869 FF 10 1.500000e+03 %"),
        ),
        ("'%s'.format([[1, 'a', {'k': true}]])", json!("[1, \"a\", {\"k\": true}]")),
        ("'a1b22'.find('[0-9]+') + 'x'.find('[0-9]')", json!("1")),
        ("'a1b22'.findAll('[0-9]+')", json!(["1", "22"])),
        ("'a1b22'.findAll('[0-9]+', 1)", json!(["1"])),
        ("jsonpatch.escapeKey('a/b~c')", json!("a~1b~0c")),
        ("string(1.5) + string(true) + string(1u) + string(b'a') + string(duration('90s'))", json!("1.5true1a90s")),
        ("string(timestamp('2020-01-02T03:04:05Z'))", json!("2020-01-02T03:04:05Z")),
        ("string(1e30) + string(100.0)", json!("1e+30100")),
    ]);
    holds(&[
        "'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')",
        "'abc'.matches('^a.c$') && matches('abc', 'b') && !'abc'.matches('^b')",
        "bool('true') && !bool('0')",
    ]);
    fails(&[
        ("'abc'.charAt(4)", "index out of range: 4"),
        ("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"),
        ("'abc'.substring(-1)", "index out of range: -1"),
        ("'a'.matches('[')", "error parsing regexp"),
        ("x.text.matches(x.text + '[')", "error parsing regexp"),
        ("'%z'.format([1])", "unrecognized formatting clause"),
        ("'%d'.format(['a'])", "error during formatting"),
        ("'%d'.format([])", "index 0 out of range"),
        ("'%.999f'.format([1.0])", "could not parse precision"),
        ("string(b'\\xff')", "invalid UTF-8"),
        ("bool('maybe')", "type conversion error"),
    ]);
}

#[test]
fn lists_and_sets() {
    gives(&[
        ("[1, 3].sum() + [4, 3].max() + [4, 3].min()", json!(11)),
        ("[1.5, 1.0].sum()", json!(2.5)),
        ("[duration('1m'), duration('1s')].sum()", json!("61s")),
        ("[1, 2, 2].indexOf(2)", json!(1)),
        ("[1, 2, 2].lastIndexOf(2)", json!(2)),
        ("['a'].indexOf('b')", json!(-1)),
    ]);
    holds(&[
        "[1, 2, 2].isSorted() && !['b', 'a'].isSorted() && [1].isSorted()",
        "sets.contains([1, 2, 3], [2, 3]) && !sets.contains([1], [2])",
        "sets.equivalent([1, 1, 2], [2, 1]) && !sets.equivalent([1], [1, 2])",
        "sets.intersects([1, 2], [2, 3]) && !sets.intersects([1], [])",
    ]);
    fails(&[
        ("x.list.filter(i, false).min()", "min called on empty list"),
        ("[9223372036854775807, 1].sum()", "integer overflow"),
        ("['a', 'b'].sum()", "found no matching overload for 'sum' applied to 'list(string).()'"),
    ]);
}

#[test]
fn time() {
    holds(&[
        "timestamp('2023-12-25T00:00:00.5Z').getFullYear() == 2023",
        "timestamp('2023-12-25T00:00:00Z').getMonth() == 11",
        "timestamp('2023-12-25T00:00:00Z').getDate() == 25 && timestamp('2023-12-25T00:00:00Z').getDayOfMonth() == 24",
        "timestamp('2023-12-25T00:00:00Z').getDayOfWeek() == 1",
        "timestamp('2023-01-01T00:00:00Z').getDayOfYear() == 0",
        "timestamp('2023-12-25T23:30:10.125Z').getHours('-02:30') == 21",
        "timestamp('2023-12-25T23:30:10.125Z').getHours('Europe/Berlin') == 0",
        "timestamp('2023-12-25T23:30:10.125Z').getMilliseconds() == 125",
        "timestamp('2023-01-01T00:00:00Z') + duration('24h') == timestamp('2023-01-02T00:00:00Z')",
        "timestamp('2023-01-02T00:00:00Z') - timestamp('2023-01-01T00:00:00Z') == duration('24h')",
        "duration('1h30m').getMinutes() == 90 && duration('1h30m').getHours() == 1",
        "duration('1.5s').getMilliseconds() == 500 && duration('-1.5s').getSeconds() == -1",
        "duration('1m') + duration('1s') == duration('61s') && -duration('1s') == duration('-1s')",
        "int(timestamp('1970-01-01T00:01:00Z')) == 60 && timestamp(60) == timestamp('1970-01-01T00:01:00Z')",
    ]);
    fails(&[
        ("timestamp('nonsense')", "type conversion error"),
        ("duration('1x')", "type conversion error"),
        ("duration('')", "type conversion error"),
        ("timestamp('9999-12-30T21:59:59Z') + duration('24h')", "timestamp overflow"),
        ("duration('2500000h') + duration('2500000h')", "duration overflow"),
        ("timestamp('2023-01-01T00:00:00Z').getHours('Nowhere/City')", "unknown time zone"),
    ]);
}

#[test]
fn kubernetes_libraries() {
    gives(&[
        ("url('https://user@example.com:80/a%20b?k=1&k=2&l=3#f').getHost()", json!("example.com:80")),
        ("url('https://example.com/path').getScheme()", json!("https")),
        ("url('https://[::1]:90/').getHostname()", json!("::1")),
        ("url('http://example.com:81/').getPort() + url('/a/b').getPort()", json!("81")),
        ("url('/a/b').getEscapedPath() + url('https://h/a%20b').getEscapedPath()", json!("/a/b/a%20b")),
        ("url('https://h/?k=1&k=a%26b&l=3').getQuery()", json!({"k": ["1", "a&b"], "l": ["3"]})),
        ("quantity('1.5Gi').asApproximateFloat()", json!(1610612736.0)),
        ("quantity('50k').asInteger() + quantity('1').sign()", json!(50001)),
        ("quantity('50k').add(quantity('20k')).sub(1000).compareTo(quantity('69k'))", json!(0)),
        ("ip('192.168.0.1').family() + ip('::1').family()", json!(10)),
        ("string(ip('2001:db8::0:1')) + string(cidr('10.1.2.3/8').masked())", json!("2001:db8::110.0.0.0/8")),
        ("cidr('10.1.2.3/8').prefixLength()", json!(8)),
        ("semver('1.2.3').major() + semver('1.2.3').minor() + semver('1.2.3').patch()", json!(6)),
        ("semver('1.2.3-rc.1').compareTo(semver('1.2.3'))", json!(-1)),
        ("format.dns1123Label().validate('Bad').value().size()", json!(1)),
        ("format.named('nonsense')", json!("none")),
    ]);
    holds(&[
        "isURL('https://a.b/c') && isURL('/a') && !isURL('a b') && !isURL('../a')",
        "isQuantity('1.3Gi') && !isQuantity('200K')",
        "quantity('200M').isLessThan(quantity('1G')) && quantity('1').isInteger() && !quantity('1m').isInteger()",
        "quantity('1000m') == quantity('1')",
        "isIP('1.2.3.4') && !isIP('1.2.3.400') && !isIP('::ffff:1.2.3.4') && !isIP('01.2.3.4')",
        "ip.isCanonical('127.0.0.1') && !ip.isCanonical('2001:DB8::1')",
        "ip('127.0.0.1').isLoopback() && ip('0.0.0.0').isUnspecified() && ip('169.254.0.1').isLinkLocalUnicast()",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('10.0.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "isCIDR('192.168.0.0/16') && !isCIDR('192.168.0.0') && !isCIDR('192.168.0.0/33')",
        "cidr('10.0.0.0/8').containsIP('10.1.1.1') && cidr('10.0.0.0/8').containsIP(ip('10.1.1.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR(cidr('10.0.0.0/8'))",
        "cidr('10.0.0.0/8').ip() == ip('10.0.0.0')",
        "isSemver('1.0.0') && !isSemver('v1.0') && isSemver('v01.0', true) && !isSemver('')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('2.0.0').isGreaterThan(semver('1.0.0'))",
        "!format.dns1123Label().validate('good').hasValue() && !format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        "format.named('dns1123Subdomain').value().validate('a_b').hasValue()",
        "['1.2.3.4'].all(ip, isIP(ip))",
    ]);
    fails(&[
        ("url('nonsense')", "URL parse error"),
        ("quantity('x')", "quantities must match"),
        ("quantity('1m').asInteger()", "cannot convert value to integer"),
        ("ip('x')", "parse error"),
        ("cidr('x')", "parse error"),
        ("semver('x')", "no valid semantic version"),
    ]);
}

fn object() -> Ty {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "ratio": {"type": "number"}, "name": {"type": "string"},
        "port": {"x-kubernetes-int-or-string": true}, "at": {"type": "string", "format": "date-time"},
        "span": {"type": "string", "format": "duration"}, "blob": {"type": "string", "format": "byte"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer"}}}},
        "a-b.c/d": {"type": "string"}, "namespace": {"type": "string"}, "a__b": {"type": "string"},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true}
    }});
    Ty::from_schema(&schema, "object", false)
}

#[test]
fn schemas_give_types_to_json() {
    let value = json!({"replicas": 2, "ratio": 2, "name": "n", "port": "http", "at": "2020-01-01T00:00:00Z", "span": "1m",
        "blob": "aGk=", "labels": {"x": "y"}, "items": [{"id": 1}], "a-b.c/d": "z", "namespace": "ns", "a__b": "u",
        "open": {"any": [1]}, "embedded": {"kind": "Pod", "metadata": {"name": "p"}}, "unknown": 1});
    let ty = object();
    let env = Env::new().with("self", ty.clone());
    for text in [
        "self.replicas == 2 && type(self.ratio) == double && self.ratio / 4.0 == 0.5",
        "self.at < timestamp('2021-01-01T00:00:00Z') && self.span == duration('60s') && self.blob == b'hi'",
        "self.labels.x == 'y' && self.labels['x'] == 'y' && self.items.all(i, i.id > 0)",
        "self.a__dash__b__dot__c__slash__d == 'z' && self.__namespace__ == 'ns' && self.a__underscores__b == 'u'",
        "self.open.any[0] == 1 && self.embedded.metadata.name == 'p' && self.port == 'http'",
        "type(self.port) == int ? self.port < 100 : self.port.startsWith('h')",
    ] {
        let program = Program::compile(text, &env).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(program.ty(), &Ty::Bool);
        let bindings = Bindings::new().with("self", Value::typed(&value, &ty));
        assert_eq!(program.eval(&bindings, PLENTY), Ok(Value::Bool(true)), "{text}");
    }
}

#[test]
fn mistakes_of_type_are_told_where_they_are() {
    let env = Env::new().with("self", object());
    for (text, message) in [
        ("self.missing == 1", "ERROR: <input>:1:5: undefined field 'missing'\n | self.missing == 1\n | ....^"),
        ("foo == 1", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo == 1\n | ^"),
        ("self.replicas == 'a'", "<input>:1:15: found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.name + 1", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("self.name.startsWith(1)", "found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("self.name.nope()", "undeclared reference to 'nope' (in container '')"),
        ("self.name.all(c, true)", "expression of type 'string' cannot be range of a comprehension"),
        ("self.items.all(i, i.id)", "found no matching overload for '_&&_' applied to '(bool, int)'"),
        ("self.name.x", "type 'string' does not support field selection"),
        ("self.name == null", "found no matching overload for '_==_' applied to '(string, null)'"),
        ("true ? 1 : 'a'", "found no matching overload for '_?_:_' applied to '(bool, int, string)'"),
        ("size(1)", "found no matching overload for 'size' applied to '(int)'"),
        ("1 +\n  self.nope", "<input>:2:7: undefined field 'nope'\n |   self.nope\n | ......^"),
        ("authorizer.path('/')", "undeclared reference to 'authorizer'"),
        ("Object{a: 1}", "undeclared reference to 'Object'"),
    ] {
        let problem = Program::compile(text, &env).expect_err(text).to_string();
        assert!(problem.contains(message), "{text}: {problem}");
    }
    assert_eq!(Program::compile("self.items.map(i, i.id)", &env).unwrap().ty(), &Ty::List(Arc::new(Ty::Int)));
}

#[test]
fn what_costs_too_much_ends() {
    let list: Json = (0..1000).collect::<Vec<_>>().into();
    let text: Json = "a".repeat(100_000).into();
    let nested = "x.all(a, x.all(b, x.all(c, a + b + c >= 0)))";
    let doubled = "cel.bind(a, self + self, cel.bind(b, a + a, cel.bind(c, b + b, cel.bind(d, c + c, cel.bind(e, d + d, \
        cel.bind(f, e + e, cel.bind(g, f + f, cel.bind(h, g + g, h.size() > 0))))))))";
    for (expression, value) in [
        (nested, &list),
        (doubled, &text),
        ("true || x.all(a, x.all(b, x.all(c, true)))", &list),
        ("x.exists(a, x.all(b, x.all(c, a + b + c >= 0)) && false) || true", &list),
        ("self.replace('a', self.replace('a', 'bbbbbbbbbb')).size() > 0", &text),
        ("sets.equivalent(x + x + x, x + x + x)", &list),
        (
            "self.matches('(a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|w|x|y|z|aa|bb|cc|dd|ee|ff|gg|hh|ii|jj|kk|ll|mm|nn|oo|pp|qq)*$') && self.matches('(a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|w|x|y|z|aa|bb|cc|dd|ee|ff|gg|hh|ii|jj|kk|ll|mm|nn|oo|pp|qq)*x$')",
            &text,
        ),
    ] {
        let program = Program::compile(expression, &env()).unwrap();
        let bindings = Bindings::new().with("x", Value::json(value)).with("self", Value::json(value));
        let (outcome, used) = program.eval_metered(&bindings, Budget(500_000));
        if expression.starts_with("true ||") {
            assert_eq!(outcome, Ok(Value::Bool(true)), "what decides spares the rest");
        } else {
            assert_eq!(outcome, Err(EvalError::TooCostly), "{expression}");
            assert!(used > 500_000);
        }
    }
}

#[test]
fn hostile_texts() {
    let deep = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    for text in [
        deep("(", ")", 100_000 / 2 - 10),
        deep("[", "]", 10_000),
        deep("{1:", "}", 10_000),
        deep("!", "", 90_000),
        deep("-", "", 90_000),
        deep("true ? ", " : 1", 5_000),
        format!("x{}", ".a".repeat(40_000)),
        format!("x{}", "[0]".repeat(30_000)),
        format!("1{}", " + 1".repeat(20_000)),
        "x.map(a, ".repeat(5_000),
        "a".repeat(200_000),
        "'".repeat(50_000),
        "\u{0}".into(),
        "\u{1F600}".into(),
        "b'\\".into(),
        "0x".into(),
        "1e".into(),
        "1.".into(),
        ".".into(),
        "x.?".into(),
        "`".into(),
        "r".into(),
        "{".into(),
        "x{".into(),
    ] {
        if let Ok(program) = Program::compile(&text, &env()) {
            let _ = program.eval(&Bindings::new(), PLENTY);
        }
    }
    assert!(Program::compile(&deep("(", ")", 240), &env()).is_ok());
    assert!(
        Program::compile(&deep("(", ")", 251), &env())
            .unwrap_err()
            .to_string()
            .contains("recursion limit exceeded: 250")
    );
    assert!(Program::compile(&format!("true{}", " && true".repeat(5_000)), &env()).is_ok(), "chains are not deep");
    // Pieces of expressions in any order.
    let pieces = [
        "x", ".", "a", "(", ")", "[", "]", "?", ":", "+", "1", "'s'", "{", "}", ",", "in", "has", "!", "-", "u", "b'",
        "\\",
    ];
    let mut seed: u64 = 7;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..8 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        if let Ok(program) = Program::compile(&text, &env()) {
            let _ = program.eval(&Bindings::new().with("x", Value::Int(1)), PLENTY);
        }
    }
}

/// Each row of the table is understood.
#[test]
fn every_signature_is_a_function() {
    assert_eq!(functions::broken_signatures(), Vec::<&str>::new());
}
