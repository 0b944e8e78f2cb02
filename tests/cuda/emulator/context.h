// Switching between fibres: ucontext, or where that counts (it enters the kernel twice a switch) a few instructions.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)

// Keeps on the stack what a function has to preserve; the stack pointer is then the whole context.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
  .text
  .type emulator_switch, @function
emulator_switch:
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
  .size emulator_switch, .-emulator_switch
)");

namespace emulator {

class Context {
 public:
  // `body` never returns.
  void start(void (*body)(), char* stack, size_t bytes) {
    auto* top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + bytes) / 16 * 16);
    *--top = nullptr;  // the return address of body, which is entered as if it had been called
    *--top = reinterpret_cast<void*>(body);
    pointer_ = top - 6;
  }
  static void change(Context& from, Context& to) { emulator_switch(&from.pointer_, to.pointer_); }

 private:
  void* pointer_ = nullptr;
};

}  // namespace emulator

#else

#include <ucontext.h>

namespace emulator {

class Context {
 public:
  void start(void (*body)(), char* stack, size_t bytes) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, body, 0);
  }
  static void change(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_;
};

}  // namespace emulator

#endif
