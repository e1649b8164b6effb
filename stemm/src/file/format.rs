//! What a file is by its first bytes: a wrong file is named for what it is, with what to do about it.

use std::path::Path;

use crate::error::Error;

/// A format of files that come up where another is expected.
struct Format {
    name: &'static str,
    what: &'static str,
    hint: &'static str,
}

const fn format(name: &'static str, what: &'static str, hint: &'static str) -> Format {
    Format { name, what, hint }
}

const UNPACK: &str = "unpack it first";
const EXPORT: &str =
    "save the model's state dict as safetensors instead: `safetensors.torch.save_file(model.state_dict(), ...)`";
const SERVER: &str = "download the file itself: this is a page about it, or a message of the server";
const FROM_PICKLE: &str = "convert it in Python, `safetensors.torch.save_file(torch.load(path, weights_only=True), \"model.safetensors\")`, and read that by `Model::load_state_dict`";

const EMPTY: Format = format("nothing", "empty", "write or fetch it again");
const PICKLE: Format = format("pickle", "a pickle, as `torch.save` writes it", FROM_PICKLE);
const GIT_LFS: Format =
    format("Git LFS", "a Git-LFS pointer, not the file itself", "run `git lfs pull` in its repository");
const WEB_PAGE: Format = format("HTML", "a web page", SERVER);
const TEXT: Format = format("text", "plain text", "look into it: it may be a message of a server instead of the file");
const JSON: Format = format("JSON", "JSON text", "if `Alignment::save` wrote it, read it by `Alignment::load`");
const SAFETENSORS: Format = format(
    "safetensors",
    "a safetensors file",
    "read a model by `Model::load`, a state dict by `Model::load_state_dict`, and permutations by `Alignment::load`, under a path that ends in .safetensors",
);
const ZIP: Format = format("zip", "a zip archive", UNPACK);
const TAR: Format = format("tar", "a tar archive", UNPACK);

/// Formats with a signature at the very beginning.
const SIGNATURES: [(&[u8], Format); 9] = [
    (b"GGUF", format("GGUF", "a GGUF file", EXPORT)),
    (b"\x89HDF\r\n\x1a\n", format("HDF5", "an HDF5 file, as Keras writes it", EXPORT)),
    (b"\x93NUMPY", format("NumPy", "a NumPy array", "save it by `safetensors.numpy.save_file` instead")),
    (b"PAR1", format("Parquet", "a Parquet table", "read it by `load_parquet`")),
    (b"version https://git-lfs", GIT_LFS),
    (b"\x1f\x8b", format("gzip", "compressed by gzip", UNPACK)),
    (b"\xfd7zXZ\0", format("xz", "compressed by xz", UNPACK)),
    (b"\x28\xb5\x2f\xfd", format("Zstandard", "compressed by Zstandard", UNPACK)),
    (b"BZh", format("bzip2", "compressed by bzip2", UNPACK)),
];

/// The error for a file that is not in the format that it should be in: named for what it is instead, if that is known,
/// else with the reason and the hint of whoever could not read it.
pub(crate) fn not_a(format: &'static str, path: &Path, bytes: &[u8], reason: String, hint: &'static str) -> Error {
    let (reason, hint) = match recognised(bytes) {
        Some(found) if !format.contains(found.name) => (format!("it is {}", found.what), found.hint),
        _ => (reason, hint),
    };
    Error::Corrupt { path: path.into(), format, reason, hint }
}

fn recognised(bytes: &[u8]) -> Option<Format> {
    if bytes.is_empty() {
        return Some(EMPTY);
    }
    if let Some((_, format)) = SIGNATURES.into_iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return Some(format);
    }
    let start = &bytes[..bytes.len().min(512)];
    let holds = |part: &[u8]| start.windows(part.len()).any(|window| window == part);
    match bytes {
        [b'P', b'K', 3, 4, ..] => Some(if holds(b"data.pkl") { PICKLE } else { ZIP }),
        [0x80, 2..=5, ..] => Some(PICKLE),
        _ if bytes.get(257..262) == Some(b"ustar") => Some(TAR),
        // The length of the header, below its limit of 100 MB, and its first brace.
        [_, _, _, 0..=5, 0, 0, 0, 0, b'{', ..] => Some(SAFETENSORS),
        _ => text(start),
    }
}

/// What text is it, if it is any?
fn text(start: &[u8]) -> Option<Format> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start().to_ascii_lowercase();
    if ["<!doctype", "<html", "<?xml"].iter().any(|tag| start.starts_with(tag.as_bytes())) {
        return Some(WEB_PAGE);
    }
    let plain = start.iter().all(|&byte| byte >= b' ' || byte.is_ascii_whitespace());
    match start.first() {
        Some(b'{' | b'[') if plain => Some(JSON),
        Some(_) if plain && std::str::from_utf8(&start[..start.len().min(32)]).is_ok() => Some(TEXT),
        _ => None,
    }
}
