/* preadv2 against io_uring in the shapes in which the data plane reads: cached and cold, one at a time and many.
 *
 *     gcc -O2 -pthread -o build/uring benches/uring.c && build/uring FILE [ROUNDS]
 *
 * FILE: at least 256 MiB on a disk; it is only read. Memory is a memfd, as guests' pages are. Each row is the median of
 * the rounds, the ways by turns within a round. CPU is the process's own and the kernel threads' that io_uring starts
 * for it, per read. Nothing is registered beforehand with io_uring but where a row says so ("fixed": the file).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH_MAX = 32, FILLERS = 4, ROUNDS_MAX = 25 };
static const size_t FILE_BYTES = 256u << 20;

static int file;
static char *memory;

static void fail(const char *what) { perror(what), exit(1); }

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- io_uring without a library: one ring, filled and emptied by one thread */

static struct {
    int fd;
    unsigned *sq_tail, *sq_mask, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} ring;

static void *map(size_t bytes, off_t what) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, what);
    if (p == MAP_FAILED) fail("mmap of the ring");
    return p;
}

static void ring_open(void) {
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    ring.fd = (int)syscall(SYS_io_uring_setup, DEPTH_MAX, &p);
    if (ring.fd < 0) fail("io_uring_setup");
    char *sq = map(p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    char *cq = map(p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    ring.sqes = map(p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    ring.sq_tail = (unsigned *)(sq + p.sq_off.tail), ring.sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
    ring.cq_head = (unsigned *)(cq + p.cq_off.head), ring.cq_tail = (unsigned *)(cq + p.cq_off.tail);
    ring.cq_mask = (unsigned *)(cq + p.cq_off.ring_mask), ring.cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    unsigned *array = (unsigned *)(sq + p.sq_off.array);
    for (unsigned i = 0; i < p.sq_entries; i++) array[i] = i;
    if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &file, 1) < 0) fail("registering the file");
}

static void ring_put(size_t bytes, off_t offset, int slot) {
    struct io_uring_sqe *sqe = &ring.sqes[*ring.sq_tail & *ring.sq_mask];
    *sqe = (struct io_uring_sqe){
        .opcode = IORING_OP_READ,
        .flags = IOSQE_FIXED_FILE,
        .fd = 0,
        .addr = (uintptr_t)(memory + slot * bytes),
        .len = (unsigned)bytes,
        .off = (uint64_t)offset,
        .user_data = (uint64_t)slot,
    };
    __atomic_store_n(ring.sq_tail, *ring.sq_tail + 1, __ATOMIC_RELEASE);
}

static void ring_enter(unsigned submit, unsigned await) {
    long entered = syscall(SYS_io_uring_enter, ring.fd, submit, await, IORING_ENTER_GETEVENTS, NULL, 0);
    if (entered < 0) fail("io_uring_enter");
}

/* Takes one completion that is there; returns its slot, or -1. A short read counts as a failure. */
static int ring_take(size_t bytes) {
    unsigned head = *ring.cq_head;
    if (head == __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE)) return -1;
    struct io_uring_cqe *cqe = &ring.cqes[head & *ring.cq_mask];
    if (cqe->res != (int)bytes) errno = cqe->res < 0 ? -cqe->res : EIO, fail("a read by io_uring");
    int slot = (int)cqe->user_data;
    __atomic_store_n(ring.cq_head, head + 1, __ATOMIC_RELEASE);
    return slot;
}

/* ---- the ways: each reads `count` blocks of `bytes` at the given offsets */

struct work {
    size_t bytes;
    int count, depth;
    const off_t *offsets;
    atomic_int next;
};

static void read_one(struct work *w, int at, int slot, int flags) {
    struct iovec part = {memory + slot * w->bytes, w->bytes};
    ssize_t got = preadv2(file, &part, 1, w->offsets[at], flags);
    /* Where it says that it would wait, a thread that may wait does it, as in the host. */
    if (got < 0 && errno == EAGAIN) got = preadv2(file, &part, 1, w->offsets[at], 0);
    if (got != (ssize_t)w->bytes) fail("preadv2");
}

/* As a worker answers from the page cache: one system call each, which never waits for the disk. */
static void by_nowait(struct work *w) {
    for (int i = 0; i < w->count; i++) read_one(w, i, i % w->depth, RWF_NOWAIT);
}

/* As many as are in flight enter the kernel together, and are awaited together. */
static void by_ring(struct work *w) {
    int submitted = 0, done = 0;
    while (done < w->count) {
        int n = 0;
        for (; n < w->depth && submitted < w->count; n++, submitted++) ring_put(w->bytes, w->offsets[submitted], n);
        ring_enter((unsigned)n, (unsigned)n);
        while (ring_take(w->bytes) >= 0) done++;
    }
}

/* The ring kept full: a new read for each that is done. */
static void by_full_ring(struct work *w) {
    int submitted = 0, done = 0, fresh = 0;
    for (; submitted < w->depth && submitted < w->count; submitted++, fresh++)
        ring_put(w->bytes, w->offsets[submitted], submitted);
    while (done < w->count) {
        ring_enter((unsigned)fresh, 1);
        fresh = 0;
        for (int slot; (slot = ring_take(w->bytes)) >= 0; done++)
            if (submitted < w->count) ring_put(w->bytes, w->offsets[submitted++], slot), fresh++;
    }
}

static void *filler(void *argument) {
    struct work *w = ((void **)argument)[0];
    int slot = (int)(intptr_t)((void **)argument)[1];
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < w->count;) read_one(w, i, slot, 0);
    return NULL;
}

/* As the host reads what is cold: a few threads, each in one read at a time. */
static void by_threads(struct work *w) {
    pthread_t threads[DEPTH_MAX];
    void *arguments[DEPTH_MAX][2];
    w->next = 0;
    for (intptr_t i = 0; i < w->depth; i++) {
        arguments[i][0] = w, arguments[i][1] = (void *)i;
        if (pthread_create(&threads[i], NULL, filler, arguments[i])) fail("pthread_create");
    }
    for (int i = 0; i < w->depth; i++) pthread_join(threads[i], NULL);
}

/* ---- rows */

struct row {
    const char *shape, *way;
    void (*read)(struct work *);
    size_t bytes;
    int count, depth, cold;
};

static const struct row rows[] = {
    {"cached 4 KiB, one at a time", "preadv2 NOWAIT", by_nowait, 4096, 40000, 1, 0},
    {"cached 4 KiB, one at a time", "io_uring fixed", by_ring, 4096, 40000, 1, 0},
    {"cached 4 KiB, 16 at a time", "preadv2 NOWAIT", by_nowait, 4096, 40000, 16, 0},
    {"cached 4 KiB, 16 at a time", "io_uring fixed", by_ring, 4096, 40000, 16, 0},
    {"cached 4 MiB, one at a time", "preadv2 NOWAIT", by_nowait, 4 << 20, 64, 1, 0},
    {"cached 4 MiB, one at a time", "io_uring fixed", by_ring, 4 << 20, 64, 1, 0},
    {"cold 4 KiB", "1 thread", by_threads, 4096, 1000, 1, 1},
    {"cold 4 KiB", "io_uring, depth 1", by_full_ring, 4096, 1000, 1, 1},
    {"cold 4 KiB", "4 threads", by_threads, 4096, 2000, FILLERS, 1},
    {"cold 4 KiB", "io_uring, depth 4", by_full_ring, 4096, 2000, FILLERS, 1},
    {"cold 4 KiB", "32 threads", by_threads, 4096, 4000, DEPTH_MAX, 1},
    {"cold 4 KiB", "io_uring, depth 32", by_full_ring, 4096, 4000, DEPTH_MAX, 1},
    {"cold 4 MiB", "4 threads", by_threads, 4 << 20, 48, FILLERS, 1},
    {"cold 4 MiB", "io_uring, depth 4", by_full_ring, 4 << 20, 48, FILLERS, 1},
};
enum { ROWS = sizeof rows / sizeof rows[0] };

static void warm(void) {
    for (off_t at = 0; at < (off_t)FILE_BYTES; at += 4 << 20)
        if (pread(file, memory, 4 << 20, at) < 0) fail("pread");
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

static void measure(const struct row *row, double *us, double *cpu_us) {
    static off_t offsets[1 << 16];
    size_t blocks = FILE_BYTES / row->bytes;
    for (int i = 0; i < row->count; i++) offsets[i] = (off_t)((size_t)random() % blocks * row->bytes);
    if (row->cold) posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    posix_fadvise(file, 0, 0, row->cold && row->bytes == 4096 ? POSIX_FADV_RANDOM : POSIX_FADV_NORMAL);
    if (!row->cold) warm();
    struct work work = {row->bytes, row->count, row->depth, offsets, 0};
    double cpu = cpu_s(), began = now_s();
    row->read(&work);
    *us = (now_s() - began) / row->count * 1e6, *cpu_us = (cpu_s() - cpu) / row->count * 1e6;
}

int main(int argc, char **argv) {
    static double us[ROWS][ROUNDS_MAX], cpu_us[ROWS][ROUNDS_MAX];
    int rounds = argc > 2 ? atoi(argv[2]) : 7;
    struct stat status;
    file = argc > 1 ? open(argv[1], O_RDONLY) : -1;
    if (file < 0 || rounds < 1 || rounds > ROUNDS_MAX || fstat(file, &status) || (size_t)status.st_size < FILE_BYTES)
        return fprintf(stderr, "usage: uring FILE [ROUNDS]: a file of 256 MiB or more; 1 to 25 rounds\n"), 2;
    int fd = memfd_create("pages", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, DEPTH_MAX * (4l << 20))) fail("memfd");
    memory = mmap(NULL, DEPTH_MAX * (4l << 20), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (memory == MAP_FAILED) fail("mmap");
    ring_open();
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < ROWS; i++) measure(&rows[i], &us[i][round], &cpu_us[i][round]);
    printf("%-28s %-20s %10s %12s\n", "shape", "way", "us/read", "CPU us/read");
    for (int i = 0; i < ROWS; i++) {
        double took = median(us[i], rounds), cpu = median(cpu_us[i], rounds);
        printf("%-28s %-20s %10.2f %12.2f\n", rows[i].shape, rows[i].way, took, cpu);
    }
    return 0;
}
