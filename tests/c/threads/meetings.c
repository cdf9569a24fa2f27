/* Barriers, spin locks, pthread_once, and philosophers. */
#include "common.h"
#include <sched.h>

/* Barriers. */

static pthread_barrier_t barrier;
static int arrived;

static void *meets(void *argument) {
    long serial = 0;
    count_threads();
    for (int i = 1; i <= 20; i++) {
        __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
        int answer = pthread_barrier_wait(&barrier);
        serial += answer == PTHREAD_BARRIER_SERIAL_THREAD;
        must(answer != 0 && answer != PTHREAD_BARRIER_SERIAL_THREAD);
        /* Nobody is past it before all are there. */
        must(__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < 8 * i);
    }
    return number(serial + (intptr_t)argument);
}

static void barriers(void) {
    pthread_t threads[8];
    long serial = 0;
    arrived = 0;
    say("of nobody: %s\n", word(pthread_barrier_init(&barrier, NULL, 0)));
    must(pthread_barrier_init(&barrier, NULL, 8));
    for (int i = 0; i < 8; i++) threads[i] = start(meets, NULL);
    for (int i = 0; i < 8; i++) serial += (intptr_t)ended(threads[i]);
    say("serial %ld, arrived %d\n", serial, arrived);
    say("destroy: %s\n", word(pthread_barrier_destroy(&barrier)));
}

static pthread_spinlock_t spinlock;

static void *spins(void *argument) {
    say("trylock: %s\n", word(pthread_spin_trylock(&spinlock)));
    gate_open(&inside, 1);
    must(pthread_spin_lock(&spinlock));
    must(pthread_spin_unlock(&spinlock));
    return argument;
}

/* Held across a wait, which nobody should do; it is spun for. */
static void spinlocks(void) {
    pthread_t thread;
    gates();
    must(pthread_spin_init(&spinlock, PTHREAD_PROCESS_PRIVATE));
    must(pthread_spin_lock(&spinlock));
    thread = start(spins, NULL);
    gate_pass(&inside, 1);
    usleep(2000);
    must(pthread_spin_unlock(&spinlock));
    must(ended(thread) != NULL);
    say("trylock: %s\n", word(pthread_spin_trylock(&spinlock)));
    must(pthread_spin_destroy(&spinlock));
    no_gates();
}

/* pthread_once. */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int initialised;

static void initialises(void) {
    gate_pass(&go, 1);
    initialised++;
}

static void *needs_it(void *argument) {
    gate_open(&inside, 1);
    must(pthread_once(&once, initialises));
    return number(initialised + (intptr_t)argument);
}

static void all_of_them(void) {
    pthread_t threads[6];
    gates();
    for (int i = 0; i < 6; i++) threads[i] = start(needs_it, NULL);
    gate_pass(&inside, 6);
    gate_open(&go, 1);
    for (int i = 0; i < 6; i++) say("%ld ", (long)(intptr_t)ended(threads[i]));
    say("\n");
    no_gates();
}

static pthread_once_t unfinished = PTHREAD_ONCE_INIT;
static int attempts;

static void exits_the_first_time(void) {
    if (attempts++ == 0) pthread_exit(NULL);
}

static void *attempts_it(void *argument) {
    must(pthread_once(&unfinished, exits_the_first_time));
    return argument;
}

/* Who leaves the initialiser by pthread_exit has not initialised it. */
static void exit_in_once(void) {
    must(ended(start(attempts_it, number(1))) != NULL);
    say("second: %ld, ", (long)(intptr_t)ended(start(attempts_it, number(2))));
    say("third: %ld, ", (long)(intptr_t)ended(start(attempts_it, number(3))));
    say("attempts %d\n", attempts);
}

/* Five philosophers, who take the fork with the lower number first. */

static pthread_mutex_t forks[5] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
                                   PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
                                   PTHREAD_MUTEX_INITIALIZER};
static int in_use[5], meals[5];

static void *dines(void *seat) {
    int left = (int)(intptr_t)seat, right = (left + 1) % 5;
    int lower = left < right ? left : right, upper = left + right - lower;
    count_threads();
    for (int meal = 0; meal < 200; meal++) {
        must(pthread_mutex_lock(&forks[lower]));
        sched_yield();
        must(pthread_mutex_lock(&forks[upper]));
        must(in_use[left]++ + in_use[right]++);
        sched_yield();
        meals[left]++;
        in_use[left]--;
        in_use[right]--;
        must(pthread_mutex_unlock(&forks[upper]));
        must(pthread_mutex_unlock(&forks[lower]));
    }
    return NULL;
}

static void philosophers(void) {
    pthread_t threads[5];
    memset(meals, 0, sizeof meals);
    for (int i = 0; i < 5; i++) threads[i] = start(dines, number(i));
    for (int i = 0; i < 5; i++) must(ended(threads[i]) != NULL);
    for (int i = 0; i < 5; i++) say("%d ", meals[i]);
    say("\n");
}

const struct section meetings[] = {
    {"barriers", barriers},
    {"spinlocks", spinlocks},
    {"once: all wait for it", all_of_them},
    {"once: left by pthread_exit", exit_in_once},
    {"philosophers", philosophers},
    {NULL, NULL},
};
