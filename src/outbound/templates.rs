//! Email templates: one per email and language, and a shared HTML layout.
//!
//! A template is text: the first line is the subject, followed by paragraphs separated by blank lines. The HTML part
//! contains the same paragraphs, escaped; a paragraph that is only the link becomes a button.

use askama::Template;
use dca_core::{outbox::EmailTemplate, users::Locale};

/// The template of an email in a language, with its values.
#[derive(Template)]
#[template(path = "mail/email.txt")]
pub(super) struct EmailText<'a> {
    pub(super) template: EmailTemplate,
    pub(super) locale: Locale,
    /// The recipient's name; may be empty.
    pub(super) name: &'a str,
    pub(super) app_name: &'a str,
    /// The linked accounts at providers; may be empty.
    pub(super) linked: &'a str,
    pub(super) url: &'a str,
}

#[derive(Template)]
#[template(path = "mail/layout.html")]
struct Layout<'a> {
    lang: &'a str,
    subject: &'a str,
    app_name: &'a str,
    url: &'a str,
    year: i32,
    paragraphs: &'a [String],
}

#[derive(Clone, Debug)]
pub(super) struct RenderedEmail {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

impl EmailText<'_> {
    /// Renders the email, with `year` in the footer.
    pub(super) fn render_email(&self, year: i32) -> askama::Result<RenderedEmail> {
        let rendered = self.render()?;
        let (subject, body) = rendered.split_once('\n').unwrap_or((&rendered, ""));
        let paragraphs: Vec<String> = body.split("\n\n").map(one_line).filter(|text| !text.is_empty()).collect();
        let layout = Layout {
            lang: self.locale.as_str(),
            subject,
            app_name: self.app_name,
            url: self.url,
            year,
            paragraphs: &paragraphs,
        };
        Ok(RenderedEmail { subject: subject.to_owned(), html: layout.render()?, text: paragraphs.join("\n\n") + "\n" })
    }
}

/// Replaces line breaks and control characters by spaces, so that a name cannot add paragraphs or headers.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
