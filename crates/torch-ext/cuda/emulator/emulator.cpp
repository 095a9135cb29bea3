// The kernels of cuda/ on the processor: src/gpu/emulator.rs declares the one function.
#include "emulator.hpp"

namespace {
#include "../element.cu"
#include "../norm.cu"
#include "../rope.cu"
#include "../glu.cu"
#include "../cross_entropy.cu"
#include "../dropout.cu"
#include "../optimizer.cu"
#include "../cached_attention.cu"
#include "../lora_rows.cu"

struct EmulatedKernel {
    const char *name;
    void (*call)(const std::uint64_t *slots);
};

#define ONE(kernel) {#kernel, [](const std::uint64_t *slots) { emulated_call(kernel, slots); }}
#define BOTH(kernel) ONE(kernel##_float32), ONE(kernel##_bfloat16)
const EmulatedKernel emulated_kernels[] = {
    BOTH(rms_norm),      BOTH(rms_norm_backward), BOTH(rotate),   BOTH(gate),        BOTH(gate_backward),
    BOTH(cross_entropy), BOTH(dropout),           ONE(adamw),     BOTH(keep_row),    BOTH(attend_rows),
    BOTH(join_parts),    BOTH(lora_narrow),       BOTH(lora_widen),
};

} // namespace

// Runs a kernel to its end; 1 where there is none of that name, or a device would refuse the sizes. Not for two threads at
// once.
extern "C" int tunesmith_emulate(const char *name, unsigned grid_x, unsigned grid_y, unsigned block,
                                 const std::uint64_t *slots) {
    const bool is_possible = grid_y < 65536 && block <= 1024;
    for (const auto &kernel : emulated_kernels) {
        if (std::strcmp(kernel.name, name) != 0 || !is_possible) {
            continue;
        }
        gridDim = {grid_x, grid_y, 1};
        blockDim = {block, 1, 1};
        static EmulatedBlock threads;
        const std::function<void()> body = [&] { kernel.call(slots); };
        for (unsigned y = 0; y < grid_y; ++y) {
            for (unsigned x = 0; x < grid_x; ++x) {
                blockIdx = {x, y, 0};
                threads.run(block, body);
            }
        }
        return 0;
    }
    return 1;
}
