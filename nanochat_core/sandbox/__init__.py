"""Running Python that a language model wrote: HumanEval, and rewards in reinforcement learning.

    with Sandbox(Limits(wall_s=5.0), num_workers=8) as sandbox:
        outcomes = sandbox.run_many(programs)       # outcomes[i].status: passed, failed, timeout, memory, crashed

Each program is a fork of a warm interpreter that was shut in before it started, in one of two ways (`capabilities()`
says which; the first is tried first, and a worker tries what must not work before it takes programs):

    what                 namespaces (root, or user namespaces)       landlock (most containers; no rights needed)
    network              network namespace; seccomp: no socket()     seccomp: no socket()
    files                own file system of bind mounts, no /proc    Landlock: interpreter read-only, private folder
    other processes      PID namespace                               seccomp: no signals, not even to itself
    left-over daemons    kill(-1) by the namespace's process 1       child subreaper; launcher stops and kills them
    private folder       tmpfs, noexec, with a size                  a folder outside, size per file
    user                 as root: one without a name                 the same

In both: an environment of four harmless variables, stdin from /dev/null, no inherited descriptors, no_new_privs, a
seccomp list (ptrace, io_uring, bpf, keys, namespaces, mounts, System V memory...), limits on CPU and wall time, memory,
processes, files and output; when the caller dies, by SIGKILL too, everything inside dies. Where neither way works it
refuses, unless `allow_unsafe` (limits and clean-up only).

"Passed" is decided outside the program's process, by a random token that only a program which returned from its last
statement writes back (zygote.py). Exit calls, printed markers, writes to any descriptor and exec do not pass.

What it does NOT stop:
- A program that shares its interpreter with its checks can fool the checks: an object equal to everything, a replaced
  `builtins.len`, a thread that redefines the checking function. Nothing inside one interpreter can prevent that.
- Native code inside the interpreter could find the token: ctypes, gc searches, tracing and crafted code objects are
  refused by an audit hook, but a bug in CPython (or crafted bytecode by marshal) gets around hooks.
- Reading what lies in the interpreter's own folders: site-packages there may be listed and imported by path. And where
  _ctypes is compiled into the interpreter (some static builds), an import by name escapes the audit hook.
- Bugs of the kernel: all programs share the host's. For code of an attacker, put a virtual machine around it.
- Names: with Landlock alone, stat() still tells that a file exists; the kernel's version, time and load are visible.
- Memory is limited per process: the worst case per worker is num_processes x memory_mib + file_mib.
- With Landlock alone: many files of file_mib each can fill the disk while a program runs (all are removed after it);
  an unprivileged caller's process limit has slack for the caller's own; a program outlives a SIGKILL of the *launcher*
  until its CPU limit.
"""

from nanochat_core.sandbox.outcome import Limits, Outcome, Status
from nanochat_core.sandbox.pool import Sandbox

__all__ = ["Limits", "Outcome", "Sandbox", "Status"]
