# For mutate.sh: what only a check for an Apple target shows.
R=src/metal.rs
apple() { "$SOFTGPU/check-apple.sh" --lib --features metal --offline; }
baseline apple
fault "apple: a warning" $R 's/let dev = s.device();/let dev = s.device(); let tail = 1;/' apple 'unused variable'
fault "apple: a lint of clippy's" $R 's/if elems > 0 {/if !(elems == 0) {/' apple 'nonminimal_bool'
fault "apple: a name that Metal does not have" $R 's/MTLMathMode::Safe/MTLMathMode::Exact/' apple 'E0599'
