// AdamW with decoupled decay, as torch.optim.AdamW, in one pass over flat buffers.
#pragma once

#include "element.hpp"

namespace {

// gradient is scaled by `share` (clipping) first. correction1 = 1 - beta1^t, correction2 = sqrt(1 - beta2^t).
void adamw(i64 count, float *parameters, const float *gradients, float *first, float *second, float share,
           float rate, float decay, float beta1, float beta2, float epsilon, float correction1, float correction2) {
    const i64 block = 4096;
    const float kept = 1.0f - rate * decay;
    const float step = rate / correction1;
    each((count + block - 1) / block, block * 8, [&](i64 number) {
        const i64 end = smaller(count, (number + 1) * block);
#pragma omp simd
        for (i64 i = number * block; i < end; ++i) {
            const float gradient = gradients[i] * share;
            const float m = beta1 * first[i] + (1.0f - beta1) * gradient;
            const float v = beta2 * second[i] + (1.0f - beta2) * gradient * gradient;
            first[i] = m;
            second[i] = v;
            parameters[i] = parameters[i] * kept - step * m / (__builtin_sqrtf(v) / correction2 + epsilon);
        }
    });
}

} // namespace
