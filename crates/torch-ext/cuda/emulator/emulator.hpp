// CUDA C on the processor: a block's threads are coroutines that take turns between points where they wait for each
// other, and blocks run one after the other. For tests of the kernels on machines without a GPU. It shows what they compute,
// and stops where threads that must meet do not; not how fast they are, nor races, nor memory of a block that is read before
// it is written.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

struct EmulatedIndex {
    unsigned x, y, z;
};
static EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

#define __device__
#define __global__
#define __shared__ static

class EmulatedBlock {
  public:
    void run(unsigned threads, const std::function<void()> &body) {
        kernel = &body;
        running = this;
        while (all.size() < threads) {
            all.push_back(std::make_unique<Thread>());
        }
        for (unsigned i = 0; i < threads; ++i) {
            all[i]->start(&back);
        }
        bool is_left = true;
        while (is_left) {
            is_left = false;
            bool has_moved = false;
            for (unsigned i = 0; i < threads; ++i) {
                Thread &thread = *all[i];
                if (thread.has_ended) {
                    continue;
                }
                is_left = true;
                if (!thread.waits_for_block) {
                    has_moved = true;
                    turn(i);
                }
            }
            if (is_left && !has_moved) {
                // All have met.
                for (unsigned i = 0; i < threads; ++i) {
                    expect(!all[i]->has_ended, "a thread left before the others met");
                    all[i]->waits_for_block = false;
                }
            }
        }
    }

    void meet_block() {
        all[current]->waits_for_block = true;
        yield();
    }

    // Lanes of a warp reach the same exchanges in the same order, one in each round; two slots in turns, since a lane may
    // be one exchange ahead of its neighbour.
    template <typename T> T exchange(T value, unsigned other) {
        static_assert(sizeof(T) <= sizeof(std::uint64_t));
        const unsigned number = all[current]->exchanges++, slot = number % 2;
        std::memcpy(&all[current]->slots[slot], &value, sizeof value);
        yield();
        const unsigned theirs = all[other]->exchanges;
        expect(theirs == number + 1 || theirs == number + 2, "lanes of a warp are at other exchanges");
        T received;
        std::memcpy(&received, &all[other]->slots[slot], sizeof received);
        return received;
    }

    static EmulatedBlock *running;

  private:
    static constexpr std::size_t stack_size = 64 << 10;

    struct Thread {
        ucontext_t context;
        std::unique_ptr<char[]> stack{new char[stack_size]};
        std::uint64_t slots[2];
        unsigned exchanges;
        bool has_ended, waits_for_block;

        void start(ucontext_t *back) {
            exchanges = 0;
            has_ended = waits_for_block = false;
            getcontext(&context);
            context.uc_stack.ss_sp = stack.get();
            context.uc_stack.ss_size = stack_size;
            context.uc_link = back;
            makecontext(&context, &EmulatedBlock::enter, 0);
        }
    };

    static void expect(bool holds, const char *otherwise) {
        if (!holds) {
            std::fprintf(stderr, "emulated kernel: %s\n", otherwise);
            std::abort();
        }
    }

    static void enter() {
        (*running->kernel)();
        running->all[running->current]->has_ended = true;
    }
    void turn(unsigned number) {
        current = number;
        threadIdx = {number, 0, 0};
        swapcontext(&back, &all[number]->context);
    }
    void yield() { swapcontext(&all[current]->context, &back); }

    std::vector<std::unique_ptr<Thread>> all;
    const std::function<void()> *kernel = nullptr;
    ucontext_t back;
    unsigned current = 0;
};
inline EmulatedBlock *EmulatedBlock::running = nullptr;

inline void __syncthreads() { EmulatedBlock::running->meet_block(); }
template <typename T> T __shfl_xor_sync(unsigned, T value, int distance) {
    return EmulatedBlock::running->exchange(value, threadIdx.x ^ static_cast<unsigned>(distance));
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Calls a kernel with arguments that lie in the low bytes of 64-bit slots, as the driver takes them.
template <typename T> T emulated_argument(const std::uint64_t &slot) {
    T value;
    std::memcpy(&value, &slot, sizeof value);
    return value;
}
template <typename... A, std::size_t... I>
void call_from_slots(void (*kernel)(A...), const std::uint64_t *slots, std::index_sequence<I...>) {
    kernel(emulated_argument<A>(slots[I])...);
}
template <typename... A> void emulated_call(void (*kernel)(A...), const std::uint64_t *slots) {
    call_from_slots(kernel, slots, std::index_sequence_for<A...>{});
}
