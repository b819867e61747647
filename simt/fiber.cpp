#include "simt/fiber.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstring>

#include "simt/simt.h"

#if defined(SIMT_TSAN)
#error "compile simt.cpp and fiber.cpp with -fno-sanitize=thread (see simt.cpp)"
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

extern "C" {
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_set_fiber_name(void* fiber, const char* name);
}

namespace simt::fiber {
namespace {
#if defined(SIMT_ASAN)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
// CUDA allows a thread at most 512 KiB of local memory, so no legal frame can jump over a guard of twice that.
constexpr size_t kGuardBytes = 1 << 20;

constexpr unsigned kNoSync = 1;  // changing fibers orders nothing

bool entering_from_host = false;

// First thing after every switch: `here` is running again, or for the first time.
void arrived([[maybe_unused]] Stack* here) {
#if defined(SIMT_ASAN)
  const void* low = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(here ? here->asan_fake_stack : nullptr, &low, &bytes);
  if (entering_from_host) {  // the only way to learn the host's bounds that costs nothing
    host.low = static_cast<char*>(const_cast<void*>(low));
    host.bytes = bytes;
  }
#endif
  entering_from_host = false;
}
}  // namespace

Stack host;
void adopt_host() {
  if (under_tsan()) host.tsan_fiber = __tsan_get_current_fiber();
}

#if !defined(SIMT_UCONTEXT)
// Own switching because swapcontext makes a system call (7 ns against 231 ns a switch on an x86-64 virtual machine).
// System V x86-64: a call preserves rbx, rbp, r12-r15 and the stack pointer. The floating-point control words are deliberately left alone, so that fibers
// run with the caller's rounding mode. A new stack starts in simt_first_frame with its entry function in r12; debuggers find the end of the backtrace there.
asm(R"(
.text
.p2align 4
.type simt_switch_stack,@function
simt_switch_stack:
  .cfi_startproc
  pushq %rbp
  .cfi_adjust_cfa_offset 8
  pushq %rbx
  .cfi_adjust_cfa_offset 8
  pushq %r12
  .cfi_adjust_cfa_offset 8
  pushq %r13
  .cfi_adjust_cfa_offset 8
  pushq %r14
  .cfi_adjust_cfa_offset 8
  pushq %r15
  .cfi_adjust_cfa_offset 8
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  .cfi_adjust_cfa_offset -8
  popq %r14
  .cfi_adjust_cfa_offset -8
  popq %r13
  .cfi_adjust_cfa_offset -8
  popq %r12
  .cfi_adjust_cfa_offset -8
  popq %rbx
  .cfi_adjust_cfa_offset -8
  popq %rbp
  .cfi_adjust_cfa_offset -8
  ret
  .cfi_endproc
.size simt_switch_stack,.-simt_switch_stack

.p2align 4
.type simt_first_frame,@function
.globl simt_first_frame
simt_first_frame:
  .cfi_startproc
  .cfi_undefined rip
  xorl %ebp, %ebp
  call *%r12
  ud2
  .cfi_endproc
.size simt_first_frame,.-simt_first_frame
)");
;
extern "C" void simt_switch_stack(void** save_sp, void* to_sp);
extern "C" void simt_first_frame();
#endif

void switch_stack(Stack& from, Stack& to) {
  if (&from == &host) entering_from_host = true;
#if defined(SIMT_ASAN)
  __sanitizer_start_switch_fiber(&from.asan_fake_stack, to.low, to.bytes);
#endif
  if (under_tsan()) __tsan_switch_to_fiber(to.tsan_fiber, kNoSync);
#if defined(SIMT_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  simt_switch_stack(&from.sp, to.sp);
#endif
  arrived(&from);
}

void arrive() { arrived(nullptr); }

Stack& Stacks::take() {
  Stack* stack = idle_;
  if (!stack) return create();
  idle_ = stack->next_idle;
  return *stack;
}

void Stacks::create_up_to(size_t count) {
  while (all_.size() < count) create();
}

Stack& Stacks::of_thread(size_t n, unsigned number) {
  Stack& stack = *all_[n];
  if (stack.tsan_number != number) {
    __tsan_set_fiber_name(stack.tsan_fiber, fmt::format("CUDA thread {}", number).c_str());
    stack.tsan_number = number;
  }
  return stack;
}

Stack& Stacks::create() {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  auto stack = std::make_unique<Stack>();
  stack->low = static_cast<char*>(memory) + kGuardBytes;
  stack->bytes = kStackBytes;
  if (memory == MAP_FAILED || mprotect(stack->low, kStackBytes, PROT_READ | PROT_WRITE) != 0)
    throw Error(fmt::format("no memory for the stack of one more CUDA thread; {} exist", all_.size()));
#if defined(SIMT_UCONTEXT)
  getcontext(&stack->context);
  stack->context.uc_stack.ss_sp = stack->low;
  stack->context.uc_stack.ss_size = stack->bytes;
  makecontext(&stack->context, entry_, 0);
#else
  // Tops differ in their low bits: stacks that are all alike would compete for the same few cache sets.
  void** top = reinterpret_cast<void**>(stack->low + stack->bytes - all_.size() % 32 * 128);
  top -= 2;  // stays a multiple of 16 bytes, as simt_first_frame expects
  *--top = reinterpret_cast<void*>(simt_first_frame);
  top -= 6;  // the registers that the first switch pops
  top[3] = reinterpret_cast<void*>(entry_);
  stack->sp = top;
#endif
  if (under_tsan()) stack->tsan_fiber = __tsan_create_fiber(0);
  all_.push_back(std::move(stack));
  return *all_.back();
}

void Stacks::drop() {
  for (auto& stack : all_) {
    unpoison(stack->low, stack->bytes);  // the frames that were left standing
    if (stack->tsan_fiber) {
      // What the half-run thread did happens before whatever the host does next: step into its shoes and back out, this time with synchronization.
      __tsan_switch_to_fiber(stack->tsan_fiber, kNoSync);
      __tsan_switch_to_fiber(host.tsan_fiber, 0);
      __tsan_destroy_fiber(stack->tsan_fiber);
    }
    munmap(stack->low - kGuardBytes, kGuardBytes + kStackBytes);
  }
  all_.clear();
  idle_ = nullptr;
}

#if defined(SIMT_ASAN)
void poison(void* from, size_t bytes) { __asan_poison_memory_region(from, bytes); }
void unpoison(void* from, size_t bytes) { __asan_unpoison_memory_region(from, bytes); }
#else
void poison(void*, size_t) {}
void unpoison(void*, size_t) {}
#endif

void fill_undefined(void* to, size_t bytes) {
  if (!under_tsan()) {
    std::memset(to, 0xff, bytes);
    return;
  }
  for (size_t i = 0; i < bytes; ++i) {  // TSan intercepts memset, wherever it is called from
    static_cast<unsigned char*>(to)[i] = 0xff;
    asm volatile("" ::: "memory");  // keeps the compiler from making a memset of this loop
  }
}

}  // namespace simt::fiber
