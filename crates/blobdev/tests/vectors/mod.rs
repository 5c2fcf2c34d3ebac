//! Reads the golden files in `tests/vectors`, which pytest reads too.
//!
//! A JSON reader of the few lines that these files need: objects, lists, text, whole numbers, true and false.
#![allow(dead_code, reason = "each test crate uses a part of this module")]

use std::collections::HashMap;
use std::path::Path;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Flag(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(HashMap<String, Json>),
}

impl Json {
    pub fn get(&self, key: &str) -> &Json {
        let Json::Object(members) = self else { panic!("{self:?} has no members") };
        members.get(key).unwrap_or_else(|| panic!("no {key:?} in {members:?}"))
    }

    pub fn has(&self, key: &str) -> bool {
        matches!(self, Json::Object(members) if members.contains_key(key))
    }

    pub fn members(&self) -> &HashMap<String, Json> {
        let Json::Object(members) = self else { panic!("{self:?} has no members") };
        members
    }

    pub fn list(&self) -> &[Json] {
        let Json::List(items) = self else { panic!("{self:?} is no list") };
        items
    }

    pub fn text(&self) -> &str {
        let Json::Text(text) = self else { panic!("{self:?} is no text") };
        text
    }

    pub fn number(&self) -> i64 {
        let Json::Number(number) = self else { panic!("{self:?} is no number") };
        *number
    }

    pub fn flag(&self) -> bool {
        let Json::Flag(flag) = self else { panic!("{self:?} is neither true nor false") };
        *flag
    }

    /// Hexadecimal text as bytes.
    pub fn hex(&self) -> Vec<u8> {
        let digits = self.text().as_bytes();
        assert!(digits.len().is_multiple_of(2), "{self:?} is no hexadecimal text");
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// ISO 8859-1 text as bytes.
    pub fn latin1(&self) -> Vec<u8> {
        self.text().chars().map(|character| u8::try_from(character).unwrap()).collect()
    }
}

/// Reads one golden file.
pub fn read(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = Reader { rest: &text };
    let value = reader.value();
    assert_eq!(reader.rest.trim(), "", "{name}: text after the value");
    value
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) {
        assert!(self.take(token), "{token:?} is due at {:?}", &self.rest[..self.rest.len().min(40)]);
    }

    fn value(&mut self) -> Json {
        match () {
            () if self.take("{") => Json::Object(self.items("}", Self::member).into_iter().collect()),
            () if self.take("[") => Json::List(self.items("]", Self::value)),
            () if self.take("\"") => Json::Text(self.string()),
            () if self.take("true") => Json::Flag(true),
            () if self.take("false") => Json::Flag(false),
            () => {
                let end = self.rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap();
                let (number, rest) = self.rest.split_at(end);
                self.rest = rest;
                Json::Number(number.parse().unwrap())
            }
        }
    }

    fn items<T>(&mut self, end: &str, item: fn(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        while !self.take(end) {
            if !items.is_empty() {
                self.expect(",");
            }
            items.push(item(self));
        }
        items
    }

    fn member(&mut self) -> (String, Json) {
        self.expect("\"");
        let key = self.string();
        self.expect(":");
        (key, self.value())
    }

    fn string(&mut self) -> String {
        let mut text = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return text;
                }
                '\\' => text.push(match characters.next().unwrap().1 {
                    't' => '\t',
                    'u' => {
                        let digits: String = characters.by_ref().take(4).map(|(_, digit)| digit).collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap()
                    }
                    escaped @ ('"' | '\\' | '/') => escaped,
                    escaped => panic!("\\{escaped} is not read here"),
                }),
                character => text.push(character),
            }
        }
        panic!("text without end")
    }
}
