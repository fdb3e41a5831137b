"""`vstrain data index|verify|repair|inspect|stats URLS…`: what can be done with shards that are there."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vstrain.config.problems import InputError, nearest
from vstrain.data import kinds, storage
from vstrain.data.index import Index, scan, sidecar
from vstrain.data.problems import DataError
from vstrain.data.storage import expand
from vstrain.verbs.embedded import progress_bar

FINE, DAMAGE = 0, 1


@dataclass(frozen=True)
class Option:
    """What `key=value` means: `read` turns the word into a value or raises ValueError; without a default it is required."""

    read: Callable[[str], object]
    expected: str
    text: str
    default: object = None
    required: bool = False


@dataclass(frozen=True)
class Tool:
    """run(shard addresses, options) -> exit code."""

    text: str
    run: Callable[[list[str], dict], int]
    options: dict[str, Option]


def main(name: str, words: list[str]) -> int:
    tool = TOOLS[name]
    if "--help" in words or "-h" in words:
        print(usage(name))
        return FINE
    urls, options = parse(name, words)
    return tool.run(expand(urls), options)


def usage(name: str) -> str:
    tool = TOOLS[name]
    lines = [f"vstrain data {name} URLS… key=value …", "", f"  {tool.text}", ""]
    lines.append("  URLS               shards, local or remote; globs and {000..012} braces are expanded")
    for key, option in tool.options.items():
        end = (
            "required" if option.required else f"default: {_word(option.default)}" if option.default is not None else ""
        )
        lines.append(f"  {key + '=' + option.expected:<18} {option.text}{f' ({end})' if end else ''}")
    return "\n".join([*lines, "", "Exit codes: 0 fine, 1 damage found, 2 wrong words or shards that cannot be used."])


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(name: str, words: list[str]) -> tuple[list[str], dict]:
    """Shard addresses, and every option with its value. A word is an option when it begins with a name and `=`."""
    known, urls, options = TOOLS[name].options, [], {}
    for word in words:
        if word.startswith("-"):
            raise InputError(f"{word}: no such flag; see `vstrain data {name} --help`")
        found = re.match(r"([A-Za-z_]\w*)=(.*)", word, re.DOTALL)
        if not found:
            urls.append(word)
            continue
        key, value = found.groups()
        if key not in known:
            hint = nearest(key, known)
            raise InputError(f"no option {key!r} ({word}); {hint} (a file of this name is written ./{word})")
        try:
            options[key] = known[key].read(value)
        except ValueError as error:
            raise InputError(f"{word}: expected {key}={known[key].expected}, {known[key].text}") from error
    if not urls:
        raise InputError(f"no shards are named; write vstrain data {name} 'FOLDER/*.tar'")
    for key, option in known.items():
        if key not in options and option.required:
            raise InputError(f"{key}= is missing; write {key}={option.expected}, {option.text}")
    return urls, {key: options.get(key, option.default) for key, option in known.items()}


# ---- options --------------------------------------------------------------------------------------------------------


def _count(word: str) -> int:
    if not re.fullmatch(r"[0-9]+", word) or int(word) < 1:
        raise ValueError(word)
    return int(word)


def _one_of(**meanings) -> Callable[[str], object]:
    """Reads one of a few words."""

    def read(word: str):
        if word not in meanings:
            raise ValueError(word)
        return meanings[word]

    return read


def _path(word: str) -> Path:
    if not word:
        raise ValueError(word)
    return Path(word)


def _processes() -> int:
    return len(os.sched_getaffinity(0))


PROCESSES = Option(_count, "N", "how many shards are read at the same time", _processes())
KIND_WORDS = ("auto", "none", *kinds.KINDS)
KIND = Option(
    _one_of(**{word: word for word in KIND_WORDS}),
    "KIND",
    f"auto, none, or what the samples must be: {', '.join(kinds.KINDS)}",
    "auto",
)


# ---- tools ----------------------------------------------------------------------------------------------------------


def index(urls: list[str], options: dict) -> int:
    from vstrain.data.checks.verify import spread
    from vstrain.data.look.facts import size_text

    start = time.perf_counter()
    with progress_bar("indexing") as advance:
        parts = []
        for part in spread(scan, urls, options["processes"]):
            parts.append(part)
            advance("shards", len(parts), len(urls))
        made = Index.merge(parts)
    seconds = time.perf_counter() - start
    path = _save(made, options["out"])
    for url, offset, reason in made.faults:
        print(f"{url}: at byte {offset}: {reason}")
    total, count = sum(made.sizes), len(made.faults)
    print(
        f"{path}: {len(made)} samples in {len(urls)} shard{'s' * (len(urls) > 1)}, {size_text(total)}, "
        f"{count} fault{'s' * (count != 1)}, fingerprint {made.fingerprint}, {seconds:.1f} s ({total / 1e6 / seconds:.0f} MB/s)"
    )
    return DAMAGE if made.faults else FINE


def _save(made: Index, out: Path | None) -> str:
    """Write the index to `out`, or beside the first shard, wherever that lies."""
    try:
        if out or not storage.is_remote(made.shards[0]):
            return str(made.save(out))
        with tempfile.TemporaryDirectory() as folder:
            storage.write(sidecar(made.shards), made.save(Path(folder) / "index").read_bytes())
        return sidecar(made.shards)
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"the index cannot be written ({why}); allow it, or name a file with out=FILE") from error


def verify(urls: list[str], options: dict) -> int:
    from vstrain.data.checks.verify import verify as check

    with progress_bar("verifying") as advance:
        report = check(urls, options["processes"], options["decode"], options["kind"], advance)
    if options["out"]:
        try:
            report.save(options["out"])
        except OSError as error:
            raise DataError(f"{options['out']}: cannot be written ({error.strerror}); name another file") from error
    print(report.text())
    return FINE if report.sound else DAMAGE


def repair(urls: list[str], options: dict) -> int:
    from vstrain.data.checks.repair import repair as write

    with progress_bar("repairing") as advance:
        repaired = write(urls, options["out"], options["processes"], options["kind"], advance)
    print(repaired.text())
    return FINE


def inspect(urls: list[str], options: dict) -> int:
    from vstrain.data.look.facts import facts
    from vstrain.data.look.sheet import save, sheet

    opened = _open(urls)
    print("\n".join(facts(opened).lines()), flush=True)
    print(save(sheet(opened, options["samples"]), options["out"]))
    return FINE


def stats(urls: list[str], options: dict) -> int:
    from vstrain.data.look.sheet import save
    from vstrain.data.look.stats import stats as measure

    opened = _open(urls)
    with progress_bar("reading") as advance:
        found = measure(opened, options["samples"], advance)
    print("\n".join(found.lines))
    print(save(found.picture, options["out"]))
    return FINE


def _open(urls: list[str]) -> Index:
    with progress_bar("indexing") as advance:
        opened = Index.open(urls, lambda done, total: advance("shards", done, total))
    if not len(opened):
        raise DataError(f"{urls[0]}: there is no sample in these shards; vstrain data verify says why")
    return opened


TOOLS = {
    "index": Tool(
        "make the index of these shards anew: where every sample lies, and its hash",
        index,
        {
            "out": Option(_path, "FILE", "the index file, instead of the one beside the first shard"),
            "processes": PROCESSES,
        },
    ),
    "verify": Tool(
        "read everything and say what is damaged: headers, hashes, members that do not decode or do not fit together",
        verify,
        {
            "out": Option(_path, "FILE", "write the findings as JSON lines"),
            "processes": PROCESSES,
            "decode": Option(_one_of(true=True, false=False), "true|false", "whether every member is decoded", True),
            "kind": KIND,
        },
    ),
    "repair": Tool(
        "write every intact sample into sound shards of the same names in another folder",
        repair,
        {
            "out": Option(_path, "FOLDER", "a new folder for the shards", required=True),
            "processes": PROCESSES,
            "kind": KIND,
        },
    ),
    "inspect": Tool(
        "counts, members and sizes, and a contact sheet",
        inspect,
        {
            "out": Option(_path, "FILE.png", "the contact sheet", Path("sheet.png")),
            "samples": Option(_count, "N", "how many samples are shown, spread over the data set", 24),
        },
    ),
    "stats": Tool(
        "histograms of resolution, depth, captions and clips, in numbers and as a picture",
        stats,
        {
            "out": Option(_path, "FILE.png", "the picture", Path("stats.png")),
            "samples": Option(_count, "N", "how many samples are read, spread over the data set", 500),
        },
    ),
}
