// residual += 1x1 convolution of the channels of two maps, on a CPU, in float32.
//
// What ConvAttn ends with: its convolution gives the first channels, the others pass by it.
//
// Source: ESC, arXiv 2503.06671.

#include "feature_map.hpp"
#include "intrinsics.hpp"
#include "layers.hpp"
#include "threads.hpp"

namespace {

constexpr int RUN = 256;  // pixels of a row that a thread takes at one time

struct Aggregation {
    const AggregateCall &call;
    Pointwise layer;
};

#define KERNEL "aggregate.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Aggregation aggregation;
    void (*aggregate)(const Aggregation &, int64_t, int, int);
    int64_t runs_of_row;
    int64_t runs;
    int64_t next;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const int width = work.aggregation.call.map.width;
    for (int64_t i; (i = take(work.next)) < work.runs;) {
        const int start = i % work.runs_of_row * RUN;
        work.aggregate(work.aggregation, i / work.runs_of_row, start, width - start < RUN ? width - start : RUN);
    }
    return nullptr;
}

}  // namespace

extern "C" int esc_aggregate(const AggregateCall *call) {
    if (call->size != sizeof *call) return OTHER_VERSION;
    float *memory = floats_in_cache_lines(Pointwise::floats(call->channels, call->channels));
    if (!memory) return NO_MEMORY;
    const MapSize &map = call->map;
    const int64_t runs_of_row = (map.width + RUN - 1) / RUN;
    Work work = {
        {*call, turn(call->layer, call->channels, call->channels, memory)},
        WIDEST(call->lanes, aggregate),
        runs_of_row,
        runs_of_row * map.height * map.batch,
        0,
    };
    in_threads(work, call->threads, work.runs, run);
    free(memory);
    return DONE;
}
