// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values of unit properties: in GVariant's text format, as annotations have them, and as D-Bus bytes.
//!
//! Never knows which property takes which type: systemd checks that. Text comes from
//! `org.systemd.property.*` annotations; values go into the calls that [`crate::systemd`] makes. GLib reference
//! "GVariant Text Format"; D-Bus Specification "Marshaling".

use crate::dbus::Writer;

/// The types that properties of scopes and slices have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Boolean(bool),
    Byte(u8),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    String(String),
    Strings(Vec<String>),
    Bytes(Vec<u8>),
    Uint32s(Vec<u32>),
    /// (string, string): device and accesses.
    Pairs(Vec<(String, String)>),
}

impl Value {
    /// As a D-Bus variant: the signature, then the value.
    pub(crate) fn write(&self, w: &mut Writer) {
        w.signature(match self {
            Value::Boolean(_) => "b",
            Value::Byte(_) => "y",
            Value::Int16(_) => "n",
            Value::Uint16(_) => "q",
            Value::Int32(_) => "i",
            Value::Uint32(_) => "u",
            Value::Int64(_) => "x",
            Value::Uint64(_) => "t",
            Value::Double(_) => "d",
            Value::String(_) => "s",
            Value::Strings(_) => "as",
            Value::Bytes(_) => "ay",
            Value::Uint32s(_) => "au",
            Value::Pairs(_) => "a(ss)",
        });
        match self {
            Value::Boolean(value) => w.u32(u32::from(*value)),
            Value::Byte(value) => w.byte(*value),
            Value::Int16(value) => w.fixed(&value.to_le_bytes()),
            Value::Uint16(value) => w.fixed(&value.to_le_bytes()),
            Value::Int32(value) => w.fixed(&value.to_le_bytes()),
            Value::Uint32(value) => w.u32(*value),
            Value::Int64(value) => w.fixed(&value.to_le_bytes()),
            Value::Uint64(value) => w.fixed(&value.to_le_bytes()),
            Value::Double(value) => w.fixed(&value.to_le_bytes()),
            Value::String(value) => w.string(value),
            Value::Strings(values) => w.array(4, |w| values.iter().for_each(|value| w.string(value))),
            Value::Bytes(values) => w.array(1, |w| values.iter().for_each(|value| w.byte(*value))),
            Value::Uint32s(values) => w.array(4, |w| values.iter().for_each(|value| w.u32(*value))),
            Value::Pairs(values) => w.array(8, |w| {
                for (first, second) in values {
                    w.align(8);
                    w.string(first);
                    w.string(second);
                }
            }),
        }
    }
}

/// The property and its value of an annotation. A name in `…Sec` is in seconds and becomes `…USec` in
/// microseconds, as engines' documentation has it from runc: systemd's own files spell `TimeoutStopSec=`, its
/// D-Bus interface only knows `TimeoutStopUSec`. The error is a rule that the text breaks.
pub(crate) fn property(name: &str, text: &str) -> Result<(String, Value), String> {
    let value = parse(text)?;
    match name.strip_suffix("Sec").filter(|stem| !stem.is_empty() && !stem.ends_with('U')) {
        Some(stem) => Ok((format!("{stem}USec"), Value::Uint64(microseconds(&value)?))),
        None => Ok((name.to_string(), value)),
    }
}

fn microseconds(seconds: &Value) -> Result<u64, String> {
    let whole = match *seconds {
        Value::Byte(value) => i128::from(value),
        Value::Int16(value) => i128::from(value),
        Value::Uint16(value) => i128::from(value),
        Value::Int32(value) => i128::from(value),
        Value::Uint32(value) => i128::from(value),
        Value::Int64(value) => i128::from(value),
        Value::Uint64(value) => i128::from(value),
        // Saturates, and makes 0 of NaN, which the check for it comes before.
        Value::Double(value) if value.is_finite() && value >= 0.0 && value * 1e6 < u64::MAX as f64 => {
            return Ok((value * 1e6) as u64);
        }
        Value::Double(_) => return Err("is not a number of seconds".to_string()),
        _ => return Err("must be a number of seconds".to_string()),
    };
    whole
        .checked_mul(1_000_000)
        .and_then(|value| u64::try_from(value).ok())
        .ok_or_else(|| "is not a number of seconds".to_string())
}

/// One value: booleans, numbers, strings, arrays of strings; with a type in front (`uint64 5`, `@t 5`) or
/// without.
fn parse(text: &str) -> Result<Value, String> {
    let mut rest = text.trim_start();
    let mut kind = None;
    if let Some(typed) = rest.strip_prefix('@') {
        let end = typed.find(char::is_whitespace).ok_or("has a type and no value")?;
        kind = Some(match &typed[..end] {
            "b" => "boolean",
            "y" => "byte",
            "n" => "int16",
            "q" => "uint16",
            "i" => "int32",
            "u" => "uint32",
            "x" => "int64",
            "t" => "uint64",
            "d" => "double",
            "s" => "string",
            "as" => "as",
            other => return Err(format!("has the unsupported type {other:?}")),
        });
        rest = typed[end..].trim_start();
    } else if let Some(end) = rest.find(char::is_whitespace) {
        let word = &rest[..end];
        if ["boolean", "byte", "int16", "uint16", "int32", "uint32", "int64", "uint64", "double", "string"]
            .contains(&word)
        {
            kind = Some(word);
            rest = rest[end..].trim_start();
        }
    }
    match rest.chars().next() {
        None => Err("is empty".to_string()),
        Some('\'' | '"') => {
            let (value, rest) = string(rest)?;
            ended(rest)?;
            match kind {
                None | Some("string") => Ok(Value::String(value)),
                Some(kind) => Err(format!("is a string, not {kind}")),
            }
        }
        Some('[') => match kind {
            Some("as") => strings(rest).map(Value::Strings),
            None => match strings(rest)? {
                values if values.is_empty() => Err("is an empty array without a type (@as [])".to_string()),
                values => Ok(Value::Strings(values)),
            },
            Some(kind) => Err(format!("is an array, not {kind}")),
        },
        Some(_) => word(rest.trim_end(), kind),
    }
}

/// A boolean or a number.
fn word(word: &str, kind: Option<&str>) -> Result<Value, String> {
    let unknown = || format!("{word:?} is no boolean, number, string or array of strings");
    match (word, kind) {
        ("true", None | Some("boolean")) => return Ok(Value::Boolean(true)),
        ("false", None | Some("boolean")) => return Ok(Value::Boolean(false)),
        (_, Some("boolean" | "string" | "as")) => return Err(unknown()),
        _ => {}
    }
    if kind == Some("double") || (kind.is_none() && integer(word).is_none()) {
        // What Rust's parser takes beyond GVariant's own are spellings of infinity and NaN.
        let fraction = kind.is_some() || word.contains(['.', 'e', 'E']);
        let looks_right = fraction && word.bytes().any(|b| b.is_ascii_digit());
        let value = word.parse::<f64>().ok().filter(|value| looks_right && value.is_finite());
        return value.map(Value::Double).ok_or_else(unknown);
    }
    let value = integer(word).ok_or_else(unknown)?;
    let out = || format!("{word} is out of the range of {}", kind.unwrap_or("int32"));
    match kind.unwrap_or("int32") {
        "byte" => u8::try_from(value).map(Value::Byte).map_err(|_| out()),
        "int16" => i16::try_from(value).map(Value::Int16).map_err(|_| out()),
        "uint16" => u16::try_from(value).map(Value::Uint16).map_err(|_| out()),
        "uint32" => u32::try_from(value).map(Value::Uint32).map_err(|_| out()),
        "int64" => i64::try_from(value).map(Value::Int64).map_err(|_| out()),
        "uint64" => u64::try_from(value).map(Value::Uint64).map_err(|_| out()),
        _ => i32::try_from(value).map(Value::Int32).map_err(|_| out()),
    }
}

/// Decimal, or as C has it hexadecimal and octal.
fn integer(word: &str) -> Option<i128> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => match digits.strip_prefix('0').filter(|digits| !digits.is_empty()) {
            Some(digits) => (digits, 8),
            None => (digits, 10),
        },
    };
    // A second sign is left to nobody.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

fn ended(rest: &str) -> Result<(), String> {
    match rest.trim() {
        "" => Ok(()),
        rest => Err(format!("has something after its value: {rest:?}")),
    }
}

/// `['a', 'b']`, and nothing after it.
fn strings(text: &str) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    let mut rest = text.strip_prefix('[').ok_or("is no array")?.trim_start();
    if let Some(rest) = rest.strip_prefix(']') {
        return ended(rest).map(|()| values);
    }
    loop {
        if !rest.starts_with(['\'', '"']) {
            return Err("is an array of something else than strings".to_string());
        }
        let (value, after) = string(rest)?;
        values.push(value);
        let after = after.trim_start();
        if let Some(after) = after.strip_prefix(',') {
            rest = after.trim_start();
        } else if let Some(after) = after.strip_prefix(']') {
            return ended(after).map(|()| values);
        } else {
            return Err("is an array without an end".to_string());
        }
    }
}

/// A quoted string at the beginning of `text`, and what is after it.
fn string(text: &str) -> Result<(String, &str), String> {
    let endless = || "is a string without an end".to_string();
    let mut chars = text.chars();
    let quote = chars.next().ok_or_else(endless)?;
    let mut value = String::new();
    loop {
        let next = match chars.next().ok_or_else(endless)? {
            c if c == quote => return Ok((value, chars.as_str())),
            '\\' => match chars.next().ok_or_else(endless)? {
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                escape @ ('u' | 'U') => {
                    let length = if escape == 'u' { 4 } else { 8 };
                    let digits = chars.as_str().get(..length).ok_or_else(endless)?;
                    chars = chars.as_str()[length..].chars();
                    // from_str_radix takes a sign, which is none here.
                    let number = u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
                    number
                        .and_then(char::from_u32)
                        .ok_or_else(|| format!("has no character \\{escape}{digits}"))?
                }
                other => other,
            },
            other => other,
        };
        if next == '\0' {
            return Err("must not hold a NUL".to_string());
        }
        value.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_each_type() {
        let text = |text: &str| parse(text).unwrap();
        assert_eq!(text("true"), Value::Boolean(true));
        assert_eq!(text(" boolean false "), Value::Boolean(false));
        assert_eq!(text("5"), Value::Int32(5));
        assert_eq!(text("-2147483648"), Value::Int32(i32::MIN));
        assert_eq!(text("uint64 18446744073709551615"), Value::Uint64(u64::MAX));
        assert_eq!(text("@t 0x10"), Value::Uint64(16));
        assert_eq!(text("uint32 017"), Value::Uint32(15));
        assert_eq!(text("int64 -9"), Value::Int64(-9));
        assert_eq!(text("byte 255"), Value::Byte(255));
        assert_eq!(text("int16 -1"), Value::Int16(-1));
        assert_eq!(text("uint16 1"), Value::Uint16(1));
        assert_eq!(text("1.5"), Value::Double(1.5));
        assert_eq!(text("double 2"), Value::Double(2.0));
        assert_eq!(text("1e3"), Value::Double(1000.0));
        assert_eq!(text(r#""it's""#), Value::String("it's".into()));
        assert_eq!(text(r"'a\'b\n\u00e9\U0001f6f6\\'"), Value::String("a'b\né🛶\\".into()));
        assert_eq!(text("string 'x'"), Value::String("x".into()));
        assert_eq!(text("['a', \"b\"]"), Value::Strings(vec!["a".into(), "b".into()]));
        assert_eq!(text("@as []"), Value::Strings(vec![]));
    }

    #[test]
    fn broken_text_is_an_error() {
        for text in [
            "",
            " ",
            "@",
            "@t",
            "@t ",
            "@(ss) ('a','b')",
            "uint64",
            "uint64 ",
            "uint64 -1",
            "uint64 'x'",
            "4294967296",
            "--1",
            "+-1",
            "0x",
            "0x-1",
            "08",
            "nan",
            "inf",
            "double infinity",
            "1 2",
            "true false",
            "boolean 1",
            "yes",
            "'",
            "'a",
            "'a' b",
            r"'\",
            r"'\u12'",
            r"'\ud800'",
            r"'\u+123'",
            r"'\u0000'",
            r"'\uéé'",
            "[",
            "[]",
            "['a'",
            "['a',",
            "['a',]",
            "['a' 'b']",
            "[1, 2]",
            "['a'] x",
            "uint64 ['a']",
            "b'bytes'",
            "('a', 'b')",
            "{'a': 1}",
            "<'a'>",
            "just 'x'",
        ] {
            assert!(parse(text).is_err(), "{text:?} is {:?}", parse(text));
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        let of = |name: &str, text: &str| property(name, text);
        let is = |name: &str, value| Ok((name.to_string(), Value::Uint64(value)));
        assert_eq!(of("TimeoutStopSec", "uint32 5"), is("TimeoutStopUSec", 5_000_000));
        assert_eq!(of("TimeoutStopSec", "1.5"), is("TimeoutStopUSec", 1_500_000));
        assert_eq!(of("TimeoutStopUSec", "uint64 5"), is("TimeoutStopUSec", 5));
        assert_eq!(of("CPUQuotaPerSecUSec", "uint64 5"), is("CPUQuotaPerSecUSec", 5));
        assert!(of("TimeoutStopSec", "-1").is_err());
        assert!(of("TimeoutStopSec", "-1.0").is_err());
        assert!(of("TimeoutStopSec", "1e300").is_err());
        assert!(of("TimeoutStopSec", "uint64 18446744073709551615").is_err());
        assert!(of("TimeoutStopSec", "'5s'").is_err());
    }

    #[test]
    fn variants_as_bytes() {
        let bytes = |value: Value| {
            let mut w = Writer::default();
            value.write(&mut w);
            w.into_bytes()
        };
        assert_eq!(bytes(Value::Boolean(true)), b"\x01b\0\0\x01\0\0\0");
        assert_eq!(bytes(Value::Uint64(2)), b"\x01t\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
        assert_eq!(bytes(Value::Int16(-2)), b"\x01n\0\0\xfe\xff");
        assert_eq!(bytes(Value::String("ab".into())), b"\x01s\0\0\x02\0\0\0ab\0");
        assert_eq!(bytes(Value::Bytes(vec![3])), b"\x02ay\0\x01\0\0\0\x03");
        assert_eq!(bytes(Value::Uint32s(vec![7])), b"\x02au\0\x04\0\0\0\x07\0\0\0");
        assert_eq!(bytes(Value::Strings(vec!["a".into()])), b"\x02as\0\x06\0\0\0\x01\0\0\0a\0");
        // The array's length does not count the padding in front of its first structure.
        assert_eq!(
            bytes(Value::Pairs(vec![("d".into(), "r".into()); 2])),
            b"\x05a(ss)\0\0\x1e\0\0\0\0\0\0\0\
              \x01\0\0\0d\0\0\0\x01\0\0\0r\0\0\0\x01\0\0\0d\0\0\0\x01\0\0\0r\0"
        );
    }
}
