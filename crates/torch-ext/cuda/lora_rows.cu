// What adapters add to a product of few rows, y += s (x Aᵀ) Bᵀ, each row on its own adapter or none. A row's adapter is
// read from the device's memory, so that a captured graph finds other ones there at each step.

// One module of an adapter; rank 0 where it is not adapted. src/kernels/step_table.rs writes these.
template <typename T> struct LoraPair {
    const T *a; // [rank, inner]
    const T *b; // [rank, columns]
    i64 rank;
    i64 first_column;
    i64 columns;
    float scale;
};

template <int width, typename T> __device__ float dot_of_warp(i64 inner, const T *left, const T *right) {
    float sum = 0.0f;
    for (i64 c = threadIdx.x % 32 * width; c < inner; c += 32 * width) {
        const auto one = load<T, width>(left + c), other = load<T, width>(right + c);
        for (int i = 0; i < width; ++i) {
            sum += wide(one.element[i]) * wide(other.element[i]);
        }
    }
    return sum_of_warp(sum);
}

// s (x Aᵀ): blocks are a row and module, and four places of the rank, one a warp. narrowed: [rows, modules, ranks].
template <typename T>
__device__ void lora_narrow(i64 inner, i64 modules, i64 site, i64 ranks, const T *x, i64 x_stride,
                            const i64 *adapters, float *narrowed) {
    const i64 row = blockIdx.x / modules, place = blockIdx.y * 4 + threadIdx.x / 32;
    if (!adapters[row]) {
        return;
    }
    const auto pair = reinterpret_cast<const LoraPair<T> *>(adapters[row])[site + blockIdx.x % modules];
    if (place >= pair.rank) {
        return;
    }
    x += row * x_stride;
    const T *a = pair.a + place * inner;
    const float dot = aligned(x, inner) && aligned(a, inner) ? dot_of_warp<full<T>>(inner, x, a)
                                                             : dot_of_warp<1>(inner, x, a);
    if (threadIdx.x % 32 == 0) {
        narrowed[blockIdx.x * ranks + place] = pair.scale * dot;
    }
}

// y += narrowed Bᵀ: blocks are a row and module, and a part of the columns, one a thread.
template <typename T>
__device__ void lora_widen(i64 modules, i64 site, i64 ranks, const float *narrowed, const i64 *adapters, T *y,
                           i64 y_stride) {
    const i64 row = blockIdx.x / modules, c = static_cast<i64>(blockIdx.y) * blockDim.x + threadIdx.x;
    if (!adapters[row]) {
        return;
    }
    const auto pair = reinterpret_cast<const LoraPair<T> *>(adapters[row])[site + blockIdx.x % modules];
    if (c >= pair.columns || pair.rank == 0) {
        return;
    }
    float sum = 0.0f;
    for (i64 r = 0; r < pair.rank; ++r) {
        sum += narrowed[blockIdx.x * ranks + r] * wide(pair.b[r * pair.columns + c]);
    }
    T *place = y + row * y_stride + pair.first_column + c;
    *place = narrow<T>(wide(*place) + sum);
}

#define DEFINE(T, name)                                                                                                \
    extern "C" __global__ void lora_narrow_##name(i64 inner, i64 modules, i64 site, i64 ranks, const T *x,             \
                                                  i64 x_stride, const i64 *adapters, float *narrowed) {                \
        lora_narrow(inner, modules, site, ranks, x, x_stride, adapters, narrowed);                                     \
    }                                                                                                                  \
    extern "C" __global__ void lora_widen_##name(i64 modules, i64 site, i64 ranks, const float *narrowed,              \
                                                 const i64 *adapters, T *y, i64 y_stride) {                            \
        lora_widen(modules, site, ranks, narrowed, adapters, y, y_stride);                                             \
    }
DEFINE(float, float32)
DEFINE(bf16, bfloat16)
#undef DEFINE
