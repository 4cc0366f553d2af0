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
    const float *first, *rest;  // (pixels, split) and (pixels, in), of which `split` are skipped
    float *residual;            // (pixels, out)
    int split;
    Pointwise layer;
};

#define KERNEL "aggregate.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Maps maps;
    void (*aggregate)(const Maps &, long, int);
    long pixels, next;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    for (long start; (start = take(work.next) * RUN) < work.pixels;)
        work.aggregate(work.maps, start, work.pixels - start < RUN ? work.pixels - start : RUN);
    return nullptr;
}

}  // namespace

// `channels` has to fill whole vectors of 16.  Returns 0, or 1 when memory ran out.
extern "C" int esc_aggregate(const float *first, const float *rest, float *residual, const float *weight,
                             const float *bias, long pixels, int split, int channels, int threads,
                             int lanes) {
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, ((long)channels + 1) * channels * sizeof(float))) return 1;
    float *turned = (float *)memory;
    Work work;
    work.maps = {first, rest, residual, split, {turned, turned + (long)channels * channels, channels, channels, channels}};
    turn(work.maps.layer, weight, bias);
    work.aggregate = WIDEST(lanes, aggregate);
    work.pixels = pixels;
    work.next = 0;
    const long runs = (pixels + RUN - 1) / RUN;
    in_threads(work, threads < runs ? threads : runs, run);
    free(memory);
    return 0;
}
