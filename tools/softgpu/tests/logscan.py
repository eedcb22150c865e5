"""logscan.py LIB.so: the sample's kernels, Metal or CUDA, against a loop in double. Exits 1 with the first fault."""
import ctypes, math, os, random, struct, sys
from array import array
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import softgpu

INF = math.inf
TOLERANCE = {"f32": 2e-6, "f16": 1e-3, "bf16": 8e-3}  # relative: a few roundings of the type


def to_bits(v, t):
    if t == "f16": return struct.unpack("H", struct.pack("e", v))[0]
    return (struct.unpack("I", struct.pack("f", v))[0] + 0x8000) >> 16 & 0xffff


def from_bits(b, t):
    if t == "f16": return struct.unpack("e", struct.pack("H", b))[0]
    return struct.unpack("f", struct.pack("I", b << 16))[0]


def logaddexp(a, b):
    hi, lo = max(a, b), min(a, b)
    return hi if lo == -INF else hi + math.log1p(math.exp(lo - hi))


def close(got, want, tol):
    return got == want or abs(got - want) <= tol * (1 + abs(want))


def rows_of(rng, rows, n, spread):
    x = [-INF if rng.random() < 0.2 else rng.gauss(0, spread) for _ in range(rows * n)]
    if n > 40: x[:35] = [-INF] * 35  # an empty first SIMD group
    return x


def scan(lib, t, rows, n, threads, order, rng):
    x = rows_of(rng, rows, n, 30 if t == "f32" else 3)
    if t == "f32":
        dx = array("f", x); x = list(dx); dy = array("f", [math.nan] * len(x))
    else:
        dx = array("H", [to_bits(v, t) for v in x]); x = [from_bits(b, t) for b in dx]; dy = array("H", [to_bits(math.nan, t)] * len(x))
    lib.launch(f"logscan_{t}", (rows, 1, 1), (threads, 1, 1), 0, [dx, dy, ctypes.c_uint32(n)], order)
    y = list(dy) if t == "f32" else [from_bits(b, t) for b in dy]
    worst, last = 0.0, []
    for r in range(rows):
        acc = -INF
        for i in range(r * n, r * n + n):
            acc = logaddexp(acc, x[i])
            if not close(y[i], acc, TOLERANCE[t]): sys.exit(f"wrong: {t}, {rows} rows of {n}, {threads} threads, order {order}: {y[i]} for {acc} at {i}")
            if acc != -INF: worst = max(worst, abs(y[i] - acc) / (1 + abs(acc)))
        last.append(acc)
    return worst, dy, sum(last)


def main():
    lib, rng, count, worst = softgpu.Library(sys.argv[1]), random.Random(7), 0, 0.0
    for rows, n, threads in [(1, 1, 32), (3, 31, 32), (1, 32, 64), (3, 33, 64), (3, 100, 96), (1, 777, 256), (3, 2049, 1024), (2, 300, 256)]:
        for order in range(3):
            w, y, total = scan(lib, "f32", rows, n, threads, order, rng)
            worst = max(worst, w); count += 1
            for t in ("f16", "bf16"):
                if n < 400: scan(lib, t, rows, n, threads, order, rng); count += 1
            got = array("f", [0.0])
            lib.launch("logscan_total_f32", (2, 1, 1), (32, 1, 1), 16, [y, got, ctypes.c_uint32(n), ctypes.c_uint32(rows)], order)
            if not close(got[0], total, 1e-5): sys.exit(f"wrong: total {got[0]} for {total}, order {order}")
    print(f"{count} launches, worst relative error in f32 {worst:.1e}")


try: main()
except softgpu.Fault as fault: sys.exit(str(fault))
