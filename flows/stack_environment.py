"""What each service of a stack gets of the environment of `nanochat up`: what it needs, by name, and nothing else.

A shell has keys of clouds, hubs and forges in it. A database or a store has no use for them, runs as another user
perhaps, and may tell them to whoever looks into it. Patterns are fnmatch's; what a part sets itself comes on top.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from nanochat_core.base.environment import KEEP

PROGRAM = ("PATH", "LANG", "LANGUAGE", "LC_*", "TZ", "TZDIR", "TMPDIR", "LD_LIBRARY_PATH")
"""Any program: where libraries are, and how to write text and times."""
PYTHON = (
    *PROGRAM, "HOME", "USER", "LOGNAME", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX", "PYTHONFAULTHANDLER", "PYTHONUNBUFFERED", "DO_NOT_TRACK",
)  # fmt: skip
SERVER = (
    *PYTHON,
    "PREFECT_SERVER_*",
    "PREFECT_UI_*",
    "PREFECT_LOGGING_*",
    "PREFECT_API_DATABASE_*",
    "PREFECT_PROFILE*",
)
WORKER = (
    *PYTHON, "SHELL", "XDG_*", "NANOCHAT_*", KEEP,
    "PREFECT_WORKER_*", "PREFECT_RUNNER_*", "PREFECT_FLOWS_*", "PREFECT_TASKS_*", "PREFECT_TASK_RUNNER_*",
    "PREFECT_RESULTS_*", "PREFECT_LOGGING_*", "PREFECT_CLIENT_*", "PREFECT_API_REQUEST_TIMEOUT",
    # where data come from: the hub, through a proxy, with somebody's certificates
    "HF_*", "HUGGING_FACE_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "TIKTOKEN_*", "HTTP_PROXY", "HTTPS_PROXY",
    "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_*",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    # what a training computes on and with
    "CUDA_*", "NVIDIA_*", "ROCR_*", "HIP_*", "HSA_*", "NCCL_*", "RCCL_*", "GLOO_*", "TP_*", "OMP_*", "GOMP_*",
    "KMP_*", "MKL_*", "*_NUM_THREADS", "TORCH*", "PYTORCH_*", "TRITON_*", "MALLOC_*", "LD_PRELOAD", "CC", "CXX",
    "CPATH", "LIBRARY_PATH", "MPLCONFIGDIR", "RAY_*", "DASK_*",
)  # fmt: skip
STORE_KEYS = ("AWS_*",)
"""For workers whose store is somebody's own."""


def passed_on(given: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The variables of `given` that a service with these names gets."""
    patterns = tuple(names)
    return {name: value for name, value in given.items() if any(fnmatchcase(name, each) for each in patterns)}
