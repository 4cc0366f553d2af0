// Sharing numbered pieces of work among threads.
#pragma once

#include <pthread.h>
#include <stdlib.h>

// Calls run(work) in up to `threads` threads, this one among them, and waits for all.  Threads are
// started for each call: that takes some 20 us each, and survives a fork, as a pool does not.
template <class Work>
void in_threads(Work &work, long threads, void *(*run)(void *)) {
    pthread_t *others = threads > 1 ? (pthread_t *)malloc(sizeof(pthread_t) * (threads - 1)) : nullptr;
    long started = 0;
    while (others && started < threads - 1 && !pthread_create(&others[started], nullptr, run, &work)) started++;
    run(&work);
    for (long i = 0; i < started; i++) pthread_join(others[i], nullptr);
    free(others);
}

// The next piece of work that no thread has taken.
inline long take(long &next) { return __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED); }
