//! Numbers and text for people.

/// A number with three significant digits: `0.0412`, `4.12`, `412`, `41,200`.
#[must_use]
pub fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if magnitude >= 2 {
        return grouped(value);
    }
    let digits = usize::try_from(2 - magnitude).unwrap_or(0).min(6);
    format!("{value:.digits$}")
}

/// A whole number with commas between the thousands.
#[must_use]
pub fn grouped(value: f64) -> String {
    let whole = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(whole.len() + whole.len() / 3 + 1);
    if value < 0.0 && whole != "0" {
        text.push('-');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A large number with a suffix: `950`, `12 k`, `1.5 M`.
#[must_use]
pub fn scaled(value: f64) -> String {
    let (divisor, suffix) = match value.abs() {
        v if v >= 1e9 => (1e9, " G"),
        v if v >= 1e6 => (1e6, " M"),
        v if v >= 1e3 => (1e3, " k"),
        _ => (1.0, ""),
    };
    format!("{}{suffix}", trimmed(value / divisor))
}

/// A time in microseconds with the unit that fits it.
#[must_use]
pub fn time_us(micros: f64) -> String {
    match micros {
        m if m >= 1e6 => format!("{} s", trimmed(m / 1e6)),
        m if m >= 1e3 => format!("{} ms", trimmed(m / 1e3)),
        m => format!("{} µs", trimmed(m)),
    }
}

/// Up to three significant digits, without zeros at the end.
fn trimmed(value: f64) -> String {
    let text = if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Bytes with a binary unit.
#[must_use]
pub fn bytes(value: f64) -> String {
    match value {
        v if v >= 1024.0 * 1024.0 * 1024.0 => format!("{} GiB", trimmed(v / (1 << 30) as f64)),
        v if v >= 1024.0 * 1024.0 => format!("{} MiB", trimmed(v / (1 << 20) as f64)),
        v if v >= 1024.0 => format!("{} KiB", trimmed(v / 1024.0)),
        v => format!("{} B", trimmed(v)),
    }
}

/// Text as HTML and SVG take it, in content and in quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_enough() {
        let texts = [0.0, 0.041_23, 4.123, 41.23, 412.3, 41_234.0, -3.0].map(short);
        assert_eq!(texts, ["0", "0.0412", "4.12", "41.2", "412", "41,234", "-3.00"]);
    }

    #[test]
    fn thousands_are_grouped() {
        let texts = [0.0, 999.0, 1000.0, 1_234_567.4, -1000.0].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567", "-1,000"]);
    }

    #[test]
    fn units_fit_the_size() {
        assert_eq!([950.0, 12_000.0, 1.5e6].map(scaled), ["950", "12 k", "1.5 M"]);
        assert_eq!([9.5, 1200.0, 2e6].map(time_us), ["9.5 µs", "1.2 ms", "2 s"]);
        assert_eq!([512.0, 2048.0, 3.5 * 1048576.0].map(bytes), ["512 B", "2 KiB", "3.5 MiB"]);
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
