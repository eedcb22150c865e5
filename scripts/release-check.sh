#!/usr/bin/env bash
# Checks what a release needs, and publishes nothing. It names all that is missing; `cargo publish` comes after it.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=0
no() { printf 'missing: %s\n' "$*" >&2; missing=$((missing + 1)); }
field() { sed -n "s/^$1 = \"\(.*\)\"/\1/p" Cargo.toml | head -1; }

version=$(field version)
[ -n "$(field repository)" ] || no "\`repository\` in Cargo.toml: crates.io resolves the relative links and pictures of \
README.md with it, and without it they are broken there"
[ -z "$(git status --porcelain)" ] || no "a clean working tree: commit or stash what \`git status\` lists"
! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null || no "a new version: the tag v$version is there already"
grep -qE "^## $version - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
    no "a section \`## $version - YEAR-MONTH-DAY\` in CHANGELOG.md"
awk '/^## /{unreleased = /^## Unreleased/} unreleased && /^- /{found = 1} END{exit found}' CHANGELOG.md ||
    no "an empty section Unreleased in CHANGELOG.md: its entries belong to $version"

# A script that is shipped may name only what is shipped.
shipped=$(cargo package --locked --allow-dirty --list 2>/dev/null)
for script in $(grep '^scripts/' <<<"$shipped"); do
    for named in $(grep -oE '\b(scripts|tools|tests|benches|examples)/[A-Za-z0-9_./-]*[A-Za-z0-9_]' "$script" | sort -u); do
        grep -qE "^$named(/|$)" <<<"$shipped" || no "$named in the package: $script names it"
    done
done

# Packs, and builds what was packed. Tests, examples and benchmarks are not shipped, and cargo says so.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo publish --locked --allow-dirty --dry-run 2>&1 | tee "$log" || no "a package that builds"
! grep '^warning' "$log" | grep -qvE 'ignoring (benchmark|example|test)|aborting upload due to dry run' || no "a package without warnings: see above"

[ "$missing" = 0 ] || { printf '%s missing for %s\n' "$missing" "$version" >&2; exit 1; }
printf '%s can be released: .ci/run all, then cargo publish, then git tag v%s\n' "$version" "$version"
