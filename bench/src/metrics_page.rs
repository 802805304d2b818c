//! Reads a broker's Prometheus page: what it says of itself, core by core.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the control plane may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A page, as it was at one moment.
#[derive(Clone, Debug, Default)]
pub struct MetricsPage {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl MetricsPage {
    /// Fetches `http://HOST:PORT/PATH`.
    ///
    /// # Errors
    /// If the address is not of that form, or the answer is not 200.
    pub fn fetch(url: &str) -> io::Result<Self> {
        let rest = url.strip_prefix("http://").ok_or_else(|| invalid("the URL is not http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
        let answer = get(host, path)?;
        let (head, body) =
            answer.split_once("\r\n\r\n").ok_or_else(|| invalid("the answer is not HTTP"))?;
        if !head.starts_with("HTTP/1.1 200") && !head.starts_with("HTTP/1.0 200") {
            return Err(invalid(head.lines().next().unwrap_or("an empty answer")));
        }
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            return Ok(Self::parse(&unchunk(body)));
        }
        Ok(Self::parse(body))
    }

    /// Reads the text format, version 0.0.4.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { samples: lines.filter_map(Sample::parse).collect() }
    }

    /// The sum of a metric over all of its labels; 0 if there is none.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
    }

    /// A metric of one core; 0 if there is none.
    #[must_use]
    pub fn core(&self, name: &str, core: u16) -> f64 {
        let label = format!("core=\"{core}\"");
        self.samples
            .iter()
            .filter(|sample| sample.name == name && sample.labels.contains(&label))
            .map(|sample| sample.value)
            .sum()
    }

    /// A metric with all of its labels.
    pub fn labelled<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let found = self.samples.iter().filter(move |sample| sample.name == name);
        found.map(|sample| (sample.labels.as_str(), sample.value))
    }

    /// Whether a metric of that name is on the page.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let name_end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(name_end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest),
        };
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels: labels.to_owned(), value })
    }
}

/// The answer to a GET with its head, whatever it is.
pub(crate) fn get(host: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Joins the chunks of a chunked body; what is not well formed ends it.
fn unchunk(mut body: &str) -> String {
    let mut whole = String::with_capacity(body.len());
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(bytes) = usize::from_str_radix(size.trim(), 16) else { break };
        let Some(chunk) = rest.get(..bytes) else { break };
        if bytes == 0 {
            break;
        }
        whole.push_str(chunk);
        body = rest.get(bytes + 2..).unwrap_or_default();
    }
    whole
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP x_total What x is.\n# TYPE x_total counter\n\
        x_total{core=\"0\"} 3\nx_total{core=\"1\",kind=\"a}b\"} 4\ny 1.5e3\nbroken{ 3\n";

    #[test]
    fn values_are_found_by_name_and_core() {
        let page = MetricsPage::parse(PAGE);
        assert_eq!(page.sum("x_total"), 7.0);
        assert_eq!(page.core("x_total", 1), 4.0);
        assert_eq!(page.core("x_total", 2), 0.0);
        assert_eq!(page.sum("y"), 1500.0);
        assert!(page.has("y"));
        assert!(!page.has("x"));
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
        assert_eq!(unchunk("zz\r\nabc"), "");
    }
}
