// Products of the rows of a step of inference with a weight. Each part of the weight is read from memory once for all rows
// of a step that only generates, and that is what takes the time.
#pragma once

#include "dots.hpp"

namespace {

// What one task computes: as many outputs for all rows.
constexpr i64 outputs_per_task = 24;
// Rows that pass over a task's weights together.
constexpr i64 rows_per_block = 16;

// sums[r, n] = x[r, :] · w[n, :] for at most `rows_per_block` rows and `outputs_per_task` outputs.
template <typename T>
void block_product(i64 rows, i64 inner, i64 outputs, const float *x, const T *w, float *sums) {
    by_outputs(outputs, [&](auto some_outputs, i64 n) {
        // The processor's own guesses end with a row of the weight. How far to look ahead was found by measuring.
        const i64 ahead = 2 * some_outputs.value * inner / parts<T>;
        by_rows(rows, [&](auto some_rows, i64 r) {
            float *place = sums + r * outputs_per_task + n;
            const float *values = x + r * inner;
            if (r == 0) {
                dots<true, some_rows.value, some_outputs.value>(inner, values, inner, w + n * inner, inner, ahead, place,
                                                                outputs_per_task);
            } else {
                dots<false, some_rows.value, some_outputs.value>(inner, values, inner, w + n * inner, inner, 0, place,
                                                                 outputs_per_task);
            }
        });
    });
}

// y[rows, outputs] = x[rows, inner] w[outputs, inner]^T + bias. x and y are packed.
template <typename T>
void serving_product(i64 rows, i64 inner, i64 outputs, const T *x, const T *w, const T *bias, T *y) {
    Scratch scratch(rows * inner + 1);
    const float *plain = arranged(rows, inner, x, scratch);
    const i64 tasks = (outputs + outputs_per_task - 1) / outputs_per_task;
    each(tasks, outputs_per_task * inner, [&](i64 task) {
        const i64 first = task * outputs_per_task, width = smaller(outputs_per_task, outputs - first);
        float sums[rows_per_block * outputs_per_task];
        // Rows beyond the first block are another round over weights that are near by then.
        for (i64 row = 0; row < rows; row += rows_per_block) {
            const i64 some = smaller(rows_per_block, rows - row);
            block_product(some, inner, width, plain + row * inner, w + first * inner, sums);
            for (i64 r = 0; r < some; ++r) {
                for (i64 n = 0; n < width; ++n) {
                    const float added = bias ? wide(bias[first + n]) : 0.0f;
                    store(y + (row + r) * outputs + first + n, sums[r * outputs_per_task + n] + added);
                }
            }
        }
    });
}

} // namespace
