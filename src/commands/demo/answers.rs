//! Answers as the demo's client reads them: the number of the event, the class, and who scored it.
//!
//! Lines of one connection and one version differ in three places only. What stays the same is compared
//! as bytes; a line that is written otherwise is parsed as the JSON that it is.

use serde_json::Value;

/// What the client looks at in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Number of the event on its connection, from 0.
    pub offset: u64,
    /// The lane's number of the event.
    pub seq: u64,
    /// What was predicted.
    pub class: bool,
}

/// Reads the answers of one connection.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// `{"input":"…","offset":` of the last line.
    head: Vec<u8>,
    /// `,"version":"…","swap":N}` of the last line.
    tail: Vec<u8>,
    /// The version that scored the last line.
    pub version: String,
    /// Its swap number.
    pub swap: u64,
}

impl Answers {
    /// An answer from a line without its end.
    ///
    /// # Errors
    /// The line, where it is no prediction.
    pub fn read(&mut self, line: &[u8]) -> Result<Answer, String> {
        match self.quick(line) {
            Some(answer) => Ok(answer),
            None => self.parse(line).ok_or_else(|| format!("no prediction: {}", String::from_utf8_lossy(line))),
        }
    }

    fn quick(&self, line: &[u8]) -> Option<Answer> {
        if self.head.is_empty() {
            return None;
        }
        let (offset, rest) = number(line.strip_prefix(self.head.as_slice())?)?;
        let (seq, rest) = number(rest.strip_prefix(b",\"seq\":")?)?;
        let body = rest.strip_suffix(self.tail.as_slice())?.strip_prefix(b",\"score\":")?;
        let class = match body {
            [.., b',', b'"', b'c', b'l', b'a', b's', b's', b'"', b':', b't', b'r', b'u', b'e'] => true,
            [.., b',', b'"', b'c', b'l', b'a', b's', b's', b'"', b':', b'f', b'a', b'l', b's', b'e'] => false,
            _ => return None,
        };
        Some(Answer { offset, seq, class })
    }

    fn parse(&mut self, line: &[u8]) -> Option<Answer> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let answer =
            Answer { offset: value["offset"].as_u64()?, seq: value["seq"].as_u64()?, class: value["class"].as_bool()? };
        value["score"].as_f64()?;
        self.swap = value["swap"].as_u64()?;
        value["version"].as_str()?.clone_into(&mut self.version);
        self.head = format!("{{\"input\":{},\"offset\":", value["input"]).into_bytes();
        self.tail = format!(",\"version\":{},\"swap\":{}}}", value["version"], self.swap).into_bytes();
        Some(answer)
    }
}

/// The whole number at the beginning, and what follows it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 19 {
        return None;
    }
    let value = bytes[..digits].iter().fold(0, |n, b| n * 10 + u64::from(b - b'0'));
    Some((value, &bytes[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(offset: u64, class: bool, version: &str, swap: u64) -> String {
        let seq = offset + 100;
        format!(
            "{{\"input\":\"127.0.0.1:1#0\",\"offset\":{offset},\"seq\":{seq},\"score\":0.25,\"class\":{class},\
             \"version\":\"{version}\",\"swap\":{swap}}}"
        )
    }

    #[test]
    fn both_ways_read_the_same() {
        let mut answers = Answers::default();
        for (offset, class, version, swap) in
            [(0, true, "aaaaaaaa", 0), (1, false, "aaaaaaaa", 0), (2, true, "bbbbbbbb", 1), (3, false, "bbbbbbbb", 1)]
        {
            let text = line(offset, class, version, swap);
            let expected = Answer { offset, seq: offset + 100, class };
            let is_new = answers.version != version;
            assert_eq!(answers.quick(text.as_bytes()).is_none(), is_new);
            assert_eq!(answers.read(text.as_bytes()), Ok(expected));
            assert_eq!((answers.version.as_str(), answers.swap), (version, swap));
            assert_eq!(answers.quick(text.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn anything_else_is_told() {
        let mut answers = Answers::default();
        answers.read(line(0, true, "aaaaaaaa", 0).as_bytes()).expect("an answer");
        for wrong in ["", "{}", "{\"error\":{\"stage\":\"decode\"},\"seq\":1}", &line(1, true, "a", 0)[..40]] {
            assert!(answers.read(wrong.as_bytes()).expect_err("refused").contains(wrong), "{wrong}");
        }
    }
}
