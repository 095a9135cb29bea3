// Attention of a step's rows over the caches of their sequences. Which rows there are, their caches and positions are read
// from the device's memory, so that a captured graph finds other ones there at each step. `served` lists rows; one without a
// cache among them is padding.

// A cache: [layers, 2, kv_heads, capacity, columns], keys before values.
template <typename T>
__device__ inline T *keys_of(i64 cache, i64 layer, i64 kv_heads, i64 capacity, i64 columns) {
    return reinterpret_cast<T *>(cache) + layer * 2 * kv_heads * capacity * columns;
}

// Stores a row's keys and values: one block for each row.
template <typename T>
__device__ void keep_row(i64 heads, i64 kv_heads, i64 columns, i64 layer, const T *qkv, i64 qkv_stride, const i64 *served,
                         const i64 *positions, const i64 *caches, const i64 *capacities) {
    const i64 row = served[blockIdx.x], capacity = capacities[row];
    if (!caches[row]) {
        return;
    }
    T *keys = keys_of<T>(caches[row], layer, kv_heads, capacity, columns);
    const T *from = qkv + row * qkv_stride + heads * columns;
    for (i64 i = threadIdx.x; i < 2 * kv_heads * columns; i += blockDim.x) {
        keys[(i / columns * capacity + positions[row]) * columns + i % columns] = from[i];
    }
}

__device__ inline float sum_of_warp(float value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

// A warp's work: one query head of a row, over keys [from, to). Lane l has the packs l, l + 32, … of a head's columns.
// part: the sums of values [columns], the greatest score, and the denominator for it.
template <int width, int packs, typename T>
__device__ void attend_part(i64 columns, const T *query, const T *keys, const T *values, i64 from, i64 to, float scale,
                            float cap, float *part) {
    constexpr int at_once = 4;
    const int lane = threadIdx.x % 32;
    float wanted[packs][width] = {}, sum[packs][width] = {};
    for (int p = 0; p < packs; ++p) {
        const i64 c = (p * 32 + lane) * width;
        if (c < columns) {
            const auto pack = load<T, width>(query + c);
            for (int i = 0; i < width; ++i) {
                wanted[p][i] = wide(pack.element[i]) * scale;
            }
        }
    }
    float most = -3.402823466e38f, total = 0.0f;
    for (i64 key = from; key < to; key += at_once) {
        float score[at_once], greatest = most;
        for (int k = 0; k < at_once; ++k) {
            float product = 0.0f;
            for (int p = 0; p < packs; ++p) {
                const i64 c = (p * 32 + lane) * width;
                if (c < columns && key + k < to) {
                    const auto pack = load<T, width>(keys + (key + k) * columns + c);
                    for (int i = 0; i < width; ++i) {
                        product += wanted[p][i] * wide(pack.element[i]);
                    }
                }
            }
            score[k] = sum_of_warp(product);
            if (cap > 0.0f) {
                score[k] = cap * tanhf(score[k] / cap);
            }
            if (key + k < to) {
                greatest = fmaxf(greatest, score[k]);
            }
        }
        const float shrink = expf(most - greatest);
        most = greatest;
        total *= shrink;
        for (int p = 0; p < packs; ++p) {
            for (int i = 0; i < width; ++i) {
                sum[p][i] *= shrink;
            }
        }
        for (int k = 0; k < at_once && key + k < to; ++k) {
            const float weight = expf(score[k] - most);
            total += weight;
            for (int p = 0; p < packs; ++p) {
                const i64 c = (p * 32 + lane) * width;
                if (c < columns) {
                    const auto pack = load<T, width>(values + (key + k) * columns + c);
                    for (int i = 0; i < width; ++i) {
                        sum[p][i] += weight * wide(pack.element[i]);
                    }
                }
            }
        }
    }
    for (int p = 0; p < packs; ++p) {
        const i64 c = (p * 32 + lane) * width;
        for (int i = 0; i < width && c < columns; ++i) {
            part[c + i] = sum[p][i];
        }
    }
    if (lane == 0) {
        part[columns] = most;
        part[columns + 1] = total;
    }
}

// Packs that a lane has of a head's columns, in the widest form that uses all lanes.
template <typename T>
__device__ void attend_any_width(i64 columns, const T *query, const T *keys, const T *values, i64 from, i64 to,
                                 float scale, float cap, float *part) {
    if (columns == 128) {
        attend_part<4, 1>(columns, query, keys, values, from, to, scale, cap, part);
    } else if (columns == 256) {
        attend_part<4, 2>(columns, query, keys, values, from, to, scale, cap, part);
    } else if (columns == 64) {
        attend_part<2, 1>(columns, query, keys, values, from, to, scale, cap, part);
    } else if (columns <= 96) {
        attend_part<1, 3>(columns, query, keys, values, from, to, scale, cap, part);
    } else {
        attend_part<1, 8>(columns, query, keys, values, from, to, scale, cap, part);
    }
}

// Blocks: a row and up to four of its query heads, one a warp; and parts of the keys, as many for a long context as for
// a short one, so that a row's sums do not depend on the other rows.
template <typename T>
__device__ void attend_rows(i64 heads, i64 kv_heads, i64 columns, i64 layer, const T *qkv, i64 qkv_stride,
                            const i64 *served, const i64 *positions, const i64 *caches, const i64 *capacities,
                            float scale, i64 window, float cap, float *parts) {
    const i64 groups = (heads + 3) / 4, place = blockIdx.x / groups, row = served[place];
    const i64 head = blockIdx.x % groups * 4 + threadIdx.x / 32;
    if (!caches[row] || head >= heads) {
        return;
    }
    const i64 end = positions[row] + 1, first = window > 0 && window < end ? end - window : 0;
    const i64 share = (end - first + gridDim.y - 1) / gridDim.y, from = first + blockIdx.y * share;
    const i64 to = from + share < end ? from + share : end;
    const T *keys = keys_of<T>(caches[row], layer, kv_heads, capacities[row], columns);
    const T *own = keys + head / (heads / kv_heads) * capacities[row] * columns;
    attend_any_width(columns, qkv + row * qkv_stride + head * columns, own,
                     own + kv_heads * capacities[row] * columns, from, to, scale, cap,
                     parts + ((place * heads + head) * gridDim.y + blockIdx.y) * (columns + 2));
}

// Joins the parts of a row and head: one block for each. A row without a cache gets zeros.
template <typename T>
__device__ void join_parts(i64 heads, i64 columns, i64 count, const float *parts, const i64 *served, const i64 *caches,
                           T *out, i64 out_stride) {
    const i64 row = served[blockIdx.x / heads], head = blockIdx.x % heads;
    const float *own = parts + blockIdx.x * count * (columns + 2);
    T *to = out + row * out_stride + head * columns;
    const bool is_there = caches[row];
    float most = -3.402823466e38f, total = 0.0f;
    for (i64 p = 0; is_there && p < count; ++p) {
        most = fmaxf(most, own[p * (columns + 2) + columns]);
    }
    for (i64 p = 0; is_there && p < count; ++p) {
        total += own[p * (columns + 2) + columns + 1] * expf(own[p * (columns + 2) + columns] - most);
    }
    for (i64 c = threadIdx.x; c < columns; c += blockDim.x) {
        float sum = 0.0f;
        for (i64 p = 0; is_there && p < count; ++p) {
            sum += own[p * (columns + 2) + c] * expf(own[p * (columns + 2) + columns] - most);
        }
        to[c] = narrow<T>(is_there ? sum / total : 0.0f);
    }
}

#define DEFINE(T, name)                                                                                                \
    extern "C" __global__ void keep_row_##name(i64 heads, i64 kv_heads, i64 columns, i64 layer, const T *qkv,          \
                                               i64 qkv_stride, const i64 *served, const i64 *positions,                \
                                               const i64 *caches, const i64 *capacities) {                             \
        keep_row(heads, kv_heads, columns, layer, qkv, qkv_stride, served, positions, caches, capacities);             \
    }                                                                                                                  \
    extern "C" __global__ void attend_rows_##name(i64 heads, i64 kv_heads, i64 columns, i64 layer, const T *qkv,       \
                                                  i64 qkv_stride, const i64 *served, const i64 *positions,             \
                                                  const i64 *caches, const i64 *capacities, float scale, i64 window,   \
                                                  float cap, float *parts) {                                           \
        attend_rows(heads, kv_heads, columns, layer, qkv, qkv_stride, served, positions, caches, capacities, scale,    \
                    window, cap, parts);                                                                               \
    }                                                                                                                  \
    extern "C" __global__ void join_parts_##name(i64 heads, i64 columns, i64 count, const float *parts,                \
                                                 const i64 *served, const i64 *caches, T *out, i64 out_stride) {       \
        join_parts(heads, columns, count, parts, served, caches, out, out_stride);                                     \
    }
DEFINE(float, float32)
DEFINE(bf16, bfloat16)
#undef DEFINE
