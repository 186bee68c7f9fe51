//! The text of `.env.example`.

use super::earlier::{REPLACED, Replaced, UNUSED};
use super::setting::{Fallback, Setting};

const HEAD: &str = "\
# All settings with their defaults, commented out. An empty value counts as unset.
# The first source that sets a value wins: the DCA_ name or its _FILE variant (a file that contains the secret),
# then the TOML file of DCA_CONFIG_FILE, then the fallbacks from top to bottom.";

/// Every assignment is commented out, so the file changes nothing.
pub(super) fn render(settings: &[Setting]) -> String {
    let mut lines = vec![HEAD.to_owned()];
    for setting in settings {
        lines.push(format!("\n# {}\n# Use {}.", setting.about, setting.expected));
        lines.extend(setting.fallbacks.iter().map(render_fallback));
        lines.push(format!("# {}={}", setting.name, setting.default));
        lines.extend(setting.file_name().map(|name| format!("# {name}=")));
    }
    lines
        .push("\n# Names of earlier systems that are recognized but not used. The log lists them at start:".to_owned());
    lines.extend(UNUSED.iter().map(|(name, about)| format!("# {name}: {about}")));
    lines.push("\n# Names of earlier systems that are replaced. If set, their values are checked:".to_owned());
    let replaced = |(name, about, expected, _): &Replaced| format!("# {name}: {about}. Use {expected}.");
    lines.extend(REPLACED.iter().map(replaced));
    lines.join("\n") + "\n"
}

fn render_fallback(fallback: &Fallback) -> String {
    let names = fallback.names.replace(' ', ", ");
    match fallback.expected {
        None => format!("# Fallback: {names}"),
        Some(expected) => format!("# Fallback: {names} ({expected})"),
    }
}
