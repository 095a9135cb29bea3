// Dropout whose mask is a function of a key and the element's place alone (SplitMix64's finaliser), as on the CPU.

__device__ inline u64 mix(u64 value) {
    value += 0x9e3779b97f4a7c15ull;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31);
}

template <typename T>
__device__ void dropout(i64 columns, const T *x, i64 x_stride, T *y, i64 y_stride, u64 stream, i64 threshold,
                        float kept, bool accumulate) {
    const i64 row = blockIdx.x;
    x += row * x_stride;
    y += row * y_stride;
    const i64 step = static_cast<i64>(gridDim.y) * blockDim.x;
    for (i64 c = static_cast<i64>(blockIdx.y) * blockDim.x + threadIdx.x; c < columns; c += step) {
        const u64 bits = mix(static_cast<u64>(row * columns + c) ^ stream) >> 33;
        const float value = static_cast<i64>(bits) >= threshold ? wide(x[c]) * kept : 0.0f;
        y[c] = narrow<T>(accumulate ? wide(y[c]) + value : value);
    }
}

#define DEFINE(T, name)                                                                                                \
    extern "C" __global__ void dropout_##name(i64 columns, const T *x, i64 x_stride, T *y, i64 y_stride, u64 stream,   \
                                              i64 threshold, float kept, int accumulate) {                             \
        dropout(columns, x, x_stride, y, y_stride, stream, threshold, kept, accumulate);                               \
    }
DEFINE(float, float32)
DEFINE(bf16, bfloat16)
#undef DEFINE
