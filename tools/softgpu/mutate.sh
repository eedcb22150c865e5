#!/bin/bash
# mutate.sh FAULTS CRATE: plants faults in a copy of CRATE, one at a time, and sees that a test fails for
# each. FAULTS is a bash file, run in that copy. It defines tests as functions and calls
#   baseline TEST                        TEST must pass on the code as it is
#   fault NAME FILE SED TEST EXPECT      after `sed -z SED` on FILE, TEST must fail, and EXPECT (an extended
#                                        regular expression, case ignored) must be in its output
# Prints a line for each, then `N passed, M failed`; exits 1 if M is not 0. ONLY=text runs the faults whose
# name holds it, SAMPLE=K/N every Nth of them from number K on (0 is the first).
set -euo pipefail
. "$(dirname "$0")/common.sh"; tools
[[ $# -eq 2 ]] || die "usage: mutate.sh FAULTS CRATE"
faults=$(realpath "$1") crate=$(realpath "$2") passed=0 failed=0 sample=${SAMPLE:-0/1} nth=0
WORK=$PREFIX/mutate/$(cksum <<<"$crate $faults" | cut -d' ' -f1)
rm -rf "$WORK"; mkdir -p "$WORK"; tar -C "$crate" --exclude=./target --exclude=./.git -cf - . | tar -C "$WORK" -mxf -
cd "$WORK"
line() { # ok NAME SECONDS-FROM DETAIL
  local s=$((($(date +%s%N) - $3) / 100000000)) tag=FAIL
  if [[ $1 == 1 ]]; then tag='ok  '; passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf '%s %s (%d.%d s)%s\n' "$tag" "$2" $((s / 10)) $((s % 10)) "${4:+: ${4:0:200}}"
}
baseline() {
  local from out; from=$(date +%s%N)
  if out=$("$1" 2>&1); then line 1 "$1: the code as it is" "$from"; else line 0 "$1: the code as it is" "$from" "$(tail -3 <<<"$out" | tr '\n' ' ')"; fi
}
fault() {
  [[ $1 == *${ONLY:-}* ]] || return 0
  ((nth++ % ${sample#*/} == ${sample%/*})) || return 0
  local from out hit; from=$(date +%s%N)
  # Written anew each time, so that its time of change is new: cargo goes by that.
  sed -z "$3" "$crate/$2" > "$2"
  if cmp -s "$2" "$crate/$2"; then line 0 "$1" "$from" "the sed expression changes nothing"; return; fi
  if out=$("$4" 2>&1); then line 0 "$1" "$from" "not caught by $4"
  elif hit=$(grep -iE -m1 -- "$5" <<<"$out"); then line 1 "$1" "$from" "$hit"
  else line 0 "$1" "$from" "failed, without /$5/: $(tail -3 <<<"$out" | tr '\n' ' ')"; fi
  cat "$crate/$2" > "$2"
}
. "$faults"
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
