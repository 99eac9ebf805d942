/*
 * Makes a tiny model as slow as a large one, without the work: put before llama.cpp with LD_PRELOAD.
 *
 * Every computation of a batch (llama_process) takes PACE_STEP_S seconds; so an answer of n tokens takes n
 * steps, and requests that run together share them, as on a GPU.  The first computation of a process is the
 * one that llama.cpp warms a model up with, within its load: it takes PACE_LOAD_S.  Its end is noted as a line
 * in the file PACE_LOG: the seconds (CLOCK_MONOTONIC) at which the process began, and at which this was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int32_t (*process_t)(void *context, int type, void *batch);

int32_t llama_process(void *context, int type, void *batch);

static double began;
static process_t real;
static pthread_once_t looked = PTHREAD_ONCE_INIT;
static int loaded;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double seconds(const char *name)
{
    const char *value = getenv(name);
    return value ? atof(value) : 0;
}

static void wait_until(double until)
{
    struct timespec time = {(time_t) until, (long) ((until - (time_t) until) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) != 0)
        ;
}

/* Of Python's engine the real one is in an extension module, where RTLD_NEXT does not look. */
static void look(void)
{
    for (struct link_map *map = _r_debug.r_map; map && !real; map = map->l_next) {
        void *library = dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD);
        void *found = library ? dlsym(library, "llama_process") : NULL;
        if (found != (void *) llama_process)
            real = (process_t) found;
    }
}

static void note(double ended)
{
    const char *path = getenv("PACE_LOG");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (file < 0)
        return;
    dprintf(file, "%.3f %.3f\n", began, ended);
    close(file);
}

__attribute__((constructor)) static void begin(void)
{
    began = now();
}

int32_t llama_process(void *context, int type, void *batch)
{
    double start = now();
    int first = !__atomic_exchange_n(&loaded, 1, __ATOMIC_SEQ_CST);
    pthread_once(&looked, look);
    int32_t result = real(context, type, batch);
    wait_until(start + seconds(first ? "PACE_LOAD_S" : "PACE_STEP_S"));
    if (first)
        note(now());
    return result;
}
