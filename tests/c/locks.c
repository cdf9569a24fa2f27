/* Threads of C with all locks of C, for tests/monkey_pthread_c.rs: what it writes down is
   the same whether its threads are threads or greenlets. And a constructor that uses the
   locks before anybody else, and threads that are cancelled or left in a wait. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static char *out;
static size_t room;

static void say(const char *what, long value) {
    int n = snprintf(out, room, "%s %ld\n", what, value);
    out += n;
    room -= n;
}

static void all(int count, void *(*run)(void *)) {
    pthread_t threads[64];
    for (long i = 0; i < count; i++) pthread_create(&threads[i], NULL, run, (void *)i);
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static struct timespec in_ms(clockid_t clock, long ms) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

/* Producers and consumers. */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER, not_empty = PTHREAD_COND_INITIALIZER;
static int items[4], n_items;
static long sum;

static void *produce_or_consume(void *number) {
    for (int i = 1; i <= 2500; i++) {
        pthread_mutex_lock(&mutex);
        if ((long)number % 2) {
            while (n_items == 4) pthread_cond_wait(&not_full, &mutex);
            items[n_items++] = i;
            pthread_cond_signal(&not_empty);
        } else {
            while (n_items == 0) pthread_cond_wait(&not_empty, &mutex);
            sum += items[--n_items];
            pthread_cond_signal(&not_full);
        }
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

/* A ring of semaphores. */

static sem_t ring[5];
static char order[64];

static void *pass_on(void *number) {
    long me = (long)number;
    for (int i = 0; i < 8; i++) {
        sem_wait(&ring[me]);
        order[strlen(order)] = 'a' + me;
        sem_post(&ring[(me + 1) % 5]);
    }
    return NULL;
}

/* Readers and writers. */

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static long pair[2], torn;

static void *read_or_write(void *number) {
    for (int i = 0; i < 200; i++) {
        if ((long)number % 4) {
            pthread_rwlock_rdlock(&rwlock);
            long first = pair[0];
            if (i % 16 == 0) usleep(10);
            if (first != pair[1]) __atomic_add_fetch(&torn, 1, __ATOMIC_SEQ_CST);
        } else {
            pthread_rwlock_wrlock(&rwlock);
            pair[0]++;
            if (i % 16 == 0) usleep(10);
            pair[1]++;
        }
        pthread_rwlock_unlock(&rwlock);
    }
    return NULL;
}

/* Rounds. */

static pthread_barrier_t barrier;
static long serial, rounds[5];

static void *come(void *number) {
    for (int round = 0; round < 20; round++) {
        __atomic_add_fetch(&rounds[(long)number], 1, __ATOMIC_SEQ_CST);
        if (pthread_barrier_wait(&barrier)) serial++;
        for (int i = 0; i < 5; i++)
            if (rounds[i] < round + 1) say("too early", i);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

/* Once. */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static once_flag flag = ONCE_FLAG_INIT;
static long begun;

static void begin(void) {
    usleep(2000);
    begun++;
}

static void *need(void *number) {
    if ((long)number % 2) pthread_once(&once, begin);
    else call_once(&flag, begin);
    return NULL;
}

/* The locks of C11. */

static mtx_t c11;
static cnd_t turn;
static int whose;

static void *take_turns(void *number) {
    int me = (long)number;
    for (int i = 0; i < 50; i++) {
        mtx_lock(&c11);
        while (whose != me) cnd_wait(&turn, &c11);
        whose = (me + 1) % 3;
        cnd_broadcast(&turn);
        mtx_unlock(&c11);
    }
    return NULL;
}

/* Recursion. */

static pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pthread_mutex_t checked = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
static long deep;

static void down(int depth) {
    pthread_mutex_lock(&recursive);
    if (depth) down(depth - 1);
    else {
        long before = deep;
        usleep(10);
        deep = before + 1;
    }
    pthread_mutex_unlock(&recursive);
}

static void *recur(void *number) {
    (void)number;
    for (int i = 0; i < 10; i++) down(5);
    return NULL;
}

static void *check(void *number) {
    (void)number;
    static long again, others;
    pthread_mutex_lock(&checked);
    again += pthread_mutex_lock(&checked) == EDEADLK;
    usleep(100);
    pthread_mutex_unlock(&checked);
    int is_refused = pthread_mutex_unlock(&checked) == EPERM;
    if (__atomic_add_fetch(&others, is_refused, __ATOMIC_SEQ_CST) == 4) say("checked", again);
    return NULL;
}

/* Dining philosophers. */

static pthread_mutex_t forks[5];
static long meals;

static void *dine(void *number) {
    long left = (long)number, right = (left + 1) % 5;
    long first = left < right ? left : right, second = left + right - first;
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&forks[first]);
        if (i % 10 == 0) usleep(10);
        pthread_mutex_lock(&forks[second]);
        __atomic_add_fetch(&meals, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&forks[second]);
        pthread_mutex_unlock(&forks[first]);
    }
    return NULL;
}

/* A spin lock whose owner sleeps. */

static pthread_spinlock_t spin;
static long spun;

static void *go_round(void *number) {
    for (int i = 0; i < 20; i++) {
        pthread_spin_lock(&spin);
        long before = spun;
        if ((long)number == 0) usleep(10);
        spun = before + 1;
        pthread_spin_unlock(&spin);
    }
    return NULL;
}

/* Times. */

static void *times(void *number) {
    (void)number;
    struct timespec t = in_ms(CLOCK_REALTIME, 3);
    say("mutex in time", pthread_mutex_timedlock(&mutex, &t) == ETIMEDOUT);
    t = in_ms(CLOCK_MONOTONIC, 3);
    say("mutex by clock", pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &t) == ETIMEDOUT);
    t = in_ms(CLOCK_REALTIME, 3);
    say("read in time", pthread_rwlock_timedrdlock(&rwlock, &t) == ETIMEDOUT);
    t = in_ms(CLOCK_MONOTONIC, 3);
    say("write by clock", pthread_rwlock_clockwrlock(&rwlock, CLOCK_MONOTONIC, &t) == ETIMEDOUT);
    t = in_ms(CLOCK_REALTIME, 3);
    say("semaphore in time", sem_timedwait(&ring[1], &t) == -1 && errno == ETIMEDOUT);
    pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    pthread_mutex_lock(&own);
    t = in_ms(CLOCK_REALTIME, 3);
    say("condition in time", pthread_cond_timedwait(&cond, &own, &t) == ETIMEDOUT);
    pthread_mutex_unlock(&own);
    mtx_lock(&c11);
    t = in_ms(CLOCK_REALTIME, 3);
    say("C11's condition in time", cnd_timedwait(&turn, &c11, &t) == thrd_timedout);
    say("C11's signal", cnd_signal(&turn) == thrd_success);
    say("C11's mutex in time", mtx_timedlock(&c11, &t) == thrd_timedout);
    mtx_unlock(&c11);
    return NULL;
}

long locks_run(char *to, size_t size) {
    char *start = to;
    out = to;
    room = size;
    all(8, produce_or_consume);
    say("sum", sum);
    for (int i = 0; i < 5; i++) sem_init(&ring[i], 0, i == 0);
    all(5, pass_on);
    say(order, strlen(order));
    all(8, read_or_write);
    say("torn", torn);
    say("written", pair[0] + pair[1]);
    pthread_barrier_init(&barrier, NULL, 5);
    all(5, come);
    say("serial", serial);
    say("destroyed", pthread_barrier_destroy(&barrier));
    all(8, need);
    say("begun", begun);
    mtx_init(&c11, mtx_timed);
    cnd_init(&turn);
    all(3, take_turns);
    say("turn", whose);
    all(4, recur);
    say("deep", deep);
    all(4, check);
    for (int i = 0; i < 5; i++) pthread_mutex_init(&forks[i], NULL);
    all(5, dine);
    say("meals", meals);
    pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE);
    all(4, go_round);
    say("spun", spun);
    pthread_mutex_lock(&mutex);
    pthread_rwlock_wrlock(&rwlock);
    all(1, times);
    pthread_rwlock_unlock(&rwlock);
    pthread_mutex_unlock(&mutex);
    return out - start;
}

/* Cancelled, or left, in a wait: how many have cleaned up. */

static long cleaned;

static void clean(void *what) {
    cleaned++;
    if (what) pthread_mutex_unlock(what);
}

static void *wait_for_condition(void *unused) {
    pthread_mutex_lock(&mutex);
    pthread_cleanup_push(clean, &mutex);
    for (;;) pthread_cond_wait(&not_full, &mutex);
    pthread_cleanup_pop(0);
    return unused;
}

static void *wait_for_semaphore(void *unused) {
    sem_t never;
    sem_init(&never, 0, 0);
    pthread_cleanup_push(clean, NULL);
    sem_wait(&never);
    pthread_cleanup_pop(0);
    return unused;
}

static pthread_once_t left = PTHREAD_ONCE_INIT;

static void leave(void) {
    if (cleaned++ == 0) pthread_exit(NULL);
}

static void *leave_once(void *unused) {
    pthread_once(&left, leave);
    return unused;
}

long locks_left(char *to, size_t size) {
    (void)to, (void)size;
    void *(*waits[])(void *) = {wait_for_condition, wait_for_semaphore};
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, waits[i], NULL);
        usleep(5000);
        pthread_cancel(thread);
        pthread_join(thread, NULL);
    }
    pthread_mutex_lock(&mutex);
    pthread_mutex_unlock(&mutex);
    return cleaned;
}

/* The first leaves its initialiser, and the second runs it anew; the third need not. */
long locks_once_left(char *to, size_t size) {
    (void)to, (void)size;
    for (int i = 0; i < 3; i++) all(1, leave_once);
    return cleaned;
}

/* As the loader runs it, before anything of the program has run. */

static long early;
static pthread_once_t at_start = PTHREAD_ONCE_INIT;

static void start(void) { early++; }

__attribute__((constructor)) static void construct(void) {
    pthread_mutex_t checks = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
    struct timespec now = in_ms(CLOCK_REALTIME, 0);
    sem_t semaphore;
    early += pthread_mutex_lock(&checks) == 0;
    early += pthread_mutex_lock(&checks) == EDEADLK;
    early += pthread_cond_timedwait(&not_full, &checks, &now) == ETIMEDOUT;
    early += pthread_cond_signal(&not_full) == 0;
    early += pthread_mutex_unlock(&checks) == 0;
    early += sem_init(&semaphore, 0, 0) == 0 && sem_post(&semaphore) == 0;
    early += sem_wait(&semaphore) == 0;
    early += pthread_rwlock_rdlock(&rwlock) == 0 && pthread_rwlock_unlock(&rwlock) == 0;
    early += pthread_once(&at_start, start) == 0;
}

long locks_early(char *to, size_t size) {
    (void)to, (void)size;
    return early;
}
