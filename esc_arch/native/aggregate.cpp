// residual += 1x1 convolution of the channels of two maps, on a CPU, in float32.
//
// What ConvAttn ends with: its convolution gives the first channels, the others pass by it.
//
// Source: ESC, arXiv 2503.06671.

#include "intrinsics.hpp"
#include "layers.hpp"
#include "threads.hpp"

namespace {

constexpr int RUN = 256;  // pixels that a thread takes at one time

struct Maps {
    const float *first, *rest;  // `split` channels, and all, of which `split` are skipped
    float *residual;
    // Of a batch and of a row; the pixels of a row lie side by side.
    const long *first_strides, *rest_strides, *residual_strides;
    int height, width, split;
    Pointwise layer;
};

#define KERNEL "aggregate.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Maps maps;
    void (*aggregate)(const Maps &, long, int, int);
    long runs, next;  // of a row, and of all to be done
    int batch;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Maps &maps = work.maps;
    for (long i; (i = take(work.next)) < work.runs * maps.height * work.batch;) {
        const int start = i % work.runs * RUN;
        work.aggregate(maps, i / work.runs, start, maps.width - start < RUN ? maps.width - start : RUN);
    }
    return nullptr;
}

}  // namespace

// `channels` has to fill whole vectors of 16.  Returns 0, or 1 when memory ran out.
extern "C" int esc_aggregate(const float *first, const long *first_strides, const float *rest,
                             const long *rest_strides, float *residual, const long *residual_strides,
                             const float *weight, const float *bias, int batch, int height, int width,
                             int split, int channels, int threads, int lanes) {
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, ((long)channels + 1) * channels * sizeof(float))) return 1;
    float *turned = (float *)memory;
    Work work;
    const Pointwise layer = {turned, turned + (long)channels * channels, channels, channels, channels};
    work.maps = {first, rest, residual, first_strides, rest_strides, residual_strides, height, width, split, layer};
    turn(work.maps.layer, weight, bias);
    work.aggregate = WIDEST(lanes, aggregate);
    work.batch = batch;
    work.runs = (width + RUN - 1) / RUN;
    work.next = 0;
    const long runs = work.runs * height * batch;
    in_threads(work, threads < runs ? threads : runs, run);
    free(memory);
    return 0;
}
