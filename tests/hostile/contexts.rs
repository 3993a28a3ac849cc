//! Contexts and annotations that are not JSON, not an object, too large, or against their schema.

use prost::Message as _;
use tasker::proto::SubmitTaskRequest;
use tonic::Code::{self, InvalidArgument, ResourceExhausted};

use crate::{
    raw::field,
    support::{random::Random, server::submission},
    target::{Target, fields},
};

const SUBMIT: &str = "TaskService/SubmitTask";
const REGISTRATION: &str = "user_management/user_registration";
const DOCUMENT: &str = r#"{"email":"a@b.co","name":"A \u00e9\ud83d\ude00","phone":"+1 2","x":[1,-0.5,1e3,true,null,{"y":{}}],"z":{"k":[]}}"#;

/// Documents that no JSON reader should accept, and the server's message about each.
const BAD_JSON: &[(&str, &str, &str)] = &[
    ("white space", " ", "expected a value"),
    ("a word", "null", "expected an object"),
    ("a number", "7", "expected an object"),
    ("a string", r#""{}""#, "expected an object"),
    ("a list", "[{}]", "expected an object"),
    ("true", "true", "expected an object"),
    ("a brace", "{", "the document ends"),
    ("the other brace", "}", "expected a value"),
    ("two objects", "{}{}", "the end of the document"),
    ("a tail", "{} x", "the end of the document"),
    ("a mark", "\u{feff}{}", "expected a value"),
    ("a comment", "{/* */}", "a key in double quotes"),
    ("a trailing comma", r#"{"a":1,}"#, "a key in double quotes"),
    (
        "a trailing comma in a list",
        r#"{"a":[1,]}"#,
        "expected a value",
    ),
    ("single quotes", "{'a':1}", "a key in double quotes"),
    ("no quotes", "{a:1}", "a key in double quotes"),
    ("no colon", r#"{"a" 1}"#, "`:` after the key"),
    ("no value", r#"{"a":}"#, "expected a value"),
    ("no comma", r#"{"a":1 "b":2}"#, "`,` or `}`"),
    ("crossed", r#"{"a":[}]"#, "expected a value"),
    ("not a number", r#"{"a":NaN}"#, "expected a value"),
    ("infinity", r#"{"a":-Infinity}"#, "expected a digit"),
    ("a leading zero", r#"{"a":01}"#, "must not start with 0"),
    ("a plus", r#"{"a":+1}"#, "expected a value"),
    ("a bare dot", r#"{"a":1.}"#, "expected a digit"),
    ("a bare exponent", r#"{"a":1e}"#, "expected a digit"),
    ("hexadecimal", r#"{"a":0x1}"#, "`,` or `}`"),
    ("a huge exponent", r#"{"a":1e999999999}"#, "digits"),
    (
        "an absurd exponent",
        r#"{"a":1e-99999999999999999999}"#,
        "digits",
    ),
    ("True", r#"{"a":True}"#, "expected a value"),
    ("an unfinished word", r#"{"a":nul}"#, "expected a value"),
    ("an unfinished string", r#"{"a":"b}"#, "the closing"),
    ("an unfinished escape", "{\"a\":\"b\\", "escapes"),
    ("an unknown escape", r#"{"a":"\x41"}"#, "escapes"),
    (
        "a short escape",
        r#"{"a":"\u12"}"#,
        "four hexadecimal digits",
    ),
    ("an escaped NUL", r#"{"a":"\u0000"}"#, "\\u0000"),
    ("an escaped NUL in a key", r#"{"\u0000":1}"#, "\\u0000"),
    (
        "an escaped NUL deep inside",
        r#"{"a":[{"b":["x\u0000y"]}]}"#,
        "\\u0000",
    ),
    ("a NUL", "{\"a\":\"\0\"}", "control character"),
    ("a NUL between", "{\0}", "a key in double quotes"),
    ("a NUL at the end", "{}\0", "the end of the document"),
    (
        "a line break in a string",
        "{\"a\":\"\n\"}",
        "control character",
    ),
    ("a tab in a string", "{\"a\":\"\t\"}", "control character"),
    ("a high surrogate", r#"{"a":"\ud800"}"#, "low half"),
    (
        "a high surrogate and a letter",
        r#"{"a":"\ud800x"}"#,
        "low half",
    ),
    ("two high surrogates", r#"{"a":"\ud800\ud800"}"#, "low half"),
    (
        "a low surrogate",
        r#"{"a":"\udc00"}"#,
        "without its high half",
    ),
    (
        "a pair the wrong way round",
        r#"{"a":"\udc00\ud800"}"#,
        "without its high half",
    ),
    ("a key twice", r#"{"a":1,"a":2}"#, "twice"),
    (
        "a key twice deep inside",
        r#"{"x":[{"a":1,"b":2,"a":3}]}"#,
        "twice",
    ),
    (
        "a key twice, once escaped",
        r#"{"a":1,"\u0061":2}"#,
        "twice",
    ),
    (
        "a key of the reader's own",
        r#"{"$serde_json::private::Number":"1"}"#,
        "must not begin",
    ),
    (
        "the same, escaped",
        r#"{"\u0024serde_json::private::RawValue":"1"}"#,
        "must not begin",
    ),
];

/// All of them, with those that a program generates.
fn bad_json() -> Vec<(&'static str, String, &'static str)> {
    let nested = |open: &str, close: &str, n: usize| {
        format!(r#"{{"a":{}1{}}}"#, open.repeat(n), close.repeat(n))
    };
    let mut all: Vec<_> = BAD_JSON
        .iter()
        .map(|(case, json, says)| (*case, (*json).to_owned(), *says))
        .collect();
    all.extend([
        (
            "5000 digits",
            format!(r#"{{"a":{}}}"#, "9".repeat(5_000)),
            "more than 4096 digits",
        ),
        ("129 levels", nested("[", "]", 128), "deeper than 128"),
        (
            "200 levels",
            nested(r#"{"a":"#, "}", 200),
            "deeper than 128",
        ),
        (
            "100,000 levels",
            format!(r#"{{"a":{}"#, "[".repeat(100_000)),
            "deeper than 128",
        ),
    ]);
    all
}

#[tokio::test]
async fn contexts_that_are_not_objects_are_refused() {
    let mut target = Target::new().await;
    for (case, json, says) in bad_json() {
        let says_all = if json.len() > 16 << 10 { "" } else { says };
        let notes = SubmitTaskRequest {
            annotations_json: json.clone(),
            ..submission("hostile/good", "{}")
        };
        target
            .refuses(
                format!("annotations: {case}"),
                SUBMIT,
                &notes,
                InvalidArgument,
                says_all,
            )
            .await;
        // The syntax of JSON is checked before the schema.
        for name in [REGISTRATION, "hostile/good"] {
            let request = submission(name, &json);
            target
                .refuses(
                    format!("{name}: {case}"),
                    SUBMIT,
                    &request,
                    InvalidArgument,
                    says,
                )
                .await;
        }
    }
    target.end(150).await;
}

#[tokio::test]
async fn damaged_documents_are_refused() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("contexts");
    for n in 0..260 {
        let damaged = match n {
            // An object cut anywhere is not a document.
            0..60 => DOCUMENT.as_bytes()[..1 + random.below(DOCUMENT.len() - 1)].to_vec(),
            60..120 => {
                let mut bytes = DOCUMENT.as_bytes().to_vec();
                bytes.insert(random.below(bytes.len()), random.byte() % 9);
                bytes
            }
            _ => random.damage(DOCUMENT.as_bytes()),
        };
        let is_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
        match std::str::from_utf8(&damaged) {
            Ok(text) if text.is_empty() || is_json(text) => continue,
            Ok(text) => {
                let request = submission(REGISTRATION, text);
                let case = format!("damage {n}: {text}");
                target
                    .refuses(
                        case,
                        SUBMIT,
                        &request,
                        InvalidArgument,
                        "context_json: line 1, column",
                    )
                    .await;
            }
            Err(_) => {
                let rest = submission(REGISTRATION, "").encode_to_vec();
                let bytes = [rest, field(4, &damaged)].concat();
                target
                    .refuses_bytes(
                        format!("damage {n}"),
                        SUBMIT,
                        bytes,
                        InvalidArgument,
                        "UTF-8",
                    )
                    .await;
            }
        }
    }
    target.end(200).await;
}

#[tokio::test]
async fn documents_over_the_size_are_refused() {
    let mut target = Target::new().await;
    let sized = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8));
    let table: [(usize, Code, &str); 5] = [
        ((1 << 20) + 1, InvalidArgument, "at most 1048576"),
        (2 << 20, InvalidArgument, "at most 1048576"),
        (10 << 20, InvalidArgument, "at most 1048576"),
        (16 << 20, ResourceExhausted, "16777216"),
        (20 << 20, ResourceExhausted, "16777216"),
    ];
    for (bytes, code, says) in table {
        target
            .refuses(
                format!("{bytes} bytes"),
                SUBMIT,
                &submission("hostile/good", &sized(bytes)),
                code,
                says,
            )
            .await;
    }
    for bytes in [(16 << 10) + 1, 1 << 20, 10 << 20] {
        let request = SubmitTaskRequest {
            annotations_json: sized(bytes),
            ..submission("hostile/good", "{}")
        };
        target
            .refuses(
                format!("{bytes} bytes of annotations"),
                SUBMIT,
                &request,
                InvalidArgument,
                "at most 16384",
            )
            .await;
    }
    // The document fits as sent, and is too large with the schema's defaults.
    let most = format!(
        r#"{{"email":"a@b.co","name":"{}"}}"#,
        "x".repeat((1 << 20) - 30)
    );
    target
        .refuses(
            "with defaults",
            SUBMIT,
            &submission(REGISTRATION, &most),
            InvalidArgument,
            "defaults",
        )
        .await;
    target.end(9).await;
}

#[tokio::test]
async fn contexts_that_violate_their_schema_are_refused() {
    let mut target = Target::new().await;
    let good = serde_json::json!({"email": "a@b.co", "name": "A"});
    let values = [
        "null",
        "0",
        "-1",
        "1.5",
        "1e300",
        "9007199254740993",
        "[]",
        "[\"a@b.co\"]",
        "{}",
        "{\"a\":1}",
        "true",
        "false",
        "\"\"",
        "\"x\"",
        "\"@\"",
        "\"FREE\"",
        "\"a b@c\"",
    ];
    let string = |v: &str| v.starts_with('"');
    for value in values {
        let fits: [(&str, bool); 6] = [
            ("email", false),
            ("name", string(value) && value != "\"\""),
            ("phone", string(value)),
            ("plan", false),
            ("marketing_consent", value == "true" || value == "false"),
            ("correlation_id", string(value)),
        ];
        for (key, _) in fits.into_iter().filter(|(_, fits)| !fits) {
            let mut context = good.clone();
            context[key] = serde_json::from_str(value).unwrap();
            refuses_fields(
                &mut target,
                &context.to_string(),
                &[&format!("context_json/{key}")],
            )
            .await;
        }
    }
    refuses_fields(&mut target, "{}", &["context_json", "context_json"]).await;
    refuses_fields(&mut target, "", &["context_json", "context_json"]).await;
    refuses_fields(&mut target, r#"{"email":"a@b.co"}"#, &["context_json"]).await;
    refuses_fields(
        &mut target,
        r#"{"Email":"a@b.co","name":"A"}"#,
        &["context_json"],
    )
    .await;
    target.end(75).await;
}

async fn refuses_fields(target: &mut Target, context: &str, expected: &[&str]) {
    let request = submission(REGISTRATION, context).encode_to_vec();
    let answer = target
        .raw
        .call(&format!("/tasker.v1.{SUBMIT}"), request)
        .await;
    if let Err(status) = &answer {
        let mut named = fields(status);
        // One value can be wrong in two ways, such as type and enum, while each missing property is
        // reported by itself.
        if expected.len() == 1 {
            named.dedup();
        }
        assert_eq!(named, expected, "{context}");
    }
    target
        .check(context, answer, InvalidArgument, "context_json")
        .await;
}

const TREE: &str = "
task_name: tree
namespace: hostile
version: 1.0.0
schema:
  type: object
  additionalProperties: false
  properties: {child: {$ref: '#'}, list: {type: array, items: {type: integer}}}
step_templates: [{name: a, handler_class: good}]
";

#[tokio::test]
async fn contexts_that_are_costly_to_validate_are_refused() {
    let mut target = Target::new().await;
    crate::support::server::register(&mut target.bench.client, TREE).await;
    target.look().await;
    // As deep as a document may be, and wrong at the bottom: finding the place would exceed the
    // budget.
    let deep = format!(
        "{}{{\"x\":1}}{}",
        r#"{"child":"#.repeat(127),
        "}".repeat(127)
    );
    target
        .refuses(
            "deep",
            SUBMIT,
            &submission("hostile/tree", &deep),
            InvalidArgument,
            "does not match",
        )
        .await;
    let wide = format!(r#"{{"list":[{}"x"]}}"#, r#""x","#.repeat(200_000));
    target
        .refuses(
            "wide",
            SUBMIT,
            &submission("hostile/tree", &wide),
            InvalidArgument,
            "context_json/list/0",
        )
        .await;
    let keys: Vec<String> = (0..50_000).map(|i| format!(r#""k{i}":1"#)).collect();
    let many = format!("{{{}}}", keys.join(","));
    target
        .refuses(
            "many keys",
            SUBMIT,
            &submission("hostile/tree", &many),
            InvalidArgument,
            "context_json",
        )
        .await;
    let long = format!(r#"{{"{}":1}}"#, "k".repeat(1_000_000));
    target
        .refuses(
            "a long key",
            SUBMIT,
            &submission("hostile/tree", &long),
            InvalidArgument,
            "context_json",
        )
        .await;
    target.end(4).await;
}
