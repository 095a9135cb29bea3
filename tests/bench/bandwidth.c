// Reads memory and does nothing else with it: what one thread can fetch at most.
#include <stddef.h>
#include <stdint.h>

typedef uint64_t wide __attribute__((vector_size(64), aligned(64)));

uint64_t read_memory(const wide *memory, size_t count) {
    wide sums[4] = {{0}};
    for (size_t i = 0; i + 4 <= count; i += 4)
        for (size_t j = 0; j < 4; j++) sums[j] |= memory[i + j];
    wide sum = sums[0] | sums[1] | sums[2] | sums[3];
    uint64_t folded = 0;
    for (size_t j = 0; j < 8; j++) folded |= sum[j];
    return folded;
}
