// Rotary position embedding in place, on the first `rotary` columns of each head: the pair (x[i], x[i + rotary / 2]) is
// turned by the angle of its token's position; `sign` -1 turns back, which is the gradient.
#pragma once

#include "element.hpp"

namespace {

// cosine and sine: [positions, rotary / 2].
template <typename T>
void rope(i64 rows, i64 heads, i64 head_columns, i64 rotary, T *x, i64 x_stride, const float *cosine,
          const float *sine, const i64 *positions, float sign) {
    const i64 half = rotary / 2;
    each(rows, heads * rotary * 3, [&](i64 row) {
        const float *cos = cosine + positions[row] * half;
        const float *sin = sine + positions[row] * half;
        for (i64 head = 0; head < heads; ++head) {
            T *first = x + row * x_stride + head * head_columns;
            T *second = first + half;
#pragma omp simd
            for (i64 c = 0; c < half; ++c) {
                const float a = wide(first[c]), b = wide(second[c]);
                const float turn = sign * sin[c];
                store(first + c, a * cos[c] - b * turn);
                store(second + c, b * cos[c] + a * turn);
            }
        }
    });
}

} // namespace
