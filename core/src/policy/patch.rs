//! Changes of terms: JSON merge patches (RFC 7396), from every interface.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{LicenseType, PolicyTerms};
use crate::{Reason, Result, field::FieldFault, merge_patch};

/// The members of terms to change; `null` restores the default of a member. With `type`, the change begins with the preset
/// of that type instead of the current terms. A limit of devices makes activation required unless the patch decides that
/// too, because a client could ignore the limit otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyPatch(Map<String, Value>);

impl PolicyPatch {
    /// The same patch, with a member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0.insert(member.to_owned(), value.into());
        self
    }

    /// The same patch, with a type that was given beside it. Refused with `VALIDATION_ERROR` if it has one already.
    pub fn of_type(self, license_type: Option<String>) -> Result<Self> {
        match license_type {
            Some(_) if self.0.contains_key("type") => {
                Err(Reason::InvalidField { field: "type".to_owned(), fault: FieldFault::Repeated }.refusal())
            }
            Some(license_type) => Ok(self.with("type", license_type)),
            None => Ok(self),
        }
    }
}

impl PolicyTerms {
    /// These terms after a change. Refused with `VALIDATION_ERROR`, which names the member as `policy.maxDevices`.
    pub fn patched(&self, patch: &PolicyPatch) -> Result<Self> {
        let mut members = patch.0.clone();
        let base = match members.remove("type") {
            None => self.clone(),
            Some(Value::Null) => Self::default(),
            Some(name) => {
                let license_type = name.as_str().and_then(LicenseType::named);
                Self::preset(license_type.ok_or_else(|| invalid("type", FieldFault::Expected(known_types())))?)
            }
        };
        if members.get("maxDevices").is_some_and(|max| !max.is_null()) {
            members.entry("deviceRequired").or_insert(Value::Bool(true));
        }
        let mut terms = json!(base);
        merge_patch::apply(&mut terms, Value::Object(members));
        let terms: Self = serde_path_to_error::deserialize(terms).map_err(|error| {
            let (field, fault) = FieldFault::of(&error).unwrap_or((String::new(), FieldFault::Invalid));
            invalid(&field, fault)
        })?;
        match terms.fault() {
            Some((field, fault)) => Err(invalid(field, fault)),
            None => Ok(terms),
        }
    }
}

fn known_types() -> String {
    let names: Vec<_> = LicenseType::ALL.iter().map(|known| format!("`{known}`")).collect();
    format!("one of {}", names.join(", "))
}

fn invalid(field: &str, fault: FieldFault) -> crate::Error {
    Reason::InvalidField { field: format!("policy.{field}"), fault }.refusal()
}
