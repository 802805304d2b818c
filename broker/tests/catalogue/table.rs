//! Reads the rows of `packets.txt`.

use crate::support::{Kind, Version, hex};

/// One case of the catalogue in one version of MQTT.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    /// What is wrong, in words.
    pub(crate) case: &'static str,
    pub(crate) version: Version,
    pub(crate) when: When,
    pub(crate) reactions: Vec<Reaction>,
    /// The normative statements.
    pub(crate) statements: String,
    pub(crate) bytes: Vec<u8>,
}

/// When the bytes of a row are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    First,
    After,
    /// After a CONNECT with a will, which the reaction must publish.
    Will,
}

/// A reaction that the specification asks for or allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reaction {
    /// The end; before it the packets of `before`, and one error packet with one of the codes.
    Close { before: Before, codes: Vec<u8>, by_timer: bool },
    /// A CONNACK that refuses with one of these codes, then the end.
    Refuse { codes: Vec<u8> },
    /// CONNACK with success, and no end.
    Accept,
    /// No end; one packet of this type with one of the codes, or nothing at all.
    Stay { answer: Option<Kind>, codes: Vec<u8> },
}

/// What may come before the end besides an error packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Before {
    Nothing,
    Connack,
    Pubrecs,
}

impl Row {
    /// What a failure is called by: `F01 v4 [3.1.0-1] first packet is PINGREQ`.
    pub(crate) fn title(&self) -> String {
        let version = self.version as u8;
        format!("{} v{version} [{}] {}", self.id, self.statements, self.case)
    }

    /// Whether the reaction comes only when the time limit for CONNECT has passed.
    pub(crate) fn is_slow(&self) -> bool {
        let by_timer = |it: &Reaction| matches!(it, Reaction::Close { by_timer: true, .. });
        self.reactions.iter().any(by_timer)
    }

    /// Whether the connection may stay open.
    pub(crate) fn may_stay(&self) -> bool {
        let stays = |it: &Reaction| matches!(it, Reaction::Accept | Reaction::Stay { .. });
        self.reactions.iter().any(stays)
    }
}

/// All rows, in the order of the file.
pub(crate) fn rows(text: &'static str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut case = "";
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            case = comment.split_once(": ").map_or("", |(_, case)| case);
        } else if let Some(more) = line.strip_prefix("    ") {
            rows.last_mut().expect("a row to go on with").bytes.extend(hex(more));
        } else {
            rows.push(row(line, case));
        }
    }
    assert!(rows.iter().all(|row| !row.bytes.is_empty()), "a row without bytes");
    rows
}

fn row(line: &'static str, case: &'static str) -> Row {
    let columns: Vec<&'static str> = line.split('|').map(str::trim).collect();
    let [head, reactions, statements, bytes] = columns[..] else { panic!("columns in {line}") };
    let words: Vec<&'static str> = head.split(' ').collect();
    let [id, version, when] = words[..] else { panic!("the head of {line}") };
    Row {
        id,
        case,
        version: match version {
            "4" => Version::V311,
            "5" => Version::V5,
            _ => panic!("the version in {line}"),
        },
        when: match when {
            "first" => When::First,
            "after" => When::After,
            "will" => When::Will,
            _ => panic!("the moment in {line}"),
        },
        reactions: reactions.split(" or ").map(reaction).collect(),
        statements: statement_numbers(statements),
        bytes: hex(bytes),
    }
}

/// Puts the prefix of normative statements before each number: `3.1.0-1` is `MQTT-3.1.0-1`.
fn statement_numbers(text: &str) -> String {
    let each = text.split(", ").map(|part| {
        let is_number = part.starts_with(|first: char| first.is_ascii_digit());
        if is_number { format!("MQTT-{part}") } else { part.to_owned() }
    });
    each.collect::<Vec<_>>().join(", ")
}

fn reaction(text: &str) -> Reaction {
    let words: Vec<&str> = text.split(' ').collect();
    let codes = |index: usize| words.get(index).map_or(Vec::new(), |list| codes(list));
    let close = |before, index, by_timer| Reaction::Close { before, codes: codes(index), by_timer };
    match words[..] {
        ["close", ..] => close(Before::Nothing, 1, false),
        ["timer", ..] => close(Before::Nothing, 1, true),
        ["accept", "close", ..] => close(Before::Connack, 2, false),
        ["pubrec", "close", ..] => close(Before::Pubrecs, 2, false),
        ["accept"] => Reaction::Accept,
        ["connack", _] => Reaction::Refuse { codes: codes(1) },
        ["open"] => Reaction::Stay { answer: None, codes: Vec::new() },
        ["suback", _] => Reaction::Stay { answer: Some(Kind::Suback), codes: codes(1) },
        ["pubcomp", _] => Reaction::Stay { answer: Some(Kind::Pubcomp), codes: codes(1) },
        ["unsuback", ..] => Reaction::Stay { answer: Some(Kind::Unsuback), codes: codes(1) },
        _ => panic!("the reaction {text}"),
    }
}

fn codes(list: &str) -> Vec<u8> {
    list.split(',').flat_map(hex).collect()
}
