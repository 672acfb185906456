"""How kernels are compiled: cached on disk, silent later on, safe across threads, forks and bad folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

import minicnn_kernels as kernels
from minicnn_kernels.cpu import cache

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
import numpy as np
import minicnn_kernels as kernels
from minicnn_kernels.cpu import compiler
x = np.ones((8, 5), np.float32)
sums = kernels.backend("cpu").linear_backward_bias(x)
assert (sums == 8).all()
print(compiler.compiled()[0])
"""


def run(program, folder, **environment):
    """Run `program` in a fresh process with its cache in `folder`; returns (stdout, stderr)."""
    inherited = {name: value for name, value in os.environ.items() if name != "MINICNN_QUIET"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, "PYTHONPATH": path, "MINICNN_CACHE_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def run_with(layer, program, folder):
    """Run `program` on one of Numba's threading layers; skip the test where that lacks its library."""
    probe = f"import numba; numba.config.THREADING_LAYER = {layer!r}; numba.set_num_threads(1)"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode:
        pytest.skip(f"Numba's threading layer {layer} needs a library that is not installed")
    return run(program, folder, NUMBA_THREADING_LAYER=layer)


@pytest.fixture(scope="module")
def warm_folder(tmp_path_factory):
    """A cache folder that holds what PROGRAM compiles, and what its first run wrote to stderr."""
    folder = tmp_path_factory.mktemp("cache")
    count, said = run(PROGRAM, folder)
    assert int(count) > 0
    return folder, said


def test_the_first_run_says_so_in_one_line_and_how_long_it_took(warm_folder):
    folder, said = warm_folder
    first, last = said.splitlines()
    assert first.startswith("minicnn: compiling CPU kernels for this machine (first run only; cached in ")
    assert str(folder) in first
    assert last.endswith(" s to compile")


def test_the_second_process_compiles_nothing_and_is_silent(warm_folder):
    count, said = run(PROGRAM, warm_folder[0])
    assert int(count) == 0
    assert said == ""


def test_quiet_silences_the_first_run(tmp_path):
    count, said = run(PROGRAM, tmp_path, MINICNN_QUIET="1")
    assert int(count) > 0
    assert said == ""


def test_a_folder_that_cannot_be_written_is_replaced(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    run(PROGRAM, occupied / "cache", TMPDIR=str(tmp_path))
    assert [path.name for path in tmp_path.glob("minicnn-*")] == [f"minicnn-{os.getuid()}"]


def test_a_changed_callee_in_another_file_is_not_taken_from_the_cache(tmp_path):
    package = tmp_path / "minicnn_kernels"
    shutil.copytree(ROOT / "kernels" / "minicnn_kernels", package)
    program = "import minicnn_kernels.cpu.gemm as gemm; import numpy as np\n"
    program += "a = np.ones((4, 4), np.float32); out = gemm.multiply_matrices(a, a, np.empty_like(a))\n"
    program += "print(int(out[0, 0]))"
    changed = {"PYTHONPATH": str(tmp_path)}
    assert run(program, tmp_path / "cache", **changed)[0] == "4\n"
    blocks = package / "cpu" / "blocks.py"
    source = blocks.read_text()
    edited = source.replace(
        "    depth = tap_count * run\n    j = 0", "    depth = tap_count * run\n    j = columns"
    )
    assert edited != source
    blocks.write_text(edited)
    program = program.replace("np.empty_like(a)", "np.full_like(a, 7)")
    assert run(program, tmp_path / "cache", **changed)[0] == "7\n"


DAYS = 24 * 60 * 60


def version(folder: Path, stem: str, days: float) -> Path:
    """A folder as the cache makes it, with a file inside, last used `days` ago."""
    made = folder / f"{stem}-0123456789abcdef"
    made.mkdir()
    (made / "index").write_text("code")
    os.utime(made, (time.time() - days * DAYS,) * 2)
    return made


def test_versions_that_nobody_has_used_for_a_month_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    old, fresh = version(tmp_path, "gemm", 31), version(tmp_path, "blocks", 29)
    half_removed = version(tmp_path, ".conv", 31)
    other = tmp_path / "photographs"
    other.mkdir()
    os.utime(other, (0, 0))
    cache.remove_unused()
    assert sorted(tmp_path.iterdir()) == sorted([fresh, other])
    assert not old.exists()
    assert not half_removed.exists()


def test_a_version_in_use_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    source = Path(cache.__file__)
    folder = tmp_path / cache.version_folder.__wrapped__(source).name
    folder.mkdir()
    os.utime(folder, (time.time() - 31 * DAYS,) * 2)
    assert cache.version_folder.__wrapped__(source) == folder
    cache.remove_unused()
    assert folder.exists()


def test_processes_that_remove_the_same_versions_do_not_disturb_each_other(tmp_path):
    for i in range(300):
        version(tmp_path, f"kernel{i}", 31)
    program = "from minicnn_kernels.cpu import cache; cache.remove_unused()"
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: run(program, tmp_path), range(3)))
    assert not list(tmp_path.glob("*kernel*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_a_forked_child_computes_the_same(warm_folder, layer):
    program = """
import os
import numpy as np
import minicnn_kernels as kernels
cpu = kernels.backend("cpu")
rng = np.random.default_rng(0)
x, w = rng.standard_normal((64, 300), np.float32), rng.standard_normal((40, 300), np.float32)
y = cpu.linear_forward(x, w, None)
child = os.fork()
if child == 0:
    same = (cpu.linear_forward(x, w, None) == y).all()
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    run_with(layer, program, warm_folder[0])


def test_the_number_of_threads_holds_in_every_python_thread():
    cpu = kernels.backend("cpu")
    seen = []

    def work():
        cpu.linear_backward_bias(np.ones((4, 4), np.float32))
        seen.append(numba.get_num_threads())

    before = kernels.get_threads()
    try:
        for count in (1, before):
            kernels.set_threads(count)
            worker = threading.Thread(target=work)
            worker.start()
            worker.join()
        assert seen == [1, before]
    finally:
        kernels.set_threads(before)


def test_a_process_that_is_started_afresh_computes_the_same(warm_folder, tmp_path):
    (tmp_path / "work.py").write_text("""
import numpy as np
import minicnn_kernels as kernels

def product(seed):
    a = np.random.default_rng(seed).standard_normal((200, 200), np.float32)
    return kernels.backend("cpu").matmul(a, a)
""")
    program = f"""
import multiprocessing, sys
sys.path.insert(0, {str(tmp_path)!r})
import work
here = [work.product(seed) for seed in range(4)]
with multiprocessing.get_context("spawn").Pool(2) as pool:
    there = pool.map(work.product, range(4))
assert all((a == b).all() for a, b in zip(here, there))
"""
    run(program, warm_folder[0])


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_python_threads_that_meet_in_the_kernels_get_the_right_results(warm_folder, layer):
    program = """
import threading
import time
import numpy as np
import minicnn_kernels as kernels
cpu = kernels.backend("cpu")
a = np.random.default_rng(0).standard_normal((200, 200), np.float32)
expected = cpu.matmul(a, a)
wrong = []
def work():
    for _ in range(50):
        if not (cpu.matmul(a, a) == expected).all():
            wrong.append(1)
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert not wrong
"""
    run_with(layer, program, warm_folder[0])
