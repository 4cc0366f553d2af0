// Threads that wait for work, asleep, from one call of a kernel to the next.
//
// One call at a time has them; a call from another thread meanwhile starts threads of its own.  A
// forked process has none of its parent's threads, so it begins with a pool of its own.

#include "threads.hpp"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

namespace {

struct Pool {
    pthread_mutex_t taken;  // by a call of a kernel
    pthread_mutex_t mutex;  // of what follows
    pthread_cond_t work_came;
    pthread_cond_t work_ended;
    void *work;
    void *(*run)(void *);
    int64_t threads;  // that were started and wait, or work
    int64_t wanted;   // of them have not yet begun with this work
    int64_t at_work;
};

Pool *pool;
pthread_once_t made = PTHREAD_ONCE_INIT;

Pool *new_pool() {
    Pool *pool = (Pool *)calloc(1, sizeof(Pool));
    if (!pool) return nullptr;
    pthread_mutex_init(&pool->taken, nullptr);
    pthread_mutex_init(&pool->mutex, nullptr);
    pthread_cond_init(&pool->work_came, nullptr);
    pthread_cond_init(&pool->work_ended, nullptr);
    return pool;
}

// The parent's pool may have been copied in the middle of a call: it is left as it is.
void in_forked_process() { pool = new_pool(); }

void make_pool() {
    pool = new_pool();
    if (pthread_atfork(nullptr, nullptr, in_forked_process)) pool = nullptr;
}

void *wait_for_work(void *argument) {
    Pool &pool = *(Pool *)argument;
    pthread_mutex_lock(&pool.mutex);
    while (true) {
        while (!pool.wanted) pthread_cond_wait(&pool.work_came, &pool.mutex);
        pool.wanted--;
        pool.at_work++;
        void *work = pool.work;
        void *(*run)(void *) = pool.run;
        pthread_mutex_unlock(&pool.mutex);
        run(work);
        pthread_mutex_lock(&pool.mutex);
        if (!--pool.at_work) pthread_cond_signal(&pool.work_ended);
    }
}

// Signals beint64_t to the threads of Python.
bool start(pthread_t *thread, void *(*run)(void *), void *argument) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const bool started = !pthread_create(thread, nullptr, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
}

void in_new_threads(void *work, int64_t threads, void *(*run)(void *)) {
    pthread_t *others = (pthread_t *)malloc(sizeof(pthread_t) * (threads - 1));
    int64_t started = 0;
    while (others && started < threads - 1 && start(&others[started], run, work)) started++;
    run(work);
    for (int64_t i = 0; i < started; i++) pthread_join(others[i], nullptr);
    free(others);
}

}  // namespace

void in_threads(void *work, int64_t threads, void *(*run)(void *)) {
    if (threads < 2) {
        run(work);
        return;
    }
    pthread_once(&made, make_pool);
    Pool *here = pool;
    if (!here || pthread_mutex_trylock(&here->taken)) {
        in_new_threads(work, threads, run);
        return;
    }
    pthread_mutex_lock(&here->mutex);
    pthread_t thread;
    while (here->threads < threads - 1 && start(&thread, wait_for_work, here)) {
        pthread_detach(thread);
        here->threads++;
    }
    here->work = work;
    here->run = run;
    here->wanted = here->threads < threads - 1 ? here->threads : threads - 1;
    for (int64_t i = 0; i < here->wanted; i++) pthread_cond_signal(&here->work_came);
    pthread_mutex_unlock(&here->mutex);
    run(work);
    pthread_mutex_lock(&here->mutex);
    here->wanted = 0;  // all pieces are taken: who has not begun need not
    while (here->at_work) pthread_cond_wait(&here->work_ended, &here->mutex);
    pthread_mutex_unlock(&here->mutex);
    pthread_mutex_unlock(&here->taken);
}
