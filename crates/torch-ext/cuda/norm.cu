// RMSNorm over groups of columns: one block for each row and group.

template <int width, typename T>
__device__ float inverse_root(const T *x, i64 columns, float epsilon, float *room) {
    float sum = 0.0f;
    for (i64 c = threadIdx.x * width; c < columns; c += blockDim.x * width) {
        const auto pack = load<T, width>(x + c);
        for (int i = 0; i < width; ++i) {
            sum += wide(pack.element[i]) * wide(pack.element[i]);
        }
    }
    return 1.0f / sqrtf(joined<Sum>(sum, room) / static_cast<float>(columns) + epsilon);
}

template <int width, typename T>
__device__ void norm_forward(i64 columns, const T *x, const float *weight, float epsilon, T *y) {
    __shared__ float room[32];
    const float root = inverse_root<width>(x, columns, epsilon, room);
    for (i64 c = threadIdx.x * width; c < columns; c += blockDim.x * width) {
        auto pack = load<T, width>(x + c);
        for (int i = 0; i < width; ++i) {
            pack.element[i] = narrow<T>(wide(pack.element[i]) * root * weight[c + i]);
        }
        store(y + c, pack);
    }
}

template <typename T>
__device__ void rms_norm(i64 heads, i64 columns, const T *x, i64 x_stride, const float *weight, float epsilon, T *y,
                         i64 y_stride) {
    const i64 row = blockIdx.x / heads, start = blockIdx.x % heads * columns;
    const bool whole = columns % full<T> == 0 && aligned(x, x_stride) && aligned(y, y_stride);
    x += row * x_stride + start;
    y += row * y_stride + start;
    if (whole) {
        norm_forward<full<T>>(columns, x, weight, epsilon, y);
    } else {
        norm_forward<1>(columns, x, weight, epsilon, y);
    }
}

// dx = r (g - x r^2 mean(g x)) with g = dy w and r the inverse root; added to `addend` where there is one. dx may be the
// same place as dy or addend.
template <int width, typename T>
__device__ void norm_backward(i64 columns, const T *x, const float *weight, float epsilon, const T *dy,
                              const T *addend, T *dx) {
    __shared__ float room[32];
    const float root = inverse_root<width>(x, columns, epsilon, room);
    float sum = 0.0f;
    for (i64 c = threadIdx.x * width; c < columns; c += blockDim.x * width) {
        const auto value = load<T, width>(x + c), gradient = load<T, width>(dy + c);
        for (int i = 0; i < width; ++i) {
            sum += wide(gradient.element[i]) * weight[c + i] * wide(value.element[i]);
        }
    }
    const float share = joined<Sum>(sum, room) / static_cast<float>(columns) * root * root;
    for (i64 c = threadIdx.x * width; c < columns; c += blockDim.x * width) {
        const auto value = load<T, width>(x + c);
        auto pack = load<T, width>(dy + c);
        Pack<T, width> other;
        if (addend) {
            other = load<T, width>(addend + c);
        }
        for (int i = 0; i < width; ++i) {
            const float slope = root * (wide(pack.element[i]) * weight[c + i] - wide(value.element[i]) * share);
            pack.element[i] = narrow<T>(addend ? wide(other.element[i]) + slope : slope);
        }
        store(dx + c, pack);
    }
}

template <typename T>
__device__ void rms_norm_backward(i64 heads, i64 columns, const T *x, i64 x_stride, const float *weight, float epsilon,
                                  const T *dy, i64 dy_stride, const T *addend, i64 addend_stride, T *dx,
                                  i64 dx_stride) {
    const i64 row = blockIdx.x / heads, start = blockIdx.x % heads * columns;
    const bool whole = columns % full<T> == 0 && aligned(x, x_stride) && aligned(dy, dy_stride) &&
                       aligned(addend, addend_stride) && aligned(dx, dx_stride);
    x += row * x_stride + start;
    dy += row * dy_stride + start;
    dx += row * dx_stride + start;
    if (addend) {
        addend += row * addend_stride + start;
    }
    if (whole) {
        norm_backward<full<T>>(columns, x, weight, epsilon, dy, addend, dx);
    } else {
        norm_backward<1>(columns, x, weight, epsilon, dy, addend, dx);
    }
}

#define DEFINE(T, name)                                                                                                \
    extern "C" __global__ void rms_norm_##name(i64 heads, i64 columns, const T *x, i64 x_stride, const float *weight,  \
                                               float epsilon, T *y, i64 y_stride) {                                    \
        rms_norm(heads, columns, x, x_stride, weight, epsilon, y, y_stride);                                           \
    }                                                                                                                  \
    extern "C" __global__ void rms_norm_backward_##name(i64 heads, i64 columns, const T *x, i64 x_stride,              \
                                                        const float *weight, float epsilon, const T *dy,               \
                                                        i64 dy_stride, const T *addend, i64 addend_stride, T *dx,      \
                                                        i64 dx_stride) {                                               \
        rms_norm_backward(heads, columns, x, x_stride, weight, epsilon, dy, dy_stride, addend, addend_stride, dx,      \
                          dx_stride);                                                                                  \
    }
DEFINE(float, float32)
DEFINE(bf16, bfloat16)
#undef DEFINE
