//! `.hgrm` files: a percentile distribution as HdrHistogram's own `outputPercentileDistribution`
//! prints it, which its plotter reads.

use hdrhistogram::Histogram;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Steps per halving of the distance to 100 %, as the other implementations have it by default.
const TICKS_PER_HALF: u32 = 5;
/// Stored values are nanoseconds, printed ones microseconds.
const NANOS_PER_UNIT: f64 = 1000.0;

/// Writes one distribution of nanoseconds as microseconds.
///
/// # Errors
/// If the output is closed.
pub fn write(histogram: &Histogram<u64>, out: &mut dyn Write) -> io::Result<()> {
    let (value, percentile) = ("Value", "Percentile");
    writeln!(
        out,
        "{value:>12} {percentile:>14} {:>10} {:>14}\n",
        "TotalCount", "1/(1-Percentile)"
    )?;
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / NANOS_PER_UNIT;
        let quantile = step.quantile_iterated_to();
        write!(out, "{value:12.3} {quantile:2.12} {count:10}")?;
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let micros = |nanos: f64| nanos / NANOS_PER_UNIT;
    let (mean, deviation) = (micros(histogram.mean()), micros(histogram.stdev()));
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    let (max, total) = (micros(histogram.max() as f64), histogram.len());
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {total:12}]")?;
    let (buckets, sub_buckets) = (histogram.buckets(), sub_bucket_count(histogram.sigfig()));
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
}

/// Writes `DIRECTORY/NAME.hgrm`, and makes the directory if there is none.
///
/// # Errors
/// If the directory or the file cannot be written.
pub fn save(histogram: &Histogram<u64>, directory: &Path, name: &str) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let plain: String =
        name.chars().map(|character| if is_plain(character) { character } else { '_' }).collect();
    let mut file = BufWriter::new(File::create(directory.join(format!("{plain}.hgrm")))?);
    write(histogram, &mut file)?;
    file.flush()
}

/// Slots per bucket that a precision in decimal digits needs: enough to count to twice its size.
fn sub_bucket_count(digits: u8) -> u64 {
    (2 * 10u64.pow(u32::from(digits))).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the JavaScript implementation (hdr-histogram-js 3.0.1) prints for the same values.
    const REFERENCE: &str = include_str!("../tests/data/reference.hgrm");

    /// The values of the reference: a linear congruence, and one far away.
    fn example() -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        let mut state = 12_345u64;
        for _ in 0..10_000 {
            state = (state * 1_103_515_245 + 12_345) % (1 << 31);
            histogram.record(1000 + state % 1_000_000).unwrap();
        }
        histogram.record(1_000_000_000).unwrap();
        histogram
    }

    #[test]
    fn every_line_is_the_reference_implementations() {
        let mut ours = Vec::new();
        write(&example(), &mut ours).unwrap();
        let ours = String::from_utf8(ours).unwrap();
        assert!(ours.lines().count() > 70);
        let pairs = ours.lines().zip(REFERENCE.lines());
        let different: Vec<_> = pairs.filter(|(ours, theirs)| ours != theirs).collect();
        // Java and Python print the highest value of the bucket as the maximum, as in the rows;
        // JavaScript the value itself.
        let ours_max = "#[Max     =  1000341.503, Total count    =        10001]";
        let theirs_max = "#[Max     =  1000000.000, Total count    =        10001]";
        assert_eq!(different, [(ours_max, theirs_max)]);
        assert_eq!(ours.lines().count(), REFERENCE.lines().count());
    }

    #[test]
    fn names_become_plain_file_names() {
        let directory = std::env::temp_dir().join(format!("ringlane-hgrm-{}", std::process::id()));
        save(&example(), &directory, "pairs, W=8/latency").unwrap();
        let text = std::fs::read_to_string(directory.join("pairs__W_8_latency.hgrm")).unwrap();
        assert!(text.contains("1/(1-Percentile)"));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
