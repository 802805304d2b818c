//! What the rows of an answer look like: JSON as it came, or tables.

use super::CtlError;
use super::rows::{
    GroupRow, Need, NeedRow, OldestRow, Outcome, OutcomeRow, PartitionRow, Request, RetainedRow,
    SessionRow, StreamRow, StreamsRow, SubscriptionRow,
};
use super::table::{Table, output};
use crate::log_tool::print::time;
use serde::Deserialize;
use std::io::{self, Write};

/// Takes the lines of an answer.
pub(super) trait Printer {
    /// The next line.
    fn line(&mut self, line: &str) -> Result<(), CtlError>;

    /// There are no more.
    fn end(&mut self) -> Result<(), CtlError>;
}

/// The printer for the answers to a request.
pub(super) fn printer(request: &Request, json: bool, raw: bool) -> Box<dyn Printer> {
    let deletes = matches!(request, Request::EndSessions { .. } | Request::ClearRetained { .. });
    if json {
        return Box::new(Json { deletes, missed: false });
    }
    match request {
        Request::Sessions { .. } => Box::new(Rows::new(SESSIONS, session_cells)),
        Request::Session { .. } => Box::new(OneSession::new()),
        Request::Groups => Box::new(Rows::new(GROUPS, group_cells)),
        Request::Subscriptions { .. } => Box::new(Rows::new(SUBSCRIPTIONS, subscription_cells)),
        Request::Retained { .. } => Box::new(Rows::new(RETAINED, retained_cells)),
        Request::RetainedMessage { .. } => Box::new(OneMessage { raw }),
        Request::EndSessions { .. } | Request::ClearRetained { .. } => {
            Box::new(Outcomes { counts: [0; 2] })
        }
        Request::Streams => Box::new(Streams::new()),
    }
}

/// Something that is said besides the answer.
pub(super) fn note(text: &str) {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

fn write(text: &str) -> Result<(), CtlError> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| output(&error))
}

fn parse<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, CtlError> {
    let failed = |error| CtlError::Failed(format!("{line}: {error}; is it of this release?"));
    serde_json::from_str(line).map_err(failed)
}

fn is_missed(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Deleted | Outcome::WouldDelete | Outcome::NotChosen)
}

/// Lines as they came.
struct Json {
    deletes: bool,
    missed: bool,
}

impl Printer for Json {
    fn line(&mut self, line: &str) -> Result<(), CtlError> {
        if self.deletes {
            self.missed |= is_missed(parse::<OutcomeRow>(line)?.outcome);
        }
        write(&format!("{line}\n"))
    }

    fn end(&mut self) -> Result<(), CtlError> {
        if self.missed { Err(CtlError::NotAll) } else { Ok(()) }
    }
}

/// A table of one kind of row.
struct Rows<T> {
    table: Table,
    cells: fn(&T) -> Vec<String>,
}

impl<T> Rows<T> {
    fn new(header: &'static [&'static str], cells: fn(&T) -> Vec<String>) -> Self {
        Self { table: Table::new(header), cells }
    }
}

impl<T: for<'a> Deserialize<'a>> Printer for Rows<T> {
    fn line(&mut self, line: &str) -> Result<(), CtlError> {
        self.table.row((self.cells)(&parse(line)?))
    }

    fn end(&mut self) -> Result<(), CtlError> {
        self.table.end()
    }
}

const SESSIONS: &[&str] = &[
    "CLIENT",
    "STATE",
    "ADDRESS",
    "EXPIRES",
    "SUBS",
    "INFLIGHT",
    "PENDING",
    "BYTES",
    "OLDEST",
    "WILL",
    "PARTITION",
];

fn session_cells(row: &SessionRow) -> Vec<String> {
    vec![
        text(&row.client_id),
        state(row),
        row.address.clone().unwrap_or_else(dash),
        expires(row),
        row.subscriptions.to_string(),
        row.in_flight.to_string(),
        row.pending.to_string(),
        bytes(row.pending_bytes),
        row.oldest.as_ref().map_or_else(dash, oldest),
        row.will.as_ref().map_or_else(dash, |_| "yes".to_owned()),
        format!("p{} core {}", row.partition, row.core),
    ]
}

fn state(row: &SessionRow) -> String {
    match (row.connected, row.absent_since_ms) {
        (true, _) => {
            let since = row.connected_since_ms.map(|at| format!(" since {}", short_time(at)));
            format!("connected{}", since.unwrap_or_default())
        }
        (false, Some(since)) => format!("absent since {}", short_time(since)),
        (false, None) => "absent".to_owned(),
    }
}

const GROUPS: &[&str] = &[
    "GROUP",
    "FILTER",
    "MEMBERS",
    "INFLIGHT",
    "PENDING",
    "BYTES",
    "OLDEST",
    "IN LOG",
    "PARTITION",
];

fn group_cells(row: &GroupRow) -> Vec<String> {
    vec![
        text(&row.name),
        text(&row.filter),
        format!("{} ({} connected)", row.members, row.connected),
        row.in_flight.to_string(),
        row.pending.to_string(),
        bytes(row.pending_bytes),
        row.oldest.as_ref().map_or_else(dash, oldest),
        if row.durable { "yes" } else { "no" }.to_owned(),
        format!("p{} core {}", row.partition, row.core),
    ]
}

fn expires(row: &SessionRow) -> String {
    match (row.expires_ms, row.expiry_secs) {
        (Some(at), _) => short_time(at),
        (None, Some(0)) => "at its end".to_owned(),
        (None, Some(secs)) => format!("{} after its end", span(secs.into())),
        (None, None) => "never".to_owned(),
    }
}

fn oldest(row: &OldestRow) -> String {
    let age = row.age_ms.map(|ms| span(ms / 1000));
    let place = row.partition.zip(row.offset).map(|(p, offset)| {
        let behind = row.behind.unwrap_or(0);
        format!("p{p}@{offset} ({behind} behind)")
    });
    [age, place].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// One session, and then its subscriptions.
struct OneSession {
    seen: bool,
    table: Table,
}

impl OneSession {
    fn new() -> Self {
        Self { seen: false, table: Table::new(&SUBSCRIPTIONS[1..]) }
    }
}

impl Printer for OneSession {
    fn line(&mut self, line: &str) -> Result<(), CtlError> {
        if self.seen {
            let cells = subscription_cells(&parse(line)?);
            return self.table.row(cells[1..].to_vec());
        }
        self.seen = true;
        let row: SessionRow = parse(line)?;
        let will = row.will.as_ref().map_or_else(dash, |will| {
            let retain = if will.retain { ", retained" } else { "" };
            let (topic, bytes) = (text(&will.topic), will.payload_bytes);
            format!("{topic}, QoS {}{retain}, {bytes} bytes, after {} s", will.qos, will.delay_secs)
        });
        let durable = if row.durable { "yes" } else { "no" };
        write(&format!(
            "client         {}\nstate          {}\naddress        {}\nexpires        {}\nin the log     {durable}\n\
             partition      {}, on core {}\nin flight      {}\npending        {} ({})\n\
             oldest         {}\nwill           {will}\nsubscriptions  {}\n\n",
            text(&row.client_id),
            state(&row),
            row.address.clone().unwrap_or_else(dash),
            expires(&row),
            row.partition,
            row.core,
            row.in_flight,
            row.pending,
            bytes(row.pending_bytes),
            row.oldest.as_ref().map_or_else(dash, oldest),
            row.subscriptions,
        ))
    }

    fn end(&mut self) -> Result<(), CtlError> {
        self.table.end()
    }
}

const SUBSCRIPTIONS: &[&str] = &["CLIENT", "FILTER", "QOS", "OPTIONS", "ID", "GROUP"];

fn subscription_cells(row: &SubscriptionRow) -> Vec<String> {
    let options = [(row.no_local, "no-local"), (row.retain_as_published, "retain-as-published")];
    let set: Vec<&str> = options.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    vec![
        text(&row.client_id),
        text(&row.filter),
        row.qos.to_string(),
        if set.is_empty() { dash() } else { set.join(",") },
        row.id.map_or_else(dash, |id| id.to_string()),
        row.group.as_deref().map_or_else(dash, text),
    ]
}

const RETAINED: &[&str] = &["TOPIC", "QOS", "BYTES", "ACCEPTED", "EXPIRES", "RECORD"];

fn retained_cells(row: &RetainedRow) -> Vec<String> {
    let record = row.partition.zip(row.offset);
    vec![
        text(&row.topic),
        row.qos.to_string(),
        row.payload_bytes.to_string(),
        short_time(row.accepted_ms),
        row.expires_ms.map_or_else(|| "never".to_owned(), short_time),
        record.map_or_else(dash, |(partition, offset)| format!("p{partition}@{offset}")),
    ]
}

/// One retained message with its payload, or that alone.
struct OneMessage {
    raw: bool,
}

impl Printer for OneMessage {
    fn line(&mut self, line: &str) -> Result<(), CtlError> {
        let row: RetainedRow = parse(line)?;
        let payload = match (&row.payload, &row.payload_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(text)) => crate::websocket::base64::decode(text).unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        if self.raw {
            return io::stdout().write_all(&payload).map_err(|error| output(&error));
        }
        let cells = retained_cells(&row);
        for (name, cell) in RETAINED.iter().zip(&cells) {
            write(&format!("{:10}{cell}\n", name.to_lowercase()))?;
        }
        write(&format!("payload   {}\n", payload.escape_ascii()))
    }

    fn end(&mut self) -> Result<(), CtlError> {
        io::stdout().flush().map_err(|error| output(&error))
    }
}

/// What was deleted.
struct Outcomes {
    /// Deleted, and not.
    counts: [u64; 2],
}

impl Printer for Outcomes {
    fn line(&mut self, line: &str) -> Result<(), CtlError> {
        let OutcomeRow { name, outcome } = parse(line)?;
        self.counts[usize::from(is_missed(outcome))] += 1;
        let outcome = match outcome {
            Outcome::Deleted => "deleted",
            Outcome::WouldDelete => "would be deleted",
            Outcome::NotFound => "NOT FOUND",
            Outcome::NotChosen => "left alone: it has changed",
            Outcome::Busy => "NOT DELETED: the log is behind; try again",
            Outcome::Full => "NOT DELETED: no room in the log, or in a subscriber's backlog",
            Outcome::Failed => "NOT DELETED: the log of its partition has failed",
        };
        write(&format!("{}  {outcome}\n", text(&name)))
    }

    fn end(&mut self) -> Result<(), CtlError> {
        let [_, missed] = self.counts;
        if missed == 0 { Ok(()) } else { Err(CtlError::NotAll) }
    }
}

const STREAMS: &[&str] =
    &["STREAM", "LEVEL", "KEPT FOR", "KEPT BYTES", "QOS 0", "WHEN FULL", "FILTERS"];
const PARTITIONS: &[&str] =
    &["PARTITION", "CORE", "STATE", "SEGMENTS", "BYTES", "FIRST", "FLUSHED", "NEXT", "NEEDED BY"];

/// Streams, then partitions.
struct Streams {
    streams: Table,
    partitions: Table,
    has_partitions: bool,
}

impl Streams {
    fn new() -> Self {
        let (streams, partitions) = (Table::new(STREAMS), Table::new(PARTITIONS));
        Self { streams, partitions, has_partitions: false }
    }
}

impl Printer for Streams {
    fn line(&mut self, line: &str) -> Result<(), CtlError> {
        match parse(line)? {
            StreamsRow::Stream(row) => self.streams.row(stream_cells(&row)),
            StreamsRow::Partition(row) => {
                self.has_partitions = true;
                self.partitions.row(partition_cells(&row))
            }
        }
    }

    fn end(&mut self) -> Result<(), CtlError> {
        self.streams.end()?;
        if !self.has_partitions {
            return Ok(());
        }
        write("\n")?;
        self.partitions.end()
    }
}

fn stream_cells(row: &StreamRow) -> Vec<String> {
    let always = || "always".to_owned();
    vec![
        text(&row.name),
        row.level.clone(),
        row.retention_secs.map_or_else(always, span),
        row.retention_bytes.map_or_else(|| "any".to_owned(), bytes),
        if row.capture_qos0 { "logged" } else { "-" }.to_owned(),
        row.when_full.clone(),
        row.filters.iter().map(|filter| text(filter)).collect::<Vec<_>>().join(" "),
    ]
}

fn partition_cells(row: &PartitionRow) -> Vec<String> {
    let needed: Vec<String> = row.needed.iter().map(need).collect();
    vec![
        format!("p{}", row.partition),
        row.core.to_string(),
        row.state.clone(),
        row.segments.to_string(),
        bytes(row.bytes),
        row.first_offset.to_string(),
        row.flushed_offset.to_string(),
        row.next_offset.to_string(),
        if needed.is_empty() { dash() } else { needed.join(", ") },
    ]
}

fn need(need: &NeedRow) -> String {
    let by = match need.by {
        Need::Session => format!("session {}", text(&need.name)),
        Need::Group => format!("group {}", text(&need.name)),
        Need::Cursor => format!("cursor of p{}", need.name),
        Need::Checkpoint => "checkpoint".to_owned(),
    };
    format!("{by} from {}", need.offset)
}

fn text(text: &str) -> String {
    text.escape_debug().to_string()
}

fn dash() -> String {
    "-".to_owned()
}

/// A time without milliseconds.
fn short_time(unix_ms: u64) -> String {
    let mut text = time(unix_ms - unix_ms % 1000);
    text.truncate(19);
    text.push('Z');
    text
}

/// A number of bytes in the unit that suits it.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// Seconds in the unit that suits them.
fn span(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs}s"),
        120..7200 => format!("{}m", secs / 60),
        7200..172_800 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_unit_that_suits_them() {
        assert_eq!([bytes(0), bytes(20_000), bytes(1 << 30)], ["0 B", "19 KiB", "1024 MiB"]);
        assert_eq!([span(5), span(600), span(90_000), span(864_000)], ["5s", "10m", "25h", "10d"]);
        assert_eq!(short_time(1_700_000_000_123), "2023-11-14T22:13:20Z");
    }
}
