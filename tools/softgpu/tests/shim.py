"""shim.py LIB.so: what CUDA's documentation says each operation gives. Exits 1 with the first that differs."""
import ctypes, os, struct, sys
from array import array
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import softgpu

i32, i64 = ctypes.c_int32, ctypes.c_int64
lib = softgpu.Library(sys.argv[1])
one = (1, 1, 1)


def same(what, got, want):
    if list(got) != list(want): sys.exit(f"{what}: {list(got)} for {list(want)}")


def fault(what, word, *launch):
    try: lib.launch(*launch)
    except softgpu.Fault as f:
        if word not in str(f): sys.exit(f"{what}: {f}")
        return
    sys.exit(f"{what}: no fault")


for order in range(4):
    for w in (32, 16, 4):
        out, wide, lanes = array("f", [-1.0] * 144), array("d", [-1.0] * 64), range(32)
        lib.launch("shuffles", one, (32, 1, 1), 0, [out, wide, i32(w)], order)
        same("up", out[:32], [l - 3 if l % w >= 3 else l for l in lanes])
        same("down", out[32:64], [l + 3 if l % w + 3 < w else l for l in lanes])
        same("xor", out[64:96], [l ^ 1 for l in lanes])
        same("idx", out[96:128], [l // w * w + 5 % w for l in lanes])
        same("wide", wide[:32], [min(l + 1, 31) * 1e10 + 0.5 for l in lanes])
        same("int64", wide[32:], [31 - l for l in lanes])
        same("ballot", out[128:136], [0xaa] * 8)
        same("any, all", out[136:], [2] * 8)
    n = 1000
    for name, code, vals, k in (("float,3", "f", None, 3), ("__half,2", "H", lambda v: struct.unpack("H", struct.pack("e", v))[0], 2),
                                ("__nv_bfloat16,2", "H", lambda v: struct.unpack("I", struct.pack("f", v))[0] >> 16, 2)):
        v = [float(i % 100) for i in range(n)]
        x, y = array(code, v if vals is None else map(vals, v)), array("f", [0.0] * n)
        lib.launch(f"scaled<{name}>", (3, 1, 1), (64, 1, 1), 0, [x, y, i64(n)], order)
        same(name, y, [k * a for a in v])
    x, y = array("f", range(400)), array("f", [0.0] * 401)
    lib.launch("reversed", one, (64, 1, 1), 1600, [x, y, i32(100), i32(0)], order)
    same("reversed", y, [399.0 - i for i in range(400)] + [400.0])
    ok = array("i", [1] * 12)
    lib.launch("bits", one, one, 0, [ok, i32(4), i32(0)], order)
    same("bits", ok, [1] * 12)

x, y = array("f", range(404)), array("f", [0.0] * 401)
fault("misaligned vector load", "misaligned", "reversed", one, (64, 1, 1), 1600, [x, y, i32(100), i32(1)])
fault("too little shared memory", "out of bounds", "reversed", one, (64, 1, 1), 1584, [x, y, i32(100), i32(0)])
fault("too much shared memory", "49152 at most", "reversed", one, (64, 1, 1), 65536, [x, y, i32(100), i32(0)])
fault("a local array's end", "index of an array", "bits", one, one, 0, [array("i", [0] * 12), i32(4), i32(4)])
fault("too small an output", "out of bounds", "bits", one, one, 0, [array("i", [0] * 11), i32(4), i32(0)])
fault("launch bounds", "__launch_bounds__", "shuffles", one, (64, 1, 1), 0, [array("f", [0.0] * 144), array("d", [0.0] * 64), i32(32)])
fault("a width that is no power of two", "width", "shuffles", one, (32, 1, 1), 0, [array("f", [0.0] * 144), array("d", [0.0] * 64), i32(12)])
fault("a missing argument", "wants 3", "bits", one, one, 0, [array("i", [0] * 12)])
fault("an unknown kernel", "no kernel", "nothing", one, one, 0, [])
print("12 operations and 9 faults of use")
