// Attention inside windows of a feature map, on a CPU, in float32.
//
// Source: ESC, arXiv 2503.06671, section 3; softmax by tiles as in FlashAttention, arXiv 2205.14135.

#include "attention_map.hpp"
#include "intrinsics.hpp"
#include "threads.hpp"

namespace {

constexpr int TILE = 128;  // keys whose scores are held at one time: 16 KB, in the first cache

#define KERNEL "window_attention.hpp"
#include "instruction_sets.inc"
#undef KERNEL

struct Work {
    AttentionMap map;
    void (*attend_rows)(const AttentionMap &, const Keys &, const Window &, int, int, int, float *);
    Windows windows;
    int parts;  // into which the rows of a window are cut
    int64_t pieces;
    int64_t next;
};

// A thread that finds no memory leaves the pieces to the others.
void *run(void *argument) {
    Work &work = *(Work *)argument;
    const AttentionMap &map = work.map;
    const int heads = map.attention.heads;
    Keys keys = Keys::of(map.attention, 8);
    const int64_t floats = keys.floats() + (keys.d + TILE + keys.channels) * (int64_t)32;
    void *memory = cache_lines(keys.offset_bytes() + floats * sizeof(float));
    if (!memory) return nullptr;
    float *scratch = keys.use(memory);
    for (int64_t i; (i = take(work.next)) < work.pieces;) {
        const int part = i % work.parts;
        const int head = i / work.parts % heads;
        const Window window = work.windows.window(i / work.parts / heads);
        const int first = window.rows * part / work.parts;
        const int last = window.rows * (part + 1) / work.parts;
        if (first == last) continue;
        keys.pack(map, window, head);
        work.attend_rows(map, keys, window, head, first, last, scratch);
    }
    free(memory);
    return nullptr;
}

// Small maps on many cores: parts of a window, so that there is work for all.
int parts_of_window(int64_t pieces, int window, int threads) {
    int parts = 1;
    while (pieces * parts < (int64_t)4 * threads && parts * 2 <= window) parts *= 2;
    return parts;
}

}  // namespace

extern "C" int esc_window_attention(const WindowAttentionCall *call) {
    if (call->size != sizeof *call) return OTHER_VERSION;
    const Attention &attention = call->attention;
    const Windows windows = {call->map, attention.window};
    const int64_t whole = windows.count() * attention.heads;
    const int parts = parts_of_window(whole, attention.window, call->threads);
    Work work = {
        {call->qkv, call->out, call->lse, call->map, attention},
        WIDEST(call->lanes, attend_rows),
        windows,
        parts,
        whole * parts,
        0,
    };
    in_threads(work, call->threads, work.pieces, run);
    return work.next < work.pieces ? NO_MEMORY : DONE;
}
