/* A lock of the system's own. Python's reads the clock at each call, which takes longer than the rest of a short put. */
#ifndef REALLY_LOCK_H
#define REALLY_LOCK_H

#include <stdlib.h>

#if defined(_WIN32)
#include <windows.h>
typedef SRWLOCK ReallyLock;
#else
#include <pthread.h>
typedef pthread_mutex_t ReallyLock;
#endif

/* Returns NULL if the system has no memory. */
static inline ReallyLock *really_lock_new(void) {
    ReallyLock *lock = (ReallyLock *)malloc(sizeof(ReallyLock));
    if (lock == NULL) return NULL;
#if defined(_WIN32)
    InitializeSRWLock(lock);
#else
    if (pthread_mutex_init(lock, NULL) != 0) {
        free(lock);
        return NULL;
    }
#endif
    return lock;
}

/* Nothing if it is NULL. No thread may hold the lock. */
static inline void really_lock_free(ReallyLock *lock) {
    if (lock == NULL) return;
#if !defined(_WIN32)
    pthread_mutex_destroy(lock);
#endif
    free(lock);
}

/* Takes the lock if it is free; returns whether it did. */
static inline int really_lock_try(ReallyLock *lock) {
#if defined(_WIN32)
    return TryAcquireSRWLockExclusive(lock) != 0;
#else
    return pthread_mutex_trylock(lock) == 0;
#endif
}

static inline void really_lock_wait(ReallyLock *lock) {
#if defined(_WIN32)
    AcquireSRWLockExclusive(lock);
#else
    pthread_mutex_lock(lock);
#endif
}

static inline void really_lock_release(ReallyLock *lock) {
#if defined(_WIN32)
    ReleaseSRWLockExclusive(lock);
#else
    pthread_mutex_unlock(lock);
#endif
}
#endif
