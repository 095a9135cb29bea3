// Rotary position embedding in place: one block for each row. `sign` -1 turns back, which is the gradient.

template <typename T>
__device__ void rotate(i64 heads, i64 head_columns, i64 half, T *x, i64 x_stride, const float *cosine,
                       const float *sine, const i64 *positions, float sign) {
    const i64 row = blockIdx.x;
    const float *cos = cosine + positions[row] * half;
    const float *sin = sine + positions[row] * half;
    for (i64 place = threadIdx.x; place < heads * half; place += blockDim.x) {
        const i64 c = place % half;
        T *first = x + row * x_stride + place / half * head_columns + c;
        T *second = first + half;
        const float a = wide(*first), b = wide(*second);
        const float turn = sign * sin[c];
        *first = narrow<T>(a * cos[c] - b * turn);
        *second = narrow<T>(b * cos[c] + a * turn);
    }
}

#define DEFINE(T, name)                                                                                                \
    extern "C" __global__ void rotate_##name(i64 heads, i64 head_columns, i64 half, T *x, i64 x_stride,                \
                                             const float *cosine, const float *sine, const i64 *positions,             \
                                             float sign) {                                                             \
        rotate(heads, head_columns, half, x, x_stride, cosine, sine, positions, sign);                                 \
    }
DEFINE(float, float32)
DEFINE(bf16, bfloat16)
#undef DEFINE
