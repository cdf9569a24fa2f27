//! Cargo asks for a build script beside `links` in Cargo.toml; there is nothing to build.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
