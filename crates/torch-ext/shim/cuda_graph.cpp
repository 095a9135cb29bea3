// CUDA streams and graphs, behind a C interface: src/gpu/graph.rs declares it. Graphs are LibTorch's own, whose allocator
// keeps the memory of a graph apart. libtorch_cuda is opened while the program runs, so its functions are found by their
// symbols, and the header with CUDA's types is not needed to compile this.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "guarded.hpp"

namespace {

using Pool = std::pair<unsigned long long, unsigned long long>;

// cudaStreamCaptureModeThreadLocal: other threads may allocate meanwhile.
constexpr int thread_local_mode = 1;

template <typename F> F symbol(const char *name) {
    void *place = dlsym(RTLD_DEFAULT, name);
    TORCH_CHECK(place, "this LibTorch has no ", name);
    F function;
    std::memcpy(&function, &place, sizeof function);
    return function;
}

// The methods of at::cuda::CUDAGraph: functions whose first argument is the object.
struct Methods {
    void (*construct)(void *, bool);
    void (*destroy)(void *);
    void (*begin)(void *, Pool, int);
    void (*end)(void *);
    void (*replay)(void *);

    static const Methods &found() {
        static const Methods methods{
            symbol<void (*)(void *, bool)>("_ZN2at4cuda9CUDAGraphC1Eb"),
            symbol<void (*)(void *)>("_ZN2at4cuda9CUDAGraphD1Ev"),
            symbol<void (*)(void *, Pool, int)>(
                "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode"),
            symbol<void (*)(void *)>("_ZN2at4cuda9CUDAGraph11capture_endEv"),
            symbol<void (*)(void *)>("_ZN2at4cuda9CUDAGraph6replayEv"),
        };
        return methods;
    }
};

// at::cuda::CUDAGraph, in more room than it takes.
class Graph {
  public:
    Graph() : methods(Methods::found()) { methods.construct(room, false); }
    ~Graph() { methods.destroy(room); }
    Graph(const Graph &) = delete;
    Graph &operator=(const Graph &) = delete;

    void begin(Pool pool) { methods.begin(room, pool, thread_local_mode); }
    void end() { methods.end(room); }
    void replay() { methods.replay(room); }

  private:
    const Methods &methods;
    alignas(64) char room[1024];
};

c10::impl::VirtualGuardImpl cuda() { return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA); }
c10::Device device_of(int ordinal) { return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(ordinal)}; }

void write(c10::Stream stream, std::int64_t *numbers) {
    const auto packed = stream.pack3();
    numbers[0] = packed.stream_id;
    numbers[1] = packed.device_index;
    numbers[2] = static_cast<std::int64_t>(packed.device_type);
}

c10::Stream read(const std::int64_t *numbers) {
    return c10::Stream::unpack3(numbers[0], static_cast<c10::DeviceIndex>(numbers[1]),
                                static_cast<c10::DeviceType>(numbers[2]));
}

} // namespace

extern "C" {

// The stream on which LibTorch works on a device now: CUDA's handle of it.
int tunesmith_cuda_stream(int device, void **handle, char *text, std::size_t capacity) {
    return guarded({text, capacity},
                   [&] { *handle = cuda().getStreamNativeHandle(cuda().getStream(device_of(device))); });
}

// A stream beside the default one, in three numbers.
int tunesmith_cuda_side_stream(int device, std::int64_t *stream, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] { write(cuda().getStreamFromGlobalPool(device_of(device)), stream); });
}

// From here on this thread works on the stream's device, and there on that stream. before: the stream and the device that
// were, in four numbers.
int tunesmith_cuda_stream_enter(const std::int64_t *stream, std::int64_t *before, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        const auto guard = cuda();
        const c10::Stream side = read(stream);
        // Both, since a graph is recorded on the present stream of the present device.
        before[3] = guard.exchangeDevice(side.device()).index();
        write(guard.exchangeStream(side), before);
    });
}

int tunesmith_cuda_stream_leave(const std::int64_t *before, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        const auto guard = cuda();
        guard.exchangeStream(read(before));
        guard.setDevice(device_of(static_cast<int>(before[3])));
    });
}

int tunesmith_cuda_wait(int device, char *text, std::size_t capacity) {
    return guarded({text, capacity},
                   [&] { cuda().synchronizeDevice(static_cast<c10::DeviceIndex>(device)); });
}

// A number for memory that several graphs share, of which one runs at a time.
int tunesmith_cuda_graph_pool(std::uint64_t *pool, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        const Pool found = symbol<Pool (*)()>("_ZN2at4cuda17graph_pool_handleEv")();
        pool[0] = found.first;
        pool[1] = found.second;
    });
}

int tunesmith_cuda_graph_begin(const std::uint64_t *pool, void **graph, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] {
        auto made = std::make_unique<Graph>();
        made->begin({pool[0], pool[1]});
        *graph = made.release();
    });
}

int tunesmith_cuda_graph_end(void *graph, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] { static_cast<Graph *>(graph)->end(); });
}

int tunesmith_cuda_graph_replay(void *graph, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] { static_cast<Graph *>(graph)->replay(); });
}

int tunesmith_cuda_graph_free(void *graph, char *text, std::size_t capacity) {
    return guarded({text, capacity}, [&] { delete static_cast<Graph *>(graph); });
}

} // extern "C"
