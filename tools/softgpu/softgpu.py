"""libsoftgpu.so for Python: run a kernel on arrays, get its faults as an exception.

    lib = softgpu.Library("kernels.so")
    x, y = array("f", [1, 2, 3]), array("f", [0] * 3)
    lib.launch("scale", (1, 1, 1), (32, 1, 1), 0, [x, y, ctypes.c_uint32(3)], order=2)
"""
import ctypes, os

_dll = ctypes.CDLL(os.path.join(os.environ["SOFTGPU_LIBDIR"], "libsoftgpu.so"), mode=ctypes.RTLD_GLOBAL)
_dll.softgpu_open.restype = ctypes.c_void_p
_dim = ctypes.c_uint32 * 3


class Fault(Exception):
    pass


class Library:
    def __init__(self, path):
        report = ctypes.create_string_buffer(2000)
        self._lib = ctypes.c_void_p(_dll.softgpu_open(path.encode(), report, ctypes.c_size_t(2000)))
        if not self._lib: raise Fault(report.value.decode())

    def launch(self, kernel, grid, block, shared_bytes, args, order=0):
        """`args`: an array.array or bytearray is memory, anything else a ctypes value."""
        report, held, at = ctypes.create_string_buffer(2000), [], []
        for a in args:
            if hasattr(a, "__len__"):  # its address and length; the view keeps it in place
                view = (ctypes.c_char * memoryview(a).nbytes).from_buffer(a)
                held.append(ctypes.c_void_p(ctypes.addressof(view)))
                at.append(view)
                _dll.softgpu_register(held[-1], ctypes.c_size_t(memoryview(a).nbytes))
            else:
                held.append(a)
        ptrs = (ctypes.c_void_p * len(held))(*[ctypes.addressof(h) for h in held])
        bad = _dll.softgpu_launch(self._lib, kernel.encode(), _dim(*grid), _dim(*block), ctypes.c_uint32(shared_bytes),
                                  ptrs, ctypes.c_uint32(len(held)), ctypes.c_int(order), report, ctypes.c_size_t(2000))
        for view in at: _dll.softgpu_unregister(ctypes.c_void_p(ctypes.addressof(view)))
        if bad: raise Fault(report.value.decode())
