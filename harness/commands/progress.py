"""What a run tells while it goes on: one line per shard with an estimate of the time left, and a closing table."""

import time
from collections.abc import Callable
from pathlib import Path

from harness import metrics, plan, store
from harness.corruptions import EXTRA_CORRUPTIONS
from harness.executors.holder import Speed
from harness.forecast import Forecast
from harness.records import Example, Record, Shard, Status, Task
from harness.run import Prepared
from harness.tables import Measure, corrupted_accuracy, measure_of


def duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def _result(record: Record) -> str:
    """What one shard showed, in a few words."""
    if record.failure is not None:
        return f"{record.status.value}: {record.failure.message}"
    if record.footprint is not None:
        cost = record.footprint
        return f"{cost.forward.examples_per_second:.0f} images/s forward, {cost.parameters:,} parameters"
    if record.shard.task.kind == "probe":
        broken = sum(row.correct and not row.robust for row in record.examples)
        return f"{broken} witnesses" if broken else "measured"
    if record.shard.task.kind == "clean":
        return f"natural {metrics.natural_accuracy(record.examples).value:.1%}"
    if record.shard.task.kind == "corruption":
        return f"right {corrupted_accuracy(record.examples).value:.1%}"
    return f"robust {metrics.robust_accuracy(record.examples).value:.1%}"


def download_progress(say: Callable[[str], object]) -> Callable[[int, int], None]:
    """Told the bytes of a download that are here and in all; says a line for every hundredth, or every 64 MiB."""
    last = -1

    def hear(here: int, total: int) -> None:
        nonlocal last
        step = here * 100 // total if total else here >> 26
        if step > last:
            last = step
            share = f" of {total / 1e6:,.0f} MB, {step} %" if total else " MB"
            say(f"download: {here / 1e6:,.0f}{share}")

    return hear


def _place(shard: Shard) -> tuple[str, str, int]:
    return shard.submission, shard.task.key, shard.start


def _column(task: Task) -> tuple[str, Measure]:
    """The column of the closing table that a task belongs to, and its figure; all corruptions share a mean."""
    if task.kind == "corruption":
        extra = " (extra)" if task.params["corruption"] in EXTRA_CORRUPTIONS else ""
        return f"mean@{task.params['dataset']}{extra}", corrupted_accuracy
    return task.key, measure_of(task.kind)


class Progress:
    """Called with every finished record; counts, estimates and prints."""

    def __init__(self, prepared: Prepared, *, workers: int, say: Callable[[str], object]) -> None:
        self._prepared, self._workers, self._say = prepared, max(1, workers), say
        self._left: dict[tuple[str, str, int], Shard] = {_place(work.shard): work.shard for work in prepared.works}
        self._forecast = Forecast(prepared.manifest.classes)
        self._waiting = {work.shard.submission for work in prepared.works}
        self._failed: list[Record] = []
        self._began = time.monotonic()
        self.finished = 0

    @property
    def failed(self) -> int:
        """Shards that ended without numbers."""
        return len(self._failed)

    def __call__(self, record: Record) -> None:
        shard = record.shard
        self.finished += 1
        self._left.pop(_place(shard), None)
        self._forecast.learn(record)
        if record.status is not Status.OK:
            self._failed.append(record)
        left = self._seconds_left()
        eta = f", {duration(left)} left" if left else ""
        self._say(
            f"[{self.finished}/{len(self._prepared.works)}] {shard.submission} {shard.task.key} "
            f"{shard.start}-{shard.stop}: {_result(record)} ({record.cost.seconds:.1f} s{eta})"
        )

    def _seconds_left(self) -> float | None:
        """Estimate of the wall-clock seconds left; None before anything is known."""
        left = self._forecast.left(self._left.values())
        return None if left is None else left / min(self._workers, max(1, len(self._left)))

    def hear(self, submission: str, speed: Speed) -> None:
        """Called with a submission's speed before its first shard: says what the whole run should take."""
        self._forecast.hear(submission, speed)
        if submission not in self._waiting:
            return
        self._waiting.discard(submission)
        mine = [shard for shard in self._left.values() if shard.submission == submission]
        own = self._forecast.left(mine)
        total = self._seconds_left()
        if own is not None and total is not None:
            self._say(
                f"{submission}: {1 / speed.forward:.0f} images/s forward, "
                f"{1 / (speed.forward + speed.backward):.0f} with gradient; its {len(mine)} shards should take about "
                f"{duration(own)} of one worker; about {duration(total)} left in all"
            )

    def failures(self) -> list[str]:
        """One line per distinct failure."""
        lines: dict[str, int] = {}
        for record in self._failed:
            assert record.failure is not None
            line = f"{record.shard.submission} {record.failure.kind}: {record.failure.message}"
            lines[line] = lines.get(line, 0) + 1
        return [f"{line} ({count} shards)" if count > 1 else line for line, count in lines.items()]

    def table(self, results: Path) -> str:
        """Accuracies of every submission of the run, from the records on disk; ``-`` where there is no number."""
        manifest = self._prepared.manifest
        rows: dict[str, dict[str, str]] = {}
        for candidate in manifest.candidates:
            collected: dict[str, list[Example] | None] = {}
            measures: dict[str, Measure] = {}
            for work in plan.work_of(manifest, candidate):
                task, record = work.shard.task, store.find_record(results, work.shard)
                if task.kind in {"cost", "probe"}:
                    continue
                key, measure = _column(task)
                measures[key] = measure
                known = collected.setdefault(key, [])
                if record is None or plan.state(work, record) is not plan.State.DONE:
                    collected[key] = None
                elif known is not None:
                    known.extend(record.examples)
            rows[candidate.id] = {
                key: f"{measures[key](found).value:.1%}" if found else "-" for key, found in collected.items()
            }
        columns = list(dict.fromkeys(key for cells in rows.values() for key in cells))
        width = max((len(name) for name in rows), default=0)
        lines = [" ".join(["".ljust(width), *columns])]
        for name, cells in rows.items():
            lines.append(" ".join([name.ljust(width), *(cells.get(key, "").rjust(len(key)) for key in columns)]))
        return "\n".join(lines)
