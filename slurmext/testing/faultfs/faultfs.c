/* Counts what a process does to the files under one directory, and at one of these operations fails or kills it.
 *
 * Loaded with LD_PRELOAD. faultfs_start(root, mode, point, error) begins to count; at operation number `point` (the first
 * is 1) the process is killed before it, after it or half-way through a write, or the operation fails with `error` or
 * writes less than asked for. faultfs_trace(path) writes every operation with its data to a file, for crash states of a
 * machine that lost power (see power.py). Opening counts only where it makes a file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { OFF, COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL_ONCE, FAIL_ON, SHORT };
enum op { CREATE = 1, WRITE, FSYNC, FTRUNCATE, FALLOCATE, RENAME, LINK, MKDIR, UNLINK, RMDIR, MARK };

static char root[PATH_MAX];
static size_t root_length;
static int mode, point, error_number, trace_fd = -1;
static long counter;
static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t real_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, size);
}

static ssize_t real_pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    return real(fd, data, size, offset);
}

void faultfs_start(const char *directory, int wanted, int at, int number) {
    snprintf(root, sizeof root, "%s/", directory);
    root_length = strlen(root);
    point = at;
    error_number = number;
    __atomic_store_n(&counter, 0, __ATOMIC_SEQ_CST);
    mode = wanted;
}

long faultfs_stop(void) {
    mode = OFF;
    return __atomic_load_n(&counter, __ATOMIC_SEQ_CST);
}

int faultfs_trace(const char *path) {
    REAL(int, "open64", const char *, int, ...);
    trace_fd = path ? real(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0600) : -1;
    return trace_fd;
}

static int under(const char *path) {
    return mode != OFF && path && (strncmp(path, root, root_length) == 0);
}

/* The path an fd is open on, as it is called now; empty when that is not under the root. */
static int path_of(int fd, char *into) {
    char link[64];
    if (mode == OFF) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, into, PATH_MAX - 1);
    if (size <= 0) return 0;
    into[size] = 0;
    return strncmp(into, root, root_length) == 0 || strncmp(into, root, root_length - 1) == 0;
}

static int path_at(int dirfd, const char *path, char *into) {
    if (path[0] == '/') {
        snprintf(into, PATH_MAX, "%s", path);
        return under(into);
    }
    char folder[PATH_MAX];
    if (dirfd == AT_FDCWD || !path_of(dirfd, folder)) return 0;
    snprintf(into, PATH_MAX, "%.2000s/%.2000s", folder, path);
    return under(into);
}

static void put(enum op op, const char *path, const char *other, uint64_t ino, uint64_t offset, const void *data, uint64_t size) {
    if (trace_fd < 0) return;
    uint64_t head[6] = {op, path ? strlen(path) : 0, other ? strlen(other) : 0, ino, offset, size};
    pthread_mutex_lock(&trace_lock);
    real_write(trace_fd, head, sizeof head);
    if (path) real_write(trace_fd, path, head[1]);
    if (other) real_write(trace_fd, other, head[2]);
    for (uint64_t done = 0; data && done < size;) {
        ssize_t count = real_write(trace_fd, (const char *)data + done, size - done);
        if (count <= 0) break;
        done += count;
    }
    pthread_mutex_unlock(&trace_lock);
}

/* A note of the program's own in the trace. */
void faultfs_mark(const char *text) { put(MARK, text, NULL, 0, 0, NULL, 0); }

static uint64_t inode(int fd) {
    struct stat state;
    return fstat(fd, &state) == 0 ? state.st_ino : 0;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts an operation: 0 go on, 1 fail with errno set, 2 do it by half, 3 die when it is done. */
static int count(int writes) {
    long number = __atomic_add_fetch(&counter, 1, __ATOMIC_SEQ_CST);
    if (mode == FAIL_ON && number >= point) {
        errno = error_number;
        return 1;
    }
    if (number != point) return 0;
    switch (mode) {
    case KILL_BEFORE:
        die();
        break;
    case KILL_AFTER:
        return 3;
    case KILL_HALF:
        if (!writes) die();
        return 2;
    case FAIL_ONCE:
        errno = error_number;
        return 1;
    case SHORT:
        return writes ? 2 : 0;
    }
    return 0;
}

#define GUARD(writes) \
    int verdict = count(writes); \
    if (verdict == 1) return -1

#define DONE \
    if (verdict == 3 || (verdict == 2 && mode == KILL_HALF)) die()

static ssize_t writing(int fd, const void *data, size_t size, off_t offset, int at) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return at ? real_pwrite(fd, data, size, offset) : real_write(fd, data, size);
    GUARD(1);
    if (verdict == 2) size = size > 1024 ? size / 2 / 512 * 512 : size / 2;
    off_t where = at ? offset : lseek(fd, 0, SEEK_CUR);
    ssize_t done = size == 0 ? 0 : at ? real_pwrite(fd, data, size, offset) : real_write(fd, data, size);
    if (done > 0) put(WRITE, path, NULL, inode(fd), where, data, done);
    DONE;
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return writing(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return writing(fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return writing(fd, data, size, offset, 1); }

static int opening(int dirfd, const char *path, int flags, int permissions) {
    REAL(int, "openat64", int, const char *, int, ...);
    char full[PATH_MAX];
    if (mode == OFF || !(flags & O_CREAT) || !path_at(dirfd, path, full) || access(full, F_OK) == 0)
        return real(dirfd, path, flags, permissions);
    GUARD(0);
    int fd = real(dirfd, path, flags, permissions);
    if (fd >= 0) put(CREATE, full, NULL, inode(fd), 0, NULL, 0);
    DONE;
    return fd;
}

#define OPEN(name, first, argument, ...) \
    int name(__VA_ARGS__, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        int permissions = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        return opening(first, argument, flags, permissions); \
    }
OPEN(open, AT_FDCWD, path, const char *path, int flags)
OPEN(open64, AT_FDCWD, path, const char *path, int flags)
OPEN(openat, dirfd, path, int dirfd, const char *path, int flags)
OPEN(openat64, dirfd, path, int dirfd, const char *path, int flags)

#define ON_FD(name, symbol, op, parameters, arguments, types, offset, size) \
    int name parameters { \
        REAL(int, symbol, types); \
        char path[PATH_MAX]; \
        if (!path_of(fd, path)) return real arguments; \
        GUARD(0); \
        int done = real arguments; \
        if (done == 0) put(op, path, NULL, inode(fd), offset, NULL, size); \
        DONE; \
        return done; \
    }
#define TYPES(...) __VA_ARGS__
ON_FD(fsync, "fsync", FSYNC, (int fd), (fd), TYPES(int), 0, 0)
ON_FD(fdatasync, "fdatasync", FSYNC, (int fd), (fd), TYPES(int), 0, 0)
ON_FD(ftruncate, "ftruncate64", FTRUNCATE, (int fd, off_t size), (fd, size), TYPES(int, off_t), 0, size)
ON_FD(ftruncate64, "ftruncate64", FTRUNCATE, (int fd, off_t size), (fd, size), TYPES(int, off_t), 0, size)
ON_FD(fallocate, "fallocate64", FALLOCATE, (int fd, int how, off_t offset, off_t size), (fd, how, offset, size),
      TYPES(int, int, off_t, off_t), offset, size)
ON_FD(fallocate64, "fallocate64", FALLOCATE, (int fd, int how, off_t offset, off_t size), (fd, how, offset, size),
      TYPES(int, int, off_t, off_t), offset, size)

#define ON_NAMES(name, op, parameters, arguments, types, fd1, path1, fd2, path2) \
    int name parameters { \
        REAL(int, #name, types); \
        char from[PATH_MAX], to[PATH_MAX]; \
        if (mode == OFF || !path_at(fd1, path1, from) || !path_at(fd2, path2, to)) return real arguments; \
        GUARD(0); \
        int done = real arguments; \
        if (done == 0) put(op, from, to, 0, 0, NULL, 0); \
        DONE; \
        return done; \
    }
ON_NAMES(rename, RENAME, (const char *a, const char *b), (a, b), TYPES(const char *, const char *), AT_FDCWD, a, AT_FDCWD, b)
ON_NAMES(renameat, RENAME, (int d, const char *a, int e, const char *b), (d, a, e, b),
         TYPES(int, const char *, int, const char *), d, a, e, b)
ON_NAMES(link, LINK, (const char *a, const char *b), (a, b), TYPES(const char *, const char *), AT_FDCWD, a, AT_FDCWD, b)
ON_NAMES(linkat, LINK, (int d, const char *a, int e, const char *b, int flags), (d, a, e, b, flags),
         TYPES(int, const char *, int, const char *, int), d, a, e, b)

#define ON_NAME(name, op, parameters, arguments, types, dirfd, path) \
    int name parameters { \
        REAL(int, #name, types); \
        char full[PATH_MAX]; \
        if (mode == OFF || !path_at(dirfd, path, full)) return real arguments; \
        GUARD(0); \
        int done = real arguments; \
        if (done == 0) put(op, full, NULL, 0, 0, NULL, 0); \
        DONE; \
        return done; \
    }
ON_NAME(mkdir, MKDIR, (const char *a, mode_t m), (a, m), TYPES(const char *, mode_t), AT_FDCWD, a)
ON_NAME(mkdirat, MKDIR, (int d, const char *a, mode_t m), (d, a, m), TYPES(int, const char *, mode_t), d, a)
ON_NAME(unlink, UNLINK, (const char *a), (a), TYPES(const char *), AT_FDCWD, a)
ON_NAME(rmdir, RMDIR, (const char *a), (a), TYPES(const char *), AT_FDCWD, a)
ON_NAME(unlinkat, (flags & AT_REMOVEDIR ? RMDIR : UNLINK), (int d, const char *a, int flags), (d, a, flags),
        TYPES(int, const char *, int), d, a)
