// RMSNorm over groups of columns: y = x / sqrt(mean(x^2) + eps) * w.
#pragma once

#include "element.hpp"

namespace {

template <typename T> float inverse_root(const T *x, i64 columns, float epsilon) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (i64 c = 0; c < columns; ++c) {
        float value = wide(x[c]);
        sum += value * value;
    }
    return 1.0f / __builtin_sqrtf(sum / static_cast<float>(columns) + epsilon);
}

// A row holds `heads` groups of `columns` values; all groups have the same weight.
template <typename T>
void norm_forward(i64 rows, i64 heads, i64 columns, const T *x, i64 x_stride, const float *weight, float epsilon,
                  T *y, i64 y_stride) {
    each(rows, heads * columns * 4, [&](i64 row) {
        for (i64 head = 0; head < heads; ++head) {
            const T *from = x + row * x_stride + head * columns;
            T *to = y + row * y_stride + head * columns;
            const float root = inverse_root(from, columns, epsilon);
#pragma omp simd
            for (i64 c = 0; c < columns; ++c) {
                store(to + c, wide(from[c]) * root * weight[c]);
            }
        }
    });
}

// dx = r (g - x r^2 mean(g x)) with g = dy w and r the inverse root; added to `addend` where there is one. dx may be the
// same place as dy or addend.
template <typename T>
void norm_backward(i64 rows, i64 heads, i64 columns, const T *x, i64 x_stride, const float *weight, float epsilon,
                   const T *dy, i64 dy_stride, const T *addend, i64 addend_stride, T *dx, i64 dx_stride) {
    each(rows, heads * columns * 8, [&](i64 row) {
        for (i64 head = 0; head < heads; ++head) {
            const T *in = x + row * x_stride + head * columns;
            const T *gradient = dy + row * dy_stride + head * columns;
            const T *other = addend ? addend + row * addend_stride + head * columns : nullptr;
            T *out = dx + row * dx_stride + head * columns;
            const float root = inverse_root(in, columns, epsilon);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (i64 c = 0; c < columns; ++c) {
                sum += wide(gradient[c]) * weight[c] * wide(in[c]);
            }
            const float share = sum / static_cast<float>(columns) * root * root;
            if (other) {
#pragma omp simd
                for (i64 c = 0; c < columns; ++c) {
                    float value = root * (wide(gradient[c]) * weight[c] - wide(in[c]) * share);
                    store(out + c, wide(other[c]) + value);
                }
            } else {
#pragma omp simd
                for (i64 c = 0; c < columns; ++c) {
                    store(out + c, root * (wide(gradient[c]) * weight[c] - wide(in[c]) * share));
                }
            }
        }
    });
}

} // namespace
