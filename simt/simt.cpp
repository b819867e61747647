// The executor behind simt.h: every CUDA thread is a fiber, all fibers of a launch share one OS thread and change places only where the kernel waits
// (a barrier, a warp function) or ends. In this file:
//   1 threads, warps, blocks   2 who runs next   3 barriers and warp functions   4 shared memory   5 reports   6 launch
//
// ThreadSanitizer sees each CUDA thread as a thread of its own, because each has a TSan fiber, and it is told what CUDA promises to order, no more: barriers,
// launches, and atomics after a fence. Fibers run one at a time, so what it reports does not depend on luck. This needs
//   - this file and fiber.cpp compiled without -fsanitize=thread: their own accesses would look like accesses of the fiber they happen to run on;
//   - no allocation, memset or memcpy while on a fiber, for TSan intercepts those wherever they are called from;
//   - a stack, and shared memory, that no unordered thread has used before: see Block.
#include "simt/simt.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "simt/fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {
inline namespace emulated {
namespace detail {
namespace {
using fiber::acquire, fiber::release, fiber::under_tsan, fiber::Stack;

// ---- 1 threads, warps, blocks ---------------------------------------------------------------------------------------------------------------------------

struct Block;
struct Warp;
struct Group;
enum class State : unsigned char { ready, at_block_barrier, at_warp_function, at_grid_barrier, returned };

struct Thread {
  uint3 index;      // threadIdx
  unsigned number;  // in the block, x fastest
  Stack* stack;     // null: has not begun
  Block* block;
  Warp* warp;
  State state;
  bool block_fence, device_fence;  // ran __threadfence_block, __threadfence
  const void* atomics[4];          // under TSan, where its last atomics were
  unsigned atomics_count;
  // What it waits for.
  const char* what;
  const char* file;
  int line;
  unsigned mask;
  uint64_t value;  // in: the lane's operand; out: its result
  int lane_argument, width;
  void* sync_word;         // what the barrier's threads release and acquire
  uint64_t sync_words[2];  // for the warp barriers whose first lane this is, in turn: a word is used again only when all have left the barrier before last
  bool sync_parity;
};

// Lanes that are in the same warp function with the same mask.
struct Gathering {
  WarpOp op;
  unsigned mask, here;
};
struct Warp {
  Thread* lanes;    // up to 32
  unsigned living;  // has not returned
  int gatherings;
  Gathering gathering[32];
};

struct SharedVariable {
  const void* key;
  void* at;
};
constexpr size_t kSharedBytes = 227 << 10, kStaticSharedBytes = 48 << 10;  // sm_90
constexpr int kSharedVariables = 64;
constexpr size_t kRedZone = 64;
constexpr size_t kArenaBytes = kSharedBytes + size_t(kSharedVariables + 2) * (kRedZone + 256);

// Where a block runs: its threads' records and its shared memory. Launches with independent blocks alternate between two slots, a cooperative one has a slot
// per block. Under TSan a slot also has its own fibers, and a block is ordered after the one that had the slot before; that makes the reuse of stacks and
// shared memory no race, and leaves neighbouring blocks unordered, as they are on a GPU.
struct Block {
  uint3 index;    // blockIdx
  dim3 shape{0};  // for which `threads` and `warps` are prepared
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  size_t slot;
  size_t returned;
  uint64_t end_words[2];  // released by the threads of this block, and by those of the one before; in turn
  bool end_parity;
  // __syncthreads
  size_t waiting;
  bool mixed;  // not all wait at the same one
  BlockOp op;
  int votes, result;
  const char* file;
  int line;
  uint64_t sync_words[2];
  bool sync_parity;
  // grid_sync
  Group* group;
  unsigned rank;
  // shared memory
  char* arena = nullptr;
  size_t arena_used, static_bytes;
  void* dynamic;
  int variables;
  SharedVariable variable[kSharedVariables];
};

// Blocks that meet at one word.
struct Group {
  unsigned* word;
  unsigned blocks;
  size_t waiting;  // threads; 0: the group is free
};

[[noreturn]] void run_threads();

// Everything about the launch in progress. One at a time: `threadIdx` and the others are plain variables, which a debugger can use in conditions.
struct Executor {
  fiber::Stacks stacks{run_threads};
  std::vector<std::unique_ptr<Block>> slots;
  std::vector<Block*> blocks;  // alive: one, or all of a cooperative launch
  std::vector<Group> groups;
  std::vector<Thread*> ready;  // taken from the end
  size_t ready_count = 0;
  Thread* current = nullptr;
  const Launch* launch = nullptr;
  void (*call)(void*) = nullptr;
  void* arguments = nullptr;
  int schedule = 0;
  uint64_t random = 0;
  uint64_t begin_word = 0;
  bool failed = false;
  std::string failure;
};
union NeverDestroyed {  // a static object's destructor may still launch
  Executor executor;
  NeverDestroyed() : executor() {}
  ~NeverDestroyed() {}
} never_destroyed;
Executor& e = never_destroyed.executor;

std::string position(const char* file, int line) {
  const char* slash = std::strrchr(file, '/');
  return fmt::format("{}:{}", slash ? slash + 1 : file, line);
}
std::string text_of(uint3 i) { return fmt::format("({},{},{})", i.x, i.y, i.z); }

// ---- 2 who runs next ------------------------------------------------------------------------------------------------------------------------------------

uint64_t next_random() {  // xorshift64*
  e.random ^= e.random >> 12, e.random ^= e.random << 25, e.random ^= e.random >> 27;
  return e.random * 0x2545f4914f6cdd1du;
}

void make_ready(Thread& thread) {
  thread.state = State::ready;
  e.ready[e.ready_count++] = &thread;
}
// Ready threads are taken last in, first out (one warp's data stays in the cache until it reaches a block barrier), hence the reversed order.
void make_ready(Block& block) {
  const size_t n = block.threads.size();
  for (size_t i = 0; i < n; ++i) make_ready(block.threads[e.schedule == 1 ? i : n - 1 - i]);
}
void make_ready(Warp& warp, unsigned lanes) {
  for (int i = 0; i < 32; ++i) {
    const int lane = e.schedule == 1 ? i : 31 - i;
    if (lanes >> lane & 1) make_ready(warp.lanes[lane]);
  }
}

// Continues with the next ready thread, or with the host where there is none. `done`: nothing on this stack is needed any more.
enum class Leaving : bool { waits, done };
void go_on(Stack& here, Leaving leaving) {
  if (e.ready_count == 0 || e.failed) {
    if (leaving == Leaving::done && !under_tsan()) e.stacks.give_back(here);
    fiber::switch_stack(here, fiber::host);
    return;
  }
  if (e.schedule > 1) std::swap(e.ready[next_random() % e.ready_count], e.ready[e.ready_count - 1]);
  Thread& next = *e.ready[--e.ready_count];
  e.current = &next;
  threadIdx = next.index;
  blockIdx = next.block->index;
  if (!next.stack) {
    if (leaving == Leaving::done) {
      next.stack = &here;
      return;
    }
    next.stack = &e.stacks.take();
  } else if (leaving == Leaving::done && !under_tsan()) {
    e.stacks.give_back(here);
  }
  if (next.stack != &here) fiber::switch_stack(here, *next.stack);
}

void wait() { go_on(*e.current->stack, Leaving::waits); }

void release_gathering(Warp& warp, int n);
void returned(Thread& thread) {
  thread.state = State::returned;
  ++thread.block->returned;
  Warp& warp = *thread.warp;
  warp.living &= ~(1u << thread.number % 32);
  for (int n = warp.gatherings - 1; n >= 0; --n)  // a lane that has returned is waited for no longer
    if (warp.gathering[n].here == (warp.gathering[n].mask & warp.living)) release_gathering(warp, n);
}

void run_current() {
  Thread& thread = *e.current;
  acquire(&e.begin_word);
  acquire(&thread.block->end_words[!thread.block->end_parity]);
  try {
    e.call(e.arguments);
  } catch (const Error& error) {
    e.failure = error.what(), e.failed = true;
  } catch (const std::exception& error) {
    e.failure = fmt::format("exception: {}", error.what()), e.failed = true;
  } catch (...) {
    e.failure = "an exception that is no std::exception", e.failed = true;
  }
  release(&thread.block->end_words[thread.block->end_parity]);
  returned(thread);
}

[[noreturn]] void run_threads() {
  Stack& here = *e.current->stack;
  fiber::arrive();
  for (;;) {
    run_current();
    go_on(here, Leaving::done);
  }
}

// ---- 3 barriers and warp functions ----------------------------------------------------------------------------------------------------------------------

constexpr const char* kBlockNames[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or"};
constexpr const char* kWarpNames[] = {"__syncwarp",    "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
                                      "__ballot_sync", "__any_sync",  "__all_sync",     "__match_any_sync"};

bool same_place(const char* file, int line, const char* other_file, int other_line) {
  return line == other_line && (file == other_file || std::strcmp(file, other_file) == 0);
}

void wait_for(State state, const char* what, const char* file, int line, void* sync_word) {
  Thread& thread = *e.current;
  thread.state = state, thread.what = what, thread.file = file, thread.line = line, thread.sync_word = sync_word;
  if (sync_word) release(sync_word);
}

// PTX ISA, shfl.sync: the lane that `lane` reads.
int source_lane(WarpOp op, int lane, int argument, int width) {
  const int first = lane & ~(width - 1) & 31, last = first | (width - 1), b = argument & 31;
  int source = 0;
  switch (op) {
    case WarpOp::up: return (source = lane - b) >= first ? source : lane;
    case WarpOp::down: return (source = lane + b) <= last ? source : lane;
    case WarpOp::bfly: return (source = lane ^ b) <= last ? source : lane;
    default: return first | (b & (width - 1));
  }
}

// The last lane has come: computes everyone's result.
void release_gathering(Warp& warp, int n) {
  const Gathering g = warp.gathering[n];
  warp.gathering[n] = warp.gathering[--warp.gatherings];
  unsigned votes = 0;
  uint64_t in[32];
  for (int lane = 0; lane < 32; ++lane)
    if (g.here >> lane & 1) {
      in[lane] = warp.lanes[lane].value;
      votes |= unsigned(in[lane] & 1) << lane;
    }
  for (int lane = 0; lane < 32; ++lane) {
    if (!(g.here >> lane & 1)) continue;
    Thread& thread = warp.lanes[lane];
    switch (g.op) {
      case WarpOp::sync: break;
      case WarpOp::ballot: thread.value = votes; break;
      case WarpOp::any: thread.value = votes != 0; break;
      case WarpOp::all: thread.value = votes == g.here; break;
      case WarpOp::match:
        thread.value = 0;
        for (int other = 0; other < 32; ++other)
          if (g.here >> other & 1 && in[other] == in[lane]) thread.value |= 1u << other;
        break;
      default: {
        const int source = source_lane(g.op, lane, thread.lane_argument, thread.width);
        thread.value = g.here >> source & 1 ? in[source] : ~uint64_t(0);
      }
    }
  }
  if (g.op == WarpOp::sync) warp.lanes[std::countr_zero(g.mask)].sync_parity ^= true;
  make_ready(warp, g.here);
}
}  // namespace

int block_barrier(BlockOp op, int predicate, const char* file, int line) {
  Block& block = *e.current->block;
  if (block.waiting++ == 0) {
    block.op = op, block.file = file, block.line = line;
    block.mixed = false;
    block.votes = 0;
  } else if (op != block.op || !same_place(file, line, block.file, block.line)) {
    block.mixed = true;
  }
  block.votes += predicate != 0;
  wait_for(State::at_block_barrier, kBlockNames[size_t(op)], file, line, &block.sync_words[block.sync_parity]);
  if (block.waiting == block.threads.size() && !block.mixed) {
    block.result = op == BlockOp::count ? block.votes : op == BlockOp::all ? block.votes == int(block.threads.size()) : block.votes != 0;
    block.waiting = 0;
    block.sync_parity ^= true;
    make_ready(block);
  }
  wait();
  acquire(e.current->sync_word);
  return block.result;
}

uint64_t warp_exchange(WarpOp op, unsigned mask, uint64_t value, int lane_argument, int width, const char* file, int line) {
  Thread& thread = *e.current;
  Warp& warp = *thread.warp;
  const unsigned own = 1u << thread.number % 32;
  const char* name = kWarpNames[size_t(op)];
  if (!(mask & own)) throw Error(fmt::format("{}, {}: the mask leaves out the lane that calls", name, position(file, line)));
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    throw Error(fmt::format("{}, {}: width {} is no power of two from 1 to 32", name, position(file, line), width));
  thread.mask = mask, thread.value = value, thread.lane_argument = lane_argument, thread.width = width;
  void* sync_word = nullptr;  // only __syncwarp orders memory
  if (op == WarpOp::sync) {
    Thread& first = warp.lanes[std::countr_zero(mask)];
    sync_word = &first.sync_words[first.sync_parity];
  }
  wait_for(State::at_warp_function, name, file, line, sync_word);
  int n = 0;
  while (n < warp.gatherings && !(warp.gathering[n].op == op && warp.gathering[n].mask == mask)) ++n;
  if (n == warp.gatherings) warp.gathering[warp.gatherings++] = {op, mask, 0};
  warp.gathering[n].here |= own;
  if (warp.gathering[n].here == (mask & warp.living)) release_gathering(warp, n);
  wait();
  if (sync_word) acquire(sync_word);
  return thread.value;
}

// CUDA's fences, as TSan can be told of them. Write, fence, atomic publishes: from its first fence on, a thread's atomics release (and acquire).
// Atomic, fence, read receives: a fence acquires what was released at the addresses of the thread's last atomics.
void fence(Scope scope) {
  Thread& thread = *e.current;
  (scope == Scope::block ? thread.block_fence : thread.device_fence) = true;
  for (unsigned i = 0; i < std::min(thread.atomics_count, 4u); ++i) acquire(const_cast<void*>(thread.atomics[i]));
  thread.atomics_count = 0;
}
bool is_ordered(const void* at) {
  Thread& thread = *e.current;
  thread.atomics[thread.atomics_count++ % 4] = at;
  const char* arena = thread.block->arena;
  const bool shared = at >= arena && at < arena + kArenaBytes;
  return thread.device_fence || (thread.block_fence && shared);
}
}  // namespace detail

void grid_sync(unsigned* word, unsigned blocks, unsigned rank, const char* file, int line) {
  using namespace detail;
  Block& block = *e.current->block;
  const auto refuse = [&](const std::string& why) { throw Error(fmt::format("grid_sync, {}: {}", position(file, line), why)); };
  if (e.launch->blocks != Blocks::cooperative) refuse("only launch_cooperative guarantees that all blocks run at once");
  if (rank >= blocks || blocks > e.blocks.size()) refuse(fmt::format("rank {} of {} blocks, in a grid of {}", rank, blocks, e.blocks.size()));
  auto group = std::find_if(e.groups.begin(), e.groups.end(), [&](const Group& g) { return g.waiting && g.word == word; });
  if (group == e.groups.end()) {
    if ((*word & 0x7fffffffu) != 0) refuse(fmt::format("its word holds {}; it must be set to zero where it is allocated, and left alone", *word));
    group = std::find_if(e.groups.begin(), e.groups.end(), [](const Group& g) { return g.waiting == 0; });
    *group = {word, blocks, 0};
  }
  if (group->blocks != blocks) refuse(fmt::format("blocks disagree on the size of their group, {} or {}", group->blocks, blocks));
  if (block.group && (block.group != &*group || block.rank != rank)) refuse("threads of one block disagree on its word or rank");
  if (!block.group) {
    for (Block* other : e.blocks)
      if (other->group == &*group && other->rank == rank)
        refuse(fmt::format("blocks {} and {} both say that they are rank {}", text_of(other->index), text_of(block.index), rank));
    block.group = &*group, block.rank = rank;
  }
  void* sync_word = reinterpret_cast<char*>(word) + (*word >> 31);
  wait_for(State::at_grid_barrier, "grid_sync", file, line, sync_word);
  if (++group->waiting == blocks * block.threads.size()) {
    *word ^= 0x80000000u;  // as on the GPU
    group->waiting = 0;
    for (size_t i = 0; i < e.blocks.size(); ++i) {
      Block& member = *e.blocks[e.schedule == 1 ? i : e.blocks.size() - 1 - i];
      if (member.group != &*group) continue;
      member.group = nullptr;
      make_ready(member);
    }
  }
  wait();
  acquire(sync_word);
}
void grid_sync(unsigned* word, const char* file, int line) {
  grid_sync(word, gridDim.x * gridDim.y * gridDim.z, (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x, file, line);
}

namespace detail {

// ---- 4 shared memory ------------------------------------------------------------------------------------------------------------------------------------

namespace {
// Variables lie apart, so that ASan reports an access beyond one.
void* allocate_shared(Block& block, size_t bytes, size_t align) {
  align = std::max<size_t>(align, 16);
  const size_t start = (block.arena_used + kRedZone + align - 1) / align * align;
  void* at = block.arena + start;
  block.arena_used = start + bytes;
  fiber::unpoison(at, bytes);
  fiber::fill_undefined(at, bytes);
  return at;
}
}  // namespace

void* shared_variable(const void* key, size_t bytes, size_t align) {
  Block& block = *e.current->block;
  for (int i = 0; i < block.variables; ++i)
    if (block.variable[i].key == key) return block.variable[i].at;
  block.static_bytes += bytes;
  if (block.variables == kSharedVariables || align > 256 || block.static_bytes > kStaticSharedBytes ||
      block.static_bytes + e.launch->dynamic_smem > kSharedBytes)
    throw Error(fmt::format("too much shared memory: {} bytes of SIMT_SHARED variables (limit {}), {} dynamic (limit of both together {})", block.static_bytes,
                            kStaticSharedBytes, e.launch->dynamic_smem, kSharedBytes));
  void* at = allocate_shared(block, bytes, align);
  block.variable[block.variables++] = {key, at};
  return at;
}

void* dynamic_shared() { return e.current->block->dynamic; }

// ---- 5 reports ------------------------------------------------------------------------------------------------------------------------------------------

namespace {
std::string launch_text(const Launch& how) { return fmt::format("kernel launched at {}: ", position(how.grid.file, how.grid.line)); }

std::string doing(const Thread& thread) {
  if (thread.state == State::returned) return " returned";
  std::string whom;
  if (thread.state == State::at_warp_function) whom = fmt::format(" for the lanes {:#010x}", thread.mask);
  if (thread.state == State::at_grid_barrier) whom = fmt::format(" for {} blocks", thread.block->group->blocks);
  return fmt::format(" wait at {}{}, {}", thread.what, whom, position(thread.file, thread.line));
}

// One line for all numbers (indices of `texts`) with the same text: "  <noun>s 0-3, 7<text>".
std::string in_groups(const char* noun, const std::vector<std::string>& texts) {
  std::vector<std::pair<std::string, std::string>> lines;  // text, numbers; in order of first appearance
  for (size_t from = 0, to = 0; from < texts.size(); from = to) {
    while (to < texts.size() && texts[to] == texts[from]) ++to;
    auto line = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.first == texts[from]; });
    if (line == lines.end()) line = lines.insert(lines.end(), {texts[from], ""});
    if (!line->second.empty()) line->second += ", ";
    line->second += to - from > 1 ? fmt::format("{}-{}", from, to - 1) : fmt::format("{}", from);
  }
  std::string all;
  for (const auto& [text, numbers] : lines) all += fmt::format("\n  {}{} {}{}", noun, numbers.find_first_of("-,") == numbers.npos ? "" : "s", numbers, text);
  return all;
}

// Nothing can run, and not all threads have returned. Threads and blocks are numbered with x fastest.
std::string stuck_text() {
  bool barrier = false, grid = false;
  std::vector<std::string> blocks;
  for (Block* block : e.blocks) {
    std::vector<std::string> threads;
    for (const Thread& thread : block->threads) {
      threads.push_back(doing(thread));
      barrier |= thread.state == State::at_block_barrier;
      grid |= thread.state == State::at_grid_barrier;
    }
    blocks.push_back(in_groups("thread", threads));
  }
  const char* what = barrier ? "divergent barrier" : grid ? "a barrier between blocks that not all reach" : "a warp function that not all lanes reach";
  const std::string text =
      fmt::format("{}{} in block {}, thread {} was last to run:", launch_text(*e.launch), what, text_of(e.current->block->index), text_of(e.current->index));
  if (blocks.size() == 1) return text + blocks[0];
  for (std::string& block : blocks) {
    for (size_t at = 0; (at = block.find("\n  ", at)) != block.npos; at += 3) block.insert(at + 1, 2, ' ');
    block = ':' + block;
  }
  return text + in_groups("block", blocks);
}

// ---- 6 launch -------------------------------------------------------------------------------------------------------------------------------------------

std::mutex launch_mutex;
thread_local bool launching = false;  // a kernel runs on this OS thread
std::atomic<int> schedule_setting{0}, resident_blocks{4};
std::atomic<void (*)()> guard_enter{nullptr}, guard_leave{nullptr};

struct Guard {
  void (*leave)() = guard_leave;
  Guard() {
    if (void (*enter)() = guard_enter) enter();
    launching = true;
  }
  ~Guard() {
    launching = false;
    if (leave) leave();
  }
};

void check_shape(const Launch& how) {
  const Grid& g = how.grid;
  const dim3& b = how.block;
  const auto refuse = [&](const std::string& why) {
    throw Error(fmt::format("{}{} (grid {}x{}x{}, block {}x{}x{}, {} bytes of dynamic shared memory)", launch_text(how), why, g.x, g.y, g.z, b.x, b.y, b.z,
                            how.dynamic_smem));
  };
  if (g.x < 1 || g.y < 1 || g.z < 1) refuse("no blocks; an empty tensor?");
  if (g.x > INT_MAX || g.y > 65535 || g.z > 65535) refuse("more blocks than CUDA takes, 2147483647x65535x65535");
  if (b.x < 1 || b.y < 1 || b.z < 1) refuse("no threads");
  if (b.x > 1024 || b.y > 1024 || b.z > 64 || uint64_t(b.x) * b.y * b.z > 1024) refuse("more threads in a block than CUDA takes, 1024 (64 along z)");
  if (how.dynamic_smem > kSharedBytes) refuse("more than 227 KiB of shared memory");
  if (how.blocks == Blocks::cooperative && g.x * g.y * g.z > resident_blocks)
    refuse(fmt::format("a cooperative grid of more blocks than are resident at once, {}", max_resident_blocks()));
}

// Slots for this launch, with the records that do not change from block to block.
void prepare_slots(const Launch& how, size_t slots) {
  const dim3 shape = how.block;
  const size_t n = size_t(shape.x) * shape.y * shape.z;
  if (e.ready.size() < n * slots) e.ready.resize(n * slots);
  if (under_tsan()) e.stacks.create_up_to(n * slots);
  while (e.slots.size() < slots) {
    auto block = std::make_unique<Block>();
    void* arena = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) throw Error(launch_text(how) + "no memory for one more block's shared memory");
    block->arena = static_cast<char*>(arena);
    block->arena_used = 0;
    fiber::poison(block->arena, kArenaBytes);
    block->slot = e.slots.size();
    e.slots.push_back(std::move(block));
  }
  for (size_t slot = 0; slot < slots; ++slot) {
    Block& block = *e.slots[slot];
    if (block.shape.x == shape.x && block.shape.y == shape.y && block.shape.z == shape.z) continue;
    block.shape = shape;
    block.threads.resize(n);
    block.warps.resize((n + 31) / 32);
    for (unsigned i = 0; i < n; ++i) {
      Thread& thread = block.threads[i];
      thread.index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
      thread.number = i;
      thread.block = &block;
      thread.warp = &block.warps[i / 32];
      thread.warp->lanes = &block.threads[i / 32 * 32];
    }
  }
}

void begin_block(Block& block, int64_t number) {
  block.index = {unsigned(number % gridDim.x), unsigned(number / gridDim.x % gridDim.y), unsigned(number / gridDim.x / gridDim.y)};
  block.returned = block.waiting = 0;
  block.end_parity ^= true;
  block.group = nullptr;
  const size_t n = block.threads.size();
  for (Thread& thread : block.threads) {
    thread.stack = under_tsan() ? &e.stacks.of_thread(block.slot * n + thread.number, thread.number) : nullptr;
    thread.block_fence = thread.device_fence = false;
    thread.atomics_count = 0;
  }
  for (size_t w = 0; w < block.warps.size(); ++w) {
    block.warps[w].living = n - w * 32 >= 32 ? ~0u : (1u << (n - w * 32)) - 1;
    block.warps[w].gatherings = 0;
  }
  fiber::poison(block.arena, block.arena_used);
  block.arena_used = block.static_bytes = 0;
  block.variables = 0;
  block.dynamic = allocate_shared(block, e.launch->dynamic_smem, 16);
  make_ready(block);
}

// Runs e.blocks to their end.
void run_blocks() {
  go_on(fiber::host, Leaving::waits);
  for (Block* block : e.blocks) acquire(&block->end_words[block->end_parity]);
  if (e.failed) {
    e.failure = fmt::format("{}block {}, thread {}: {}", launch_text(*e.launch), text_of(blockIdx), text_of(threadIdx), e.failure);
  } else {
    for (Block* block : e.blocks) e.failed |= block->returned != block->threads.size();
    if (e.failed) e.failure = stuck_text();
  }
  if (!e.failed) return;
  e.failed = false;
  e.ready_count = 0;
  e.stacks.drop();
  throw Error(std::exchange(e.failure, {}));
}
}  // namespace

int max_resident_blocks() { return resident_blocks; }

void run(const Launch& how, void (*call)(void*), void* arguments) {
  if (launching) throw Error(launch_text(how) + "a kernel cannot launch kernels");
  check_shape(how);
  std::lock_guard lock(launch_mutex);
  const int64_t blocks = how.grid.x * how.grid.y * how.grid.z;
  const bool cooperative = how.blocks == Blocks::cooperative;
  e.launch = &how;
  e.call = call, e.arguments = arguments;
  e.schedule = schedule_setting;
  e.random = 0x9e3779b97f4a7c15u * uint64_t(e.schedule + 1);
  prepare_slots(how, cooperative ? size_t(blocks) : 2);
  gridDim = dim3(unsigned(how.grid.x), unsigned(how.grid.y), unsigned(how.grid.z));
  blockDim = how.block;
  fiber::adopt_host();

  const Guard guard;
  release(&e.begin_word);
  e.blocks.clear();
  if (cooperative) {
    e.groups.assign(size_t(blocks), {});
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t number = e.schedule == 1 ? i : blocks - 1 - i;
      begin_block(*e.slots[size_t(number)], number);
    }
    for (int64_t i = 0; i < blocks; ++i) e.blocks.push_back(e.slots[size_t(i)].get());
    run_blocks();
    return;
  }
  std::vector<int64_t> order;
  if (e.schedule > 1) {
    order.resize(size_t(blocks));
    std::iota(order.begin(), order.end(), int64_t(0));
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
  }
  e.blocks.resize(1);
  for (int64_t i = 0; i < blocks; ++i) {
    Block& block = *e.slots[size_t(i & 1)];
    e.blocks[0] = &block;
    begin_block(block, e.schedule > 1 ? order[size_t(i)] : e.schedule == 1 ? blocks - 1 - i : i);
    run_blocks();
  }
}
}  // namespace detail

void set_schedule(int n) {
  if (n < 0) throw Error(fmt::format("set_schedule({}): 0 is ascending, 1 descending, n > 1 random", n));
  detail::schedule_setting = n;
}
int schedule() { return detail::schedule_setting; }

void set_max_resident_blocks(int n) {
  if (n < 1) throw Error(fmt::format("set_max_resident_blocks({}): at least 1", n));
  detail::resident_blocks = n;
}

void set_launch_guard(void (*enter)(), void (*leave)()) {
  detail::guard_enter = enter;
  detail::guard_leave = leave;
}

}  // namespace emulated
}  // namespace simt
