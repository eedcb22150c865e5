// A software Metal behind the Objective-C runtime's entry points, for Linux: enough for candle's
// unmodified Metal backend (built with objc2's gnustep-2-1 feature) to run. Linked as libobjc.so.
//   SOFTGPU_KERNELC      how to run kernelc.py
//   SOFTGPU_ORDER        0 forward, 1 backward, 2 and up shuffled with that seed (threads, threadgroups
//                        and unordered dispatches); default 2
//   SOFTGPU_CHECK        check only sources with a kernel whose name starts so (default: all)
//   SOFTGPU_CACHE        a folder for translated kernels
//   SOFTGPU_MAX_THREADS  what pipelines allow in a threadgroup (1024)
//   SOFTGPU_LOG          1: print each dispatch
#include "exec.h"
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

typedef void (*Imp)();
typedef const struct SelS { const char* name; }* SEL;
struct Class {
  Class* isa;
  const char* name;
  std::unordered_map<std::string, Imp>* m;
  bool meta;
};
// isa has to be the first word (a class has a vtable there), so an object is a plain header and a body
// with the C++ state. B_<T>(o) is sound where o's class is T's: each method is defined for one class.
struct Body { virtual ~Body() {} };
struct Id { Class* isa; std::atomic<long> rc; Body* body; };
typedef Id* id;
static int env(const char* n, int d) { const char* v = getenv(n); return v && *v ? atoi(v) : d; }
static bool logging() { static bool l = env("SOFTGPU_LOG", 0); return l; }
template <typename B> static B* B_(id o) { return static_cast<B*>(o->body); }
static id make(Class* c, Body* b) { Id* o = new Id; o->isa = c; o->rc = 1; o->body = b; return o; }
static bool is_class(id o) { return ((Class*)o)->isa && ((Class*)o)->isa->meta; }

// Classes are symbols with the names that objc2 links to; the first word, isa, is all it relies on.
#define CLASS(N) \
  static Class meta_##N = {nullptr, #N, nullptr, true}; \
  extern "C" { extern Class N asm("._OBJC_CLASS_" #N); Class N = {&meta_##N, #N, nullptr, false}; }
CLASS(NSString) CLASS(NSError) CLASS(NSArray) CLASS(NSURL)
CLASS(MTLCompileOptions) CLASS(MTLFunctionConstantValues) CLASS(MTLResidencySetDescriptor)
CLASS(MTLCaptureDescriptor) CLASS(MTLCaptureManager)
CLASS(SMDevice) CLASS(SMQueue) CLASS(SMCommandBuffer) CLASS(SMComputeEncoder) CLASS(SMBlitEncoder) CLASS(SMBuffer)
CLASS(SMLibrary) CLASS(SMFunction) CLASS(SMPipeline) CLASS(SMFence) CLASS(SMResidencySet) CLASS(SMArchitecture)

extern "C" {
SEL sel_registerName(const char* n) {
  static std::mutex mu; static std::unordered_map<std::string, SelS*> all;
  std::lock_guard<std::mutex> l(mu);
  SelS*& s = all[n];
  if (!s) s = new SelS{strdup(n)};
  return s;
}
const char* sel_getName(SEL s) { return s->name; }
bool sel_isEqual(SEL a, SEL b) { return a == b; }
Class* object_getClass(id o) { return o ? o->isa : nullptr; }
const char* class_getName(Class* c) { return c->name; }
bool class_isMetaClass(Class* c) { return c->meta; }
void* class_getInstanceMethod(Class*, SEL) { return nullptr; }
SEL method_getName(void*) { return nullptr; }
const char* method_getTypeEncoding(void*) { return ""; }
Class* objc_getClass(const char*) { return nullptr; }
id objc_retain(id o) { if (o && !is_class(o)) o->rc++; return o; }
void objc_release(id o) { if (o && !is_class(o) && --o->rc == 0) { delete o->body; delete o; } }
static thread_local std::vector<id> POOL;
void* objc_autoreleasePoolPush() { return (void*)(POOL.size() + 1); }
void objc_autoreleasePoolPop(void* p) { while (POOL.size() > (size_t)p - 1) { id o = POOL.back(); POOL.pop_back(); objc_release(o); } }
id objc_autorelease(id o) { if (o) POOL.push_back(o); return o; }
// what a method returns is already owned here (see ret()), so there is nothing to retain
id objc_retainAutoreleasedReturnValue(id o) { return objc_retain(o); }
}
// A method that is not new/alloc/copy/init returns an autoreleased object.
static id ret(id o) { return objc_autorelease(o); }

// ---- blocks
// The layout is that of the Block ABI, which block2 uses.
struct Desc { unsigned long reserved, size; void (*copy)(void*, const void*); void (*dispose)(const void*); };
struct Block { void* isa; std::atomic<int> flags; int reserved; void (*invoke)(void*, ...); Desc* desc; };
extern "C" {
void* _NSConcreteStackBlock[32]; void* _NSConcreteGlobalBlock[32]; void* _NSConcreteMallocBlock[32];
void* _Block_copy(const void* p) {
  Block* b = (Block*)p;
  if (!b || b->flags & (1 << 28)) return b;
  if (b->flags & (1 << 24)) { b->flags += 1; return b; }
  Block* n = (Block*)malloc(b->desc->size);
  memcpy((void*)n, b, b->desc->size);
  n->isa = _NSConcreteMallocBlock;
  n->flags = (b->flags & ~0xffffff) | (1 << 24) | 1;
  if (n->flags & (1 << 25)) n->desc->copy(n, b);
  return n;
}
void _Block_release(const void* p) {
  Block* b = (Block*)p;
  if (!b || !(b->flags & (1 << 24))) return;
  if ((--b->flags & 0xffffff) == 0) { if (b->flags & (1 << 25)) b->desc->dispose(b); free(b); }
}
void _Block_object_assign(void* d, const void* s, int) { *(const void**)d = s; }
void _Block_object_dispose(const void*, int) {}
}

// ---- Foundation
struct Str : Body { std::string s; };
static id str(const std::string& s) { auto* b = new Str; b->s = s; return make(&NSString, b); }
static const std::string& S(id o) { return B_<Str>(o)->s; }
struct Err : Body { std::string s; };
static id error(const std::string& s) { auto* b = new Err; b->s = s; return make(&NSError, b); }
struct Arr : Body { std::vector<id> v; ~Arr() { for (id o : v) objc_release(o); } };

// ---- Metal objects
struct Buf : Body {
  char* p; size_t n; unsigned long opts; std::string label;
  Buf(size_t n_, unsigned long o) : n(n_), opts(o) { p = (char*)aligned_alloc(256, (std::max<size_t>(n, 1) + 255) & ~size_t(255)); memset(p, 0xa5, n); }
  ~Buf() { memset(p, 0xdd, n); free(p); }
  bool is_private() const { return (opts >> 4 & 15) == 2; }
};
struct Options : Body { std::string math = "fast"; };
struct Consts : Body { std::map<unsigned, std::vector<char>> v; };
struct Lib : Body { sg_lib l{}; };
struct sg_const { unsigned index; void* at; unsigned size; const char* name; };
struct Fn : Body { id lib; const sg_kernel* k; std::map<unsigned, std::vector<char>> consts; ~Fn() { objc_release(lib); } };
struct Pipe : Body { id fn; ~Pipe() { objc_release(fn); } };
struct Size { unsigned long w, h, d; };

struct Work {
  enum { DISPATCH, COPY, FILL, BARRIER } kind;
  sg_dispatch d{};
  std::vector<std::shared_ptr<std::vector<char>>> bytes;
  std::vector<id> hold;  // retained
  id pipe = nullptr;
  id src = nullptr, dst = nullptr; size_t so = 0, dof = 0, n = 0; unsigned char value = 0;
};
struct CmdBuf : Body {
  id queue, dev; int status = 0; std::string err;
  std::vector<std::vector<Work>> enc;  // a list per encoder, in order
  std::vector<Block*> done;
};
struct Enc : Body {
  id cb; size_t at; id pipe = nullptr; bool ended = false;
  sg_buf b[31] = {}; id bo[31] = {}; std::shared_ptr<std::vector<char>> by[31]; size_t tg[31] = {};
  std::vector<id> hold;
  ~Enc() { if (!ended) { fprintf(stderr, "softgpu: an encoder was released without endEncoding\n"); } for (id o : hold) objc_release(o); objc_release(cb); }
};
static CmdBuf* CB(id enc) { return B_<CmdBuf>(B_<Enc>(enc)->cb); }
static std::mutex GPU;

static std::string hash(const std::string& s) { uint64_t h = 1469598103934665603ull, g = 88172645463325252ull; for (unsigned char c : s) { h = (h ^ c) * 1099511628211ull; g = (g + c) * 6364136223846793005ull + 1; } char b[40]; snprintf(b, 40, "%016lx%016lx", h, g); return b; }
// whether `src` has a kernel whose name starts with `prefix`: `void NAME(`, or NAME as a macro's argument
static bool has_kernel(const std::string& src, const std::string& prefix) {
  for (size_t at = 0; (at = src.find(prefix, at)) != std::string::npos; at++) {
    size_t b = at;
    while (b > 0 && src[b - 1] == ' ') b--;
    if (b > 0 && (src[b - 1] == '(' || (b >= 4 && src.compare(b - 4, 4, "void") == 0))) return true;
  }
  return false;
}
static id new_library(const std::string& src, const std::string& math, std::string& err) {
  static std::mutex mu; std::lock_guard<std::mutex> l(mu);
  const char *tool = getenv("SOFTGPU_KERNELC"), *cache = getenv("SOFTGPU_CACHE"), *only = getenv("SOFTGPU_CHECK");
  if (!tool || !cache) { err = "softgpu: SOFTGPU_KERNELC and SOFTGPU_CACHE are not set"; return nullptr; }
  bool checked = !only || has_kernel(src, only);
  std::string flags = std::string(only && checked ? "--check " : checked ? "" : "--unchecked ") + "--math " + math;
  std::string base = std::string(cache) + "/" + hash(src + "\n" + flags + "\n" + tool), so = base + ".so", in = base + ".metal";
  if (access(so.c_str(), R_OK)) {
    std::string tmp = base + "." + std::to_string(getpid());
    std::ofstream(tmp + ".metal") << src;
    rename((tmp + ".metal").c_str(), in.c_str());
    std::string cmd = std::string(tool) + " " + in + " " + flags + " -o " + tmp + " 2>" + tmp + ".err";
    if (logging()) fprintf(stderr, "softgpu: %s\n", cmd.c_str());
    bool bad = system(cmd.c_str());
    if (bad) { std::stringstream ss; ss << std::ifstream(tmp + ".err").rdbuf(); err = ss.str(); }
    unlink((tmp + ".err").c_str());
    if (bad) return nullptr;
    rename(tmp.c_str(), so.c_str());  // whole or not at all, for other processes
  }
  auto* b = new Lib;
  if (const char* m = sg_load(so.c_str(), &b->l)) { err = m; delete b; return nullptr; }
  return make(&SMLibrary, b);
}

// Does what a command buffer holds. Between barriers a concurrent encoder may run its dispatches in
// any order, so this does too.
static void execute(CmdBuf* cb) {
  std::lock_guard<std::mutex> l(GPU);
  static int order = env("SOFTGPU_ORDER", 2);
  static std::mt19937_64 rng(order);
  for (auto& e : cb->enc) {
    size_t i = 0;
    while (i < e.size()) {
      size_t j = i;
      while (j < e.size() && e[j].kind == Work::DISPATCH) j++;
      if (j > i + 1 && order) { if (order == 1) std::reverse(e.begin() + i, e.begin() + j); else std::shuffle(e.begin() + i, e.begin() + j, rng); }
      for (; i < j; i++) {
        Work& w = e[i];
        if (!cb->err.empty()) continue;
        Fn* f = B_<Fn>(B_<Pipe>(w.pipe)->fn);
        Lib* lib = B_<Lib>(f->lib);
        sg_const* cs = (sg_const*)dlsym(lib->l.handle, "sg_consts"); unsigned* nc = (unsigned*)dlsym(lib->l.handle, "sg_nconsts");
        for (unsigned c = 0; cs && c < *nc; c++) { auto it = f->consts.find(cs[c].index); if (it != f->consts.end()) memcpy(cs[c].at, it->second.data(), std::min<size_t>(cs[c].size, it->second.size())); }
        if (logging()) fprintf(stderr, "softgpu: %s groups %zux%zux%zu threads %zux%zux%zu\n", f->k->name, w.d.groups[0], w.d.groups[1], w.d.groups[2], w.d.threads[0], w.d.threads[1], w.d.threads[2]);
        if (const char* m = sg_run(f->k, &w.d, order < 2 ? order : int(rng() >> 34) + 2)) cb->err = m;
      }
      if (i < e.size()) {
        Work& w = e[i++];
        if (w.kind == Work::COPY && cb->err.empty()) {
          Buf *s = B_<Buf>(w.src), *d = B_<Buf>(w.dst);
          if (w.so + w.n > s->n || w.dof + w.n > d->n) cb->err = "blit: copy out of bounds";
          else memcpy(d->p + w.dof, s->p + w.so, w.n);
        } else if (w.kind == Work::FILL && cb->err.empty()) {
          Buf* d = B_<Buf>(w.dst);
          if (w.dof + w.n > d->n) cb->err = "blit: fill out of bounds"; else memset(d->p + w.dof, w.value, w.n);
        }
      }
    }
  }
  if (!cb->err.empty()) fprintf(stderr, "softgpu: %s\n", cb->err.c_str());
}

// ---- methods: F(self, _cmd, arguments...)
#define M(...) +[](__VA_ARGS__)
typedef id I; typedef SEL C;
// A method is kept as an untyped pointer. Sound: objc2 casts it back to the signature of the selector
// before the call, and each function below has that signature.
template <typename F> static void def(Class& c, bool cls, const char* sel, F f) {
  Class* t = cls ? c.isa : &c;
  if (!t->m) t->m = new std::unordered_map<std::string, Imp>;
  (*t->m)[sel] = (Imp)f;
}
template <typename R, typename... A> static void im(Class& c, const char* sel, R (*f)(I, C, A...)) { def(c, false, sel, f); }
template <typename R, typename... A> static void cm(Class& c, const char* sel, R (*f)(I, C, A...)) { def(c, true, sel, f); }
static void common(Class& c) {
  im(c, "setLabel:", M(I, C, id) {}); im(c, "init", M(I s, C) -> id { return s; });
  im(c, "isKindOfClass:", M(I, C, Class*) -> bool { return true; });
  im(c, "respondsToSelector:", M(I s, C, C q) -> bool { return s->isa->m && s->isa->m->count(q->name); });
  im(c, "hash", M(I s, C) -> unsigned long { return (unsigned long)s; });
  im(c, "isEqual:", M(I s, C, id o) -> bool { return s == o; });
}
static void encoder_common(Class& c) {
  im(c, "waitForFence:", M(I, C, id) {}); im(c, "updateFence:", M(I, C, id) {});
  im(c, "pushDebugGroup:", M(I, C, id) {}); im(c, "popDebugGroup", M(I, C) {});
  im(c, "endEncoding", M(I s, C) { B_<Enc>(s)->ended = true; });
}
static void dispatch(I s, Size g, Size t, bool by_threads) {
  Enc* e = B_<Enc>(s);
  CmdBuf* cb = CB(s);
  auto bad = [&](const std::string& m) { if (cb->err.empty()) cb->err = m; };
  if (e->ended) return bad("a dispatch after endEncoding");
  if (!e->pipe) return bad("a dispatch without a pipeline");
  if (t.w * t.h * t.d > (size_t)env("SOFTGPU_MAX_THREADS", 1024)) return bad("more threads per threadgroup than the pipeline's maximum");
  Work w; w.kind = Work::DISPATCH; w.pipe = objc_retain(e->pipe);
  for (int i = 0; i < 31; i++) { w.d.bufs[i] = e->b[i]; if (e->bo[i]) w.hold.push_back(objc_retain(e->bo[i])); if (e->by[i]) w.bytes.push_back(e->by[i]); w.d.tgmem[i] = e->tg[i]; }
  unsigned long G[3] = {g.w, g.h, g.d}, T[3] = {t.w, t.h, t.d};
  for (int a = 0; a < 3; a++) { w.d.threads[a] = T[a]; w.d.groups[a] = by_threads && T[a] ? (G[a] + T[a] - 1) / T[a] : G[a]; w.d.grid_threads[a] = by_threads ? G[a] : 0; }
  cb->enc[e->at].push_back(std::move(w));
}
static id new_encoder(I cb, Class* c) {
  auto* e = new Enc; e->cb = objc_retain(cb); auto* b = B_<CmdBuf>(cb); e->at = b->enc.size(); b->enc.emplace_back();
  return make(c, e);
}
static id DEVICE;
static void setup() {
  for (Class* c : {&NSString, &NSError, &NSArray, &MTLCompileOptions, &MTLFunctionConstantValues, &MTLResidencySetDescriptor, &SMDevice, &SMQueue, &SMCommandBuffer, &SMComputeEncoder, &SMBlitEncoder, &SMBuffer, &SMLibrary, &SMFunction, &SMPipeline, &SMFence, &SMResidencySet, &SMArchitecture}) common(*c);
  cm(NSString, "alloc", M(I, C) -> id { return str(""); });
  im(NSString, "initWithBytes:length:encoding:", M(I s, C, const char* p, unsigned long n, int) -> id { B_<Str>(s)->s.assign(p, n); return s; });
  im(NSString, "UTF8String", M(I s, C) -> const char* { return S(s).c_str(); });
  im(NSString, "lengthOfBytesUsingEncoding:", M(I s, C, int) -> unsigned long { return S(s).size(); });
  im(NSString, "length", M(I s, C) -> unsigned long { return S(s).size(); });
  im(NSError, "localizedDescription", M(I s, C) -> id { return ret(str(B_<Err>(s)->s)); });
  im(NSError, "domain", M(I, C) -> id { return ret(str("softgpu")); }); im(NSError, "code", M(I, C) -> long { return 1; });
  cm(NSArray, "alloc", M(I, C) -> id { return make(&NSArray, new Arr); });
  im(NSArray, "initWithObjects:count:", M(I s, C, id* p, unsigned long n) -> id { for (unsigned long i = 0; i < n; i++) B_<Arr>(s)->v.push_back(objc_retain(p[i])); return s; });
  im(NSArray, "count", M(I s, C) -> unsigned long { return B_<Arr>(s)->v.size(); });
  im(NSArray, "objectAtIndex:", M(I s, C, unsigned long i) -> id { return B_<Arr>(s)->v[i]; });
  struct Range { unsigned long at, n; };
  im(NSArray, "getObjects:", M(I s, C, id* p) { for (size_t i = 0; i < B_<Arr>(s)->v.size(); i++) p[i] = B_<Arr>(s)->v[i]; });
  im(NSArray, "getObjects:range:", M(I s, C, id* p, Range r) { for (unsigned long i = 0; i < r.n; i++) p[i] = B_<Arr>(s)->v[r.at + i]; });

  cm(MTLCompileOptions, "new", M(I, C) -> id { return make(&MTLCompileOptions, new Options); });
  im(MTLCompileOptions, "setMathMode:", M(I s, C, long m) { B_<Options>(s)->math = m == 0 ? "safe" : m == 1 ? "relaxed" : "fast"; });
  im(MTLCompileOptions, "setMathFloatingPointFunctions:", M(I, C, long) {});
  im(MTLCompileOptions, "setFastMathEnabled:", M(I s, C, bool b) { B_<Options>(s)->math = b ? "fast" : "safe"; });
  im(MTLCompileOptions, "setLanguageVersion:", M(I, C, unsigned long) {});
  cm(MTLFunctionConstantValues, "new", M(I, C) -> id { return make(&MTLFunctionConstantValues, new Consts); });
  im(MTLFunctionConstantValues, "setConstantValue:type:atIndex:", M(I s, C, const char* p, unsigned long type, unsigned long i) {
    // the values of MTLDataType: Float 3, Half 16, Int 29, UInt 33, Short 37, UShort 41, Char 45, UChar 49, Bool 53, Long 81, ULong 85
    size_t n = type == 85 || type == 81 ? 8 : type == 3 || type == 29 || type == 33 ? 4 : type == 16 || type == 37 || type == 41 ? 2 : 1;
    B_<Consts>(s)->v[i].assign(p, p + n);
  });
  cm(MTLResidencySetDescriptor, "new", M(I, C) -> id { return make(&MTLResidencySetDescriptor, new Body); });

  auto& D = SMDevice;
  im(D, "newCommandQueue", M(I, C) -> id { return make(&SMQueue, new Body); });
  im(D, "newBufferWithLength:options:", M(I, C, unsigned long n, unsigned long o) -> id { return n ? make(&SMBuffer, new Buf(n, o)) : nullptr; });
  im(D, "newBufferWithBytes:length:options:", M(I, C, const void* p, unsigned long n, unsigned long o) -> id { if (!n) return nullptr; auto* b = new Buf(n, o); memcpy(b->p, p, n); return make(&SMBuffer, b); });
  im(D, "newLibraryWithSource:options:error:", M(I, C, id src, id opt, id* e) -> id {
    std::string msg; id l = new_library(S(src), opt ? B_<Options>(opt)->math : "fast", msg);
    if (!l && e) *e = ret(error(msg));
    return l;
  });
  im(D, "newComputePipelineStateWithFunction:error:", M(I, C, id f, id*) -> id { auto* p = new Pipe; p->fn = objc_retain(f); return make(&SMPipeline, p); });
  im(D, "newFence", M(I, C) -> id { return make(&SMFence, new Body); });
  im(D, "newResidencySetWithDescriptor:error:", M(I, C, id, id*) -> id { return make(&SMResidencySet, new Body); });
  im(D, "architecture", M(I, C) -> id { return ret(make(&SMArchitecture, new Body)); });
  im(SMArchitecture, "name", M(I, C) -> id { return ret(str("applegpu_g13g")); });
  im(D, "name", M(I, C) -> id { return ret(str("softgpu")); });
  im(D, "registryID", M(I, C) -> unsigned long { return 1; });
  im(D, "recommendedMaxWorkingSetSize", M(I, C) -> unsigned long { return 8ul << 30; });
  im(D, "currentAllocatedSize", M(I, C) -> unsigned long { return 0; });
  for (const char* s : {"addAllocation:", "removeAllocation:"}) im(SMResidencySet, s, M(I, C, id) {});
  for (const char* s : {"commit", "requestResidency", "endResidency"}) im(SMResidencySet, s, M(I, C) {});

  im(SMQueue, "addResidencySet:", M(I, C, id) {});
  im(SMQueue, "device", M(I, C) -> id { return DEVICE; });
  im(SMQueue, "commandBuffer", M(I s, C) -> id { auto* b = new CmdBuf; b->queue = s; b->dev = DEVICE; return ret(make(&SMCommandBuffer, b)); });
  auto& B = SMCommandBuffer;
  im(B, "device", M(I, C) -> id { return DEVICE; });
  im(B, "computeCommandEncoderWithDispatchType:", M(I s, C, unsigned long) -> id { return ret(new_encoder(s, &SMComputeEncoder)); });
  im(B, "blitCommandEncoder", M(I s, C) -> id { return ret(new_encoder(s, &SMBlitEncoder)); });
  im(B, "enqueue", M(I s, C) { if (!B_<CmdBuf>(s)->status) B_<CmdBuf>(s)->status = 1; });
  im(B, "commit", M(I s, C) {
    auto* b = B_<CmdBuf>(s);
    if (b->status >= 2) { fprintf(stderr, "softgpu: a command buffer was committed twice\n"); abort(); }
    b->status = 2; execute(b); b->status = b->err.empty() ? 4 : 5;
    for (Block* k : b->done) { ((void (*)(void*, id))k->invoke)(k, s); _Block_release(k); }
    b->done.clear();
    for (auto& e : b->enc) for (auto& w : e) { for (id o : w.hold) objc_release(o); for (id o : {w.pipe, w.src, w.dst}) objc_release(o); }
    b->enc.clear();
  });
  im(B, "status", M(I s, C) -> unsigned long { return B_<CmdBuf>(s)->status; });
  im(B, "waitUntilCompleted", M(I, C) {});
  im(B, "error", M(I s, C) -> id { auto* b = B_<CmdBuf>(s); return b->err.empty() ? nullptr : ret(error(b->err)); });
  im(B, "addCompletedHandler:", M(I s, C, void* k) { B_<CmdBuf>(s)->done.push_back((Block*)_Block_copy(k)); });

  auto& E = SMComputeEncoder;
  encoder_common(E);
  im(E, "setComputePipelineState:", M(I s, C, id p) { auto* e = B_<Enc>(s); e->pipe = objc_retain(p); e->hold.push_back(p); });
  im(E, "setBuffer:offset:atIndex:", M(I s, C, id b, unsigned long off, unsigned long i) {
    auto* e = B_<Enc>(s);
    if (i > 30) { CB(s)->err = "setBuffer: index > 30"; return; }
    e->by[i].reset(); e->bo[i] = b; e->b[i] = {};
    if (!b) return;
    e->hold.push_back(objc_retain(b));
    Buf* bb = B_<Buf>(b);
    if (off > bb->n) { CB(s)->err = "setBuffer: offset past the end"; return; }
    e->b[i] = {bb->p + off, bb->n - off, off, 0};
  });
  im(E, "setBytes:length:atIndex:", M(I s, C, const char* p, unsigned long n, unsigned long i) {
    auto* e = B_<Enc>(s);
    if (i > 30 || n > 4096) { CB(s)->err = "setBytes: index > 30, or more than 4096 bytes"; return; }
    // candle passes no bytes for the dimensions of a scalar; a kernel that reads them is out of bounds.
    e->bo[i] = nullptr; e->by[i] = std::make_shared<std::vector<char>>(p, p + n); e->by[i]->reserve(8); e->b[i] = {e->by[i]->data(), n, 0, 1};
  });
  im(E, "setThreadgroupMemoryLength:atIndex:", M(I s, C, unsigned long n, unsigned long i) { if (i < 31) B_<Enc>(s)->tg[i] = n; });
  im(E, "dispatchThreadgroups:threadsPerThreadgroup:", M(I s, C, Size g, Size t) { dispatch(s, g, t, false); });
  im(E, "dispatchThreads:threadsPerThreadgroup:", M(I s, C, Size g, Size t) { dispatch(s, g, t, true); });
  im(E, "memoryBarrierWithScope:", M(I s, C, unsigned long) { Work w; w.kind = Work::BARRIER; CB(s)->enc[B_<Enc>(s)->at].push_back(std::move(w)); });
  auto& L = SMBlitEncoder;
  encoder_common(L);
  im(L, "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:", M(I s, C, id a, unsigned long ao, id b, unsigned long bo, unsigned long n) {
    Work w; w.kind = Work::COPY; w.src = objc_retain(a); w.dst = objc_retain(b); w.so = ao; w.dof = bo; w.n = n; CB(s)->enc[B_<Enc>(s)->at].push_back(std::move(w)); });
  im(L, "fillBuffer:range:value:", M(I s, C, id b, Range r, unsigned char v) {
    Work w; w.kind = Work::FILL; w.dst = objc_retain(b); w.dof = r.at; w.n = r.n; w.value = v; CB(s)->enc[B_<Enc>(s)->at].push_back(std::move(w)); });

  im(SMBuffer, "contents", M(I s, C) -> void* { return B_<Buf>(s)->is_private() ? nullptr : B_<Buf>(s)->p; });
  im(SMBuffer, "length", M(I s, C) -> unsigned long { return B_<Buf>(s)->n; });
  im(SMBuffer, "didModifyRange:", M(I, C, Range) {});
  auto find = +[](Lib* l, const std::string& n) -> const sg_kernel* { for (unsigned i = 0; i < l->l.n; i++) if (n == l->l.kernels[i].name) return l->l.kernels + i; return nullptr; };
  static auto FIND = find;
  im(SMLibrary, "newFunctionWithName:", M(I s, C, id n) -> id { auto* k = FIND(B_<Lib>(s), S(n)); if (!k) return nullptr; auto* f = new Fn; f->lib = objc_retain(s); f->k = k; return make(&SMFunction, f); });
  im(SMLibrary, "newFunctionWithName:constantValues:error:", M(I s, C, id n, id c, id* e) -> id {
    auto* k = FIND(B_<Lib>(s), S(n));
    if (!k) { if (e) *e = ret(error("no function " + S(n))); return nullptr; }
    auto* f = new Fn; f->lib = objc_retain(s); f->k = k; f->consts = B_<Consts>(c)->v; return make(&SMFunction, f);
  });
  im(SMPipeline, "maxTotalThreadsPerThreadgroup", M(I, C) -> unsigned long { return env("SOFTGPU_MAX_THREADS", 1024); });
  im(SMPipeline, "threadExecutionWidth", M(I, C) -> unsigned long { return 32; });
  DEVICE = make(&SMDevice, new Body);
}
static void ready() { static std::once_flag once; std::call_once(once, setup); }

extern "C" {
Imp objc_msg_lookup(id o, SEL s) {
  ready();
  Class* c = o->isa;
  if (c->m) { auto it = c->m->find(s->name); if (it != c->m->end()) return it->second; }
  fprintf(stderr, "softgpu: %s %c[%s %s] is not there\n", "method", c->meta ? '+' : '-', c->name, s->name);
  abort();
}
id MTLCreateSystemDefaultDevice() { ready(); return objc_retain(DEVICE); }
}
