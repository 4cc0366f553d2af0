// Gradients of attention inside windows, on a CPU, in float32.
//
// The scores are computed anew, tile by tile.  Gradients of the biases are added up over the windows
// of a group, in their order, and the groups by the caller: the result does not depend on the
// number of threads.
//
// Source: ESC, arXiv 2503.06671, section 3; the backward pass by tiles as in FlashAttention, arXiv
// 2205.14135.

#include "attention_map.hpp"
#include "intrinsics.hpp"
#include "threads.hpp"

namespace {

constexpr int TILE = 64;  // keys whose scores and gradients are held at one time: twice 8 KB

struct Gradients {
    const float *upstream;  // (batch, height, width, heads * d)
    float *qkv;             // (batch, height, width, 3 * heads * d)
    float *bias;            // (groups, heads, 2 * window - 1, bias_row)
    float scale;            // of the scores, to the base e

    const float *upstream_at(const Map &map, const Window &at, int y, int x) const {
        return upstream + at.batch * map.out_batch + (at.row + y) * map.out_row + (at.column + x) * map.out_column;
    }
    float *qkv_at(const Map &map, const Window &at, int y, int x) const {
        return qkv + 3 * (at.batch * map.out_batch + (at.row + y) * map.out_row + (at.column + x) * map.out_column);
    }
};

#define KERNEL "window_attention_backward.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Map map;
    Gradients gradients;
    void (*attend_backward)(const Map &, const Gradients &, const Keys &, const Keys &, const Window &, int,
                            float *, float *);
    int groups;
    long next;
};

void *run(void *argument) {
    Work &work = *(Work *)argument;
    const Map &map = work.map;
    Keys keys = Keys::of(map, 16), of_keys = keys;
    void *memory = nullptr;
    const long scratch = (5L * keys.channels + 2 * TILE) * 32;
    if (posix_memalign(&memory, 64, (2 * keys.floats() + scratch) * sizeof(float) + keys.offset_bytes())) return nullptr;
    of_keys.k = keys.use(memory);
    of_keys.v = of_keys.k + keys.floats() / 2;
    float *rest = of_keys.k + keys.floats();
    const long windows = map.windows();
    for (long item; (item = take(work.next)) < (long)work.groups * map.heads;) {
        const int head = item % map.heads, group = item / map.heads;
        float *of_bias = work.gradients.bias + item / map.heads * map.heads * map.bias_head + head * map.bias_head;
        for (long i = 0; i < map.bias_head; i++) of_bias[i] = 0;
        for (long number = windows * group / work.groups; number < windows * (group + 1) / work.groups; number++) {
            const Window window = map.window_of(number);
            keys.pack(map, window, head);
            work.attend_backward(map, work.gradients, keys, of_keys, window, head, of_bias, rest);
        }
    }
    free(memory);
    return nullptr;
}

}  // namespace

// All maps are contiguous and of whole windows.  Returns 0, or 1 when memory ran out.
extern "C" int esc_window_attention_backward(const float *upstream, const float *qkv, const float *out,
                                             const float *lse, const float *bias, float *of_qkv,
                                             float *of_bias, const long *rows, const long *columns,
                                             int batch, int height, int width, int heads, int d, int window,
                                             int bias_row, int groups, float scale, float scale_2,
                                             int threads, int lanes) {
    Work work;
    Map &map = work.map;
    map.qkv = qkv, map.out = (float *)out, map.lse = (float *)lse, map.bias = bias;
    map.rows = rows, map.columns = columns;
    map.out_column = (long)heads * d, map.out_row = map.out_column * width, map.out_batch = map.out_row * height;
    map.qkv_column = 3 * map.out_column, map.qkv_row = 3 * map.out_row, map.qkv_batch = 3 * map.out_batch;
    map.batch = batch, map.height = height, map.width = width;
    map.heads = heads, map.d = d, map.window = window;
    map.bias_row = bias_row, map.bias_head = (long)(2 * window - 1) * bias_row;
    map.scale = scale_2;
    work.gradients = {upstream, of_qkv, of_bias, scale};
    work.attend_backward = WIDEST(lanes, attend_backward);
    work.groups = groups;
    work.next = 0;
    in_threads(work, threads < groups * heads ? threads : groups * heads, run);
    return work.next < (long)groups * heads;
}
