//! Messages as a Parquet file: one row per message, in row groups that are bounded in memory.

use super::ToolError;
use super::sink::Sink;
use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use ringlane_dataplane::log::record::{EXPIRY_NONE, Record, RecordKind};
use ringlane_mqtt::UserProperties;
use std::fs::File;
use std::sync::Arc;

/// The columns, in the order in which [`write_group`] writes them.
const SCHEMA: &str = "
message ringlane {
    required int32 partition (INTEGER(32,false));
    required int64 offset (INTEGER(64,false));
    required int64 epoch (INTEGER(64,false));
    required int64 time (TIMESTAMP(MILLIS,true));
    required binary client_id (STRING);
    required binary topic (STRING);
    required int32 qos (INTEGER(8,false));
    required boolean retain;
    required binary level (STRING);
    optional int32 packet_id (INTEGER(16,false));
    optional int64 expiry_secs;
    required binary properties;
    required group user_properties (LIST) {
        repeated group list {
            required group element {
                required binary name (STRING);
                required binary value (STRING);
            }
        }
    }
    required binary payload;
}";

/// A row group ends behind as many rows, or as many bytes of them.
const GROUP_ROWS_MAX: usize = 100_000;
const GROUP_BYTES_MAX: usize = 32 << 20;

/// A message.
#[derive(Debug)]
pub(super) struct Row {
    partition: u32,
    offset: u64,
    epoch: u64,
    unix_ms: u64,
    client_id: ByteArray,
    topic: ByteArray,
    qos: u8,
    retain: bool,
    memory: bool,
    packet_id: u16,
    expiry_secs: u32,
    properties: ByteArray,
    payload: ByteArray,
}

impl Row {
    fn bytes(&self) -> usize {
        let texts = [&self.client_id, &self.topic, &self.properties, &self.payload];
        size_of::<Self>() + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// A Parquet file that is being written.
pub(super) struct Table<'a> {
    writer: SerializedFileWriter<&'a File>,
    rows: Vec<Row>,
    bytes: usize,
}

impl<'a> Table<'a> {
    pub(super) fn new(file: &'a File) -> Result<Self, ToolError> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("ringlane ", env!("CARGO_PKG_VERSION")).to_owned());
        let properties = Arc::new(properties.build());
        let writer = SerializedFileWriter::new(file, schema, properties).map_err(failed)?;
        Ok(Self { writer, rows: Vec::new(), bytes: 0 })
    }

    /// Writes what is left, and the end of the file.
    pub(super) fn finish(mut self) -> Result<(), ToolError> {
        self.end_group()?;
        self.writer.close().map(drop).map_err(failed)
    }

    fn end_group(&mut self) -> Result<(), ToolError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(failed)?;
        write_group(&mut group, &self.rows).map_err(failed)?;
        group.close().map_err(failed)?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }
}

impl Sink for Table<'_> {
    type Piece = Vec<Row>;

    fn add(&self, piece: &mut Vec<Row>, partition: u32, record: &Record<'_>) {
        let head = &record.head;
        if head.kind != RecordKind::PUBLISH {
            return;
        }
        piece.push(Row {
            partition,
            offset: head.offset.0,
            epoch: head.epoch,
            unix_ms: head.unix_ms,
            client_id: record.client_id.into(),
            topic: record.topic.into(),
            qos: head.flags.qos(),
            retain: head.flags.retain(),
            memory: head.flags.memory(),
            packet_id: head.packet_id,
            expiry_secs: head.expiry_secs,
            properties: record.properties.to_vec().into(),
            payload: record.payload.to_vec().into(),
        });
    }

    fn is_empty(piece: &Vec<Row>) -> bool {
        piece.is_empty()
    }

    fn take(&mut self, piece: Vec<Row>) -> Result<(), ToolError> {
        for row in piece {
            self.bytes += row.bytes();
            self.rows.push(row);
            if GROUP_ROWS_MAX <= self.rows.len() || GROUP_BYTES_MAX <= self.bytes {
                self.end_group()?;
            }
        }
        Ok(())
    }
}

type Group<'a, 'b> = SerializedRowGroupWriter<'b, &'a File>;

fn write_group(group: &mut Group<'_, '_>, rows: &[Row]) -> Result<(), ParquetError> {
    required::<Int32Type>(group, rows, |row| row.partition.cast_signed())?;
    required::<Int64Type>(group, rows, |row| row.offset.cast_signed())?;
    required::<Int64Type>(group, rows, |row| row.epoch.cast_signed())?;
    required::<Int64Type>(group, rows, |row| row.unix_ms.cast_signed())?;
    required::<ByteArrayType>(group, rows, |row| row.client_id.clone())?;
    required::<ByteArrayType>(group, rows, |row| row.topic.clone())?;
    required::<Int32Type>(group, rows, |row| i32::from(row.qos))?;
    required::<BoolType>(group, rows, |row| row.retain)?;
    required::<ByteArrayType>(group, rows, |row| {
        if row.memory { "memory" } else { "local_disk" }.into()
    })?;
    optional::<Int32Type>(group, rows, |row| {
        Some(i32::from(row.packet_id)).filter(|packet_id| *packet_id != 0)
    })?;
    optional::<Int64Type>(group, rows, |row| {
        Some(row.expiry_secs).filter(|secs| *secs != EXPIRY_NONE).map(i64::from)
    })?;
    required::<ByteArrayType>(group, rows, |row| row.properties.clone())?;
    user_properties(group, rows, |(name, _)| name)?;
    user_properties(group, rows, |(_, value)| value)?;
    required::<ByteArrayType>(group, rows, |row| row.payload.clone())
}

/// Writes the next column, of values with their definition and repetition levels where the schema
/// has such.
fn column<T: DataType>(
    group: &mut Group<'_, '_>,
    values: &[T::T],
    definitions: Option<&[i16]>,
    repetitions: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let next = group.next_column()?;
    let mut next = next.ok_or_else(|| ParquetError::General("no more columns".to_owned()))?;
    next.typed::<T>().write_batch(values, definitions, repetitions)?;
    next.close()
}

fn required<T: DataType>(
    group: &mut Group<'_, '_>,
    rows: &[Row],
    value: impl Fn(&Row) -> T::T,
) -> Result<(), ParquetError> {
    let values: Vec<T::T> = rows.iter().map(value).collect();
    column::<T>(group, &values, None, None)
}

fn optional<T: DataType>(
    group: &mut Group<'_, '_>,
    rows: &[Row],
    value: impl Fn(&Row) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let all: Vec<Option<T::T>> = rows.iter().map(value).collect();
    let definitions: Vec<i16> = all.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = all.into_iter().flatten().collect();
    column::<T>(group, &values, Some(&definitions), None)
}

/// One half of the pairs. A row without a pair has one entry that defines nothing; a pair that is
/// not the first of its row repeats.
fn user_properties(
    group: &mut Group<'_, '_>,
    rows: &[Row],
    half: for<'a> fn((&'a str, &'a str)) -> &'a str,
) -> Result<(), ParquetError> {
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let before = values.len();
        let pairs = UserProperties::from_wire(row.properties.data());
        values.extend(pairs.iter().map(|pair| ByteArray::from(half(pair))));
        let count = values.len() - before;
        definitions.extend(std::iter::repeat_n(i16::from(count > 0), count.max(1)));
        repetitions.extend((0..count.max(1)).map(|place| i16::from(place > 0)));
    }
    column::<ByteArrayType>(group, &values, Some(&definitions), Some(&repetitions))
}

fn failed(error: ParquetError) -> ToolError {
    ToolError::Failed(format!("cannot write Parquet: {error}"))
}
