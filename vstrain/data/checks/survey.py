"""One shard, read once from front to back: what lies where, what its bytes are, and which of its samples are damaged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from vstrain.data import codecs, storage, tar
from vstrain.data.checks.content import MISSING, Flaw, flaws, lacking
from vstrain.data.index import Index, contents, split_name
from vstrain.data.problems import DataError

Place = tuple[int, int, int]  # offset in the shard, size, xxh3_64

UNREADABLE, STALE, BAD_INDEX = "unreadable shard", "stale index", "damaged index"
HEADER, CUT_OFF, HASH, DECODE = "damaged header", "cut off", "hash differs", "does not decode"
TWICE, SPECIAL, DUPLICATE, SIZE = "member twice", "not a file", "duplicate key", "other size"


FRAMES = 2 * codecs.GOP  # of a video that are decoded at a time


@dataclass(frozen=True)
class Finding:
    """One damaged sample, or, with an empty key, damage that belongs to no sample. reason: the first of `reasons`, to
    count by; detail: a sentence for each. kept: every byte of the sample is there all the same, so repair keeps it."""

    shard: str
    key: str
    reasons: tuple[str, ...]
    detail: tuple[str, ...]
    kept: bool = False

    @property
    def reason(self) -> str:
        return self.reasons[0]

    def record(self) -> dict:
        return {
            "shard": self.shard,
            "key": self.key,
            "reason": self.reason,
            "detail": "; ".join(self.detail),
            "kept": self.kept,
        }

    @classmethod
    def of_record(cls, record: dict) -> Finding:
        return cls(record["shard"], record["key"], (record["reason"],), (record["detail"],), record["kept"])


@dataclass
class Survey:
    """What a shard holds. samples: key -> member -> place; by the saved index where that describes the shard."""

    shard: str
    size: int = 0
    samples: dict[str, dict[str, Place]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    compared: bool = False  # with the hashes of a saved index


@dataclass
class _Walked:
    """What the headers say. order: (offset, key) of every member, to find the neighbours of a fault."""

    samples: dict[str, dict[str, Place]] = field(default_factory=dict)
    order: list[tuple[int, str]] = field(default_factory=list)
    again: dict[str, list[str]] = field(default_factory=dict)  # key -> members that come a second time
    faults: list[tar.Fault] = field(default_factory=list)


def saved_for(urls: list[str]) -> tuple[dict[str, tuple[Index, int]], list[Finding]]:
    """url -> (saved index that describes this shard, its number there), and findings about damaged index files.

    The sidecar of exactly these shards comes first, then any other one beside them, the newest first."""
    found: dict[str, tuple[Index, int]] = {}
    findings = []
    for index in _candidates(urls, findings):
        for number, url in enumerate(index.shards):
            if url in urls:
                found.setdefault(url, (index, number))
    return found, findings


def _candidates(urls: list[str], findings: list[Finding]):
    try:
        if exact := Index.saved(urls):
            yield exact
    except DataError:
        pass  # reported below, or fetched from a remote place and of no use
    folders = dict.fromkeys(str(Path(url).parent) for url in urls if not storage.is_remote(url))
    for folder in folders:
        files = sorted(Path(folder).glob(".*.vstrain-index"), key=lambda file: -file.stat().st_mtime_ns)
        for file in files:
            try:
                names = Index.shard_names(file)
                shards = [f"{folder}/{name}" for name in names]
                if not names or set(shards) & set(urls):
                    yield Index.load(file, shards)
            except (DataError, OSError, ValueError, KeyError) as error:
                findings.append(Finding(str(file), "", (BAD_INDEX,), (str(error),)))


def survey(url: str, saved: tuple[Index, int] | None, kind: str | None, decode: bool) -> Survey:
    """Read one shard. kind: what its samples must hold, None for anything; decode: whether to decode every member."""
    out = Survey(url)
    try:
        with contents(url) as data:
            out.size = len(data)
            walked = _walk(data, url)
            known = _known(saved)
            out.findings += _stale(url, walked, known, out.size)
            out.compared = known is not None and not out.findings
            out.samples = known if out.compared else walked.samples
            out.findings += _of_samples(out, walked, data, kind, decode)
            out.findings += _other_size(out, saved)
    except (DataError, storage.StorageError) as error:
        return Survey(url, out.size, findings=[Finding(url, "", (UNREADABLE,), (_without(str(error), url),))])
    return out


def _without(sentence: str, url: str) -> str:
    return sentence.removeprefix(f"{url}: ")


def _walk(data, url: str) -> _Walked:
    out = _Walked()
    for found in tar.walk(data, url):
        if isinstance(found, tar.Fault):
            out.faults.append(found)
            continue
        key, name = split_name(found.name)
        if not name:
            continue
        out.order.append((found.offset, key))
        members = out.samples.setdefault(key, {})
        if name in members:
            out.again.setdefault(key, []).append(name)
        else:
            digest = xxhash.xxh3_64_intdigest(data[found.offset : found.offset + found.size])
            members[name] = (found.offset, found.size, digest)
    return out


def _known(saved: tuple[Index, int] | None) -> dict[str, dict[str, Place]] | None:
    if saved is None:
        return None
    index, shard = saved
    starts = index.shard_starts
    return {index.key(n): index.members(n) for n in range(int(starts[shard]), int(starts[shard + 1]))}


def _stale(url: str, walked: _Walked, known: dict | None, total: int) -> list[Finding]:
    """An index is stale when the shard was written anew since: sound headers tell of other members than it does, or
    members that it knows are gone and neither a damaged header nor a missing end explains it."""
    if known is None:
        return []
    places = {place[:2] for members in known.values() for place in members.values()}
    here = {key: {name: place[:2] for name, place in members.items()} for key, members in walked.samples.items()}
    why = ""
    for key, members in here.items():
        for name, place in members.items():
            renamed = walked.faults and place in places  # its long name stood in a header that is damaged
            if known.get(key, {}).get(name, (None,))[:2] != place and not renamed:
                why = f"{key}.{name} lies at {place[0]} with {place[1]} bytes, and the index says otherwise"
    for key, members in known.items():
        for name, (offset, size, _) in members.items():
            if name not in here.get(key, {}) and offset + size <= total and not walked.faults:
                why = why or f"{key}.{name} is in the index and not in the shard"
    sentence = f"the index tells of other content ({why}); make it again with vstrain data index"
    return [Finding(url, "", (STALE,), (sentence,))] if why else []


def _of_samples(out: Survey, walked: _Walked, data, kind: str | None, decode: bool) -> list[Finding]:
    found = {
        key: _flaws(key, members, walked, data, kind, decode, out.compared) for key, members in out.samples.items()
    }
    if kind is None and walked.faults and not out.compared:
        _lacking_beside_faults(walked, found)
    loose = [_place_fault(fault, walked, found, out) for fault in walked.faults]
    findings = [_finding(out.shard, key, listed) for key, listed in found.items() if listed]
    return findings + [finding for finding in loose if finding]


def _finding(shard: str, key: str, listed: list[Flaw]) -> Finding:
    reasons, detail = dict.fromkeys(flaw.reason for flaw in listed), dict.fromkeys(flaw.sentence for flaw in listed)
    return Finding(shard, key, tuple(reasons), tuple(detail), kept=set(reasons) <= {HEADER, TWICE})


def _flaws(key: str, members: dict[str, Place], walked: _Walked, data, kind, decode: bool, compared: bool):
    """All flaws of one sample, the cause before what follows from it."""
    out, values = [], {"__key__": key}
    for name, (offset, size, digest) in members.items():
        if offset + size > len(data):
            out.append(Flaw(CUT_OFF, f"member {name} ends at byte {offset + size}, the shard at {len(data)}"))
            continue
        content = data[offset : offset + size]
        if compared and xxhash.xxh3_64_intdigest(content) != digest:
            out.append(Flaw(HASH, f"the bytes of member {name} do not match the hash in the index"))
        elif compared and name not in walked.samples.get(key, {}):
            out.append(Flaw(HEADER, f"the tar header of member {name} is damaged; only the index finds it"))
        if decode and not any(flaw.reason == HASH for flaw in out):
            try:
                values[name] = _decoded(name, content)
            except Exception as error:  # decoders raise many types
                if "no codec for this extension" not in str(error):
                    out.append(Flaw(DECODE, f"member {name} does not decode ({error})"))
    if twice := walked.again.get(key):
        out.append(Flaw(TWICE, f"member {', '.join(twice)} is there twice; the first one counts"))
    if absent := lacking(kind, members):
        out.append(Flaw(MISSING, f"member {', '.join(absent)} is missing; it has {', '.join(members)}"))
    broken = any(flaw.reason in (CUT_OFF, HASH, DECODE) for flaw in out)
    if decode and not broken:
        out += flaws(kind, values)
    return out


def _decoded(name: str, content: bytes):
    """The value of a member; of a video every frame was decoded once, some at a time."""
    value = codecs.decode(name, content)
    if isinstance(value, codecs.Clip):
        for first in range(0, len(value), FRAMES):
            value[first : first + FRAMES]
    return value


def _place_fault(fault: tar.Fault, walked: _Walked, found: dict[str, list[Flaw]], out: Survey) -> Finding | None:
    """Put the fault of a header to the sample it damaged, where one is known to be damaged there; else it is returned."""
    reason = CUT_OFF if fault.reason.startswith("cut off") else HEADER if "damaged" in fault.reason else SPECIAL
    sentence = f"at byte {fault.offset}: {fault.reason}"
    if reason == SPECIAL:
        return Finding(out.shard, "", (reason,), (sentence,), kept=True)
    if out.compared and any(flaw.reason in (HEADER, CUT_OFF) for listed in found.values() for flaw in listed):
        return None  # the index names the samples behind it
    before, after = _neighbours(fault, walked)
    for key in (before, after):
        if any(flaw.reason in (MISSING, CUT_OFF) for flaw in found.get(key, [])):
            found[key].insert(0, Flaw(reason, sentence))
            return None
    near = f", behind sample {before}" if before else ""
    return Finding(out.shard, "", (reason,), (sentence + near,))


def _neighbours(fault: tar.Fault, walked: _Walked) -> tuple[str | None, str | None]:
    """Keys of the members before and behind a fault."""
    before = next((key for offset, key in reversed(walked.order) if offset <= fault.offset), None)
    return before, next((key for offset, key in walked.order if offset > fault.offset), None)


def _lacking_beside_faults(walked: _Walked, found: dict[str, list[Flaw]]) -> None:
    """Where no kind says what a sample must have, one beside a damaged header must have what most samples have."""
    usual = Counter(frozenset(members) for members in walked.samples.values()).most_common(1)
    for fault in walked.faults:
        for key in filter(None, _neighbours(fault, walked)):
            absent = usual[0][0] - set(walked.samples[key])
            if absent and not found[key]:
                found[key].append(Flaw(MISSING, f"member {', '.join(sorted(absent))} is missing, as others have it"))


def _other_size(out: Survey, saved: tuple[Index, int] | None) -> list[Finding]:
    if not out.compared or out.findings or saved[0].sizes[saved[1]] == out.size:
        return []
    sentence = f"the shard has {out.size} bytes, the index says {saved[0].sizes[saved[1]]}; every sample is there"
    return [Finding(out.shard, "", (SIZE,), (sentence,), kept=True)]


def schemas(url: str, saved: tuple[Index, int] | None) -> Counter:
    """Member names -> how many samples of this shard have just these, by the saved index where there is one."""
    if saved is not None:
        index, shard = saved
        starts = index.shard_starts
        numbers = index.schema[int(starts[shard]) : int(starts[shard + 1])].tolist()
        return Counter({tuple(index.schemas[number]): count for number, count in Counter(numbers).items()})
    try:
        with contents(url) as data:
            return Counter(tuple(members) for members in _walk(data, url).samples.values())
    except (DataError, storage.StorageError):
        return Counter()
