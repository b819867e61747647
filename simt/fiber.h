// fiber: stacks that CUDA threads run on, one OS thread switching between them, and what the sanitizers must be told about it.
// Used by the executor (simt.cpp) only.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>
#if defined(SIMT_UCONTEXT) || !defined(__x86_64__) || !defined(__ELF__)
#define SIMT_UCONTEXT 1
#include <ucontext.h>
#endif

extern "C" {
// ThreadSanitizer's. Weak: null unless the program is linked with -fsanitize=thread.
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
}

namespace simt::fiber {

struct Stack {
  char* low = nullptr;  // the lowest usable byte; below lies a guard that nothing may touch
  size_t bytes = 0;
#if defined(SIMT_UCONTEXT)
  ucontext_t context{};
#else
  void* sp = nullptr;
#endif
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;
  unsigned tsan_number = ~0u;
  Stack* next_idle = nullptr;
};

// Leaves `from`, which is running, and continues `to` where it left off, or at its entry. Returns when someone switches back.
void switch_stack(Stack& from, Stack& to);
// The first thing that an entry function calls.
void arrive();

// The stack that the launch was made from.
extern Stack host;
// The calling OS thread is the host from now on.
void adopt_host();

// Stacks are kept for the next launch, with whatever their entry function was doing.
class Stacks {
 public:
  explicit Stacks(void (*entry)()) : entry_(entry) {}  // `entry` must not return
  Stack& take();                                       // an idle one, or a new one
  void give_back(Stack& stack) {
    stack.next_idle = idle_;
    idle_ = &stack;
  }
  // Under TSan, instead: stack n, which reports will call "CUDA thread <number>". It must have been created before, by the host, because a new fiber is
  // ordered after its creator. Throws simt::Error where there is no memory.
  void create_up_to(size_t count);
  Stack& of_thread(size_t n, unsigned number);
  // Unmaps all: after a failed launch they hold half-run threads.
  void drop();

 private:
  Stack& create();
  void (*entry_)();
  std::vector<std::unique_ptr<Stack>> all_;
  Stack* idle_ = nullptr;
};

// ThreadSanitizer. A fiber counts as a thread of its own, and only the following two order fibers: what one did before its release(word) happens before
// what another does after its acquire(word). Nothing without -fsanitize=thread.
inline bool under_tsan() { return __tsan_create_fiber != nullptr; }
inline void release(void* word) {
  if (under_tsan()) __tsan_release(word);
}
inline void acquire(void* word) {
  if (under_tsan()) __tsan_acquire(word);
}

// AddressSanitizer: reports accesses to poisoned memory. Nothing without -fsanitize=address.
void poison(void* from, size_t bytes);
void unpoison(void* from, size_t bytes);

// Sets all bits, without any sanitizer taking it for an access by the running fiber.
void fill_undefined(void* to, size_t bytes);

}  // namespace simt::fiber
