//! The JSON of etcd's gateway: keys and values in base64, 64-bit numbers as text, and what is zero
//! or false left out.
//!
//! Source: `rpc.proto` of etcd 3.4 and its mapping to JSON (etcd.io/docs, "Why gRPC gateway").

use crate::cluster::metadata::{Condition, KeyValue, LeaseId, Snapshot, Transaction};
use crate::websocket::base64;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

/// The paths of the calls, etcd 3.4 and later.
pub(super) mod path {
    pub(in crate::cluster::etcd) const RANGE: &str = "/v3/kv/range";
    pub(in crate::cluster::etcd) const TXN: &str = "/v3/kv/txn";
    pub(in crate::cluster::etcd) const GRANT: &str = "/v3/lease/grant";
    pub(in crate::cluster::etcd) const KEEP_ALIVE: &str = "/v3/lease/keepalive";
    pub(in crate::cluster::etcd) const REVOKE: &str = "/v3/lease/revoke";
    pub(in crate::cluster::etcd) const REMAINING: &str = "/v3/lease/timetolive";
    pub(in crate::cluster::etcd) const WATCH: &str = "/v3/watch";
    pub(in crate::cluster::etcd) const AUTHENTICATE: &str = "/v3/auth/authenticate";
    pub(in crate::cluster::etcd) const STATUS: &str = "/v3/maintenance/status";
}

/// A number that comes as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Number(pub(super) i64);

impl Number {
    /// Revisions and lease identifiers are not negative.
    pub(super) fn unsigned(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => text.parse().map(Self).map_err(D::Error::custom),
            Value::Number(number) => {
                number.as_i64().map(Self).ok_or_else(|| D::Error::custom("a number too large"))
            }
            other => Err(D::Error::custom(format!("{other} is no number"))),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) revision: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Kv {
    key: String,
    value: String,
    mod_revision: Number,
    lease: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RangeAnswer {
    pub(super) header: Header,
    pub(super) kvs: Vec<Kv>,
}

impl RangeAnswer {
    /// What was read, at `revision`: that of the whole answer.
    pub(super) fn snapshot(self, prefix: &str, revision: u64) -> Result<Snapshot, String> {
        let entries = self.kvs.into_iter().map(|kv| entry(prefix, kv));
        Ok(Snapshot { revision, entries: entries.collect::<Result<_, _>>()? })
    }
}

fn entry(prefix: &str, kv: Kv) -> Result<KeyValue, String> {
    let bytes = |text: &str| base64::decode(text).ok_or_else(|| format!("{text} is no base64"));
    let key = String::from_utf8(bytes(&kv.key)?).map_err(|error| error.to_string())?;
    let key = key.strip_prefix(prefix).ok_or_else(|| format!("key {key} was not asked for"))?;
    let key = key.to_owned();
    let lease = kv.lease.unsigned();
    Ok(KeyValue {
        key,
        value: bytes(&kv.value)?,
        modified: kv.mod_revision.unsigned(),
        lease: (lease != 0).then_some(LeaseId(lease)),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    responses: Vec<TxnPart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TxnPart {
    response_range: Option<RangeAnswer>,
}

impl TxnAnswer {
    /// What was read because the conditions did not hold.
    pub(super) fn snapshot(self, prefix: &str) -> Result<Snapshot, String> {
        let revision = self.header.revision.unsigned();
        let range = self.responses.into_iter().find_map(|part| part.response_range);
        range.unwrap_or_default().snapshot(prefix, revision)
    }
}

/// Of a lease: grant, keep-alive, time to live.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LeaseAnswer {
    /// Seconds; 0 or below: there is no such lease.
    #[serde(rename = "TTL")]
    pub(super) ttl: Number,
}

/// A line of a stream, or the answer of a call that is one.
#[derive(Debug, Deserialize)]
pub(super) struct StreamLine<T> {
    pub(super) result: Option<T>,
    pub(super) error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchAnswer {
    pub(super) header: Header,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: Number,
    pub(super) events: Vec<Value>,
    pub(super) cancel_reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenAnswer {
    pub(super) token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StatusAnswer {
    pub(super) version: String,
}

/// An error of etcd: its gRPC code and what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) code: i64,
    pub(super) message: String,
}

impl Refusal {
    /// An answer that is no success. What is no JSON is shown as it is.
    pub(super) fn parse(body: &[u8]) -> Self {
        let unknown = || String::from_utf8_lossy(body).trim().chars().take(200).collect();
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::from_value(&value),
            Err(_) => Self { code: 2, message: unknown() },
        }
    }

    /// The error of a call, or of a stream, which names its code differently.
    pub(super) fn from_value(value: &Value) -> Self {
        let code = value.get("code").or_else(|| value.get("grpc_code")).and_then(Value::as_i64);
        let message = value.get("message").or_else(|| value.get("error")).and_then(Value::as_str);
        let message = message.map_or_else(|| value.to_string(), ToOwned::to_owned);
        Self { code: code.unwrap_or(2), message }
    }

    /// Whether another endpoint may do better: unavailable, timed out, overloaded, aborted.
    pub(super) fn is_of_this_endpoint(&self) -> bool {
        matches!(self.code, 1 | 4 | 8 | 10 | 14)
    }

    /// Whether name and password have to be shown again.
    pub(super) fn wants_authentication(&self) -> bool {
        // Revised permissions end a token with code 9 ("revision of auth store is old").
        self.code == 16 || self.message.contains("auth store is old")
    }

    pub(super) fn is_lost_lease(&self) -> bool {
        self.message.contains("requested lease not found")
    }

    pub(super) fn is_known_lease(&self) -> bool {
        self.message.contains("lease already exists")
    }
}

fn bytes(text: &str) -> String {
    base64::text(text.as_bytes())
}

/// The whole key, as etcd has it.
fn whole(prefix: &str, key: &str) -> String {
    bytes(&format!("{prefix}{key}"))
}

/// The first key behind all that begin with `prefix`.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xff, so that the last one can be made one higher.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    base64::text(&end)
}

pub(super) fn range(prefix: &str) -> String {
    json!({ "key": bytes(prefix), "range_end": end_of(prefix) }).to_string()
}

pub(super) fn txn(prefix: &str, transaction: &Transaction) -> String {
    let compare = |condition: &Condition| match condition {
        Condition::Holds { key, value } => json!({
            "key": whole(prefix, key), "target": "VALUE", "result": "EQUAL",
            "value": base64::text(value),
        }),
        Condition::Modified { key, revision } => json!({
            "key": whole(prefix, key), "target": "MOD", "result": "EQUAL",
            "mod_revision": revision.to_string(),
        }),
    };
    let puts = transaction.puts.iter().map(|put| {
        let lease = put.lease.map_or(0, |lease| lease.0).to_string();
        let value = base64::text(&put.value);
        json!({ "request_put": { "key": whole(prefix, &put.key), "value": value, "lease": lease } })
    });
    let read = json!({ "request_range": { "key": bytes(prefix), "range_end": end_of(prefix) } });
    json!({
        "compare": transaction.conditions.iter().map(compare).collect::<Vec<_>>(),
        "success": puts.collect::<Vec<_>>(),
        "failure": [read],
    })
    .to_string()
}

pub(super) fn grant(lease: LeaseId, ttl_secs: u64) -> String {
    json!({ "ID": lease.0.to_string(), "TTL": ttl_secs.to_string() }).to_string()
}

pub(super) fn lease(lease: LeaseId) -> String {
    json!({ "ID": lease.0.to_string() }).to_string()
}

pub(super) fn watch(prefix: &str, from_revision: u64) -> String {
    let (key, range_end) = (bytes(prefix), end_of(prefix));
    let start_revision = from_revision.to_string();
    json!({
        "create_request": { "key": key, "range_end": range_end, "start_revision": start_revision }
    })
    .to_string()
}

#[derive(Serialize)]
pub(super) struct Credentials<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::metadata::Put;

    #[test]
    fn a_transaction_is_what_the_gateway_takes() {
        let transaction = Transaction {
            conditions: vec![
                Condition::Holds { key: "k".to_owned(), value: b"v".to_vec() },
                Condition::Modified { key: "k".to_owned(), revision: 7 },
            ],
            puts: vec![Put {
                key: "k".to_owned(),
                value: b"v".to_vec(),
                lease: Some(LeaseId(4_357_410_760_309_418_503)),
            }],
        };
        let expected = r#"{"compare":[{"key":"L2s=","result":"EQUAL","target":"VALUE","value":"dg=="},{"key":"L2s=","mod_revision":"7","result":"EQUAL","target":"MOD"}],"failure":[{"request_range":{"key":"Lw==","range_end":"MA=="}}],"success":[{"request_put":{"key":"L2s=","lease":"4357410760309418503","value":"dg=="}}]}"#;
        assert_eq!(txn("/", &transaction), expected);
    }

    #[test]
    fn answers_of_a_real_etcd_are_understood() {
        let failed = r#"{"header":{"cluster_id":"16828379354029930690","member_id":"4517765233334074488","revision":"2","raft_term":"2"},"responses":[{"response_range":{"header":{"revision":"2"},"kvs":[{"key":"L2s=","create_revision":"2","mod_revision":"2","version":"1","value":"dg==","lease":"4357410760309418503"}],"count":"1"}}]}"#;
        let answer: TxnAnswer = serde_json::from_str(failed).unwrap();
        assert!(!answer.succeeded);
        let snapshot = answer.snapshot("/").unwrap();
        assert_eq!(snapshot.revision, 2);
        assert_eq!(snapshot.entries[0].key, "k");
        assert_eq!(snapshot.entries[0].value, b"v");
        assert_eq!(snapshot.entries[0].lease, Some(LeaseId(4_357_410_760_309_418_503)));
        let gone = r#"{"result":{"header":{"revision":"1"},"ID":"123"}}"#;
        let line: StreamLine<LeaseAnswer> = serde_json::from_str(gone).unwrap();
        assert_eq!(line.result.unwrap().ttl, Number(0));
        let compacted =
            r#"{"result":{"header":{"raft_term":"2"},"canceled":true,"compact_revision":"2"}}"#;
        let line: StreamLine<WatchAnswer> = serde_json::from_str(compacted).unwrap();
        let answer = line.result.unwrap();
        assert!(answer.canceled && answer.compact_revision == Number(2));
    }

    #[test]
    fn errors_of_calls_and_streams_are_understood() {
        let lease = "etcdserver: requested lease not found";
        let call = format!(r#"{{"error":"{lease}","message":"{lease}","code":5}}"#);
        assert!(Refusal::parse(call.as_bytes()).is_lost_lease());
        let stream: Value = serde_json::from_str(
            r#"{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"x"}"#,
        )
        .unwrap();
        assert!(Refusal::from_value(&stream).is_of_this_endpoint());
        let page = Refusal::parse(b"<html>404</html>");
        assert_eq!(page.message, "<html>404</html>");
        assert!(!page.is_of_this_endpoint());
    }
}
