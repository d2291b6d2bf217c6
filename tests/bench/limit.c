/* The limit: what the kernel asks for running scripts from a directory one after the other, and for each guarantee of gvad by itself.
 *
 * Without options: a sorted listing, and for each name rename, posix_spawn, wait, unlink. Each option adds the system calls of one guarantee
 * and nothing else: no checks, no recovery, no configuration. It is a yardstick, not a daemon. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { RECORD = 512, JOURNAL = 1 << 20, PATH = 4096 };

static struct {
    const char *dir, *claims, *copy, *capture, *results, *journal, *cgroup;
    int watch, sync_claim, sync_result;
    long group;
} want = {.group = 1};

static int claims_fd = -1, results_fd = -1, journal_fd = -1;
static long serial, journal_at;

static void die(const char *what)
{
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void check(int bad, const char *what)
{
    if (bad)
        die(what);
}

static void join(char *path, const char *dir, const char *name)
{
    if (snprintf(path, PATH, "%s/%s", dir, name) >= PATH)
        die("a path is too long");
}

/* Guarantee: the script runs from a private copy, on another file system. */
static void copy_script(const char *from, const char *to)
{
    struct stat look;
    off_t at = 0;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    check(in < 0 || fstat(in, &look), from);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
    check(out < 0, to);
    while (at < look.st_size)
        check(sendfile(out, in, &at, (size_t)(look.st_size - at)) <= 0, "sendfile");
    close(out);
    close(in);
}

/* Guarantee: start mark (and the result before it) durable, in a file that was filled with zeros: one sync, no journal commit. */
static void journal(char *const *names, long count)
{
    static char records[64 * RECORD];
    size_t length = (size_t)count * RECORD;
    memset(records, 0, length);
    for (long at = 0; at < count; at++)
        snprintf(records + at * RECORD, RECORD, "start %ld %s; the one before it: exited 0\n", serial + at, names[at]);
    if (journal_at + (long)length > JOURNAL)
        journal_at = 0;
    check(pwrite(journal_fd, records, length, journal_at) != (ssize_t)length, want.journal);
    check(fdatasync(journal_fd), want.journal);
    journal_at += (long)length;
}

/* Guarantee: a result file, whole and durable before the script goes. */
static void write_result(const char *name, int status)
{
    char temporary[PATH], path[PATH], text[RECORD];
    join(temporary, want.results, ".result.tmp");
    snprintf(path, PATH, "%s/%s.json", want.results, name);
    int length = snprintf(text, sizeof text, "{\"script\":\"%.200s\",\"status\":%d}\n", name, status);
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    check(file < 0 || write(file, text, (size_t)length) != length, temporary);
    check(want.sync_result && fsync(file), temporary);
    close(file);
    check(rename(temporary, path), path);
    check(want.sync_result && fsync(results_fd), want.results);
}

/* Like vfork(2): the child borrows this stack, so it does nothing but dup2 and execve before it lets go of it. */
static __attribute__((noinline)) pid_t clone_into(int group, const char *path, int out, int err)
{
    struct clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group};
    char *argv[] = {(char *)path, NULL};
    long pid;
#if defined(__x86_64__)
    __asm__ volatile("syscall" : "=a"(pid) : "0"(SYS_clone3), "D"(&args), "S"(sizeof args) : "rcx", "r11", "memory");
#else
    args.flags &= ~(uint64_t)CLONE_VM;
    pid = syscall(SYS_clone3, &args, sizeof args);
#endif
    if (pid == 0) {
        if (out >= 0 && (dup2(out, 1) < 0 || dup2(err, 2) < 0))
            _exit(126);
        execve(path, argv, environ);
        _exit(127);
    }
    if (pid < 0) {
        errno = (int)-pid;
        die("clone3 into a control group");
    }
    return (pid_t)pid;
}

static pid_t spawn(const char *path, int out, int err)
{
    char *argv[] = {(char *)path, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    if (out >= 0) {
        posix_spawn_file_actions_adddup2(&actions, out, 1);
        posix_spawn_file_actions_adddup2(&actions, err, 2);
    }
    errno = posix_spawn(&pid, path, &actions, NULL, argv, environ);
    check(errno, path);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

/* Guarantee: a control group for the script's tree; without one a plain posix_spawn. Returns the status. */
static int execute(const char *path, int out, int err)
{
    char group[PATH];
    int status;
    if (!want.cgroup) {
        check(waitpid(spawn(path, out, err), &status, 0) < 0, "waitpid");
        return status;
    }
    snprintf(group, PATH, "%s/limit-%ld", want.cgroup, serial);
    check(mkdir(group, 0755), group);
    int fd = open(group, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    check(fd < 0, group);
    check(waitpid(clone_into(fd, path, out, err), &status, 0) < 0, "waitpid");
    close(fd);
    check(rmdir(group), group);
    return status;
}

static int capture_file(const char *name, const char *ending)
{
    char path[PATH];
    snprintf(path, PATH, "%s/%s%s", want.capture, name, ending);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    check(file < 0, path);
    return file;
}

static void run(const char *name)
{
    char claimed[PATH], program[PATH];
    int out = -1, err = -1;
    join(claimed, want.claims, name);
    join(program, want.copy ? want.copy : want.claims, name);
    if (want.copy)
        copy_script(claimed, program);
    if (want.capture) {
        out = capture_file(name, ".stdout");
        err = capture_file(name, ".stderr");
    }
    int status = execute(program, out, err);
    if (want.capture) {
        check(want.sync_result && (fdatasync(out) || fdatasync(err)), "syncing the output");
        close(out);
        close(err);
    }
    if (want.results)
        write_result(name, status);
    check(unlink(claimed), claimed);
    if (want.copy)
        check(unlink(program), program);
    serial++;
}

/* Guarantee: claimed, so that no second one takes it. False if somebody else has. */
static int claim(const char *name)
{
    char from[PATH], to[PATH];
    join(from, want.dir, name);
    join(to, want.claims, name);
    if (rename(from, to)) {
        check(errno != ENOENT, from);
        return 0;
    }
    return 1;
}

static void run_batch(char *const *names, long count)
{
    char *claimed[64];
    long have = 0;
    for (long at = 0; at < count; at++)
        if (claim(names[at]))
            claimed[have++] = names[at];
    if (!have)
        return;
    check(want.sync_claim && fsync(claims_fd), want.claims);
    if (want.journal)
        journal(claimed, have);
    for (long at = 0; at < have; at++)
        run(claimed[at]);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static long list(char ***names)
{
    long count = 0, room = 0;
    DIR *dir = opendir(want.dir);
    check(!dir, want.dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        if (count == room) {
            room = room ? 2 * room : 64;
            *names = realloc(*names, (size_t)room * sizeof **names);
            check(!*names, "memory");
        }
        (*names)[count] = strdup(entry->d_name);
        check(!(*names)[count++], "memory");
    }
    closedir(dir);
    if (count)
        qsort(*names, (size_t)count, sizeof **names, by_name);
    return count;
}

static long pass(void)
{
    char **names = NULL;
    long count = list(&names);
    for (long at = 0; at < count; at += want.group)
        run_batch(names + at, count - at < want.group ? count - at : want.group);
    for (long at = 0; at < count; at++)
        free(names[at]);
    free(names);
    return count;
}

static void watch(void)
{
    char events[65536];
    int inotify = inotify_init1(IN_CLOEXEC);
    check(inotify < 0 || inotify_add_watch(inotify, want.dir, IN_MOVED_TO | IN_CLOSE_WRITE) < 0, "inotify");
    for (;;) {
        while (pass())
            ;
        check(read(inotify, events, sizeof events) <= 0 && errno != EINTR, "inotify");
    }
}

static int open_dir(const char *path)
{
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    check(dir < 0, path);
    return dir;
}

static void prepare_journal(void)
{
    char *zeros = calloc(1, JOURNAL);
    journal_fd = open(want.journal, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    check(!zeros || journal_fd < 0 || write(journal_fd, zeros, JOURNAL) != JOURNAL || fsync(journal_fd), want.journal);
    free(zeros);
}

static const char usage[] =
    "usage: limit [options] DIR CLAIMS\n"
    "Runs what is in DIR, in order: rename into CLAIMS (same file system), posix_spawn, wait, unlink.\n"
    "  --copy DIR      run a copy made in DIR\n"
    "  --capture DIR   stdout and stderr of each into files in DIR\n"
    "  --sync-claim    make each claim durable: fsync of CLAIMS\n"
    "  --result DIR    a result file of each in DIR\n"
    "  --sync-result   make output files and results durable before the script is deleted\n"
    "  --journal FILE  one record of 512 bytes a script, overwritten in place, one fdatasync: start mark and last result\n"
    "  --group N       claim N and make their records durable together, at most 64\n"
    "  --cgroup DIR    a control group for each below DIR: mkdir, clone3 into it, rmdir\n"
    "  --watch         go on: inotify, one listing a wake-up\n";

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"copy", 1, 0, 'c'},        {"capture", 1, 0, 'o'}, {"sync-claim", 0, 0, 's'}, {"result", 1, 0, 'r'},
        {"sync-result", 0, 0, 'S'}, {"journal", 1, 0, 'j'}, {"group", 1, 0, 'g'},      {"cgroup", 1, 0, 'G'},
        {"watch", 0, 0, 'w'},       {"help", 0, 0, 'h'},    {0}};
    for (int option; (option = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (option) {
            case 'c': want.copy = optarg; break;
            case 'o': want.capture = optarg; break;
            case 's': want.sync_claim = 1; break;
            case 'r': want.results = optarg; break;
            case 'S': want.sync_result = 1; break;
            case 'j': want.journal = optarg; break;
            case 'g': want.group = atol(optarg); break;
            case 'G': want.cgroup = optarg; break;
            case 'w': want.watch = 1; break;
            case 'h': fputs(usage, stdout); exit(0);
            default: fputs(usage, stderr); exit(2);
        }
    }
    if (argc - optind != 2 || want.group < 1 || want.group > 64) {
        fputs(usage, stderr);
        exit(2);
    }
    want.dir = argv[optind];
    want.claims = argv[optind + 1];
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    claims_fd = open_dir(want.claims);
    if (want.results)
        results_fd = open_dir(want.results);
    if (want.journal)
        prepare_journal();
    if (want.watch)
        watch();
    pass();
    return 0;
}
