# The verbs of a contributor: `just` lists them. Each is a command that you can as well type.

default:
    @just --list --unsorted

# All checks, as CI runs them; more than an hour where nothing is built. `just ci all` takes them whole.
ci *part:
    .ci/run {{ part }}

# The tests; arguments go to cargo: `just test --test it decode::`
test *arguments:
    cargo test --locked {{ arguments }}

# One module of tests/it: `just it decode`
it module:
    cargo test --locked --test it -- {{ module }}::

# Format, clippy and documentation, without warnings.
lint:
    cargo fmt --all --check
    cargo clippy --locked --all-targets --features cli -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --features cli

# The oldest Rust that Cargo.toml promises.
msrv:
    scripts/msrv.sh

# Licences, bans and sources of all dependencies. Needs `cargo install cargo-deny --locked`.
deny:
    cargo deny --locked check bans licenses sources

# The same for known vulnerabilities; downloads their list.
advisories:
    cargo deny --locked check advisories

# Faults planted in the kernels, each of which a test must notice: `just faults 0/6` takes every sixth.
faults sample="0/1":
    tools/softgpu/setup.sh
    SAMPLE={{ sample }} scripts/check-faults.sh

# Writes the stored bits anew, when results are meant to change.
bless:
    CTC_BLESS=1 cargo test --locked --test golden_bits

# One benchmark, without writing to docs: `just bench range`
bench name:
    cargo bench --locked --bench {{ name }}

# What a release still needs; publishes nothing.
release-check:
    scripts/release-check.sh

# Fuzzing of loss, align, decode, text or program for some seconds: `just fuzz loss 600`
fuzz target seconds:
    fuzz/run.sh {{ target }} {{ seconds }}
