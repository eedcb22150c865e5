#!/usr/bin/env python3
"""Translates GPU kernels to C++ and compiles them to a shared library that rt/exec.cpp can run.

  kernelc.py SOURCE... -o LIB.so     Metal: the SOURCEs are joined the way a crate joins them with
                                     concat!(include_str!(a), "\\n#line 1 \\"b\\"\\n", include_str!(b));
                                     a .rs SOURCE stands for the one concat! in it, exactly
  kernelc.py FILE.cu -o LIB.so       CUDA
  kernelc.py SOURCE... --check       Metal: strict check of types, address spaces, kernel signatures, lint
"""
import argparse, os, re, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
METAL, CUDA, RT = (os.path.join(HERE, d) for d in ("shim/metal", "shim/cuda", "rt"))
BUILTINS3 = {"thread_position_in_grid", "thread_position_in_threadgroup", "threadgroup_position_in_grid",
             "threads_per_threadgroup", "threads_per_grid", "threadgroups_per_grid",
             "dispatch_threads_per_threadgroup", "grid_size"}
BUILTINS1 = {"thread_index_in_threadgroup", "thread_index_in_simdgroup", "simdgroup_index_in_threadgroup",
             "simdgroups_per_threadgroup", "threads_per_simdgroup", "thread_execution_width"}

# clang's "C++ for OpenCL" has MSL's address spaces, and lacks what MSL lacks
CHECK = ["-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-target", "x86_64-unknown-linux-gnu", "-Xclang",
         "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64,-__opencl_c_pipes,"
         "-__opencl_c_device_enqueue,+cl_khr_fp16", "-fsyntax-only", "-Wall", "-Wextra", "-Wpre-c++17-compat", "-Wno-unknown-attributes",
         "-Wno-unused-function", "-Wno-unused-const-variable", "-Wno-sometimes-uninitialized", "-Werror"]
# -fconvergent-functions: no barrier may be moved into or out of a branch
COMPILE = ["-x", "c++", "-std=c++17", "-nostdinc", "-nostdinc++", "-fno-exceptions", "-fno-rtti", "-fconvergent-functions",
           "-Xclang", "-ffloat16-excess-precision=none", "-Wno-unknown-attributes", "-Wno-duplicate-decl-specifier", "-Wno-ignored-attributes"]
METAL_ONLY = ["-Xclang", "-cl-single-precision-constant"]
METAL_WORDS = ["-Ddevice=", "-Dthread=", "-Dthreadgroup=", "-Dkernel=", "-Dconstant=const"]
CUDA_WORDS = ["-D__global__="]
# What a checked kernel is compiled with. -O1: at -O3 LLVM duplicates barriers.
SANITIZE = "-fsanitize=thread,alignment,bounds,shift-exponent,integer-divide-by-zero"


def die(msg):
    sys.exit("kernelc: " + msg)


def match(s, i, o, c):
    """The index after the bracket that closes the one at s[i]."""
    d = 0
    while i < len(s):
        if s[i] == o: d += 1
        elif s[i] == c:
            d -= 1
            if d == 0: return i + 1
        i += 1
    die("unbalanced %s" % o)


def split_params(s):
    out, d, cur = [], 0, ""
    for ch in s:
        if ch in "([{<": d += 1
        elif ch in ")]}>": d -= 1
        if ch == "," and d == 0:
            out.append(cur); cur = ""
        else: cur += ch
    if cur.strip(): out.append(cur)
    return [p.strip() for p in out]


def parse_param(p):
    attrs = re.findall(r"\[\[\s*(.*?)\s*\]\]", p, re.S)
    bare = re.sub(r"\[\[.*?\]\]", "", p, flags=re.S).strip()
    m = re.search(r"(\w+)\s*(\[[^\]]*\])?$", bare)
    return bare, [a.strip() for at in attrs for a in re.split(r",(?![^(]*\))", at)], (m.group(1) if m else "?")


def classify(name, params):
    """[(kind, index, attribute name, pname)] for a kernel's parameters, with MSL's rules checked."""
    out, next_buf, seen, widths = [], 0, {}, {}
    for p in params:
        bare, attrs, pname = parse_param(p)
        kind = None
        for a in attrs:
            m = re.match(r"(\w+)(?:\((\d+)\))?$", a)
            if not m: die(f"{name}: attribute {a!r} on {pname!r}")
            if m.group(1) == "buffer": kind = (0, int(m.group(2)), None)
            elif m.group(1) in ("threadgroup", "sg_tg"): kind = (1, int(m.group(2)), None)
            elif m.group(1) in BUILTINS3 | BUILTINS1: kind = (2, 0, m.group(1))
            else: die(f"{name}: unknown attribute [[{a}]] on {pname!r}")
        ptr = "*" in bare or "&" in bare
        if kind is None:
            if not ptr: die(f"{name}: parameter {pname!r} has no attribute")
            kind = (1 if re.search(r"\bthreadgroup\b", bare) else 0, next_buf, None)
        if kind[0] == 0: next_buf = kind[1] + 1
        if kind[0] < 2:
            if not ptr: die(f"{name}: {pname!r} must be a pointer or a reference")
            space = re.findall(r"\b(device|constant|threadgroup)\b", bare)
            if len(space) != 1: die(f"{name}: {pname!r} names {len(space)} address spaces")
            if kind[0] == 0 and space[0] == "threadgroup": die(f"{name}: {pname!r}: threadgroup memory at a buffer index")
            if kind[:2] in seen: die(f"{name}: {pname!r} and {seen[kind[:2]]!r} share an index")
            seen[kind[:2]] = pname
            if kind[1] > 30: die(f"{name}: {pname!r}: index {kind[1]} > 30")
        else:
            t = bare[: -len(pname)].replace("const", "").strip()
            m = re.match(r"(?:u?short|uint|ushort|u?int(?:16|32)_t|size_t)?([234])?$", re.sub(r"^(ushort|uint|uint16_t|uint32_t)", "", t))
            if not re.match(r"^(ushort|uint|uint16_t|uint32_t)[23]?$", t):
                die(f"{name}: {pname!r}: type {t!r} cannot hold [[{kind[2]}]]")
            if kind[2] in BUILTINS1 and re.search(r"[23]$", re.sub(r"(16|32)_t", "", t)): die(f"{name}: {pname!r}: [[{kind[2]}]] is a scalar")
            if kind[2] in BUILTINS3: widths.setdefault(re.sub(r"\D", "", re.sub(r"(16|32)_t", "", t)), []).append(pname)
        out.append((*kind, pname))
    if len(widths) > 1: die(f"{name}: position attributes differ in width: {widths}")
    return out


def shared_variables(text, word):
    """Statements `threadgroup T a[n], b;` become references to storage that the runtime gives."""
    def one(m):
        decl = re.sub(r"\b(?:__align__|alignas)\s*\([^()]*\)", "", m.group(3)).strip()
        outside = re.sub(r"\[[^\]]*\]", "", decl)
        if m.group(2):
            d = re.match(r"(.*[\s>])(\w+)\s*\[\s*\]$", decl, re.S)
            if not d: die(f"cannot read `extern {word} {decl}`")
            return f"{m.group(1)}{d.group(1).strip()}* {d.group(2)} = ({d.group(1).strip()}*)sg_dynamic_shared();"
        if re.search(r"[*&=(){}]", outside): return m.group(0)  # a pointer to such memory, not a variable
        first, *rest = split_params(decl)
        d = re.match(r"(.*[\s>])(\w+)\s*((?:\[.*\])*)$", first, re.S)
        if not d: die(f"cannot read `{word} {decl}`")
        out = ""
        for name, dims in [d.groups()[1:]] + [re.match(r"(\w+)\s*((?:\[.*\])*)$", r, re.S).groups() for r in rest]:
            out += (f"typedef {d.group(1)}sg_type_{name}{dims}; static char sg_key_{name}; "
                    f"sg_type_{name}& {name} = *(sg_type_{name}*)sg_shared_var(&sg_key_{name}, sizeof(sg_type_{name}), \"{name}\"); ")
        return m.group(1) + out
    return re.sub(rf"((?:^|(?<=[{{}};]))(?:\s|#[^\n]*\n)*)(extern\s+)?\b{word}\b\s+([^;]*);", one, text)


def rewrite_metal(src):
    """Preprocessed MSL -> C++ text, its kernels as (name, expression, parameters, bounds), its function constants."""
    src = re.sub(r"\[\[\s*kernel\s*\]\]", "kernel", src)
    src = re.sub(r"\bstatic_cast\s*<", "metal::sg_cast<", src).replace("return metal::sg_cast<D>(s);", "return static_cast<D>(s);")
    src = re.sub(r"\[\[\s*threadgroup\((\d+)\)\s*\]\]", r"[[sg_tg(\1)]]", src)
    # `constexpr X() threadgroup = default;`: address-space qualified member functions
    src = re.sub(r"(?<=[{};])\s*(?:constexpr\s+)?\w+(?:<[\w, ]*>)?\s*\(\)\s*(?:threadgroup|device|thread|constant)\s*=\s*default\s*;", "", src)
    src = re.sub(r"\)\s*(const\s+)?(threadgroup|device|thread|constant)\s*(=\s*default\s*;|\{)", r") \1\3", src)
    kernels, templates = [], {}
    fconst = r"constant\s+(\w+)\s+(\w+)\s*\[\[\s*function_constant\((\d+)\)\s*\]\]\s*;"
    consts = re.findall(fconst, src)
    src = re.sub(fconst, r'static \1 \2 __attribute__((used, section("sg_fconst")));', src)
    # explicit instantiations with a host name
    out, pos, pend = "", 0, []
    for m in re.finditer(r'template\s*\[\[\s*host_name\(\s*((?:"[^"]*"\s*)+)\)\s*\]\]\s*(?:kernel\s+)?', src):
        out += src[pos:m.start()] + "template "
        pos = m.end()
        rest, host = src[pos:], "".join(re.findall(r'"([^"]*)"', m.group(1)))
        d = re.match(r"(?:void|decltype\([^;]*?\))\s+(\w+\s*<)", rest)
        if not d: die(f"cannot read the instantiation of {host}")
        lt = rest.index("<", d.start(1))
        fn = re.match(r"\w+", rest[d.start(1):]).group(0)
        pend.append((host, fn, fn + rest[lt:match(rest, lt, "<", ">")]))
    src = out + src[pos:]
    res, pos = "", 0
    for m in re.finditer(r"(template\s*<[^;{}]*?>\s*)?\bkernel\s+void\s+(\w+)\s*\(", src):
        name, open_ = m.group(2), m.end() - 1
        close = match(src, open_, "(", ")")
        info = classify(name, split_params(re.sub(r"^# .*$", "", src[open_ + 1:close - 1], flags=re.M)))
        body = src.index("{", close)
        if src[close:body].strip() and not src[close:body].strip().startswith("#"): continue
        end = match(src, body, "{", "}")
        res += src[pos:body] + shared_variables(src[body:end], "threadgroup")
        pos = end
        if m.group(1): templates[name] = info
        else: kernels.append((name, name, info, "0"))
    for host, fn, expr in pend:
        if fn not in templates: die(f"{host}: no kernel template {fn}")
        kernels.append((host, expr, templates[fn], "0"))
    return res + src[pos:], kernels, consts


def rewrite_cuda(src):
    """Preprocessed CUDA -> the same."""
    kernels, templates, bounds = [], {}, {}
    words = r"((?:(?:static|inline|void|__forceinline__)\s+|__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)+)"
    for m in re.finditer(rf"(template\s*(<[^;{{}}]*?>)?\s*)?\b__global__\s+{words}(\w+)\s*(<[^;{{}}()]*>)?\s*\(", src):
        name, open_ = m.group(4), m.end() - 1
        close = match(src, open_, "(", ")")
        if not m.group(5):
            params = split_params(re.sub(r"^# .*$", "", src[open_ + 1:close - 1], flags=re.M))
            info = [(3, i, None, parse_param(p)[2]) for i, p in enumerate(params)]
            lb = re.search(r"__launch_bounds__\s*\(([^,]*?)(?:,[^()]*)?\)\s*$", m.group(3).strip())
            templates[name] = info
            if not m.group(1): kernels.append((name, name, info, lb.group(1) if lb else "0"))
        else:  # an explicit instantiation: its name is as written, without spaces
            expr = name + m.group(5)
            kernels.append((re.sub(r"\s", "", expr), expr, templates.get(name) or die(f"no kernel template {name}"), "0"))
    src = re.sub(r"__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)", "", src)
    return shared_variables(src, "__shared__"), kernels, []


def glue(kernels, consts, cuda):
    """The table of kernels, and for each a function that fills its parameters."""
    s, rows = "", ""
    fc = "__start_sg_fconst, __stop_sg_fconst" if consts else "nullptr, nullptr"
    if consts: s += 'extern "C" { extern char __start_sg_fconst[] __attribute__((visibility("hidden"))); extern char __stop_sg_fconst[] __attribute__((visibility("hidden"))); }\n'
    for i, (host, expr, info, bounds) in enumerate(kernels):
        s += f"typedef sg_glue::fn<decltype(&{expr})> sg_F{i};\n"
        args, ps = [], []
        for j, (kind, index, attr, pname) in enumerate(info):
            P = f"sg_F{i}::arg<{j}>"
            if kind == 0: args.append(f"sg_glue::from_ptr<{P}>(b[{index}])")
            elif kind == 1: args.append(f"sg_glue::from_ptr<{P}>(t[{index}])")
            elif kind == 3: args.append(f"sg_glue::value<{P}>(b[{index}])")
            elif attr in BUILTINS3: args.append(f"sg_glue::vec<{P}>(c->{attr})")
            else: args.append(f"({P})c->{'threads_per_simdgroup' if attr == 'thread_execution_width' else attr}")
            size = f"sizeof({P}), alignof({P})" if kind == 3 else f"sg_glue::size_of<{P}>::v, sg_glue::size_of<{P}>::a"
            ps.append(f'{{{kind}, {index}, {size}, sg_glue::size_of<{P}>::ref, sg_glue::size_of<{P}>::cst, sg_glue::is_ptr<{P}>::v, "{pname}"}}')
        s += f"static void sg_inv{i}(void* const* b, void* const* t, const sg_ctx* c) {{ (void)b, (void)t, (void)c; {expr}({', '.join(args)}); }}\n"
        s += f"static const sg_param sg_p{i}[] = {{{', '.join(ps) or '{}'}}};\n"
        rows += f'  {{"{host}", sg_inv{i}, sg_p{i}, {len(info)}, __ehdr_start, _end, {fc}, SG_INSTRUMENTED, {int(cuda)}, {bounds}}},\n'
    visible = '__attribute__((visibility("default")))'
    crows = "".join(f'{{{i}, (void*)&{n}, sizeof({n}), "{n}"}}, ' for _, n, i in consts)
    return (s + "struct sg_const { unsigned index; void* at; unsigned size; const char* name; };\n" + 'extern "C" {\n'
            f"{visible} sg_kernel sg_kernels[] = {{\n{rows}}}; {visible} unsigned sg_nkernels = {len(kernels)};\n"
            f"{visible} sg_const sg_consts[] = {{{crows}{{~0u, nullptr, 0, nullptr}}}}; {visible} unsigned sg_nconsts = {len(consts)};\n}}\n")


def plain(text):
    """`text` with comments and strings blanked, its lines kept."""
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', lambda m: re.sub(r"[^\n]", " ", m.group(0)), text, flags=re.S)


def lint_text(text):
    """What MSL lacks, and the strict check lets through in code that nothing instantiates."""
    found, name, line = [], "source", 0
    raw = text.split("\n")
    for i, l in enumerate(plain(text).split("\n")):
        line += 1
        m = re.match(r'\s*#\s*line\s+(\d+)\s+"([^"]*)"', raw[i])
        if m: name, line = m.group(2), int(m.group(1)) - 1
        for w in re.findall(r"\b(double|log1pf?|expm1f?|erfc?f?|lgammaf?|tgammaf?|cbrtf?|hypotf?|virtual|throw|new|delete|dynamic_cast|typeid|goto)\b", l):
            found.append(f"{name}:{line}: `{w}` is not in MSL")
    return found


def lint_ast(ast):
    """Pointers and references without an address space. (The generic one is on for the sake of structs'
    own copy constructors, so clang itself takes them.)"""
    found, file, line = [], "", ""
    for l in ast.split("\n"):
        for f, n in re.findall(r"([^\s<>:,]+):(\d+):\d+", l.split("'")[0]): file, line = f if f != "line" else file, n
        if "__generic" not in l: continue
        m = re.search(r"(?:VarDecl|FieldDecl) 0x.*? (\w+) '([^']*__generic[^']*)'", l)
        cast = re.search(r"(?:CStyle|Reinterpret|Static|Functional)\w*CastExpr 0x.*? '([^']*__generic[^']*[*&])'", l)
        if m and m.group(1) not in ("used", "referenced"): found.append(f"{os.path.basename(file)}:{line}: `{m.group(1)}` has no address space")
        elif cast: found.append(f"{os.path.basename(file)}:{line}: a cast to {cast.group(1).replace('__generic ', '')} has no address space")
    return sorted(set(found))


def lint_ir(ir):
    """What is plain in unoptimised LLVM IR: recursion, lambdas that are used, static locals."""
    found, calls, cur = [], {}, None
    for l in ir.split("\n"):
        m = re.match(r'define .*?@("?[\w.$]+"?)\(', l)
        if m: cur = m.group(1); calls[cur] = set()
        elif l.startswith("}"): cur = None
        elif cur: calls[cur] |= set(re.findall(r'\b(?:call|invoke) .*?@("?[\w.$]+"?)\(', l))
        m = re.match(r"@(_ZZ\w+|_ZGVZ\w+) =", l)
        if m and "sg_key_" not in l and "_ZGV" not in l: found.append((m.group(1), "static local variable"))
    for f in calls:
        if re.search(r"Ul.*E\d*_clE|\$_\d", f): found.append((f, "lambda"))
        seen, todo = set(), list(calls[f])
        while todo:
            g = todo.pop()
            if g == f: found.append((f, "recursion")); break
            if g in calls and g not in seen: seen.add(g); todo += calls[g]
    names = subprocess.run(["c++filt"], input="\n".join(n.strip('"') for n, _ in found), capture_output=True, text=True).stdout.split("\n")
    return [f"{n}: {what} (not in MSL)" for n, (_, what) in zip(names, found)]


def joined(paths):
    """The one string that a crate hands to Metal."""
    if len(paths) == 1 and paths[0].endswith(".rs"):
        src = re.sub(r"^\s*//.*$", "", open(paths[0]).read(), flags=re.M)
        at = src.find("concat!")
        if at < 0: die(f"{paths[0]}: no concat!")
        out = ""
        for m in re.finditer(r'include_str!\s*\(\s*"([^"]*)"\s*\)|"((?:\\.|[^"\\])*)"', src[at:match(src, src.index("(", at), "(", ")")]):
            if m.group(1): out += open(os.path.join(os.path.dirname(paths[0]), m.group(1))).read()
            else: out += m.group(2).replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
        return out
    return "".join(f'\n#line 1 "{os.path.basename(p)}"\n' * (i > 0) + open(p).read() for i, p in enumerate(paths))


def run(cmd):
    r = subprocess.run(cmd, capture_output=True, text=True)
    if r.returncode: sys.stderr.write(r.stderr); sys.exit(r.returncode)
    return r.stdout


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("src", nargs="+"); ap.add_argument("-o", metavar="LIB.so"); ap.add_argument("--check", action="store_true")
    ap.add_argument("--cxx", default=os.environ.get("SOFTGPU_CXX", "clang++"), help="a clang++, 19 or newer")
    ap.add_argument("--math", choices=["safe", "relaxed", "fast", "fma"], help="what the compiler may do to float arithmetic; default: safe for Metal, fma (as nvcc) for CUDA")
    ap.add_argument("--unchecked", action="store_true", help="no race and bounds checks")
    ap.add_argument("--keep", metavar="DIR", help="keep the translated C++ there")
    ap.add_argument("-D", action="append", default=[]); ap.add_argument("-I", action="append", default=[])
    a = ap.parse_args()
    cuda = a.src[0].endswith(".cu")
    if cuda and (a.check or len(a.src) > 1): die("one .cu file, and no --check")
    math = {"safe": ["-ffp-contract=off"], "fma": ["-mfma", "-ffp-contract=fast"], "fast": ["-mfma", "-ffast-math"],
            "relaxed": ["-mfma", "-ffp-contract=fast", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"]}[a.math or ("fma" if cuda else "safe")]
    defs = ["-D" + d for d in a.D] + ["-I" + d for d in a.I]
    tmp = a.keep or tempfile.mkdtemp(prefix="softgpu-")
    os.makedirs(tmp, exist_ok=True)
    try:
        if cuda:
            body, kernels, consts = rewrite_cuda(run([a.cxx, "-E", *COMPILE[:5], *defs, "-isystem", CUDA, "-include", "softgpu_cuda.h", a.src[0]]))
            words, only = CUDA_WORDS, []
        else:
            text = joined(a.src)
            source = os.path.join(tmp, os.path.basename(a.src[0]).rsplit(".", 1)[0] + ".metal")
            if os.path.abspath(source) != os.path.abspath(a.src[0]): open(source, "w").write(re.sub(r"\[\[\s*threadgroup\((\d+)\)\s*\]\]", r"[[sg_tg(\1)]]", text))
            bad = a.check and lint_ast(run([a.cxx, *CHECK, "-Xclang", "-ast-dump", "-fno-color-diagnostics", *defs, "-isystem", METAL, source]))
            body, kernels, consts = rewrite_metal(run([a.cxx, "-E", *COMPILE[:5], *defs, "-I", METAL, source]))
            words, only = METAL_WORDS, METAL_ONLY
        if not kernels: die("no kernel in " + " ".join(a.src))
        cpp = os.path.join(tmp, "translated.cpp")
        undef = "".join(f"#undef {w}\n" for w in ("device", "thread", "threadgroup", "kernel", "constant"))
        open(cpp, "w").write(body + f'\n{undef}#pragma clang attribute push(__attribute__((no_sanitize("thread", "alignment", "bounds"))), apply_to = function)\n'
                             '#include "glue.h"\n' + glue(kernels, consts, cuda) + "#pragma clang attribute pop\n")
        base = [a.cxx, *COMPILE, *only, *words, "-I", RT, cpp]
        if a.check:
            bad += lint_text(text) + lint_ir(run([*base, "-O1", "-Xclang", "-disable-llvm-passes", "-emit-llvm", "-S", "-o", "-"]))
            if bad: sys.exit("\n".join(bad))
        if a.o:
            lib = os.environ.get("SOFTGPU_LIBDIR")
            link = ["-L" + lib, "-Wl,-rpath," + lib, "-lsoftgpu"] if cuda and lib else []
            run([*base, "-O1", "-gdwarf-4", *math, *([] if a.unchecked else [SANITIZE]), "-fPIC", "-shared", "-o", a.o, *link])
    finally:
        if not a.keep: shutil.rmtree(tmp)


main()
