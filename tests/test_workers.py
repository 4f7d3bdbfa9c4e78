"""Several processes that train in step: how they are found, how they meet, and what they tell each other."""

import contextlib
import dataclasses
import json
import socket
import threading

import numpy as np
import pytest

from finetune.cluster import meeting
from finetune.cluster.discovery import Workers, find_workers, first_host
from finetune.cluster.meeting import meet
from finetune.cluster.team import Team, WorkerLostError
from finetune.commands import train
from finetune.commands.workers import choose_devices
from finetune.errors import UserError
from finetune.evaluation.metrics import NotFiniteError, score_batch
from finetune.settings.train import TrainSettings
from finetune.settings.workers import WorkerSettings, parse_address
from finetune.training import devices, shared_validation

SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": "gpu[03-05],big1",
    "SLURM_JOB_ID": "77",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}


def tf_config(role="worker", index=1, **cluster):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}


def find(environ, *, is_resumed=False, **settings):
    return find_workers(WorkerSettings(**settings), environ, is_resumed=is_resumed)


# Who trains


@pytest.mark.parametrize(
    ("environ", "index", "number", "chief", "addresses"),
    [
        (tf_config(worker=["a:1", "b:2"]), 1, 2, ("a", 1), ("a:1", "b:2")),
        (tf_config(chief=["c:3"], worker=["a:1", "b:2"]), 2, 3, ("c", 3), ("c:3", "a:1", "b:2")),
        (tf_config("chief", 0, worker=["a:1"], chief=["c:3"], ps=["p:4"]), 0, 2, ("c", 3), ("c:3", "a:1")),
        (tf_config(worker={"0": "a:1", "1": "[fd00::1]:2"}), 1, 2, ("a", 1), ("a:1", "[fd00::1]:2")),
        (SLURM, 2, 4, ("gpu03", 20_539), None),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 1, 2, ("127.0.0.1", 29_400), None),
        ({**MPI, "MASTER_ADDR": "node1", "MASTER_PORT": "99"}, 1, 2, ("node1", 99), None),
        (TORCHRUN, 0, 2, ("node1", 1234), None),
        ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}, 0, 2, ("node1", 1235), None),
    ],
)
def test_workers_as_launchers_say_them(environ, index, number, chief, addresses):
    found = find(environ)
    assert (found.index, found.number, found.chief, found.addresses) == (index, number, chief, addresses)
    assert find(environ, strategy="one") is None
    assert find(environ, strategy="mirrored") is None


def test_an_indexed_job_of_kubernetes(monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda: "train-2.workers.default.svc.cluster.local")
    environ = {"JOB_COMPLETION_INDEX": "2"}
    assert find(environ) is None  # One of many that have nothing to do with each other.
    found = find(environ, worker_replicas=4)
    assert (found.index, found.number, found.chief) == (2, 4, ("train-0.workers.default.svc.cluster.local", 29_400))
    monkeypatch.setattr(socket, "getfqdn", lambda: "someone")
    with pytest.raises(UserError, match=r"this pod is called someone[\s\S]*headless service"):
        find(environ, worker_replicas=4)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TF_CONFIG": " "},
        tf_config(worker=["a:1"], index=0),
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},  # A batch script, which runs once.
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_alone(environ):
    assert find(environ) is None
    assert find(environ, worker_replicas=4, is_resumed=True) is None  # Of a run that was several's.
    with pytest.raises(UserError, match="no launcher says which processes train"):
        find(environ, strategy="multi-worker")


def test_the_command_line_comes_before_the_environment():
    found = find(tf_config(worker=["a:1", "b:2"]), workers=("x:5", "y:6", "z:7"), worker_index=2)
    assert (found.index, found.number, found.chief, found.said_by) == (2, 3, ("x", 5), "--workers")


@pytest.mark.parametrize(
    ("environ", "settings", "message"),
    [
        ({"TF_CONFIG": "{"}, {}, "TF_CONFIG is not what TensorFlow expects"),
        ({"TF_CONFIG": '{"cluster": {"worker": "a:1"}}'}, {}, "TF_CONFIG is not what TensorFlow expects"),
        (tf_config(worker=["a:1", "b"]), {}, "TF_CONFIG: 'b' is no HOST:PORT"),
        (tf_config(worker=["a:1", "b:2"], index=2), {}, "this is process 2 of 2, which count from 0"),
        (tf_config("ps", worker=["a:1", "b:2"]), {}, "this process is a 'ps'"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "x"}, {}, "SLURM_STEP_NUM_TASKS is 'x', no number"),
        ({**SLURM, "SLURM_STEP_NODELIST": "["}, {}, "no list of nodes"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "a"}, {}, "SLURM_PROCID, the number of this process"),
        (MPI, {}, "mpirun -x MASTER_ADDR=HOST"),
        ({}, {"workers": ("a:1", "b:2")}, "Give each its --worker-index"),
        ({}, {"workers": ("a:1", "b:2"), "worker_index": 5}, "this is process 5 of 2"),
        ({}, {"worker_index": 3}, "--worker-index 3: of which processes this is one isn't said"),
        ({}, {"worker_replicas": 4}, "--worker-replicas 4: where the other processes are isn't said"),
    ],
)
def test_what_makes_no_cluster_is_refused(environ, settings, message):
    with pytest.raises(UserError, match=message):
        find(environ, **settings)


@pytest.mark.parametrize("address", ["a", "a:", ":1", "a:0", "a:65536", "a:1:2", "a b:1", "[fd00::1]", "a:1\n"])
def test_no_address(address):
    with pytest.raises(UserError, match="is no HOST:PORT"):
        parse_address(address, "--workers")
    with pytest.raises(UserError, match="is no HOST:PORT"):
        WorkerSettings(workers=("b:1", address))


def test_settings_that_do_not_go_together():
    with pytest.raises(UserError, match="--workers names a:1 twice"):
        WorkerSettings(workers=("a:1", "a:1"))
    with pytest.raises(UserError, match="--strategy one is of one process"):
        WorkerSettings(workers=("a:1", "b:2"), strategy="one")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[03-07,9]", "n03"), ("a-[1,4-6]-ib,b", "a-1-ib"), ("x,n[1-2]", "x"), ("", None), ("[1-2", None)],
)
def test_the_first_host_of_slurms_list(nodes, first):
    assert first_host(nodes) == first


# Meeting


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


def workers_of(number, *, are_known=True):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
    chief = parse_address(addresses[0], "--workers")
    known = tuple(addresses) if are_known else None
    return [Workers(index, number, chief, known, "--workers") for index in range(number)]


def all_meet(workers, facts=None, seconds=20.0):
    """What each worker comes to, a team or an error."""
    results = [None] * len(workers)

    def run(place):
        try:
            results[place] = meet(workers[place], facts[place] if facts else {"a": "1"}, seconds)
        except UserError as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@contextlib.contextmanager
def team(number):
    members = all_meet(workers_of(number))
    try:
        yield members
    finally:
        for member in members:
            for connection in member._others.values():
                connection.close()


def at_once(*functions):
    """What each returns, all called at the same time."""
    results = [None] * len(functions)

    def call(place):
        try:
            results[place] = functions[place]()
        except UserError as error:
            results[place] = error

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("are_known", [True, False])
def test_three_meet_and_agree(are_known):
    workers = workers_of(3, are_known=are_known)
    members = all_meet(workers)
    assert [member.index for member in members] == [0, 1, 2]
    assert len({member.addresses for member in members}) == 1
    assert all(address.startswith("127.0.0.1:") for address in members[0].addresses)
    if are_known:
        assert members[2].addresses == workers[0].addresses
    assert at_once(*(lambda member=member: member.agreed(f"of {member.index}") for member in members)) == ["of 0"] * 3
    assert at_once(*(lambda member=member: member.gathered(member.index) for member in members)) == [[0, 1, 2]] * 3
    members[2].ask_to_stop(15)
    waiting = threading.Event()
    for _ in range(100):
        if members[0].stop_asked == 15:
            break
        waiting.wait(0.05)
    assert members[0].stop_asked == 15
    at_once(*(lambda member=member: member.__exit__(None, None, None) for member in members))


def test_a_probe_of_the_port_is_none_of_them():
    workers = workers_of(2)
    results = []
    chief = threading.Thread(target=lambda: results.append(meet(workers[0], {}, 20.0)))
    chief.start()
    for content in (b"", b"GET / HTTP/1.0\r\n\r\n", b'{"kind": "greeting", "value": [1]}\n', b"[]\n"):
        for _ in range(100):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(workers[0].chief) as probe:
                probe.sendall(content)
                break
            threading.Event().wait(0.05)
    member = meet(workers[1], {}, 20.0)
    chief.join()
    assert results[0].addresses == member.addresses


def test_other_settings_are_told_on_both_sides():
    errors = all_meet(workers_of(2), [{"--seed": "1", "numpy": "2"}, {"--seed": "2", "numpy": "2"}])
    for error in errors:
        assert "Worker 1 is to do something else than worker 0: --seed is 2 there and 1 here." in str(error)
        assert "--strategy one" in str(error)


def test_two_of_one_index_are_refused():
    workers = workers_of(3, are_known=False)
    errors = all_meet([workers[0], workers[1], workers[1]], seconds=5.0)
    assert "Two processes came as worker 1" in str(errors[0])


def test_another_number_of_workers_is_refused():
    workers = workers_of(3)
    two = Workers(1, 2, workers[0].chief, None, "--workers")
    errors = all_meet([workers[0], two], seconds=5.0)
    for error in errors:
        assert "A process came as worker 1 of 2, and the chief expects 3." in str(error)


def test_who_does_not_come_is_named():
    workers = workers_of(3)
    error, other = all_meet(workers[:2], seconds=1.5)
    assert f"worker 2 ({workers[0].addresses[2]}) of 3 did not come in time (--worker-timeout)" in str(error)
    assert str(other) == str(error)


def test_a_chief_that_is_not_there_is_named():
    workers = workers_of(2)
    (error,) = all_meet(workers[1:], seconds=1.0)
    assert f"Worker 1 can't reach the chief, {workers[0].addresses[0]}, in time" in str(error)


def test_a_port_that_is_taken_is_told():
    workers = workers_of(2)
    with socket.create_server(("", workers[0].chief[1])), pytest.raises(UserError, match="is taken by another program"):
        meet(workers[0], {}, 5.0)


@pytest.mark.parametrize("words", [b"", b'{"kind": "unreached"'])
def test_one_that_ends_while_they_meet_is_named(words, monkeypatch):
    """Whether it is gone or its message breaks off."""
    monkeypatch.setattr(meeting, "SECONDS_FOR_A_PORT", 1.0)
    workers = workers_of(2, are_known=False)
    errors = []

    def host():
        with pytest.raises(UserError) as error:
            meet(workers[0], {}, 20.0)
        errors.append(str(error.value))

    chief = threading.Thread(target=host)
    chief.start()
    with socket.create_server(("127.0.0.1", 0)) as own:
        greeting = {"index": 1, "number": 2, "port": own.getsockname()[1], "facts": {}}
        for _ in range(100):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(workers[0].chief) as worker:
                worker.sendall(json.dumps({"kind": "greeting", "value": greeting}).encode() + b"\n")
                worker.recv(1)
                worker.sendall(words)
                break
            threading.Event().wait(0.05)
    chief.join()
    assert "Worker 1 ended, or fell silent, before all had met." in errors[0]


# Afterwards


def test_one_that_dies_is_named_by_all():
    with team(3) as members:
        members[1]._others[0].close()  # As the system does it where a process is killed.
        errors = at_once(*(lambda member=member: member.gathered(None) for member in (members[0], members[2])))
    for error in errors:
        assert isinstance(error, WorkerLostError)
        assert f"worker 1 of 3 ({members[0].addresses[1]}) is gone without a word" in str(error)
        assert "by --resume they go on" in str(error)


def test_why_one_ends_is_told_to_the_others():
    with team(2) as members:
        with contextlib.suppress(UserError), members[0]:
            raise UserError("The disk is full.", "Make room.")
        error = at_once(lambda: members[1].agreed(None))[0]
    assert "worker 0 of 2" in str(error)
    assert "ended: The disk is full." in str(error)


def test_one_at_another_place_is_told():
    with team(2) as members:
        results = at_once(lambda: members[0].agreed(1), lambda: members[1].gathered(1))
        assert results[0] == 1
        assert "is at another place of the training: agreed where gathered was expected" in str(results[1])


@pytest.mark.parametrize(
    "words",
    [["--precision=auto"], ["--batch-size=auto"], ["--folds=2"], ["--sweep=learning_rate=0.1,0.2"]],
)
def test_what_one_process_does_by_itself_is_refused(words, tmp_path, capsys):
    several = ["--workers=127.0.0.1:1,127.0.0.1:2", "--worker-index=0"]
    assert train.main([f"--dataset-dir={tmp_path}", f"--train-dir={tmp_path / 'run'}", *words, *several]) == 2
    error = capsys.readouterr().err
    assert f"{words[0].replace('=auto', ' auto').partition('=')[0]}: one process does this by itself" in error
    assert not (tmp_path / "run").exists()


def test_scores_come_back_from_rows():
    scores = score_batch(np.array([[0.1, 2.0], [3.0, 1.0], [1.0, 1.0]], np.float32), np.array([1, 1, 0]), ["", "", ""])
    again = shared_validation._scores_of(shared_validation._rows_of(scores), 2)
    for field in dataclasses.fields(scores):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(scores, field.name))
    with pytest.raises(NotFiniteError):
        shared_validation._scores_of(np.concatenate([np.zeros([2, 5]), shared_validation._NOT_FINITE]), 2)


def test_alone_one_decides_for_itself():
    alone = Team()
    assert (alone.agreed(5), alone.gathered(6), alone.number, alone.is_chief) == (5, [6], 1, True)
    alone.ask_to_stop(2)
    assert alone.stop_asked == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "2 of 3 GPUs have nothing to do: --strategy mirrored takes all"),
        ({"num_clones": 2}, "1 of 3 GPUs"),
        ({"num_clones": 3}, None),
        ({"strategy": "one"}, None),
        ({"clone_on_cpu": True}, None),
    ],
)
def test_gpus_that_have_nothing_to_do_are_told_of(monkeypatch, caplog, words, said):
    monkeypatch.setattr(devices.tf.config, "get_visible_devices", lambda kind: ["a", "b", "c"])
    monkeypatch.setattr(devices, "choose_strategy", lambda number, on_cpu: None)
    choose_devices(TrainSettings(dataset_dir="records", model="lenet", **words))
    assert (said in caplog.text) if said else "nothing to do" not in caplog.text
