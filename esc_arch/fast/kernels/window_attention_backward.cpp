// Gradients of attention inside windows, on a CPU, in float32.
//
// The scores are computed again, tile by tile.  Gradients of the biases are added up over the windows
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

struct Backward {
    const WindowAttentionBackwardCall &call;
    AttentionMap map;
};

#define KERNEL "window_attention_backward.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    Backward backward;
    void (*attend_backward)(const Backward &, const Keys &, const Keys &, const Window &, int, float *, float *);
    int64_t pieces;
    int64_t next;
};

// A thread that finds no memory leaves the pieces to the others.
void *run(void *argument) {
    Work &work = *(Work *)argument;
    const AttentionMap &map = work.backward.map;
    const int heads = map.attention.heads;
    const int groups = work.backward.call.groups;
    const int64_t bias_floats = map.bias_head_stride();
    Keys keys = Keys::of(map.attention, 16);
    Keys gradients = keys;
    const int64_t scratch_floats = ((int64_t)5 * keys.channels + 2 * TILE) * 32;
    const int64_t floats = 2 * keys.floats() + scratch_floats;
    void *memory = cache_lines(keys.offset_bytes() + floats * sizeof(float));
    if (!memory) return nullptr;
    gradients.k = keys.use(memory);
    gradients.v = gradients.k + keys.floats() / 2;
    float *scratch = gradients.k + keys.floats();
    const Windows windows = map.windows();
    const int64_t count = windows.count();
    for (int64_t i; (i = take(work.next)) < work.pieces;) {
        const int head = i % heads;
        const int group = i / heads;
        float *bias_gradient = work.backward.call.bias_gradients + i * bias_floats;
        for (int64_t j = 0; j < bias_floats; j++) bias_gradient[j] = 0;
        for (int64_t number = count * group / groups; number < count * (group + 1) / groups; number++) {
            const Window window = windows.window(number);
            keys.pack(map, window, head);
            work.attend_backward(work.backward, keys, gradients, window, head, bias_gradient, scratch);
        }
    }
    free(memory);
    return nullptr;
}

}  // namespace

extern "C" int esc_window_attention_backward(const WindowAttentionBackwardCall *call) {
    if (call->size != sizeof *call) return OTHER_VERSION;
    Work work = {
        {*call, {call->qkv, call->out, (float *)call->lse, call->map, call->attention}},
        WIDEST(call->lanes, attend_backward),
        (int64_t)call->groups * call->attention.heads,
        0,
    };
    in_threads(work, call->threads, work.pieces, run);
    return work.next < work.pieces ? NO_MEMORY : DONE;
}
