// What adapters add to the products of a step of inference, all adapters and modules of a product in one call.
#pragma once

#include "dots.hpp"

namespace {

// One adapter's part in one module, for rows that lie together: y[r, columns] += scale (x[r] a^T) b.
struct LoraRows {
    i64 first_row, rows, rank, first_column, columns;
    const void *a; // [rank, inner]
    const void *b; // [rank, columns]
    float scale;
};

constexpr i64 columns_per_task = 256;

// sums[columns] += factors[:count] b[:count, columns]
template <int count, typename T>
inline void widen_some(i64 columns, const float *factors, const T *b, i64 b_row, float *sums) {
    float factor[count];
    for (int j = 0; j < count; ++j) {
        factor[j] = factors[j];
    }
    i64 c = 0;
    for (; c + lanes <= columns; c += lanes) {
        vector sum = load(sums + c);
        for (int j = 0; j < count; ++j) {
            sum += factor[j] * load(b + j * b_row + c);
        }
        *reinterpret_cast<vector *>(sums + c) = sum;
    }
    if (c < columns) {
        vector sum = load_some(sums + c, columns - c);
        for (int j = 0; j < count; ++j) {
            sum += factor[j] * load_some(b + j * b_row + c, columns - c);
        }
        for (i64 rest = 0; c + rest < columns; ++rest) {
            sums[c + rest] = sum[rest];
        }
    }
}

// sums[columns] = factors[rank] b[rank, columns]. A few rows of b at a time, along their columns: they come from memory,
// which is fastest where it is read in long runs.
template <typename T>
inline void widen_row(i64 columns, i64 rank, const float *factors, const T *b, i64 b_row, float *sums) {
    clear(sums, 0, columns);
    by_rows(rank, [&](auto some, i64 j) {
        widen_some<some.value>(columns, factors + j, b + j * b_row, b_row, sums);
    });
}

// y: [rows, y_row], x: [rows, inner] packed.
template <typename T>
void lora_rows_add(i64 count, const LoraRows *parts, i64 rows, i64 inner, const T *x, T *y, i64 y_row) {
    i64 narrow_size = 0, rank_tasks = 0, column_tasks = 0, work = 0;
    Scratch places(4 * count + 4);
    i64 *offset = reinterpret_cast<i64 *>(places.take(2 * (count + 1)));
    for (i64 p = 0; p < count; ++p) {
        offset[p] = narrow_size;
        narrow_size += parts[p].rows * parts[p].rank;
        rank_tasks = parts[p].rank > rank_tasks ? parts[p].rank : rank_tasks;
        column_tasks = parts[p].columns > column_tasks ? parts[p].columns : column_tasks;
        work += parts[p].rows * parts[p].rank * (inner + parts[p].columns);
    }
    constexpr i64 ranks_per_task = 8;
    rank_tasks = (rank_tasks + ranks_per_task - 1) / ranks_per_task;
    column_tasks = (column_tasks + columns_per_task - 1) / columns_per_task;
    Scratch scratch(narrow_size + rows * inner + 2);
    float *narrow = scratch.take(narrow_size);
    const float *plain = arranged(rows, inner, x, scratch);
    const bool parallel = work > 32768;
#pragma omp parallel if (parallel)
    {
#pragma omp for schedule(static)
        for (i64 task = 0; task < count * rank_tasks; ++task) {
            const LoraRows &part = parts[task / rank_tasks];
            const i64 first = task % rank_tasks * ranks_per_task;
            const i64 last = smaller(part.rank, first + ranks_per_task);
            for (i64 r = 0; r < part.rows && first < last; r += 4) {
                const i64 some = smaller(4, part.rows - r);
                float sums[4 * ranks_per_task];
                dots_of_rows(some, last - first, inner, plain + (part.first_row + r) * inner, inner,
                             static_cast<const T *>(part.a) + first * inner, inner, sums, last - first);
                float *to = narrow + offset[task / rank_tasks] + r * part.rank;
                for (i64 s = 0; s < some; ++s) {
                    for (i64 j = first; j < last; ++j) {
                        to[s * part.rank + j] = part.scale * sums[s * (last - first) + j - first];
                    }
                }
            }
        }
#pragma omp for schedule(static)
        for (i64 task = 0; task < count * column_tasks; ++task) {
            const LoraRows &part = parts[task / column_tasks];
            const i64 first = task % column_tasks * columns_per_task;
            const i64 last = smaller(part.columns, first + columns_per_task);
            const T *b = static_cast<const T *>(part.b) + first;
            for (i64 r = 0; r < part.rows; ++r) {
                const float *factors = narrow + offset[task / column_tasks] + r * part.rank;
                float sums[columns_per_task];
                widen_row(last - first, part.rank, factors, b, part.columns, sums);
                T *to = y + (part.first_row + r) * y_row + part.first_column + first;
                for (i64 c = 0; c < last - first; ++c) {
                    store(to + c, wide(to[c]) + sums[c]);
                }
            }
        }
    }
}

} // namespace
