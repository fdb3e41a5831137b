"""`repair`: every intact sample of a data set in new, sound shards in another folder.

Undamaged shards are copied byte for byte; of the others the intact samples are written anew, with the same keys and the
same member bytes. A shard appears under its name only when it is whole, so the same command goes on after a kill.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from vstrain.data import storage
from vstrain.data.atomic import sync_folder, temporary_of, write_file
from vstrain.data.checks.survey import Finding, saved_for, survey
from vstrain.data.checks.verify import OF_INDEX, Progress, Report, spread, verify
from vstrain.data.index import Index, contents, sidecar
from vstrain.data.problems import DataError
from vstrain.data.writer import ShardFile

RECORD, LOCK, LEFT_OUT = ".repair.json", ".repair.lock", "left_out.jsonl"
OWN = {RECORD, LOCK, temporary_of(Path(RECORD)).name}


@dataclass
class Repaired:
    """copied: undamaged shards, byte for byte; rewritten: shards with what was intact in them; dropped: shards of which
    nothing was intact. kept: samples in the new shards; left_out: findings about samples and shards that are not there."""

    folder: Path
    kept: int
    copied: int
    rewritten: int
    dropped: list[str]
    left_out: list[Finding]

    def text(self, most: int = 50) -> str:
        lines = [
            f"{finding.shard}: {f'sample {finding.key}: ' if finding.key else ''}{'; '.join(finding.detail)}"
            for finding in self.left_out[:most]
        ]
        if len(self.left_out) > most:
            lines.append(f"… and {len(self.left_out) - most} more")
        lines += [f"{shard}: nothing in it is intact; no shard was written" for shard in self.dropped]
        lost = len({(finding.shard, finding.key) for finding in self.left_out if finding.key})
        lines.append(
            f"{self.folder}: {self.kept} samples kept, {lost} left out ({self.folder / LEFT_OUT}); "
            f"{self.copied} shards copied as they are, {self.rewritten} written anew, {len(self.dropped)} dropped"
        )
        return "\n".join(lines)


def repair(
    urls: list[str], out: Path, processes: int, kind: str = "auto", progress: Progress | None = None
) -> Repaired:
    """Write the intact samples of the shards `urls` (expanded addresses) into the folder `out`, and their index.

    Raises DataError where `out` cannot be used, where two shards have one name, and when nothing is intact."""
    out = Path(out).expanduser().absolute()
    names = _names(urls)
    _refuse_source_folder(urls, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_others_folder(out)
        with FileLock(out / LOCK, timeout=0):
            report = _examined(urls, out, processes, kind, progress)
            return _write(report, names, out, processes, progress)
    except Timeout as error:
        raise DataError(f"{out}: another repair writes there now; wait for it, or name another folder") from error
    except OSError as error:
        if isinstance(error, storage.StorageError):
            raise DataError(str(error)) from error
        raise DataError(f"{out}: cannot be written ({error.strerror or error}); make room, allow it, or name another "
                        "folder and give the same command") from error  # fmt: skip


def _names(urls: list[str]) -> dict[str, str]:
    """url -> file name of its new shard: always a plain name, so that nothing is written outside of the folder."""
    names = {url: url.rpartition("/")[2] for url in urls}
    taken: dict[str, str] = {}
    for url, name in names.items():
        if name in ("", ".", "..") or name in OWN | {LEFT_OUT} or os.sep in name or "\0" in name:
            raise DataError(f"{url}: no file can have the name {name!r}; give the addresses of .tar files")
        if name in taken:
            raise DataError(f"{url} and {taken[name]} have one name; repair them one by one, each into a folder")
        taken[name] = url
    if len(names) < len(urls):
        raise DataError("a shard is named twice; name every shard once")
    return names


def _refuse_source_folder(urls: list[str], out: Path) -> None:
    for url in urls:
        if not storage.is_remote(url) and Path(url).parent.resolve() == out.resolve():
            raise DataError(
                f"{out}: the shards to repair lie in this folder, which is never written to; name another one"
            )


def _refuse_others_folder(out: Path) -> None:
    present = {path.name for path in out.iterdir()}
    if RECORD not in present and present - OWN:
        raise DataError(f"{out}: is not empty and was not written by vstrain data repair; name a new folder")
    for path in out.iterdir():
        if path.is_symlink():
            raise DataError(f"{path}: is a link, through which repair does not write; remove it or name a new folder")


# ---- what is wrong: found once, remembered for the next start ------------------------------------------------------


def _examined(urls: list[str], out: Path, processes: int, kind: str, progress: Progress | None) -> Report:
    sources = {"kind": kind, "shards": [[url, *_stamp(url)] for url in urls]}
    record = out / RECORD
    if record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["sources"] != sources:
            raise DataError(f"{out}: holds the repair of other shards, or they have changed since; name a new folder")
        findings = [Finding.of_record(finding) for finding in known["findings"]]
        return Report(urls, known["kind"], True, known["samples"], findings=findings)
    report = verify(urls, processes, True, kind, progress)
    found = [finding.record() for finding in report.findings]
    content = {"sources": sources, "kind": report.kind, "samples": report.samples, "findings": found}
    write_file(record, json.dumps(content).encode())
    return report


def _stamp(url: str) -> tuple[int, int]:
    """Size and time of change: of another content, with near certainty, when they differ."""
    if storage.is_remote(url):
        return storage.stat(url), 0
    about = Path(url).stat()
    return about.st_size, about.st_mtime_ns


# ---- writing --------------------------------------------------------------------------------------------------------


def _write(report: Report, names: dict[str, str], out: Path, processes: int, progress: Progress | None) -> Repaired:
    saved, _ = saved_for(report.shards)
    damaged, lost = report.damaged_shards(), report.lost()
    work = [
        (url, saved.get(url), out / names[url], url in damaged, frozenset(lost.get(url, ()))) for url in report.shards
    ]
    written = []
    for done, there in enumerate(spread(partial(_write_shard, kind=report.kind), work, processes)):
        written.append(there)
        if progress:
            progress("writing", done + 1, len(work))
    if not any(written):
        raise DataError(f"{report.shards[0]} …: nothing in these shards is intact; there is nothing to write")
    left_out = [finding for finding in report.findings if not finding.kept and finding.reason not in OF_INDEX]
    replace(report, findings=left_out).save(out / LEFT_OUT)
    kept = _save_indices(report.shards, {url: out / names[url] for url in report.shards}, saved)
    return Repaired(
        out,
        kept,
        copied=len(report.shards) - len(damaged & set(report.shards)),
        rewritten=sum(there for there, url in zip(written, report.shards, strict=True) if url in damaged),
        dropped=[url for there, url in zip(written, report.shards, strict=True) if not there],
        left_out=left_out,
    )


def _write_shard(work: tuple, kind: str | None) -> bool:
    """Whether there is a new shard: False when nothing was left to put in it."""
    url, saved, path, damaged, lost = work
    if path.exists():
        return True
    if not damaged:
        _copy(url, path)
        return True
    found = survey(url, saved, kind, decode=False)
    lost = lost | {finding.key for finding in found.findings if finding.key and not finding.kept}
    keys = [key for key in found.samples if key not in lost]
    if not keys:
        return False
    shard = ShardFile(path)
    try:
        with contents(url) as data:
            for key in keys:
                members = {name: data[at : at + size] for name, (at, size, _) in found.samples[key].items()}
                shard.add({"__key__": key, **members})
        shard.commit()
    except BaseException:
        shard.abort()
        raise
    return True


def _copy(url: str, path: Path) -> None:
    if storage.is_remote(url):
        write_file(path, storage.get(url))
        return
    temporary = temporary_of(path)
    with Path(url).open("rb") as source, temporary.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def _save_indices(urls: list[str], paths: dict[str, Path], saved: dict[str, tuple[Index, int]]) -> int:
    """Index the new shards in the same groups as the old ones; the number of samples."""
    groups: dict[tuple[str, ...], None] = {}
    for url in urls:
        group = tuple(saved[url][0].shards) if url in saved else ()
        groups[group if group and set(group) <= set(urls) else ()] = None
    covered = {url for group in groups for url in group}
    rest = tuple(url for url in urls if url not in covered)
    kept = 0
    for group in [*filter(None, groups), *([rest] if rest else [])]:
        there = [str(paths[url]) for url in group if paths[url].exists()]
        if there:
            index = Index.build(there)
            index.save(Path(sidecar(there)))
            kept += len(index)
    return kept
