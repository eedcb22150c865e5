# For mutate.sh: faults in the sample's Metal host code, and kernel faults seen through candle.
metal() { "$SOFTGPU/run-metal.sh" --order 2 --check logscan -- test --offline -q --features metal --test metal -- --test-threads 1; }
baseline metal

R=src/metal.rs
fault "the input is not bound" $R 's/enc.set_input_buffer(0[^;]*;//' metal 'nothing bound at buffer\(0\)'
fault "the output is not bound" $R 's/enc.set_output_buffer(1[^;]*;//' metal 'nothing bound at buffer\(1\)'
fault "the size is not bound" $R 's/enc.set_bytes(2[^;]*;//' metal 'nothing bound at buffer\(2\)'
fault "the output is not tracked" $R 's/set_output_buffer(1/set_input_buffer(1/' metal 'a_chain_of_ops'
fault "the input's offset is dropped" $R 's/l.start_offset() \* DType::F32.size_in_bytes()/0/' metal 'forward_of_a_narrowed_tensor'
fault "the input's offset is in elements" $R 's/l.start_offset() \* DType::F32.size_in_bytes()/l.start_offset()/' metal 'forward_of_a_narrowed_tensor'
fault "the output takes the input's offset" $R 's/Some(&out), 0)/Some(\&out), l.start_offset() * 4)/' metal 'out of bounds|past the end'
fault "fast math" $R 's/setMathMode(MTLMathMode::Safe)/setMathMode(MTLMathMode::Fast)/; s/setFastMathEnabled(false)/setFastMathEnabled(true)/' metal 'rows_with_neg_inf'
fault "one threadgroup too many" $R 's/width: elems \/ n,/width: elems \/ n + 1,/' metal 'out of bounds'
fault "one threadgroup too few" $R 's/width: elems \/ n,/width: (elems \/ n - 1).max(1),/' metal 'forward_matches_cpu'
fault "rows and columns mixed up in the grid" $R 's/width: elems \/ n,/width: n,/' metal 'out of bounds|forward_matches_cpu'
fault "input and output swapped" $R 's/set_input_buffer(0/set_input_buffer(9/; s/set_output_buffer(1/set_output_buffer(0/; s/set_input_buffer(9/set_input_buffer(1/' metal 'out of bounds|panicked'
fault "the size at the wrong index" $R 's/set_bytes(2/set_bytes(3/' metal 'nothing bound at buffer\(2\)'
fault "the size has the wrong type" $R 's/&(n as u32)/\&(n as u64)/' metal 'setBytes gave 8'
fault "the output is too small" $R 's/new_buffer(elems,/new_buffer(elems.div_ceil(2),/' metal 'out of bounds|panicked'
fault "no pipeline is set" $R 's/enc.set_compute_pipeline_state(&pipe);//' metal 'without a pipeline|panicked'
fault "the kernel of another type" $R 's/"logscan_f32"/"logscan_f16"/' metal 'out of bounds|forward_matches_cpu'
fault "a kernel that is not there" $R 's/"logscan_f32"/"logscan_f64"/' metal 'panicked|error'
fault "too many threads" $R 's/256usize.min(pipe.max_total_threads_per_threadgroup())/2048usize/' metal 'more threads|threads per threadgroup'
fault "threads not a multiple of the SIMD width" $R 's/256usize/250usize/' metal 'uninitialised|forward_matches_cpu'
fault "strided input is taken" $R 's/ || !l.is_contiguous()//' metal 'a_strided_input_is_an_error'
fault "empty input is dispatched" $R 's/if elems > 0/if elems < usize::MAX/; s/elems \/ n,/elems \/ n.max(1),/' metal 'empty'
fault "kernel: no barrier before the next pass" kernels/dp_math.h 's/    DP_BARRIER();\n  }/  }/' metal 'race (in|between)'
fault "kernel: no address space" kernels/dp_math.h 's/DP_SHARED float\*/float*/' metal 'address space'
