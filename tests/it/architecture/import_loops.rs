//! No two files of a package import each other, directly or in a loop. Imports are read from the text: `use`
//! declarations, and paths that start with `crate`, `super`, `self` or a child module. A re-export counts as an import
//! of the file that defines the item.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::Regex;

use super::{root, sources};

/// Comments, strings and unit tests.
static NOISE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?s)#\[cfg\(test\)\]\s*mod tests \{.*|//[^\n]*|"(?:[^"\\]|\\.)*""#).unwrap());
static USE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(pub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);").unwrap());
static TOKEN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+\s+as\s+\w+|\w+|[{},*]").unwrap());
static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+(?:::\w+)+").unwrap());

/// A module as a list of names; the crate root is empty.
type Module = Vec<String>;

/// The modules of a package.
struct Package {
    /// The code, without comments, strings and unit tests.
    code: BTreeMap<Module, String>,
    /// The re-exports of each module: the name and the path it stands for.
    re_exports: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
}

impl Package {
    fn read(folder: &str) -> Self {
        let (mut code, mut re_exports) = (BTreeMap::new(), BTreeMap::new());
        for path in sources(folder) {
            let file = path.strip_prefix(root().join(folder)).unwrap().with_extension("");
            let mut module: Module = file.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            module.pop_if(|last| *last == "mod");
            if module == ["lib"] {
                module.clear();
            }
            let text = NOISE.replace_all(&std::fs::read_to_string(&path).unwrap(), "").into_owned();
            let names = declarations(&text).into_iter().filter(|(is_public, ..)| *is_public);
            re_exports.insert(module.clone(), names.map(|(_, name, path)| (name, path)).collect());
            code.insert(module, text);
        }
        Self { code, re_exports }
    }

    /// The modules that a module imports from.
    fn imports(&self, module: &Module) -> BTreeSet<&Module> {
        let text = &self.code[module];
        let private = declarations(text).into_iter().filter(|(is_public, ..)| !is_public).map(|(_, _, path)| path);
        let mut paths: Vec<Vec<String>> = private.collect();
        let body = USE.replace_all(text, "");
        paths.extend(PATH.find_iter(&body).map(|path| path.as_str().split("::").map(str::to_owned).collect()));
        let targets = paths.iter().filter_map(|path| self.resolve(module, path));
        targets.filter(|target| *target != module).collect()
    }

    /// The module that defines what a path means in `module`; `None` if it is in another package.
    fn resolve(&self, module: &Module, path: &[String]) -> Option<&Module> {
        let (mut target, mut rest) = (module.clone(), path);
        match path[0].as_str() {
            "crate" => target.clear(),
            "self" | "super" => {}
            child if self.code.contains_key(&[module.as_slice(), &[child.to_owned()]].concat()) => {}
            _ => return None,
        }
        while let [first, tail @ ..] = rest {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => drop(target.pop()),
                _ => {
                    target.push(first.clone());
                    if !self.code.contains_key(&target) {
                        target.pop();
                        break;
                    }
                }
            }
            rest = tail;
        }
        let re_export = rest.first().and_then(|name| self.re_exports.get(&target)?.get(name));
        let original = re_export.and_then(|path| self.resolve(&target, path));
        original.or_else(|| Some(self.code.get_key_value(&target)?.0))
    }

    /// The imports within loops, as `a -> b`.
    fn loops(&self) -> Vec<String> {
        let imports: BTreeMap<_, _> = self.code.keys().map(|module| (module, self.imports(module))).collect();
        let reachable = |from: &Module| {
            let (mut found, mut open) = (BTreeSet::new(), Vec::from_iter(&imports[from]));
            while let Some(module) = open.pop() {
                if found.insert(*module) {
                    open.extend(&imports[*module]);
                }
            }
            found
        };
        let reachable: BTreeMap<_, _> = imports.keys().map(|module| (*module, reachable(module))).collect();
        let edges = imports.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (*from, *to)));
        let in_loop = edges.filter(|(from, to)| reachable[to].contains(from));
        in_loop.map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::"))).collect()
    }
}

/// The `use` declarations: whether each is a re-export, the name it defines, and its path.
fn declarations(code: &str) -> Vec<(bool, String, Vec<String>)> {
    let mut all = Vec::new();
    for found in USE.captures_iter(code) {
        let mut prefixes = vec![Vec::<String>::new()];
        let mut path = Vec::<String>::new();
        let mut end = |path: &mut Vec<String>, prefixes: &[Vec<String>]| {
            if let Some(last) = path.pop() {
                let (item, name) = last.split_once(" as ").unwrap_or((&last, &last));
                let whole = prefixes.concat().into_iter().chain(path.drain(..));
                let whole = whole.chain((item != "self").then(|| item.to_owned()));
                all.push((found.get(1).is_some(), name.to_owned(), whole.collect()));
            }
        };
        for token in TOKEN.find_iter(&found[2]).map(|token| token.as_str()) {
            match token {
                "{" => prefixes.push(std::mem::take(&mut path)),
                "," => end(&mut path, &prefixes),
                "}" => {
                    end(&mut path, &prefixes);
                    prefixes.pop();
                }
                name => path.push(name.to_owned()),
            }
        }
        end(&mut path, &prefixes);
    }
    all
}

#[test]
fn no_two_files_of_a_package_import_each_other_in_a_loop() {
    for folder in ["core/src", "commands/src", "src", "migration/src", "tests/support/src"] {
        let loops = Package::read(folder).loops();
        assert!(loops.is_empty(), "{folder}: {loops:#?}");
    }
}
