//! The export format of the journal, as far as the lines of a unit need it (systemd's
//! `docs/JOURNAL_EXPORT_FORMATS.md`).

use std::mem;

/// A record of a unit.
#[derive(Debug, Default, PartialEq)]
pub struct Record {
    /// `_SYSTEMD_INVOCATION_ID=`: the start that wrote it, where journald could tell.
    pub invocation: Option<String>,
    /// `MESSAGE=`, with U+FFFD for what is not UTF-8.
    pub message: String,
}

/// Reads what `journalctl --output=export` printed: fields as `NAME=VALUE`, or as `NAME`, the value's
/// length in 8 bytes and the value; an empty line ends a record. What is cut off is left out.
pub fn records(mut export: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut record = Record::default();
    while let Some(end) = export.iter().position(|byte| *byte == b'\n') {
        let (line, mut rest) = (&export[..end], &export[end + 1..]);
        let (name, value) = if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            (&line[..at], &line[at + 1..])
        } else if line.is_empty() {
            records.push(mem::take(&mut record));
            (line, line)
        } else {
            let Some((len, data)) = rest.split_first_chunk() else { break };
            let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
            let Some((value, after)) = data.split_at_checked(len) else { break };
            rest = after.strip_prefix(b"\n").unwrap_or(after);
            (line, value)
        };
        let value = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"MESSAGE" => record.message = value(),
            b"_SYSTEMD_INVOCATION_ID" => record.invocation = Some(value()),
            _ => {}
        }
        export = rest;
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_whatever_is_in_their_messages() {
        let record = |invocation: Option<&str>, message: &str| Record {
            invocation: invocation.map(str::to_owned),
            message: message.to_owned(),
        };
        for (export, wanted) in [
            (&b""[..], vec![]),
            (
                b"__CURSOR=s=1;i=2\nMESSAGE=a=b\n_SYSTEMD_INVOCATION_ID=12\n\n",
                vec![record(Some("12"), "a=b")],
            ),
            (b"MESSAGE=\n\nMESSAGE=x\n\n", vec![record(None, ""), record(None, "x")]),
            (
                b"MESSAGE\n\x05\0\0\0\0\0\0\0a\n\nb\xff\n_SYSTEMD_INVOCATION_ID=1\n\nMESSAGE=y\n\n",
                vec![record(Some("1"), "a\n\nb\u{fffd}"), record(None, "y")],
            ),
            (b"MESSAGE=whole\n\nMESSAGE\n\x09\0\0\0\0\0\0\0short\n\n", vec![record(None, "whole")]),
            (
                b"MESSAGE=whole\n\nMESSAGE\n\xff\xff\xff\xff\xff\xff\xff\xffx\n\n",
                vec![record(None, "whole")],
            ),
            (b"MESSAGE=whole\n\nMESSAGE\n\x01\0", vec![record(None, "whole")]),
            (b"MESSAGE=not ended\n", vec![]),
        ] {
            assert_eq!(records(export), wanted, "{}", export.escape_ascii());
        }
    }
}
