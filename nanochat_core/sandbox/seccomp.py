"""The system call filter: what no generated program needs and what leads out of the sandbox is refused with EPERM.

A list of refusals, not of permissions: the interpreter's own needs change with the C library, the ways out are few and
known. Written as classic BPF for prctl(PR_SET_SECCOMP) (kernel: Documentation/userspace-api/seccomp_filter.rst);
filters survive fork and exec and cannot be taken off. Call numbers: asm/unistd_64.h and asm-generic/unistd.h.
"""

import ctypes
import errno
import platform
import struct

from nanochat_core.sandbox import linux

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000  # x86_64 only: the same calls under other numbers
SECCOMP_MODE_FILTER = 2
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each

# name -> (x86_64, aarch64)
NETWORK = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "bind": (49, 200), "listen": (50, 201),
    "accept4": (288, 242),
}  # fmt: skip
# io_uring makes the calls above on its own, past any filter.
KERNEL = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142), "syslog": (103, 116),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "personality": (135, 92),
    "quotactl": (179, 60), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
}  # fmt: skip
NAMESPACES = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
}  # fmt: skip
OTHER_PROCESSES = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
}  # fmt: skip
# What would outlive the program: memory and messages that belong to no process.
LASTING = {
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
SIGNALS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}  # fmt: skip
PRLIMIT, CLONE, CLONE3 = (302, 261), (56, 220), (435, 435)
NEW_NAMESPACE_FLAGS = 0x7E020000  # any CLONE_NEW... that clone takes

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def refuse(*, refuse_signals: bool) -> None:
    """Install the filter in this process for good. `refuse_signals`: where no PID namespace guards other processes."""
    instructions = _filter(refuse_signals=refuse_signals)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def is_known_machine() -> bool:
    """Whether the call numbers of this processor are in the table."""
    return platform.machine() in AUDIT_ARCH


def _filter(*, refuse_signals: bool) -> list[Instruction]:
    machine = platform.machine()
    column = list(AUDIT_ARCH).index(machine)
    groups = [NETWORK, KERNEL, NAMESPACES, OTHER_PROCESSES, LASTING, *([SIGNALS] if refuse_signals else [])]
    numbers = [pair[column] for group in groups for pair in group.values()]
    denied = (RETURN, 0, 0, RET_ERRNO | errno.EPERM)
    out: list[Instruction] = [
        (LOAD_WORD, 0, 0, ARCH_AT),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, RET_KILL_PROCESS),
        (LOAD_WORD, 0, 0, NUMBER_AT),
    ]
    if machine == "x86_64":
        out += [(JUMP_AT_LEAST, 0, 1, X32_BIT), denied]
    for number in numbers:
        out += [(JUMP_EQUAL, 0, 1, number), denied]
    # clone3 hides its flags behind a pointer that a filter cannot follow; "not there" makes the C library use clone.
    out += [(JUMP_EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, RET_ERRNO | errno.ENOSYS)]
    out += [
        (JUMP_EQUAL, 0, 4, CLONE[column]),
        (LOAD_WORD, 0, 0, ARGUMENT_AT),
        (JUMP_BITS, 0, 1, NEW_NAMESPACE_FLAGS),
        denied,
        (RETURN, 0, 0, RET_ALLOW),
    ]
    # prlimit of oneself (process 0) is how the C library sets limits; of others it would change the caller's.
    out += [(JUMP_EQUAL, 0, 3, PRLIMIT[column]), (LOAD_WORD, 0, 0, ARGUMENT_AT), (JUMP_EQUAL, 1, 0, 0), denied]
    return [*out, (RETURN, 0, 0, RET_ALLOW)]
