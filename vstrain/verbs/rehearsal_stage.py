"""Where a rehearsal plays: the experiment made small, its runs, and what is done to them from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from launch import local
from vstrain.config import checkpoints, rundir
from vstrain.config.rehearsal import Order
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.data.storage import is_remote

STEPS, SAVE_EVERY = 12, 4
SHARDS = 2  # of each source that are used
LAUNCHES = 3  # until a run that does not finish is given up
PAGE = 4096


def scene(words: list[str], ranks: int) -> list[str]:
    """The user's words made small. What a rehearsal is about is set; the rest the user may have said otherwise."""
    said = {word.lstrip("+~").partition("=")[0]: word.partition("=")[2] for word in words}
    fixed = {
        "launcher": "local",
        "trainer.devices": ranks,
        "trainer.max_steps": STEPS,
        "trainer.log_every": 1,
        "callbacks.checkpoint.every": SAVE_EVERY,
        "callbacks.validation.every": STEPS,
        "logger.wandb.enabled": "false",
        "logger.tensorboard": "false",
    }
    free = {
        "data.batch_size": 2 * ranks * int(said.get("trainer.accumulate", 1)),
        "data.val_batch_size": 2,
        "data.workers": 1,
        "data.block": 16,
        "data.max_damaged": 0.9,
        "data.procedural.samples": 48,
        "data.procedural.val_samples": 8,
        "callbacks.validation.samples": 2 * ranks,
        "callbacks.validation.pictures": "false",
    }
    if len(list(Path("/dev").glob("nvidia[0-9]*"))) < ranks:
        free["trainer.accelerator"] = "cpu"
    added = fixed | {key: value for key, value in free.items() if key not in said}
    return [*words, *(f"{key}={value}" for key, value in added.items())]


class Stage:
    """Runs of one configuration below `folder`, with their output in `folder`/NAME.log."""

    def __init__(self, config: TrainConfig, folder: Path, ranks: int):
        self.folder, self.ranks = folder, ranks
        self.remote = any(is_remote(url) for source in config.data.train.all_sources() for url in source.urls)
        self.config = config if self.remote else self._with_links(config)
        self._attempts: dict[str, int] = {}

    def _with_links(self, config: TrainConfig) -> TrainConfig:
        """The first shards of each source, under a folder of ours where they may be damaged."""
        sources = []
        for number, source in enumerate(config.data.train.all_sources()):
            place = self.folder / "data" / str(number)
            place.mkdir(parents=True)
            for url in source.urls[:SHARDS]:
                (place / Path(url).name).symlink_to(Path(url).absolute())
            urls = [str(place / Path(url).name) for url in source.urls[:SHARDS]]
            sources.append(source.model_copy(update={"urls": urls}))
        train = {"sources": sources} if config.data.train.sources else {"urls": sources[0].urls}
        data = config.data.model_copy(update={"train": config.data.train.model_copy(update=train)})
        return config.model_copy(update={"data": data})

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def launch(self, name: str, order: Order, ranks: int | None = None) -> int:
        """Start the run `name`, or go on with it, and wait; its exit code."""
        run_dir = self.begin(name)
        self._attempts[name] = self._attempts.get(name, 0) + 1
        order = order._replace(attempt=self._attempts[name])
        with self._quiet(name), _environment(order.environment()):
            return local.start(run_dir, ranks or self.ranks, replace=False)

    def begin(self, name: str) -> Path:
        run_dir = self.folder / name
        if not (run_dir / "resolved.yaml").is_file():
            rundir.create(self.config, self.folder, run_dir, {})
        return run_dir

    def go_on(self, name: str, ranks: int | None = None) -> int:
        """As a launcher would: again until it has finished, on `ranks` ranks from now on."""
        run_dir = self.folder / name
        if ranks:
            values = rundir.load(run_dir)
            values["trainer"]["devices"] = ranks
            rundir.write_atomic(run_dir / "resolved.yaml", rundir.dump(validate(values, TrainConfig)))
        code = 1
        for _ in range(LAUNCHES):
            if (code := self.launch(name, Order(), ranks)) == 0:
                break
        return code

    @contextlib.contextmanager
    def _quiet(self, name: str) -> Iterator[None]:
        """What the processes print goes to the log."""
        with self.log(name).open("ab") as log:
            kept = [os.dup(number) for number in (1, 2)]
            try:
                for number in (1, 2):
                    os.dup2(log.fileno(), number)
                yield
            finally:
                for number, old in zip((1, 2), kept, strict=True):
                    os.dup2(old, number)
                    os.close(old)

    # ---- what happens to a run from outside -------------------------------------------------------------------------

    @contextlib.contextmanager
    def truncated_shard(self) -> Iterator[str]:
        """The first shard loses its last third while this is open. Gives its address."""
        path = Path(self.config.data.train.all_sources()[0].urls[0])
        whole = path.resolve()
        data = whole.read_bytes()
        path.unlink()
        path.write_bytes(data[: len(data) * 2 // 3])
        try:
            yield str(path)
        finally:
            path.unlink()
            path.symlink_to(whole)

    @contextlib.contextmanager
    def small_disk(self, name: str) -> Iterator[tuple]:
        """(order, how it is done, what gives room again) for a run with room for one and a half checkpoints; order None when it
        cannot be done here. A small tmpfs for root; else a bound on the size of files."""
        found = checkpoints.latest(self.folder / "undisturbed")
        sizes = [file.stat().st_size for file in found[0].iterdir()]
        folder = self.begin(name) / "checkpoints"
        pages = sum(-(-size // PAGE) for size in sizes)
        if _mount(folder, f"size={(pages + max(1, pages // 2)) * PAGE}"):
            try:
                yield Order(), "a small tmpfs", lambda: _mount(folder, f"remount,size={(8 * pages + 64) * PAGE}")
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=False)
            return
        bound = max(sizes) // 2
        others = [file.stat().st_size for file in (self.folder / "undisturbed").rglob("*.jsonl")]
        if 2 * max(others) > bound:
            yield None, "no right to mount a tmpfs, and the checkpoint is too small for a bound on files", lambda: None
        else:
            order = Order("file_limit", 0, SAVE_EVERY + 1, count=bound)
            yield order, "a bound on the size of files", lambda: None


def _mount(folder: Path, options: str) -> bool:
    if os.geteuid():
        return False
    line = ["mount", "-t", "tmpfs", "-o", options, "vstrain-rehearsal", str(folder)]
    try:
        return subprocess.run(line, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
