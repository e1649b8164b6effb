//! What cargo has decided once, and by what.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::CELL;
use crate::directory::UNFINISHED;

/// Stands for the kernel's directory in what is noted: other kernels get copies.
const HERE: &str = "{kernel}";
/// Where evcxr writes settings of cargo; those for all kernels are in cargo's home.
const SETTINGS: &str = ".cargo/config.toml";
/// Variables that cargo decides by.
const DECIDING: [&str; 8] = [
    super::LEVEL,
    "RUSTFLAGS",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTUP_TOOLCHAIN",
    "LIBTORCH",
    "EVCXR_FORCE_DYLIB",
    "CARGO_HOME",
];

/// A call of cargo, and all that its answer depends on but the cell's own code.
pub struct Call {
    directory: PathBuf,
    /// The folder of the manifest.
    project: PathBuf,
    arguments: Vec<OsString>,
    by_evcxr: bool,
    key: u64,
}

impl Call {
    /// For a kernel's directory; nothing where there is no manifest.
    pub fn new(directory: &Path, arguments: &[OsString], by_evcxr: bool) -> Option<Call> {
        let named = arguments.iter().skip_while(|argument| *argument != "--manifest-path").nth(1);
        let project = match named {
            Some(manifest) => Path::new(manifest).parent()?.to_owned(),
            None => std::env::current_dir().ok()?,
        };
        let directory = directory.to_owned();
        let mut call = Call { directory, project, arguments: arguments.to_vec(), by_evcxr, key: 0 };
        call.key = call.new_key()?;
        Some(call)
    }

    /// The same call after cargo may have changed the lock file.
    pub fn again(&self) -> Option<Call> {
        Call::new(&self.directory, &self.arguments, self.by_evcxr)
    }

    fn new_key(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        let manifest = fs::read_to_string(self.project.join("Cargo.toml")).ok()?;
        // evcxr writes the dependencies in any order.
        let mut lines: Vec<&str> = manifest.lines().collect();
        lines.sort_unstable();
        lines.hash(&mut hasher);
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).unwrap_or_default();
        for file in [self.project.join("Cargo.lock"), self.project.join(SETTINGS), home.join("config.toml")] {
            fs::read(file).ok().hash(&mut hasher);
        }
        hash_crates_by_path(&manifest, &self.project, &mut HashSet::new(), &mut hasher);
        let place = |text: &OsString| text.to_string_lossy().replace(&*self.directory.to_string_lossy(), HERE);
        self.arguments.iter().map(place).collect::<Vec<_>>().hash(&mut hasher);
        DECIDING.map(std::env::var_os).hash(&mut hasher);
        self.by_evcxr.hash(&mut hasher);
        Some(hasher.finish())
    }

    /// Where something of this call is noted.
    pub fn file(&self, kind: &str) -> PathBuf {
        self.directory.join("target").join("noted").join(format!("{:016x}.{kind}", self.key))
    }

    /// Is there while cargo has not compiled all that a cell needs: it removes what was before it compiles.
    pub fn unfinished(&self) -> PathBuf {
        self.directory.join(UNFINISHED)
    }

    /// Does something that may write the lock file, and takes it back if that made it shorter.
    pub fn with_lock<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let file = self.project.join("Cargo.lock");
        let before = fs::read_to_string(&file).unwrap_or_default();
        let result = work();
        let packages = |lock: &str| lock.matches("[[package]]").count();
        let after = fs::read_to_string(&file).unwrap_or_default();
        if packages(&after) < packages(&before) {
            fs::write(&file, before)?;
        }
        result
    }

    fn here(&self, text: &str) -> String {
        text.replace(HERE, &self.directory.to_string_lossy())
    }
}

/// Hashes the sources of the crates that a manifest names by their folders, and of those that these name: they can be edited
/// while a kernel runs.
fn hash_crates_by_path(manifest: &str, folder: &Path, seen: &mut HashSet<PathBuf>, hasher: &mut DefaultHasher) {
    for text in manifest.split("path").skip(1) {
        let value = text.trim_start().strip_prefix('=').and_then(|value| value.trim_start().strip_prefix('"'));
        let Some(named) = value.and_then(|value| value.split('"').next()) else { continue };
        // Targets are named by paths as well, of files.
        let Ok(named) = folder.join(named).canonicalize() else { continue };
        let Ok(manifest) = fs::read_to_string(named.join("Cargo.toml")) else { continue };
        if seen.insert(named.clone()) {
            manifest.hash(hasher);
            hash_files(&named.join("build.rs"), hasher);
            hash_files(&named.join("src"), hasher);
            hash_crates_by_path(&manifest, &named, seen, hasher);
        }
    }
}

/// Hashes a file, or all below a folder.
fn hash_files(path: &Path, hasher: &mut DefaultHasher) {
    let mut inner: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    inner.sort();
    inner.iter().for_each(|path| hash_files(path, hasher));
    (path, fs::read(path).ok()).hash(hasher);
}

/// A compiler's command, or an answer.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    #[serde(default)]
    arguments: Vec<String>,
    /// What cargo has set.
    #[serde(default)]
    variables: BTreeMap<String, String>,
    #[serde(default)]
    answer: String,
}

impl Noted {
    /// The command that cargo gives now, in the kernel's directory.
    pub fn command(arguments: &[OsString]) -> Noted {
        let directory = std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned();
        let placed = |text: String| if directory.is_empty() { text } else { text.replace(&directory, HERE) };
        let arguments = arguments.iter().map(|argument| placed(argument.to_string_lossy().into_owned())).collect();
        // CARGO_MAKEFLAGS names pipes of the cargo that runs now.
        let is_cargos =
            |name: &str| name.starts_with("CARGO") && name != "CARGO_MAKEFLAGS" || name == "LD_LIBRARY_PATH";
        let variables = std::env::vars().filter(|(name, _)| is_cargos(name)).map(|(name, value)| (name, placed(value)));
        Noted { arguments, variables: variables.collect(), answer: String::new() }
    }

    pub fn answer(text: String, call: &Call) -> Noted {
        let answer = text.replace(&*call.directory.to_string_lossy(), HERE);
        Noted { answer, ..Noted::default() }
    }

    /// The answer as it is for this kernel.
    pub fn text(&self, call: &Call) -> String {
        call.here(&self.answer)
    }

    /// What is noted in a file, if there is one of this kind.
    pub fn read(file: &Path) -> Option<Noted> {
        serde_json::from_str(&fs::read_to_string(file).ok()?).ok()
    }

    /// A note that cannot be written costs time, nothing else.
    pub fn write(&self, file: &Path) {
        if let (Some(folder), Ok(text)) = (file.parent(), serde_json::to_string(self)) {
            let _ = fs::create_dir_all(folder).and_then(|()| fs::write(file, text));
        }
    }

    /// Runs the command, and tells evcxr as cargo would where the library is; gives the exit code.
    pub fn run(&self, call: &Call) -> i32 {
        let Some((program, arguments)) = self.arguments.split_first() else { return 1 };
        let mut command = Command::new(program);
        command.args(arguments.iter().map(|argument| call.here(argument))).current_dir(&call.project);
        command.envs(self.variables.iter().map(|(name, value)| (name, call.here(value))));
        let code = command.status().ok().and_then(|status| status.code()).unwrap_or(1);
        let folder = self.arguments.iter().skip_while(|argument| *argument != "--out-dir").nth(1);
        if let Some(folder) = folder.filter(|_| code == 0) {
            let library =
                format!("{}/{}{CELL}{}", call.here(folder), std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
            let message = serde_json::json!({
                "reason": "compiler-artifact", "target": {"name": CELL}, "filenames": [library]
            });
            println!("{message}");
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::tests::folder;

    fn call(directory: &Path) -> Call {
        let manifest = directory.join("Cargo.toml").into_os_string();
        Call::new(directory, &["build".into(), "--manifest-path".into(), manifest], true).unwrap()
    }

    #[test]
    fn a_call_is_the_same_until_something_that_cargo_decides_by_changes() {
        let (one, two) = (folder("noted"), folder("noted"));
        for folder in [&one, &two] {
            fs::write(folder.join("Cargo.toml"), "a = 1\nb = 2\n").unwrap();
            fs::write(folder.join("Cargo.lock"), "lock").unwrap();
        }
        assert_eq!(call(&one).key, call(&two).key, "wherever the kernel is");
        fs::write(two.join("Cargo.toml"), "b = 2\na = 1\n").unwrap();
        assert_eq!(call(&one).key, call(&two).key, "in any order");
        fs::write(two.join("Cargo.lock"), "another").unwrap();
        assert_ne!(call(&one).key, call(&two).key);
        assert_ne!(call(&two).key, Call { by_evcxr: false, ..call(&two) }.new_key().unwrap());
        fs::remove_file(two.join("Cargo.toml")).unwrap();
        assert!(call(&one).file("command").starts_with(&one));
        assert!(
            Call::new(&two, &["build".into(), "--manifest-path".into(), two.join("Cargo.toml").into()], true).is_none()
        );
    }

    #[test]
    fn a_call_is_another_when_a_crate_that_is_named_by_its_folder_is_edited() {
        let (kernel, library, below) = (folder("by-path"), folder("library"), folder("below"));
        let write = |folder: &Path, file: &str, text: &str| {
            fs::create_dir_all(folder.join("src")).unwrap();
            fs::write(folder.join(file), text).unwrap();
        };
        let manifest =
            format!("[lib]\npath = \"src/lib.rs\"\n[dependencies]\na = {{path = \"{}\"}}\n", library.display());
        write(&kernel, "Cargo.toml", &manifest);
        // Cargo refuses a circle; here it must come to an end.
        let circle = format!("c = {{ path = \"../{}\" }}", library.file_name().unwrap().to_string_lossy());
        write(&library, "Cargo.toml", &format!("b = {{ path=\"{}\" }}\n{circle}", below.display()));
        write(&below, "Cargo.toml", "");
        for edited in [&library, &below] {
            let before = call(&kernel).key;
            write(edited, "src/lib.rs", "fn f() {}");
            assert_ne!(call(&kernel).key, before, "{}", edited.display());
        }
        let before = call(&kernel).key;
        write(&library, "notes.txt", "nothing to the compiler");
        assert_eq!(call(&kernel).key, before);
    }

    #[test]
    fn a_shorter_lock_file_is_taken_back_and_a_longer_one_kept() {
        let folder = folder("lock");
        let (long, short) = ("[[package]]\n[[package]]\n", "[[package]]\n");
        let lock = folder.join("Cargo.lock");
        fs::write(folder.join("Cargo.toml"), "").unwrap();
        fs::write(&lock, short).unwrap();
        call(&folder).with_lock(|| fs::write(&lock, long)).unwrap();
        assert_eq!(fs::read_to_string(&lock).unwrap(), long);
        call(&folder).with_lock(|| fs::write(&lock, short)).unwrap();
        assert_eq!(fs::read_to_string(&lock).unwrap(), long);
    }

    #[test]
    fn an_answer_names_the_directory_of_the_kernel_that_reads_it() {
        let (one, two) = (folder("answer"), folder("answer"));
        for folder in [&one, &two] {
            fs::write(folder.join("Cargo.toml"), "").unwrap();
        }
        let noted = Noted::answer(format!("{{\"root\":\"{}/src\"}}", one.display()), &call(&one));
        let file = one.join("note");
        noted.write(&file);
        let read = Noted::read(&file).unwrap();
        assert_eq!(read, noted);
        assert_eq!(read.text(&call(&two)), format!("{{\"root\":\"{}/src\"}}", two.display()));
    }

    #[test]
    fn a_command_is_run_for_this_kernel_and_its_library_told() {
        let folder = folder("command");
        fs::write(folder.join("Cargo.toml"), "").unwrap();
        let arguments = ["/bin/sh", "-c", "test -d \"$0\" && test \"$CARGO_X\" = \"$0/x\"", HERE, "--out-dir", HERE];
        let variables = BTreeMap::from([("CARGO_X".to_owned(), format!("{HERE}/x"))]);
        let noted = Noted { arguments: arguments.map(str::to_owned).to_vec(), variables, answer: String::new() };
        assert_eq!(noted.run(&call(&folder)), 0);
        assert_eq!(Noted { arguments: vec!["/bin/false".into()], ..noted }.run(&call(&folder)), 1);
    }
}
