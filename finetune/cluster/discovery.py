"""Which processes train in step, from what their launcher says in the environment, or from flags.

Looked for in this order: `--workers`; `TF_CONFIG`, as TensorFlow, Ray and Vertex have it; Slurm's variables under
`srun`; Open MPI's; those of torchrun and its like; a Kubernetes Indexed Job with a headless service. What is said on
the command line comes first, since whoever says it knows of the environment, and not the other way round.

A launcher that names but the first process, as all after TF_CONFIG do, leaves it to the others to meet there, and each
says its own address (`meeting`): hosts and ranks are then never matched by their order in two lists.
"""

import json
import logging
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import UserError
from finetune.settings.workers import WorkerSettings, parse_address

TF_CONFIG = "TF_CONFIG"
# Of Slurm's jobs, whose numbers tell two on one machine apart.
FIRST_PORT_OF_JOBS, NUM_PORTS_OF_JOBS = 20_000, 10_000
KUBERNETES_PORT = 29_400
# Roles of TF_CONFIG that train; the first of them is the chief.
_CHIEF_ROLES, _WORKER_ROLE = ("chief", "master"), "worker"
_OUT_OF_IT = "--strategy one trains in this process alone"

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Workers:
    """The processes of a cluster, as one of them knows them beforehand.

    Attributes:
        index: Of this one, from 0; 0 is the chief.
        number: Of all.
        chief: Host and port of the chief.
        addresses: `host:port` of all, the chief's first; None: each says its own when they meet.
        said_by: Where this is from, for messages.
    """

    index: int
    number: int
    chief: tuple[str, int]
    addresses: tuple[str, ...] | None
    said_by: str


def find_workers(settings: WorkerSettings, environ: Mapping[str, str], *, is_resumed: bool) -> Workers | None:
    """The processes that train in step; None: this one trains alone.

    Args:
        settings: What the command line says.
        environ: The environment.
        is_resumed: Whether the settings are those of a run that goes on, whatever machines it had.

    Raises:
        UserError: What is said makes no cluster, or there is none where one is asked for.
    """
    if settings.strategy in ("one", "mirrored"):
        return None
    found: Workers | None = None
    if settings.workers:
        found = _of_flags(settings)
    else:
        found = next((each for find in _LAUNCHERS if (each := find(settings, environ)) is not None), None)
    if found is not None and found.number > 1:
        return _checked(found, settings)
    if settings.strategy == "multi-worker":
        raise UserError(
            "--strategy multi-worker: no launcher says which processes train: there is neither TF_CONFIG, nor are "
            "there variables of Slurm (srun), Open MPI, torchrun or a Kubernetes Indexed Job of more than one process.",
            "Start by one of them, or give --workers HOST:PORT,... and --worker-index.",
        )
    if settings.worker_replicas > 1 and not is_resumed:
        raise UserError(
            f"--worker-replicas {settings.worker_replicas}: where the other processes are isn't said.",
            f"Give --workers HOST:PORT,... with {settings.worker_replicas} addresses and --worker-index, start by a "
            "launcher, or leave it out.",
        )
    if settings.worker_index:
        raise UserError(
            f"--worker-index {settings.worker_index}: of which processes this is one isn't said.",
            "Give --workers HOST:PORT,... with it, or leave it out.",
        )
    return None


def _checked(found: Workers, settings: WorkerSettings) -> Workers:
    if not 0 <= found.index < found.number:
        raise UserError(
            f"{found.said_by}: this is process {found.index} of {found.number}, which count from 0.",
            f"Number them 0 to {found.number - 1}, or leave it: {_OUT_OF_IT}.",
        )
    return found


def _of_flags(settings: WorkerSettings) -> Workers:
    if settings.worker_index is None:
        raise UserError(
            f"--workers names {len(settings.workers)} processes, but not which of them this is.",
            "Give each its --worker-index, from 0.",
        )
    chief = parse_address(settings.workers[0], "--workers")
    return Workers(settings.worker_index, len(settings.workers), chief, settings.workers, "--workers")


def _of_tf_config(settings: WorkerSettings, environ: Mapping[str, str]) -> Workers | None:
    text = environ.get(TF_CONFIG, "")
    if not text.strip():
        return None
    role, index, by_role = _read_tf_config(text)
    if not by_role:
        return None
    chiefs = [address for name in _CHIEF_ROLES for address in by_role.get(name, ())]
    addresses = (*chiefs, *by_role.get(_WORKER_ROLE, ()))
    if len(addresses) < 2:
        return None
    if role not in (*_CHIEF_ROLES, _WORKER_ROLE):
        raise UserError(
            f"{TF_CONFIG}: this process is a {role!r}, and there are no such: every worker keeps all variables.",
            f"Start chief and workers alone; {_OUT_OF_IT}.",
        )
    place = index if role in _CHIEF_ROLES else len(chiefs) + index
    return Workers(place, len(addresses), parse_address(addresses[0], TF_CONFIG), addresses, TF_CONFIG)


def _read_tf_config(text: str) -> tuple[str, int, dict[str, list[str]]]:
    """Role and index of this process, and addresses by role.

    Raises:
        UserError: The text holds no such thing.
    """
    try:
        content: Any = json.loads(text)
        by_role = {str(role): _as_addresses(found) for role, found in content.get("cluster", {}).items()}
        task = content.get("task", {})
        return str(task.get("type", _WORKER_ROLE)), int(task.get("index", 0)), by_role
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f'{TF_CONFIG} is not what TensorFlow expects: {{"cluster": {{"worker": ["host:port", ...]}}, "task": '
            '{"type": "worker", "index": 0}}, but '
            f"{text[:200]!r}.",
            f"Unset it, or set it so; {_OUT_OF_IT}.",
        ) from error


def _as_addresses(found: Any) -> list[str]:
    """A role's addresses, which may be a table by number, as sparse clusters have it."""
    addresses = [found[key] for key in sorted(found, key=int)] if isinstance(found, dict) else found
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise TypeError
    for address in addresses:
        parse_address(address, TF_CONFIG)
    return addresses


def _of_slurm(settings: WorkerSettings, environ: Mapping[str, str]) -> Workers | None:
    """Of a job step: in a batch script, which runs once, SLURM_PROCID is 0 and the step has one task."""
    number = _integer(environ, "SLURM_STEP_NUM_TASKS")
    if number is None or number < 2:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST", "")
    first = first_host(nodes)
    if first is None:
        raise UserError(f"Slurm: SLURM_STEP_NODELIST is {nodes!r}, no list of nodes.", f"Start by srun; {_OUT_OF_IT}.")
    job = (_integer(environ, "SLURM_JOB_ID") or 0) * 7 + (_integer(environ, "SLURM_STEP_ID") or 0)
    port = FIRST_PORT_OF_JOBS + job % NUM_PORTS_OF_JOBS
    return Workers(_index(environ, "SLURM_PROCID", "Slurm"), number, (first, port), None, "Slurm")


def first_host(nodes: str) -> str | None:
    """The first of the hosts that Slurm writes as `node[03-07,12]-ib,other`; None where the text is no such list."""
    match = re.match(r"([^\[\],\s]+)(?:\[(\d+)[^\[\]]*\]([^\[\],\s]*))?(?:,|$)", nodes)
    return "".join(part or "" for part in match.groups()) if match else None


def _of_open_mpi(settings: WorkerSettings, environ: Mapping[str, str]) -> Workers | None:
    number = _integer(environ, "OMPI_COMM_WORLD_SIZE")
    if number is None or number < 2:
        return None
    index = _index(environ, "OMPI_COMM_WORLD_RANK", "Open MPI")
    if "MASTER_ADDR" in environ:
        return Workers(index, number, _master(environ), None, "Open MPI")
    if _integer(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") == number:
        return Workers(index, number, ("127.0.0.1", _master_port(environ)), None, "Open MPI")
    raise UserError(
        f"Open MPI: {number} processes on several machines, but not where the first of them is.",
        f"Give mpirun -x MASTER_ADDR=HOST, the host of rank 0; {_OUT_OF_IT}.",
    )


def _of_torchrun(settings: WorkerSettings, environ: Mapping[str, str]) -> Workers | None:
    number = _integer(environ, "WORLD_SIZE")
    if number is None or number < 2 or "RANK" not in environ or "MASTER_ADDR" not in environ:
        return None
    return Workers(_index(environ, "RANK", "WORLD_SIZE"), number, _master(environ), None, "RANK and WORLD_SIZE")


def _of_kubernetes(settings: WorkerSettings, environ: Mapping[str, str]) -> Workers | None:
    """Of an Indexed Job, whose pods are called JOB-INDEX below a headless service; how many, a flag says.

    Without it this is taken for one of many that have nothing to do with each other.
    """
    if "JOB_COMPLETION_INDEX" not in environ or settings.worker_replicas < 2:
        return None
    index = _index(environ, "JOB_COMPLETION_INDEX", "Kubernetes")
    host = socket.getfqdn()
    name, dot, domain = host.partition(".")
    if not name.endswith(f"-{index}") or not dot:
        raise UserError(
            f"Kubernetes: this pod is called {host}, not JOB-{index}.SERVICE...: where pod 0 is can't be told from it.",
            "Give the job completionMode: Indexed and its pods the subdomain of a headless service, or give --workers.",
        )
    chief = f"{name.removesuffix(f'-{index}')}-0.{domain}"
    return Workers(index, settings.worker_replicas, (chief, _master_port(environ)), None, "Kubernetes")


_LAUNCHERS: tuple[Callable[[WorkerSettings, Mapping[str, str]], Workers | None], ...] = (
    _of_tf_config,
    _of_slurm,
    _of_open_mpi,
    _of_torchrun,
    _of_kubernetes,
)


def _master(environ: Mapping[str, str]) -> tuple[str, int]:
    return environ["MASTER_ADDR"], _master_port(environ)


def _master_port(environ: Mapping[str, str]) -> int:
    """The port that the launcher leaves to the first process; torchrun's agent keeps it, and the next one is free."""
    port = _integer(environ, "MASTER_PORT") or KUBERNETES_PORT
    return port + 1 if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else port


def _index(environ: Mapping[str, str], name: str, said_by: str) -> int:
    index = _integer(environ, name)
    if index is None:
        raise UserError(
            f"{said_by}: {name}, the number of this process, is not set.", f"Start by the launcher; {_OUT_OF_IT}."
        )
    return index


def _integer(environ: Mapping[str, str], name: str) -> int | None:
    """The value of a variable; None where it isn't set.

    Raises:
        UserError: It is no number.
    """
    text = environ.get(name)
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", text.strip(), re.ASCII) is None:
        raise UserError(f"{name} is {text!r}, no number.", f"Unset it; {_OUT_OF_IT}.")
    return int(text)
