//! The kernel "Rust (evcxr)": evcxr's own front, from the same lock file.

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(evcxr_jupyter::main()?)
}
