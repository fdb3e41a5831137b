"""The first pass over all pictures: what can be said of each, on the disk in pieces, before anything is left out.

    OUT.scan/plan.json       digest of the list of pictures
    OUT.scan/lock            byte 0: the folder; byte 1 + n: piece n
    OUT.scan/000007.npz      what is known of up to 1000 pictures; appears when it is whole

A killed pass goes on with the pieces that are missing. Jobs share the work: each does its own part, then helps with the rest,
until all pieces are there. Other limits on size or likeness need no new pass.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import xxhash

from data_pipelines.depth_corpus.readers import ReadError
from data_pipelines.executors import EXECUTORS, Execution, part_of
from data_pipelines.pictures.examine import contrast, decode, grey_grid, perceptual_hash
from data_pipelines.pictures.sources import Picture, read
from data_pipelines.production.folder import Lock, writing
from vstrain.config.problems import InputError
from vstrain.data.atomic import write_file

PIECE, FEWEST, PIECES = 1000, 20, 256  # pictures a piece; pieces of a small set, so that every core has work
FINE, UNREADABLE, MISSING = range(3)
FACTS = np.dtype(
    [
        ("state", "u1"),  # FINE, or what is wrong
        ("keeps", "u1"),  # its bytes can be kept as they are
        ("height", "<u4"),
        ("width", "<u4"),  # upright
        ("contrast", "<f4"),
        ("hash", "<u8"),  # perceptual
        ("content", "<u8"),  # xxh3_64 of the bytes
    ]
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scan:
    """facts: FACTS (N,). why: sentences about those whose state is not FINE."""

    facts: np.ndarray
    why: dict[int, str]


def scan(pictures: list[Picture], folder: Path, execution: Execution, progress: Progress) -> Scan:
    """What is known of each picture, from `folder` where it is known already."""
    size = min(PIECE, max(FEWEST, -(-len(pictures) // PIECES)))
    pieces = [(n, pictures[at : at + size]) for n, at in enumerate(range(0, len(pictures), size))]
    digest = _digest(pictures)
    with writing(folder):
        _claim(folder, digest)
    part = part_of(execution.part)
    left = {n: piece for n, piece in pieces if not _path(folder, n).is_file()}
    done = len(pictures) - sum(map(len, left.values()))
    progress("scan", done, len(pictures))
    try:
        for mine, wait in ((True, False), (False, False), (False, True)):
            todo = [(n, piece) for n, piece in left.items() if not mine or n % part.count == part.number]
            work = partial(_work, folder, digest, wait)
            with contextlib.closing(EXECUTORS[execution.executor](work, todo, execution.processes)) as results:
                for n in results if todo else ():
                    if n is not None:
                        done += len(left.pop(n))
                        progress("scan", done, len(pictures))
    except KeyboardInterrupt:
        print(f"stopped: {done} of {len(pictures)} pictures were looked at; the same command goes on", file=sys.stderr)
        raise
    return _collect(folder, digest, pieces)


def _digest(pictures: list[Picture]) -> str:
    digest = xxhash.xxh3_64(str(FACTS).encode())
    for picture in pictures:
        digest.update(f"{picture!r}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _claim(folder: Path, digest: str) -> None:
    """Make `folder` that of these pictures. What is there of others is removed: it can be made again."""
    folder.mkdir(parents=True, exist_ok=True)
    plan, said = folder / "plan.json", json.dumps({"format": 1, "pictures": digest})
    lock = Lock(folder / "lock")
    with contextlib.closing(lock.file):
        lock.take(0, 1, wait=True)
        if plan.is_file() and plan.read_text() == said:
            return
        if not plan.is_file() and any(path.name != "lock" for path in folder.iterdir()):
            raise InputError(f"{folder}: is not empty and holds no scan of pictures; remove it or choose another out=")
        for path in folder.glob("*.npz"):
            path.unlink()
        write_file(plan, said.encode())


def _path(folder: Path, piece: int) -> Path:
    return folder / f"{piece:06d}.npz"


def _work(folder: Path, digest: str, wait: bool, task: tuple[int, list[Picture]]) -> int | None:
    """The number of the piece when it is there; None where another process is at it and `wait` is False."""
    number, pictures = task
    with writing(folder):
        lock = Lock(folder / "lock")
    with contextlib.closing(lock.file):
        if not lock.take(1 + number, 1, wait):
            return None
        if not _path(folder, number).is_file():
            data = _examine_all(pictures, digest)
            with writing(folder):
                write_file(_path(folder, number), data)
    return number


def _examine_all(pictures: list[Picture], digest: str) -> bytes:
    facts, why = np.zeros(len(pictures), FACTS), {}
    for number, picture in enumerate(pictures):
        facts[number], sentence = _examine(picture)
        if sentence:
            why[str(number)] = sentence
    buffer = io.BytesIO()
    about = {"pictures": digest, "why": why}
    np.savez(buffer, facts=facts, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
    return buffer.getvalue()


def _examine(picture: Picture) -> tuple[tuple, str]:
    """A row of FACTS, and what is wrong."""
    try:
        data = read(picture)
    except FileNotFoundError:
        return (MISSING, 0, 0, 0, 0, 0, 0), f"{picture.where}: is not there any more; bring it back or leave it out"
    except OSError as error:
        raise InputError(
            f"{picture.where}: cannot be read ({error.strerror or error}); run the same command again when it can"
        ) from error
    try:
        found = decode(data or b"")
    except (ReadError, cv2.error, MemoryError) as error:
        said = str(error).removeprefix("it: ") if isinstance(error, ReadError) else "cannot be decoded, leave it out"
        return (UNREADABLE, 0, 0, 0, 0, 0, 0), f"{picture.where}: {said}"
    grid = grey_grid(found.rgb)
    content = xxhash.xxh3_64_intdigest(data)
    height, width = found.rgb.shape[:2]
    return (FINE, found.member is not None, height, width, contrast(grid), perceptual_hash(grid), content), ""


def _collect(folder: Path, digest: str, pieces: list[tuple[int, list[Picture]]]) -> Scan:
    facts, why, before = [np.empty(0, FACTS)], {}, 0
    for number, pictures in pieces:
        path = _path(folder, number)
        try:
            with np.load(path) as found:
                piece, about = found["facts"], json.loads(found["about"].tobytes())
        except Exception as error:  # zipfile, numpy and json raise many types
            raise InputError(f"{path}: is damaged; remove it and run the same command again") from error
        if about["pictures"] != digest or piece.shape != (len(pictures),):
            raise InputError(f"{path}: is of other pictures; remove {folder} and run the same command again")
        facts.append(piece)
        why |= {before + int(n): sentence for n, sentence in about["why"].items()}
        before += len(pictures)
    return Scan(np.concatenate(facts), why)
