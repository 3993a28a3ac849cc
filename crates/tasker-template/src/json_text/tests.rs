use super::*;

const KIB: usize = 1024;

fn problem(text: &str) -> String {
    check_document(text, KIB).expect_err(text).to_string()
}

#[test]
fn valid_json_passes() {
    for text in [
        "null",
        " true ",
        "false",
        "0",
        "-0",
        "-0.5e-7",
        "1.10",
        "1e400",
        "9007199254740993",
        "\"\"",
        "[]",
        "{}",
        "[[],{}]",
        "[1,2 , 3]",
        r#"{"a":{"b":[null,{"c":"d"}]},"e":1}"#,
        r#""\" \\ \/ \b \f \n \r \t \u00e9 \ud83d\ude00""#,
        "\"é😀\u{7f}\u{2028}\"",
        r#""\\u0000""#,
    ] {
        assert_eq!(check_document(text, KIB), Ok(()), "{text}");
        assert_eq!(parse(text, KIB).map(|_| ()), Ok(()), "{text}");
    }
}

const ERRORS: &[(&str, &str)] = &[
    (
        "",
        "line 1, column 1 (byte 0): expected a value, but the document ends",
    ),
    (
        "  \n ",
        "line 2, column 2 (byte 4): expected a value, but the document ends",
    ),
    ("nul", "line 1, column 1 (byte 0): expected a value"),
    ("[1,]", "line 1, column 4 (byte 3): expected a value"),
    ("[1 2]", "line 1, column 4 (byte 3): expected `,` or `]`"),
    ("[1}", "line 1, column 3 (byte 2): expected `,` or `]`"),
    (
        "[",
        "line 1, column 2 (byte 1): expected a value, but the document ends",
    ),
    (
        "{\"a\":1,}",
        "line 1, column 8 (byte 7): expected a key in double quotes",
    ),
    (
        "{a:1}",
        "line 1, column 2 (byte 1): expected a key in double quotes",
    ),
    (
        "{\"a\" 1}",
        "line 1, column 6 (byte 5): expected `:` after the key",
    ),
    (
        "{\"é\":1\n",
        "line 2, column 1 (byte 8): expected `,` or `}`, but the document ends",
    ),
    (
        "1 2",
        "line 1, column 3 (byte 2): expected the end of the document",
    ),
    (
        "\"é",
        "line 1, column 3 (byte 3): expected the closing `\"` of a string, but the document ends",
    ),
    (
        "\"a\tb\"",
        "line 1, column 3 (byte 2): a control character in a string must be escaped",
    ),
    (
        "\"\\x\"",
        "line 1, column 2 (byte 1): expected one of the escapes",
    ),
    (
        "\"\\u12g4\"",
        "line 1, column 2 (byte 1): expected four hexadecimal digits after \\u",
    ),
    (
        "\"\\u12",
        "line 1, column 2 (byte 1): expected four hexadecimal digits after \\u",
    ),
    (
        "01",
        "line 1, column 2 (byte 1): a number must not start with 0 and another digit",
    ),
    (
        "-",
        "line 1, column 2 (byte 1): expected a digit, but the document ends",
    ),
    ("1.", "line 1, column 3 (byte 2): expected a digit"),
    ("1e+", "line 1, column 4 (byte 3): expected a digit"),
    ("+1", "line 1, column 1 (byte 0): expected a value"),
    ("NaN", "line 1, column 1 (byte 0): expected a value"),
];

#[test]
fn error_states_position_and_expectation() {
    for &(text, expected) in ERRORS {
        let problem = problem(text);
        assert!(problem.starts_with(expected), "{text:?}: {problem}");
    }
}

#[test]
fn text_that_jsonb_cannot_store_is_refused() {
    for text in [r#""\u0000""#, r#"{"a\u0000":1}"#, r#"["\\\u0000"]"#] {
        assert!(problem(text).contains("\\u0000 cannot be stored"), "{text}");
    }
    for text in [
        r#""\ud800""#,
        r#""\ud800\ud800""#,
        r#""\ud800x\udc00""#,
        r#""\ud800\n""#,
    ] {
        assert!(problem(text).contains("expected the low half"), "{text}");
    }
    assert!(problem(r#""\udc00\ud800""#).contains("without its high half"));
    assert!(problem(r#""\ud800\u12""#).contains("four hexadecimal digits"));
}

#[test]
fn document_over_the_depth_is_refused() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(check_document(&nested(MAX_DEPTH), KIB), Ok(()));
    assert!(parse(&nested(MAX_DEPTH), KIB).is_ok());
    assert!(problem(&nested(MAX_DEPTH + 1)).contains("nested deeper than 128 levels"));
    let objects = "{\"a\":".repeat(MAX_DEPTH) + "1" + &"}".repeat(MAX_DEPTH);
    assert_eq!(check_object(&objects, KIB), Ok(()));
    let million = "[".repeat(1_000_000);
    assert!(check_document(&million, million.len()).is_err());
}

#[test]
fn document_over_the_size_is_refused() {
    let text = "[\"é\"]";
    assert_eq!(check_document(text, text.len()), Ok(()));
    let error = check_document(text, text.len() - 3).expect_err("too long");
    assert_eq!(
        error.message,
        "the document has 6 bytes, but at most 3 are allowed"
    );
    assert_eq!(error.offset, 2, "positions stay on character boundaries");
}

#[test]
fn number_over_the_digits_is_refused() {
    for text in ["1e4095", "-1e4095", "1e-4096", "0.1e-4095", "1E+10"] {
        assert_eq!(check_document(text, KIB), Ok(()), "{text}");
    }
    for text in [
        "1e4096",
        "10e4095",
        "1e-4097",
        "0.1e-4096",
        "1e99999999999999999999",
    ] {
        assert!(
            problem(text).ends_with("the number has more than 4096 digits"),
            "{text}"
        );
    }
    let digits = "9".repeat(MAX_NUMBER_DIGITS);
    assert_eq!(check_document(&digits, usize::MAX), Ok(()));
    assert!(check_document(&(digits + "9"), usize::MAX).is_err());
}

#[test]
fn object_is_distinguished_from_other_documents() {
    assert_eq!(check_object(" {} ", KIB), Ok(()));
    for text in ["[]", " null", "\"{}\""] {
        assert!(
            check_object(text, KIB)
                .expect_err(text)
                .message
                .contains("expected an object")
        );
    }
    assert!(check_object("{", KIB).is_err());
}

#[test]
fn parsing_keeps_digits_order_and_characters_unchanged() {
    for text in [
        r#"{"z":9007199254740993,"a":1.10,"m":1e+400,"b":-0,"c":0.1000000000000000055511151231257827}"#,
        r#"{"é😀":["\u0001",null,[null]],"":""}"#,
    ] {
        assert_eq!(parse(text, KIB).expect(text).to_string(), text);
    }
}

#[test]
fn repeated_key_of_an_object_is_refused() {
    for text in [
        r#"{"a":{"b":1},"b":{"a":1,"b":[{"a":1},{"a":1}]}}"#,
        r#"[{"a":1},{"a":1}]"#,
        r#"{"a":1,"A":2,"":3}"#,
    ] {
        assert_eq!(check_document(text, KIB), Ok(()), "{text}");
    }
    for (text, byte) in [
        (r#"{"a":1,"a":2}"#, 7),
        (r#"{"a":{"x":{}},"\u0061":2}"#, 14),
        (r#"[{"b":1,"é":{},"é":0}]"#, 16),
    ] {
        let expected = format!("(byte {byte}): the key appears twice in the same object");
        assert!(
            problem(text).ends_with(&expected),
            "{text}: {}",
            problem(text)
        );
    }
}

#[test]
fn object_with_a_reserved_key_is_refused() {
    let text = r#"{"a":{"$serde_json::private::Number":"1"}}"#;
    assert!(problem(text).contains("a key must not begin with `$serde_json::private::`"));
    assert!(problem(&text.replace("$s", "\\u0024s")).contains("a key must not begin with"));
}
