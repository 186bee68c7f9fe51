//! The rendered of letters: one template per letter and language, and one page around all of them.
//!
//! A template is text: its first line is the subject, then paragraphs with blank lines between them. The
//! same paragraphs, escaped, make the HTML; one that is nothing but the link becomes a button.

use anyhow::{Context, Result};
use dca_core::accounts::{Locale, emails::EmailTemplate};
use handlebars::{Handlebars, html_escape, no_escape};
use serde::Serialize;

/// Language, letter, and its template.
type Source = (&'static str, &'static str, &'static str);

macro_rules! sources {
    ($($locale:literal: $($letter:literal)*;)*) => {
        &[$($((
            $locale,
            $letter,
            include_str!(concat!("../../templates/mail/", $locale, "/", $letter, ".hbs")),
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

/// What a template may say.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Values<'a> {
    /// The recipient; may be empty.
    pub(super) name: String,
    /// The product.
    pub(super) app_name: &'a str,
    /// Where the letter leads.
    pub(super) url: String,
    /// For the foot of the page.
    pub(super) year: i32,
}

/// A letter in rendered.
#[derive(Clone, Debug)]
pub(super) struct RenderedEmail {
    /// One line.
    pub(super) subject: String,
    /// Nothing in it is escaped.
    pub(super) text: String,
    /// A whole page.
    pub(super) html: String,
}

/// All templates, compiled.
pub(super) struct Templates {
    text: Handlebars<'static>,
    html: Handlebars<'static>,
}

impl Templates {
    /// Compiles every template and renders it once, so that a broken one is found at start.
    pub(super) fn compile() -> Result<Self> {
        let [mut text, mut html] = [(); 2].map(|()| Handlebars::new());
        for templates in [&mut text, &mut html] {
            templates.set_strict_mode(true);
        }
        text.register_escape_fn(no_escape);
        // Every attribute stands in quotes: a link may keep its `=` for whoever reads the source.
        html.register_escape_fn(|text| html_escape(text).replace("&#x3D;", "="));
        for (locale, letter, source) in SOURCES {
            text.register_template_string(&named(locale, letter), source).context("a letter's template is broken")?;
        }
        html.register_template_string("layout", LAYOUT).context("the layout of letters is broken")?;
        let templates = Self { text, html };
        let values = Values { name: String::new(), app_name: "", url: String::new(), year: 0 };
        for (locale, letter) in
            Locale::ALL.iter().flat_map(|locale| EmailTemplate::ALL.iter().map(move |it| (locale, it)))
        {
            templates.render(*letter, *locale, &values)?;
        }
        Ok(templates)
    }

    /// Puts a letter into rendered.
    ///
    /// # Errors
    /// When a template is missing, or wants what is not there.
    pub(super) fn render(&self, template: EmailTemplate, locale: Locale, values: &Values) -> Result<RenderedEmail> {
        let name = named(locale.as_str(), template.as_str());
        let rendered = self.text.render(&name, values).with_context(|| format!("the template {name} is broken"))?;
        let (subject, body) = rendered.split_once('\n').with_context(|| format!("the template {name} has no body"))?;
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
        let html = self.html.render("layout", &page).context("the layout of letters is broken")?;
        Ok(RenderedEmail { subject: subject.to_owned(), text: paragraphs.join("\n\n") + "\n", html })
    }
}

/// What the layout may say.
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

fn named(locale: &str, template: &str) -> String {
    format!("{locale}/{template}")
}

/// A text without line breaks and other control characters: nobody's name makes a paragraph.
pub(super) fn one_line(text: &str) -> String {
    let rendered = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    rendered.collect::<Vec<_>>().join(" ")
}
