/* launch CGROUP LOG TAG COMMAND...: enters a control group, writes "TAG now" to the end of the log, and becomes COMMAND. The time is taken
 * last, so that what follows it is the command's own. CGROUP is "-" where there is none. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int put(const char *path, int flags, const char *text)
{
    int file = open(path, O_WRONLY | O_CLOEXEC | flags);
    ssize_t length = (ssize_t)strlen(text);
    int bad = file < 0 || write(file, text, (size_t)length) != length;
    if (file >= 0)
        close(file);
    return bad;
}

int main(int argc, char **argv)
{
    char path[4096], line[256];
    struct timespec now;
    if (argc < 5)
        return fprintf(stderr, "usage: launch CGROUP LOG TAG COMMAND...\n"), 2;
    snprintf(path, sizeof path, "%s/cgroup.procs", argv[1]);
    if (strcmp(argv[1], "-") && put(path, 0, "0"))
        return perror(path), 125;
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(line, sizeof line, "%s %lld\n", argv[3], (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    if (put(argv[2], O_APPEND, line))
        return perror(argv[2]), 125;
    execvp(argv[4], argv + 4);
    perror(argv[4]);
    return 127;
}
