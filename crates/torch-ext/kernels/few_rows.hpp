// Products of few rows with a wide weight, as inference makes them for every token: the weight is read from memory once
// for all rows, and that is what takes the time.
#pragma once

#include "element.hpp"

namespace {

// sums[r, n] = x[r, :] · w[n, :]. Each sum is made in the same order whatever the numbers of rows and outputs, so that a
// row's result does not depend on who is beside it.
template <int rows, int outputs, typename T>
inline void dots(i64 inner, const float *x, const T *w, float *sums, i64 sums_row) {
    vector partial[rows][outputs] = {};
    i64 k = 0;
    for (; k + lanes <= inner; k += lanes) {
        vector weights[outputs];
        for (int n = 0; n < outputs; ++n) {
            weights[n] = load(w + n * inner + k);
        }
        for (int r = 0; r < rows; ++r) {
            const vector values = load(x + r * inner + k);
            for (int n = 0; n < outputs; ++n) {
                partial[r][n] += values * weights[n];
            }
        }
    }
    for (int r = 0; r < rows; ++r) {
        for (int n = 0; n < outputs; ++n) {
            float total = sum(partial[r][n]);
            for (i64 rest = k; rest < inner; ++rest) {
                total += x[r * inner + rest] * wide(w[n * inner + rest]);
            }
            sums[r * sums_row + n] = total;
        }
    }
}

// The same for any number of rows; `outputs` rows of the weight stay in the fastest cache meanwhile.
template <int outputs, typename T>
inline void dots_of_rows(i64 rows, i64 inner, const float *x, const T *w, float *sums, i64 sums_row) {
    i64 r = 0;
    for (; r + 4 <= rows; r += 4) {
        dots<4, outputs>(inner, x + r * inner, w, sums + r * sums_row, sums_row);
    }
    const float *rest = x + r * inner;
    float *place = sums + r * sums_row;
    switch (rows - r) {
    case 3: dots<3, outputs>(inner, rest, w, place, sums_row); break;
    case 2: dots<2, outputs>(inner, rest, w, place, sums_row); break;
    case 1: dots<1, outputs>(inner, rest, w, place, sums_row); break;
    default: break;
    }
}

constexpr i64 output_block = 3;

// Outputs [first, last) for all rows, into sums[rows, last - first].
template <typename T>
inline void dots_of_range(i64 rows, i64 inner, const float *x, const T *w, i64 first, i64 last, float *sums) {
    const i64 width = last - first;
    i64 n = first;
    for (; n + output_block <= last; n += output_block) {
        dots_of_rows<output_block>(rows, inner, x, w + n * inner, sums + n - first, width);
    }
    for (; n < last; ++n) {
        dots_of_rows<1>(rows, inner, x, w + n * inner, sums + n - first, width);
    }
}

// float32 rows end to end: `x` itself where it is that already.
inline const float *plain_rows(i64, i64, const float *x, i64, Scratch &) { return x; }

inline const float *plain_rows(i64 rows, i64 columns, const bf16 *x, i64 x_row, Scratch &scratch) {
    float *copy = scratch.take(rows * columns);
    for (i64 r = 0; r < rows; ++r) {
        for (i64 c = 0; c < columns; ++c) {
            copy[r * columns + c] = wide(x[r * x_row + c]);
        }
    }
    return copy;
}

constexpr i64 outputs_per_task = 24;

// y[rows, outputs] = x[rows, inner] w[outputs, inner]^T + bias. x and y are packed.
template <typename T>
void few_rows_product(i64 rows, i64 inner, i64 outputs, const T *x, const T *w, const T *bias, T *y) {
    Scratch scratch(rows * inner + 1);
    const float *plain = plain_rows(rows, inner, x, inner, scratch);
    const i64 tasks = (outputs + outputs_per_task - 1) / outputs_per_task;
    each(tasks, outputs_per_task * inner, [&](i64 task) {
        const i64 first = task * outputs_per_task, last = smaller(outputs, first + outputs_per_task);
        float sums[64 * outputs_per_task];
        // Rows beyond what the stack holds are another round over a weight that is in the cache by then.
        for (i64 row = 0; row < rows; row += 64) {
            const i64 some = smaller(64, rows - row);
            dots_of_range(some, inner, plain + row * inner, w, first, last, sums);
            for (i64 r = 0; r < some; ++r) {
                for (i64 n = first; n < last; ++n) {
                    const float added = bias ? wide(bias[n]) : 0.0f;
                    store(y + (row + r) * outputs + n, sums[r * (last - first) + n - first] + added);
                }
            }
        }
    });
}

// One adapter's part in one module, for rows that lie together: y[r, columns] += scale (x[r] a^T) b.
struct LoraRows {
    i64 first_row, rows, rank, first_column, columns;
    const void *a; // [rank, inner]
    const void *b; // [rank, columns]
    float scale;
};

constexpr i64 columns_per_task = 256;

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
    const float *plain = plain_rows(rows, inner, x, inner, scratch);
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
                dots_of_range(some, inner, plain + (part.first_row + r) * inner, static_cast<const T *>(part.a), first,
                              last, sums);
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
            const T *b = static_cast<const T *>(part.b);
            for (i64 r = 0; r < part.rows; ++r) {
                const float *factors = narrow + offset[task / column_tasks] + r * part.rank;
                T *to = y + (part.first_row + r) * y_row + part.first_column;
                i64 c = first;
                for (; c + lanes <= last; c += lanes) {
                    vector added = {};
                    for (i64 j = 0; j < part.rank; ++j) {
                        added += factors[j] * load(b + j * part.columns + c);
                    }
                    for (int lane = 0; lane < lanes; ++lane) {
                        store(to + c + lane, wide(to[c + lane]) + added[lane]);
                    }
                }
                for (; c < last; ++c) {
                    float added = 0.0f;
                    for (i64 j = 0; j < part.rank; ++j) {
                        added += factors[j] * wide(b[j * part.columns + c]);
                    }
                    store(to + c, wide(to[c]) + added);
                }
            }
        }
    }
}

} // namespace
