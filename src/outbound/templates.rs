//! Email templates: one per email and language, and a shared HTML layout.
//!
//! A template is text: the first line is the subject, followed by paragraphs separated by blank lines. The HTML part
//! contains the same paragraphs, escaped; a paragraph that is only the link becomes a button.

use anyhow::{Context, Result};
use dca_core::accounts::{Locale, emails::EmailTemplate};
use handlebars::{Handlebars, html_escape, no_escape};
use serde::Serialize;

/// Language, name and text of a template.
type Source = (&'static str, &'static str, &'static str);

macro_rules! sources {
    ($($locale:literal: $($template:literal)*;)*) => {
        &[$($((
            $locale,
            $template,
            include_str!(concat!("../../templates/mail/", $locale, "/", $template, ".hbs")),
        )),*),*]
    };
}

const SOURCES: &[Source] = sources! {
    "en": "verify-email" "welcome-email" "reset-password" "already-registered" "password-changed"
        "sessions-ended" "second-factor-changed" "deletion-planned";
    "es": "verify-email" "welcome-email" "reset-password" "already-registered" "password-changed"
        "sessions-ended" "second-factor-changed" "deletion-planned";
};

const LAYOUT: &str = include_str!("../../templates/mail/layout.html.hbs");

/// The values available to a template.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Values<'a> {
    /// The recipient's name; may be empty.
    pub(super) name: String,
    /// The name of the application.
    pub(super) app_name: &'a str,
    /// The URL of the link.
    pub(super) url: String,
    /// The year in the footer.
    pub(super) year: i32,
}

/// A rendered email.
#[derive(Clone, Debug)]
pub(super) struct RenderedEmail {
    /// The subject, a single line.
    pub(super) subject: String,
    /// The plain-text part.
    pub(super) text: String,
    /// The HTML part.
    pub(super) html: String,
}

/// The compiled templates.
pub(super) struct Templates {
    text: Handlebars<'static>,
    html: Handlebars<'static>,
}

impl Templates {
    /// Compiles every template and renders it once, so that an invalid one is reported at start.
    pub(super) fn compile() -> Result<Self> {
        let [mut text, mut html] = [(); 2].map(|()| Handlebars::new());
        for templates in [&mut text, &mut html] {
            templates.set_strict_mode(true);
        }
        text.register_escape_fn(no_escape);
        // All attributes are quoted, so `=` needs no escaping and links stay readable.
        html.register_escape_fn(|text| html_escape(text).replace("&#x3D;", "="));
        for (locale, template, source) in SOURCES {
            text.register_template_string(&template_name(locale, template), source)
                .context("an email template is invalid")?;
        }
        html.register_template_string("layout", LAYOUT).context("the email layout is invalid")?;
        let templates = Self { text, html };
        let values = Values { name: String::new(), app_name: "", url: String::new(), year: 0 };
        for (locale, template) in
            Locale::ALL.iter().flat_map(|locale| EmailTemplate::ALL.iter().map(move |template| (locale, template)))
        {
            templates.render(*template, *locale, &values)?;
        }
        Ok(templates)
    }

    /// Renders an email.
    ///
    /// # Errors
    /// If a template is missing or uses an unknown value.
    pub(super) fn render(&self, template: EmailTemplate, locale: Locale, values: &Values) -> Result<RenderedEmail> {
        let name = template_name(locale.as_str(), template.as_str());
        let rendered =
            self.text.render(&name, values).with_context(|| format!("the email template {name} is invalid"))?;
        let (subject, body) =
            rendered.split_once('\n').with_context(|| format!("the email template {name} has no body"))?;
        let paragraphs: Vec<String> = body.split("\n\n").map(one_line).filter(|text| !text.is_empty()).collect();
        let page = Page {
            lang: locale.as_str(),
            subject,
            app_name: values.app_name,
            year: values.year,
            paragraphs: paragraphs
                .iter()
                .map(|text| Paragraph { text: text.as_str(), is_link: *text == values.url })
                .collect(),
        };
        let html = self.html.render("layout", &page).context("the email layout is invalid")?;
        Ok(RenderedEmail { subject: subject.to_owned(), text: paragraphs.join("\n\n") + "\n", html })
    }
}

/// The values available to the layout.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    lang: &'a str,
    subject: &'a str,
    app_name: &'a str,
    year: i32,
    paragraphs: Vec<Paragraph<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Paragraph<'a> {
    text: &'a str,
    is_link: bool,
}

fn template_name(locale: &str, template: &str) -> String {
    format!("{locale}/{template}")
}

/// Replaces line breaks and control characters by spaces, so that a name cannot add paragraphs or headers.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
