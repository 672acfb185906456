"""`minicnn pick`: files are compared by the reports in them, and what keeps all of them out is said."""

import json

import pytest

import minicnn
from minicnn import deploy, models
from minicnn.cli import main

MEASURED = {
    "dense": {"accuracy": 0.93, "macs": 4_000_000, "latency": [{"batch": 1, "median_ms": 0.4}]},
    "half": {"accuracy": 0.92, "macs": 1_000_000, "latency": [{"batch": 1, "median_ms": 0.2}]},
    "slow": {"accuracy": 0.91, "macs": 4_000_000, "latency": [{"batch": 1, "median_ms": 0.5}]},
}
WIDTHS = {"dense": 0.5, "half": 0.25, "slow": 0.375}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    (place / "more").mkdir()
    for name, report in MEASURED.items():
        model = models.create("simple", image_size=8, width=WIDTHS[name])
        path = place / ("more" if name == "slow" else ".") / f"{name}.mcnn"
        deploy.save(model, path, minicnn.randn(1, 1, 8, 8), about={"report": report})
    return place


def test_the_best_file_within_limits_is_named(folder, capsys):
    assert main(["pick", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(folder / "dense.mcnn")
    rows = {
        line.split("|")[1].split("/")[-1].strip(): line.split("|")[-2].strip()
        for line in lines
        if line.startswith("|") and ".mcnn" in line
    }
    assert rows == {"half.mcnn": "yes", "slow.mcnn": "", "dense.mcnn": "yes"}
    assert f"{(folder / 'half.mcnn').stat().st_size:,}" in "\n".join(lines)

    for limits, expected in (
        (["--max-latency", "0.3"], "half"),
        (["--max-bytes", str((folder / "half.mcnn").stat().st_size)], "half"),
        (["--min-accuracy", "0.915", "--best", "bytes"], "half"),
    ):
        assert main(["pick", str(folder), *limits, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["picked"] == str(folder / f"{expected}.mcnn")
        assert answer["files"][str(folder / "more" / "slow.mcnn")]["unbeaten"] is False


def test_the_limit_that_binds_is_named_with_the_nearest_file(folder, capsys):
    assert main(["pick", str(folder), "--max-latency", "0.3", "--min-accuracy", "0.925"]) == 2
    error = capsys.readouterr().err
    assert "latency_ms binds: the nearest is" in error
    assert "dense.mcnn with 0.4" in error
    assert "half.mcnn with 0.92" in error


def test_files_without_a_report_are_left_out_and_told(folder, tmp_path, capsys):
    path = tmp_path / "bare.mcnn"
    deploy.save(models.create("simple", image_size=8, width=0.25), path, minicnn.randn(1, 1, 8, 8))
    assert main(["pick", str(path), str(folder / "half.mcnn")]) == 0
    output = capsys.readouterr()
    assert f"without a report, left out: {path}" in output.err
    assert output.out.splitlines()[-1].endswith("half.mcnn")
    assert main(["pick", str(tmp_path)]) == 2
    assert "`minicnn deploy` measures and writes one" in capsys.readouterr().err


@pytest.mark.parametrize("report", ["fast", {"accuracy": "high"}, {"latency": [3]}])
def test_a_report_that_makes_no_sense_is_told(report, tmp_path, capsys):
    path = tmp_path / "odd.mcnn"
    model = models.create("simple", image_size=8, width=0.25)
    deploy.save(model, path, minicnn.randn(1, 1, 8, 8), about={"report": report})
    assert main(["pick", str(path)]) == 2
    assert "the report in it makes no sense" in capsys.readouterr().err
