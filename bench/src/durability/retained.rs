//! What a new subscriber finds retained, beside what was acknowledged last.

use super::book::{Fate, Kind, MessageId};
use super::findings::Check;
use super::journal::Journal;
use crate::fleet::{self, Target};
use crate::login::Login;
use crate::swarm::{Event, Leave, Swarm};
use anyhow::Result;
use ringlane_mqtt::{Packet, QoS};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the connection of the reader may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a value may be missing until it counts as missing.
const SILENCE: Duration = Duration::from_secs(2);
/// How long is waited for values that should not be there.
const EXTRA: Duration = Duration::from_millis(5);

/// Who looks.
const READER: &str = "ledger-reader";

/// Looks at every retained topic once.
///
/// # Errors
/// If the broker does not let the reader in.
pub(super) fn check(target: &Target, journal: &mut Journal) -> Result<()> {
    let streams: Vec<usize> = (0..journal.book.streams.len())
        .filter(|stream| journal.book.streams[*stream].kind == Kind::Retained)
        .collect();
    let expected = streams.iter().filter(|stream| must_have_value(journal, **stream)).count();
    let topics = streams.iter().map(|stream| journal.book.streams[*stream].topic.as_str());
    let mut found = read(target, &topics.collect::<Vec<_>>(), expected)?;
    for stream in streams {
        let topic = journal.book.streams[stream].topic.clone();
        judge(journal, stream, found.remove(&topic).as_deref());
    }
    for (topic, payload) in found {
        let what = format!("{} bytes are retained under {topic:?}", payload.len());
        journal.violate(Check::Retained, READER, &what);
    }
    Ok(())
}

/// The values that a stream's topic may have: the last acknowledged, or what perhaps came after it.
fn acceptable(journal: &Journal, stream: usize) -> (Option<u64>, Vec<u64>) {
    let entries = &journal.book.streams[stream].entries;
    let last = entries.iter().rposition(|entry| entry.fate == Fate::Kept);
    let after = last.map_or(0, |last| last + 1);
    let maybe = (after..entries.len()).filter(|place| entries[*place].fate == Fate::Unknown);
    let all = last.into_iter().chain(maybe).map(|place| place as u64).collect();
    (last.map(|last| last as u64), all)
}

fn must_have_value(journal: &Journal, stream: usize) -> bool {
    let (last, all) = acceptable(journal, stream);
    let entries = &journal.book.streams[stream].entries;
    last.is_some() && all.iter().all(|sequence| !entries[*sequence as usize].clears)
}

fn judge(journal: &mut Journal, stream: usize, payload: Option<&[u8]>) {
    let (last, all) = acceptable(journal, stream);
    let topic = journal.book.streams[stream].topic.clone();
    let Some(payload) = payload else {
        if must_have_value(journal, stream) {
            let sequence = last.unwrap_or_default();
            let what = "was acknowledged, and nothing is retained";
            let id = MessageId { stream, sequence };
            journal.violate_message(Check::Retained, READER, id, what);
        }
        return;
    };
    match journal.book.find(&topic, payload) {
        Ok(id) if all.contains(&id.sequence) && !journal.book.entry(id).clears => {}
        Ok(id) => {
            let wanted = all.iter().map(u64::to_string).collect::<Vec<_>>().join(" or ");
            let what = format!("is retained in place of {wanted}");
            journal.violate_message(Check::Retained, READER, id, &what);
        }
        Err(why) => journal.violate(Check::Retained, READER, &format!("retained: {why}")),
    }
}

/// Subscribes to each topic as a new client, and collects until `expected` values are there or nothing
/// comes.
fn read(target: &Target, topics: &[&str], expected: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut swarm = Swarm::new()?;
    let reader = fleet::connect_all(&mut swarm, target, &[Login::clean(READER)], CONNECT_MAX)?;
    let link = reader[0].link;
    let filters: Vec<(&str, QoS)> = topics.iter().map(|it| (*it, QoS::AtLeastOnce)).collect();
    if let Some(out) = swarm.out(link) {
        fleet::write_subscribe(out, target.version, 1, &filters);
    }
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut is_subscribed = false;
    let mut deadline = Instant::now() + SILENCE;
    let mut is_complete = false;
    while Instant::now() < deadline {
        swarm.poll(Duration::from_millis(1), &mut |_, _, event| match event {
            Event::Packet(Packet::Publish(publish)) => {
                found.insert(publish.topic.to_owned(), publish.payload.to_vec());
            }
            Event::Packet(Packet::Suback(_)) => is_subscribed = true,
            _ => {}
        })?;
        if is_subscribed && found.len() >= expected && !is_complete {
            is_complete = true;
            deadline = Instant::now() + EXTRA;
        }
    }
    fleet::leave_all(&mut swarm, target.version, &[link])?;
    swarm.close(link, Leave::Finish);
    Ok(found)
}
