"""Running Python that a language model wrote: HumanEval, and rewards in reinforcement learning.

    with Sandbox(Limits(wall_s=5.0), num_workers=8) as sandbox:
        outcomes = sandbox.run_many(programs)       # outcomes[i].status: passed, failed, timeout, memory, crashed

Each program is a fork of a warm interpreter that was shut in before it started, in one of two ways (`capabilities()`
says which; the first is tried first, and a worker tries what must not work before it takes programs):

    what                 namespaces (root, or user namespaces)       landlock (most containers; no rights needed)
    files                own file system of bind mounts, no /proc    Landlock: interpreter read-only, private folder
    private folder       tmpfs, noexec, with a size                  a folder outside; measured ten times a second
    other processes      PID namespace, seccomp                      seccomp
    network              network namespace, seccomp                  seccomp
    left-over daemons    kill(-1) by the namespace's process 1       child subreaper; launcher stops and kills them
    user                 as root: one without a name                 the same

The list of system calls (seccomp.py) is the same in both, and only of what Python programs need: no sockets but stream
pairs, no signals, no change of modes, owners, times or attributes, no memory that no limit counts, no watches, nothing
that is newer than the list. Code is mapped and programs are started while the interpreter warms up, never after it: a
library that a program wrote, or LD_PRELOAD, has nowhere to go. No capability is kept. An environment of four harmless
variables, stdin from /dev/null, no inherited descriptors; limits on CPU and wall time, memory, processes, files and
output; when the caller dies, by SIGKILL too, everything inside dies. Where neither way works, or Landlock is the only
one and too old to refuse truncation (before Linux 6.2), it refuses, unless `allow_unsafe` (limits and clean-up only).

"Passed" is decided outside the program's process, by a random token that only a program which returned from its last
statement writes back (zygote.py). Exit calls, printed markers and writes to any descriptor do not pass, and what is
said on the verdict's line is never parsed.

What it does NOT stop, SECURITY.md says at length:
- A program that shares its interpreter with its checks can fool the checks: an object equal to everything, a replaced
  `builtins.len`, a thread that redefines the checking function. Nothing inside one interpreter can prevent that.
- A bug in CPython (or crafted bytecode by marshal) gets around the audit hook that keeps the token, though not around
  the list of system calls. Where _ctypes is compiled into the interpreter (some static builds), it may be reached.
- Reading what lies in the interpreter's own folders: site-packages there may be listed and imported by path.
- Bugs of the kernel: all programs share the host's. For code of an attacker, put a virtual machine around it.
- Names: with Landlock alone, stat() still tells that a file exists; the kernel's version, time and load are visible.
- Memory is limited per process: the worst case per worker is num_processes x (memory_mib + 14 MiB in pipes and sockets)
  + file_mib.
- With Landlock alone: between two looks at the folder, a tenth of a second apart, more than file_mib can be written; an
  unprivileged caller's process limit has slack for the caller's own; a program outlives a SIGKILL of the *launcher*
  until its CPU limit.
"""

from nanochat_core.sandbox.outcome import Limits, Outcome, Status
from nanochat_core.sandbox.pool import Sandbox

__all__ = ["Limits", "Outcome", "Sandbox", "Status"]
