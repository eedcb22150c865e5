// Runs translated kernels on the CPU. Each GPU thread of a block is a fibre; barriers and SIMD
// operations are exact rendezvous. Kernels are compiled with -fsanitize=thread and call the __tsan_*
// hooks below. Those are not ThreadSanitizer's: they check the rules of a GPU (bounds, races, unwritten
// threadgroup memory). The few __ubsan_* handlers report wrong alignment, array indices and shifts.
#include "exec.h"
#include "softgpu.h"
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>
#if defined(__x86_64__)
#include <xmmintrin.h>
// sg_switch(save, to): stores this stack pointer in *save and continues on the stack `to`. Sound: it
// saves every register that the System V ABI says a call preserves; the compiler treats the rest as
// lost, since it sees an ordinary call. The MXCSR is the same on all fibres of a launch.
asm(R"(
.text
.globl sg_switch
.type sg_switch,@function
sg_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sg_switch,.-sg_switch
)");
#else
#error "no context switch for this processor"
#endif
extern "C" void sg_switch(void** save, void* to);

namespace {
constexpr size_t STACK = 64 << 10, RED_ZONE = 256;
enum State : uint8_t { READY, AT_BLOCK_BARRIER, AT_SIMD_BARRIER, AT_SIMD_OP, ABSENT, DONE };
struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  State st = READY;
  void* site = nullptr;  // where it waits
  uint64_t bits = 0;     // published to a SIMD operation
  uint64_t mask = 0;     // the lanes it waits for
  uint32_t lane = 0, sg = 0, tid = 0, flags = 0;
  sg_ctx ctx;
};
// What a byte of bound memory has seen. All zero: nothing.
struct Seen {
  uint32_t w_tid, w_epoch, w_sep;  // last write: thread, block epoch, SIMD epoch
  uint32_t r_tid, r_epoch, r_sep;  // a reader in the latest epoch
  uint32_t w_gid, r_gid;           // their blocks
  uint8_t w, w_atomic, r, r_atomic, r_many, r_manygid;
};
struct Region {
  char *b, *e;
  bool shared;            // threadgroup (shared) memory
  std::string name;
  const void* key;        // a static threadgroup variable: what tells it from others
  uint32_t gid;           // a static threadgroup variable: the block it was last reset for
  Seen* seen = nullptr;   // one a byte, from calloc: pages that nothing touches cost nothing
};
struct Group {
  std::vector<Fiber> f;
  std::vector<std::vector<uint64_t>> all;  // per SIMD group: what each lane published
  std::vector<uint64_t> active;
  void* main_sp = nullptr;
  Fiber* cur = nullptr;
  void *const *args = nullptr, *const *tg = nullptr;
  const sg_kernel* k = nullptr;
  uint32_t gid = 0;
  uint32_t epoch[2] = {1, 1};  // counts barriers that order [0] device, [1] threadgroup memory
  std::vector<uint32_t> sepoch[2];
  std::vector<Region> reg;
  size_t hit = 0, shared_bytes = 0, shared_limit = 32768;
  char* dynamic = nullptr;
  const void* pc = nullptr;
  std::string err;
  ~Group() {
    for (auto& r : reg) { free(r.seen); if (r.key) free(r.b); }
  }
};
constexpr uint32_t WIDTH = 32;  // of a SIMD group (warp), on Apple's and NVIDIA's GPUs
thread_local Group* G = nullptr;
thread_local std::string ERR;
std::mutex ONE;  // one launch at a time: kernels' images and the pool of stacks are shared
std::vector<char*> STACKS;

std::string text(const char* fmt, va_list a) {
  char b[600];
  vsnprintf(b, sizeof b, fmt, a);
  return b;
}
const char* fail(const char* fmt, ...) {
  va_list a; va_start(a, fmt); ERR = text(fmt, a); va_end(a);
  return ERR.c_str();
}
// " (at FILE:LINE)" of an address in a kernel library, by binutils' addr2line; "" when unknown
std::string locate(const void* pc) {
  Dl_info i;
  if (!pc || !dladdr(pc, &i)) return "";
  char cmd[1200], line[600];
  snprintf(cmd, sizeof cmd, "addr2line -ie '%s' %#zx 2>/dev/null", i.dli_fname, size_t((char*)pc - (char*)i.dli_fbase) - 1);
  std::string at;
  if (FILE* p = popen(cmd, "r")) {
    // innermost first; the vocabulary's own lines say nothing
    while (fgets(line, sizeof line, p))
      if (at.empty() && !strstr(line, "metal_stdlib") && !strstr(line, "softgpu_cuda.h") && *line != '?') at = line;
    pclose(p);
  }
  at = at.substr(0, at.find_first_of(" \n"));
  at = at.substr(at.rfind('/') + 1);
  return at.empty() ? "" : " (at " + at + ")";
}
void to_main(Fiber* f) { sg_switch(&f->sp, G->main_sp); }
// Records what is wrong and abandons the thread: the launch ends. The fibre's stack is reused without
// unwinding. Sound: a kernel owns nothing that a destructor would have to release.
void problem(const void* pc, const char* fmt, ...) {
  if (!G || !G->cur) return;  // the host's own code: not ours to check
  va_list a; va_start(a, fmt);
  G->err = text(fmt, a); va_end(a);
  G->pc = pc;
  to_main(G->cur);
  abort();
}
void resume(Fiber* f) { G->cur = f; sg_switch(&G->main_sp, f->sp); G->cur = nullptr; }
extern "C" void sg_fiber_main() {
  Fiber* f = G->cur;
  G->k->invoke(G->args, G->tg, &f->ctx);
  f->st = DONE;
  to_main(f);
  abort();  // a finished fibre is never resumed
}
void prepare(Fiber* f) {
  if (!f->stack) {
    if (STACKS.empty()) {
      char* p = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED) { perror("softgpu: mmap"); abort(); }
      mprotect(p, 4096, PROT_NONE);  // an overflow faults at once
      STACKS.push_back(p);
    }
    f->stack = STACKS.back(); STACKS.pop_back();
  }
  // A frame as sg_switch leaves it: six registers, then the address that its `ret` takes. Sound: at
  // that `ret` the stack pointer is 8 below a multiple of 16, which is what a function's entry expects.
  void** sp = (void**)(((uintptr_t)f->stack + STACK - 16) & ~(uintptr_t)15);
  *--sp = nullptr;
  *--sp = (void*)sg_fiber_main;
  for (int i = 0; i < 6; i++) *--sp = nullptr;
  f->sp = sp;
  f->st = READY;
}

const char* run_block(Group& g, int order, std::mt19937_64& rng) {
  size_t n = g.f.size(), all = 0, live;
  std::vector<uint32_t> turn(n);
  std::iota(turn.begin(), turn.end(), 0u);
  if (order == 1) std::reverse(turn.begin(), turn.end());
  for (auto& f : g.f) all += f.st != ABSENT;
  live = all;
  const char* name = g.k->name;
  while (live) {
    if (order > 1) std::shuffle(turn.begin(), turn.end(), rng);
    bool ran = false;
    for (uint32_t i : turn) {
      Fiber& f = g.f[i];
      if (f.st != READY) continue;
      resume(&f);
      if (!g.err.empty()) return fail("%s: %s%s", name, g.err.c_str(), locate(g.pc).c_str());
      ran = true;
      if (f.st == DONE) live--;
    }
    if (ran) continue;  // everything that can run does so first
    // SIMD operations whose every lane has come
    bool released = false;
    const Fiber* stuck = nullptr;
    for (size_t b = 0; b < n; b += WIDTH) {
      size_t e = std::min(n, b + WIDTH);
      for (size_t i = b; i < e; i++) {
        Fiber& f = g.f[i];
        if (f.st != AT_SIMD_OP && f.st != AT_SIMD_BARRIER) continue;
        uint64_t here = 0, want = 0;
        for (size_t j = b; j < e; j++) {
          Fiber& o = g.f[j];
          if (o.st == f.st && o.site == f.site && o.mask == f.mask) here |= 1ull << o.lane;
          // CUDA lets a mask name lanes that have exited; Metal wants the whole SIMD group
          if (o.st != ABSENT && !(g.k->cuda && o.st == DONE)) want |= f.mask & 1ull << o.lane;
        }
        if (here != want) { if (!stuck) stuck = &f; continue; }
        uint32_t s = f.sg;
        if (f.st == AT_SIMD_BARRIER) for (int m = 0; m < 2; m++) if (f.flags >> m & 1) g.sepoch[m][s]++;
        for (size_t j = b; j < e; j++)
          if (here >> g.f[j].lane & 1) { g.all[s][g.f[j].lane] = g.f[j].bits; g.f[j].st = READY; }
        g.active[s] = here;
        released = true;
        break;  // one at a time: `all` and `active` belong to it until its lanes have run
      }
    }
    if (released) continue;
    if (stuck) {
      size_t waiting = 0, elsewhere = 0, gone = 0;
      for (auto& f : g.f) if (f.sg == stuck->sg && (stuck->mask >> f.lane & 1)) {
        bool same = f.st == stuck->st && f.site == stuck->site && f.mask == stuck->mask;
        if (same) waiting++; else if (f.st == DONE) gone++; else if (f.st != ABSENT) elsewhere++;
      }
      return fail("%s: SIMD group %u of threadgroup %u diverged: %zu lanes wait at a SIMD operation, %zu wait elsewhere, %zu have ended%s",
                  name, stuck->sg, g.gid, waiting, elsewhere, gone, locate(stuck->site).c_str());
    }
    size_t at = 0; const Fiber* first = nullptr; bool uniform = true;
    for (auto& f : g.f) if (f.st == AT_BLOCK_BARRIER) { at++; if (!first) first = &f; else if (f.site != first->site) uniform = false; }
    if (at != all || !uniform)
      return fail("%s: threadgroup %u diverged: %s reached by %zu of %zu threads%s", name, g.gid, uniform ? "a barrier" : "different barriers", at, all, locate(first->site).c_str());
    for (int m = 0; m < 2; m++) if (first->flags >> m & 1) g.epoch[m]++;
    for (auto& f : g.f) if (f.st == AT_BLOCK_BARRIER) f.st = READY;
  }
  return nullptr;
}

// Whether an address lies in a segment of the library's image that nothing may write: its constants.
bool read_only(const char* image, const char* a) {
  const Elf64_Ehdr* h = (const Elf64_Ehdr*)image;
  const Elf64_Phdr* ph = (const Elf64_Phdr*)(image + h->e_phoff);
  for (int i = 0; i < h->e_phnum; i++)
    if (ph[i].p_type == PT_LOAD && !(ph[i].p_flags & PF_W) && size_t(a - image) - ph[i].p_vaddr < ph[i].p_memsz) return true;
  return false;
}
// Threadgroup memory starts undefined: NaN in every float type.
void undefine(Region& r) {
  memset(r.b, 0xff, r.e - r.b);
  if (r.seen) memset((void*)r.seen, 0, (r.e - r.b) * sizeof(Seen));
}
enum { READ = 0, WRITE = 1, ATOMIC = 2 };
void access(void* p, size_t n, int how, const void* pc) {
  Group* g = G;
  if (!g || !g->cur || !g->k->instrumented || !n) return;
  Fiber* f = g->cur;
  char* a = (char*)p;
  if (a >= f->stack && a < f->stack + STACK) return;
  Region* r = nullptr;
  if (g->hit < g->reg.size() && a >= g->reg[g->hit].b && a < g->reg[g->hit].e) r = &g->reg[g->hit];
  else for (size_t i = 0; i < g->reg.size(); i++) if (a >= g->reg[i].b && a < g->reg[i].e) { r = &g->reg[i]; g->hit = i; break; }
  const char* verb = how == READ ? "reads" : how == WRITE ? "writes" : "updates";
  if (!r) {
    if (how == READ && a >= g->k->fc_begin && a < g->k->fc_end) return;
    if (how == READ && a >= g->k->mod_begin && a < g->k->mod_end && read_only(g->k->mod_begin, a)) return;
    const Region* near = nullptr; size_t best = ~size_t(0);
    for (auto& x : g->reg) { size_t d = a < x.b ? x.b - a : a - x.e; if (d < best) { best = d; near = &x; } }
    if (!near) return problem(pc, "out of bounds: thread %u of threadgroup %u %s %zu bytes, and no memory is bound", f->tid, g->gid, verb, n);
    return problem(pc, "out of bounds: thread %u of threadgroup %u %s %zu bytes outside all bound memory, %zu bytes %s %s, which is %zu bytes long",
                   f->tid, g->gid, verb, n, best, a < near->b ? "before" : "past the end of", near->name.c_str(), size_t(near->e - near->b));
  }
  const char* rn = r->name.c_str();
  if (n > size_t(r->e - a)) return problem(pc, "out of bounds: thread %u of threadgroup %u %s past the end of %s", f->tid, g->gid, verb, rn);
  if (!r->seen && !(r->seen = (Seen*)calloc(r->e - r->b, sizeof(Seen)))) { perror("softgpu: calloc"); abort(); }
  uint32_t ep = g->epoch[r->shared], sep = g->sepoch[r->shared][f->sg];
  // a thread of this SIMD group, with a SIMD barrier since
  auto ordered = [&](uint32_t tid, uint32_t osep) { return tid / WIDTH == f->sg && osep != sep; };
  for (size_t i = 0; i < n; i++) {
    size_t off = a + i - r->b;
    Seen& s = r->seen[off];
    if (s.w && !(s.w_atomic && how == ATOMIC)) {
      if (!r->shared && s.w_gid != g->gid)
        return problem(pc, "race between threadgroups %u and %u on %s byte %zu: one writes, the other %s", s.w_gid, g->gid, rn, off, verb);
      if (s.w_gid == g->gid && s.w_tid != f->tid && s.w_epoch == ep && !ordered(s.w_tid, s.w_sep))
        return problem(pc, "race in threadgroup %u on %s byte %zu: thread %u wrote, thread %u %s, no barrier between", g->gid, rn, off, s.w_tid, f->tid, verb);
    }
    if (r->shared && how != WRITE && !s.w) return problem(pc, "uninitialised: thread %u of threadgroup %u %s %s byte %zu, which nothing wrote", f->tid, g->gid, verb, rn, off);
    if (how != READ && s.r && !(how == ATOMIC && s.r_atomic)) {
      if (!r->shared && (s.r_gid != g->gid || s.r_manygid))
        return problem(pc, "race between threadgroups %u and %u on %s byte %zu: one reads, the other %s", s.r_gid, g->gid, rn, off, verb);
      if (s.r_gid == g->gid && s.r_epoch == ep && (s.r_many || (s.r_tid != f->tid && !ordered(s.r_tid, s.r_sep))))
        return problem(pc, "race in threadgroup %u on %s byte %zu: thread %u read, thread %u %s, no barrier between", g->gid, rn, off, s.r_tid, f->tid, verb);
    }
    if (how != READ) { s.w = 1; s.w_atomic = how == ATOMIC; s.w_tid = f->tid; s.w_epoch = ep; s.w_sep = sep; s.w_gid = g->gid; }
    if (how != WRITE) {
      if (s.r && s.r_gid == g->gid && s.r_epoch == ep) {
        if (s.r_tid != f->tid && !ordered(s.r_tid, s.r_sep)) s.r_many = 1;
      } else { if (s.r && s.r_gid != g->gid) s.r_manygid = 1; s.r_many = 0; }
      s.r = 1; s.r_atomic = how == ATOMIC; s.r_tid = f->tid; s.r_epoch = ep; s.r_sep = sep; s.r_gid = g->gid;
    }
  }
}
void add_region(Group& g, void* p, size_t len, bool shared, const std::string& name, const void* key = nullptr) {
  g.reg.push_back({(char*)p, (char*)p + len, shared, name, key, ~0u});
}
// Runs the grid. `g` has its kernel, arguments and regions.
const char* run_grid(Group& g, const size_t groups[3], const size_t threads[3], const size_t grid_threads[3], int order) {
  const sg_kernel* k = g.k;
  size_t tx = threads[0], ty = threads[1], tz = threads[2], n = tx * ty * tz, ng = groups[0] * groups[1] * groups[2];
  if (n == 0 || n > 1024) return fail("%s: %zu threads per threadgroup (1 to 1024)", k->name, n);
  if (k->max_threads && n > k->max_threads) return fail("%s: %zu threads per block, __launch_bounds__ says %u", k->name, n, k->max_threads);
  if (!ng) return fail("%s: an empty grid", k->name);
  if (g.shared_bytes > g.shared_limit) return fail("%s: %zu bytes of threadgroup memory (%zu at most)", k->name, g.shared_bytes, g.shared_limit);
  g.f.resize(n);
  uint32_t nsg = (n + WIDTH - 1) / WIDTH;
  g.all.assign(nsg, std::vector<uint64_t>(64, ~0ull)); g.active.assign(nsg, 0);
  for (auto& s : g.sepoch) s.assign(nsg, 1);
  for (size_t i = 0; i < n; i++) {
    Fiber& f = g.f[i];
    sg_ctx& c = f.ctx;
    memset(&c, 0, sizeof c);
    f.tid = i; f.lane = i % WIDTH; f.sg = i / WIDTH;
    c.thread_index_in_threadgroup = i; c.thread_index_in_simdgroup = f.lane;
    c.simdgroup_index_in_threadgroup = f.sg; c.simdgroups_per_threadgroup = nsg; c.threads_per_simdgroup = WIDTH;
    c.thread_position_in_threadgroup[0] = i % tx; c.thread_position_in_threadgroup[1] = i / tx % ty; c.thread_position_in_threadgroup[2] = i / tx / ty;
    for (int a = 0; a < 3; a++) {
      c.threads_per_threadgroup[a] = c.dispatch_threads_per_threadgroup[a] = threads[a];
      c.threadgroups_per_grid[a] = groups[a];
      c.threads_per_grid[a] = c.grid_size[a] = grid_threads[a] ? grid_threads[a] : groups[a] * threads[a];
    }
  }
  std::mt19937_64 rng(order);
  std::vector<size_t> turn(ng);
  std::iota(turn.begin(), turn.end(), 0);
  if (order == 1) std::reverse(turn.begin(), turn.end());
  if (order > 1) std::shuffle(turn.begin(), turn.end(), rng);
  unsigned csr = _mm_getcsr();
  if (!k->cuda) _mm_setcsr(csr | 0x8040);  // flush denormals, as Apple GPUs do for float; nvcc's default does not
  Group* outer = G;
  G = &g;
  const char* e = nullptr;
  for (size_t gi : turn) {
    size_t p[3] = {gi % groups[0], gi / groups[0] % groups[1], gi / groups[0] / groups[1]};
    g.gid = gi;
    for (auto& r : g.reg) if (r.shared && !r.key) undefine(r);
    for (auto& f : g.f) {
      prepare(&f);
      for (int a = 0; a < 3; a++) {
        f.ctx.threadgroup_position_in_grid[a] = p[a];
        f.ctx.thread_position_in_grid[a] = p[a] * threads[a] + f.ctx.thread_position_in_threadgroup[a];
        // dispatchThreads: threads past the grid's edge do not exist
        if (grid_threads[a] && f.ctx.thread_position_in_grid[a] >= grid_threads[a]) f.st = ABSENT;
      }
    }
    if ((e = run_block(g, order, rng))) break;
  }
  for (auto& f : g.f) if (f.stack) STACKS.push_back(f.stack);
  G = outer;
  _mm_setcsr(csr);
  return e;
}
std::string quoted(const char* what, int i, const char* name) { return std::string(what) + "(" + std::to_string(i) + ") '" + name + "'"; }

// ---- the C interface
std::mutex REG_LOCK;
std::map<char*, size_t> REG;  // registered ranges
int report(const char* m, char* out, size_t len) {
  if (out && len) snprintf(out, len, "%s", m ? m : "");
  return m != nullptr;
}
// the registered range that holds p
bool lookup(const std::map<char*, size_t>& reg, char* p, char*& b, size_t& len) {
  auto it = reg.upper_bound(p);
  if (it == reg.begin()) return false;
  --it;
  b = it->first; len = it->second;
  return size_t(p - b) < len;
}
const char* launch(sg_lib* lib, const char* kernel, const uint32_t grid[3], const uint32_t block[3], uint32_t shared, void* const* args, uint32_t nargs, int order) {
  if (!lib) return fail("no library");
  const sg_kernel* k = nullptr;
  for (unsigned i = 0; i < lib->n; i++) if (!strcmp(lib->kernels[i].name, kernel)) k = lib->kernels + i;
  if (!k) return fail("no kernel %s", kernel);
  std::map<char*, size_t> reg;
  { std::lock_guard<std::mutex> l(REG_LOCK); reg = REG; }
  size_t groups[3] = {grid[0], grid[1], grid[2]}, threads[3] = {block[0], block[1], block[2]}, none[3] = {};
  uint32_t want = 0, at = 0;
  for (unsigned i = 0; i < k->nparams; i++) want += k->params[i].kind == SG_VALUE || k->params[i].kind == SG_BUFFER;
  if (want != nargs) return fail("%s: wants %u arguments, got %u", kernel, want, nargs);
  if (!k->cuda) {
    sg_dispatch d{};
    for (int a = 0; a < 3; a++) { d.groups[a] = groups[a]; d.threads[a] = threads[a]; }
    d.tgmem[0] = shared;
    for (unsigned i = 0; i < k->nparams; i++) {
      const sg_param& p = k->params[i];
      if (p.kind != SG_BUFFER) continue;
      void* v = args[at++];
      if (p.is_ref && p.is_const) { d.bufs[p.index] = {v, p.size, 0, 1}; continue; }
      char *a = *(char**)v, *b; size_t len;
      if (!lookup(reg, a, b, len)) return fail("%s: argument '%s' points to no registered memory", kernel, p.name);
      d.bufs[p.index] = {a, len - (a - b), size_t(a - b), 0};
    }
    return sg_run(k, &d, order);
  }
  std::lock_guard<std::mutex> lock(ONE);
  Group g;
  g.k = k; g.args = args; g.shared_limit = 49152; g.shared_bytes = shared;
  for (auto& r : reg) {
    std::string name = "a registered buffer";
    for (unsigned i = 0; i < k->nparams; i++)
      if (k->params[i].is_ptr && size_t(*(char**)args[i] - r.first) < r.second) { name = quoted("argument", i, k->params[i].name); break; }
    add_region(g, r.first, r.second, false, name);
  }
  for (unsigned i = 0; i < k->nparams; i++) {
    const sg_param& p = k->params[i];
    char* b; size_t len;
    if (p.is_ptr && *(char**)args[i] && !lookup(reg, *(char**)args[i], b, len)) return fail("%s: argument %u '%s' points to no registered memory", kernel, i, p.name);
  }
  char* mem = (char*)aligned_alloc(RED_ZONE, (shared + 2 * RED_ZONE - 1) & ~(RED_ZONE - 1));
  g.dynamic = mem;
  add_region(g, mem, shared, true, "dynamic shared memory");
  const char* e = run_grid(g, groups, threads, none, order);
  free(mem);
  return e;
}
}  // namespace

const char* sg_run(const sg_kernel* k, const sg_dispatch* d, int order) {
  std::lock_guard<std::mutex> lock(ONE);
  void *bufs[31] = {}, *tg[31] = {};
  std::vector<std::vector<char>> tgmem(31);
  Group g;
  g.k = k; g.args = bufs; g.tg = tg;
  for (unsigned i = 0; i < k->nparams; i++) {
    const sg_param& p = k->params[i];
    if (p.kind == SG_BUFFER) {
      const sg_buf& b = d->bufs[p.index];
      if (!b.ptr) return fail("%s: nothing bound at buffer(%d), parameter '%s'", k->name, p.index, p.name);
      if (p.align && b.offset % p.align) return fail("%s: buffer(%d) '%s' at offset %zu, not aligned to %u", k->name, p.index, p.name, b.offset, p.align);
      if (p.is_ref && b.len < p.size) return fail("%s: buffer(%d) '%s' wants %u bytes, %zu bound", k->name, p.index, p.name, p.size, b.len);
      if (p.is_ref && b.is_bytes && b.len != p.size) return fail("%s: buffer(%d) '%s' wants %u bytes, setBytes gave %zu", k->name, p.index, p.name, p.size, b.len);
      if (b.is_bytes && !p.is_const) return fail("%s: buffer(%d) '%s' was set by setBytes but is writable", k->name, p.index, p.name);
      bufs[p.index] = b.ptr;
      // A buffer may be bound twice, at any offsets: overlapping ranges become one region.
      char *lo = (char*)b.ptr, *hi = lo + b.len;
      bool known = false;
      for (auto& r : g.reg) if (lo < r.e && r.b < hi) { r.b = std::min(r.b, lo); r.e = std::max(r.e, hi); known = true; }
      if (!known) add_region(g, lo, b.len, false, quoted("buffer", p.index, p.name));
    } else if (p.kind == SG_TGMEM) {
      size_t len = d->tgmem[p.index];
      if (!len) return fail("%s: no length set for threadgroup(%d), parameter '%s'", k->name, p.index, p.name);
      if (len % 16) return fail("%s: threadgroup(%d) length %zu is not a multiple of 16", k->name, p.index, len);
      tgmem[p.index].resize(len + RED_ZONE);
      tg[p.index] = tgmem[p.index].data();
      g.shared_bytes += len;
      add_region(g, tg[p.index], len, true, quoted("threadgroup", p.index, p.name));
    }
  }
  return run_grid(g, d->groups, d->threads, d->grid_threads, order);
}
const char* sg_load(const char* path, sg_lib* out) {
  void* h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!h) return fail("%s", dlerror());
  void *k = dlsym(h, "sg_kernels"), *n = dlsym(h, "sg_nkernels");
  if (!k || !n) return fail("%s: not a kernel library", path);
  *out = {h, (const sg_kernel*)k, *(unsigned*)n};
  return nullptr;
}

extern "C" {
void* softgpu_open(const char* path, char* out, size_t len) {
  auto* l = new sg_lib;
  if (report(sg_load(path, l), out, len)) { delete l; return nullptr; }
  return l;
}
void softgpu_register(void* p, size_t bytes) { std::lock_guard<std::mutex> l(REG_LOCK); if (p && bytes) REG[(char*)p] = bytes; }
void softgpu_unregister(void* p) { std::lock_guard<std::mutex> l(REG_LOCK); REG.erase((char*)p); }
int softgpu_launch(void* lib, const char* kernel, const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes, void* const* args, uint32_t nargs, int order, char* out, size_t len) {
  return report(launch((sg_lib*)lib, kernel, grid, block, shared_bytes, args, nargs, order), out, len);
}

// ---- what translated kernels call. noinline: the return address tells one call in the kernel from another.
#define HERE __builtin_return_address(0)
static void wait_at(State st, void* site, uint64_t mask, uint64_t bits, uint32_t flags) {
  Fiber* f = G->cur;
  if (!(mask >> f->lane & 1)) return problem(site, "lane %u calls a SIMD operation whose mask %#zx leaves it out", f->lane, size_t(mask));
  f->st = st; f->site = site; f->mask = mask; f->bits = bits; f->flags = flags;
  to_main(f);
}
__attribute__((noinline)) void sg_threadgroup_barrier(uint32_t flags) { wait_at(AT_BLOCK_BARRIER, HERE, ~0ull, 0, flags); }
__attribute__((noinline)) void sg_simdgroup_barrier(uint32_t flags, uint64_t mask) { wait_at(AT_SIMD_BARRIER, HERE, mask, 0, flags); }
// exchanges values between lanes; orders no memory
__attribute__((noinline)) void sg_simd_gather(uint64_t mask, uint64_t bits, uint64_t* all, uint64_t* active) {
  wait_at(AT_SIMD_OP, HERE, mask, bits, 0);
  Fiber* f = G->cur;
  memcpy(all, G->all[f->sg].data(), 64 * 8);
  *active = G->active[f->sg];
}
__attribute__((noinline)) void sg_problem(const char* what, uint32_t n) { problem(HERE, "thread %u of threadgroup %u: %s %u", G->cur->tid, G->gid, what, n); }
const sg_ctx* sg_current() { return &G->cur->ctx; }
uint32_t sg_lane() { return G->cur->lane; }
uint32_t sg_simd_width() { return WIDTH; }
void sg_atomic(void* p, uint32_t n, const void* pc) { access(p, n, ATOMIC, pc); }
// The storage of a threadgroup variable, told from others by `key`. Each has a region of its own, with
// a gap behind it, so an index too large is seen. Undefined again for each threadgroup.
void* sg_shared_var(const void* key, size_t size, const char* name) {
  Group* g = G;
  Region* r = nullptr;
  for (auto& x : g->reg) if (x.key == key) r = &x;
  if (!r) {
    char* p = (char*)aligned_alloc(RED_ZONE, (size + 2 * RED_ZONE - 1) & ~(RED_ZONE - 1));
    add_region(*g, p, size, true, std::string("threadgroup variable '") + name + "'", key);
    r = &g->reg.back();
    if ((g->shared_bytes += size) > g->shared_limit)
      problem(HERE, "%zu bytes of threadgroup memory (%zu at most)", g->shared_bytes, g->shared_limit);
  }
  if (r->gid != g->gid) { r->gid = g->gid; undefine(*r); }
  return r->b;
}
void* sg_dynamic_shared() {
  if (!G) { fprintf(stderr, "softgpu: declare `extern __shared__` inside the kernel\n"); abort(); }
  return G->dynamic;
}

// ---- instrumentation, called by name from code that clang instrumented
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define HOOK(N) \
  void __tsan_read##N(void* p) { access(p, N, READ, HERE); } void __tsan_write##N(void* p) { access(p, N, WRITE, HERE); } \
  void __tsan_unaligned_read##N(void* p) { access(p, N, READ, HERE); } void __tsan_unaligned_write##N(void* p) { access(p, N, WRITE, HERE); } \
  void __tsan_volatile_read##N(void* p) { access(p, N, READ, HERE); } void __tsan_volatile_write##N(void* p) { access(p, N, WRITE, HERE); } \
  void __tsan_read_write##N(void* p) { access(p, N, READ, HERE); access(p, N, WRITE, HERE); } \
  void __tsan_unaligned_read_write##N(void* p) { access(p, N, READ, HERE); access(p, N, WRITE, HERE); }
HOOK(1) HOOK(2) HOOK(4) HOOK(8) HOOK(16)
void __tsan_read_range(void* p, size_t n) { access(p, n, READ, HERE); }
void __tsan_write_range(void* p, size_t n) { access(p, n, WRITE, HERE); }
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void* __tsan_memcpy(void* d, const void* s, size_t n) { access((void*)s, n, READ, HERE); access(d, n, WRITE, HERE); return memcpy(d, s, n); }
void* __tsan_memmove(void* d, const void* s, size_t n) { access((void*)s, n, READ, HERE); access(d, n, WRITE, HERE); return memmove(d, s, n); }
void* __tsan_memset(void* d, int c, size_t n) { access(d, n, WRITE, HERE); return memset(d, c, n); }
// Each handler's first argument begins with a source location.
struct Loc { const char* file; uint32_t line, col; };
static const char* base(const Loc* l) { const char* s = l->file ? strrchr(l->file, '/') : nullptr; return s ? s + 1 : l->file ? l->file : "?"; }
static void ub(const Loc* l, const char* what) { if (G && G->cur) problem(nullptr, "thread %u of threadgroup %u: %s (at %s:%u)", G->cur->tid, G->gid, what, base(l), l->line); }
void __ubsan_handle_type_mismatch_v1(Loc* l, void*) { ub(l, "misaligned access"); }
void __ubsan_handle_out_of_bounds(Loc* l, void*) { ub(l, "out of bounds: index of an array"); }
void __ubsan_handle_shift_out_of_bounds(Loc* l, void*, void*) { ub(l, "shift by a negative count or by the width and more"); }
void __ubsan_handle_divrem_overflow(Loc* l, void*, void*) { ub(l, "integer division by zero"); }
}
