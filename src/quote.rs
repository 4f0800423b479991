//! Someone else's words, made safe to print.

/// The words as a quoted string: escaped, and cut to a length that a record can hold.
#[must_use]
pub fn quote(words: &str) -> String {
    format!("{:?}", words.chars().take(128).collect::<String>())
}

/// At most `max` characters of a line; control characters are escaped.
#[must_use]
pub fn printable(line: &str, max: usize) -> String {
    let mut out = String::new();
    for c in line.chars().take(max) {
        if matches!(c, '"' | '\'' | '\\') {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    out
}
