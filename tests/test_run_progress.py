"""How a run shows itself: plain lines, a live block, events; and which words errors carry."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pytest

from dsl.running.carrying import workplace_for
from dsl.running.displays import LiveDisplay, NoDisplay, PlainDisplay, choose_display, format_values
from dsl.running.failures import StageError, is_out_of_memory, located
from dsl.running.folder import RunFolder, default_folder, uninterrupted
from dsl.running.forecast import Forecast, about, expected_seconds
from dsl.running.progress import EventLog, Reporter, plain
from dsl.running.stage import sections
from graphir.diagnostics import Source
from graphir.errors import GraphirError, UnavailableError
from tests.running import HEAD, spec_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_shows_progress() -> None:
    assert isinstance(choose_display(Terminal(), quiet=False), LiveDisplay)
    assert isinstance(choose_display(io.StringIO(), quiet=False), PlainDisplay)
    assert isinstance(choose_display(Terminal(), quiet=True), NoDisplay)


def test_plain_lines_come_at_the_start_and_now_and_then() -> None:
    out = io.StringIO()
    display = PlainDisplay(out, every=0.0)
    display.begin("learn", 10)
    display.step(5, {"loss": 0.25, "density": 0.041})
    display.end(3.0)
    display.begin("write x", None, minor=True)
    display.end(None)
    first, second, third = out.getvalue().splitlines()
    assert first == "learn: 10 steps …"
    assert second.startswith("learn: 5/10, loss 0.25, density 4.1%, ")
    assert third == "learn: done in 3 s"


def test_plain_lines_are_few() -> None:
    out = io.StringIO()
    display = PlainDisplay(out, every=1000.0)
    display.begin("learn", 100)
    for step in range(100):
        display.step(step, {"loss": 1.0})
    display.end(0.5)
    assert out.getvalue() == "learn: 100 steps …\n"


def test_a_live_block_shows_steps_and_values_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    display = LiveDisplay(out)
    display.begin("learn", 10)
    display.step(7, {"loss": 0.25})
    display.end(1.0)
    assert "learn" in out.getvalue()
    assert "7/10" in out.getvalue()
    assert "loss 0.25" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[2K")  # the line is cleared
    display.end(None)  # twice does no harm


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_live_block_has_all_that_there_is_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out, clock = Terminal(), Clock()
    display, forecast = LiveDisplay(out), Forecast({"find": 10.0, "measure": 290.0}, clock)
    display.expect(2, forecast)
    forecast.begin(300)
    display.begin("found: learn", 300)
    clock.now = 5.0
    forecast.step(100)
    display.step(100, {"loss": 0.25, "kl": 0.125, "density": 0.041})
    display.end(None)
    shown = out.getvalue()
    assert "[1/2] found: learn" in shown
    assert "100/300" in shown
    # 10 seconds of steps are left; 15 seconds for what was to take 10 make 290 so much longer, the plan being believed
    # for two seconds.
    left = 10 + 290 * (2 + 15) / (2 + 10)
    assert f"loss 0.25, kl 0.125, density 4.1%; about {about(left)} left in all" in shown


def test_plain_lines_say_what_is_left_in_all() -> None:
    out, clock = io.StringIO(), Clock()
    display, forecast = PlainDisplay(out, every=0.0), Forecast({"find": 10.0, "measure": 10.0}, clock)
    display.expect(2, forecast)
    display.begin("learn", 10)
    display.step(5, {"loss": 0.25})
    assert out.getvalue().splitlines()[-1].endswith("about 20 s in all")


def test_a_forecast_learns_from_what_was_computed() -> None:
    clock = Clock()
    forecast = Forecast({"trace": 8.0, "find": 20.0, "measure": 20.0}, clock)
    assert forecast.left() == 48.0
    clock.now = 18.0  # 8 seconds were planned
    forecast.settled("trace", cached=False)
    assert forecast.left() == pytest.approx(40 * (18 + 2) / (8 + 2))
    forecast.settled("find", cached=True)  # what comes from the cache says nothing of speed
    assert forecast.left() == pytest.approx(20 * 20 / 10)
    clock.now += 30.0
    assert forecast.left() == pytest.approx(10.0)
    clock.now += 30.0
    assert forecast.left() == 0.0  # late, but not in the past
    forecast.settled("measure", cached=False)
    assert forecast.left() == 0.0


def test_nothing_is_foretold_where_nothing_is_known() -> None:
    forecast = Forecast({})
    forecast.begin(10)
    forecast.step(5)
    assert forecast.left() is None
    assert forecast.left_of_steps() is not None


def test_times_that_are_not_known_exactly() -> None:
    assert [about(seconds) for seconds in (0.4, 99, 130, 3600, 7800)] == [
        "0 s",
        "99 s",
        "2 min",
        "60 min",
        "2 h 10 min",
    ]


def test_a_plan_expects_seconds_of_every_stage_that_computes_with_a_model(tmp_path: Path) -> None:
    spec = spec_of(
        HEAD + "circuit c = discover g for pairs with edge_pruning { steps: 9  seeds: 0, 1 } subject to edges <= 5\n",
        tmp_path,
    )
    place = workplace_for(spec, Reporter(quiet=True), None, caching=False, threads=None)
    ahead = [stage for section in sections() for stage in section.stages(spec, place)]
    expected = expected_seconds(spec, ahead)
    assert list(expected) == [stage.name for stage in ahead]
    assert expected["c (seed 0)"] == expected["c (seed 1)"] > 0
    assert expected["trace g"] > expected["measure c"] > 0


def test_the_log_says_what_is_left(tmp_path: Path) -> None:
    reporter = Reporter(quiet=True, events=tmp_path / "events")
    reporter.expect(1, {"find": 100.0})
    reporter.begin("learn", 4)
    reporter.step("learn", 1, {"loss": 0.5})
    reporter.close()
    first, _, last = (json.loads(line) for line in (tmp_path / "events").read_text().splitlines())
    assert (first["event"], first["stages"]) == ("expect", 1)
    assert 0 < first["left"] <= 100
    assert (last["event"], last["done"], last["values"]) == ("step", 1, {"loss": 0.5})
    assert last["left"] >= 0


def test_values() -> None:
    assert format_values({"loss": 0.123456, "density": 0.5, "examples": 8}) == "loss 0.1235, density 50.0%, examples 8"
    assert plain({"a": float("nan"), "b": (1, float("inf"))}) == {"a": None, "b": [1, None]}


def test_events_go_to_several_files(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "a", None, tmp_path / "b")
    log.write("step", values={"loss": float("nan")})
    # There before the log is closed: someone may be following it.
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert json.loads((tmp_path / "a").read_text())["values"] == {"loss": None}
    log.close()


def learn(reporter: Reporter) -> None:
    with reporter.stage("second", prefix="found"):
        reporter.begin("learn", 3)
        raise ZeroDivisionError


def test_a_reporter_times_stages_and_says_which_failed(tmp_path: Path) -> None:
    reporter = Reporter(quiet=True, events=tmp_path / "events")
    with reporter.stage("first"):
        pass
    with pytest.raises(ZeroDivisionError):
        learn(reporter)
    reporter.close()
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [(event["event"], event["stage"]) for event in events] == [
        ("begin", "first"), ("end", "first"), ("begin", "second"), ("begin", "found: learn"), ("failed", "second"),
    ]  # fmt: skip
    assert set(reporter.seconds) == {"first"}


# Errors


def test_errors_get_their_place_once_and_keep_their_exit_code() -> None:
    source = Source("x.circ", "circ 1\nmodel m = hf")
    span = source.span(7, 12)
    with pytest.raises(StageError) as caught, located("running", span), located("loading `m`", span):
        raise UnavailableError("no model", ["download it"])
    assert str(caught.value) == "no model\n  while loading `m` (x.circ:2)\n  help: download it"
    assert caught.value.exit_code == 3


def test_mistakes_of_the_program_stay_what_they_are() -> None:
    span = Source("x", "").span(0, 0)
    with pytest.raises(RuntimeError, match="shapes differ"), located("running", span):
        raise RuntimeError("shapes differ")


def test_running_out_of_memory_is_recognised() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(type("OutOfMemoryError", (RuntimeError,), {})("CUDA"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


# The folder


def test_the_name_of_a_folder_is_that_of_the_file(tmp_path: Path) -> None:
    spec = spec_of(HEAD, tmp_path)
    assert default_folder(spec).parts[:2] == ("runs", "toy")
    assert default_folder(spec).name == spec.digest[:8]


def test_ctrl_c_has_to_wait_while_files_are_moved() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_not_published_leaves_no_trace(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    now, final = folder.target("sub/x.csv")
    now.parent.mkdir()
    now.write_text("x")
    assert final == tmp_path / "out" / "sub" / "x.csv"
    folder.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_paths_that_lead_out(path: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    with pytest.raises(GraphirError, match="outside the output folder"):
        folder.target(path)
    folder.discard()
