"""The command line: what it prints, what it refuses, and that it needs neither torch nor a network."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from leaderboard_results import CLEAN, FGSM, PGD, Folder, bits

from harness import records, store
from leaderboard import cli
from leaderboard.serve import make_server

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def results(tmp_path) -> Path:
    folder = Folder(tmp_path / "results")
    folder.complete("a", bits("11111100"), {"pgd-20": bits("11000000")}, tasks=(CLEAN, FGSM, PGD))
    return folder.root


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty current directory with a ``leaderboard`` folder of its own."""
    place = tmp_path / "place"
    (place / "leaderboard").mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "nothing" / "cli.py"))
    return place


def test_build_prints_the_path_of_the_page(results, tmp_path, capsys) -> None:
    assert cli.main(["build", "--results", str(results), "--out", str(tmp_path / "site")]) == 0
    assert capsys.readouterr().out.strip().endswith(str(tmp_path / "site" / "index.html"))
    assert (tmp_path / "site" / "index.html").is_file()


def test_without_arguments_it_merges_published_and_own_results(elsewhere, capsys) -> None:
    published, own = Folder(elsewhere / "leaderboard" / "results"), Folder(elsewhere / "results")
    published.complete("published", [True] * 8, {}, tasks=(CLEAN, PGD))
    own.complete("own", [True] * 8, {}, tasks=(CLEAN, PGD))
    assert cli.main(["build"]) == 0
    assert (elsewhere / "leaderboard" / "site" / "index.html").is_file()
    assert cli.main(["export"]) == 0
    text = capsys.readouterr().out.partition("\n")[2]
    rows = json.loads(text)["boards"][0]["rows"]
    assert {row["submission"] for row in rows} == {"published", "own"}


def test_without_any_results_it_says_what_to_type(elsewhere, capsys) -> None:
    assert cli.main(["build"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "harness run" in captured.err
    assert not (elsewhere / "leaderboard" / "site").exists()


@pytest.mark.parametrize("command", [["build"], ["export"], ["serve", "--port", "0"]])
@pytest.mark.parametrize("exists", [True, False])
def test_an_unknown_or_empty_results_folder_is_one_line_and_exit_2(tmp_path, capsys, command, exists) -> None:
    root, out = tmp_path / "results", tmp_path / "site"
    if exists:
        root.mkdir()
    extra = ["--out", str(out)] if command[0] != "export" else []
    assert cli.main([*command, "--results", str(root), *extra]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(root) in captured.err
    assert not out.exists()


@pytest.mark.parametrize("what", ["manifest", "record"])
def test_results_of_a_newer_version_are_refused_with_the_file_named(
    results, tmp_path, capsys, monkeypatch, what
) -> None:
    if what == "manifest":
        (path,) = (results / "runs").glob("*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": records.SCHEMA + 1}))
    else:
        path = next(store.record_files(results))
        record = store.read_record(path)
        store.write_record(results, records.Record(**{**vars(record), "schema": records.SCHEMA + 1}))
    out = tmp_path / "site"
    assert cli.main(["build", "--results", str(results), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert str(path) in captured.err
    assert "newer version" in captured.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "start"), [("json", "{"), ("csv", "dataset,norm,eps,n,"), ("latex", r"\begin{table}")]
)
def test_export_prints_or_writes_the_same(results, tmp_path, capsys, name, start) -> None:
    assert cli.main(["export", "--format", name, "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    target = tmp_path / "new" / "file"
    assert cli.main(["export", "--format", name, "--results", str(results), "--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    assert target.read_text() == printed


def test_help_names_every_option(capsys) -> None:
    for command, options in {
        "build": ("--results", "--out"),
        "serve": ("--port", "127.0.0.1"),
        "export": ("--format", "--output", "latex"),
    }.items():
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "-h"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert all(option in text for option in options)


def test_a_wrong_command_exits_2(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["publish"])
    assert stop.value.code == 2


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_everything_runs_with_torch_out_of_reach(results, tmp_path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from leaderboard.cli import main\n"
        f"assert main(['build', '--results', {str(results)!r}, '--out', {str(tmp_path / 'site')!r}]) == 0\n"
        "for name in ('json', 'csv', 'latex'):\n"
        f"    assert main(['export', '--results', {str(results)!r}, '--format', name]) == 0\n"
        "import leaderboard.serve, leaderboard.page\n"
        "assert not {'harness.engine.shard', 'harness.attacks', 'harness.models'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_early_is_no_error(results) -> None:
    command = f"{sys.executable} -m leaderboard export --results {results} | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(), check=True)
    assert done.stderr == ""
    assert done.stdout == "{"


def test_serve_builds_answers_on_this_machine_alone_and_stops_on_ctrl_c(results, tmp_path) -> None:
    command = [sys.executable, "-m", "leaderboard", "serve", "--port", "0", "--results", str(results),
               "--out", str(tmp_path / "site")]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        # A shell that starts the tests in the background has them, and their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:  # fmt: skip
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            address = server.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address, timeout=20) as answer:
                assert b"Adversarial robustness leaderboard" in answer.read()
            with urllib.request.urlopen(f"{address}static/site.css", timeout=20) as answer:
                assert answer.headers["Content-Type"].startswith("text/css")
            for missing in ("static/", "..%2f..%2fetc/passwd", "../results/runs/"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(f"{address}{missing}", timeout=20)
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(timeout=20)
        assert code == 0
        assert server.stderr.read() == ""


def test_serve_listens_on_the_loopback_address(results, tmp_path) -> None:
    with make_server(tmp_path, 0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_taken_port_is_one_line_and_exit_2(results, tmp_path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code = cli.main(["serve", "--port", port, "--results", str(results), "--out", str(tmp_path / "site")])
    assert code == 2
    assert port in capsys.readouterr().err
    assert cli.main(["serve", "--port", "70000", "--results", str(results), "--out", str(tmp_path / "site")]) == 2
