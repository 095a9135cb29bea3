// Products of the rows of a step of inference with a weight. Each part of the weight is read from memory once for all rows
// of a step that only generates, and that is what takes the time; a prompt's many rows meet it in the cache.
#pragma once

#include "few_rows.hpp"
#include "many_rows.hpp"

namespace {

// What one task computes: as many outputs for all rows.
constexpr i64 outputs_per_task = 24;

// y[rows, outputs] = x[rows, inner] w[outputs, inner]^T + bias. x and y are packed.
template <typename T>
void serving_product(i64 rows, i64 inner, i64 outputs, const T *x, const T *w, const T *bias, T *y) {
    if (rows == 0) {
        return;
    }
    const bool is_few = are_few_rows<T>(rows, inner);
    const i64 slots = is_few ? 1 : rows_per_vector, groups = (rows + slots - 1) / slots;
    const i64 group_size = slots * interleaved<T>(whole_lines<T>(inner));
    Scratch scratch(groups * group_size + 1);
    float *interleaved = scratch.take(groups * group_size);
    each(groups, 4 * group_size, [&](i64 group) {
        const i64 first = group * slots;
        interleave(smaller(slots, rows - first), slots, inner, x + first * inner, interleaved + group * group_size);
    });
    const auto compute = [&](i64 task) {
        const i64 first = task * outputs_per_task, width = smaller(outputs_per_task, outputs - first);
        const auto product = is_few ? few_rows_product<T> : many_rows_product<T>;
        product(rows, inner, width, interleaved, w + first * inner, bias ? bias + first : nullptr, y + first, outputs);
    };
    const i64 tasks = (outputs + outputs_per_task - 1) / outputs_per_task;
    if (rows > vectors_per_block * rows_per_vector) {
        each_in_turn(tasks, compute);
    } else {
        // One long run of the weight for each thread, which memory likes best.
        each(tasks, outputs_per_task * inner, compute);
    }
}

} // namespace
