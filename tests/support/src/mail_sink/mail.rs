//! Parsing of messages: decoded headers and text parts.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use url::Url;

/// The longest line that RFC 5322 allows, without CR LF.
const LINE_LIMIT: usize = 998;
/// Headers that a message must have, and headers that may occur only once.
const REQUIRED: [&str; 2] = ["From", "Date"];
const SINGLE: [&str; 7] = ["From", "Date", "Subject", "To", "Reply-To", "Message-ID", "Content-Type"];

/// An accepted message.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The sequence number among all accepted messages, from 1.
    pub number: usize,
    /// The sender in the envelope; empty for a bounce.
    pub from: String,
    /// The recipients in the envelope.
    pub to: Vec<String>,
    /// The decoded subject.
    pub subject: String,
    /// The decoded `text/plain` part, lines ended by `\n`; empty if there is none.
    pub text: String,
    /// The decoded `text/html` part, lines ended by `\n`; empty if there is none.
    pub html: String,
    /// All headers in order, unfolded and decoded.
    pub headers: Vec<(String, String)>,
    /// The message as received, without dot stuffing.
    pub raw: String,
}

impl Mail {
    pub(super) fn parse(number: usize, from: &str, to: &[String], raw: &[u8]) -> Self {
        let (headers, body) = split(raw);
        let mut mail = Self {
            number,
            from: from.to_owned(),
            to: to.to_vec(),
            subject: String::new(),
            text: String::new(),
            html: String::new(),
            headers: headers.iter().map(|(name, value)| (name.clone(), decode_words(value))).collect(),
            raw: String::from_utf8_lossy(raw).into_owned(),
        };
        mail.subject = mail.header("Subject").unwrap_or_default().to_owned();
        mail.read_part(&headers, body);
        mail
    }

    /// The decoded value of the first header with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The first HTTP link in the text part.
    ///
    /// # Panics
    /// If there is none.
    pub fn link(&self) -> String {
        let found = ["http://", "https://"].iter().filter_map(|scheme| self.text.find(scheme)).min();
        let start = found.unwrap_or_else(|| panic!("MailSink: no link in {:?}", self.text));
        let ends = |c: char| c.is_whitespace() || "<>\"')]".contains(c);
        let link = self.text[start..].split(ends).next().unwrap_or_default();
        link.trim_end_matches(['.', ',', ';']).to_owned()
    }

    /// The `token` parameter of that link.
    ///
    /// # Panics
    /// If there is none.
    pub fn token(&self) -> String {
        let link = self.link();
        let url = Url::parse(&link).unwrap_or_else(|error| panic!("MailSink: {link}: {error}"));
        let token = url.query_pairs().find(|(name, _)| name == "token");
        token.unwrap_or_else(|| panic!("MailSink: no token in {link}")).1.into_owned()
    }

    /// Errors of form that a receiving server may refuse.
    pub(super) fn flaws(&self) -> Vec<String> {
        let count = |name: &str| self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name)).count();
        let missing = REQUIRED.into_iter().filter(|name| count(name) == 0).map(|name| format!("no {name} header"));
        let doubled = SINGLE.into_iter().filter(|name| count(name) > 1).map(|name| format!("{name} occurs twice"));
        let too_long = self.raw.split("\r\n").any(|line| line.len() > LINE_LIMIT);
        let bare_line_end = self.raw.replace("\r\n", "").contains(['\r', '\n']);
        let too_long = too_long.then(|| format!("a line is longer than {LINE_LIMIT}"));
        let bare_line_end = bare_line_end.then(|| "a line ends without CR LF".to_owned());
        missing.chain(doubled).chain(too_long).chain(bare_line_end).collect()
    }

    /// Reads the first text of each kind from a part or from its nested parts.
    fn read_part(&mut self, headers: &[(String, String)], body: &[u8]) {
        let content_type = find(headers, "Content-Type").unwrap_or("text/plain");
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media_type.starts_with("multipart/") {
            for part in parts(body, &boundary(content_type)) {
                let (headers, body) = split(part);
                self.read_part(&headers, body);
            }
            return;
        }
        let text = match media_type.as_str() {
            "text/plain" => &mut self.text,
            "text/html" => &mut self.html,
            _ => return,
        };
        if text.is_empty() {
            let encoding = find(headers, "Content-Transfer-Encoding").unwrap_or_default().trim().to_ascii_lowercase();
            let bytes = match encoding.as_str() {
                "base64" => from_base64(body),
                "quoted-printable" => from_quoted_printable(body),
                _ => body.to_vec(),
            };
            *text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        }
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    header.map(|(_, value)| value.as_str())
}

/// The headers, unfolded, and the body.
fn split(bytes: &[u8]) -> (Vec<(String, String)>, &[u8]) {
    let (head, body) = match position(bytes, b"\r\n\r\n") {
        // A part without headers starts with the empty line.
        _ if bytes.starts_with(b"\r\n") => (&bytes[..0], &bytes[2..]),
        Some(index) => (&bytes[..index], &bytes[index + 4..]),
        None => (bytes, &bytes[..0]),
    };
    let unfolded = String::from_utf8_lossy(head).replace("\r\n ", " ").replace("\r\n\t", "\t");
    let headers = unfolded.split("\r\n").filter_map(|line| line.split_once(':'));
    (headers.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect(), body)
}

fn boundary(content_type: &str) -> String {
    let parameters = content_type.split(';').map(str::trim);
    let boundary =
        parameters.filter_map(|text| text.split_once('=')).find(|(name, _)| name.eq_ignore_ascii_case("boundary"));
    boundary.map(|(_, value)| value.trim_matches('"').to_owned()).unwrap_or_default()
}

/// The parts between the boundary lines.
fn parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut rest = position(body, delimiter.as_bytes()).map(|index| &body[index + delimiter.len()..]);
    while let Some(inside) = rest.filter(|rest| !rest.starts_with(b"--")) {
        let inside = position(inside, b"\r\n").map_or(inside, |index| &inside[index + 2..]);
        let end = position(inside, delimiter.as_bytes());
        let part = &inside[..end.unwrap_or(inside.len())];
        // The line end before a boundary belongs to the boundary.
        parts.push(part.strip_suffix(b"\r\n").unwrap_or(part));
        rest = end.map(|index| &inside[index + delimiter.len()..]);
    }
    parts
}

fn position(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn from_base64(body: &[u8]) -> Vec<u8> {
    let compact: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64_STANDARD.decode(compact).unwrap_or_default()
}

fn from_quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = body;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'=', [b'\r', b'\n', tail @ ..]) => tail,
            (b'=', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let hex = [char::from(*high), char::from(*low)].map(|digit| digit.to_digit(16).unwrap_or(0));
                bytes.extend(u8::try_from(hex[0] << 4 | hex[1]));
                tail
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    bytes
}

/// Decodes the encoded words (`=?utf-8?b?…?=`) of RFC 2047. White space between two of them is dropped.
fn decode_words(value: &str) -> String {
    let mut decoded = String::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some(index) = rest.find("=?") {
        let Some((word, tail)) = encoded_word(&rest[index..]) else {
            break;
        };
        let between = &rest[..index];
        if !(after_word && between.trim().is_empty()) {
            decoded.push_str(between);
        }
        decoded.push_str(&word);
        (rest, after_word) = (tail, true);
    }
    decoded + rest
}

/// The encoded word at the start of `text`, and the rest.
fn encoded_word(text: &str) -> Option<(String, &str)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    let (encoding, rest) = rest.split_once('?')?;
    let (word, rest) = rest.split_once("?=")?;
    let supported = ["utf-8", "us-ascii"].contains(&charset.to_ascii_lowercase().as_str());
    let bytes = match encoding.to_ascii_lowercase().as_str() {
        "b" => from_base64(word.as_bytes()),
        "q" => from_quoted_printable(word.replace('_', " ").as_bytes()),
        _ => return None,
    };
    supported.then(|| (String::from_utf8_lossy(&bytes).into_owned(), rest))
}
