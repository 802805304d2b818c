//! Lists: page after page of each core, sent on before the next one is asked for.

use super::ask::Failed;
use super::{Answerer, Lines};
use crate::admin::{LogView, Page, Question, SubscriptionPlace};
use crate::config::StreamConfig;
use crate::ctl::rows::{
    GroupRow, Need, NeedRow, OldestRow, PartitionRow, Request, RetainedRow, SessionChoice,
    SessionRow, StreamRow, StreamsRow, SubscriptionChoice,
};
use crate::websocket::base64;
use ringlane_dataplane::ids::{CoreId, PartitionId};
use ringlane_dataplane::log::format::partition_directory;
use ringlane_mqtt::topic::{self, TopicFilter};
use std::collections::BTreeMap;

impl Answerer {
    /// Answers a request, line by line.
    pub(super) async fn answer(&self, request: Request, lines: &mut Lines) -> Result<(), Failed> {
        match request {
            Request::Sessions { choose } => self.sessions(choose, lines).await,
            Request::Session { client_id } => self.session(client_id, lines).await,
            Request::EndSessions { clients, choose, dry_run } => {
                self.end_sessions(clients, choose, dry_run, lines).await
            }
            Request::Groups => self.groups(lines).await,
            Request::Subscriptions { choose } => self.subscriptions(choose, lines).await,
            Request::Retained { filter } => self.retained(&checked(filter)?, lines).await,
            Request::RetainedMessage { topic } => self.retained_message(topic, lines).await,
            Request::ClearRetained { filter, dry_run } => {
                self.clear_retained(&checked(filter)?, dry_run, lines).await
            }
            Request::Streams => self.streams(lines).await,
        }
    }

    /// A page of the sessions of a core.
    pub(super) async fn session_page(
        &self,
        core: CoreId,
        from: u32,
        choose: &SessionChoice,
    ) -> Result<Page<SessionRow, u32>, Failed> {
        let choose = choose.clone();
        self.asker.ask(core, |reply| Question::Sessions { from, choose, reply }).await
    }

    async fn sessions(&self, choose: SessionChoice, lines: &mut Lines) -> Result<(), Failed> {
        for core in self.asker.cores() {
            let mut from = Some(0);
            while let Some(begin) = from {
                let page = self.session_page(core, begin, &choose).await?;
                lines.send(&page.rows).await?;
                from = page.next;
            }
        }
        Ok(())
    }

    async fn groups(&self, lines: &mut Lines) -> Result<(), Failed> {
        for core in self.asker.cores() {
            let mut from = Some(0);
            while let Some(begin) = from {
                let page = self.group_page(core, begin).await?;
                lines.send(&page.rows).await?;
                from = page.next;
            }
        }
        Ok(())
    }

    async fn group_page(&self, core: CoreId, from: u32) -> Result<Page<GroupRow, u32>, Failed> {
        self.asker.ask(core, |reply| Question::Groups { from, reply }).await
    }

    async fn session(&self, client_id: String, lines: &mut Lines) -> Result<(), Failed> {
        let core = self.asker.placement.client_owner(&client_id);
        let client = client_id.clone();
        let found = self.asker.ask(core, |reply| Question::Session { client_id, reply }).await?;
        let Some(row) = found else {
            return Err(Failed::Wrong(format!("there is no session of {client:?}")));
        };
        lines.send(&[row]).await?;
        let choose = SubscriptionChoice { client_id: Some(client), topic: None };
        self.subscriptions_of(core, &choose, lines).await
    }

    async fn subscriptions(
        &self,
        choose: SubscriptionChoice,
        lines: &mut Lines,
    ) -> Result<(), Failed> {
        if let Some(client_id) = &choose.client_id {
            let core = self.asker.placement.client_owner(client_id);
            return self.subscriptions_of(core, &choose, lines).await;
        }
        if let Some(topic) = choose.topic.as_ref().filter(|text| !topic::is_valid_name(text)) {
            return Err(Failed::Wrong(format!("{topic:?} is no topic name")));
        }
        for core in self.asker.cores() {
            self.subscriptions_of(core, &choose, lines).await?;
        }
        Ok(())
    }

    async fn subscriptions_of(
        &self,
        core: CoreId,
        choose: &SubscriptionChoice,
        lines: &mut Lines,
    ) -> Result<(), Failed> {
        let mut next = Some(SubscriptionPlace::default());
        while let Some(from) = next {
            let choose = choose.clone();
            let question = |reply| Question::Subscriptions { from, choose, reply };
            let page = self.asker.ask(core, question).await?;
            lines.send(&page.rows).await?;
            next = page.next;
        }
        Ok(())
    }

    async fn retained(&self, filter: &str, lines: &mut Lines) -> Result<(), Failed> {
        for core in self.asker.cores() {
            let mut after = Some(None);
            while let Some(begin) = after {
                let page = self.retained_page(core, filter, begin).await?;
                let rows: Vec<RetainedRow> = page.rows.into_iter().map(|(row, _)| row).collect();
                lines.send(&rows).await?;
                after = page.next.map(Some);
            }
        }
        Ok(())
    }

    /// A page of the retained messages of a core.
    pub(super) async fn retained_page(
        &self,
        core: CoreId,
        filter: &str,
        after: Option<Box<str>>,
    ) -> Result<Page<(RetainedRow, ringlane_dataplane::message::Message), Box<str>>, Failed> {
        let filter = filter.to_owned();
        self.asker.ask(core, |reply| Question::Retained { filter, after, reply }).await
    }

    async fn retained_message(&self, topic: String, lines: &mut Lines) -> Result<(), Failed> {
        if !topic::is_valid_name(&topic) {
            return Err(Failed::Wrong(format!("{topic:?} is no topic name")));
        }
        let core = self.asker.placement.topic_owner(&topic);
        let page = self.retained_page(core, &topic, None).await?;
        let Some((mut row, message)) = page.rows.into_iter().next() else {
            return Err(Failed::Wrong(format!("there is no retained message of {topic:?}")));
        };
        match core::str::from_utf8(message.payload()) {
            Ok(text) => row.payload = Some(text.to_owned()),
            Err(_) => row.payload_base64 = Some(base64::text(message.payload())),
        }
        lines.send(&[row]).await
    }

    async fn streams(&self, lines: &mut Lines) -> Result<(), Failed> {
        let streams = self.streams.iter().map(|stream| StreamsRow::Stream(stream_row(stream)));
        lines.send(&streams.collect::<Vec<_>>()).await?;
        let mut needs = Needs::default();
        let mut logs = Vec::new();
        for core in self.asker.cores() {
            logs.extend(self.asker.ask(core, |reply| Question::Logs { reply }).await?);
        }
        for LogView { row, matched } in &logs {
            for (partition, offset) in matched {
                needs.add(*partition, *offset, Need::Cursor, || row.partition.to_string());
            }
        }
        self.session_needs(&mut needs).await?;
        self.group_needs(&mut needs).await?;
        logs.sort_by_key(|log| log.row.partition);
        let rows = logs.into_iter().map(|log| {
            let mut needed = needs.take(log.row.partition);
            needed.extend(self.checkpoint_need(&log.row));
            needed.sort_by_key(|need| need.offset);
            StreamsRow::Partition(PartitionRow { needed, ..log.row })
        });
        lines.send(&rows.collect::<Vec<_>>()).await
    }

    /// The session that is owed the oldest record of each log.
    async fn session_needs(&self, needs: &mut Needs) -> Result<(), Failed> {
        let owed = SessionChoice { owed: true, ..SessionChoice::default() };
        for core in self.asker.cores() {
            let mut from = Some(0);
            while let Some(begin) = from {
                let page = self.session_page(core, begin, &owed).await?;
                for row in &page.rows {
                    needs.add_oldest(&row.oldest, Need::Session, || row.client_id.clone());
                }
                from = page.next;
            }
        }
        Ok(())
    }

    /// The same of groups.
    async fn group_needs(&self, needs: &mut Needs) -> Result<(), Failed> {
        for core in self.asker.cores() {
            let mut from = Some(0);
            while let Some(begin) = from {
                let page = self.group_page(core, begin).await?;
                for row in &page.rows {
                    let name = || format!("$share/{}/{}", row.name, row.filter);
                    needs.add_oldest(&row.oldest, Need::Group, name);
                }
                from = page.next;
            }
        }
        Ok(())
    }

    /// What a start would read of a log: from the older of the two newest checkpoints on, whose names
    /// are offsets (docs/formats/state.md).
    fn checkpoint_need(&self, row: &PartitionRow) -> Option<NeedRow> {
        let directory = self
            .shown
            .borrow()
            .facts
            .data_dir
            .join(partition_directory(PartitionId(row.partition)));
        let names = std::fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok());
        let mut offsets: Vec<u64> = names
            .filter_map(|entry| {
                entry.file_name().to_str()?.strip_suffix(".checkpoint")?.parse().ok()
            })
            .collect();
        offsets.sort_unstable();
        let offset = offsets.iter().rev().take(2).next_back().copied()?;
        Some(NeedRow { offset, by: Need::Checkpoint, name: String::new() })
    }
}

/// The lowest offset of each log that somebody needs, by kind.
#[derive(Debug, Default)]
struct Needs(BTreeMap<u32, Vec<NeedRow>>);

impl Needs {
    fn add(&mut self, partition: u32, offset: u64, by: Need, name: impl FnOnce() -> String) {
        let needs = self.0.entry(partition).or_default();
        match needs.iter_mut().find(|need| need.by == by) {
            Some(lowest) if lowest.offset <= offset => {}
            Some(lowest) => *lowest = NeedRow { offset, by, name: name() },
            None => needs.push(NeedRow { offset, by, name: name() }),
        }
    }

    fn add_oldest(&mut self, oldest: &Option<OldestRow>, by: Need, name: impl FnOnce() -> String) {
        let place = oldest.as_ref().and_then(|oldest| oldest.partition.zip(oldest.offset));
        if let Some((partition, offset)) = place {
            self.add(partition, offset, by, name);
        }
    }

    fn take(&mut self, partition: u32) -> Vec<NeedRow> {
        self.0.remove(&partition).unwrap_or_default()
    }
}

fn stream_row(stream: &StreamConfig) -> StreamRow {
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    StreamRow {
        name: stream.name.clone(),
        filters: stream.filters.clone(),
        level: word(serde_json::to_value(stream.level)),
        retention_secs: Some(stream.retention_age.as_secs()).filter(|secs| *secs != 0),
        retention_bytes: Some(stream.retention_size).filter(|bytes| *bytes != 0),
        capture_qos0: stream.capture_qos0,
        when_full: word(serde_json::to_value(stream.when_full)),
    }
}

/// A topic filter that is well-formed and no group's.
fn checked(filter: String) -> Result<String, Failed> {
    let problem = match TopicFilter::parse(&filter) {
        Ok(parsed) if parsed.share.is_none() => return Ok(filter),
        Ok(_) => "a shared subscription is no topic filter".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Failed::Wrong(format!("{filter:?}: {problem}")))
}
