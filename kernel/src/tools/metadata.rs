//! `cargo metadata` for the rust-analyzer inside evcxr.
//!
//! rust-analyzer finds the types of a cell's variables, and for that it reads every crate that the answer names. Of the 350
//! below a library only those matter whose types a cell can name, and reading the others doubles the time to the first chart.
//! The library says so itself, in its manifest: `[package.metadata.notebook] visible = ["polars", ...]`.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// The crates of Rust's own workspace that cells name types of.
const STANDARD_LIBRARY: [&str; 4] = ["core", "alloc", "std", "proc_macro"];

/// The answer without the packages that are not visible.
pub fn restricted(answer: &str) -> Option<String> {
    let mut answer: Value = serde_json::from_str(answer).ok()?;
    let shown = visible(&answer)?;
    let is_shown = |id: &Value| id.as_str().is_some_and(|id| shown.contains(id));
    let keep = |list: &mut Value, id: &dyn Fn(&Value) -> Value| {
        if let Some(list) = list.as_array_mut() {
            list.retain(|entry| is_shown(&id(entry)));
        }
    };
    for members in ["workspace_members", "workspace_default_members"] {
        keep(&mut answer[members], &Value::clone);
    }
    keep(&mut answer["packages"], &|package| package["id"].clone());
    keep(&mut answer["resolve"]["nodes"], &|node| node["id"].clone());
    for node in answer["resolve"]["nodes"].as_array_mut()? {
        keep(&mut node["dependencies"], &Value::clone);
        keep(&mut node["deps"], &|need| need["pkg"].clone());
    }
    Some(answer.to_string())
}

/// The packages to show: whatever cells depend on, but below a library that names visible crates only those.
fn visible(answer: &Value) -> Option<HashSet<String>> {
    let packages = answer["packages"].as_array()?;
    let name = |package: &Value| package["name"].as_str().map(str::to_owned);
    let id = |package: &Value| package["id"].as_str().map(str::to_owned);
    let names: HashMap<String, String> =
        packages.iter().filter_map(|package| Some((id(package)?, name(package)?))).collect();
    if STANDARD_LIBRARY.iter().all(|own| names.values().any(|name| name == own)) {
        let own = names.into_iter().filter(|(_, name)| STANDARD_LIBRARY.contains(&name.as_str()));
        return Some(own.map(|(id, _)| id).collect());
    }
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|entry| Some(entry.as_str()?.to_owned())).collect()
    };
    let mut named: HashSet<String> = HashSet::new();
    for package in packages {
        let visible = texts(&package["metadata"]["notebook"]["visible"]);
        if !visible.is_empty() {
            named.extend(visible.into_iter().chain(name(package)));
        }
    }
    let nodes = answer["resolve"]["nodes"].as_array()?;
    let needs: HashMap<String, Vec<String>> =
        nodes.iter().filter_map(|node| Some((id(node)?, texts(&node["dependencies"])))).collect();
    let is_named = |package: &String| names.get(package).is_some_and(|name| named.contains(name));
    let (mut found, mut open) = (HashSet::new(), texts(&answer["workspace_members"]));
    while let Some(package) = open.pop() {
        if found.insert(package.clone()) {
            let below = is_named(&package);
            let needs = needs.get(&package).into_iter().flatten();
            open.extend(needs.filter(|need| !below || is_named(need)).cloned());
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The names of the packages that are shown, sorted.
    fn shown(members: &[&str], needs: &[(&str, &[&str])]) -> Vec<String> {
        let nodes: Vec<Value> = needs
            .iter()
            .map(|(id, needs)| {
                let deps: Vec<Value> = needs.iter().map(|need| json!({"pkg": need})).collect();
                json!({"id": id, "dependencies": needs, "deps": deps})
            })
            .collect();
        let packages: Vec<Value> = needs.iter().map(|(id, _)| match *id {
            "stemm" => json!({"id": id, "name": id, "metadata": {"notebook": {"visible": ["polars", "polars-core", "tch"]}}}),
            _ => json!({"id": id, "name": id, "metadata": null}),
        }).collect();
        let answer = json!({"workspace_members": members, "workspace_default_members": members, "packages": packages,
            "resolve": {"nodes": nodes, "root": members[0]}, "version": 1});
        let answer: Value = serde_json::from_str(&restricted(&answer.to_string()).unwrap()).unwrap();
        let ids = |list: &Value| {
            list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
        };
        let mut nodes: Vec<String> = ids(&answer["resolve"]["nodes"]);
        let packages: Vec<String> = ids(&answer["packages"]);
        for node in answer["resolve"]["nodes"].as_array().unwrap() {
            assert!(
                node["deps"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|need| nodes.contains(&need["pkg"].as_str().unwrap().to_owned()))
            );
        }
        nodes.sort();
        assert_eq!(nodes.len(), packages.len());
        nodes
    }

    #[test]
    fn below_a_library_only_crates_whose_types_cells_name_are_shown() {
        let needs: &[(&str, &[&str])] = &[
            ("ctx", &["stemm"]),
            ("stemm", &["polars", "tch", "rayon"]),
            ("polars", &["polars-core"]),
            ("tch", &["zip"]),
            ("rayon", &[]),
            ("polars-core", &["rayon"]),
            ("zip", &[]),
        ];
        assert_eq!(shown(&["ctx"], needs), ["ctx", "polars", "polars-core", "stemm", "tch"]);
    }

    #[test]
    fn whatever_else_a_notebook_depends_on_is_shown_whole() {
        let needs: &[(&str, &[&str])] = &[
            ("ctx", &["stemm", "ndarray"]),
            ("stemm", &["rayon"]),
            ("rayon", &[]),
            ("ndarray", &["rayon", "num"]),
            ("num", &[]),
        ];
        assert_eq!(shown(&["ctx"], needs), ["ctx", "ndarray", "num", "rayon", "stemm"]);
    }

    #[test]
    fn of_the_standard_library_only_its_own_crates_are_shown() {
        let needs: &[(&str, &[&str])] = &[
            ("std", &["core", "hashbrown"]),
            ("core", &[]),
            ("alloc", &["core"]),
            ("proc_macro", &[]),
            ("hashbrown", &[]),
        ];
        assert_eq!(shown(&["std", "hashbrown"], needs), ["alloc", "core", "proc_macro", "std"]);
    }
}
