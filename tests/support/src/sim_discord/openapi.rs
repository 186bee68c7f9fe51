//! The honesty check: with `DISCORD_OPENAPI` naming Discord's published OpenAPI document, every
//! request and every answer is held against it, so the Sim cannot drift into a world of its own.
//!
//! Beyond the schemas, keys are checked too: nearly no schema forbids unknown keys, so a misspelt
//! one would pass. What the documentation says and the document lacks is listed in [`DOCUMENTED`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use super::rest::Answer;

const BASE: &str = "https://discord.example/openapi.json";

/// Where Discord's documentation allows what its OpenAPI document does not: the end of the
/// offending value's path, by its last key.
const DOCUMENTED: [&str; 2] = [
    // Documented as a string of permission bits; the document says integer.
    "default_member_permissions",
    // Documented for bulk overwrites; missing from their schema.
    "nsfw",
];

struct Document {
    json: Value,
    registry: Registry<'static>,
    /// One validator per place in the document, compiled at first use.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// Checks one exchange. Returns whether its answer was checked, and what was wrong.
pub(super) fn check(method: &str, path: &str, request: &Value, answer: &Answer) -> (bool, Vec<String>) {
    static DOCUMENT: OnceLock<Option<Document>> = OnceLock::new();
    let Some(document) = DOCUMENT.get_or_init(Document::load) else {
        return (false, Vec::new());
    };
    let method = method.to_lowercase();
    let Some(template) = document.template(path) else {
        return (false, Vec::new());
    };
    let operation = format!("/paths/{}/{method}", escaped(template));
    let mut wrong = Vec::new();
    if !request.is_null() {
        let schema = document.request_schema(&operation, request);
        document.hold_against(schema.as_deref(), request, &mut wrong);
    }
    let mut checked = false;
    // The document says nothing about failures of Discord's own.
    if answer.status < 500 {
        match document.response(&operation, answer.status) {
            None => wrong.push(format!("status {} is not documented", answer.status)),
            Some(response) => {
                let schema = format!("{response}/content/application~1json/schema");
                let schema = document.json.pointer(&schema).map(|_| schema);
                checked = true;
                match schema {
                    None if answer.body.is_null() => {}
                    schema => document.hold_against(schema.as_deref(), &answer.body, &mut wrong),
                }
            }
        }
    }
    (checked, wrong.into_iter().map(|line| format!("{method} {template}: {line}")).collect())
}

impl Document {
    fn load() -> Option<Self> {
        let path = std::env::var_os("DISCORD_OPENAPI")?;
        let text = std::fs::read_to_string(&path).expect("DISCORD_OPENAPI names a readable file");
        let json: Value = serde_json::from_str(&text).expect("DISCORD_OPENAPI names a JSON file");
        let registry = Registry::new().add(BASE, json.clone()).and_then(jsonschema::RegistryBuilder::prepare);
        let registry = registry.expect("the document's references resolve");
        Some(Self { json, registry, validators: Mutex::default() })
    }

    /// The path template a path fits; literal segments win over parameters.
    fn template(&self, path: &str) -> Option<&str> {
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        let fits = |template: &&String| {
            let parts = template.trim_matches('/').split('/');
            parts.clone().count() == path.len()
                && parts.zip(&path).all(|(part, given)| part.starts_with('{') || part == *given)
        };
        let templates = self.json["paths"].as_object()?.keys().filter(fits);
        templates.min_by_key(|template| template.matches('{').count()).map(String::as_str)
    }

    /// The schema of a request body. A callback's seven-way choice is made by its `type`, so that a
    /// violation names the key and not "none of seven".
    fn request_schema(&self, operation: &str, request: &Value) -> Option<String> {
        let callback = match request["type"].as_u64() {
            _ if !operation.ends_with("callback/post") => None,
            Some(4 | 5) => Some("CreateMessageInteractionCallbackRequest"),
            Some(6 | 7) => Some("UpdateMessageInteractionCallbackRequest"),
            Some(8) => Some("ApplicationCommandAutocompleteCallbackRequest"),
            Some(9) => Some("ModalInteractionCallbackRequest"),
            _ => None,
        };
        let schema = match callback {
            Some(name) => format!("/components/schemas/{name}"),
            None => format!("{operation}/requestBody/content/application~1json/schema"),
        };
        self.json.pointer(&schema).map(|_| schema)
    }

    /// Where the response of a status is described.
    fn response(&self, operation: &str, status: u16) -> Option<String> {
        let exact = format!("{operation}/responses/{status}");
        let family = format!("{operation}/responses/{}XX", status / 100);
        let found = [exact, family].into_iter().find(|at| self.json.pointer(at).is_some())?;
        let reference = self.json.pointer(&found)?["$ref"].as_str().map(|at| at.trim_start_matches('#').to_owned());
        Some(reference.unwrap_or(found))
    }

    fn hold_against(&self, schema: Option<&str>, value: &Value, wrong: &mut Vec<String>) {
        let Some(schema) = schema else {
            wrong.push(format!("a body is not documented here: {value}"));
            return;
        };
        let validator = self.validator(schema);
        let errors = validator.iter_errors(value).map(|error| (error.instance_path().to_string(), error.to_string()));
        let unexpected = errors.filter(|(at, _)| !is_documented(at));
        wrong.extend(unexpected.map(|(at, error)| format!("{at}: {error:.300}")));
        let schema = self.json.pointer(schema).expect("the caller looked it up");
        self.unknown_keys(&[schema], value, "", wrong);
    }

    fn validator(&self, schema: &str) -> Arc<Validator> {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = validators.entry(schema.to_owned()).or_insert_with(|| {
            // `{` and `}` of path templates may not stand in a URI.
            let fragment = schema.replace('{', "%7B").replace('}', "%7D");
            let schema = json!({ "$ref": format!("{BASE}#{fragment}") });
            let options = jsonschema::options().with_registry(&self.registry).build(&schema);
            Arc::new(options.expect("Discord's schemas compile"))
        });
        Arc::clone(compiled)
    }

    /// Reports keys no variant of the schema knows. Alternatives are joined: which of them holds is
    /// the validator's question.
    fn unknown_keys(&self, schemas: &[&Value], value: &Value, at: &str, wrong: &mut Vec<String>) {
        let mut variants = Vec::new();
        for schema in schemas {
            self.variants(schema, &mut variants);
        }
        match value {
            Value::Array(items) => {
                let schemas: Vec<_> = variants.iter().filter_map(|schema| schema.get("items")).collect();
                for item in items {
                    self.unknown_keys(&schemas, item, at, wrong);
                }
            }
            Value::Object(map) => {
                // A schema without properties describes a free map.
                let free = |schema: &&Value| schema.get("additionalProperties").is_some_and(Value::is_object);
                let known = |schema: &&Value| schema.get("properties").is_some();
                if variants.iter().any(free) || !variants.iter().any(known) {
                    return;
                }
                for (key, value) in map {
                    let schemas: Vec<_> = variants.iter().filter_map(|schema| schema["properties"].get(key)).collect();
                    let at = format!("{at}/{key}");
                    if schemas.is_empty() && !is_documented(&at) {
                        wrong.push(format!("{at} is not a documented key"));
                    }
                    self.unknown_keys(&schemas, value, &at, wrong);
                }
            }
            _ => {}
        }
    }

    /// A schema and everything it refers to or chooses between.
    fn variants<'a>(&'a self, schema: &'a Value, into: &mut Vec<&'a Value>) {
        into.push(schema);
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.json.pointer(reference.trim_start_matches('#'));
            self.variants(target.expect("references resolve"), into);
        }
        for choice in ["oneOf", "anyOf", "allOf"] {
            let choices = schema[choice].as_array().into_iter().flatten();
            choices.for_each(|choice| self.variants(choice, into));
        }
    }
}

fn is_documented(at: &str) -> bool {
    at.rsplit('/').next().is_some_and(|key| DOCUMENTED.contains(&key))
}

/// A path template as one segment of a JSON pointer.
fn escaped(template: &str) -> String {
    template.replace('~', "~0").replace('/', "~1")
}
