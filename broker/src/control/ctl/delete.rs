//! Deletions: what was chosen is listed a page at a time, and deleted partition by partition.

use super::ask::Failed;
use super::{Answerer, Lines};
use crate::admin::{DELETED_PER_MAIL, Question, Reply};
use crate::ctl::rows::{Outcome, OutcomeRow, SessionChoice};
use ringlane_dataplane::ids::PartitionId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a log that is behind is asked again.
const BUSY_MAX: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

impl Answerer {
    pub(super) async fn end_sessions(
        &self,
        clients: Vec<String>,
        choose: SessionChoice,
        dry_run: bool,
        lines: &mut Lines,
    ) -> Result<(), Failed> {
        if !clients.is_empty() {
            return self.end_named(clients, &choose, dry_run, lines).await;
        }
        if choose == SessionChoice::default() {
            return Err(Failed::Wrong("which sessions? None is named or chosen".to_owned()));
        }
        for core in self.asker.cores() {
            let mut from = Some(0);
            while let Some(begin) = from {
                let page = self.session_page(core, begin, &choose).await?;
                let clients = page.rows.into_iter().map(|row| row.client_id).collect();
                self.end_named(clients, &choose, dry_run, lines).await?;
                from = page.next;
            }
        }
        Ok(())
    }

    async fn end_named(
        &self,
        clients: Vec<String>,
        choose: &SessionChoice,
        dry_run: bool,
        lines: &mut Lines,
    ) -> Result<(), Failed> {
        if dry_run {
            return lines.send(&would_delete(clients)).await;
        }
        let placement = self.asker.placement;
        let of = |client: &str| placement.partition_of(placement.client_hash(client));
        let ask = |partition, clients, reply| {
            let choose = choose.clone();
            Question::EndSessions { partition, clients, choose, reply }
        };
        self.delete(clients, of, ask, lines).await
    }

    pub(super) async fn clear_retained(
        &self,
        filter: &str,
        dry_run: bool,
        lines: &mut Lines,
    ) -> Result<(), Failed> {
        if !filter.contains(['+', '#']) && !dry_run {
            return self.clear_topics(vec![filter.to_owned()], lines).await;
        }
        for core in self.asker.cores() {
            let mut after = Some(None);
            while let Some(begin) = after {
                let page = self.retained_page(core, filter, begin).await?;
                let topics = page.rows.into_iter().map(|(row, _)| row.topic).collect();
                match dry_run {
                    true => lines.send(&would_delete(topics)).await?,
                    false => self.clear_topics(topics, lines).await?,
                }
                after = page.next.map(Some);
            }
        }
        Ok(())
    }

    async fn clear_topics(&self, topics: Vec<String>, lines: &mut Lines) -> Result<(), Failed> {
        let of = |topic: &str| self.asker.placement.topic_partition(topic);
        let ask = |partition, topics, reply| Question::ClearRetained { partition, topics, reply };
        self.delete(topics, of, ask, lines).await
    }

    async fn delete(
        &self,
        names: Vec<String>,
        partition_of: impl Fn(&str) -> PartitionId,
        ask: impl Fn(PartitionId, Vec<String>, Reply<Vec<Outcome>>) -> Question,
        lines: &mut Lines,
    ) -> Result<(), Failed> {
        let mut by_partition: BTreeMap<PartitionId, Vec<String>> = BTreeMap::new();
        for name in names {
            by_partition.entry(partition_of(&name)).or_default().push(name);
        }
        for (partition, names) in by_partition {
            for names in names.chunks(DELETED_PER_MAIL) {
                let rows = self.delete_some(partition, names, &ask).await?;
                lines.send(&rows).await?;
            }
        }
        Ok(())
    }

    /// Deletes names of one partition; those that were refused because it is behind again and again.
    async fn delete_some(
        &self,
        partition: PartitionId,
        names: &[String],
        ask: &impl Fn(PartitionId, Vec<String>, Reply<Vec<Outcome>>) -> Question,
    ) -> Result<Vec<OutcomeRow>, Failed> {
        let core = self.asker.placement.owner(partition);
        let (mut left, mut rows) = (names.to_vec(), Vec::new());
        let deadline = Instant::now() + BUSY_MAX;
        loop {
            let asked = left.clone();
            let outcomes = self.asker.ask(core, |reply| ask(partition, asked, reply)).await?;
            let is_late = deadline <= Instant::now();
            let mut busy = Vec::new();
            for (name, outcome) in left.drain(..).zip(outcomes) {
                match outcome {
                    Outcome::Busy if !is_late => busy.push(name),
                    _ => rows.push(OutcomeRow { name, outcome }),
                }
            }
            if busy.is_empty() {
                return Ok(rows);
            }
            left = busy;
            sleep(BUSY_PAUSE).await;
        }
    }
}

fn would_delete(names: Vec<String>) -> Vec<OutcomeRow> {
    let row = |name| OutcomeRow { name, outcome: Outcome::WouldDelete };
    names.into_iter().map(row).collect()
}
