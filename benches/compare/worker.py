"""What the workers in Python share: requests and answers, one line of JSON each."""

import json
import sys
import time

from safetensors.numpy import load_file, save_file


def serve(case_type):
    """Answers requests until the input ends. benches/compare.rs does the same in Rust."""
    path, case = None, None
    for line in sys.stdin:
        request = json.loads(line)
        if request["case"] != path:
            path, case = request["case"], None
            case = case_type(load_file(path))
        print(json.dumps(answer(case, request)), flush=True)


def answer(case, request):
    mode = request["mode"]
    if "save" in request:
        save_file(case.result(mode), request["save"])
        return {"saved": request["save"]}
    seconds = request["seconds"]
    for _ in range(request.get("warm", 1)):
        case.run(mode)
    times = []
    start = time.perf_counter()
    # At least three runs, unless they are very slow.
    while (spent := time.perf_counter() - start) < seconds or (
        len(times) < 3 and spent < 8 * seconds
    ):
        before = time.perf_counter()
        case.run(mode)
        times.append((time.perf_counter() - before) * 1e3)
    return {"ms": times}
