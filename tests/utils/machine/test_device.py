"""Devices, precisions, steps and seeds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.errors import UserError
from utils.machine.cores import usable_cores
from utils.machine.device import Machine, Stopwatch, choose_machine, seed_everything
from utils.machine.memory import usable_memory
from utils.machine.processes import ALONE, VARIABLES, World

CPU = Machine(torch.device("cpu"), "float32")


@pytest.fixture
def cuda_devices(monkeypatch):
    """Gives `cuda_devices(names, capability, architectures)`, which makes torch report these
    devices, and that it was compiled for these architectures."""

    def pretend(names, capability=(9, 0), architectures=("sm_75", "sm_90a", "compute_90")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: names[i])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
        chosen = []
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
        return chosen

    return pretend


def test_without_cuda_the_cpu_is_used(cuda_devices, capsys):
    cuda_devices([])
    assert choose_machine(None, "float32") == CPU
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("gpu", [0, 1, 7])
def test_without_cuda_gpu_warns_and_uses_the_cpu(gpu, cuda_devices, capsys):
    cuda_devices([])
    assert choose_machine(gpu, "float32").device == torch.device("cpu")
    warning = capsys.readouterr().err
    assert warning.startswith(f"main.py: warning: --gpu {gpu}: ") and "CPU" in warning
    assert warning.count("\n") == 1


@pytest.mark.parametrize(
    ("gpu", "names", "index"),
    [
        (None, ["A"], 0),
        (0, ["A"], 0),
        (None, ["A", "B"], 0),
        (0, ["A", "B"], 0),
        (1, ["A", "B"], 1),
    ],
)
def test_gpu_n_is_cuda_n_and_the_first_by_default(gpu, names, index, cuda_devices, capsys):
    chosen = cuda_devices(names)
    machine = choose_machine(gpu, "float32")
    assert machine.device == torch.device("cuda", index)
    assert chosen == [machine.device] and torch.backends.cudnn.benchmark
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("world", [ALONE, World(rank=0, size=2, local_rank=0)])
def test_a_gpu_that_is_too_old_for_torch_warns_and_the_cpu_is_used(world, cuda_devices, capsys):
    chosen = cuda_devices(["Old", "Old"], capability=(6, 1))
    assert choose_machine(None, "float32", world=world).device == torch.device("cpu")
    assert chosen == []
    warning = capsys.readouterr().err
    assert warning.startswith("main.py: warning: cuda:0 (Old) is too old for this torch")
    assert warning.count("\n") == 1
    for capability, architectures in (((7, 5), ("sm_75", "sm_120f")), ((9, 0), ("gfx90a",))):
        cuda_devices(["A", "A"], capability, architectures)
        assert choose_machine(None, "float32", world=world).device == torch.device("cuda", 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("gpu", [1, 5])
def test_with_one_device_a_larger_number_warns_and_uses_it(gpu, cuda_devices, capsys):
    cuda_devices(["A"])
    assert choose_machine(gpu, "float32").device == torch.device("cuda", 0)
    warning = capsys.readouterr().err
    assert warning.startswith(f"main.py: warning: --gpu {gpu}: ") and warning.count("\n") == 1


def test_with_several_devices_a_larger_number_is_an_error_that_lists_them(cuda_devices):
    chosen = cuda_devices(["Alpha", "Beta"])
    with pytest.raises(UserError, match=r"--gpu 2: .*0 \(Alpha\), 1 \(Beta\)"):
        choose_machine(2, "float32")
    assert chosen == []


def test_each_of_several_processes_has_the_device_of_its_local_rank(cuda_devices, capsys):
    """The sixth of eight processes, on the second machine of two."""
    chosen = cuda_devices(["A"] * 4)
    machine = choose_machine(None, "float32", world=World(rank=5, size=8, local_rank=1))
    assert machine.device == torch.device("cuda", 1) and chosen == [machine.device]
    assert capsys.readouterr().err == ""
    machine = choose_machine(3, "float32", world=World(rank=5, size=8, local_rank=1))
    assert machine.device == torch.device("cuda", 1)
    assert "--gpu 3 is ignored: each of 8 processes" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"local rank 4 .* with 4 CUDA devices; .*nproc_per_node"):
        choose_machine(None, "float32", world=World(rank=4, size=8, local_rank=4))


def test_several_processes_on_gpus_need_nccl(cuda_devices, monkeypatch):
    cuda_devices(["A", "B"])
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    world = World(rank=1, size=2, local_rank=1)
    with pytest.raises(UserError, match=r"2 processes on GPUs need NCCL, .* --gpu cpu"):
        choose_machine(None, "float32", world=world)
    assert choose_machine("cpu", "float32", world=world).device == torch.device("cpu")
    assert choose_machine(None, "float32").device == torch.device("cuda", 0)


def test_bf16_is_refused_where_the_processor_has_none(cuda_devices, monkeypatch):
    cuda_devices([])
    for name, has in (("_is_avx512_bf16_supported", False), ("_is_amx_tile_supported", False)):
        monkeypatch.setattr(torch.cpu, name, lambda has=has: has)
    with pytest.raises(UserError, match="--precision bf16: cpu has no native bfloat16"):
        choose_machine(None, "bf16")
    assert choose_machine(None, "float32").precision == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_machine(None, "bf16").precision == "bf16"


def test_bf16_is_refused_on_a_gpu_before_ampere(cuda_devices):
    cuda_devices(["old"], capability=(7, 5))
    with pytest.raises(UserError, match="--precision bf16: cuda:0 has no native bfloat16"):
        choose_machine(0, "bf16")
    cuda_devices(["new"], capability=(8, 0))
    assert choose_machine(0, "bf16").precision == "bf16"


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_machine_says_what_it_is(has_bf16, monkeypatch):
    monkeypatch.setattr("utils.machine.device.has_native_bf16", lambda device: has_bf16)
    machine = Machine(CPU.device, "tf32", "compile", world=World(rank=1, size=3, local_rank=1))
    description = machine.description()
    names = ("precision", "native_bf16", "step", "processes")
    assert [description[name] for name in names] == ["tf32", has_bf16, "compile", 3]
    assert description["device"] == "cpu" and "cores" in description["processor"]
    assert description["torch"] == torch.__version__ and description["numpy"] == np.__version__
    assert description["threads"] == torch.get_num_threads()


def test_a_seed_decides_every_generator(python_random):
    import random

    def draws(seed):
        generator = seed_everything(seed)
        drawn = torch.rand(1, generator=generator).item(), torch.rand(1).item()
        return *drawn, np.random.random(), random.random()

    assert draws(3) == draws(3)
    assert all(a != b for a, b in zip(draws(3), draws(4), strict=True))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_tf32_is_for_convolutions_under_tf32_alone(precision, cuda_devices, tf32_switches):
    cuda_devices(["A"])
    convolutions, products = tf32_switches
    convolutions.allow_tf32, products.allow_tf32 = precision != "tf32", True
    assert choose_machine(0, precision).precision == precision
    assert convolutions.allow_tf32 == (precision == "tf32")
    assert not products.allow_tf32


def test_tf32_is_refused_where_there_is_none(cuda_devices):
    cuda_devices([])
    with pytest.raises(UserError, match="--precision tf32: cpu has no TF32"):
        choose_machine(None, "tf32")
    cuda_devices(["old"], capability=(7, 5))
    with pytest.raises(UserError, match="--precision tf32: cuda:0 has no TF32"):
        choose_machine(None, "tf32")


def test_auto_is_the_graph_on_cuda_and_eager_on_a_cpu(cuda_devices):
    cuda_devices(["A"])
    steps = ("auto", "graph", "eager", "compile")
    assert [choose_machine(0, "float32", s).step for s in steps] == ["graph", *steps[1:]]
    cuda_devices([])
    assert [choose_machine(None, "float32", s).step for s in ("auto", "compile")] == [
        "eager",
        "compile",
    ]
    with pytest.raises(UserError, match="--step graph: cpu has no CUDA graphs"):
        choose_machine(None, "float32", "graph")


@pytest.mark.parametrize("split", [{"micro_batches": 2}, {"world": World(1, 2, 1)}])
def test_where_a_step_is_split_there_is_no_graph(split, cuda_devices):
    cuda_devices(["A", "B"])
    assert choose_machine(None, "float32", **split).step == "eager"
    with pytest.raises(UserError, match="--step graph works with one process and --accumulate 1"):
        choose_machine(None, "float32", "graph", **split)


def test_the_milliseconds_of_a_gpu_become_seconds(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            pass

        def synchronize(self):
            pass

        def elapsed_time(self, ended):
            assert ended is not self
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert Stopwatch(torch.device("cuda", 0)).stop() == 1.5


@pytest.mark.parametrize(
    ("limit", "cores"), [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 8), (None, 8)]
)
def test_a_containers_quota_limits_the_cores(limit, cores, monkeypatch):
    def read_text(path):
        assert str(path) == "/sys/fs/cgroup/cpu.max"
        if limit is None:
            raise FileNotFoundError
        return limit + "\n"

    monkeypatch.setattr("utils.machine.cores.Path.read_text", read_text)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores() == cores


V1, V2, GB = "4:memory:/job/step", "0::/job/step", 10**9


@pytest.mark.parametrize(
    ("groups", "limits", "memory"),
    [
        (V2, {"memory.max": 3}, 3),  # of a container
        (V2, {"job/step/memory.max": "max", "job/memory.max": 3}, 3),  # of a batch job
        (V2, {"job/step/memory.max": 2, "job/memory.max": 3}, 2),
        (V2, {"job/step/memory.max": 9, "other/memory.max": 3}, 8),
        (f"9:name=systemd:/\n{V1}\n0::/", {"memory/job/memory.limit_in_bytes": 3}, 3),
        (V1, {"memory/job/memory.limit_in_bytes": (2**63 - 4096) // GB}, 8),  # no limit
        (None, {}, 8),
    ],
)
@pytest.mark.parametrize("local_size", [1, 4])
def test_the_memory_of_a_process_is_its_share_of_a_limit(
    groups, limits, memory, local_size, monkeypatch
):
    files = {"/proc/self/cgroup": groups} if groups else {}
    for name, limit in limits.items():
        files[f"/sys/fs/cgroup/{name}"] = "max" if limit == "max" else str(limit * GB)

    def read_text(path):
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)] + "\n"

    monkeypatch.setattr("utils.machine.memory.Path.read_text", read_text)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=8 * GB))
    for name, text in zip(VARIABLES, ("1", "8", "1", "here", "29500"), strict=True):
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_size))
    assert usable_memory() == memory * GB // local_size


@pytest.mark.parametrize(("threads", "expected"), [(64, 8), (2, 2)])
def test_a_cpu_takes_its_threads_but_no_more_than_cores_and_a_gpu_one(
    threads, expected, cuda_devices, monkeypatch
):
    cuda_devices([])
    taken = []
    monkeypatch.setattr("utils.machine.device.usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    choose_machine(None, "float32")
    cuda_devices(["A"])
    choose_machine(None, "float32")
    assert taken == [expected, 1]
