// Element types, packs of elements and reductions over a block. NVRTC compiles all files of this folder as one program,
// this one first; there are no CUDA headers to include.

typedef long long i64;
typedef unsigned long long u64;

// bfloat16: the upper half of a float32, rounded to nearest even.
struct bf16 {
    unsigned short bits;
};

__device__ inline float wide(float value) { return value; }
__device__ inline float wide(bf16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

template <typename T> __device__ T narrow(float value);
template <> __device__ inline float narrow<float>(float value) { return value; }
template <> __device__ inline bf16 narrow<bf16>(float value) {
    const unsigned bits = __float_as_uint(value);
    // A NaN must not round to infinity.
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return bf16{0x7fc0};
    }
    return bf16{static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// `width` elements that one thread loads and stores at once.
template <typename T, int width> struct alignas(sizeof(T) * width) Pack {
    T element[width];
};
template <typename T, int width> __device__ inline Pack<T, width> load(const T *place) {
    return *reinterpret_cast<const Pack<T, width> *>(place);
}
template <typename T, int width> __device__ inline void store(T *place, const Pack<T, width> &pack) {
    *reinterpret_cast<Pack<T, width> *>(place) = pack;
}

// Elements in 16 bytes.
template <typename T> constexpr int full = 16 / sizeof(T);

// Whether rows that start `stride` apart from `place` on can be read in full packs.
template <typename T> __device__ inline bool aligned(const T *place, i64 stride) {
    return reinterpret_cast<u64>(place) % 16 == 0 && stride % full<T> == 0;
}

struct Sum {
    __device__ static float join(float left, float right) { return left + right; }
};

// The value of all threads of the block joined, in every thread. The order is fixed. `room`: 32 floats shared by the block.
template <typename Join> __device__ inline float joined(float value, float *room) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value = Join::join(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = value;
    }
    __syncthreads();
    value = room[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) {
        value = Join::join(value, room[warp]);
    }
    return value;
}
