//! The sink over plain TCP connections.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{MailFault, MailSink, SmtpStep};

const SHORT: &str = "From: a@app.example\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\nSubject: hi\r\n\r\nhello\r\n";

/// An SMTP client.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(sink: &MailSink) -> Self {
        Self(BufReader::new(TcpStream::connect((sink.host(), sink.port())).await.expect("a connection")))
    }

    /// Connects, reads the greeting and sends `EHLO`.
    async fn ready(sink: &MailSink) -> Self {
        let mut client = Self::connect(sink).await;
        assert_eq!(client.code().await, 220);
        assert_eq!(client.command("EHLO app.example").await, 250);
        client
    }

    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("written");
    }

    /// The whole reply.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            // A closed connection ends the reply, with EOF or with a reset.
            let read = self.0.read_line(&mut reply).await.unwrap_or(0);
            if read == 0 || reply.as_bytes().get(start + 3) == Some(&b' ') {
                return reply;
            }
        }
    }

    /// The code of the next reply; 0 if the connection was closed.
    async fn code(&mut self) -> u16 {
        self.reply().await.get(..3).map_or(0, |code| code.parse().expect("a code"))
    }

    async fn command(&mut self, line: &str) -> u16 {
        self.write(&format!("{line}\r\n")).await;
        self.code().await
    }

    /// Sends one message; returns the code of the first unexpected reply, or of the last one.
    async fn send(&mut self, to: &str, message: &str) -> u16 {
        for (line, expected) in [("MAIL FROM:<a@app.example>", 250), (&format!("RCPT TO:<{to}>"), 250), ("DATA", 354)] {
            let code = self.command(line).await;
            if code != expected {
                return code;
            }
        }
        self.command(&format!("{message}.")).await
    }
}

async fn deliver(sink: &MailSink, to: &str) -> u16 {
    Client::ready(sink).await.send(to, SHORT).await
}

#[tokio::test]
async fn a_message_is_decoded() {
    let sink = MailSink::start().await;
    let mut client = Client::ready(&sink).await;
    let html = BASE64_STANDARD.encode("<p>Grüße, <a href=\"https://app.example/html\">hier</a></p>");
    let message = format!(
        "From: =?utf-8?q?Caf=C3=A9_M=C3=BCller?= <a@app.example>\r\nTo: ana@mail.example\r\n\
         Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nSubject: =?utf-8?b?R3LDvMOf?=\r\n =?utf-8?b?ZSBhbg==?= alle\r\n\
         X-Long: one\r\n two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary=\"b-1\"\r\n\r\n\
         preamble\r\n--b-1\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n\
         Gr=C3=BC=C3=9Fe\r\n..dotted\r\nhttps://app.example/verify?lang=3Dde&token=3Dab=\r\nc%2F1.\r\n\
         --b-1\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         {html}\r\n--b-1--\r\n"
    );
    assert_eq!(client.send("Ana@mail.example", &message).await, 250);
    let mail = sink.next("ana@mail.example").await;
    assert_eq!((mail.number, mail.from.as_str()), (1, "a@app.example"));
    assert_eq!((mail.to.as_slice(), mail.subject.as_str()), (&["Ana@mail.example".to_owned()][..], "Grüße an alle"));
    assert_eq!(mail.header("from"), Some("Café Müller <a@app.example>"));
    assert_eq!((mail.header("x-long"), mail.header("x-none")), (Some("one two"), None));
    assert_eq!(mail.text, "Grüße\n.dotted\nhttps://app.example/verify?lang=de&token=abc%2F1.");
    assert_eq!(mail.html, "<p>Grüße, <a href=\"https://app.example/html\">hier</a></p>");
    assert_eq!(
        (mail.link().as_str(), mail.token().as_str()),
        ("https://app.example/verify?lang=de&token=abc%2F1", "abc/1")
    );
    assert!(mail.raw.contains("\r\n.dotted\r\n"));
    sink.finish();
}

#[tokio::test]
async fn commands_are_checked_in_order_and_may_be_pipelined() {
    let sink = MailSink::start().await;
    let mut client = Client::connect(&sink).await;
    sink.seen_connection().await;
    client.code().await;
    for (line, code) in [
        ("MAIL FROM:<a@app.example>", 503),
        ("HELO app.example", 250),
        ("AUTH PLAIN AGEAYg==", 503),
        ("RCPT TO:<b@mail.example>", 503),
        ("MAIL a@app.example", 501),
        ("MAIL FROM:<ä@app.example>", 553),
        ("MAIL FROM:<a@app.example> SIZE=99999999", 552),
        ("MAIL FROM:<a@app.example> RET=FULL", 555),
        ("MAIL FROM:<a@app.example> BODY=8BITMIME SIZE=10 SMTPUTF8", 250),
        ("MAIL FROM:<a@app.example>", 503),
        ("DATA", 503),
        ("RCPT TO:<nobody>", 501),
        ("RCPT TO:<ä@mail.example>", 250),
        ("RSET", 250),
        ("DATA", 503),
        ("NOOP", 250),
        ("VRFY b", 500),
    ] {
        assert_eq!(client.command(line).await, code, "{line}");
    }
    client.write("MAIL FROM:<>\r\nRCPT TO:<b@mail.example>\r\nRCPT TO:<c@mail.example>\r\nDATA\r\n").await;
    for code in [250, 250, 250, 354] {
        assert_eq!(client.code().await, code);
    }
    client.write(&format!("{SHORT}.\r\nQUIT\r\n")).await;
    assert_eq!((client.code().await, client.code().await, client.code().await), (250, 221, 0));
    assert_eq!((sink.next("b@mail.example").await.from.as_str(), sink.count()), ("", 1));
    assert!(std::panic::catch_unwind(|| sink.finish()).is_err(), "one recipient has not read it");
    assert_eq!(sink.all_to("c@mail.example").len(), 1);
    sink.finish();
}

#[tokio::test]
async fn a_malformed_message_is_a_violation() {
    let sink = MailSink::start().await;
    let mut client = Client::ready(&sink).await;
    let smuggled = format!("Subject: a\r\nSubject: b\r\n\r\nä\n.\r\n{}\r\n", "x".repeat(999));
    assert_eq!(client.send("b@mail.example", &smuggled).await, 250);
    sink.forget("b@mail.example");
    let violations = sink.violations().join("\n");
    for flaw in ["no From", "no Date", "Subject occurs twice", "longer than", "without CR LF", "8BITMIME"] {
        assert!(violations.contains(flaw), "{flaw}: {violations}");
    }
    assert_eq!(sink.count(), 1, "a dot after a bare line feed does not end the message");
}

#[tokio::test]
async fn authentication_is_required() {
    let sink = MailSink::start().await;
    sink.require_auth("app", "pass word");
    let plain = |password: &str| format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0app\0{password}")));
    let mut client = Client::connect(&sink).await;
    client.code().await;
    client.write("EHLO app.example\r\n").await;
    let extensions = client.reply().await;
    assert!(extensions.contains("250-AUTH PLAIN LOGIN\r\n") && extensions.contains("250-SIZE "), "{extensions}");
    assert_eq!(client.command("MAIL FROM:<a@app.example>").await, 530);
    assert_eq!(client.command(&plain("guess")).await, 535);
    assert_eq!(client.command("AUTH CRAM-MD5").await, 504);
    assert_eq!(client.command(&plain("pass word")).await, 235);
    assert_eq!(client.send("b@mail.example", SHORT).await, 250);

    let mut client = Client::ready(&sink).await;
    assert_eq!(client.command("AUTH LOGIN").await, 334);
    assert_eq!(client.command(&BASE64_STANDARD.encode("app")).await, 334);
    assert_eq!(client.command(&BASE64_STANDARD.encode("pass word")).await, 235);
    assert_eq!(sink.next("b@mail.example").await.text, "hello\n");
    for secret in ["guess", "pass word"].map(|word| [plain(word), BASE64_STANDARD.encode(word)]).concat() {
        assert!(!sink.history().contains(&secret), "the history contains a password");
    }
    sink.finish();
}

#[tokio::test]
async fn faults_apply_to_their_targets() {
    let sink = MailSink::start().await;
    sink.fault(MailFault::Refuse);
    assert_eq!(Client::connect(&sink).await.code().await, 0);
    sink.fault(MailFault::Busy421);
    let mut client = Client::connect(&sink).await;
    assert_eq!((client.code().await, client.code().await), (421, 0));
    sink.attempts(2).await;

    sink.fault(MailFault::Greylist450.times(2).to("slow.example"));
    sink.fault(MailFault::Reject550.to("gone@mail.example").times(1));
    for (to, code) in [
        ("b@mail.example", 250),
        ("b@slow.example", 450),
        ("gone@mail.example", 550),
        ("c@SLOW.example", 450),
        ("b@slow.example", 250),
        ("gone@mail.example", 250),
    ] {
        assert_eq!(deliver(&sink, to).await, code, "{to}");
    }
    assert_eq!((sink.attempt_count(), sink.count()), (8, 3));

    sink.fault(MailFault::CutBeforeData);
    assert_eq!(deliver(&sink, "cut@mail.example").await, 0);
    assert_eq!(sink.count(), 3);
    sink.fault(MailFault::CutAfterData.always());
    assert_eq!(deliver(&sink, "cut@mail.example").await, 0);
    assert_eq!(deliver(&sink, "cut@mail.example").await, 0);
    assert_eq!(sink.all_to("cut@mail.example").len(), 2, "accepted although no reply was sent");
    sink.heal();
    assert_eq!(deliver(&sink, "cut@mail.example").await, 250);
    for address in ["b@mail.example", "b@slow.example", "gone@mail.example", "cut@mail.example"] {
        sink.next(address).await;
    }
    sink.finish();
    let result = std::panic::catch_unwind(|| MailFault::Busy421.to("mail.example"));
    assert!(result.is_err(), "the recipient is not known yet");
}

#[tokio::test]
async fn replies_are_held_until_released_or_disconnected() {
    let sink = MailSink::start().await;
    sink.fault(MailFault::HoldAfterData);
    let (code, mail) = tokio::join!(deliver(&sink, "b@mail.example"), async {
        let mail = sink.next("b@mail.example").await;
        sink.held().await;
        sink.release();
        mail
    });
    assert_eq!((code, mail.number), (250, 1));

    for step in [SmtpStep::Greeting, SmtpStep::Hello, SmtpStep::Mail, SmtpStep::Rcpt, SmtpStep::Data] {
        sink.fault(MailFault::Tarpit(step));
        let (code, ()) = tokio::join!(deliver(&sink, "b@mail.example"), async {
            sink.held().await;
            sink.release();
        });
        assert_eq!(code, 250, "{step:?}");
        sink.next("b@mail.example").await;
    }

    sink.fault(MailFault::HoldAfterData);
    let delivery = deliver(&sink, "b@mail.example");
    tokio::select! {
        _ = delivery => panic!("a reply was sent"),
        () = sink.held() => {}
    }
    sink.shared.wait("disconnected client", super::LIMIT, |state| (state.held == 0).then_some(())).await;
    sink.next("b@mail.example").await;
    sink.finish();
}

#[tokio::test]
async fn the_sink_goes_down_and_up_on_the_same_port() {
    let sink = MailSink::start().await;
    let mut client = Client::ready(&sink).await;
    sink.down();
    let refused = TcpStream::connect((sink.host(), sink.port())).await;
    assert_eq!(refused.expect_err("refused").kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(client.code().await, 0, "the connection was closed");
    sink.up();
    let mut client = Client::ready(&sink).await;
    sink.hang_up();
    assert_eq!(client.code().await, 0, "closed again without going down");
    assert_eq!(deliver(&sink, "b@mail.example").await, 250);
    assert_eq!(sink.next("b@mail.example").await.subject, "hi");
    sink.finish();
}
