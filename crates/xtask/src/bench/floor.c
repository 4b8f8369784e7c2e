/* The least a sandbox costs: clone with new namespaces, an overlay of its own, pivot_root, exec, wait.
 * Prints nanoseconds, one start a line. Run as root: floor DIR TIMES. The program executed is this one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *step) { fprintf(stderr, "%s: %s\n", step, strerror(errno)); _exit(1); }

static void copy(const char *from, const char *to) {
    char buf[65536]; ssize_t n;
    int in = open(from, O_RDONLY), out = open(to, O_CREAT | O_WRONLY | O_TRUNC, 0755);
    if (in < 0 || out < 0) die("copy");
    while ((n = read(in, buf, sizeof buf)) > 0) if (write(out, buf, n) != n) die("copy");
    close(in); close(out);
}

int main(int argc, char **argv) {
    if (argc < 3) return 0; /* executed inside: the first command, which does nothing */
    char path[4096], opts[12288];
    mkdir(argv[1], 0755);
    if (mount("floor", argv[1], "tmpfs", 0, NULL)) die("tmpfs");
    const char *dirs[] = {"lower", "upper", "work", "root", "lower/old", "lower/proc"};
    for (unsigned i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        snprintf(path, sizeof path, "%s/%s", argv[1], dirs[i]);
        if (mkdir(path, 0755)) die(path);
    }
    snprintf(path, sizeof path, "%s/lower/true", argv[1]);
    copy("/proc/self/exe", path);
    for (int i = atoi(argv[2]); i > 0; i--) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        pid_t pid = syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD,
                            NULL, NULL, NULL, NULL);
        if (pid < 0) die("clone");
        if (pid == 0) {
            if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("private");
            snprintf(opts, sizeof opts, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", argv[1], argv[1], argv[1]);
            snprintf(path, sizeof path, "%s/root", argv[1]);
            if (mount("overlay", path, "overlay", 0, opts)) die("overlay");
            if (chdir(path) || syscall(SYS_pivot_root, ".", "old")) die("pivot_root");
            if (mount("proc", "/proc", "proc", 0, NULL)) die("proc");
            if (umount2("/old", MNT_DETACH)) die("detach");
            char *args[] = {"/true", NULL}, *env[] = {NULL};
            execve("/true", args, env);
            die("exec");
        }
        int status;
        if (waitpid(pid, &status, 0) < 0 || status) die("child");
        clock_gettime(CLOCK_MONOTONIC, &b);
        printf("%lld\n", (b.tv_sec - a.tv_sec) * 1000000000LL + (b.tv_nsec - a.tv_nsec));
    }
    return umount2(argv[1], MNT_DETACH) ? 1 : 0;
}
