// The C interface as a test of another language would use it. Takes the library made from shim.cu.
#include "softgpu.h"
#include <cstdio>
#include <vector>
int main(int, char** argv) {
  char report[1000];
  void* lib = softgpu_open(argv[1], report, sizeof report);
  if (!lib) return puts(report), 1;
  std::vector<float> x(100, 2.0f), y(100);
  softgpu_register(x.data(), x.size() * sizeof(float));
  softgpu_register(y.data(), y.size() * sizeof(float));
  const float* px = x.data();
  float* py = y.data();
  int64_t n = 100;
  void* args[] = {&px, &py, &n};
  uint32_t grid[3] = {2, 1, 1}, block[3] = {32, 1, 1};
  for (int order = 0; order < 3; order++)
    if (softgpu_launch(lib, "scaled<float,3>", grid, block, 0, args, 3, order, report, sizeof report)) return puts(report), 1;
  for (float v : y) if (v != 6.0f) return puts("wrong"), 1;
  n = 101;  // one past both buffers
  if (!softgpu_launch(lib, "scaled<float,3>", grid, block, 0, args, 3, 0, report, sizeof report)) return puts("no fault"), 1;
  puts(report);
}
