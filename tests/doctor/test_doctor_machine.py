"""Processor, memory, disk, cache folder and GPU, on machines that are made up."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_jobs import Answers, dead, subject

from proguard_edge import system
from proguard_edge.artifact import Artifact
from proguard_edge.doctor import graphics, memory, processor, storage, verdict
from proguard_edge.doctor.examine import examine
from proguard_edge.doctor.limits import cpu_quota, memory_limit
from proguard_edge.starter import STARTER
from proguard_edge.system import Memory

GIB = 1 << 30
AVX2, VNNI = ["avx2", "fma"], ["avx2", "fma", "avx512f", "avx512_vnni"]


@pytest.fixture
def starter() -> Artifact:
    return Artifact.open(STARTER)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# Processor


def test_cores_that_a_container_does_not_let_run_are_a_warning():
    assert processor.cores(8, 8, None).state == "ok"
    assert processor.cores(2, 8, 4.0).state == "ok"
    found = processor.cores(8, 8, 1.5)
    assert (found.state, "1.5 only" in found.found) == ("warning", True)
    assert found.remedy.startswith("--threads 1")


def test_wrong_sums_are_a_problem_for_integer_artifacts_alone():
    assert processor.features("x86_64", AVX2, False, "int4").state == "ok"
    found = processor.features("x86_64", AVX2, False, "w8a8")
    assert (found.state, "VNNI" in found.remedy) == ("problem", True)
    assert "w8a8 artifacts run, and" in processor.features("x86_64", VNNI, True, "w8a8").found


def test_a_processor_without_avx2_is_slow_and_one_of_another_kind_is_not_asked_for_it():
    assert processor.features("x86_64", ["fma"], False, "int4").state == "warning"
    assert processor.features("aarch64", ["asimd", "asimddp"], True, "int4").state == "ok"
    assert processor.features("x86_64", [], True, "int4").state == "ok"


def test_a_busy_machine_is_a_note():
    assert list(processor.busy(0.2, 2)) == []
    assert list(processor.busy(None, 2)) == []
    (found,) = processor.busy(2.0, 2)
    assert found.state == "note"


def test_a_probe_that_kills_its_process_is_a_problem():
    helper = Answers({("_products", None): dead("SIGILL")})
    *_, last = examine("processor", subject(Path(), helper))
    assert (last.state, "SIGILL" in last.found) == ("problem", True)


# Limits of control groups


def test_without_control_groups_nothing_is_limited(tmp_path):
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (None, None)


def test_the_tightest_group_of_version_2_decides(tmp_path):
    group = "sys/fs/cgroup/system.slice/guard.service"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/guard.service\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/system.slice/memory.max": str(4 * GIB),
            "sys/fs/cgroup/system.slice/memory.current": str(3 * GIB),
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": str(2 * GIB),
            f"{group}/memory.current": str(GIB),
            f"{group}/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
        },
    )
    assert cpu_quota(root) == 1.5
    assert memory_limit(root) == (4 * GIB, GIB)


def test_a_container_of_version_1_sees_its_limit_at_the_top(tmp_path):
    top = "sys/fs/cgroup/memory"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/0123\n1:cpu,cpuacct:/docker/0123\n0::/\n",
            f"{top}/memory.limit_in_bytes": str(GIB),
            f"{top}/memory.usage_in_bytes": str(GIB // 2),
            f"{top}/memory.stat": f"total_inactive_file {GIB // 4}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(root) is None
    assert memory_limit(root) == (GIB, 3 * GIB // 4)


def test_the_largest_number_of_version_1_is_no_limit(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
        },
    )
    assert memory_limit(root) is None


# Memory


def remember(monkeypatch, total: int, available: int, swap: int = 0, swapped: int = 0) -> None:
    monkeypatch.setattr(system, "memory", lambda: Memory(total, available, swap, swapped))
    monkeypatch.setattr(memory, "memory_limit", lambda: None)


def test_the_estimate_for_the_starter_is_near_what_was_measured(starter):
    # Peaks of 330 MB (bench/results/startup.json) and, after more, 375 MB (memory_20000.json).
    assert 330e6 < memory.need(starter, 425) < 1.2 * 375e6
    # 30 layers, 3 heads of 64, keys and values in float32.
    assert memory.state_bytes(starter, 425) == 30 * 2 * 3 * 64 * 4 * 425
    # 425, as verdicts say; an estimate from characters lies above.
    assert 425 <= memory.prefix_tokens(starter) < 1.5 * 425


def test_the_estimate_for_a_real_shape_is_near_what_was_measured(starter):
    # bench/results/real_shape_3b.json: 3.51 GB of files, 1.84 of them the decoder's, peak 8.48 GB.
    sizes = {
        "decoder.onnx.data": 1_843_600_000,
        "vision.onnx.data": 1_329_000_000,
        "embeddings.npy": 330_600_000,
        "tokenizer.json": 11_400_000,
    }
    files = {name: replace(starter.files["NOTICE"], size=size) for name, size in sizes.items()}
    model = {"layers": 36, "kv_heads": 2, "head_dim": 128, "vocab": 151936, "hidden": 2048}
    real = replace(starter, files=files, model=model, free_names=True)
    assert memory.need(real, 2996) == pytest.approx(8.484e9, rel=0.05)


def test_enough_memory_is_ok(monkeypatch, starter):
    remember(monkeypatch, 8 * GIB, 4 * GIB)
    looked_at = subject(STARTER, artifact=starter)
    assert [finding.state for finding in memory.check(looked_at)] == ["ok"]
    assert looked_at.fits


@pytest.mark.parametrize(("total", "state"), [(GIB // 4, "problem"), (8 * GIB, "warning")])
def test_too_little_memory_is_said_and_nothing_is_judged(monkeypatch, starter, total, state):
    remember(monkeypatch, total, GIB // 4)
    looked_at = subject(STARTER, artifact=starter)
    (found,) = memory.check(looked_at)
    assert (found.state, looked_at.fits) == (state, False)
    # The helper of this subject would fail the test: it is asked nothing.
    (refused,) = verdict.check(looked_at)
    assert (refused.state, "more memory" in refused.found) == ("problem", True)


def test_a_container_limits_the_memory(monkeypatch, starter):
    remember(monkeypatch, 64 * GIB, 32 * GIB)
    monkeypatch.setattr(memory, "memory_limit", lambda: (GIB // 4, GIB // 8))
    (found,) = memory.check(subject(STARTER, artifact=starter))
    assert (found.state, "268 MB at most" in found.found) == ("problem", True)


def test_swap_in_use_is_a_note_and_an_unknown_need_is_not_ok(monkeypatch, starter):
    remember(monkeypatch, 8 * GIB, 4 * GIB, GIB, GIB // 2)
    states = [finding.state for finding in memory.check(subject(STARTER, artifact=starter))]
    assert states == ["ok", "note"]
    (unknown,) = memory.check(subject(STARTER))
    assert unknown.state == "note"
    monkeypatch.setattr(system, "memory", lambda: None)
    (untold,) = memory.check(subject(STARTER, artifact=starter))
    assert untold.state == "note"


# Cache folder and disk


def test_a_cache_folder_that_others_may_write_to_is_a_warning_that_says_so(tmp_path):
    folder = tmp_path / "cache"
    assert storage.usable(folder).state == "ok"
    assert list(folder.rglob("*")) == [folder / "doctor"]
    folder.chmod(0o777)
    found = storage.usable(folder)
    assert (found.state, "others may write" in found.found) == ("warning", True)
    assert "chmod go-w" in found.remedy


def test_a_cache_folder_that_cannot_be_made_or_is_none_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    found = storage.usable(tmp_path / "file" / "cache")
    assert (found.state, "cannot be made" in found.found) == ("warning", True)
    assert storage.usable(None).state == "note"


def test_a_cache_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "doctor").write_text("a file where a folder should be")
    assert "cannot be written" in storage.usable(tmp_path).found


def test_a_full_disk_is_a_warning(monkeypatch, tmp_path, starter):
    monkeypatch.setenv("PROGUARD_EDGE_CACHE", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    folder, disk = storage.check(subject(STARTER, artifact=starter))
    assert (folder.state, disk.check, disk.state) == ("ok", "disk", "warning")


# GPU


def test_a_gpu_is_needed_by_one_engine_only():
    assert graphics.judged([], None, [], "onnx").state == "note"
    assert graphics.judged([], None, [], "tensorrt_llm").state == "problem"
    card = ["NVIDIA H100 80GB HBM3, 570.86, 81559 MiB, 1980 MHz"]
    assert graphics.judged(card, "NVRM", ["libcudart.so.12"], "tensorrt_llm").state == "ok"
    found = graphics.judged(card, "NVRM", ["libcudart.so.12"], "onnx")
    assert (found.state, "leaves it alone" in found.found) == ("note", True)


def test_a_driver_whose_gpus_do_not_answer_is_a_warning():
    assert graphics.judged([], "NVRM version: 570.86", [], "onnx").state == "warning"


def test_cuda_libraries_are_found_where_programs_look(monkeypatch, tmp_path):
    monkeypatch.setattr(graphics, "PLACES", ())
    monkeypatch.setattr("sys.path", [str(tmp_path / "packages")])
    tree(
        tmp_path,
        {
            "own/libcudart.so.12": "",
            "own/libcudart.so.12.4.99": "",
            "packages/nvidia/cudnn/lib/libcudnn.so.9": "",
        },
    )
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}/own:{tmp_path}/absent")
    assert graphics.libraries() == ["libcudart.so.12", "libcudnn.so.9"]


def test_a_gpu_that_torch_sees_judges_an_artifact_for_transformers():
    card = ["NVIDIA H100 80GB HBM3, 570.86, 81559 MiB, 1980 MHz"]
    seen = graphics.judged(card, "NVRM", [], "transformers", True)
    assert (seen.state, "judged on it" in seen.found) == ("ok", True)
    unseen = graphics.judged(card, "NVRM", [], "transformers", False)
    assert (unseen.state, "torch does not see it" in unseen.found) == ("warning", True)
    assert graphics.judged([], None, [], "transformers").state == "note"


@pytest.mark.parametrize(("engine", "asked"), [("transformers", True), ("onnx", False)])
def test_torch_is_asked_only_where_there_is_a_gpu_and_the_engine_uses_it(
    monkeypatch, starter, engine, asked
):
    looked_at = subject(
        STARTER,
        Answers({("torch_sees", None): True}) if asked else None,
        artifact=replace(starter, engine=engine),
    )
    monkeypatch.setattr(system, "gpus", list)
    (found,) = graphics.check(looked_at)
    assert found.state in ("note", "warning")
    monkeypatch.setattr(system, "gpus", lambda: ["a card"])
    (found,) = graphics.check(looked_at)
    assert ("judged on it" in found.found) is asked
