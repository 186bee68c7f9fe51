//! Validation against Discord's OpenAPI document: if `DISCORD_OPENAPI` is its path, every request and response is
//! checked, so that the Sim stays faithful to Discord.
//!
//! Unknown keys are violations too, because the schemas hardly ever forbid them. [`DOCUMENTED`] lists what the
//! documentation allows and the document lacks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use super::response::RestResponse;

const BASE: &str = "https://discord.example/openapi.json";

/// The keys that Discord's documentation allows and its OpenAPI document does not.
const DOCUMENTED: [&str; 2] = [
    // Documented as a string of permission bits; an integer in the document.
    "default_member_permissions",
    // Documented for bulk overwrites; missing from their schema.
    "nsfw",
];

struct Document {
    json: Value,
    registry: Registry<'static>,
    /// The validators by JSON pointer, compiled at first use.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// Checks one exchange. Returns whether the response was checked, and the violations.
pub(super) fn check(method: &str, path: &str, request: &Value, response: &RestResponse) -> (bool, Vec<String>) {
    static DOCUMENT: OnceLock<Option<Document>> = OnceLock::new();
    let Some(document) = DOCUMENT.get_or_init(Document::load) else {
        return (false, Vec::new());
    };
    let method = method.to_lowercase();
    let Some(template) = document.template(path) else {
        return (false, Vec::new());
    };
    let operation = format!("/paths/{}/{method}", escaped(template));
    let mut violations = Vec::new();
    if !request.is_null() {
        let schema = document.request_schema(&operation, request);
        document.validate(schema.as_deref(), request, &mut violations);
    }
    let mut checked = false;
    // The document does not describe server errors.
    if response.status < 500 {
        match document.response(&operation, response.status) {
            None => violations.push(format!("status {} is not documented", response.status)),
            Some(pointer) => {
                let schema = format!("{pointer}/content/application~1json/schema");
                let schema = document.json.pointer(&schema).map(|_| schema);
                checked = true;
                match schema {
                    None if response.body.is_null() => {}
                    schema => document.validate(schema.as_deref(), &response.body, &mut violations),
                }
            }
        }
    }
    (checked, violations.into_iter().map(|line| format!("{method} {template}: {line}")).collect())
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

    /// The template of a path; literal segments take precedence over parameters.
    fn template(&self, path: &str) -> Option<&str> {
        let path: Vec<&str> = path.trim_matches('/').split('/').collect();
        let matches = |template: &&String| {
            let parts = template.trim_matches('/').split('/');
            parts.clone().count() == path.len()
                && parts.zip(&path).all(|(part, segment)| part.starts_with('{') || part == *segment)
        };
        let templates = self.json["paths"].as_object()?.keys().filter(matches);
        templates.min_by_key(|template| template.matches('{').count()).map(String::as_str)
    }

    /// The schema of a request body. For interaction callbacks it is selected by `type`, which gives clearer errors
    /// than the `oneOf` of all variants.
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

    /// The JSON pointer to the response of a status.
    fn response(&self, operation: &str, status: u16) -> Option<String> {
        let exact = format!("{operation}/responses/{status}");
        let family = format!("{operation}/responses/{}XX", status / 100);
        let found = [exact, family].into_iter().find(|pointer| self.json.pointer(pointer).is_some())?;
        let reference =
            self.json.pointer(&found)?["$ref"].as_str().map(|pointer| pointer.trim_start_matches('#').to_owned());
        Some(reference.unwrap_or(found))
    }

    fn validate(&self, schema: Option<&str>, value: &Value, violations: &mut Vec<String>) {
        let Some(schema) = schema else {
            violations.push(format!("no body is documented: {value}"));
            return;
        };
        let validator = self.validator(schema);
        let errors = validator.iter_errors(value).map(|error| (error.instance_path().to_string(), error.to_string()));
        let unexpected = errors.filter(|(pointer, _)| !is_documented(pointer));
        violations.extend(unexpected.map(|(pointer, error)| format!("{pointer}: {error:.300}")));
        let schema = self.json.pointer(schema).expect("the caller looked it up");
        self.unknown_keys(&[schema], value, "", violations);
    }

    fn validator(&self, schema: &str) -> Arc<Validator> {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = validators.entry(schema.to_owned()).or_insert_with(|| {
            // `{` and `}` are not allowed in a URI.
            let fragment = schema.replace('{', "%7B").replace('}', "%7D");
            let schema = json!({ "$ref": format!("{BASE}#{fragment}") });
            let options = jsonschema::options().with_registry(&self.registry).build(&schema);
            Arc::new(options.expect("Discord's schemas compile"))
        });
        Arc::clone(compiled)
    }

    /// Reports keys that no variant of the schema contains. All alternatives count; the validator checks which of
    /// them applies.
    fn unknown_keys(&self, schemas: &[&Value], value: &Value, pointer: &str, violations: &mut Vec<String>) {
        let mut variants = Vec::new();
        for schema in schemas {
            self.variants(schema, &mut variants);
        }
        match value {
            Value::Array(items) => {
                let schemas: Vec<_> = variants.iter().filter_map(|schema| schema.get("items")).collect();
                for item in items {
                    self.unknown_keys(&schemas, item, pointer, violations);
                }
            }
            Value::Object(map) => {
                // A schema without properties describes a map with any keys.
                let is_map = |schema: &&Value| schema.get("additionalProperties").is_some_and(Value::is_object);
                let has_properties = |schema: &&Value| schema.get("properties").is_some();
                if variants.iter().any(is_map) || !variants.iter().any(has_properties) {
                    return;
                }
                for (key, value) in map {
                    let schemas: Vec<_> = variants.iter().filter_map(|schema| schema["properties"].get(key)).collect();
                    let pointer = format!("{pointer}/{key}");
                    if schemas.is_empty() && !is_documented(&pointer) {
                        violations.push(format!("{pointer} is not a documented key"));
                    }
                    self.unknown_keys(&schemas, value, &pointer, violations);
                }
            }
            _ => {}
        }
    }

    /// Collects a schema and all schemas that it references or combines.
    fn variants<'a>(&'a self, schema: &'a Value, variants: &mut Vec<&'a Value>) {
        variants.push(schema);
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.json.pointer(reference.trim_start_matches('#'));
            self.variants(target.expect("references resolve"), variants);
        }
        for choice in ["oneOf", "anyOf", "allOf"] {
            let choices = schema[choice].as_array().into_iter().flatten();
            choices.for_each(|choice| self.variants(choice, variants));
        }
    }
}

fn is_documented(pointer: &str) -> bool {
    pointer.rsplit('/').next().is_some_and(|key| DOCUMENTED.contains(&key))
}

/// Escapes a path template for use as a segment of a JSON pointer.
fn escaped(template: &str) -> String {
    template.replace('~', "~0").replace('/', "~1")
}
